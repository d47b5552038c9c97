package product

import (
	"context"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

type watch = grpc.ServerStreamingClient[tokenbrokerv1.WatchTokenResponse]

func (r *rig) watch(ctx context.Context, req *tokenbrokerv1.WatchTokenRequest) watch {
	r.t.Helper()
	s, err := r.tokens.WatchToken(ctx, req)
	if err != nil {
		r.t.Fatal(err)
	}
	return s
}

// ended is why a watch ended; events before that are passed over.
func (r *rig) ended(s watch) refusal {
	r.t.Helper()
	for {
		if _, err := s.Recv(); err != nil {
			return refusalOf(err, s.Trailer())
		}
	}
}

func (r *rig) invalidate(name, id string) {
	r.t.Helper()
	do(r.t, r.tokens.Invalidate, &tokenbrokerv1.InvalidateRequest{Credential: name, Target: &tokenbrokerv1.InvalidateRequest_TokenId{TokenId: id}})
}

func TestAWatchTellsTheTokenItsInvalidationAndItsSuccessor(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.OfficeRnD)
	r.create("main", a)
	s := r.watch(testContext(t), &tokenbrokerv1.WatchTokenRequest{Credential: "main"})
	first := r.event(s).GetToken()
	if got := r.works(a, first); got != 200 {
		t.Errorf("the API answers %d to the watched token, want 200", got)
	}
	// A second watcher that holds it already is not sent it again: the next that it hears is of its end.
	again := r.watch(testContext(t), &tokenbrokerv1.WatchTokenRequest{Credential: "main", KnownTokenId: first.GetTokenId()})
	stale := r.watch(testContext(t), &tokenbrokerv1.WatchTokenRequest{Credential: "main", KnownTokenId: "some other"})
	for e := r.event(stale); e.GetToken().GetTokenId() != first.GetTokenId(); e = r.event(stale) {
		if e.GetInvalidatedTokenId() != "some other" {
			t.Fatalf("got %v, want the end of what it held, or the current token", e)
		}
	}
	r.invalidate("main", first.GetTokenId())
	for _, w := range []watch{s, again} {
		var successor *tokenbrokerv1.Token
		for successor == nil {
			e := r.event(w)
			if id := e.GetInvalidatedTokenId(); id != "" && id != first.GetTokenId() {
				t.Errorf("got the end of %q, want of %q", id, first.GetTokenId())
			}
			successor = e.GetToken()
		}
		if successor.GetTokenId() == first.GetTokenId() || successor.GetTokenId() != r.mustGet("main").GetTokenId() {
			t.Errorf("got %s, want the successor that everybody has", successor.GetTokenId())
		}
	}
	if n := r.sim.Stats(a.ID).Total(); n != 2 {
		t.Errorf("got %d requests for three watchers, want 2", n)
	}
}

func TestAWatcherLearnsOfAnInvalidationBeforeTheSuccessorIsThere(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.OfficeRnD)
	r.create("main", a)
	s := r.watch(testContext(t), &tokenbrokerv1.WatchTokenRequest{Credential: "main"})
	first := r.event(s).GetToken()
	gate := r.sim.Hold(upstreamsim.OfficeRnD)
	r.invalidate("main", first.GetTokenId())
	if got := r.event(s).GetInvalidatedTokenId(); got != first.GetTokenId() {
		t.Errorf("got %q, want the end of %q while the upstream is asked", got, first.GetTokenId())
	}
	gate.Release()
	if got := r.event(s).GetToken().GetTokenId(); got == "" || got == first.GetTokenId() {
		t.Errorf("got %q, want a successor", got)
	}
}

func TestAWatchEndsAsGetTokenWouldFail(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.OfficeRnD)
	for name, c := range map[string]struct {
		end    func(name string)
		code   codes.Code
		reason string
	}{
		"deleted": {func(name string) {
			do(t, r.credentials.DeleteCredential, &tokenbrokerv1.DeleteCredentialRequest{Name: name})
		}, codes.NotFound, "NOT_FOUND"},
		"disabled": {func(name string) {
			do(t, r.credentials.UpdateCredential, &update{Credential: &cred{Name: name, Disabled: true}})
		}, codes.FailedPrecondition, "CREDENTIAL_DISABLED"},
		"misconfigured": {func(name string) {
			do(t, r.credentials.UpdateCredential, &update{Credential: &cred{Name: name}, Secrets: map[string]string{"client_secret": "wrong secret"}})
		}, codes.FailedPrecondition, "CREDENTIAL_MISCONFIGURED"},
	} {
		t.Run(name, func(t *testing.T) {
			r.create(name, a)
			s := r.watch(testContext(t), &tokenbrokerv1.WatchTokenRequest{Credential: name})
			if r.event(s).GetToken() == nil {
				t.Fatal("got no token first")
			}
			c.end(name)
			r.ended(s).want(t, c.code, c.reason)
		})
	}
	none := r.watch(testContext(t), &tokenbrokerv1.WatchTokenRequest{Credential: "nobody"})
	r.ended(none).want(t, codes.NotFound, "NOT_FOUND")
}

func TestAWatchEndsWithItsCaller(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.create("main", r.account(upstreamsim.OfficeRnD))
	ctx, cancel := context.WithCancel(testContext(t))
	s := r.watch(ctx, &tokenbrokerv1.WatchTokenRequest{Credential: "main"})
	r.event(s)
	cancel()
	if got := r.ended(s).code; got != codes.Canceled {
		t.Errorf("got %v, want Canceled", got)
	}
}

func TestAWatchOfABrokerThatStopsSaysSo(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.create("main", r.account(upstreamsim.OfficeRnD))
	s := r.watch(testContext(t), &tokenbrokerv1.WatchTokenRequest{Credential: "main"})
	r.event(s)
	if err := r.server.Stop(testContext(t), 0); err != nil {
		t.Fatal(err)
	}
	r.ended(s).want(t, codes.Unavailable, "SHUTTING_DOWN")
}
