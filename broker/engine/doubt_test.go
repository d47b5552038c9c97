package engine_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// failsFor is an upstream that fails for what some callers choose.
func failsFor(t *testing.T, fails func(scopes string) bool) *upstream {
	t.Helper()
	good := issues(time.Hour)
	return &upstream{answer: func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
		if fails(x.Selection.Scopes.String()) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Status: 500}
		}
		return good(ctx, x)
	}}
}

// TestWhatACallerChoseKeepsNobodyElseWaiting: an upstream that fails for what one caller chooses, however much that is, goes on being asked for the
// others, also for what they choose of other credentials, and for what is known to work of the same; and each choice is left alone as a failing upstream is.
func TestWhatACallerChoseKeepsNobodyElseWaiting(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, failsFor(t, func(s string) bool { return len(s) > 3 && s[:3] == "bad" }))
		w.create("main", nil)
		w.create("other", nil)
		w.mustGet("main")
		for i := range 100 {
			_, err := w.get("main", scopes(t, fmt.Sprintf("bad-%d", i)))
			f := wantKind(t, err, broker.UpstreamUnavailable)
			if f.UpstreamStatus != 500 || f.RetryAt.IsZero() {
				t.Errorf("got %+v, want when to ask again", f)
			}
			w.mustGet("other", scopes(t, fmt.Sprintf("good-%d", i)))
		}
		w.wantExchanges(1 + 3 + 100) // three are tried, and then it may be the upstream, as far as this credential's callers know
		w.mustGet("main", rejected(w.mustGet("main").Token.ID))
		w.create("third", nil)
		w.mustGet("third", scopes(t, "a"))
		w.wantExchanges(106)
		for range 3600 {
			_, err := w.get("main", scopes(t, "bad-1"))
			wantKind(t, err, broker.UpstreamUnavailable)
			sleep(time.Second)
		}
		if n := len(w.up.exchanges()) - 106; n > 30 {
			t.Errorf("got %d exchanges in an hour for what fails, want a few", n)
		}
	})
}

// TestWhatACallerChoseSaysNothingOfTheCredential: its state is that of what the others are given.
func TestWhatACallerChoseSaysNothingOfTheCredential(t *testing.T) {
	bubble(t, func(t *testing.T) {
		good := issues(time.Hour)
		w := newWorld(t, &upstream{answer: func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			if x.Selection.Scopes.Empty() {
				return good(ctx, x)
			}
			e := &broker.UpstreamError{Level: broker.LevelScope, Status: 400, Code: "invalid_scope"}
			e.Attempts = []broker.Attempt{{Start: time.Now(), Host: "a", Status: 400, Reason: e.Kind().Name()}}
			return broker.Answer{}, e
		}})
		w.create("main", nil)
		for _, want := range []engine.State{engine.Degraded, engine.Ready} { // before anything has worked, and after
			_, err := w.get("main", scopes(t, fmt.Sprint("bad-", want)))
			wantKind(t, err, broker.ScopeRefused)
			rep, err := w.CredentialStatus(t.Context(), local, "main")
			if err != nil || rep.State != want || (rep.Failure == nil) != (want == engine.Ready) {
				t.Errorf("got %v, %v, %v, want %v", rep.State, rep.Failure, err, want)
			}
			w.mustGet("main")
		}
	})
}

// TestWhatIsKnownToWorkFindsOutForTheUpstream: nobody knows yet whether an upstream is well of which only what callers chose has failed; who asks for
// what the operator has it ask for may try.
func TestWhatIsKnownToWorkFindsOutForTheUpstream(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, failsFor(t, func(s string) bool { return s != "" }))
		w.create("main", nil)
		for i := range 10 {
			_, err := w.get("main", scopes(t, fmt.Sprint("bad-", i)))
			wantKind(t, err, broker.UpstreamUnavailable)
		}
		w.wantExchanges(1) // it is left alone
		w.mustGet("main")
		w.start() // another process knows nothing of it
		_, err := w.get("main", scopes(t, "bad-11"))
		wantKind(t, err, broker.UpstreamUnavailable)
		w.create("other", nil)
		w.mustGet("other")
	})
}

// TestAnUpstreamThatIsDownIsLeftAloneWhateverIsChosen: what was known to work finds out that it is.
func TestAnUpstreamThatIsDownIsLeftAloneWhateverIsChosen(t *testing.T) {
	bubble(t, func(t *testing.T) {
		down := false
		w := newWorld(t, failsFor(t, func(string) bool { return down }))
		w.create("main", nil)
		held := w.mustGet("main", scopes(t, "a"))
		down = true
		_, err := w.get("main", scopes(t, "a"), rejected(held.Token.ID))
		wantKind(t, err, broker.UpstreamUnavailable)
		_, err = w.get("main", scopes(t, "b"))
		wantKind(t, err, broker.UpstreamUnavailable)
		_, err = w.get("main")
		wantKind(t, err, broker.UpstreamUnavailable)
		w.wantExchanges(2)
	})
}

// TestChoicesThatAreRefusedOneAfterTheOtherWait: but for those that are known to work, and for other credentials'. One that the upstream takes makes
// room for others again.
func TestChoicesThatAreRefusedOneAfterTheOtherWait(t *testing.T) {
	for how, refuse := range map[string]func() (broker.Answer, error){
		"refused": func() (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelScope, Status: 400, Code: "invalid_scope"}
		},
		"answered with nonsense": func() (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelResponse, Status: 200}
		},
		"answered with a token that has ended": func() (broker.Answer, error) { return token("t", 0), nil },
	} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				good := issues(time.Hour)
				w := newWorld(t, &upstream{answer: func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
					if s := x.Selection.Scopes.String(); len(s) > 3 && s[:3] == "bad" {
						return refuse()
					}
					return good(ctx, x)
				}})
				w.create("main", nil)
				w.create("other", nil)
				held := w.mustGet("main", scopes(t, "known"))
				var last error
				for i := range 100 {
					_, last = w.get("main", scopes(t, fmt.Sprint("bad-", i)))
				}
				f := wantKind(t, last, broker.UpstreamRateLimited)
				if f.Detail == "" || !f.RetryAt.After(time.Now()) {
					t.Errorf("got %+v, want why, and when to ask again", f)
				}
				w.wantExchanges(1 + 3)
				w.mustGet("main", scopes(t, "known"), rejected(held.Token.ID))
				w.mustGet("main")
				w.mustGet("other", scopes(t, "good"))
				began := time.Now()
				for i := range 3600 {
					_, _ = w.get("main", scopes(t, fmt.Sprint("bad-", 1000+i)))
					sleep(time.Second)
				}
				if n := len(w.up.exchanges()); n > 300 {
					t.Errorf("got %d exchanges within %v, want one in a while", n, time.Since(began))
				}
				sleep(20 * time.Second)
				w.mustGet("main", scopes(t, "good-1"))
				w.mustGet("main", scopes(t, "good-2"))
			})
		})
	}
}
