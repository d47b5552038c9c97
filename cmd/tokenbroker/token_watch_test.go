package main

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
)

// TestWatchOutlivesABroker: a watch goes on with the next broker at the address, and is not told again what it knows.
func TestWatchOutlivesABroker(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	s := u.serve()
	s.apply(u)
	address := "unix:" + filepath.Join(u.dir, "data", "tokenbroker.sock") // the same for both
	first, id := s.token()
	w := start(t, "token", "watch", ochno, "--address", address, "--timeout", patience.String())
	w.waitFor(id + " expires")
	s.signal(syscall.SIGTERM)
	s.code()
	w.waitFor("the connection has ended: connecting again")

	s = u.serve()
	s.invalidate(id)
	w.waitFor("invalidated " + id)
	second, next := s.token()
	w.waitFor(next + " expires")
	if n := strings.Count(w.output(), id+" expires"); n != 1 {
		t.Errorf("got the first token %d times, want once", n)
	}
	w.signal(syscall.SIGINT)
	if got := w.code(); got != console.ExitOK {
		t.Errorf("got exit code %d, want %d", got, console.ExitOK)
	}
	for _, token := range []string{first, second} {
		if strings.Contains(w.output(), token) {
			t.Error("the token itself is shown")
		}
	}
}

// TestWatchWaitsNoLongerThanItsTimeout: nobody answers any more.
func TestWatchWaitsNoLongerThanItsTimeout(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	s := u.serve()
	s.apply(u)
	w := start(t, "token", "watch", ochno, "--address", s.address, "--timeout", "1s", "-o", "json")
	w.waitFor(`(?m)^\{"token":\{.*\}\}$`)
	s.kill()
	if got := w.code(); got != console.ExitUnreachable {
		t.Errorf("got exit code %d, want %d", got, console.ExitUnreachable)
	}
	w.waitFor(`"exit_code":7`)
}
