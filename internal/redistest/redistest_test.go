package redistest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client is a client as a user of the package would make it, from the URL.
func client(t *testing.T, s *Server) *redis.Client {
	t.Helper()
	o, err := redis.ParseURL(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	if s.CAFile != "" {
		o.TLSConfig = s.TLSConfig()
	}
	o.MaxRetries = -1
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	c := redis.NewClient(o)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func get(t *testing.T, s *Server, key string) any {
	t.Helper()
	v, err := s.Do("GET", key)
	if err != nil && !errors.Is(err, redis.Nil) {
		t.Fatal(err)
	}
	return v
}

func setting(t *testing.T, s *Server, name string) string {
	t.Helper()
	return pairs(s.must("CONFIG", "GET", name))[name]
}

func TestServerIsDurableAndAlone(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{Args: []string{"--maxmemory", "8mb"}})
	for name, want := range map[string]string{
		"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": "",
		"protected-mode": "yes", "bind": "127.0.0.1", "maxmemory": "8388608", "rdbcompression": "no",
	} {
		if got := setting(t, s, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if err := client(t, s).Ping(t.Context()).Err(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(s.Log(), "Ready to accept connections") {
		t.Errorf("the log says nothing of it:\n%s", s.Log())
	}
}

func TestKillAndRestart(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	s.must("SET", "key", "kept")
	addr := s.Addr()
	s.Kill()
	s.Kill()
	if _, err := s.Do("PING"); err == nil {
		t.Error("a killed server answers")
	}
	if _, err := net.DialTimeout("tcp", addr, time.Second); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial of a killed server: %v, want it refused", err)
	}
	s.Restart()
	if got := get(t, s, "key"); got != "kept" || s.Addr() != addr {
		t.Errorf("got %v at %s, want what was kept at %s", got, s.Addr(), addr)
	}
	s.Restart()
	if got := get(t, s, "key"); got != "kept" {
		t.Errorf("got %v after a restart without Kill", got)
	}
}

func TestRestartAfterItEndedByItself(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	_, _ = s.Do("SHUTDOWN", "NOSAVE")
	s.Restart()
	s.must("PING")
}

func TestWithoutAOFNothingIsKept(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{NoAOF: true})
	s.must("SET", "key", "gone")
	s.Restart()
	if got := get(t, s, "key"); got != nil {
		t.Errorf("got %v, want nothing", got)
	}
}

func TestStopAndContinue(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	s.Stop()
	conn, err := net.DialTimeout("tcp", s.Addr(), 10*time.Second)
	if err != nil {
		t.Fatalf("the kernel still takes connections: %v", err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "PING\r\n")
	silent(t, conn)
	s.Continue()
	answers(t, conn, "-NOAUTH", "+PONG")
	s.Stop()
	s.Restart() // kills what stands still
	s.must("PING")
	s.Stop() // as does the end of the test
}

// silent: nothing comes for a while.
func silent(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	b := make([]byte, 100)
	if n, err := conn.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %q, %v, want nothing", b[:n], err)
	}
}

// answers: a line comes that begins in one of these ways.
func answers(t *testing.T, conn net.Conn, want ...string) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range want {
		if strings.HasPrefix(line, w) {
			return
		}
	}
	t.Fatalf("read %q, want one of %q", line, want)
}

func TestTLSNeedsTheClientsCertificate(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{TLS: true, Password: "a password"})
	s.must("SET", "key", "value")
	if got, err := client(t, s).Get(t.Context(), "key").Result(); err != nil || got != "value" {
		t.Errorf("got %q, %v", got, err)
	}
	without := s.TLSConfig()
	without.Certificates = nil
	c := redis.NewClient(&redis.Options{Addr: s.Addr(), Password: "a password", TLSConfig: without, MaxRetries: -1})
	defer c.Close()
	if err := c.Ping(t.Context()).Err(); err == nil {
		t.Error("a client without a certificate was let in")
	}
	for _, file := range []string{s.CAFile, s.CertFile, s.KeyFile} {
		if data, err := os.ReadFile(file); err != nil || !bytes.HasPrefix(data, []byte("-----BEGIN ")) {
			t.Errorf("%s: %v", file, err)
		}
	}
	seen := s.Monitor()
	s.must("SET", "key", "monitored")
	if !strings.Contains(seen(), `"monitored"`) {
		t.Error("MONITOR over TLS saw nothing")
	}
	s.Restart()
	if got := get(t, s, "key"); got != "monitored" {
		t.Errorf("got %v", got)
	}
}

