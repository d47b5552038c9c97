package server_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
)

// halfDone opens calls on a connection of its own, each with so much of a message that does not end, until the connection is closed.
func halfDone(t *testing.T, addr string, calls, size int) {
	t.Helper()
	message := append([]byte{0, 0, 0, 0, 0}, make([]byte, size)...)
	binary.BigEndian.PutUint32(message[1:], 1<<20)
	ask(t, addr, calls, "/tokenbroker.v1.TokenBrokerService/GetToken", message, false)
}

// halfDoneAfterwards is halfDone of usual messages after many calls that are answered, or reset, while one is open.
func halfDoneAfterwards(t *testing.T, addr string, before int, resets bool) {
	t.Helper()
	const get = "/tokenbroker.v1.TokenBrokerService/GetToken"
	w := newWire(t, addr)
	w.call(get, nil, false)
	for range before {
		if id := w.call(get, []byte{0, 0, 0, 0, 0}, !resets); resets {
			_ = w.f.WriteRSTStream(id, http2.ErrCodeCancel)
		} else {
			w.wait(id)
		}
	}
	message := append([]byte{0, 0, 0x10, 0, 0}, make([]byte, 60_000)...)
	for range 300 {
		w.call(get, message, false)
	}
}

// notTaken makes calls whose answers are never taken.
func notTaken(t *testing.T, addr string, calls int) {
	t.Helper()
	ask(t, addr, calls, "/grpc.health.v1.Health/Check", []byte{0, 0, 0, 0, 0}, true, http2.Setting{ID: http2.SettingInitialWindowSize})
}

// ask makes calls on a connection of its own.
func ask(t *testing.T, addr string, calls int, method string, message []byte, whole bool, settings ...http2.Setting) {
	t.Helper()
	w := newWire(t, addr, settings...)
	for range calls {
		w.call(method, message, whole)
	}
}

// A wire is a connection on which frames are sent, as long as the server takes them.
type wire struct {
	f     *http2.Framer
	block bytes.Buffer
	next  uint32
	// ended are the streams that the server has ended.
	ended chan uint32
}

func newWire(t *testing.T, addr string, settings ...http2.Setting) *wire {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
		t.Fatal(err)
	}
	w := &wire{f: http2.NewFramer(conn, conn), next: 1, ended: make(chan uint32, 1<<16)}
	go func() {
		defer close(w.ended)
		for {
			frame, err := w.f.ReadFrame()
			if err != nil {
				return
			}
			if h, ok := frame.(*http2.HeadersFrame); ok && h.StreamEnded() {
				w.ended <- h.StreamID
			}
		}
	}()
	_ = w.f.WriteSettings(settings...)
	return w
}

// call opens a stream, and sends a message, whole or so that more is to come.
func (w *wire) call(method string, message []byte, whole bool) (id uint32) {
	w.block.Reset()
	e := hpack.NewEncoder(&w.block)
	for _, h := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", method}, {":authority", "x"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		_ = e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	id, w.next = w.next, w.next+2
	err := w.f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: w.block.Bytes(), EndHeaders: true})
	for rest := message; err == nil && len(rest) > 0; {
		n := min(len(rest), 16<<10)
		err = w.f.WriteData(id, whole && n == len(rest), rest[:n])
		rest = rest[n:]
	}
	return id
}

// wait returns when a stream has ended, or the connection.
func (w *wire) wait(id uint32) {
	for ended := range w.ended {
		if ended == id {
			return
		}
	}
}

func memory() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// TestWhatNobodyReadsIsBounded: calls whose messages do not end take no more memory than there is for them, by whichever way, and keep out nobody but those
// who cannot be told from who makes them.
func TestWhatNobodyReadsIsBounded(t *testing.T) {
	for name, load := range map[string]func(t *testing.T, addr string){
		"calls":              func(t *testing.T, addr string) { halfDone(t, addr, 800, 5) },
		"bytes":              func(t *testing.T, addr string) { halfDone(t, addr, 300, 60_000) },
		"bytes after calls":  func(t *testing.T, addr string) { halfDoneAfterwards(t, addr, 2000, false) },
		"bytes after resets": func(t *testing.T, addr string) { halfDoneAfterwards(t, addr, 2000, true) },
		"answers nobody takes": func(t *testing.T, addr string) {
			for range 5 {
				notTaken(t, addr, 1000)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStand(t, func(s server.Settings) server.Settings {
				s.Capacity = server.Capacity{Calls: 1000, Unread: 8 << 20}
				return s
			})
			path := filepath.Join(t.TempDir(), "s")
			l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", path)
			if err != nil {
				t.Fatal(err)
			}
			s.serving.Go(func() { _ = s.server.Serve(l) })
			operator := tokenbrokerv1.NewTokenBrokerServiceClient(dial(t, "unix:"+path))
			before := memory()
			for range 10 { // without a bound 140 or 180 MiB
				load(t, s.addr)
				if _, err := operator.GetToken(t.Context(), &get{Credential: "main"}); err != nil {
					t.Fatalf("another caller: %v", err)
				}
			}
			if grown := int64(memory()) - int64(before); grown > 48<<20 {
				t.Errorf("%d MiB are held", grown>>20)
			}
		})
	}
}

