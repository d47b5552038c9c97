//go:build darwin || freebsd

package peeruser

import (
	"net"

	"golang.org/x/sys/unix"
)

// Of is the user of the process that is behind a connection: of a server, whoever has connected; of a client, whoever began to listen there.
// It is false where the system does not say.
func Of(c *net.UnixConn) (u User, ok bool) {
	who, ok := ask(c, func(fd int) (*unix.Xucred, error) {
		return unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	})
	if !ok || who.Ngroups < 1 {
		return User{}, false
	}
	return User{who.Uid, who.Groups[0]}, true
}
