package server

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// TransportOptions are what a server has whatever it serves.
var TransportOptions = transportOptions

// Impatient gives the message of a call so long.
func (s Settings) Impatient(within time.Duration) Settings {
	s.messageWithin = within
	return s
}

// Few bounds the connections.
func (s Settings) Few(connections int) Settings {
	s.Capacity.Connections = connections
	return s
}

var localCaller = broker.NewCaller(broker.Local, "", "", broker.ProofNone, "")

// CallerAt is who is behind a connection where nobody has to prove anything.
func CallerAt(c net.Conn) *broker.Caller { return callerAt(c, "") }

// UserIdentity is the identity of a user on this machine, as far as the system tells it.
func UserIdentity(uid int) string {
	switch runtime.GOOS {
	case "linux", "darwin", "freebsd":
		return fmt.Sprint("unix:", uid)
	}
	return localCaller.Identity
}

// DefaultCodec serves everything, and encodes each answer anew, as gRPC does by itself.
func DefaultCodec(s Settings) (*grpc.Server, error) {
	out, err := newServer(s, grpc.ForceServerCodecV2(encoding.GetCodecV2(protocodec.Name)))
	if err != nil {
		return nil, err
	}
	return out.grpc[""], nil
}

// Bare serves tokens with nothing between the wire and the handler but who the caller is: everybody is local.
func Bare(b *engine.Broker) *grpc.Server {
	srv := grpc.NewServer(append(transportOptions(Settings{}), grpc.ForceServerCodecV2(newCodec()),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			return next(context.WithValue(ctx, callerKey{}, localCaller), req)
		}))...)
	t := &tokens{broker: b}
	srv.RegisterService(t.desc(), t)
	return srv
}

// What README.md says of pings.
const (
	PingsNotFaster = pingsNotFaster
	PingAfter      = pingAfter
	PingTimeout    = pingTimeout
)

// Reset opens calls on a connection, and resets them before their message comes. It returns how many are still counted, and how many have a timer.
func Reset(calls int) (silent, timed int64) {
	c := newConnections(DefaultConcurrentStreams)
	k := &connection{of: c}
	ctx := peer.NewContext(context.Background(), &peer.Peer{AuthInfo: k})
	for range calls {
		stream, reset := context.WithCancel(ctx)
		_, _ = c.opened(stream, &tap.Info{})
		reset()
	}
	synctest.Wait()
	return k.silent.Load(), k.timed.Load()
}
