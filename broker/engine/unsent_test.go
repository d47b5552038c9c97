package engine_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// An unsending is an upstream whose definition makes no request of what a caller chose or, while it is unfit, of what is kept of a grant.
type unsending struct {
	*upstream
	down, unfit, chosen atomic.Bool
}

func newUnsending(t *testing.T, obtains bool) (*unsending, *world) {
	u := &unsending{upstream: &upstream{}}
	good := issues(10 * time.Minute)
	u.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
		if u.down.Load() {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Status: 503}
		}
		return good(ctx, x)
	}
	u.facts.Refreshes, u.facts.Obtains = true, obtains
	u.facts.Inputs = map[string]broker.InputFacts{"refresh_token": {Secret: true, Seed: true}}
	w := newWorld(t, u.upstream, func(s *engine.Settings) { s.Upstream = u })
	w.create("main", map[string]string{"refresh_token": "human's"})
	w.mustGet("main")
	return u, w
}

func (u *unsending) Definition(name string) (broker.Definition, error) {
	if _, err := u.upstream.Definition(name); err != nil {
		return nil, err
	}
	return u, nil
}

func (u *unsending) Exchange(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
	switch {
	case x.Run == broker.Refresh && u.unfit.Load():
		return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelGrant, Unsent: true, Detail: "what is kept was taken otherwise"}
	case u.chosen.Load() && !x.Selection.Scopes.Empty():
		return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelRequest, Unsent: true, Detail: "the request cannot be made"}
	}
	return u.upstream.Exchange(ctx, x)
}

// edit has another definition that cannot present what is kept, or the former one that can.
func (u *unsending) edit(unfit bool) {
	u.unfit.Store(unfit)
	u.facts.Digest = fmt.Sprint("unfit: ", unfit)
	u.revision.Add(1)
}

// TestWhatIsNotSentSaysNothingOfTheUpstream: it is down, and is left alone for as long as ever.
func TestWhatIsNotSentSaysNothingOfTheUpstream(t *testing.T) {
	for name, set := range map[string]func(*unsending){
		"all is sent":                             func(*unsending) {},
		"nothing of what a caller chose":          func(u *unsending) { u.chosen.Store(true) },
		"nothing of what is kept, but an obtain":  func(u *unsending) { u.unfit.Store(true) },
		"neither of them, whoever asks for which": func(u *unsending) { u.chosen.Store(true); u.unfit.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				u, w := newUnsending(t, true)
				w.create("other", map[string]string{"refresh_token": "another human's"})
				w.mustGet("other")
				u.down.Store(true)
				set(u)
				sleep(11 * time.Minute)
				before := len(u.exchanges())
				for i := range 1200 {
					if u.chosen.Load() {
						_, _ = w.get("main", scopes(t, fmt.Sprint("made-up-", i)))
					}
					_, _ = w.get("main")
					_, _ = w.get("other")
					sleep(3 * time.Second)
				}
				if n := len(u.exchanges()) - before; n > 30 {
					t.Errorf("an upstream that is down for an hour was asked %d times", n)
				}
			})
		})
	}
}

// TestWhatIsNotPresentedIsKept: a definition that cannot present a grant has nobody refuse it. The former one goes on with it.
func TestWhatIsNotPresentedIsKept(t *testing.T) {
	for _, obtains := range []bool{true, false} {
		t.Run(fmt.Sprintf("it obtains: %v", obtains), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				u, w := newUnsending(t, obtains)
				u.edit(true)
				if _, err := w.get("main"); (err == nil) != obtains {
					t.Errorf("by the new definition: %v", err)
				}
				if s, err := w.CredentialStatus(t.Context(), local, "main"); err != nil || s.State == engine.Reauthorize {
					t.Errorf("nobody has refused the refresh token, and status says %s, %v", s.Advice, err)
				}
				u.edit(false)
				sleep(11 * time.Minute)
				w.mustGet("main")
				if all := u.exchanges(); all[len(all)-1].Run != broker.Refresh {
					t.Error("the refresh token is gone, that nobody presented or refused")
				}
			})
		})
	}
}

