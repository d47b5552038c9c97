package server_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/installed"
	"github.com/tokenbroker/tokenbroker/server"
)

func dial(t testing.TB, target string) *grpc.ClientConn {
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

// raw opens a connection on which nothing is asked, and reads until the server has said something.
func raw(t *testing.T, network, addr string) net.Conn {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := conn.Read(make([]byte, 1)); err != nil {
		t.Fatalf("got %v, want the server's settings", err)
	}
	return conn
}

// wantClosed waits until the server closes a connection.
func wantClosed(t *testing.T, conn net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, conn)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Error(err)
	}
}

// watch makes a connection busy with a stream, and returns when it runs.
func (s *stand) watch(target string) (end func() error) {
	s.t.Helper()
	w, err := tokenbrokerv1.NewTokenBrokerServiceClient(dial(s.t, target)).WatchToken(s.t.Context(), &tokenbrokerv1.WatchTokenRequest{Credential: "main"})
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := w.Recv(); err != nil {
		s.t.Fatal(err)
	}
	return func() error { _, err := w.Recv(); return err }
}

// TestAConnectionTooManyTakesThePlaceOfAnIdleOne: of one on which nothing was asked, and not of those that are used.
func TestAConnectionTooManyTakesThePlaceOfAnIdleOne(t *testing.T) {
	s := newStand(t, func(s server.Settings) server.Settings { return s.Few(2) })
	s.get()
	before := raw(t, "tcp", s.addr)
	for range 10 {
		after := raw(t, "tcp", s.addr)
		wantClosed(t, before)
		s.get()
		before = after
	}
}

// TestBusyConnectionsKeepOutOnlyTheirOwnCaller: all who come over TCP are one; whoever comes by the socket gets through, and one call ends for it.
func TestBusyConnectionsKeepOutOnlyTheirOwnCaller(t *testing.T) {
	if server.UserIdentity(0) == server.UserIdentity(1) {
		installed.Without(t, "this system does not say who is behind a socket")
	}
	s := newStand(t, func(s server.Settings) server.Settings { return s.Few(3) })
	var ends []func() error
	for range 2 {
		ends = append(ends, s.watch("passthrough:///"+s.addr))
	}
	s.get()
	ends = append(ends, s.watch("passthrough:///"+s.addr)) // in the place of the one that get came on
	refused, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = refused.Close() }()
	wantClosed(t, refused)

	path := filepath.Join(t.TempDir(), "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s.serving.Go(func() { _ = s.server.Serve(l) })
	operator := tokenbrokerv1.NewTokenBrokerServiceClient(dial(t, "unix:"+path))
	if _, err := operator.GetToken(t.Context(), &get{Credential: "main"}); err != nil {
		t.Errorf("by the socket: %v", err)
	}
	if err := ends[0](); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, want the call ended that runs the longest", err)
	}
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
	if want := server.UserIdentity(os.Getuid()); !got.OnThisMachine() || got.Identity != want {
		t.Errorf("got %+v, want %s", got, want)
	}
}

// TestACallThatIsResetLeavesNothingBehind: a hundred thousand of them in a second would be kept for as long as a message may take.
func TestACallThatIsResetLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if silent, timed := server.Reset(100_000); timed != 0 || silent > 128 {
			t.Errorf("%d calls are counted, and %d have a timer", silent, timed)
		}
	})
}
