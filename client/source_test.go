package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/client"
	"github.com/tokenbroker/tokenbroker/client/clienttest"
)

// patience is for what should happen soon, on a busy machine.
const patience = 20 * time.Second

// eventually waits for something that has to become so.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for began := time.Now(); !is(); <-time.After(time.Millisecond) {
		if time.Since(began) > patience {
			t.Fatalf("not so in %v: %s", patience, what)
		}
	}
}

func mustToken(t *testing.T, s *client.Source) *client.Token {
	t.Helper()
	token, err := s.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestAllShareOneQuestion(t *testing.T) {
	b := clienttest.New(t)
	b.Has("main", clienttest.Bearer("main", "https://api.example"))
	s := b.Client(t).Source("main")
	var all sync.WaitGroup
	for range 1000 {
		all.Go(func() {
			if token, err := s.Token(t.Context()); err != nil || token.AccessToken != "main-1" {
				t.Errorf("got %v, %v", token, err)
			}
		})
	}
	all.Wait()
	if n := b.Asked("main"); n != 1 {
		t.Errorf("the broker was asked %d times, want once", n)
	}
}

// TestATokenThatIsGoodIsServedWhateverTheBrokerDoes: it is refreshed in the background, and where that fails it goes on being answered, until it ends.
// TestAQuestionHasItsCallersContext, so that it belongs to its trace, but neither its end nor what it says to others.
func TestAQuestionHasItsCallersContext(t *testing.T) {
	b := clienttest.New(t)
	b.Has("main", clienttest.Bearer("main", "https://api.example"))
	type own struct{}
	asked := make(chan context.Context, 10)
	s := b.Client(t, client.WithDialOptions(grpc.WithChainUnaryInterceptor(
		func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			asked <- ctx
			return invoke(ctx, method, req, reply, cc, opts...)
		}))).Source("main")
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(context.WithValue(t.Context(), own{}, "span"), "authorization", "Bearer of another service"))
	defer cancel()
	if _, err := s.Token(ctx); err != nil {
		t.Fatal(err)
	}
	in := <-asked
	if in.Value(own{}) != "span" {
		t.Error("it has none of its caller's values")
	}
	if md, _ := metadata.FromOutgoingContext(in); len(md) > 0 {
		t.Errorf("the broker is told %v", md)
	}
}

func TestATokenThatIsGoodIsServedWhateverTheBrokerDoes(t *testing.T) {
	b := clienttest.New(t)
	ends := make(chan time.Time, 1)
	b.Has("main", func(n int) client.Token {
		token := clienttest.Bearer("main", "")(n)
		token.RefreshTime = time.Now().Add(50 * time.Millisecond)
		token.ExpireTime = time.Now().Add(100 * time.Millisecond)
		if n == 2 {
			token.ExpireTime = time.Now().Add(1500 * time.Millisecond)
			ends <- token.ExpireTime
		}
		return token
	})
	s := b.Client(t).Source("main")
	first := mustToken(t, s)
	eventually(t, "the second token", func() bool { return mustToken(t, s).ID != first.ID })
	b.Fails("main", codes.Unavailable, "UPSTREAM_UNAVAILABLE", 0)
	end := <-ends
	for time.Now().Before(end.Add(-100 * time.Millisecond)) {
		if token, err := s.Token(t.Context()); err != nil || token.AccessToken != "main-2" {
			t.Fatalf("got %v, %v", token, err)
		}
		<-time.After(time.Millisecond)
	}
	if n := b.Asked("main"); n > 3 {
		t.Errorf("the broker was asked %d times", n)
	}
	<-time.After(time.Until(end))
	if _, err := s.Token(t.Context()); client.Reason(err) != "UPSTREAM_UNAVAILABLE" {
		t.Errorf("past its end: got %v", err)
	}
}

// TestWhatIsRejectedIsAnsweredNoMore: thousands find at the same time that the API refuses the token. The broker is told once.
func TestWhatIsRejectedIsAnsweredNoMore(t *testing.T) {
	b := clienttest.New(t)
	b.Has("main", clienttest.Bearer("main", ""))
	s := b.Client(t).Source("main")
	first := mustToken(t, s)
	var all sync.WaitGroup
	for range 1000 {
		all.Go(func() {
			s.Reject(first)
			if token, err := s.Token(t.Context()); err != nil || token.AccessToken != "main-2" {
				t.Errorf("got %v, %v", token, err)
			}
		})
	}
	all.Wait()
	if told := b.Rejected("main"); len(told) != 1 || told[0] != first.ID || b.Asked("main") != 2 {
		t.Errorf("the broker was told %v, and asked %d times", told, b.Asked("main"))
	}
	s.Reject(first) // of one that was replaced
	s.Reject(nil)
	if token := mustToken(t, s); token.AccessToken != "main-2" || b.Asked("main") != 2 {
		t.Errorf("got %v after %d questions", token, b.Asked("main"))
	}
}