// TestADefinitionWithoutARefreshDropsNoGrant: the next one may have it again.
func TestADefinitionWithoutARefreshDropsNoGrant(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u, w := newUnsending(t, true)
		u.facts.Refreshes = false
		u.edit(true)
		w.mustGet("main")
		u.facts.Refreshes = true
		u.edit(false)
		w.mustGet("main")
		if all := u.exchanges(); all[len(all)-1].Run != broker.Refresh {
			t.Error("the refresh token is gone, that nobody presented or refused")
		}
	})
}

// TestATestOfWhatIsNotSentLeavesNoFailure behind.
func TestATestOfWhatIsNotSentLeavesNoFailure(t *testing.T) {
	bubble(t, func(t *testing.T) {
		u, w := newUnsending(t, false)
		u.edit(true)
		if _, err := w.TestCredential(t.Context(), local, "main", broker.Selection{}, false); err == nil {
			t.Error("nothing was sent, and the test has succeeded")
		}
		u.unfit.Store(false) // what is kept fits by now
		w.mustGet("main")
	})
}

// TestARefreshTokenThatCameBeforeAFailureIsKept: the second request of a refresh fails, and what the first has spent is replaced.
func TestARefreshTokenThatCameBeforeAFailureIsKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var fails atomic.Bool
		current, n := "human's", 0
		good := issues(10 * time.Minute)
		up := &upstream{answer: func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			if got := x.RefreshToken.Reveal(); got != current {
				t.Errorf("presented %s, which is spent; %s is good", got, current)
			}
			n++
			current = fmt.Sprint("rotated-", n)
			if fails.Load() {
				return broker.Answer{RefreshToken: broker.NewSecret(current)}, &broker.UpstreamError{
					Level: broker.LevelUpstream, Status: 503, Lost: true, Attempts: []broker.Attempt{{Status: 200}, {Status: 503}},
				}
			}
			a, err := good(ctx, x)
			a.RefreshToken = broker.NewSecret(current)
			return a, err
		}}
		up.facts.Refreshes = true
		up.facts.Inputs = map[string]broker.InputFacts{"refresh_token": {Secret: true, Seed: true}}
		w := newWorld(t, up)
		w.create("main", map[string]string{"refresh_token": "human's"})
		fails.Store(true)
		_, err := w.get("main")
		wantKind(t, err, broker.UpstreamUnavailable)
		sleep(time.Minute)
		if _, err := w.get("main"); err == nil {
			t.Error("it has not failed again")
		}
		fails.Store(false)
		sleep(10 * time.Minute)
		w.mustGet("main")
	})
}

// TestWhatIsTooLateBehindARefreshTokenIsTriedAgain: a refresh has brought one, and had no time left for its next request. Nobody has failed, and the one that
// came is presented next.
func TestWhatIsTooLateBehindARefreshTokenIsTriedAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		good, n := issues(time.Hour), 0
		up := &upstream{answer: func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			if n++; n == 1 {
				return broker.Answer{RefreshToken: broker.NewSecret("rotated")}, &broker.UpstreamError{Refused: true, Lost: true}
			}
			if x.RefreshToken.Reveal() != "rotated" {
				t.Errorf("%q was presented", x.RefreshToken.Reveal())
			}
			return good(ctx, x)
		}}
		up.facts.Refreshes = true
		up.facts.Inputs = map[string]broker.InputFacts{"refresh_token": {Secret: true, Seed: true}}
		w := newWorld(t, up)
		w.create("main", map[string]string{"refresh_token": "human's"})
		if _, err := w.get("main"); err != nil {
			t.Errorf("got %v", err)
		}
		if r, err := w.CredentialStatus(t.Context(), local, "main"); err != nil || r.State != engine.Ready {
			t.Errorf("got %v, %v", r.State, err)
		}
	})
}
