package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/internal/leaktest"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
)

// replica starts a broker on a shared Redis: its own data directory, and the others' key.
func (u *upstream) replica(key, store string, more ...string) *served {
	u.t.Helper()
	return u.serve(append([]string{"--data-dir", shortDir(u.t), "--key-file", key, "--store", store}, more...)...)
}

// TestTwoBrokersOnOneRedis: what one of them gets the other has, and what one of them rejects is gone from both. Killed with
// -9 and started anew, a broker goes on with the newest refresh token; so it does when Redis was killed.
func TestTwoBrokersOnOneRedis(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	r := redistest.Start(t, redistest.Options{})
	seen := r.Monitor()
	key := filepath.Join(shortDir(t), "key.json")
	a := u.replica(key, r.URL(), "--log-level", "debug")
	b := u.replica(key, r.URL(), "--log-level", "debug")
	a.apply(u)
	token, id := a.token()
	if again, _ := b.token(); again != token {
		t.Error("the other broker has another token")
	}
	b.invalidate(id)
	second, id := a.token()
	if second == token {
		t.Error("the rejected token is still there")
	}
	bench(t, a, b)
	monitored := seen()
	a.kill()
	before := a.output()
	r.Kill()
	r.Restart()
	a = u.replica(key, r.URL(), "--log-level", "debug")
	if again, _ := a.token(); again != second {
		t.Error("got another token after the restart")
	}
	a.invalidate(id)
	third, _ := b.token()
	if third == second {
		t.Error("the rejected token is still there")
	}
	// Nor is one of them, or a secret of the credentials, in what Redis keeps, is sent or logs, or in what the brokers log.
	secrets := append(u.secrets(), token, second, third)
	for what, text := range map[string]string{
		"MONITOR": monitored, "files of Redis": string(r.Dump()), "log of Redis": r.Log(), "log of a broker": before + a.output(), "log of the other": b.output(),
	} {
		if len(text) < 100 {
			t.Errorf("%s: only %d bytes to search", what, len(text))
		}
		for _, found := range leaktest.Find([]byte(text), secrets) {
			t.Errorf("%s: %s", what, found)
		}
	}
	wantLedger(t, u, "issued 1.1", "delivered 1.1", "presented 1.1", "spent 1.1", "issued 1.2", "delivered 1.2",
		"presented 1.2", "spent 1.2", "issued 1.3", "delivered 1.3")
	if out := command(t, "credential", "list", "--address", b.address); !strings.Contains(out, ochno) {
		t.Errorf("list: got\n%s", out)
	}
}

// secrets are those that the upstream's credentials have.
func (u *upstream) secrets() []string {
	u.t.Helper()
	var out []string
	err := filepath.WalkDir(u.dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Base(filepath.Dir(path)) != "secrets" {
			return err
		}
		text, err := os.ReadFile(path)
		out = append(out, strings.TrimSpace(string(text)))
		return err
	})
	if err != nil || len(out) < 5 {
		u.t.Fatalf("found %d secrets, %v", len(out), err)
	}
	return out
}

// bench drives both brokers with the command: all callers have the same token, and none an error.
func bench(t *testing.T, a, b *served) {
	t.Helper()
	var got struct {
		Brokers, Calls, Tokens, Degraded int
		P50                              float64 `json:"p50_ms"`
		P99                              float64 `json:"p99_ms"`
		Max                              float64 `json:"max_ms"`
		Errors                           map[string]int
	}
	out := command(t, "bench", ochno, "--address", a.address, "--broker", b.address, "--callers", "20", "--duration", "300ms", "-o", "json")
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	if got.Brokers != 2 || got.Calls < 20 || got.Tokens != 1 || len(got.Errors) > 0 || got.Degraded > 0 || got.P50 <= 0 || got.Max < got.P99 {
		t.Errorf("got %+v", got)
	}
	if out := command(t, "bench", ochno, "--address", a.address, "--duration", "100ms"); !strings.Contains(out, "calls") || !strings.Contains(out, "1 different") {
		t.Errorf("got\n%s", out)
	}
	for _, wrong := range [][]string{{"--callers", "0"}, {"--connections", "0"}, {"--duration", "0s"}, {"--pause=-1s"}} {
		if p := start(t, append([]string{"bench", ochno, "--address", a.address}, wrong...)...); p.code() != console.ExitUsage {
			t.Errorf("%v: got exit code %d, want %d", wrong, p.code(), console.ExitUsage)
		}
	}
	if p := start(t, "bench", "nobody", "--address", a.address); p.code() != console.ExitNotFound {
		t.Errorf("an unknown credential: got exit code %d", p.code())
	}
}

