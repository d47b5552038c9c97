package product

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

const (
	bySaid       = tokenbrokerv1.ExpirySource_EXPIRY_SOURCE_UPSTREAM
	byDefinition = tokenbrokerv1.ExpirySource_EXPIRY_SOURCE_DEFINITION
	byNobody     = tokenbrokerv1.ExpirySource_EXPIRY_SOURCE_ASSUMED
	trueLife     = time.Hour // of the simulator's tokens
)

// own are definitions that say what the built-in ones for these upstreams need not say.
var own = map[string]string{
	"officernd-ms": `
name: officernd-ms
inputs: {client_id: {}, client_secret: {secret: true}}
scopes: {join: " ", default: [officernd.api.read]}
obtain:
  oauth2: https://identity.officernd.com/oauth/token
  take: {expires_in: {path: expires_in, unit: ms}}
`,
	"officernd-at": `
name: officernd-at
inputs: {client_id: {}, client_secret: {secret: true}}
scopes: {join: " ", default: [officernd.api.read]}
obtain:
  oauth2: https://identity.officernd.com/oauth/token
  take: {expires_at: {path: expires_at, layout: rfc3339}}
`,
}

// assumed is how long a provider's tokens live when the answer does not tell. silent: it tells only when it is odd.
var assumed = map[upstreamsim.System]struct {
	life   time.Duration
	source tokenbrokerv1.ExpirySource
	silent bool
}{
	upstreamsim.OfficeRnD:         {time.Hour, byDefinition, false},
	upstreamsim.ClientCredentials: {55 * time.Minute, byDefinition, false},
	upstreamsim.OcctooDestination: {time.Hour, byDefinition, false},
	upstreamsim.OcctooIngest:      {time.Hour, byDefinition, true},
	upstreamsim.OchnoOperated:     {time.Hour, byDefinition, true},
	upstreamsim.SnovGet:           {10 * time.Minute, byNobody, false},
	upstreamsim.DocuWare:          {time.Hour, byDefinition, false},
}

// An oddityCase is what becomes of a token whose answer is odd.
type oddityCase struct {
	odd     upstreamsim.Fault
	skew    time.Duration // of the answer's clock, besides
	own     string        // the definition, where a built-in one would not do
	life    time.Duration // 0: what is assumed
	refused bool
}

var oddityCases = []oddityCase{
	{odd: upstreamsim.Fault{Kind: upstreamsim.OddExpiresMissing}},
	{odd: upstreamsim.Fault{Kind: upstreamsim.OddExpiresText}, life: trueLife},
	{odd: upstreamsim.Fault{Kind: upstreamsim.OddExpiresMilliseconds}, own: "officernd-ms", life: trueLife},
	{odd: upstreamsim.Fault{Kind: upstreamsim.OddExpiresFractional}, life: trueLife + 500*time.Millisecond},
	{odd: upstreamsim.Fault{Kind: upstreamsim.OddExpiresNegative}, refused: true},
	{odd: upstreamsim.Fault{Kind: upstreamsim.OddExpiresZero}, refused: true},
	{odd: upstreamsim.Fault{Kind: upstreamsim.OddExpiresHuge}, life: 100 * 365 * 24 * time.Hour},
	{odd: upstreamsim.Fault{Kind: upstreamsim.OddExpiresValue, Value: `"soon"`}},
	{odd: upstreamsim.Fault{Kind: upstreamsim.OddExpiresValue, Value: `null`}},
	{odd: upstreamsim.Fault{Kind: upstreamsim.OddExpiresValue, Value: `""`}},
	{odd: upstreamsim.Fault{Kind: upstreamsim.OddExpiresValue, Value: `true`}},
	{odd: upstreamsim.Fault{Kind: upstreamsim.OddExpiresValue, Value: `{"seconds": 60}`}},
	{odd: upstreamsim.Fault{Kind: upstreamsim.OddExpiresValue, Value: `[60]`}},
	{odd: upstreamsim.Fault{Kind: upstreamsim.OddExpiresValue, Value: `"1800"`}, life: 30 * time.Minute},
	{odd: upstreamsim.Fault{Kind: upstreamsim.OddExpiresValue, Value: `1.8e3`}, life: 30 * time.Minute},
	{odd: upstreamsim.Fault{Kind: upstreamsim.OddExpiresAt}, own: "officernd-at", life: trueLife},
	// A clock that is ahead is corrected by the answer's Date; one that is behind makes the token end earlier, never later.
	{odd: upstreamsim.Fault{Kind: upstreamsim.OddExpiresAt}, skew: 5 * time.Hour, own: "officernd-at", life: trueLife},
	{odd: upstreamsim.Fault{Kind: upstreamsim.OddExpiresAt}, skew: -30 * time.Minute, own: "officernd-at", life: trueLife - 30*time.Minute},
	{odd: upstreamsim.Fault{Kind: upstreamsim.OddExpiresAt}, skew: -5 * time.Hour, own: "officernd-at", refused: true},
	// What is relative counts from the sending, whatever the upstream's clock says.
	{odd: upstreamsim.Fault{Kind: upstreamsim.OddSkewedDate, Skew: 5 * time.Hour}, life: trueLife},
	{odd: upstreamsim.Fault{Kind: upstreamsim.OddSkewedDate, Skew: -5 * time.Hour}, life: trueLife},
	{odd: upstreamsim.Fault{Kind: upstreamsim.OddSameToken}, life: trueLife},
}

