package product

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/prototext"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// upstreamText is what the simulator's answers say in words of its own: none of it may pass through the broker.
var upstreamText = []string{
	"Too Many Requests", "Internal Server Error", "Bad Gateway", "DOCTYPE", "injected", "tru\x00", `\"access_token`, `"access_token"`,
	"AAAAAAAA", "/redirected/", "Retry-After",
}

func wantNoUpstreamText(t testing.TB, where, text string) {
	t.Helper()
	for _, s := range upstreamText {
		if strings.Contains(text, s) {
			t.Errorf("%s has the upstream's %q", where, s)
		}
	}
}

type faultCase struct {
	fault          upstreamsim.Fault
	code           codes.Code
	reason         string
	status, oauth  string        // upstream_status and upstream_error; empty: absent
	atLeast, below time.Duration // of RetryInfo
}

// timeout is of the exchange: what hangs ends by that. 0: the default.
func (c faultCase) timeout() time.Duration {
	if k := c.fault.Kind; k == upstreamsim.FaultHang || k == upstreamsim.FaultSlowBody {
		return 5 * time.Second
	}
	return 0
}

var faultCases = func() []faultCase {
	const down, odd, limited = "UPSTREAM_UNAVAILABLE", "UPSTREAM_RESPONSE_INVALID", "UPSTREAM_RATE_LIMITED"
	kind := func(k upstreamsim.FaultKind) upstreamsim.Fault { return upstreamsim.Fault{Kind: k} }
	// A first failure is left alone for a second and a quarter at most.
	first := func(f upstreamsim.Fault, reason, status, oauth string) faultCase {
		return faultCase{f, codes.Unavailable, reason, status, oauth, 0, 1251 * time.Millisecond}
	}
	lost, reset := kind(upstreamsim.FaultLost), kind(upstreamsim.FaultReset)
	lost.After, reset.After = true, true
	many := func(k upstreamsim.FaultKind, after time.Duration) upstreamsim.Fault {
		return upstreamsim.Fault{Kind: k, RetryAfter: after}
	}
	return []faultCase{
		first(kind(upstreamsim.FaultLost), down, "", ""),
		first(lost, down, "", ""),
		first(kind(upstreamsim.FaultReset), down, "", ""),
		first(reset, down, "", ""),
		first(kind(upstreamsim.FaultHang), down, "", ""),
		first(kind(upstreamsim.FaultSlowBody), down, "200", ""),
		{many(upstreamsim.FaultTooMany, 0), codes.ResourceExhausted, limited, "429", "", 15 * time.Second, 31 * time.Second},
		{many(upstreamsim.FaultTooMany, 90*time.Second), codes.ResourceExhausted, limited, "429", "", 60 * time.Second, 91 * time.Second},
		{many(upstreamsim.FaultTooMany, -1), codes.ResourceExhausted, limited, "429", "", 0, 1251 * time.Millisecond},
		{many(upstreamsim.FaultTooMany, 240*time.Hour), codes.ResourceExhausted, limited, "429", "", 55 * time.Minute, 61 * time.Minute},
		{many(upstreamsim.FaultTooManyDate, 0), codes.ResourceExhausted, limited, "429", "", 15 * time.Second, 31 * time.Second},
		{many(upstreamsim.FaultTooManyDate, 90*time.Second), codes.ResourceExhausted, limited, "429", "", 60 * time.Second, 91 * time.Second},
		first(kind(upstreamsim.FaultServerError), down, "500", ""),
		first(kind(upstreamsim.FaultBadGateway), down, "502", ""),
		first(kind(upstreamsim.FaultErrorIn200), down, "200", "server_error"),
		first(kind(upstreamsim.FaultEmpty), odd, "200", ""),
		first(kind(upstreamsim.FaultGarbage), odd, "200", ""),
		first(kind(upstreamsim.FaultHuge), odd, "200", ""),
		{kind(upstreamsim.FaultRedirect), codes.FailedPrecondition, "CREDENTIAL_MISCONFIGURED", "307", "", 0, 0},
		{upstreamsim.Fault{Kind: upstreamsim.FaultOAuthError, Code: "invalid_client"}, codes.FailedPrecondition, "CREDENTIAL_MISCONFIGURED", "401", "invalid_client", 0, 0},
		{upstreamsim.Fault{Kind: upstreamsim.FaultOAuthError, Code: "slow_down"}, codes.ResourceExhausted, limited, "400", "slow_down", 0, 1251 * time.Millisecond},
		first(upstreamsim.Fault{Kind: upstreamsim.FaultOAuthError, Code: "temporarily_unavailable"}, down, "400", "temporarily_unavailable"),
		{upstreamsim.Fault{Kind: upstreamsim.FaultOAuthError, Code: "vendor.specific-code"}, codes.FailedPrecondition, "CREDENTIAL_MISCONFIGURED", "400", "", 0, 0},
		{upstreamsim.Fault{Kind: upstreamsim.FaultOAuthError, Code: "no code, but text"}, codes.FailedPrecondition, "CREDENTIAL_MISCONFIGURED", "400", "", 0, 0},
	}
}()

