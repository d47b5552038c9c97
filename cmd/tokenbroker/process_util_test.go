package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim/simclient"
)

// binary builds the command as it is shipped, once for all tests.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "tokenbroker-test-")
	if err != nil {
		return "", err
	}
	binaryDir = dir
	if err := os.Chmod(dir, 0o755); err != nil { // so that another user may run it
		return "", err
	}
	path := filepath.Join(dir, "tokenbroker")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
})

var binaryDir string

func removeBinary() {
	if binaryDir != "" {
		os.RemoveAll(binaryDir)
	}
}

// shortDir is a directory whose path leaves room for the names of sockets.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tb-") //nolint:usetesting // t.TempDir is too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// A proc is a process of the built command, whose whole output is kept.
type proc struct {
	t    testing.TB
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended

	mu      sync.Mutex
	out     bytes.Buffer
	changed chan struct{}
}

// start runs the command with these arguments, and kills it at the end of the test if it still runs.
func start(t testing.TB, args ...string) *proc {
	t.Helper()
	return startAs(t, 0, args...)
}

// startAs is start as another user, which root alone can; 0: as this one.
func startAs(t testing.TB, uid uint32, args ...string) *proc {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	return startCommand(t, cmd)
}

// startCommand starts any program as start does.
func startCommand(t testing.TB, cmd *exec.Cmd) *proc {
	t.Helper()
	p := &proc{t: t, cmd: cmd, done: make(chan struct{}), changed: make(chan struct{})}
	p.cmd.Env = cleanEnvironment()
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // ProcessState has it
		close(p.done)
	}()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s:\n%s", strings.Join(cmd.Args, " "), p.output())
		}
	})
	return p
}

// cleanEnvironment has none of the variables that are settings.
func cleanEnvironment() []string {
	var out []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "TOKENBROKER_") {
			out = append(out, v)
		}
	}
	return out
}

// Write implements io.Writer for the process's output.
func (p *proc) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.changed)
	p.changed = make(chan struct{})
	return p.out.Write(b)
}

func (p *proc) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// stopAtOnce signals a process that is stopping until it has ended: soon after the first signal, another one means the same.
func (p *proc) stopAtOnce() {
	again := time.NewTicker(500 * time.Millisecond)
	defer again.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-again.C:
			p.signal(syscall.SIGTERM)
		}
	}
}

// waitFor returns the pattern's first group, or all of it, as soon as the output has it.
func (p *proc) waitFor(pattern string) string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	stuck := time.NewTimer(patience)
	defer stuck.Stop()
	for ended := false; ; {
		p.mu.Lock()
		m, changed := re.FindStringSubmatch(p.out.String()), p.changed
		p.mu.Unlock()
		if m != nil {
			return m[len(m)-1]
		}
		if ended {
			p.t.Fatalf("ended with %d without %q in its output:\n%s", p.cmd.ProcessState.ExitCode(), pattern, p.output())
		}
		select {
		case <-changed:
		case <-p.done:
			ended = true
		case <-stuck.C:
			p.t.Fatalf("no %q in its output:\n%s", pattern, p.output())
		}
	}
}

func (p *proc) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Fatal(err)
	}
}

// kill is kill -9.
func (p *proc) kill() {
	_ = p.cmd.Process.Kill() // it may be over
	<-p.done
}

// code waits for the end and returns the exit code.
func (p *proc) code() int {
	p.t.Helper()
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		p.t.Fatalf("it does not end:\n%s", p.output())
		return -1
	}
}

// command runs the command to its end and wants exit code 0. It returns standard output.
func command(t testing.TB, args ...string) string {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return runs(t, path, args...)
}

// runs runs a program to its end and wants exit code 0. It returns standard output.
func runs(t testing.TB, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = cleanEnvironment(), &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", filepath.Base(program), strings.Join(args, " "), err, &out, &errs)
	}
	return out.String()
}

// An upstream is a demo upstream that runs as a process of its own.
type upstream struct {
	*proc
	dir, address string
	client       *simclient.Client
}

func startUpstream(t testing.TB) *upstream {
	t.Helper()
	dir := shortDir(t)
	u := &upstream{proc: start(t, "demo", "upstream", "--listen", "127.0.0.1:0", "--dir", dir), dir: dir}
	u.address = u.waitFor(`answer on (127\.0\.0\.1:\d+)\.`)
	u.waitFor("What happens here")
	ca, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if u.client, err = simclient.New(u.address, ca); err != nil {
		t.Fatal(err)
	}
	return u
}

// control sends an order to the simulator and returns its answer.
func (u *upstream) control(method, path string) []byte {
	u.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	body, err := u.client.Order(ctx, method, path)
	if err != nil {
		u.t.Fatal(err)
	}
	return body
}

// ledger is what happened to the system's refresh tokens, as "presented 1.2": family and number.
func (u *upstream) ledger(system upstreamsim.System) []string {
	u.t.Helper()
	var events []upstreamsim.Event
	if err := json.Unmarshal(u.control(http.MethodGet, "/ledger?system="+string(system)), &events); err != nil {
		u.t.Fatal(err)
	}
	var out []string
	for _, e := range events {
		out = append(out, fmt.Sprintf("%s %d.%d", e.Kind, e.Family, e.Token))
	}
	return out
}

// A server is a broker that runs as a process of its own.
type served struct {
	*proc
	address string
}

// serve starts a broker with the upstream's settings.
func (u *upstream) serve(more ...string) *served {
	u.t.Helper()
	args := append([]string{"serve", "--config", filepath.Join(u.dir, "settings.yaml"), "--listen", "127.0.0.1:0", "--metrics-listen", "none"}, more...)
	s := &served{proc: start(u.t, args...)}
	s.address = s.waitFor(`answering on (127\.0\.0\.1:\d+)`)
	if err := waitServing(u.t.Context(), s.address); err != nil {
		u.t.Fatal(err)
	}
	return s
}

// firstGroup is what the first group of the pattern matches in the text.
func firstGroup(fatalf func(string, ...any), pattern, text string) string {
	m := regexp.MustCompile(pattern).FindStringSubmatch(text)
	if len(m) < 2 {
		fatalf("no match for %s in:\n%s", pattern, text)
		return ""
	}
	return m[1]
}

// outcome runs a program to its end, and returns standard output and the exit code.
func outcome(t testing.TB, program string, args ...string) (stdout string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = cleanEnvironment(), &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(program), strings.Join(args, " "), err, &errs)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}