// TestAnAnswerThatIsOvertakenIsNoAnswer: a token is rejected while the broker is being asked for its successor, and answers that token.
func TestAnAnswerThatIsOvertakenIsNoAnswer(t *testing.T) {
	b := clienttest.New(t)
	b.Has("main", func(n int) client.Token {
		token := clienttest.Bearer("main", "")(n)
		if n == 1 {
			token.RefreshTime = time.Now() // each question asks the broker again, in the background
		}
		return token
	})
	s := b.Client(t).Source("main")
	first := mustToken(t, s)
	for range 100 {
		mustToken(t, s)
	}
	s.Reject(first)
	for range 1000 {
		if token := mustToken(t, s); token.ID == first.ID {
			t.Fatal("a token was answered that was rejected")
		}
	}
}

func TestAWatchTellsAtOnce(t *testing.T) {
	b := clienttest.New(t)
	b.Has("main", clienttest.Bearer("main", ""))
	s := b.Client(t).Source("main", client.WithWatch())
	mustToken(t, s)
	asked := b.Asked("main")
	for n := 2; n < 10; n++ {
		b.Invalidate("main")
		eventually(t, "the next token", func() bool { return mustToken(t, s).AccessToken == fmt.Sprintf("main-%d", n) })
	}
	if b.Asked("main") > asked+8 {
		t.Errorf("the broker was asked %d times", b.Asked("main"))
	}
}

