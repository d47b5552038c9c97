package redis_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/store/redis"
)

// TestWhatIsExposed: of a Cluster all masters are named, and the user that docs/redis.md describes may nothing else.
func TestWhatIsExposed(t *testing.T) {
	t.Parallel()
	c := redistest.StartCluster(t)
	e, err := open(t, "redis+cluster://"+c.Addrs()[0]).Exposed(t.Context())
	if err != nil || !e.Anybody || !e.Default || e.TLS || len(e.May) != 2 || len(e.Evicts)+len(e.Loses)+len(e.Unseen) > 0 {
		t.Errorf("got %+v, %v", e, err)
	}
	for _, n := range c.Nodes()[:3] {
		if !slices.Contains(e.Addresses, n.Addr()) {
			t.Errorf("got %v, want %s among them", e.Addresses, n.Addr())
		}
	}
	s := redistest.Start(t, redistest.Options{Users: []string{"default off", documentedACL(t, "broker", "pass", "tokenbroker:*")}})
	as := func(o *redis.Options) { o.Username, o.Password, o.Prefix = "broker", "pass", "" }
	if e, err = open(t, "redis://"+s.Addr(), as).Exposed(t.Context()); err != nil || e.Anybody || e.Default || len(e.May) > 0 || len(e.Unseen) > 0 {
		t.Errorf("got %+v, %v", e, err)
	}
	blind := redistest.Start(t, redistest.Options{Users: []string{"default off", strings.ReplaceAll(documentedACL(t, "broker", "pass", "tokenbroker:*"), "+config|get ", "")}})
	if e, err = open(t, "redis://"+blind.Addr(), as).Exposed(t.Context()); err != nil || len(e.Unseen) != 1 {
		t.Errorf("got %+v, %v", e, err)
	}
}

// TestWhatIsExposedBehindSentinels: the master is named, and not the Sentinels alone.
func TestWhatIsExposedBehindSentinels(t *testing.T) {
	t.Parallel()
	s := redistest.StartSentinel(t)
	e, err := open(t, "redis+sentinel://"+strings.Join(s.SentinelAddrs(), ",")+"/"+s.MasterName()).Exposed(t.Context())
	if err != nil || !e.Anybody || !slices.Contains(e.Addresses, s.Master().Addr()) || !slices.Contains(e.Addresses, s.SentinelAddrs()[0]) {
		t.Errorf("got %+v, %v; want %s among them", e, err, s.Master().Addr())
	}
}
