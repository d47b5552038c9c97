package server

import (
	"net"

	"golang.org/x/sys/unix"
)

// userOf is the user whose process is behind a Unix socket.
func userOf(c *net.UnixConn) (uid uint32, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, false
	}
	var who *unix.Ucred
	if err := raw.Control(func(fd uintptr) { who, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil || who == nil {
		return 0, false
	}
	return who.Uid, true
}
