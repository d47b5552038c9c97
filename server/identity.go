package server

import (
	"net"
	"strconv"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/peeruser"
)

// overflowUID stands for every user that has no number in this user namespace (user_namespaces(7)): nobody in particular.
const overflowUID = 65534

// callerAt says who is behind a connection where nobody has to prove anything: whoever is on this machine is local, by their user where the system
// tells it, and others are nobody: nil.
func callerAt(c net.Conn, listener string) *broker.Caller {
	a := c.RemoteAddr()
	if !isLocal(a) && (a == nil || a.Network() != "bufconn") { // in-process: tests and embedding
		return nil
	}
	if u, ok := c.(*net.UnixConn); ok {
		if who, ok := peeruser.Of(u); ok {
			if who.UID == overflowUID {
				return nil
			}
			uid, gid := strconv.FormatUint(uint64(who.UID), 10), strconv.FormatUint(uint64(who.GID), 10)
			caller := broker.NewCaller(broker.Unix, "", uid, broker.ProofPeer, listener)
			caller.Attributes = map[string][]string{"uid": {uid}, "gid": {gid}}
			return caller
		}
	}
	return broker.NewCaller(broker.Local, "", "", broker.ProofNone, listener)
}
