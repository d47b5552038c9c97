package server

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	wirecred "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"

	"github.com/tokenbroker/tokenbroker/broker"
)

const (
	// connectionsMost bounds the connections of a server: one more takes the place of another (room).
	connectionsMost = 2000
	// messageWithin is how long the message of a call may take after its headers.
	messageWithin = 30 * time.Second
	// silentMost is how many calls of a connection may be without their message before each one more has a timer. Usual calls bring it at
	// once, and make none.
	silentMost = 128
)

// connections are the server's side of the transport: who is there, and how many. There is no authentication yet, and nothing is encrypted. It
// implements credentials.TransportCredentials.
type connections struct {
	room    room
	streams int64
	within  time.Duration
}

// newConnections bounds what lasts on one connection to three quarters of the calls that may run on it at a time: one more call always
// gets through.
func newConnections(streams uint32) *connections {
	return &connections{room: room{most: connectionsMost}, streams: max(int64(streams)*3/4, 1), within: messageWithin}
}

// A connection is one of a client. It implements credentials.AuthInfo.
type connection struct {
	net.Conn
	wirecred.CommonAuthInfo
	of     *connections
	caller *broker.Caller
	place  *list.Element // in its room, which guards it; nil: it has none
	// used: a call has come since the room last looked. running are the calls that do, but for streams.
	used    atomic.Bool
	running atomic.Int64
	// lasting are the streams that run; silent the calls whose message has not come, and timed those of them that have a timer.
	lasting, silent, timed atomic.Int64
}

// AuthType implements credentials.AuthInfo.
func (*connection) AuthType() string { return "local" }

// Close implements net.Conn.
func (k *connection) Close() error {
	k.of.room.leave(k)
	return k.Conn.Close()
}

// busy reports whether a call runs.
func (k *connection) busy() bool { return k.running.Load() > 0 || k.lasting.Load() > 0 }

// ServerHandshake implements credentials.TransportCredentials.
func (c *connections) ServerHandshake(raw net.Conn) (net.Conn, wirecred.AuthInfo, error) {
	k := &connection{Conn: raw, CommonAuthInfo: wirecred.CommonAuthInfo{SecurityLevel: wirecred.NoSecurity}, of: c, caller: callerAt(raw)}
	if err := c.room.enter(k); err != nil {
		return nil, nil, err // gRPC closes it
	}
	return k, k, nil
}

// ClientHandshake implements credentials.TransportCredentials. A server makes none.
func (*connections) ClientHandshake(context.Context, string, net.Conn) (net.Conn, wirecred.AuthInfo, error) {
	return nil, nil, errors.New("not for clients")
}

// Info implements credentials.TransportCredentials.
func (*connections) Info() wirecred.ProtocolInfo {
	return wirecred.ProtocolInfo{SecurityProtocol: "insecure"}
}

// Clone implements credentials.TransportCredentials.
func (c *connections) Clone() wirecred.TransportCredentials { return c }

// OverrideServerName implements credentials.TransportCredentials.
func (*connections) OverrideServerName(string) error { return nil }

// connectionOf is the one that a call came on; nil: it came on none of this server's.
func connectionOf(ctx context.Context) *connection {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	k, _ := p.AuthInfo.(*connection)
	return k
}

// lasts counts a stream until the function is called that it returns. It fails with CallerLimited where there are as many as there may be.
func (k *connection) lasts() (func(), error) {
	if k.lasting.Add(1) > k.of.streams {
		k.lasting.Add(-1)
		return nil, &broker.Failure{Kind: broker.CallerLimited, Detail: fmt.Sprintf(
			"more streams on one connection than %d, three quarters of the setting limits.concurrent_streams: watch on another connection", k.of.streams)}
	}
	return func() { k.lasting.Add(-1) }, nil
}

// An arrival is the context of a call whose message has not come, with a timer. gRPC waits for messages without an end.
type arrival struct {
	context.Context //nolint:containedctx // it is one
	timer           *time.Timer
	late            atomic.Bool
}

type arrivalKey struct{}

// Value implements context.Context.
func (a *arrival) Value(key any) any {
	if key == (arrivalKey{}) {
		return a
	}
	return a.Context.Value(key)
}

// Err implements context.Context.
func (a *arrival) Err() error {
	if a.late.Load() {
		return context.DeadlineExceeded
	}
	return a.Context.Err()
}

// opened is the tap: a call's headers are there. It bounds how long its message may take.
func (c *connections) opened(ctx context.Context, _ *tap.Info) (context.Context, error) {
	k := connectionOf(ctx)
	if k == nil {
		return ctx, nil
	}
	if !k.used.Load() {
		k.used.Store(true) // only when it changes: all its calls share this line
	}
	if k.silent.Add(1) <= silentMost {
		return ctx, nil
	}
	k.timed.Add(1)
	bounded, cancel := context.WithCancel(ctx)
	a := &arrival{Context: bounded}
	a.timer = time.AfterFunc(c.within, func() {
		k.silent.Add(-1)
		k.timed.Add(-1)
		a.late.Store(true)
		cancel()
	})
	context.AfterFunc(ctx, func() { // a call that is reset comes to no handler, and would be kept as long as its timer
		if a.timer.Stop() {
			k.silent.Add(-1)
			k.timed.Add(-1)
		}
	})
	return a, nil
}

// begins notes that a call has come to its handler.
func (k *connection) begins(ctx context.Context) {
	if k.timed.Load() > 0 {
		if a, ok := ctx.Value(arrivalKey{}).(*arrival); ok {
			if !a.timer.Stop() {
				return // the timer has counted it
			}
			k.timed.Add(-1)
		}
	}
	k.silent.Add(-1)
}
