package redis_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
)

// TestAMasterThatHangs is a matter of the credentials that it has, and of no others: what other masters answer counts, beside it and while it
// is being waited for. One that is killed refuses connections; one that hangs takes them, and says nothing.
func TestAMasterThatHangs(t *testing.T) {
	c := redistest.StartCluster(t)
	for _, s := range c.Nodes() {
		for setting, value := range map[string]string{"cluster-node-timeout": "60000", "cluster-require-full-coverage": "no"} { // nobody takes its place
			if _, err := s.Do("CONFIG", "SET", setting, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	r := newRig(t, "redis+cluster://"+strings.Join(c.Addrs(), ","))
	dead := c.Nodes()[0]
	var (
		keys  []broker.TokenKey
		marks []broker.Mark
		names []broker.CredentialName
	)
	// Where a credential lies is by a key of this test's own: there are to be four of the master that hangs, and four of the others.
	for there, elsewhere := 0, 0; there < 4 || elsewhere < 4; {
		key := r.create(fmt.Sprintf("c%d", len(keys)))
		v, err := r.Read(t.Context(), key, "")
		if err != nil {
			t.Fatal(err)
		}
		keys, marks, names = append(keys, key), append(marks, v.Mark), append(names, key.Credential)
		if c.MasterFor("tokenbroker:1:{"+string(r.GroupOf(key.Credential))+"}:rows") == dead {
			there++
		} else {
			elsewhere++
		}
	}
	dead.Stop()
	defer dead.Continue()
	read := func(k broker.TokenKey, upstream string) (broker.View, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return r.Read(ctx, k, upstream)
	}
	well := map[broker.CredentialName]bool{}
	healthy := -1
	for i, k := range keys {
		if _, err := read(k, ""); err == nil {
			well[k.Credential], healthy = true, i
		}
	}
	if n := len(names); len(well) < 4 || len(well) > n-4 {
		t.Fatalf("%d of %d credentials are on the other masters", len(well), n)
	}
	// Its upstream's backoff may lie anywhere, and is advice.
	unknown := 0
	for i := range 100 {
		v, err := read(keys[healthy], fmt.Sprintf("upstream-%d", i))
		if err != nil {
			t.Errorf("upstream %d: a credential on a master that is well: %v", i, err)
		}
		if v.UpstreamUnknown {
			unknown++
		}
		if unknown == 4 && i >= 12 {
			break
		}
	}
	if unknown < 4 {
		t.Errorf("of %d of 100 upstreams nothing is known: a third is on the master that hangs", unknown)
	}
	for round := range 8 {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // the confirmer does not wait for ever either
		verdicts, err := r.Unchanged(ctx, marks)
		cancel()
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for i, got := range verdicts {
			if want := well[names[i]]; (got == broker.Same) != want {
				t.Errorf("round %d: %s: got %v, on a master that is well: %v", round, names[i], got, want)
			}
		}
	}
	all, err := r.Statuses(t.Context(), names)
	if err != nil {
		t.Fatal(err)
	}
	for i, st := range all {
		if want := well[names[i]]; (st.Err == nil) != want {
			t.Errorf("status of %s: %v, on a master that is well: %v", names[i], st.Err, want)
		}
	}
}
