package product

import (
	"context"
	"net/http"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// A token of a family, by its numbers in the simulator's ledger.
type grantToken struct{ family, token int }

// wantNewestPresented reads an account's ledger: what is presented is always the newest refresh token of its family that was
// delivered, and nothing is reused, revoked or lost. It returns how often any was presented.
func (r *rig) wantNewestPresented(a upstreamsim.Account) int {
	r.t.Helper()
	newest, presented := map[int]int{}, 0
	for _, e := range r.sim.Ledger(a.ID) {
		switch e.Kind {
		case upstreamsim.KindIssued:
			if e.Detail == "seed" {
				newest[e.Family] = e.Token // reached its owner by other ways
			}
		case upstreamsim.KindDelivered:
			newest[e.Family] = e.Token
		case upstreamsim.KindPresented:
			presented++
			if e.Token != newest[e.Family] {
				r.t.Errorf("%v: the newest that was delivered is %d", e, newest[e.Family])
			}
		case upstreamsim.KindReused, upstreamsim.KindRevoked, upstreamsim.KindLost:
			r.t.Error(e)
		default:
		}
	}
	return presented
}

// presented is how often each refresh token was.
func (r *rig) presented(a upstreamsim.Account) map[grantToken]int {
	n := map[grantToken]int{}
	for _, e := range r.sim.Ledger(a.ID) {
		if e.Kind == upstreamsim.KindPresented {
			n[grantToken{e.Family, e.Token}]++
		}
	}
	return n
}

func TestTwoHundredRefreshesUnderLoadPresentTheNewestToken(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.OchnoOperated)
	r.create("main", a)
	const rounds, callers = 100, 12
	sets := [][]string{{"hubs:read", "sub"}, {"sub", "accounts:read", "email"}}
	var current [2]string
	for i, scopes := range sets {
		current[i] = r.mustGet("main", scopes...).GetTokenId()
	}
	for range rounds {
		var wg sync.WaitGroup
		for i, scopes := range sets {
			// Tokens that are rejected one after the other are not replaced as fast.
			_, err := r.tokens.Invalidate(testContext(t), &tokenbrokerv1.InvalidateRequest{
				Credential: "main", Scopes: scopes, Target: &tokenbrokerv1.InvalidateRequest_All{All: true},
			})
			if err != nil {
				t.Fatal(err)
			}
			for caller := range callers {
				wg.Go(func() {
					ctx, cancel := context.WithCancel(testContext(t))
					defer cancel()
					if caller%3 == 0 {
						go cancel() // somewhere on the way
					}
					res, err := r.tokens.GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: "main", Scopes: scopes})
					if caller%3 == 0 && status.Code(err) == codes.Canceled {
						return
					}
					if err != nil || res.GetToken().GetTokenId() == current[i] {
						t.Errorf("got %q %v, want another token than %q", res.GetToken().GetTokenId(), err, current[i])
					}
				})
			}
		}
		wg.Wait()
		for i, scopes := range sets {
			next := r.mustGet("main", scopes...).GetTokenId()
			if next == current[i] {
				t.Fatalf("%v: the invalidated token came back", scopes)
			}
			current[i] = next
		}
	}
	if n := r.wantNewestPresented(a); n != 2*rounds {
		t.Errorf("got %d refreshes, want %d", n, 2*rounds)
	}
	families := map[int]bool{}
	for _, e := range r.sim.Ledger(a.ID) {
		families[e.Family] = true
	}
	if n := r.sim.Stats(a.ID).Total(); n != 2*rounds+2 || len(families) != 2 {
		t.Errorf("got %d requests and %d grants, want %d and one for each scope set", n, len(families), 2*rounds+2)
	}
	if bad := r.sim.Refusals(""); len(bad) > 0 {
		t.Errorf("the simulator refused %+v", bad)
	}
}

