package server_test

import (
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server"
)

// TestNothingIsAnsweredBeforeItIsReady: but for health; and nothing that was asked before comes to anything.
func TestNothingIsAnsweredBeforeItIsReady(t *testing.T) {
	var away atomic.Bool
	s := newStand(t, func(o server.Settings) server.Settings {
		o.Ready = func() error {
			if away.Load() {
				return &broker.Failure{Kind: broker.StoreUnavailable}
			}
			return nil
		}
		return o
	})
	away.Store(true)
	conn, err := grpc.NewClient("passthrough:///"+s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, credentials, providers := t.Context(), tokenbrokerv1.NewCredentialServiceClient(conn), tokenbrokerv1.NewProviderServiceClient(conn)
	calls := map[string]func() error{
		"token": func() error { _, err := s.tokens.GetToken(ctx, &get{Credential: "main"}); return err },
		"create": func() error {
			_, err := credentials.CreateCredential(ctx, &tokenbrokerv1.CreateCredentialRequest{Credential: &tokenbrokerv1.Credential{Name: "early", Provider: "stub"}})
			return err
		},
		"list": func() error {
			_, err := credentials.ListCredentials(ctx, &tokenbrokerv1.ListCredentialsRequest{})
			return err
		},
		"providers": func() error {
			_, err := providers.ListProviders(ctx, &tokenbrokerv1.ListProvidersRequest{})
			return err
		},
		"watch": func() error {
			w, err := s.tokens.WatchToken(ctx, &tokenbrokerv1.WatchTokenRequest{Credential: "main"})
			if err != nil {
				return err
			}
			_, err = w.Recv()
			return err
		},
	}
	for name, call := range calls {
		if err := call(); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: got %v, want Unavailable", name, err)
		}
	}
	if _, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}); err != nil {
		t.Errorf("health: %v", err)
	}
	away.Store(false)
	if _, err := credentials.GetCredential(ctx, &tokenbrokerv1.GetCredentialRequest{Name: "early"}); status.Code(err) != codes.NotFound {
		t.Errorf("what was created before: got %v, want NotFound", err)
	}
	for name, call := range calls {
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