// TestStartWithoutRedis: the broker waits for it, says NOT_SERVING and why, and does not end.
func TestStartWithoutRedis(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	r := redistest.Start(t, redistest.Options{})
	r.Kill()
	s := u.serve("--store", r.URL(), "--probes-listen", "127.0.0.1:0")
	conn, err := dial(s.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	probes := s.waitFor(`probes on (http://127\.0\.0\.1:\d+)`)
	probed := func(path string) (int, string) {
		t.Helper()
		res, err := http.Get(probes + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(body)
	}
	wantProbes := func(ready int, away string) {
		t.Helper()
		if got, _ := probed("/readyz"); got != ready {
			t.Errorf("/readyz: got %d, want %d", got, ready)
		}
		if _, got := probed("/metrics"); !strings.Contains(got, "\ntokenbroker_store_away "+away+"\n") {
			t.Errorf("/metrics does not say tokenbroker_store_away %s", away)
		}
	}
	wantProbes(503, "1")
	health := healthv1.NewHealthClient(conn)
	status := func(service string) healthv1.HealthCheckResponse_ServingStatus {
		t.Helper()
		res, err := health.Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
		if err != nil {
			t.Fatal(err)
		}
		return res.GetStatus()
	}
	for _, service := range []string{"", "tokenbroker.v1.TokenBrokerService"} {
		if got := status(service); got != healthv1.HealthCheckResponse_NOT_SERVING {
			t.Errorf("%q: got %v, want NOT_SERVING", service, got)
		}
	}
	got := start(t, "token", "get", ochno, "--address", s.address)
	if got.code() == 0 || !strings.Contains(got.output(), "store cannot be reached") {
		t.Errorf("got exit code %d and\n%s", got.code(), got.output())
	}
	s.waitFor("trying again until it can")
	r.Restart()
	s.waitFor("the store can be asked now")
	if got := status(""); got != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("got %v, want SERVING", got)
	}
	wantProbes(200, "0")
	s.apply(u)
	s.token()
}

// TestAnotherKey: a broker with another key than the data's refuses to start, and leaves no useless key behind.
func TestAnotherKey(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	r := redistest.Start(t, redistest.Options{})
	key := filepath.Join(shortDir(t), "key.json")
	u.replica(key, r.URL()).signal(syscall.SIGTERM)
	other := filepath.Join(shortDir(t), "key.json")
	p := start(t, "serve", "--data-dir", shortDir(t), "--key-file", other, "--store", r.URL(), "--listen", "127.0.0.1:0", "--metrics-listen", "none")
	if p.code() == 0 || !strings.Contains(p.output(), "there is no key file") {
		t.Errorf("got exit code %d and\n%s", p.code(), p.output())
	}
	if _, err := os.Stat(other); err == nil {
		t.Error("a key was left that belongs to nothing")
	}
	r.Stop() // the broker starts without it, with a key of its own
	p = start(t, "serve", "--data-dir", shortDir(t), "--key-file", other, "--store", r.URL(), "--listen", "127.0.0.1:0", "--metrics-listen", "none")
	p.waitFor("trying again until it can")
	r.Continue()
	if p.code() == 0 || !strings.Contains(p.output(), "give the key file that belongs to them") {
		t.Errorf("got exit code %d and\n%s", p.code(), p.output())
	}
	if _, err := os.Stat(other); err == nil {
		t.Error("a key was left that belongs to nothing")
	}
}

// TestAnUnfitRedisIsRefused, by serve, with what is to be done.
func TestAnUnfitRedisIsRefused(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, redistest.Options{NoAOF: true})
	args := []string{"serve", "--data-dir", shortDir(t), "--store", r.URL(), "--listen", "127.0.0.1:0", "--metrics-listen", "none"}
	p := start(t, args...)
	if p.code() == 0 || !strings.Contains(p.output(), "set appendonly yes and appendfsync always") {
		t.Errorf("got exit code %d and\n%s", p.code(), p.output())
	}
	p = start(t, append(args, "--redis-accept-loss")...)
	p.waitFor("can lose what it has acknowledged")
	p.waitFor("answering on")
	began := time.Now()
	p.signal(syscall.SIGTERM)
	if code := p.code(); code != 0 {
		t.Errorf("got exit code %d after %v", code, time.Since(began))
	}
}

