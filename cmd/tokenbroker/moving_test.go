package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/internal/leaktest"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/redis"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// commandFails runs the command to its end, and wants that exit code. It returns what it said.
func commandFails(t testing.TB, want int, args ...string) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env = cleanEnvironment()
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != want {
		t.Errorf("%s: got %v, want exit code %d\n%s", strings.Join(args, " "), err, want, out)
	}
	return string(out)
}

func wantSays(t testing.TB, what, got, want string) {
	t.Helper()
	if !strings.Contains(got, want) {
		t.Errorf("%s: got\n%s\nwant %q in it", what, got, want)
	}
}

func (p *proc) terminated() {
	p.t.Helper()
	p.signal(syscall.SIGTERM)
	if got := p.code(); got != console.ExitOK {
		p.t.Errorf("got exit code %d, want 0", got)
	}
}

// TestMoving moves from the embedded store to Redis and back, with real processes. Each refresh token is presented once,
// wherever it is.
func TestMoving(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	u := startUpstream(t)
	s := u.serve()
	s.apply(u)
	_, id := s.token()
	s.invalidate(id)
	token, id := s.token()
	config := []string{"--config", filepath.Join(u.dir, "settings.yaml")}
	with := func(args []string, more ...string) []string { return append(append([]string{}, args...), more...) }
	there := with(config, "--store", server.URL())
	file, second := filepath.Join(u.dir, "export"), filepath.Join(u.dir, "second")
	all := fmt.Sprint(len(upstreamsim.Systems()), " credentials")
	export := with([]string{"store", "export", file}, config...)

	wantSays(t, "export while the broker runs", commandFails(t, console.ExitFailure, export...), "stop that first")
	s.terminated()
	if out := command(t, export...); out != "wrote "+file+": "+all+"\n" {
		t.Errorf("export: got %q", out)
	}
	wantSays(t, "export again", commandFails(t, console.ExitUsage, export...), "exists already")
	if i, err := os.Stat(file); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("the export: got %v, %v, want mode 0600", i, err)
	}

	// Where it was, what is valid is served, and nothing is fetched.
	s = u.serve()
	s.waitFor("refreshing is suspended since this store was exported")
	if got, _ := s.token(); got != token {
		t.Error("got another token than before the export")
	}
	s.invalidate(id)
	wantSays(t, "token of a suspended store", commandFails(t, console.ExitTemporary, "token", "get", ochno, "--address", s.address), "suspended")
	s.terminated()

	for _, want := range []string{"imported " + all + "\n", "imported 0 credentials\n" + all + " here already\n"} {
		if out := command(t, with([]string{"store", "import", file}, there...)...); out != want {
			t.Errorf("import: got %q, want %q", out, want)
		}
	}
	s = u.serve("--store", server.URL())
	if got, again := s.token(); got != token || again != id {
		t.Error("got another token from Redis than from the embedded store")
	}
	s.invalidate(id)
	token, id = s.token()

	// From Redis while it is served.
	command(t, with([]string{"store", "export", second}, there...)...)
	if got, _ := s.token(); got != token {
		t.Error("got another token than before the export")
	}
	back := []string{"--key-file", filepath.Join(u.dir, "data", "key.json"), "--data-dir", filepath.Join(u.dir, "back")}
	command(t, with([]string{"store", "import", second}, back...)...)
	b := u.serve(back...)
	if got, again := b.token(); got != token || again != id {
		t.Error("got another token from the embedded store than from Redis")
	}
	b.invalidate(id)
	b.token()
	wantLedger(t, u, "issued 1.1", "delivered 1.1", "presented 1.1", "spent 1.1", "issued 1.2", "delivered 1.2",
		"presented 1.2", "spent 1.2", "issued 1.3", "delivered 1.3", "presented 1.3", "spent 1.3", "issued 1.4", "delivered 1.4")

	if out := command(t, with([]string{"store", "export", "--resume"}, there...)...); out != "refreshing has resumed here\n" {
		t.Errorf("resume: got %q", out)
	}
	s.terminated()
	b.terminated()

	secrets, err := filepath.Glob(filepath.Join(u.dir, "secrets", "*"))
	if err != nil || len(secrets) == 0 {
		t.Fatalf("no secrets: %v", err)
	}
	planted := []string{token}
	for _, f := range secrets {
		planted = append(planted, read(t, f))
	}
	for _, f := range []string{file, second} {
		if found := leaktest.Find([]byte(read(t, f)), planted); found != nil {
			t.Errorf("%s has %v", f, found)
		}
	}
}

