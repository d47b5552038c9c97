package engine_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestCredentialsTakeTurnsAtARate: of one there are three hundred wishes, and another waits for one turn.
func TestCredentialsTakeTurnsAtARate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour), facts: broker.Facts{RateRequests: 60, RatePeriod: time.Minute}})
		w.create("greedy", nil)
		w.create("other", nil)
		for i := range 300 {
			go func() { _, _ = w.get("greedy", scopes(t, fmt.Sprint("s-", i))) }()
		}
		synctest.Wait()
		for i := range 5 {
			began := time.Now()
			w.mustGet("other", scopes(t, fmt.Sprint("s-", i)))
			if d := time.Since(began); d > 4*time.Second {
				t.Errorf("it waited %v, want a turn or two of two seconds", d)
			}
		}
		sleep(2 * time.Minute)
		if n := len(w.up.exchanges()); n > 30+3*30 {
			t.Errorf("got %d exchanges, want no more than the rate allows", n)
		}
	})
}

// TestOneCredentialDoesNotTakeAllSlots: whatever is asked for of one is answered slowly, and another's exchange begins at once.
func TestOneCredentialDoesNotTakeAllSlots(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up, good := &upstream{}, issues(time.Hour)
		up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			if x.Credential.Name == "greedy" {
				sleep(15 * time.Second)
			}
			return good(ctx, x)
		}
		w := newWorld(t, up)
		w.create("greedy", nil)
		w.create("other", nil)
		for i := range 500 {
			go func() { _, _ = w.get("greedy", scopes(t, fmt.Sprint("s-", i))) }()
		}
		synctest.Wait()
		began := time.Now()
		w.mustGet("other")
		if d := time.Since(began); d > 0 {
			t.Errorf("it waited %v", d)
		}
		if most := up.atOnce(); most > 13 {
			t.Errorf("got %d exchanges at once, want 12 of one credential and one of another", most)
		}
		sleep(2 * time.Minute) // whoever is left is told
		synctest.Wait()
	})
}

// TestWhatIsKnownToWorkGoesFirst, before what the same credential's callers choose.
func TestWhatIsKnownToWorkGoesFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour), facts: broker.Facts{RateRequests: 60, RatePeriod: time.Minute}})
		w.create("main", nil)
		held := w.mustGet("main", scopes(t, "known"))
		for i := range 300 {
			go func() { _, _ = w.get("main", scopes(t, fmt.Sprint("s-", i))) }()
		}
		synctest.Wait()
		began := time.Now()
		w.mustGet("main", scopes(t, "known"), rejected(held.Token.ID))
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("it waited %v, want one turn", d)
		}
		sleep(2 * time.Minute)
		synctest.Wait()
	})
}

// TestATurnThatIsTooFarAwayIsRefusedAtOnce: nobody waits a minute in vain.
func TestATurnThatIsTooFarAwayIsRefusedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour), facts: broker.Facts{RateRequests: 2, RatePeriod: time.Hour}})
		for _, name := range []string{"a", "b"} {
			w.create(name, nil)
		}
		w.mustGet("a")
		began := time.Now()
		_, err := w.get("b")
		f := wantKind(t, err, broker.UpstreamRateLimited)
		if d := time.Since(began); d > 0 || time.Until(f.RetryAt) < time.Minute {
			t.Errorf("got %v after %v, want when its turn comes, at once", f.RetryAt, d)
		}
	})
}

// TestManyWaitForTheOneThatTries: and all are told when it has failed, or go when it went well.
func TestManyWaitForTheOneThatTries(t *testing.T) {
	for how, well := range map[string]bool{"it is down still": false, "it is well again": true} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				up := &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
					return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Status: 503}
				}}
				w := newWorld(t, up)
				for i := range 50 {
					w.create(fmt.Sprint("c-", i), nil)
				}
				_, err := w.get("c-0")
				f := wantKind(t, err, broker.UpstreamUnavailable)
				good := issues(time.Hour)
				up.script(func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
					sleep(time.Second)
					if well {
						return good(ctx, x)
					}
					return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Status: 503}
				})
				sleep(time.Until(f.RetryAt))
				for _, r := range together(50, func(i int) (string, error) { _, err := w.get(fmt.Sprint("c-", i)); return "", err }) {
					if (r.err == nil) != well {
						t.Errorf("got %v", r.err)
					}
				}
				want := 2
				if well {
					want = 51
				}
				w.wantExchanges(want)
			})
		})
	}
}