// TestRedisFromASettingsFile: TLS with an authority and a client's certificate of its own, an ACL user, a password in a file.
func TestRedisFromASettingsFile(t *testing.T) {
	t.Parallel()
	r := redistest.Start(t, redistest.Options{TLS: true, Users: []string{"default off", "broker on >the-password ~* &* +@all"}})
	dir := shortDir(t)
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	password := write("password", "the-password\n")
	config := write("settings.yaml", fmt.Sprintf(`
data_dir: %s
listen: [127.0.0.1:0]
metrics_listen: none
store: rediss://%s/0
outage_grace: 1m
cache_bound: 1s
redis:
  username: broker
  password_file: %s
  ca_file: %s
  cert_file: %s
  key_file: %s
`, dir, r.Addr(), password, r.CAFile, r.CertFile, r.KeyFile))
	if p := start(t, "config", "check", config); p.code() != 0 {
		t.Fatalf("config check: %s", p.output())
	}
	p := start(t, "serve", "--config", config)
	address := p.waitFor(`answering on (127\.0\.0\.1:\d+)`)
	if out := command(t, "health", "--wait", "30s", "--address", address); out != "SERVING\n" {
		t.Errorf("got %q", out)
	}
	for what, wrong := range map[string]struct{ old, now, want string }{
		"no TLS":          {"rediss://", "redis://", "write rediss://"},
		"half a pair":     {"  key_file: " + r.KeyFile, "  wait_replicas: 0", "a certificate needs its key"},
		"no authority":    {r.CAFile, password, "has no certificate in PEM"},
		"no such file":    {password, password + "x", "no such file"},
		"a negative":      {"outage_grace: 1m", "outage_grace: -1m", "must be 0 or more"},
		"no Redis at all": {"rediss://" + r.Addr() + "/0", "postgres://h", "not an address of a Redis"},
	} {
		text, err := os.ReadFile(config)
		if err != nil {
			t.Fatal(err)
		}
		broken := write("broken.yaml", strings.Replace(string(text), wrong.old, wrong.now, 1))
		p := start(t, "config", "check", broken)
		if p.code() != console.ExitUsage || !strings.Contains(p.output(), wrong.want) || strings.Contains(p.output(), "the-password") {
			t.Errorf("%s: got exit code %d and\n%swant %q", what, p.code(), p.output(), wrong.want)
		}
	}
	write("password", "another\n")
	q := start(t, "serve", "--config", config, "--data-dir", shortDir(t), "--key-file", filepath.Join(dir, "key.json"))
	if q.code() == 0 || !strings.Contains(q.output(), "WRONGPASS") {
		t.Errorf("a wrong password: got exit code %d and\n%s", q.code(), q.output())
	}
}
