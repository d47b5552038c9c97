package server_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
)

func dial(t *testing.T, target string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestACallWhoseMessageDoesNotComeEnds: however many of them there are, and the connection's other calls are answered meanwhile.
func TestACallWhoseMessageDoesNotComeEnds(t *testing.T) {
	s := newStand(t, func(s server.Settings) server.Settings { return s.Impatient(200 * time.Millisecond) })
	const empty = 200
	ended := make(chan codes.Code, 2*empty)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	conn := dial(t, "passthrough:///"+s.addr)
	for _, method := range []string{"/tokenbroker.v1.TokenBrokerService/GetToken", "/tokenbroker.v1.TokenBrokerService/WatchToken"} {
		for range empty {
			stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
			if err != nil {
				t.Fatal(err)
			}
			go func() { ended <- status.Code(stream.RecvMsg(&tokenbrokerv1.GetTokenResponse{})) }()
		}
	}
	for range 2*empty - 128 {
		if got := <-ended; got != codes.DeadlineExceeded {
			t.Errorf("got %v, want DeadlineExceeded", got)
		}
	}
	s.get()
	if _, err := tokenbrokerv1.NewTokenBrokerServiceClient(conn).GetToken(ctx, &get{Credential: "main"}); err != nil {
		t.Error(err)
	}
}

// TestWatchesLeaveRoomForCalls: those that are too many are refused, and say so.
func TestWatchesLeaveRoomForCalls(t *testing.T) {
	s := newStand(t, func(s server.Settings) server.Settings { s.MaxConcurrentStreams = 8; return s })
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 6 {
		w, err := s.tokens.WatchToken(ctx, &tokenbrokerv1.WatchTokenRequest{Credential: "main"})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	w, err := s.tokens.WatchToken(ctx, &tokenbrokerv1.WatchTokenRequest{Credential: "main"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Recv(); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "limits.concurrent_streams") {
		t.Errorf("got %v, want it refused, and which setting it is", err)
	}
	s.get()
}

// TestAConnectionTooManyIsClosed: and others are not disturbed.
func TestAConnectionTooManyIsClosed(t *testing.T) {
	s := newStand(t, func(s server.Settings) server.Settings { return s.Few(2) })
	s.get()
	for _, answered := range []bool{true, false} {
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if _, err := conn.Read(make([]byte, 1)); (err == nil) != answered { // the server's settings
			t.Errorf("got %v, want it answered: %v", err, answered)
		}
	}
	s.get()
}

// TestWhoIsBehindASocketHasTheirOwnShare: a caller on a Unix socket is known by its user.
func TestWhoIsBehindASocketHasTheirOwnShare(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		if c, err := (&net.Dialer{}).DialContext(t.Context(), "unix", l.Addr().String()); err == nil {
			defer func() { _ = c.Close() }()
			_, _ = c.Read(make([]byte, 1))
		}
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	got := server.CallerAt(c)
	if want := server.UserIdentity(os.Getuid()); !got.Local || got.Identity != want {
		t.Errorf("got %+v, want %s", got, want)
	}
}