func TestFailuresSayWhatToDo(t *testing.T) {
	b := clienttest.New(t)
	b.Fails("main", codes.FailedPrecondition, "CREDENTIAL_MISCONFIGURED", 90*time.Second)
	s := b.Client(t).Source("main")
	_, err := s.Token(t.Context())
	if status.Code(err) != codes.FailedPrecondition || client.Reason(err) != "CREDENTIAL_MISCONFIGURED" || client.RetryDelay(err) != 90*time.Second {
		t.Errorf("got %v: %q, %v", err, client.Reason(err), client.RetryDelay(err))
	}
	if client.Reason(nil) != "" || client.RetryDelay(errors.New("another's")) != 0 {
		t.Error("an error that is none of the broker's says something")
	}
	if _, err := b.Client(t).Source("absent").Token(t.Context()); status.Code(err) != codes.PermissionDenied {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Token(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	b.Has("main", clienttest.Bearer("main", ""))
	mustToken(t, s)
}

// TestAClosedClientAnswersFromMemory, and ends all that it has begun.
// TestABrokerThatIsAwayIsNamed: its address is not the API's, and whoever reads of a refused connection takes it for that.
func TestABrokerThatIsAwayIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	c, err := client.New(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := c.Source("main").Token(ctx); status.Code(err) != codes.Unavailable || !strings.Contains(fmt.Sprint(err), "no broker answers at "+addr) || client.Reason(err) != "" {
		t.Errorf("got %v", err)
	}
	if _, err := client.New("http://" + addr); err == nil || !strings.Contains(err.Error(), "write HOST:PORT") {
		t.Errorf("an address of HTTP: got %v", err)
	}
}

func TestAClosedClientAnswersFromMemory(t *testing.T) {
	b := clienttest.New(t)
	b.Has("main", clienttest.Bearer("main", ""))
	c, err := client.New(b.Target())
	if err != nil {
		t.Fatal(err)
	}
	s := c.Source("main", client.WithWatch())
	first := mustToken(t, s)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if token := mustToken(t, s); token != first {
		t.Errorf("got %v", token)
	}
	if _, err := c.Source("main").Token(t.Context()); !errors.Is(err, client.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestWhereTLSIsNeeded(t *testing.T) {
	for target, wrong := range map[string]bool{
		"unix:/run/tokenbroker.sock": false, "unix:///run/tokenbroker.sock": false, "127.0.0.1:7420": false, "localhost:7420": false, "[::1]:7420": false, "dns:///localhost:7420": false,
		"broker:7430": true, "dns:///broker.infra:7430": true, "10.0.0.1:7430": true, "localhost.example:7430": true, "": true,
		"127.0.0.1:1,127.0.0.1:2": false, "127.0.0.1:1,broker:2": true, "127.0.0.1:1,": true,
	} {
		c, err := client.New(target)
		if (err != nil) != wrong {
			t.Errorf("%s: got %v", target, err)
		}
		if c != nil {
			_ = c.Close()
		}
	}
}

// TestBrokersShareTheCalls: of three that were named one by one, one ends. No call fails.
func TestBrokersShareTheCalls(t *testing.T) {
	var targets []string
	var brokers []*clienttest.Broker
	for i := range 3 {
		b := clienttest.New(t)
		b.Has("main", func(n int) client.Token {
			token := clienttest.Bearer("main", "")(n)
			token.ID, token.ExpireTime = fmt.Sprint("of broker ", i), time.Now() // each call asks a broker
			return token
		})
		brokers, targets = append(brokers, b), append(targets, b.Target())
	}
	c, err := client.New(strings.Join(targets, ","))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	s := c.Source("main")
	eventually(t, "all of them are asked", func() bool {
		mustToken(t, s)
		return brokers[0].Asked("main") > 0 && brokers[1].Asked("main") > 0 && brokers[2].Asked("main") > 0
	})
	brokers[1].Stop()
	asked := brokers[1].Asked("main")
	for range 300 {
		mustToken(t, s)
	}
	if brokers[1].Asked("main") != asked {
		t.Error("one that has ended was asked")
	}
}

// TestATokenPrintsAsItsID, whatever somebody does to have it in a log.
func TestATokenPrintsAsItsID(t *testing.T) {
	b := clienttest.New(t)
	b.Has("main", func(int) client.Token {
		return client.Token{
			AccessToken: "secret-1", Headers: []client.Field{{Name: "Authorization", Value: "Bearer secret-1"}}, Cookies: []client.Field{{Name: "c", Value: "secret-2"}},
			Query: []client.Field{{Name: "q", Value: "secret-3"}},
		}
	})
	token := mustToken(t, b.Client(t).Source("main"))
	var out bytes.Buffer
	log := slog.New(slog.NewJSONHandler(&out, nil))
	log.Info("x", "token", token, "headers", token.Headers, "header", token.Headers[0])
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "token", token, "one", token.Cookies[0], "value", *token)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x"} {
		fmt.Fprintf(&out, verb+verb+verb+verb+"\n", token, token.Headers, token.Query, struct{ T *client.Token }{token})
		fmt.Fprintf(&out, verb+verb+"\n", *token, struct{ T client.Token }{*token})
	}
	data, err := json.Marshal(token)
	if err != nil {
		t.Fatal(err)
	}
	out.Write(data)
	if strings.Contains(out.String(), "secret-") || !strings.Contains(out.String(), token.ID) {
		t.Errorf("printed:\n%s", &out)
	}
}

// TestSourcesOfTheSameAreOne: who makes one for each request has the token of the last one all the same, as long as somebody has that. Others are others.
func TestSourcesOfTheSameAreOne(t *testing.T) {
	b := clienttest.New(t)
	b.Has("main", clienttest.Bearer("main", ""))
	c := b.Client(t)
	kept := c.Source("main", client.WithScopes("a", "b"), client.WithParameter("x", "1"), client.WithParameter("y", "2"))
	for range 100 {
		mustToken(t, c.Source("main", client.WithParameter("y", "2"), client.WithParameter("x", "1"), client.WithScopes("a", "b")))
	}
	if n := b.Asked("main"); n != 1 {
		t.Errorf("the broker was asked %d times", n)
	}
	for what, other := range map[string]*client.Source{
		"scopes": c.Source("main", client.WithScopes("a")), "no scopes": c.Source("main"), "an origin": c.Source("main", client.WithOrigin("https://api.example.com")), "a watch": c.Source("main", client.WithWatch()),
		"another client": b.Client(t).Source("main", client.WithScopes("a", "b"), client.WithParameter("x", "1"), client.WithParameter("y", "2")),
	} {
		if other == kept {
			t.Errorf("%s: it is the same Source", what)
		}
	}
	runtime.KeepAlive(kept)
}

// TestASourceThatNobodyHasIsForgotten: names that come and go fill no memory.
func TestASourceThatNobodyHasIsForgotten(t *testing.T) {
	b := clienttest.New(t)
	c := b.Client(t)
	gone := make(chan struct{}, 1)
	for i := range 1000 {
		if s := c.Source(fmt.Sprint("name-", i)); i == 0 {
			runtime.AddCleanup(s, func(chan struct{}) { gone <- struct{}{} }, gone)
		}
	}
	for until := time.Now().Add(time.Minute); ; {
		runtime.GC()
		select {
		case <-gone:
			return
		case <-time.After(10 * time.Millisecond):
			if time.Now().After(until) {
				t.Fatal("the Client holds a Source that nobody has")
			}
		}
	}
}

// TestAHitAllocatesNothing: what every request of a service pays.
func TestAHitAllocatesNothing(t *testing.T) {
	b := clienttest.New(t)
	b.Has("main", clienttest.Bearer("main", ""))
	s := b.Client(t).Source("main")
	mustToken(t, s)
	ctx := t.Context()
	if n := testing.AllocsPerRun(1000, func() { _, _ = s.Token(ctx) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkToken(b *testing.B) {
	broker := clienttest.New(b)
	broker.Has("main", clienttest.Bearer("main", ""))
	s := broker.Client(b).Source("main")
	ctx := b.Context()
	if _, err := s.Token(ctx); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := s.Token(ctx); err != nil {
				b.Error(err)
			}
		}
	})
}
