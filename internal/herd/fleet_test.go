package herd

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// A fleet is brokers as processes of their own, which share a Redis and a key, and the simulated upstream.
type fleet struct {
	t   testing.TB
	sim *upstreamsim.Sim
	dir string
	// args are those of every broker.
	args []string
	all  []*member
}

// A member is one broker. Its address stays when it is killed and started again.
type member struct {
	f      *fleet
	number int
	// args are its own, beside the fleet's.
	args    []string
	address string
	metrics string
	conn    *grpc.ClientConn
	// more are connections for many callers.
	more   []tokenbrokerv1.TokenBrokerServiceClient
	tokens tokenbrokerv1.TokenBrokerServiceClient

	mu  sync.Mutex
	cmd *exec.Cmd
	log *os.File
}

var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "tokenbroker-herd-")
	if err != nil {
		return "", err
	}
	builtIn.Store(&dir)
	path := filepath.Join(dir, "tokenbroker")
	out, err := exec.Command("go", "build", "-o", path, "github.com/tokenbroker/tokenbroker/cmd/tokenbroker").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

var builtIn atomic.Pointer[string]

func TestMain(m *testing.M) {
	flag.Parse()
	if n, err := strconv.Atoi(flag.Lookup("test.parallel").Value.String()); err == nil && n < 4 && !full() {
		_ = flag.Set("test.parallel", "4") // most of them wait for leases most of the time
	}
	code := m.Run()
	if dir := builtIn.Load(); dir != nil {
		_ = os.RemoveAll(*dir)
	}
	http.DefaultClient.CloseIdleConnections()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "leaked goroutines:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// newFleet starts n brokers on the store. Settings are flags of serve.
func newFleet(t testing.TB, n int, store string, settings ...string) *fleet {
	t.Helper()
	f := noFleet(t, store, settings...)
	for range n {
		f.add()
	}
	return f
}

// noFleet is one to which brokers are still to be added.
func noFleet(t testing.TB, store string, settings ...string) *fleet {
	t.Helper()
	sim, err := upstreamsim.New(upstreamsim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sim.Close() })
	dir, err := os.MkdirTemp("", "tb-") //nolint:usetesting // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t, sim: sim, dir: dir}
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, sim.CA(), 0o600); err != nil {
		t.Fatal(err)
	}
	f.args = append([]string{"serve", "--store", store, "--key-file", filepath.Join(dir, "key.json"), "--upstream-ca-file", ca}, settings...)
	for _, h := range sim.Hosts() {
		f.args = append(f.args, "--upstream-connect-to", h+"="+sim.Addr())
	}
	t.Cleanup(func() {
		for _, m := range f.all {
			m.kill()
			if t.Failed() {
				text, _ := os.ReadFile(m.logName())
				t.Logf("broker %d: ...%s", m.number, text[max(0, len(text)-4000):])
			}
		}
		_ = os.RemoveAll(dir)
	})
	return f
}

// add starts one more broker, with settings of its own.
func (f *fleet) add(settings ...string) *member {
	f.t.Helper()
	m := &member{f: f, number: len(f.all), args: settings}
	f.all = append(f.all, m)
	m.start()
	return m
}

func (m *member) logName() string { return filepath.Join(m.f.dir, fmt.Sprintf("log-%d", m.number)) }

// start starts the broker, on the address that it had before.
func (m *member) start() {
	m.f.t.Helper()
	path, err := built()
	if err != nil {
		m.f.t.Fatal(err)
	}
	listen, metrics := m.address, m.metrics
	if listen == "" {
		listen, metrics = "127.0.0.1:0", "127.0.0.1:0"
	}
	log, err := os.OpenFile(m.logName(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		m.f.t.Fatal(err)
	}
	from, _ := log.Seek(0, 2)
	args := append(append(append([]string{}, m.f.args...), m.args...),
		"--data-dir", filepath.Join(m.f.dir, fmt.Sprint(m.number)), "--listen", listen, "--metrics-listen", metrics, "--socket", "none")
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		m.f.t.Fatal(err)
	}
	m.mu.Lock()
	m.cmd, m.log = cmd, log
	m.mu.Unlock()
	if m.address == "" {
		m.address = m.awaitLog(from, `answering on (127\.0\.0\.1:\d+)`)
		m.metrics = m.awaitLog(from, `metrics on http://(127\.0\.0\.1:\d+)`)
		m.conn = m.dial()
		m.tokens = tokenbrokerv1.NewTokenBrokerServiceClient(m.conn)
		for range size(5, 25) { // one takes a thousand calls at a time
			m.more = append(m.more, tokenbrokerv1.NewTokenBrokerServiceClient(m.dial()))
		}
	}
}

func (m *member) dial() *grpc.ClientConn {
	c, err := grpc.NewClient("passthrough:///"+m.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		m.f.t.Fatal(err)
	}
	m.f.t.Cleanup(func() { _ = c.Close() })
	return c
}

// gauge reads a metric of the broker.
func (m *member) gauge(name string) float64 {
	res, err := http.Get("http://" + m.metrics + "/metrics")
	if err != nil {
		return 0
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), name+" "); ok {
			v, _ := strconv.ParseFloat(text, 64)
			return v
		}
	}
	return 0
}

func (m *member) awaitLog(from int64, pattern string) string {
	m.f.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		text, _ := os.ReadFile(m.logName())
		if found := regexp.MustCompile(pattern).FindStringSubmatch(string(text[min(int(from), len(text)):])); found != nil {
			return found[len(found)-1]
		}
		if time.Now().After(deadline) {
			m.f.t.Fatalf("broker %d does not say %q:\n%s", m.number, pattern, text)
		}
		<-time.After(10 * time.Millisecond)
	}
}

func (m *member) signal(s syscall.Signal) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd != nil {
		_ = m.cmd.Process.Signal(s)
	}
}

// stop has it stand still, and returns when it does: on a busy machine its threads run on for a while after the signal.
func (m *member) stop() {
	m.f.t.Helper()
	m.signal(syscall.SIGSTOP)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd == nil {
		return
	}
	for deadline := time.Now().Add(time.Minute); !standsStill(m.cmd.Process.Pid); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			m.f.t.Errorf("broker %d does not stand still", m.number) // not Fatal: it may be asked on any goroutine
			return
		}
	}
}

// standsStill reports whether every thread of a process is stopped, or the process is gone.
func standsStill(pid int) bool {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // it has ended
		}
		after := text[bytes.LastIndexByte(text, ')')+1:] // proc(5): the name is in parentheses, and may have some
		if state := bytes.Fields(after); len(state) > 0 && !bytes.ContainsAny(state[0], "TtZX") {
			return false
		}
	}
	return true
}

// kill kills it with -9, and waits until it is gone.
func (m *member) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cmd == nil {
		return
	}
	_ = m.cmd.Process.Kill()
	_ = m.cmd.Wait()
	_ = m.log.Close()
	m.cmd = nil
}

// create stores a credential for an account of the simulator.
func (f *fleet) create(name string, a upstreamsim.Account) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := tokenbrokerv1.NewCredentialServiceClient(f.all[0].conn).CreateCredential(ctx, &tokenbrokerv1.CreateCredentialRequest{
		Credential: &tokenbrokerv1.Credential{Name: name, Provider: string(a.System), Inputs: a.Inputs}, Secrets: a.Secrets,
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// full reports whether the harness runs at its full size.
func full() bool { return strings.Contains(os.Getenv("HERD"), "full") }