func TestUsersAndPassword(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{
		Password: `odd " password`,
		Users:    []string{"reader on >secret ~tb:* +@read +@connection", "user nobody off"},
	})
	if err := client(t, s).Set(t.Context(), "tb:1", "v", 0).Err(); err != nil {
		t.Errorf("default: %v", err)
	}
	reader := redis.NewClient(&redis.Options{Addr: s.Addr(), Username: "reader", Password: "secret", MaxRetries: -1})
	defer reader.Close()
	if got, err := reader.Get(t.Context(), "tb:1").Result(); err != nil || got != "v" {
		t.Errorf("reader: %q, %v", got, err)
	}
	if err := reader.Set(t.Context(), "tb:1", "v", 0).Err(); err == nil || !strings.HasPrefix(err.Error(), "NOPERM") {
		t.Errorf("reader writes: %v, want NOPERM", err)
	}
	none := redis.NewClient(&redis.Options{Addr: s.Addr(), MaxRetries: -1})
	defer none.Close()
	if err := none.Ping(t.Context()).Err(); err == nil || !strings.HasPrefix(err.Error(), "NOAUTH") {
		t.Errorf("without a password: %v, want NOAUTH", err)
	}
}

func TestDefaultUserOff(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{Users: []string{"default off"}})
	s.must("PING")
	if err := client(t, s).Ping(t.Context()).Err(); err == nil {
		t.Error("default was let in")
	}
}

func TestDumpHoldsWhatWasWritten(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	written := strings.Repeat("compressible ", 20)
	s.must("SET", "key", written)
	if !bytes.Contains(s.Dump(), []byte(written)) {
		t.Error("not in the append-only file")
	}
	s.must("BGREWRITEAOF")
	s.must("CONFIG", "SET", "save", "1 1")
	s.must("SET", "more", "x")
	await(t, "a snapshot", func() error {
		_, err := os.Stat(filepath.Join(s.Dir(), "dump.rdb"))
		return err
	})
	s.Kill()
	if !bytes.Contains(s.Dump(), []byte(written)) {
		t.Error("not in the rewritten file")
	}
	if n := bytes.Count(s.Dump(), []byte(written)); n < 2 {
		t.Errorf("%d times, want it in the snapshot too", n)
	}
}

func TestMonitorSeesWhatWasAnswered(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	s.must("SET", "before", "x")
	seen := s.Monitor()
	c := client(t, s)
	for i := range 100 {
		if err := c.Set(t.Context(), "key", fmt.Sprintf("value-%d", i), 0).Err(); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(seen(), fmt.Sprintf(`"value-%d"`, i)) {
			t.Fatalf("did not see value-%d", i)
		}
	}
	if strings.Contains(seen(), `"before"`) {
		t.Error("saw what was before")
	}
	s.Kill()
	if !strings.Contains(seen(), `"value-99"`) {
		t.Error("has forgotten when the server died")
	}
}

// fake records how a test ends that must not go on.
type fake struct {
	testing.TB
	said  string
	fatal bool
}

func (f *fake) Helper() {}
func (f *fake) Fatalf(format string, a ...any) {
	f.said, f.fatal = fmt.Sprintf(format, a...), true
	panic(f)
}
func (f *fake) Skipf(format string, a ...any) { f.said = fmt.Sprintf(format, a...); panic(f) }
func (f *fake) run(what func(t testing.TB)) {
	defer func() { _ = recover() }()
	what(f)
}

func TestWithoutRedis(t *testing.T) {
	had := find
	defer func() { find = had }()
	find = func() (string, error) { return "", errors.New("redis-server is not there") }
	for ci, fatal := range map[string]bool{"": false, "true": true} {
		t.Setenv("CI", ci)
		f := &fake{TB: t}
		f.run(func(t testing.TB) { Start(t, Options{}) })
		if f.fatal != fatal || !strings.Contains(f.said, "make test") {
			t.Errorf("CI=%q: fatal %v: %q", ci, f.fatal, f.said)
		}
	}
}

func TestPortIsTakenMeanwhile(t *testing.T) {
	t.Parallel()
	s := Start(t, Options{})
	s.Kill()
	l, err := listen(s.port)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.launch(); !errors.Is(err, errTaken) {
		t.Errorf("launch on a port that is taken: %v", err)
	}
	free := time.AfterFunc(300*time.Millisecond, func() { l.Close() })
	defer free.Stop()
	s.Restart()
	s.must("PING")
}

func TestBadArgumentIsTold(t *testing.T) {
	t.Parallel()
	f := &told{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() { _ = recover() }()
		Start(f, Options{Args: []string{"--no-such-setting", "1"}})
	}()
	<-done
	if !strings.Contains(f.said, "no-such-setting") {
		t.Errorf("the failure says %q, want what Redis says", f.said)
	}
}

type told struct {
	testing.TB
	said string
}

func (f *told) Fatal(a ...any) { f.said = fmt.Sprint(a...); panic(f) }
