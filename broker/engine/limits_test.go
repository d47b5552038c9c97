package engine_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

func TestAnUpstreamIsAskedSoManyTimesAtOnceOnly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{}
		fresh := issues(time.Hour)
		up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			sleep(time.Second)
			return fresh(ctx, x)
		}
		w := newWorld(t, up)
		for i := range 100 {
			w.create(fmt.Sprintf("c-%d", i), nil)
		}
		for _, r := range together(100, func(i int) (string, error) { _, err := w.get(fmt.Sprintf("c-%d", i)); return "", err }) {
			if r.err != nil {
				t.Fatal(r.err)
			}
		}
		if most := up.atOnce(); most != 16 {
			t.Errorf("got %d exchanges at once, want 16", most)
		}
	})
}

func TestADeclaredRateIsKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour), facts: broker.Facts{RateRequests: 60, RatePeriod: time.Minute}}
		w := newWorld(t, up)
		for i := range 100 {
			w.create(fmt.Sprintf("c-%d", i), nil)
		}
		started := time.Now()
		for i := range 100 {
			go func() { _, _ = w.get(fmt.Sprintf("c-%d", i)) }()
		}
		sleep(59 * time.Second)
		if n := len(up.exchanges()); n > 60 || n < 55 {
			t.Errorf("got %d exchanges in the first minute, want up to 60", n)
		}
		sleep(time.Until(started.Add(10 * time.Minute)))
		synctest.Wait()
	})
}

func TestAFailingUpstreamIsLeftAloneAndThenTriedByOne(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
			sleep(100 * time.Millisecond)
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Status: 503}
		}}
		w := newWorld(t, up)
		for i := range 50 {
			w.create(fmt.Sprintf("c-%d", i), nil)
		}
		ask := func() {
			together(50, func(i int) (string, error) { _, err := w.get(fmt.Sprintf("c-%d", i)); return "", err })
		}
		_, err := w.get("c-0")
		f := wantKind(t, err, broker.UpstreamUnavailable)
		ask()
		w.wantExchanges(1)
		sleep(time.Until(f.RetryAt))
		ask()
		w.wantExchanges(2)
		// An hour of fifty callers that ask every ten seconds: a failing upstream is not hammered.
		for range 360 {
			ask()
			sleep(10 * time.Second)
		}
		if n := len(up.exchanges()); n > 30 {
			t.Errorf("got %d exchanges with an upstream that is down for an hour, want a few", n)
		}
	})
}

func TestTheBackoffSurvivesARestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelRateLimited, Status: 429, RetryAfter: 10 * time.Minute}
		}}
		w := newWorld(t, up)
		w.create("main", nil)
		_, err := w.get("main")
		f := wantKind(t, err, broker.UpstreamRateLimited)
		if d := time.Until(f.RetryAt); d < 10*time.Minute || d > 11*time.Minute {
			t.Errorf("got a retry in %v, want what the upstream asked for", d)
		}
		w.start()
		_, err = w.get("main")
		wantKind(t, err, broker.UpstreamRateLimited)
		w.wantExchanges(1)
	})
}

func TestADeadCredentialCostsAHandfulOfRequestsADayAndOneThatIsRepairedWorksAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: "invalid_client", InvalidClient: true}
		}}
		w := newWorld(t, up)
		w.create("main", map[string]string{"client_secret": "wrong"})
		for range 24 * 60 {
			_, err := w.get("main")
			wantKind(t, err, broker.CredentialMisconfigured)
			sleep(time.Minute)
		}
		if n := len(up.exchanges()); n < 3 || n > 10 {
			t.Errorf("got %d exchanges in a day, want a handful", n)
		}
		up.answer = issues(time.Hour)
		_, err := w.get("main")
		wantKind(t, err, broker.CredentialMisconfigured)
		w.update("main", func(d *engine.Draft) { d.Secrets = secretMap(map[string]string{"client_secret": "right"}) })
		w.mustGet("main")
	})
}

func TestARefusedScopeBelongsToItsKeyOnly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{}
		good := issues(time.Hour)
		up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			if x.Selection.Scopes.String() == "admin" {
				return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelScope, Status: 400, Code: "invalid_scope"}
			}
			return good(ctx, x)
		}
		w := newWorld(t, up)
		w.create("main", nil)
		for range 3 {
			_, err := w.get("main", scopes(t, "admin"))
			wantKind(t, err, broker.ScopeRefused)
		}
		w.mustGet("main", scopes(t, "read"))
		w.wantExchanges(2)
	})
}