func TestEveryFaultHasItsCodeReasonAndRetry(t *testing.T) {
	for _, c := range faultCases {
		name := string(c.fault.Kind)
		if c.fault.After {
			name += " after it took effect"
		}
		t.Run(name+" "+c.fault.Code+c.fault.RetryAfter.String(), func(t *testing.T) {
			t.Parallel()
			r := newRig(t, rigOptions{timeout: c.timeout()})
			a := r.account(upstreamsim.OfficeRnD)
			r.create("main", a)
			c.fault.System = upstreamsim.OfficeRnD
			if _, err := r.sim.AddFault(c.fault); err != nil {
				t.Fatal(err)
			}
			got := r.refused(testContext(t), &tokenbrokerv1.GetTokenRequest{Credential: "main"})
			got.want(t, c.code, c.reason)
			wait := got.retry.GetRetryDelay().AsDuration()
			if wait < c.atLeast || c.below > 0 && wait >= c.below {
				t.Errorf("got RetryInfo %v, want from %v to below %v", wait, c.atLeast, c.below)
			}
			m := got.info.GetMetadata()
			if m["credential"] != "main" || m["provider"] != "officernd" || m["upstream_status"] != c.status || m["upstream_error"] != c.oauth {
				t.Errorf("got metadata %v, want upstream_status %q and upstream_error %q", m, c.status, c.oauth)
			}
			s := r.sim.Stats(a.ID)
			if s.Total() != 1 || s.Faults[c.fault.Kind] != 1 || s.RedirectsFollowed != 0 {
				t.Errorf("got %+v, want one request that met the fault, and no redirect followed", s)
			}
			r.wantNoUpstreamTextAnywhere(got)
			r.sim.ClearFaults()
			if c.status == "" { // the connection was hurt
				r.eventually(&tokenbrokerv1.GetTokenRequest{Credential: "main"})
			}
		})
	}
}

// wantNoUpstreamTextAnywhere looks in what a client is told, in what the broker remembers, and in its log.
func (r *rig) wantNoUpstreamTextAnywhere(got refusal) {
	r.t.Helper()
	rep, err := r.credentials.GetCredentialStatus(testContext(r.t), &tokenbrokerv1.GetCredentialStatusRequest{Name: "main"})
	if err != nil || len(rep.GetAttempts()) == 0 {
		r.t.Fatalf("got %v %v, want a status with the failed exchange", rep, err)
	}
	wantNoUpstreamText(r.t, "the error", got.text)
	wantNoUpstreamText(r.t, "the status", prototext.Format(rep))
	if log := r.log.Bytes(); !bytes.Contains(log, []byte("call refused")) {
		r.t.Error("the log does not have the refusal")
	} else {
		wantNoUpstreamText(r.t, "the log", string(log))
	}
}

func TestTheTablesOfFaultsAndOdditiesAreComplete(t *testing.T) {
	for _, k := range upstreamsim.FaultKinds() {
		fault := slices.ContainsFunc(faultCases, func(c faultCase) bool { return c.fault.Kind == k })
		odd := slices.ContainsFunc(oddityCases, func(c oddityCase) bool { return c.odd.Kind == k })
		if !fault && !odd {
			t.Errorf("%s is tested nowhere", k)
		}
	}
}