func TestAWatchIsGivenEachSuccessorInTime(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.RefreshToken)
	if err := r.sim.SetLifetime(a.ID, shortLife); err != nil {
		t.Fatal(err)
	}
	r.create("main", a)
	stream, err := r.tokens.WatchToken(testContext(t), &tokenbrokerv1.WatchTokenRequest{Credential: "main"})
	if err != nil {
		t.Fatal(err)
	}
	first, next := r.event(stream).GetToken(), r.event(stream).GetToken()
	if next.GetTokenId() == "" || next.GetTokenId() == first.GetTokenId() {
		t.Fatalf("got %v, want a successor", next.GetTokenId())
	}
	// The broker asked before the old one ended, so the new one ends less than a whole lifetime later.
	if gap := next.GetExpireTime().AsTime().Sub(first.GetExpireTime().AsTime()); gap >= shortLife {
		t.Errorf("the successor ends %v later, want less than a lifetime", gap)
	}
	if n := r.wantNewestPresented(a); n < 2 {
		t.Errorf("got %d refreshes, want 2", n)
	}
}

func TestWhereObtainCanDoWithoutAnUncertainRefreshTokenIsNeverPresentedAgain(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.OchnoOperated)
	r.create("main", a)
	bad := r.mustGet("main", a.Scopes...).GetTokenId()
	if _, err := r.sim.AddFault(upstreamsim.Fault{Kind: upstreamsim.FaultLost, After: true, Count: 1}); err != nil {
		t.Fatal(err)
	}
	req := &tokenbrokerv1.GetTokenRequest{Credential: "main", Scopes: a.Scopes, RejectedTokenId: bad}
	r.refused(testContext(t), req).want(t, codes.Unavailable, "UPSTREAM_UNAVAILABLE")
	tok := r.eventually(req).GetToken()
	if tok.GetTokenId() == bad || r.works(a, tok) != http.StatusOK {
		t.Errorf("got %s, want a new token that works", tok.GetTokenId())
	}
	// And so it goes on with the new grant.
	r.eventually(&tokenbrokerv1.GetTokenRequest{Credential: "main", Scopes: a.Scopes, RejectedTokenId: tok.GetTokenId()})
	got := r.presented(a)
	if got[grantToken{1, 1}] != 1 || got[grantToken{2, 1}] != 1 || len(got) != 2 {
		t.Errorf("got %v presented, want the first of each of two grants, once", got)
	}
}

func TestASeededUncertainRefreshTokenWaitsForTheExpiryOfTheOldAccessToken(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.RefreshToken)
	if err := r.sim.SetLifetime(a.ID, shortLife); err != nil {
		t.Fatal(err)
	}
	if err := r.sim.SetGrantPolicy(a.ID, upstreamsim.GrantPolicy{Grace: time.Minute}); err != nil {
		t.Fatal(err)
	}
	r.create("main", a)
	stream, err := r.tokens.WatchToken(testContext(t), &tokenbrokerv1.WatchTokenRequest{Credential: "main"})
	if err != nil {
		t.Fatal(err)
	}
	first := r.event(stream).GetToken()
	if _, err := r.sim.AddFault(upstreamsim.Fault{Kind: upstreamsim.FaultLost, After: true, Count: 1}); err != nil {
		t.Fatal(err)
	}
	if s := r.event(stream).GetState(); !s.GetDegraded() || s.GetReason() != "REFRESH_UNCERTAIN" {
		t.Fatalf("got %v, want a degraded state for an uncertain refresh", s)
	}
	second := (*tokenbrokerv1.Token)(nil)
	for second == nil {
		second = r.event(stream).GetToken()
	}
	if r.works(a, second) != http.StatusOK {
		t.Error("the second token does not work")
	}
	again := time.Time{}
	for _, e := range r.sim.Ledger(a.ID) {
		if e.Kind == upstreamsim.KindPresented && e.Token == 2 {
			again = e.Time // the last
		}
	}
	if n := r.presented(a)[grantToken{1, 2}]; n != 2 || again.Before(first.GetExpireTime().AsTime()) {
		t.Errorf("presented %d times, the last %v before the old access token's expiry; want 2, and after it", n, first.GetExpireTime().AsTime().Sub(again))
	}
}

