package server

import (
	"net"
	"strconv"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/peeruser"
)

// callerAt says who is behind a connection where nobody has to prove anything: whoever is on this machine is local, by their user where the system
// tells it, and others are nobody: nil.
func callerAt(c net.Conn, listener string) *broker.Caller {
	a := c.RemoteAddr()
	if !isLocal(a) && (a == nil || a.Network() != "bufconn") { // in-process: tests and embedding
		return nil
	}
	if u, ok := c.(*net.UnixConn); ok {
		if uid, ok := peeruser.Of(u); ok {
			return broker.NewCaller(broker.Unix, "", strconv.FormatUint(uint64(uid), 10), broker.ProofPeer, listener)
		}
	}
	return broker.NewCaller(broker.Local, "", "", broker.ProofNone, listener)
}