func TestACallerThatIsOutOfTimeIsToldThatTheUpstreamIsSlow(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.OfficeRnD)
	r.create("main", a)
	gate := r.sim.Hold(upstreamsim.OfficeRnD)
	ctx, cancel := context.WithTimeout(testContext(t), 500*time.Millisecond)
	defer cancel()
	got := r.refused(ctx, &tokenbrokerv1.GetTokenRequest{Credential: "main"})
	if got.info == nil && got.code == codes.DeadlineExceeded {
		t.Log("the client's own clock was ahead of the answer")
	} else {
		got.want(t, codes.DeadlineExceeded, "UPSTREAM_SLOW")
	}
	gate.Release()
	r.mustGet("main")
	if n := r.sim.Stats(a.ID).Total(); n != 1 {
		t.Errorf("got %d requests, want one: the exchange goes on", n)
	}
}

func TestAnUpstreamThatIsUpAgainWorksWithoutAnybodysHelp(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.OfficeRnD)
	r.create("main", a)
	r.sim.Down(upstreamsim.OfficeRnD)
	got := r.refused(testContext(t), &tokenbrokerv1.GetTokenRequest{Credential: "main"})
	got.want(t, codes.Unavailable, "UPSTREAM_UNAVAILABLE")
	r.sim.Up(upstreamsim.OfficeRnD)
	res := r.eventually(&tokenbrokerv1.GetTokenRequest{Credential: "main"})
	if res.GetDegraded() || r.works(a, res.GetToken()) != 200 {
		t.Errorf("got degraded %v, want a token that works", res.GetDegraded())
	}
}

func TestAFailingUpstreamDoesNotDisturbAnother(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.create("main", r.account(upstreamsim.OfficeRnD))
	r.create("other", r.account(upstreamsim.Snov))
	r.sim.Down(upstreamsim.OfficeRnD)
	r.refused(testContext(t), &tokenbrokerv1.GetTokenRequest{Credential: "main"}).want(t, codes.Unavailable, "UPSTREAM_UNAVAILABLE")
	r.mustGet("other")
}

func TestWhileATokenIsValidAFailingUpstreamIsNotTheCallersProblem(t *testing.T) {
	t.Parallel()
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.OfficeRnD)
	r.create("main", a)
	if err := r.sim.SetLifetime(a.ID, shortLife); err != nil {
		t.Fatal(err)
	}
	stream, err := r.tokens.WatchToken(testContext(t), &tokenbrokerv1.WatchTokenRequest{Credential: "main"})
	if err != nil {
		t.Fatal(err)
	}
	first := r.event(stream).GetToken()
	if _, err := r.sim.AddFault(upstreamsim.Fault{Kind: upstreamsim.FaultBadGateway}); err != nil {
		t.Fatal(err)
	}
	if s := r.event(stream).GetState(); !s.GetDegraded() || s.GetReason() != "UPSTREAM_UNAVAILABLE" || s.GetRetryTime() == nil {
		t.Fatalf("got %v, want a degraded state with reason and time", s)
	}
	res, err := r.tokens.GetToken(testContext(t), &tokenbrokerv1.GetTokenRequest{Credential: "main"})
	if err != nil || !res.GetDegraded() || res.GetToken().GetTokenId() != first.GetTokenId() {
		t.Errorf("got %v, degraded %v, %v; want the token that is valid, degraded", res.GetToken().GetTokenId(), res.GetDegraded(), err)
	}
	if time.Now().Before(first.GetRefreshTime().AsTime()) {
		t.Error("degraded before its refresh time")
	}
	// Past its expiry nobody gets it.
	for e := r.event(stream); ; e = r.event(stream) {
		if s := e.GetState(); s != nil && !s.GetDegraded() && s.GetReason() != "" {
			break
		}
	}
	if time.Now().Before(first.GetExpireTime().AsTime()) {
		t.Error("a valid token was withheld")
	}
	r.refused(testContext(t), &tokenbrokerv1.GetTokenRequest{Credential: "main"}).want(t, codes.Unavailable, "UPSTREAM_UNAVAILABLE")
}