func TestASeededRefreshTokenThatWasSpentUnseenNeedsAHuman(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.RefreshToken)
	r.create("main", a)
	req := &tokenbrokerv1.GetTokenRequest{Credential: "main", RejectedTokenId: r.mustGet("main").GetTokenId()}
	if _, err := r.sim.AddFault(upstreamsim.Fault{Kind: upstreamsim.FaultLost, After: true, Count: 1}); err != nil {
		t.Fatal(err)
	}
	uncertain := r.refused(testContext(t), req)
	uncertain.want(t, codes.Unavailable, "REFRESH_UNCERTAIN")
	timer := time.NewTimer(uncertain.retry.GetRetryDelay().AsDuration())
	<-timer.C
	for range 50 {
		r.refused(testContext(t), req).want(t, codes.FailedPrecondition, "REAUTHORIZATION_REQUIRED")
	}
	if n := r.presented(a)[grantToken{1, 2}]; n != 2 {
		t.Errorf("got it presented %d times, want once more than before and never again", n)
	}
	rep, err := r.credentials.GetCredentialStatus(testContext(t), &tokenbrokerv1.GetCredentialStatusRequest{Name: "main"})
	if err != nil || rep.GetState() != tokenbrokerv1.CredentialState_CREDENTIAL_STATE_REAUTHORIZATION_REQUIRED || rep.GetAdvice() == "" {
		t.Errorf("got %v %q %v, want a state that says to authorize again", rep.GetState(), rep.GetAdvice(), err)
	}
}

func TestAWrongPasswordCostsOneLoginAndLocksNobodyOut(t *testing.T) {
	for _, system := range []upstreamsim.System{upstreamsim.DocuWareCookie, upstreamsim.DocuWare} {
		t.Run(string(system), func(t *testing.T) {
			var mu sync.Mutex
			locked := 0
			r := newRig(t, rigOptions{sim: upstreamsim.Options{LockoutAfter: 2, OnEvent: func(e upstreamsim.Event) {
				if e.Kind == upstreamsim.KindLocked {
					mu.Lock()
					defer mu.Unlock()
					locked++
				}
			}}})
			a := r.account(system)
			wrong := a
			wrong.Secrets = map[string]string{"password": "not the password"}
			r.create("main", wrong)
			for range 2 {
				for _, err := range r.herd(100, func(ctx context.Context, c tokenbrokerv1.TokenBrokerServiceClient, _ int) error {
					_, err := c.GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: "main"})
					return err
				}) {
					wantStatus(t, err, codes.FailedPrecondition, "CREDENTIAL_MISCONFIGURED", false)
				}
			}
			if n := r.sim.Stats(a.ID).Refused[upstreamsim.ReasonCredential]; n != 1 {
				t.Errorf("got %d wrong logins, want 1", n)
			}
			if _, err := r.credentials.UpdateCredential(testContext(t), &tokenbrokerv1.UpdateCredentialRequest{
				Credential: &tokenbrokerv1.Credential{Name: "main"}, Secrets: a.Secrets,
			}); err != nil {
				t.Fatal(err)
			}
			if got := r.works(a, r.mustGet("main")); got != http.StatusOK {
				t.Errorf("the API answers %d, want 200", got)
			}
			mu.Lock()
			defer mu.Unlock()
			if locked != 0 {
				t.Error("the account was locked")
			}
		})
	}
}

func TestAfterARestartTheNewestRefreshTokenIsPresented(t *testing.T) {
	o := rigOptions{}
	r := newRig(t, o)
	accounts := map[string]upstreamsim.Account{"ochno": r.account(upstreamsim.OchnoOperated), "seeded": r.account(upstreamsim.RefreshToken)}
	ids := map[string]string{}
	for name, a := range accounts {
		r.create(name, a)
		ids[name] = r.mustGet(name, a.Scopes...).GetTokenId()
	}
	for range 3 {
		for name, a := range accounts {
			res, err := r.tokens.GetToken(testContext(t), &tokenbrokerv1.GetTokenRequest{Credential: name, Scopes: a.Scopes, RejectedTokenId: ids[name]})
			if err != nil || res.GetToken().GetTokenId() == ids[name] {
				t.Fatalf("%s: got %v %v, want another token", name, res.GetToken().GetTokenId(), err)
			}
			ids[name] = res.GetToken().GetTokenId()
		}
		r.stop()
		r.start(o)
		for name, a := range accounts {
			asked := r.sim.Stats(a.ID).Total()
			if got := r.mustGet(name, a.Scopes...).GetTokenId(); got != ids[name] || r.sim.Stats(a.ID).Total() != asked {
				t.Errorf("%s: got %s, want the token from before, and nothing asked", name, got)
			}
		}
	}
	for name, a := range accounts {
		if n := r.wantNewestPresented(a); n < 3 {
			t.Errorf("%s: got %d refreshes, want 3 at least", name, n)
		}
	}
}