// TestACallThatIsOverIsNotOpen, whoever has ended it, and how: what gRPC answers by itself, what has a message that cannot be read or is too large, what is
// reset.
func TestACallThatIsOverIsNotOpen(t *testing.T) {
	s := newStand(t, func(s server.Settings) server.Settings {
		s.Capacity = server.Capacity{Calls: 400} // a party has 300; what is reset counts for a second or two
		return s
	})
	conn := dial(t, "passthrough:///"+s.addr)
	for range 200 {
		for method, message := range map[string]any{
			"/tokenbroker.v1.TokenBrokerService/NoSuch":   &get{},
			"/no.such.Service/Method":                     &get{},
			"/tokenbroker.v1.TokenBrokerService/GetToken": &get{Credential: strings.Repeat("x", 2<<20)},
		} {
			if err := conn.Invoke(t.Context(), method, message, &tokenbrokerv1.GetTokenResponse{}); err == nil || strings.Contains(err.Error(), "as there is room for") {
				t.Fatalf("%s: got %v", method, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		w, err := tokenbrokerv1.NewTokenBrokerServiceClient(conn).WatchToken(ctx, &tokenbrokerv1.WatchTokenRequest{Credential: "main"})
		if err == nil {
			_, err = w.Recv()
		}
		if cancel(); err != nil {
			t.Fatal(err)
		}
	}
	s.get()
}

// TestWhoBringsMuchThatIsReadGoesOn: large headers and messages count for as long as they are held.
func TestWhoBringsMuchThatIsReadGoesOn(t *testing.T) {
	s := newStand(t, func(s server.Settings) server.Settings {
		s.Capacity = server.Capacity{Calls: 1000, Unread: 16 << 20} // half of it of one party, which has 4.5 MiB open at a time
		return s
	})
	conn := dial(t, "passthrough:///"+s.addr)
	tokens, credentials := tokenbrokerv1.NewTokenBrokerServiceClient(conn), tokenbrokerv1.NewCredentialServiceClient(conn)
	w, err := tokens.WatchToken(t.Context(), &tokenbrokerv1.WatchTokenRequest{Credential: "main"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Recv(); err != nil { // so that there is always a call
		t.Fatal(err)
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "x-large", strings.Repeat("x", 8<<10))
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 100 { // 16 MiB of headers
				if _, err := tokens.GetToken(ctx, &get{Credential: "main"}); err != nil {
					t.Error(err)
					return
				}
			}
			for range 5 { // 20 MiB of messages, which are refused for what is in them
				_, _ = credentials.CreateCredential(t.Context(), &tokenbrokerv1.CreateCredentialRequest{Credential: &tokenbrokerv1.Credential{
					Name: "other", Provider: "stub", Inputs: map[string]string{"x": strings.Repeat("y", 200<<10)},
				}})
			}
		})
	}
	all.Wait()
	if _, err := tokens.GetToken(ctx, &get{Credential: "main"}); err != nil {
		t.Error(err)
	}
	if err := w.CloseSend(); err != nil {
		t.Error(err)
	}
}

// TestAStopWaitsForNobodyWhoTakesNothing: neither for answers that are not taken, nor for messages that do not come.
func TestAStopWaitsForNobodyWhoTakesNothing(t *testing.T) {
	s := newStand(t)
	notTaken(t, s.addr, 3)
	halfDone(t, s.addr, 3, 5)
	s.get()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := s.server.Stop(ctx, 0); err != nil || ctx.Err() != nil {
		t.Errorf("got %v, after %v", err, ctx.Err())
	}
}

// TestAListThatIsMuchTooLongCostsLittle: it is refused for its length, whatever is wrong with each element, and one with more elements than any list may have is
// not decoded.
func TestAListThatIsMuchTooLongCostsLittle(t *testing.T) {
	s := newStand(t)
	for _, n := range []int{5_000, 400_000} {
		before := memoryAllocated()
		for range 10 {
			_, err := s.tokens.GetToken(t.Context(), &get{Credential: "main", Scopes: make([]string, n)})
			if status.Code(err) != codes.InvalidArgument || len(err.Error()) > 1000 {
				t.Fatalf("%d elements: got %.300v", n, err)
			}
		}
		if each := (memoryAllocated() - before) / 10; each > 16<<20 { // the client's message among it
			t.Errorf("%d elements: %d MiB for each", n, each>>20)
		}
	}
	r := &tokenbrokerv1.UpdateCredentialRequest{Credential: &tokenbrokerv1.Credential{Name: "main", Inputs: map[string]string{}}}
	for i := range 400 {
		r.Credential.Inputs[fmt.Sprint("input-", i)] = strings.Repeat("x", 100)
	}
	if _, err := tokenbrokerv1.NewCredentialServiceClient(dial(t, "passthrough:///"+s.addr)).UpdateCredential(t.Context(), r); status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v", err)
	}
}

func memoryAllocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}
