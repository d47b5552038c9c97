package redis_test

import (
	"crypto/tls"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/redis"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

func TestAFitRedis(t *testing.T) {
	for _, address := range []string{
		redistest.Start(t, redistest.Options{}).URL(),
		"redis+cluster://" + strings.Join(redistest.StartCluster(t).Addrs(), ","),
	} {
		if warnings, err := open(t, address).Check(t.Context()); err != nil || len(warnings) > 0 {
			t.Errorf("%s: got %v, %v; want nothing", address, warnings, err)
		}
	}
}

// TestAnUnfitRedis is refused, with what is to be done.
func TestAnUnfitRedis(t *testing.T) {
	for name, test := range map[string]struct {
		start      redistest.Options
		acceptLoss bool
		refused    string // empty: it is not
		warned     string
	}{
		"evicts":              {start: redistest.Options{Args: []string{"--maxmemory-policy", "volatile-ttl"}}, refused: "set maxmemory-policy noeviction"},
		"writes every second": {start: redistest.Options{Args: []string{"--appendfsync", "everysec"}}, refused: "set appendonly yes and appendfsync always"},
		"writes nothing":      {start: redistest.Options{NoAOF: true}, refused: "set appendonly yes"},
		"loss is accepted":    {start: redistest.Options{NoAOF: true}, acceptLoss: true, warned: "can lose"},
		"another password":    {start: redistest.Options{Password: "x"}, refused: "NOAUTH"},
		"may not configure": {
			start:  redistest.Options{Users: []string{"default on nopass ~* &* +@all -config -info"}},
			warned: "CONFIG GET is not allowed",
		},
		"may not publish": {
			start:   redistest.Options{Users: []string{"default on nopass ~* resetchannels +@all"}},
			refused: "publish on its channel",
		},
		"may not write": {
			start:   redistest.Options{Users: []string{"default on nopass ~* &* +@read +@connection +eval +evalsha +info +config +publish +subscribe"}},
			refused: "run scripts that write its keys",
		},
		"other keys": {
			start:   redistest.Options{Users: []string{"default on nopass ~app:* &* +@all"}},
			refused: "keys that begin with its own",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := open(t, "redis://"+redistest.Start(t, test.start).Addr(), func(o *redis.Options) { o.AcceptLoss = test.acceptLoss })
			warnings, err := db.Check(t.Context())
			var unfit *store.Unfit
			switch {
			case test.refused == "" && err != nil:
				t.Errorf("got %v, want it to be used", err)
			case test.refused != "" && (!errors.As(err, &unfit) || !strings.Contains(err.Error(), test.refused)):
				t.Errorf("got %v, want %q", err, test.refused)
			}
			if !strings.Contains(strings.Join(warnings, "\n"), test.warned) {
				t.Errorf("warned of %q, want %q", warnings, test.warned)
			}
		})
	}
}

// TestARedisThatIsNotThere can be asked again later: that says nothing about its fitness.
func TestARedisThatIsNotThere(t *testing.T) {
	s := redistest.Start(t, redistest.Options{})
	db := open(t, s.URL())
	s.Kill()
	if _, err := db.Check(t.Context()); !errors.Is(err, broker.StoreUnavailable) {
		t.Errorf("got %v, want StoreUnavailable", err)
	}
	s.Restart()
	if _, err := db.Check(t.Context()); err != nil {
		t.Errorf("got %v after it is back", err)
	}
}

// TestWithTLSAndAnACLUser runs the whole suite as the user that docs/redis.md describes.
func TestWithTLSAndAnACLUser(t *testing.T) {
	s := redistest.Start(t, redistest.Options{TLS: true, Users: []string{
		"default off", documentedACL(t, "broker", "pass", "t*"),
	}})
	config := func(o *redis.Options) { o.Username, o.Password, o.TLS = "broker", "pass", s.TLSConfig() }
	address := "rediss://" + s.Addr()
	if warnings, err := open(t, address, config).Check(t.Context()); err != nil || len(warnings) > 0 {
		t.Fatalf("got %v, %v; want nothing", warnings, err)
	}
	storetest.Run(t, storetest.Config{
		RealTime: true, Resolution: 50 * time.Millisecond,
		Open: func(t *testing.T) store.Backend { return open(t, address, config) },
	})
	for name, wrong := range map[string]func(*redis.Options){
		"an unknown authority": func(o *redis.Options) { config(o); o.TLS = &tls.Config{MinVersion: tls.VersionTLS12} },
		"no certificate": func(o *redis.Options) {
			config(o)
			c := o.TLS.Clone()
			c.Certificates, c.GetClientCertificate = nil, nil
			o.TLS = c
		},
	} {
		if _, err := open(t, address, wrong).Check(t.Context()); !errors.Is(err, broker.StoreUnavailable) {
			t.Errorf("%s: got %v, want StoreUnavailable", name, err)
		}
	}
	if _, err := open(t, address, func(o *redis.Options) { config(o); o.Password = "wrong" }).Check(t.Context()); err == nil || !strings.Contains(err.Error(), "WRONGPASS") {
		t.Errorf("a wrong password: got %v", err)
	}
}

// documentedACL is the rule of docs/redis.md for these key and channel patterns.
func documentedACL(t *testing.T, user, password, pattern string) string {
	t.Helper()
	doc, err := os.ReadFile("../../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(doc)) {
		if rule, ok := strings.CutPrefix(line, "user broker on >PASSWORD ~tokenbroker:* &tokenbroker:* "); ok {
			return user + " on >" + password + " ~" + pattern + " &" + pattern + " " + strings.TrimSpace(rule)
		}
	}
	t.Fatal("docs/redis.md has no ACL")
	return ""
}
