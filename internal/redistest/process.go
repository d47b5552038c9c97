package redistest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/installed"
)

// oldest is the first major version that has all that is used here: CLUSTER ADDSLOTSRANGE, cluster-port.
const oldest = 7

// find is the path of redis-server.
var find = sync.OnceValues(func() (string, error) {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return "", err
	}
	out, err := exec.CommandContext(context.Background(), bin, "--version").Output() //nolint:gosec // G204: redis-server
	if err != nil {
		return "", err
	}
	version := regexp.MustCompile(`v=(\d+)`).FindSubmatch(out)
	if version == nil {
		return "", fmt.Errorf("redis-server has no version: %s", out)
	}
	if major, err := strconv.Atoi(string(version[1])); err != nil || major < oldest {
		return "", fmt.Errorf("redis-server is of version %s, want %d or later", version[1], oldest)
	}
	return bin, nil
})

// need is the path of redis-server; without it the test goes no further.
func need(t testing.TB) string {
	t.Helper()
	bin, err := find()
	if err != nil {
		installed.Without(t, "%v: `make test` installs it", err)
	}
	return bin
}

// A process is one that this package has started.
type process struct {
	pid  int
	os   *os.Process
	done chan struct{} // closed when it has ended
}

// run starts a process whose output is appended to a file.
func run(bin string, args []string, dir, logFile string) (*process, error) {
	log, err := os.OpenFile(logFile, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600) //nolint:gosec // G304: the test's own directory
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(context.Background(), bin, args...) //nolint:gosec // G204: redis-server
	cmd.Dir, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = dir, log, log, attributes()
	p := &process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		// The kernel ends the child with the thread that started it (see attributes): the thread must live as long.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		defer func() { _ = log.Close() }()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its log
		}
	}()
	if err := <-started; err != nil {
		<-p.done
		return nil, err
	}
	p.os, p.pid = cmd.Process, cmd.Process.Pid
	return p, nil
}

func (p *process) runs() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *process) signal(sig os.Signal) error {
	if !p.runs() {
		return os.ErrProcessDone
	}
	return p.os.Signal(sig)
}

// kill ends it, and what it has forked to write its files.
func (p *process) kill() {
	if p.runs() {
		killAll(p)
	}
	<-p.done
}

var ports struct {
	sync.Mutex
	given map[int]bool
}

// freePort is a port that nobody listens on, and that this process has not been given before. It is below those from which
// the kernel takes the near end of an outgoing connection: there, any client could take a killed server's port, and a client
// that dials a dead server could reach itself.
func freePort(t testing.TB) int {
	t.Helper()
	ports.Lock()
	defer ports.Unlock()
	if ports.given == nil {
		ports.given = map[int]bool{}
	}
	for range 1000 {
		port := 10000 + rand.IntN(22000) //nolint:gosec // G404: not a secret
		if ports.given[port] {
			continue
		}
		l, err := listen(port)
		if err != nil {
			if errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES) {
				continue
			}
			t.Fatal(err)
		}
		_ = l.Close()
		ports.given[port] = true
		return port
	}
	t.Fatal("redistest: found no free port")
	return 0
}

func listen(port int) (net.Listener, error) {
	return new(net.ListenConfig).Listen(context.Background(), "tcp", address(port))
}
