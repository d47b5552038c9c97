// Package redistest starts real Redis processes for tests: one server, a master under Sentinel, a cluster, and a TCP proxy
// that breaks the connection to them in the ways in which networks do. Everything listens on 127.0.0.1 alone, and ends with
// the test. It is for tests of several packages, and imports none of ours.
//
// As with testing.T itself, what can fail a test is called from the test's own goroutine. Do, Monitor's result and the
// Proxy may be used from any.
package redistest

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// Options say how a server differs from the usual one, which is durable (every write is in its append-only file before it is
// answered), evicts nothing, and lets anybody on this machine in. The zero value is that server.
type Options struct {
	// Program is the server's path; empty: the redis-server that is installed.
	Program string
	// TLS has the server speak nothing else, and ask for a client's certificate: Server.CAFile, CertFile and KeyFile.
	TLS bool
	// Password is what the user "default" must say; empty: nothing.
	Password string
	// Users are users as ACL SETUSER has them, such as "app on >secret ~tb:* +@read". One named default may be among them.
	Users []string
	// Args are more arguments, such as "--maxmemory", "2mb". They win over what this package sets.
	Args []string
	// NoAOF keeps everything in memory: what was written is gone after Kill.
	NoAOF bool
}

// A Server is one Redis process, or several after another on the same port and files.
type Server struct {
	// CAFile is what signed the server's certificate; CertFile and KeyFile are a client's. Empty without Options.TLS.
	CAFile, CertFile, KeyFile string

	t        testing.TB
	bin      string
	home     string // the configuration, the log, certificates; data is below it
	args     []string
	lines    []string // of the configuration, but for the ports
	sentinel bool
	cluster  bool
	port     int
	bus      int // on which a cluster's nodes talk to each other
	tls      *tls.Config
	userinfo *url.Userinfo
	// password is that of the user by which this package itself comes in, so that a test may do to default what it likes.
	password string

	mu      sync.Mutex
	client  *redis.Client
	process *process // nil before the first
	stopped bool
}

// admin is the user by which this package comes in.
const admin = "redistest"

// Start starts a server and waits until it answers. Without redis-server the test is skipped, or fails where CI is set.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s := newServer(t, o)
	s.start()
	return s
}

func newServer(t testing.TB, o Options) *Server {
	t.Helper()
	s := &Server{t: t, bin: o.Program, home: t.TempDir(), args: o.Args, password: rand.Text()}
	if s.bin == "" {
		s.bin = need(t)
	}
	if err := os.Mkdir(s.Dir(), 0o700); err != nil {
		t.Fatal(err)
	}
	s.lines = []string{
		"bind 127.0.0.1",
		"protected-mode yes",
		"dir " + strconv.Quote(s.Dir()),
		`logfile ""`,
		`save ""`,
		"appendonly " + yes(!o.NoAOF),
		"appendfsync always",
		"maxmemory-policy noeviction",
		"rdbcompression no",          // Dump is searched for what must not be there: compression would hide it
		"repl-diskless-sync-delay 0", // replicas are there at once rather than after 5 s
		"user " + admin + " on >" + s.password + " ~* &* +@all",
	}
	if o.Password != "" {
		s.lines = append(s.lines, "requirepass "+strconv.Quote(o.Password))
		s.userinfo = url.UserPassword("", o.Password)
	}
	for _, u := range o.Users {
		s.lines = append(s.lines, "user "+strings.TrimPrefix(u, "user "))
	}
	if o.TLS {
		s.certify()
	}
	return s
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// start finds a port on which the server comes up: one that was free a moment ago may have been taken since.
func (s *Server) start() {
	s.t.Helper()
	s.t.Cleanup(s.Kill)
	for range 20 {
		s.port = freePort(s.t)
		if s.cluster {
			s.bus = freePort(s.t)
		}
		if err := os.WriteFile(s.file("redis.conf"), []byte(s.config()), 0o600); err != nil {
			s.t.Fatal(err)
		}
		err := s.launch()
		if errors.Is(err, errTaken) {
			s.Kill()
			continue
		}
		if err != nil {
			s.t.Fatal(err)
		}
		return
	}
	s.t.Fatal("redistest: found no free port")
}

func (s *Server) config() string {
	lines := slices.Clone(s.lines)
	if s.tls != nil {
		lines = append(lines, "port 0", fmt.Sprintf("tls-port %d", s.port))
	} else {
		lines = append(lines, fmt.Sprintf("port %d", s.port))
	}
	if s.cluster {
		lines = append(lines, fmt.Sprintf("cluster-port %d", s.bus))
	}
	return strings.Join(lines, "\n") + "\n"
}

// launch starts the process and waits until it answers and has read its files.
func (s *Server) launch() error {
	args := []string{s.file("redis.conf")}
	if s.sentinel {
		args = append(args, "--sentinel")
	}
	before := len(s.Log())
	p, err := run(s.bin, append(args, s.args...), s.Dir(), s.file("redis.log"))
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.process, s.client, s.stopped = p, s.newClient(), false
	s.mu.Unlock()
	err = poll(func() error {
		select {
		case <-p.done:
			return stop{s.died(before)}
		default:
			return s.ready(p.pid)
		}
	})
	if err != nil && !errors.Is(err, errTaken) {
		err = fmt.Errorf("%w\n%s", err, s.Log())
	}
	return err
}

var errTaken = errors.New("redistest: another process has the port")

func (s *Server) died(before int) error {
	if strings.Contains(strings.ToLower(s.Log()[before:]), "address already in use") {
		return errTaken
	}
	return errors.New("redistest: redis-server ended")
}

// ready asks for the process's number too: what answers on the port may be another's server. Or it may never answer, so that
// it is not asked for long.
func (s *Server) ready(pid int) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	reply, err := s.do(ctx, "INFO")
	info := fields(reply)
	switch {
	case err != nil:
		return err
	case info["process_id"] != strconv.Itoa(pid):
		return fmt.Errorf("process %s answers on port %d, want %d", info["process_id"], s.port, pid)
	case info["loading"] == "1" || info["async_loading"] == "1":
		return errors.New("still loading")
	}
	_, err = s.do(ctx, "PING")
	return err
}

