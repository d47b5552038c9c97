package operator

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/tokenbroker/tokenbroker/internal/peeruser"
)

// A socket is a Unix socket behind which a broker should be.
type socket struct {
	path string
	// named: the operator has named this very path, and so trusts whoever owns its directory.
	named bool
	// me is the user who asks.
	me int
}

// A strangerError is why nothing is sent to whoever listens at a socket.
type strangerError struct {
	path string
	uid  int
}

func (e *strangerError) Error() string {
	return fmt.Sprintf("the socket %s is another user's (%d): run the command as the broker's user", e.path, e.uid)
}

// dial connects, and hangs up on a stranger. It is the process behind the connection that counts: a path may be a link, or be another's by now.
func (s socket) dial(ctx context.Context) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", s.path)
	if err != nil {
		return nil, err
	}
	if uid, ok := s.behind(c); !ok || !s.trusts(uid) {
		_ = c.Close()
		return nil, &strangerError{s.path, uid}
	}
	return c, nil
}

// behind is the user whose process is behind the connection or, where the system does not say, who owns the socket; false: nobody knows.
func (s socket) behind(c net.Conn) (uid int, ok bool) {
	if u, ok := c.(*net.UnixConn); ok {
		if who, ok := peeruser.Of(u); ok {
			return int(who.UID), true
		}
	}
	return ownerOf(s.path)
}

// trusts reports whether a user may be told secrets: oneself, root and, where the operator has named the path or is root and could be anybody,
// the owner of the socket's directory. In a directory that many may write to that is nobody.
func (s socket) trusts(uid int) bool {
	if uid == s.me || uid == 0 {
		return true
	}
	owner, ok := ownerOf(filepath.Dir(s.path))
	return (s.named || s.me == 0) && ok && owner == uid
}

// ownerOf is who owns a file; links are followed.
func ownerOf(path string) (uid int, ok bool) {
	i, err := os.Stat(path)
	if err != nil {
		return 0, false
	}
	s, ok := i.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return int(s.Uid), true
}

// pathIn is the path in an address as gRPC hands it to a dialer.
func pathIn(address string) string {
	if path, ok := strings.CutPrefix(address, "unix://"); ok {
		return path
	}
	return strings.TrimPrefix(address, "unix:")
}
