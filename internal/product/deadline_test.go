package product

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/seal"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// silent is an upstream that never answers.
type silent struct{ facts broker.Facts }

func (s *silent) Definition(string) (broker.Definition, error)         { return s, nil }
func (s *silent) Revision() uint64                                     { return 0 }
func (s *silent) Facts() *broker.Facts                                 { return &s.facts }
func (s *silent) Host(broker.Credential, broker.Selection) string      { return "silent.example:443" }
func (s *silent) Check(broker.Credential, []string) []broker.Violation { return nil }
func (s *silent) Destinations(broker.Credential) []broker.Destination  { return nil }
func (s *silent) Select(_ broker.Credential, x broker.Selection) (broker.Selection, error) {
	return x, nil
}
func (s *silent) Present(broker.Credential, broker.Selection, broker.Issued) (p broker.Presentation, err error) {
	return p, nil
}

func (s *silent) Exchange(ctx context.Context, _ broker.Exchange) (broker.Answer, error) {
	<-ctx.Done()
	return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream}
}

// noProviders has none.
type noProviders struct{}

func (noProviders) Providers() []server.Provider { return nil }
func (noProviders) Explain(string, map[string]string, broker.Selection) (requests, problems []string, err error) {
	return nil, nil, broker.NotFound
}

func TestEveryCallHasADeadlineAndIsAnsweredBeforeIt(t *testing.T) {
	for _, c := range []struct{ bring, answered time.Duration }{
		{0, server.DefaultDeadline},
		{time.Second, 900 * time.Millisecond},
		{100 * time.Millisecond, 90 * time.Millisecond},
		{time.Minute, time.Minute - 100*time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			keys, err := seal.New()
			if err != nil {
				t.Fatal(err)
			}
			st, err := store.New(storetest.NewMemory(), keys, store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			b, err := engine.New(engine.Settings{
				Upstream: &silent{broker.Facts{Name: "silent", Digest: "1", Obtains: true, Requests: 1}}, Store: st,
				Authorizer: broker.LocalOnly{}, Render: server.Render, ExchangeTimeout: time.Hour,
			})
			if err != nil {
				t.Fatal(err)
			}
			srv, err := server.New(server.Settings{Broker: b, Providers: noProviders{}, Authorizer: broker.LocalOnly{}})
			if err != nil {
				t.Fatal(err)
			}
			l := bufconn.Listen(1 << 16)
			served := make(chan error, 1)
			go func() { served <- srv.Serve(l) }()
			conn, err := grpc.NewClient("passthrough:///bufconn", grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
			if err != nil {
				t.Fatal(err)
			}
			ctx := context.Background()
			if _, err := tokenbrokerv1.NewCredentialServiceClient(conn).CreateCredential(ctx, &create{Credential: &cred{Name: "main", Provider: "silent"}}); err != nil {
				t.Fatal(err)
			}
			if c.bring > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, c.bring)
				defer cancel()
			}
			began := time.Now() // in a bubble time passes only when nothing else is to be done
			var trailer metadata.MD
			_, err = tokenbrokerv1.NewTokenBrokerServiceClient(conn).GetToken(ctx, &get{Credential: "main"}, grpc.Trailer(&trailer))
			refusalOf(err, trailer).want(t, codes.DeadlineExceeded, "UPSTREAM_SLOW")
			if took := time.Since(began); took < c.answered-time.Millisecond || took > c.answered+time.Millisecond {
				t.Errorf("a call that brings %v was answered after %v, want %v", c.bring, took, c.answered)
			}
			_ = conn.Close()
			stopping, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = srv.Stop(stopping, 0)
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}
