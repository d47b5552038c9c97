package product

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	otel "go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	"github.com/tokenbroker/tokenbroker/broker/trace"
	"github.com/tokenbroker/tokenbroker/client"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// toTheSimulator finds every host at the simulator.
func (r *rig) toTheSimulator() *http.Transport {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.sim.CA())
	return &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, r.sim.Addr())
		},
	}
}

// service is a service with the Go client, and all that it needs to call an account's API.
func (r *rig) service(name string, a upstreamsim.Account, o ...client.SourceOption) (*client.Source, func() int) {
	r.t.Helper()
	c, err := client.New(r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	u, err := url.Parse(a.APIURL)
	if err != nil {
		r.t.Fatal(err)
	}
	s := c.Source(name, append(o, client.WithScopes(a.Scopes...), client.WithOrigin(u.Scheme+"://"+u.Host))...)
	base := r.toTheSimulator()
	r.t.Cleanup(base.CloseIdleConnections)
	api := &http.Client{Transport: &client.Transport{Source: s, Base: base}}
	return s, func() int {
		res, err := api.Get(a.APIURL)
		if err != nil {
			r.t.Error(err)
			return 0
		}
		defer res.Body.Close()
		_, _ = io.Copy(io.Discard, res.Body)
		return res.StatusCode
	}
}

// TestTheGoClientCallsEveryAPI: whatever its tokens look like, and also when the API refuses the one that all have: no request fails, and the upstream is asked once
// for the next.
func TestTheGoClientCallsEveryAPI(t *testing.T) {
	r := newRig(t, rigOptions{})
	for _, a := range r.sim.Accounts() {
		t.Run(string(a.System), func(t *testing.T) {
			name := string(a.System)
			r.create(name, a)
			_, call := r.service(name, a)
			var all sync.WaitGroup
			var failed atomic.Int64
			ask := func() {
				for range 50 {
					all.Go(func() {
						if call() != http.StatusOK {
							failed.Add(1)
						}
					})
				}
				all.Wait()
			}
			ask()
			before := r.sim.SystemStats(a.System).Total()
			if n, err := r.sim.RejectTokens(a.ID); err != nil || n == 0 {
				t.Fatalf("%d tokens end before their time: %v", n, err)
			}
			ask()
			if n := failed.Load(); n != 0 {
				t.Errorf("%d of 100 requests failed", n)
			}
			if n, most := r.sim.SystemStats(a.System).Total()-before, max(requestsOf[a.System], 1); n > most {
				t.Errorf("the upstream was asked %d times for the next token, want %d", n, most)
			}
		})
	}
}

// TestTheGoClientOutlivesABroker: while its token is good nobody notices that the broker is away, or has another address.
func TestTheGoClientOutlivesABroker(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.OfficeRnD)
	r.create("main", a)
	s, call := r.service("main", a, client.WithWatch())
	if call() != http.StatusOK {
		t.Fatal("the first request failed")
	}
	first, err := s.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.stop()
	for range 20 {
		if call() != http.StatusOK {
			t.Error("a request failed while the broker was away")
		}
	}
	r.start(rigOptions{})
	if token, err := s.Token(t.Context()); err != nil || token != first {
		t.Errorf("got %v, %v", token, err)
	}
}

// TestTheGoClientHearsOfAnInvalidation: a token that somebody else has invalidated is used no more, although its end is far away.
func TestTheGoClientHearsOfAnInvalidation(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.OfficeRnD)
	r.create("main", a)
	s, _ := r.service("main", a, client.WithWatch())
	token, err := s.Token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // of more, the broker lets its upstream have a rest
		r.invalidate("main", token.ID)
		was := token.ID
		for began := time.Now(); token.ID == was; {
			if time.Since(began) > 20*time.Second {
				t.Fatal("it goes on with what was invalidated")
			}
			if token, err = s.Token(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestAServiceAndItsBrokerAreOneTrace: OpenTelemetry's own handler, at the Go client's connection, has all that the broker does for a service be below what the service was doing.
func TestAServiceAndItsBrokerAreOneTrace(t *testing.T) {
	seen := tracetest.NewSpanRecorder()
	provider := sdk.NewTracerProvider(sdk.WithSpanProcessor(seen))
	r := newRig(t, rigOptions{tracer: trace.New(provider)})
	a, err := r.sim.Default(upstreamsim.OfficeRnD)
	if err != nil {
		t.Fatal(err)
	}
	r.create("main", a)
	c, err := client.New(r.addr, client.WithDialOptions(grpc.WithStatsHandler(otelgrpc.NewClientHandler(
		otelgrpc.WithTracerProvider(provider), otelgrpc.WithPropagators(propagation.TraceContext{})))))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	ctx, order := provider.Tracer("shop").Start(t.Context(), "order")
	if _, err := c.Source("main", client.WithScopes(a.Scopes...)).Token(ctx); err != nil {
		t.Fatal(err)
	}
	order.End()
	_ = c.Close()
	_ = r.server.Stop(t.Context(), 0)
	above := map[string][]string{} // of a step, by its id
	byID := map[otel.SpanID]sdk.ReadOnlySpan{}
	for _, s := range seen.Ended() {
		byID[s.SpanContext().SpanID()] = s
	}
	for _, s := range byID {
		var names []string
		for at := s; at != nil; at = byID[at.Parent().SpanID()] {
			names = append(names, at.Name())
		}
		above[s.Name()] = names
	}
	const call = "tokenbroker.v1.TokenBrokerService/GetToken"
	if diff := cmp.Diff([]string{"POST", "obtain", "flight", call, call, "order"}, above["POST"]); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