// TestMovingInterrupted: an export that is waiting for a refresh to end, and an import, are ended, and done again.
func TestMovingInterrupted(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t, redistest.Options{})
	proxy := redistest.NewProxy(t, server.Addr())
	dir := shortDir(t)
	keys, err := seal.Create(filepath.Join(dir, "key.json"))
	if err != nil {
		t.Fatal(err)
	}
	address, err := redis.ParseAddress(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	db, err := redis.Open(redis.Options{Address: address})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	st, err := store.New(db, keys, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	const many = 300
	for n := range many {
		c := broker.Credential{Name: broker.CredentialName(fmt.Sprint("c", n)), Provider: "p", Incarnation: broker.NewID(), Etag: broker.NewID()}
		if err := st.CreateCredential(t.Context(), c, &broker.Grant{RefreshToken: broker.NewSecret("a refresh token")}); err != nil {
			t.Fatal(err)
		}
	}
	v, err := st.Read(t.Context(), broker.TokenKey{Credential: "c7", Spends: true}, "")
	if err != nil {
		t.Fatal(err)
	}
	lease, err := v.Acquire(t.Context(), time.Hour, true)
	if err != nil {
		t.Fatal(err)
	}

	file := filepath.Join(dir, "export")
	export := []string{"store", "export", file, "--data-dir", dir, "--store", server.URL()}
	p := start(t, export...)
	deadline := time.After(patience)
	for suspended := false; !suspended; {
		at, err := st.Suspended(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-deadline:
			t.Fatal("it does not suspend anything")
		}
		suspended = !at.IsZero()
	}
	p.signal(syscall.SIGINT)
	if got := p.code(); got != console.ExitFailure {
		t.Errorf("export: got exit code %d, want %d", got, console.ExitFailure)
	}
	p.waitFor("tokenbroker: interrupted\n.*there is no export, and refreshing may be suspended")
	if files, err := filepath.Glob(filepath.Join(dir, "*export*")); err != nil || len(files) > 0 {
		t.Errorf("got %v, %v, want no file", files, err)
	}
	if err := lease.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	command(t, export...)

	// The import is killed in the midst of it.
	into := []string{"store", "import", file, "--data-dir", dir, "--store", "redis://" + proxy.Addr() + "/1"}
	proxy.Delay(2 * time.Millisecond)
	killed := start(t, into...)
	for {
		if n, err := server.Do("EVAL", "redis.call('SELECT', 1) return redis.call('DBSIZE')", "0"); err != nil {
			t.Fatal(err)
		} else if n.(int64) > 20 {
			break
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			t.Fatal("it does not import anything")
		}
	}
	killed.kill()
	proxy.Forward()
	out := command(t, into...)
	made := firstGroup(t.Fatalf, `imported (\d+) credentials\n`, out)
	there := firstGroup(t.Fatalf, `(\d+) credentials here already\n`, out)
	if m, _ := strconv.Atoi(made); m == 0 || m >= many {
		t.Errorf("the second import made %d", m)
	} else if n, _ := strconv.Atoi(there); m+n != many {
		t.Errorf("got %d and %d, want %d together", m, n, many)
	}
}

func read(t testing.TB, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestMovingRefused: what cannot be moved is said before anything is changed.
func TestMovingRefused(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, d := range []string{"a", "b"} {
		s := start(t, "serve", "--data-dir", in(d), "--listen", "127.0.0.1:0", "--metrics-listen", "none")
		s.waitFor("answering on")
		s.terminated()
	}
	command(t, "store", "export", in("a.export"), "--data-dir", in("a"))
	whole := read(t, in("a.export"))
	for name, text := range map[string]string{"cut": whole[:len(whole)-2], "damaged": strings.Replace(whole, `"schema":1`, `"schema":2`, 1), "foreign": "{}\n"} {
		if err := os.WriteFile(in(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range []struct {
		name string
		code int
		says string
		args []string
	}{
		{"no file", console.ExitUsage, "name a file", []string{"export", "--data-dir", in("a")}},
		{"a file to resume", console.ExitUsage, "name a file", []string{"export", in("x"), "--resume", "--data-dir", in("a")}},
		{"nothing there", console.ExitUsage, "there is no key file", []string{"export", in("x"), "--data-dir", in("none")}},
		{"a key only", console.ExitUsage, "there is no embedded store in", []string{"export", in("x"), "--data-dir", in("none"), "--key-file", in("a/key.json")}},
		{"a key that is not its own", console.ExitFailure, in("b/key.json"), []string{"export", in("x"), "--data-dir", in("a"), "--key-file", in("b/key.json")}},
		{"no directory", console.ExitFailure, "no such file", []string{"export", in("x/x"), "--data-dir", in("b")}},
		{"nonsense", console.ExitUsage, "setting store", []string{"export", in("x"), "--store", "x://"}},
		{"no export", console.ExitUsage, "no such file", []string{"import", in("x"), "--data-dir", in("b")}},
		{"cut", console.ExitUsage, "cut off", []string{"import", in("cut"), "--data-dir", in("new"), "--key-file", in("a/key.json")}},
		{"damaged", console.ExitUsage, "schema 2", []string{"import", in("damaged"), "--data-dir", in("new"), "--key-file", in("a/key.json")}},
		{"foreign", console.ExitUsage, "not a tokenbroker export", []string{"import", in("foreign"), "--data-dir", in("new"), "--key-file", in("a/key.json")}},
		{"another key", console.ExitFailure, "the export's data are sealed with key", []string{"import", in("a.export"), "--data-dir", in("new"), "--key-file", in("b/key.json")}},
		{"a store of another key", console.ExitFailure, in("a/key.json"), []string{"import", in("a.export"), "--data-dir", in("b"), "--key-file", in("a/key.json")}},
		{"itself", console.ExitFailure, "was itself exported", []string{"import", in("a.export"), "--data-dir", in("a")}},
	} {
		wantSays(t, x.name, commandFails(t, x.code, append([]string{"store"}, x.args...)...), x.says)
	}
	for _, name := range []string{"new", "x"} {
		if _, err := os.Stat(in(name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: got %v, want that it was not made", name, err)
		}
	}
	if out := command(t, "store", "export", "--resume", "--data-dir", in("b")); out != "refreshing was not suspended\n" {
		t.Errorf("resume: got %q", out)
	}
}
