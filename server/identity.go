package server

import (
	"fmt"
	"net"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/peeruser"
)

// callerAt says who is behind a connection: without authentication, whoever is on this machine is local, by their user where the system
// tells it, and others are nobody.
func callerAt(c net.Conn) broker.Caller {
	a := c.RemoteAddr()
	if !isLocal(a) && (a == nil || a.Network() != "bufconn") { // in-process: tests and embedding
		return broker.Caller{}
	}
	if u, ok := c.(*net.UnixConn); ok {
		if uid, ok := peeruser.Of(u); ok {
			return broker.Caller{Identity: fmt.Sprint("uid:", uid), Local: true}
		}
	}
	return localCaller
}

var localCaller = broker.NewCaller(broker.Local, "", "", broker.ProofNone, "local")