func TestAnErrorCodeMeansWhatItsPlaceSays(t *testing.T) {
	const misconfigured = "CREDENTIAL_MISCONFIGURED"
	obtain := map[string]string{
		"invalid_client": misconfigured, "unauthorized_client": misconfigured, "unsupported_grant_type": misconfigured,
		"access_denied": misconfigured, "invalid_grant": misconfigured, "invalid_scope": "SCOPE_REFUSED", "invalid_target": "TARGET_REFUSED",
	}
	refresh := map[string]string{
		"invalid_client": misconfigured, "invalid_grant": "REAUTHORIZATION_REQUIRED", "invalid_request": misconfigured,
	}
	for system, reasons := range map[upstreamsim.System]map[string]string{upstreamsim.ClientCredentials: obtain, upstreamsim.RefreshToken: refresh} {
		for code, reason := range reasons {
			t.Run(string(system)+" "+code, func(t *testing.T) {
				r := newRig(t, rigOptions{})
				a := r.account(system)
				r.create("main", a)
				if _, err := r.sim.AddFault(upstreamsim.Fault{Kind: upstreamsim.FaultOAuthError, Code: code, Count: 1}); err != nil {
					t.Fatal(err)
				}
				want := codes.FailedPrecondition
				if reason == "SCOPE_REFUSED" || reason == "TARGET_REFUSED" {
					want = codes.InvalidArgument
				}
				for range 100 { // it is remembered: the upstream is not asked again
					got := r.refused(testContext(t), &tokenbrokerv1.GetTokenRequest{Credential: "main", Scopes: a.Scopes})
					got.want(t, want, reason)
					if got.info.GetMetadata()["upstream_error"] != code {
						t.Fatalf("got upstream_error %q, want %s", got.info.GetMetadata()["upstream_error"], code)
					}
				}
				if n := r.sim.Stats(a.ID).Total(); n != 1 {
					t.Errorf("got %d requests, want 1", n)
				}
				// What the caller chose is refused for that choice alone; what the credential is refused for, for all.
				if want == codes.InvalidArgument {
					r.mustGet("main", "items:read")
				} else if system == upstreamsim.ClientCredentials {
					r.refused(testContext(t), &tokenbrokerv1.GetTokenRequest{Credential: "main", Scopes: []string{"items:read"}}).want(t, want, reason)
				}
			})
		}
	}
}

func TestWhatIsRepairedWorksAtOnce(t *testing.T) {
	r := newRig(t, rigOptions{})
	for _, c := range []struct {
		system upstreamsim.System
		reason string
		spoil  func(upstreamsim.AccountID) (upstreamsim.Account, error)
	}{
		{upstreamsim.OfficeRnD, "CREDENTIAL_MISCONFIGURED", r.sim.ChangeSecret},
		{upstreamsim.RefreshToken, "REAUTHORIZATION_REQUIRED", func(id upstreamsim.AccountID) (upstreamsim.Account, error) {
			if _, err := r.sim.RevokeGrants(id); err != nil {
				return upstreamsim.Account{}, err
			}
			return r.sim.Reseed(id)
		}},
	} {
		name := string(c.system)
		a := r.account(c.system)
		r.create(name, a)
		a, err := c.spoil(a.ID)
		if err != nil {
			t.Fatal(err)
		}
		r.refused(testContext(t), &tokenbrokerv1.GetTokenRequest{Credential: name}).want(t, codes.FailedPrecondition, c.reason)
		if _, err := r.credentials.UpdateCredential(testContext(t), &tokenbrokerv1.UpdateCredentialRequest{
			Credential: &tokenbrokerv1.Credential{Name: name}, Secrets: a.Secrets,
		}); err != nil {
			t.Fatal(err)
		}
		if got := r.works(a, r.mustGet(name)); got != 200 {
			t.Errorf("%s: the API answers %d, want 200", name, got)
		}
	}
}

// event receives the next one of a watch.
func (r *rig) event(stream interface {
	Recv() (*tokenbrokerv1.WatchTokenResponse, error)
}) *tokenbrokerv1.WatchTokenResponse {
	r.t.Helper()
	e, err := stream.Recv()
	if err != nil {
		r.t.Fatal(err)
	}
	return e
}