func TestATestDisturbsNobodyAndKeepsARotatedRefreshToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRotating(time.Hour)
		w := seeded(t, r, broker.Facts{})
		served := w.mustGet("main")
		trial, err := w.TestCredential(context.Background(), local, "main", broker.Selection{}, false)
		if err != nil || trial.Failure != nil || len(trial.Attempts) != 1 || trial.ExpireTime.IsZero() {
			t.Fatalf("got %+v %v, want one attempt that went well", trial, err)
		}
		if got := w.mustGet("main"); got.Token.ID != served.Token.ID {
			t.Error("the test's token took the place of the served one")
		}
		trial, err = w.TestCredential(context.Background(), local, "main", broker.Selection{}, true)
		if err != nil || trial.Failure != nil {
			t.Fatalf("got %+v %v", trial, err)
		}
		if got := w.mustGet("main"); got.Token.ID == served.Token.ID {
			t.Error("the kept token is not served")
		}
		if r.reused > 0 {
			t.Error("a test lost a refresh token")
		}
		w.up.answer = func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: "invalid_client"}
		}
		trial, err = w.TestCredential(context.Background(), local, "main", broker.Selection{}, false)
		if err != nil || trial.Failure == nil || trial.Failure.Kind != broker.CredentialMisconfigured {
			t.Fatalf("got %+v %v, want a failure that is a result", trial, err)
		}
		w.mustGet("main")
	})
}

func TestATestAsksWhateverIsRememberedOfTheUpstream(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelRateLimited, Status: 429, RetryAfter: time.Hour}
		}}
		w := newWorld(t, up)
		w.create("main", nil)
		_, err := w.get("main")
		wantKind(t, err, broker.UpstreamRateLimited)
		up.answer = issues(time.Hour)
		trial, err := w.TestCredential(context.Background(), local, "main", broker.Selection{}, true)
		if err != nil || trial.Failure != nil {
			t.Fatalf("got %+v %v, want an exchange now", trial, err)
		}
		w.mustGet("main") // and what it found out helps everybody
	})
}

func TestACredentialWhoseTokenIsComputedHereIsReady(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour), silent: true}
		w := newWorld(t, up)
		w.create("main", nil)
		w.mustGet("main")
		if rep, err := w.CredentialStatus(context.Background(), local, "main"); err != nil || rep.State != engine.Ready {
			t.Errorf("got %v %v, want ready", rep.State, err)
		}
	})
}

// TestARateThatIsTakenOutIsNoLongerKept: also where the one that was declared is too small for what an exchange takes now.
func TestARateThatIsTakenOutIsNoLongerKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour), facts: broker.Facts{RateRequests: 2, RatePeriod: time.Hour}}
		w := newWorld(t, up)
		for _, name := range []string{"a", "b", "c"} {
			w.create(name, nil)
		}
		w.mustGet("a")
		up.facts.RateRequests, up.facts.RatePeriod, up.facts.Requests = 0, 0, 3
		up.revision.Add(1)
		w.mustGet("b")
		w.mustGet("c")
	})
}

// TestAnEndAtTheEndOfTime: a zone makes of the last moment that a Timestamp can say one that it cannot. The token is held like any other.
func TestAnEndAtTheEndOfTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		far := time.Date(9999, 12, 31, 23, 59, 59, 0, time.FixedZone("", -5*60*60))
		w := newWorld(t, &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{Values: map[string]broker.Secret{"token": broker.NewSecret("x")}, Expiry: broker.Expiry{At: far}}, nil
		}})
		w.create("main", nil)
		for range 10 {
			if end := w.mustGet("main").Token.ExpireTime; end.UTC().Year() > 9999 || time.Until(end) < 50*365*24*time.Hour {
				t.Errorf("got %v, want an end that is far away", end)
			}
			sleep(time.Hour)
		}
		w.wantExchanges(1)
	})
}

// TestHowACredentialIsDoingTakesOfTheShare, as every question to the store does; what a call that has taken its part brings takes no more.
func TestHowACredentialIsDoingTakesOfTheShare(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)}, func(s *engine.Settings) { s.CallerRate = 5 })
		w.create("main", nil)
		sleep(time.Minute)
		for range 50 {
			if _, err := w.CredentialStatus(t.Context(), local, "main"); err != nil {
				t.Fatal(err)
			}
		}
		_, err := w.CredentialStatus(t.Context(), local, "main")
		wantKind(t, err, broker.CallerLimited)
		if all, err := w.CredentialStatuses(t.Context(), local, []broker.CredentialName{"main"}); err != nil || all[0].Err != nil {
			t.Errorf("got %v", err)
		}
	})
}
