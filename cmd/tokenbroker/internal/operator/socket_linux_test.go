package operator

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/installed"
)

const anybody = 65534

// listenAsAnother listens on a socket as a user who is nobody here. Only root can.
func listenAsAnother(t *testing.T, path string) net.Listener {
	t.Helper()
	if os.Geteuid() != 0 {
		installed.Without(t, "only root can be another user")
	}
	if err := os.Chmod(filepath.Dir(path), 0o777); err != nil { // so that they may
		t.Fatal(err)
	}
	type opened struct {
		net.Listener
		err error
	}
	done := make(chan opened)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		const unchanged = ^uintptr(0)
		if _, _, err := syscall.RawSyscall(unix.SYS_SETRESUID, unchanged, anybody, unchanged); err != 0 { // of this thread alone
			done <- opened{err: err}
			return
		}
		l, err := (&net.ListenConfig{}).Listen(context.Background(), "unix", path)
		done <- opened{l, err}
	}()
	l := <-done
	if l.err != nil {
		t.Fatal(l.err)
	}
	if err := os.Chmod(path, 0o777); err != nil { // whoever wants secrets lets everybody in
		t.Fatal(err)
	}
	return l
}

// A thief answers every call, and counts them.
func thief(t *testing.T, path string) (calls chan string) {
	t.Helper()
	l := listenAsAnother(t, path)
	calls = make(chan string, 10)
	srv := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(s)
		calls <- method
		return s.SendMsg(&tokenbrokerv1.CreateCredentialResponse{})
	}))
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	return calls
}

// privateDir is a directory of the user who tests, whose path leaves room for a socket's name.
func privateDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tb-") //nolint:usetesting // t.TempDir is too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func link(t *testing.T, to, from string) {
	t.Helper()
	if err := os.Symlink(to, from); err != nil {
		t.Fatal(err)
	}
}

// TestASecretIsToldToNoStranger: whoever is behind the socket, and however it came to be there.
func TestASecretIsToldToNoStranger(t *testing.T) {
	byDirectory := func(dir string) remote { return remote{whereabouts: whereabouts{DataDir: dir, Socket: "auto"}} }
	byAddress := func(dir string) remote { return remote{Address: "unix:" + filepath.Join(dir, "tokenbroker.sock")} }
	byURL := func(dir string) remote { return remote{Address: "unix://" + filepath.Join(dir, "tokenbroker.sock")} }
	for name, test := range map[string]struct {
		remote func(dir string) remote
		// late: it is put there when the place has been found.
		link, late bool
	}{
		"their socket, by directory":              {remote: byDirectory},
		"a link to it, by directory":              {remote: byDirectory, link: true},
		"it comes late, by directory":             {remote: byDirectory, late: true},
		"a link to it comes late, by directory":   {remote: byDirectory, link: true, late: true},
		"their socket, by address":                {remote: byAddress},
		"a link to it, by address":                {remote: byAddress, link: true},
		"a link to it, by an address with //":     {remote: byURL, link: true},
		"a link to it that comes late by address": {remote: byAddress, link: true, late: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := privateDir(t)
			var told chan string
			appear := func() {
				path := filepath.Join(dir, "tokenbroker.sock")
				if !test.link {
					told = thief(t, path)
					return
				}
				theirs := filepath.Join(privateDir(t), "s")
				told = thief(t, theirs)
				link(t, theirs, path)
			}
			if !test.late {
				appear()
			}
			r := test.remote(dir)
			r.Timeout = time.Minute
			err := r.with(t.Context(), func(ctx context.Context, c *client) error {
				if test.late {
					appear()
				}
				_, err := c.credentials.CreateCredential(ctx, &tokenbrokerv1.CreateCredentialRequest{Secrets: map[string]string{"api_key": "secret"}})
				return err
			})
			var stranger *strangerError
			if !errors.As(err, &stranger) || stranger.uid != anybody || console.ExitCode(err) != console.ExitUsage || !strings.Contains(err.Error(), "is another user's") {
				t.Errorf("got %v (exit code %d)", err, console.ExitCode(err))
			}
			if len(told) > 0 {
				t.Errorf("they were told: %s", <-told)
			}
		})
	}
}

// TestABrokerOfAnotherUserIsServed where it is named, or asked by root, and its directory is that user's.
func TestABrokerOfAnotherUserIsServed(t *testing.T) {
	for name, r := range map[string]remote{"by root": {}, "by its address": {Address: "unix:"}} {
		t.Run(name, func(t *testing.T) {
			dir := privateDir(t)
			path := filepath.Join(dir, "tokenbroker.sock")
			told := thief(t, path)
			if err := os.Chown(dir, anybody, anybody); err != nil {
				t.Fatal(err)
			}
			if r.whereabouts = (whereabouts{DataDir: dir, Socket: "auto"}); r.Address != "" {
				r.Address += path
			}
			err := r.with(t.Context(), func(ctx context.Context, c *client) error {
				_, err := c.credentials.CreateCredential(ctx, &tokenbrokerv1.CreateCredentialRequest{Secrets: map[string]string{"api_key": "secret"}})
				return err
			})
			if err != nil || len(told) != 1 {
				t.Errorf("got %v, and %d calls", err, len(told))
			}
		})
	}
}

// TestWhoIsTrusted: the rule, for whoever tests as whoever they are.
func TestWhoIsTrusted(t *testing.T) {
	owner := os.Geteuid()
	path := filepath.Join(t.TempDir(), "s")
	for name, test := range map[string]struct {
		s    socket
		uid  int
		want bool
	}{
		"oneself":                              {socket{me: 7}, 7, true},
		"root":                                 {socket{me: 7}, 0, true},
		"another":                              {socket{me: 7}, 8, false},
		"another, by root":                     {socket{me: 0}, owner + 1, false},
		"another, at an address":               {socket{me: owner + 1, named: true}, owner + 2, false},
		"the directory's owner, at an address": {socket{me: owner + 1, named: true}, owner, true},
		"the directory's owner, by root":       {socket{me: 0}, owner, true},
		"the directory's owner":                {socket{me: owner + 1}, owner, owner == 0},
	} {
		test.s.path = path
		if got := test.s.trusts(test.uid); got != test.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