func TestAnOddAnswerGivesTheRightTokenAndExpiry(t *testing.T) {
	for _, c := range oddityCases {
		t.Run(string(c.odd.Kind)+" "+c.odd.Value+c.skew.String()+c.odd.Skew.String(), func(t *testing.T) {
			r := newRig(t, rigOptions{definitions: own})
			faults := []upstreamsim.Fault{c.odd}
			if c.skew != 0 {
				faults = append(faults, upstreamsim.Fault{Kind: upstreamsim.OddSkewedDate, Skew: c.skew})
			}
			for system, otherwise := range assumed {
				if c.own != "" && system != upstreamsim.OfficeRnD {
					continue
				}
				for _, f := range faults {
					f.System = system
					if _, err := r.sim.AddFault(f); err != nil {
						t.Fatal(err)
					}
				}
				a := r.account(system)
				known := a
				if c.own != "" {
					known.System = upstreamsim.System(c.own)
				}
				r.create(string(system), known)
				if c.refused {
					r.refused(testContext(t), &tokenbrokerv1.GetTokenRequest{Credential: string(system), Scopes: a.Scopes}).
						want(t, codes.Unavailable, "UPSTREAM_RESPONSE_INVALID")
					continue
				}
				want, source := c.life, bySaid
				asUsual := c.odd.Kind == upstreamsim.OddSameToken || c.odd.Kind == upstreamsim.OddSkewedDate
				if want == 0 || asUsual && otherwise.silent {
					want, source = otherwise.life, otherwise.source
				}
				before := time.Now()
				tok := r.mustGet(string(system), a.Scopes...)
				r.wantExpiry(tok, before, time.Now(), want, source)
				if got := r.works(a, tok); got != http.StatusOK {
					t.Errorf("%s: the API answers %d to the token, want 200", system, got)
				}
			}
			for _, bad := range r.sim.Refusals("") {
				t.Errorf("the simulator refused %+v", bad)
			}
		})
	}
}

// wantExpiry holds a token's times against a lifetime that began between two moments. Upstreams state whole seconds.
func (r *rig) wantExpiry(tok *tokenbrokerv1.Token, before, after time.Time, life time.Duration, source tokenbrokerv1.ExpirySource) {
	r.t.Helper()
	const rounding = 2 * time.Second
	expire, refresh := tok.GetExpireTime().AsTime(), tok.GetRefreshTime().AsTime()
	if expire.Before(before.Add(life-rounding)) || expire.After(after.Add(life+rounding)) || tok.GetExpirySource() != source {
		r.t.Errorf("got expiry in %v by %v, want in %v by %v", expire.Sub(before), tok.GetExpirySource(), life, source)
	}
	// A fifth of the lifetime at most, five minutes at most, and a quarter of that in jitter.
	margin := min(life/5, 5*time.Minute)
	if early := expire.Sub(refresh); early < margin-rounding || early > margin*5/4+rounding {
		r.t.Errorf("got a refresh %v before expiry, want %v and up to a quarter more", early, margin)
	}
}

func TestTheSameTokenAgainIsAskedForAtMostOncePerBackoff(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.OfficeRnD)
	r.create("main", a)
	if _, err := r.sim.AddFault(upstreamsim.Fault{Kind: upstreamsim.OddSameToken}); err != nil {
		t.Fatal(err)
	}
	first := r.mustGet("main")
	// The caller was refused with this token: the upstream is asked, and has no other.
	again := func() *tokenbrokerv1.Token {
		res, err := r.tokens.GetToken(testContext(t), &tokenbrokerv1.GetTokenRequest{Credential: "main", RejectedTokenId: first.GetTokenId()})
		if err != nil {
			t.Error(err)
		}
		return res.GetToken()
	}
	second := again()
	if second.GetTokenId() != first.GetTokenId() || second.GetExpireTime().AsTime().After(first.GetExpireTime().AsTime().Add(time.Second)) {
		t.Errorf("got %s until %v, want the same token with its true expiry %v", second.GetTokenId(), second.GetExpireTime().AsTime(), first.GetExpireTime().AsTime())
	}
	var wg sync.WaitGroup
	for range 200 {
		wg.Go(func() {
			if tok := again(); tok.GetTokenId() != first.GetTokenId() {
				t.Errorf("got %s, want the token that the upstream has", tok.GetTokenId())
			}
		})
	}
	wg.Wait()
	if n := r.sim.Stats(a.ID).Total(); n != 2 {
		t.Errorf("got %d requests, want 2: the first, and one that found no other token", n)
	}
}

func TestOfTwoCookiesOfOneNameTheLastThatIsNotEmptyCounts(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.DocuWareCookie)
	r.create("main", a)
	before := time.Now()
	tok := r.mustGet("main")
	r.wantExpiry(tok, before, time.Now(), 24*time.Hour, byDefinition)
	cookies := map[string]string{}
	for _, c := range tok.GetCookies() {
		cookies[c.GetName()] = c.GetValue()
	}
	if len(tok.GetCookies()) != 2 || cookies[".DWPLATFORMAUTH"] != tok.GetAccessToken() || cookies["DWPLATFORMBROWSERID"] == "" {
		t.Errorf("got %d cookies, want the session and the browser id", len(tok.GetCookies()))
	}
	if !r.sim.Valid(upstreamsim.DocuWareCookie, tok.GetAccessToken()) || r.works(a, tok) != http.StatusOK {
		t.Error("the session does not work")
	}
	var agent string
	for _, h := range tok.GetHeaders() {
		if h.GetName() == "User-Agent" {
			agent = h.GetValue()
		}
	}
	if agent == "" {
		t.Error("the User-Agent of the login is not handed out")
	}
}