func (s *Server) newClient() *redis.Client {
	return redis.NewClient(&redis.Options{
		Addr:       s.Addr(),
		Username:   admin,
		Password:   s.password,
		TLSConfig:  s.tls,
		Protocol:   2,
		MaxRetries: -1, // a test's command is sent once
		PoolSize:   4,
		// Neither would be the test's own: both are seen by MONITOR.
		DisableIdentity:          true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		DialTimeout:              5 * time.Second,
		ReadTimeout:              10 * time.Second,
		ContextTimeoutEnabled:    true,
	})
}

// Do sends one command, as a user who may do everything. Replies are those of RESP2: a string, an int64, a []any, or nil with
// redis.Nil.
func (s *Server) Do(args ...string) (any, error) { return s.do(context.Background(), args...) }

func (s *Server) do(ctx context.Context, args ...string) (any, error) {
	s.mu.Lock()
	c := s.client
	s.mu.Unlock()
	if c == nil {
		return nil, redis.ErrClosed
	}
	all := make([]any, len(args))
	for i, a := range args {
		all[i] = a
	}
	return c.Do(ctx, all...).Result()
}

// must is Do of what cannot fail.
func (s *Server) must(args ...string) any {
	s.t.Helper()
	reply, err := s.Do(args...)
	if err != nil {
		s.t.Fatalf("redistest: %s: %v", strings.Join(args, " "), err)
	}
	return reply
}

// Addr is host and port.
func (s *Server) Addr() string { return address(s.port) }

func address(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// URL is redis://127.0.0.1:PORT/0, with the default user's password if it has one; rediss with TLS.
func (s *Server) URL() string {
	u := url.URL{Scheme: "redis", User: s.userinfo, Host: s.Addr(), Path: "/0"}
	if s.tls != nil {
		u.Scheme = "rediss"
	}
	return u.String()
}

// TLSConfig is what a client needs that the server lets in; nil without Options.TLS.
func (s *Server) TLSConfig() *tls.Config { return s.tls.Clone() }

// Kill ends the process with SIGKILL and waits for its end. It does nothing to one that has ended.
func (s *Server) Kill() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		_ = s.client.Close()
		s.client = nil
	}
	if s.process != nil {
		s.process.kill()
	}
}

// Restart starts it again on the same port and files, killing it first if it runs, and waits until it answers and has read
// its files.
func (s *Server) Restart() {
	s.t.Helper()
	err := poll(func() error {
		s.Kill()
		err := s.launch()
		if err != nil && !errors.Is(err, errTaken) {
			return stop{err}
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// Stop has the process stand still (SIGSTOP): connections stay open, and nothing answers.
func (s *Server) Stop() { s.t.Helper(); s.signal(sigStop, true) }

// Continue is the end of Stop.
func (s *Server) Continue() { s.t.Helper(); s.signal(sigContinue, false) }

func (s *Server) signal(sig os.Signal, stopped bool) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.process.signal(sig); err != nil {
		s.t.Fatalf("redistest: %v: %v", sig, err)
	}
	s.stopped = stopped
}

// answers says whether it is worth asking.
func (s *Server) answers() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.process.runs() && !s.stopped
}

// Dir is where Redis keeps its data.
func (s *Server) Dir() string { return s.file("data") }

func (s *Server) file(name string) string { return filepath.Join(s.home, name) }

// Log is all that the processes have logged.
func (s *Server) Log() string {
	text, err := os.ReadFile(s.file("redis.log"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err.Error()
	}
	return string(text)
}

// Dump is every byte in Dir: the append-only files, snapshots, and what is half written. Strings are in it as they are, in
// the order of the files' names; it is for finding what must not be there.
func (s *Server) Dump() []byte {
	s.t.Helper()
	var all []byte
	err := filepath.WalkDir(s.Dir(), func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			var data []byte
			data, err = os.ReadFile(path) //nolint:gosec // G122: only Redis writes there, and it makes no links
			all = append(append(all, data...), '\n')
		}
		if errors.Is(err, fs.ErrNotExist) { // a rewrite has replaced it
			return nil
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return all
}

// stop is an error for which there is no point in waiting.
type stop struct{ error }

// patience is how long anything may take to come up on a slow machine that does much else.
const patience = 60 * time.Second

// poll asks until the answer is nil, and returns the last one.
func poll(ask func() error) error {
	end := time.After(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		var s stop
		if errors.As(err, &s) {
			return s.error
		}
		if err == nil {
			return nil
		}
		select {
		case <-end:
			return err
		case <-tick.C:
		}
	}
}

// await fails the test unless it comes to be.
func await(t testing.TB, what string, ask func() error) {
	t.Helper()
	if err := poll(ask); err != nil {
		t.Fatalf("redistest: waited for %s: %v", what, err)
	}
}
