package redis_test

import (
	"crypto/tls"
	"errors"
	"io"
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
		"may not look for its keys": {
			start:  redistest.Options{Users: []string{"default on nopass ~* &* +@all -scan"}},
			warned: "SCAN): what a failover takes from the list of all credentials is not found again, and the store cannot be exported or wholly resumed",
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
			onEach(t, func(t *testing.T, program string) {
				t.Parallel()
				start := test.start
				start.Program = program
				db := open(t, "redis://"+redistest.Start(t, start).Addr(), func(o *redis.Options) { o.AcceptLoss = test.acceptLoss })
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
		Open: func(t *testing.T) store.Backend { return open(t, address, config, patient) },
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

// TestAUserWhoMayNotScan: an export suspends nothing, and what a former one has suspended is resumed as far as it is listed.
func TestAUserWhoMayNotScan(t *testing.T) { onEach(t, testAUserWhoMayNotScan) }

func testAUserWhoMayNotScan(t *testing.T, program string) {
	s := redistest.Start(t, redistest.Options{Program: program, Users: []string{"default on nopass ~* &* +@all", documentedACL(t, "broker", "pass", "tokenbroker:*")}})
	r := newRig(t, "redis://"+s.Addr(), func(o *redis.Options) { o.Username, o.Password, o.Prefix = "broker", "pass", "" })
	k := r.create("main")
	may := func(rule string) {
		t.Helper()
		if _, err := s.Do("ACL", "SETUSER", "broker", rule); err != nil {
			t.Fatal(err)
		}
	}
	suspended := func(want bool) {
		t.Helper()
		if since, err := r.Suspended(t.Context()); err != nil || since.IsZero() == want {
			t.Errorf("suspended since %v, %v; want that it is: %v", since, err, want)
		}
	}
	may("-scan")
	if err := r.Export(t.Context(), io.Discard, nil); err == nil || !strings.Contains(err.Error(), "SCAN") {
		t.Errorf("export: got %v", err)
	}
	suspended(false)
	may("+scan")
	if err := r.Export(t.Context(), io.Discard, nil); err != nil {
		t.Fatal(err)
	}
	may("-scan")
	if resumed, err := r.Resume(t.Context()); !resumed || err == nil || !strings.Contains(err.Error(), "SCAN") {
		t.Errorf("resume: got %v, %v, want what is missing", resumed, err)
	}
	suspended(true)
	if err := r.refresh(k, "refresh-1"); err != nil {
		t.Errorf("a credential that is listed: %v", err)
	}
	may("+scan")
	if _, err := r.Resume(t.Context()); err != nil {
		t.Error(err)
	}
	suspended(false)
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
