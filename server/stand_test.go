package server_test

import (
	"cmp"
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/seal"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// A stand is a server on loopback TCP over an upstream that is a stub and a store in memory, with the credential "main": what
// serving costs by itself.
type stand struct {
	t        testing.TB
	addr     string
	server   *server.Server
	upstream *oneToken
	broker   *engine.Broker
	metrics  *server.Metrics
	tokens   tokenbrokerv1.TokenBrokerServiceClient
	serving  sync.WaitGroup
	// beyond is what callers of other machines show; nil: there are none.
	beyond *proofs
}

func newStand(t testing.TB, more ...func(server.Settings) server.Settings) *stand {
	t.Helper()
	return newStandBy(t, broker.LocalOnly{}, broker.Unaudited{}, more...)
}

// newStandBy is one of which somebody else decides who may what, and keeps the audit log.
func newStandBy(t testing.TB, authorizer broker.Authorizer, auditor broker.Auditor, more ...func(server.Settings) server.Settings) *stand {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	keys, err := seal.New()
	must(err)
	st, err := store.New(storetest.NewMemory(), keys, store.Options{})
	must(err)
	s := &stand{t: t, metrics: server.NewMetrics(), upstream: &oneToken{facts: broker.Facts{Name: "stub", Digest: "1", Obtains: true, Requests: 1}}}
	log := slog.New(slog.NewJSONHandler(io.Discard, nil))
	s.broker, err = engine.New(engine.Settings{
		Upstream: s.upstream, Store: st, Authorizer: authorizer, Auditor: auditor, Render: server.Render, Log: log, Observer: s.metrics,
	})
	must(err)
	settings := server.Settings{Broker: s.broker, Providers: s.upstream, Authorizer: authorizer, Auditor: auditor, Log: log, Metrics: s.metrics}
	for _, f := range more {
		settings = f(settings)
	}
	srv, err := server.New(settings)
	must(err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	s.addr, s.server = l.Addr().String(), srv
	s.serving.Go(func() {
		if err := srv.Serve(l); err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient("passthrough:///"+s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	must(err)
	t.Cleanup(func() {
		_ = conn.Close()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := srv.Stop(ctx, 0); err != nil {
			t.Error(err)
		}
		s.serving.Wait()
	})
	s.tokens = tokenbrokerv1.NewTokenBrokerServiceClient(conn)
	_, err = tokenbrokerv1.NewCredentialServiceClient(conn).CreateCredential(t.Context(), &tokenbrokerv1.CreateCredentialRequest{
		Credential: &tokenbrokerv1.Credential{Name: "main", Provider: "stub"},
	})
	must(err)
	return s
}

// get asks for the credential's token.
func (s *stand) get() *tokenbrokerv1.GetTokenResponse {
	s.t.Helper()
	res, err := s.tokens.GetToken(s.t.Context(), &get{Credential: "main"})
	if err != nil {
		s.t.Fatal(err)
	}
	return res
}

type get = tokenbrokerv1.GetTokenRequest

// oneToken is an upstream whose every exchange brings a token of an hour and of a usual length. It shows no provider.
type oneToken struct {
	facts     broker.Facts
	exchanges atomic.Int64
	fail      atomic.Bool
	life      atomic.Int64 // a time.Duration; 0: an hour
}

func (u *oneToken) Definition(string) (broker.Definition, error)         { return u, nil }
func (u *oneToken) Revision() uint64                                     { return 0 }
func (u *oneToken) Facts() *broker.Facts                                 { return &u.facts }
func (u *oneToken) Host(broker.Credential, broker.Selection) string      { return "stub.example:443" }
func (u *oneToken) Check(broker.Credential, []string) []broker.Violation { return nil }
func (u *oneToken) Destinations(broker.Credential) []broker.Destination  { return nil }
func (u *oneToken) Select(_ broker.Credential, x broker.Selection) (broker.Selection, error) {
	return x, nil
}

func (u *oneToken) Exchange(context.Context, broker.Exchange) (broker.Answer, error) {
	u.exchanges.Add(1)
	if u.fail.Load() {
		return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Status: 503}
	}
	token, hour := broker.NewSecret("at."+strings.Repeat("x", 43)), cmp.Or(time.Duration(u.life.Load()), time.Hour)
	return broker.Answer{
		Values: map[string]broker.Secret{"token": token}, TokenType: "Bearer", Scopes: []string{"example.items.write"}, Expiry: broker.Expiry{SentAt: time.Now(), In: &hour},
		Attempts: []broker.Attempt{{Start: time.Now(), Host: "stub.example:443", Status: 200}},
	}, nil
}

func (u *oneToken) Present(_ broker.Credential, _ broker.Selection, i broker.Issued) (broker.Presentation, error) {
	v := i.Values["token"]
	return broker.Presentation{Headers: []broker.Field{{Name: "Authorization", Value: broker.NewSecret("Bearer " + v.Reveal())}}}, nil
}

func (u *oneToken) Providers() []server.Provider { return nil }
func (u *oneToken) Explain(string, map[string]string, broker.Selection) (requests, problems []string, err error) {
	return nil, nil, broker.NotFound
}
