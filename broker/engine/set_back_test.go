package engine_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// hands are clocks that a test sets.
type hands struct {
	mu   sync.Mutex
	wall time.Time
	mono time.Duration
}

func (h *hands) read() (time.Time, time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.wall, h.mono
}

// pass lets time pass, and set sets the wall clock.
func (h *hands) pass(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wall, h.mono = h.wall.Add(d), h.mono+d
}

func (h *hands) set(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wall = h.wall.Add(d)
}

// onHands is a world with a store of its own, and such clocks.
func onHands(t *testing.T, up *upstream, more ...func(*engine.Settings)) (*world, *hands) {
	t.Helper()
	up.complete()
	h := &hands{wall: time.Now()}
	clock := broker.NewClock(h.read)
	s, err := store.New(storetest.NewMemory(), newKeys(t), store.Options{Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, up: up, store: s}
	w.start(append(more, func(s *engine.Settings) { s.Clock = clock })...)
	return w, h
}

// TestNoTokenEndsLaterForAClockThatIsSetBack: it is served for as long as it was given for.
func TestNoTokenEndsLaterForAClockThatIsSetBack(t *testing.T) {
	var h *hands
	up, n := &upstream{}, 0
	up.answer = func(context.Context, broker.Exchange) (broker.Answer, error) {
		n++
		a := token(fmt.Sprint("token-", n), time.Hour)
		a.Expiry.SentAt, _ = h.read()
		return a, nil
	}
	w, hands := onHands(t, up)
	h = hands
	w.create("main", nil)
	first := w.mustGet("main").Token.ID
	h.pass(30 * time.Minute)
	h.set(-time.Hour)
	if w.mustGet("main").Token.ID != first {
		t.Error("a token that lives for another half an hour is not served")
	}
	for _, late := range []time.Duration{31 * time.Minute, 30 * time.Minute} {
		h.pass(late)
		if again := w.mustGet("main").Token; again.ID == first {
			wall, _ := h.read()
			t.Errorf("served past its hour, until in %v", again.ExpireTime.Sub(wall))
		}
	}
}

// TestAWaitIsNoLongerForAClockThatIsSetBack: neither for a failing upstream, nor for what a test has found.
func TestAWaitIsNoLongerForAClockThatIsSetBack(t *testing.T) {
	w, h := onHands(t, &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
		return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Status: 503}
	}})
	w.create("main", nil)
	trial, err := w.test("")
	wantFailed(t, trial, err)
	h.set(-time.Hour)
	h.pass(time.Minute)
	trial, err = w.test("")
	wantFailed(t, trial, err)
	w.wantExchanges(2)
	h.set(-time.Hour)
	h.pass(time.Minute)
	_, err = w.get("main")
	wantKind(t, err, broker.UpstreamUnavailable)
	w.wantExchanges(3)
}

// TestAShareIsNoLargerForAClockThatGoesToAndFro: time that is set back does not pass twice.
func TestAShareIsNoLargerForAClockThatGoesToAndFro(t *testing.T) {
	w, h := onHands(t, &upstream{answer: issues(time.Hour)}, func(s *engine.Settings) { s.CallerRate = 5 })
	w.create("main", nil)
	given := 0
	for range 1000 {
		h.set(-50 * time.Millisecond) // less is no step, but how clocks are corrected
		if _, err := w.Credential(t.Context(), local, "main"); err == nil {
			given++
		}
		h.set(50 * time.Millisecond)
		if _, err := w.Credential(t.Context(), local, "main"); err == nil {
			given++
		}
	}
	if given > 50 {
		t.Errorf("got %d of a share of 50, and no time has passed", given)
	}
}
