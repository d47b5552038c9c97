// Package peeruser tells whose process is behind a Unix socket, as far as the system says it. It knows nothing of what is said there.
package peeruser

import "net"

// A User is who runs a process.
type User struct {
	UID uint32
	// GID is the primary group, as of when the process connected, or began to listen.
	GID uint32
}

// ask hands the connection's descriptor to get.
func ask[T any](c *net.UnixConn, get func(fd int) (*T, error)) (*T, bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, false
	}
	var who *T
	if failed := raw.Control(func(fd uintptr) { who, err = get(int(fd)) }); failed != nil || err != nil {
		return nil, false
	}
	return who, who != nil
}
