package engine_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// TestNoTokenEndsLaterForAClockThatIsSetBack: it is served for as long as it was given for.
func TestNoTokenEndsLaterForAClockThatIsSetBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, n := &sleeper{}, 0
		w := newEmbedded(t, s, &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
			n++
			a := token(fmt.Sprint("token-", n), time.Hour)
			a.Expiry.SentAt = s.now()
			return a, nil
		}})
		w.create("main", nil)
		first := w.mustGet("main").Token.ID
		sleep(30 * time.Minute)
		s.slept.Add(int64(-time.Hour))
		if w.mustGet("main").Token.ID != first {
			t.Error("a token that lives for another half an hour is not served")
		}
		for _, late := range []time.Duration{31 * time.Minute, 30 * time.Minute} {
			sleep(late)
			if again := w.mustGet("main").Token; again.ID == first {
				t.Errorf("served past its hour, until in %v", again.ExpireTime.Sub(s.now()))
			}
		}
	})
}

// TestAWaitIsNoLongerForAClockThatIsSetBack: neither for a failing upstream, nor for what a test has found.
func TestAWaitIsNoLongerForAClockThatIsSetBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sleeper{}
		w := newEmbedded(t, s, &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Status: 503}
		}})
		w.create("main", nil)
		trial, err := w.test("")
		wantFailed(t, trial, err)
		s.slept.Add(int64(-time.Hour))
		sleep(time.Minute)
		trial, err = w.test("")
		wantFailed(t, trial, err)
		w.wantExchanges(2)
		s.slept.Add(int64(-time.Hour))
		sleep(time.Minute)
		_, err = w.get("main")
		wantKind(t, err, broker.UpstreamUnavailable)
		w.wantExchanges(3)
	})
}

// TestAShareIsNoLargerForAClockThatGoesToAndFro: time that is set back does not pass twice.
func TestAShareIsNoLargerForAClockThatGoesToAndFro(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sleeper{}
		w := newEmbedded(t, s, &upstream{answer: issues(time.Hour)}, func(x *engine.Settings) { x.CallerRate = 5 })
		w.create("main", nil)
		given := 0
		for range 1000 {
			for _, by := range []time.Duration{-50 * time.Millisecond, 50 * time.Millisecond} { // less is no step, but how clocks are corrected
				s.slept.Add(int64(by))
				if _, err := w.Credential(t.Context(), local, "main"); err == nil {
					given++
				}
			}
		}
		if given > 50 {
			t.Errorf("got %d of a share of 50, and no time has passed", given)
		}
	})
}
