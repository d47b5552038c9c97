package gate_test

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/gate"
)

const upstream = "shop@api.example.com"

// asks is what somebody wants of a credential's token.
func asks(clock *broker.Clock, name, token string, proven, force bool, facts *broker.Facts) gate.Ask {
	a := gate.Ask{Upstream: upstream, Facts: facts, Proven: proven, Force: force, Until: clock.Now().At.Add(time.Minute)}
	a.Token.Credential = broker.CredentialName(name)
	copy(a.Token.Token[:], token)
	return a
}

// A visitor is somebody who has taken a place: in, told why not, or waiting still.
type visitor struct {
	ask   gate.Ask
	place *gate.Place
	stop  context.CancelFunc
	done  atomic.Bool
	err   error
}

func (v *visitor) in() bool { return v.done.Load() && v.err == nil }

// A hall is a gate with whoever is at it.
type hall struct {
	clock *broker.Clock
	gates *gate.Gates
	all   []*visitor
}

func (h *hall) comes(t *testing.T, ask gate.Ask) *visitor {
	ctx, stop := context.WithCancel(t.Context())
	v := &visitor{ask: ask, place: h.gates.Queue(ask, gate.Advice{Unknown: true}), stop: stop}
	h.all = append(h.all, v)
	go func() {
		_, v.err = v.place.Wait(ctx, func() bool { return false })
		v.done.Store(true)
	}()
	synctest.Wait()
	return v
}

func (h *hall) leaves(v *visitor, e *broker.UpstreamError) gate.Finding {
	h.all = slices.DeleteFunc(h.all, func(o *visitor) bool { return o == v })
	f := v.place.LeaveWith(e)
	v.place.Leave() // once more does nothing
	v.stop()
	synctest.Wait()
	return f
}

func (h *hall) inside(of func(*visitor) bool) (n int) {
	for _, v := range h.all {
		if v.in() && of(v) {
			n++
		}
	}
	return n
}

// sleep lets virtual time pass, and everybody do what is due.
func sleep(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func anybody(*visitor) bool { return true }

// A step is something that happens at a gate, and three numbers that say what exactly.
type step struct{ what, one, two, three int }

// TestWhoeverCanGoInIsIn: whatever comes, goes in, is answered, fails, gives up or waits too long, in any order, there are never more in than may be, and
// nobody waits while there is room for them. In the end the gate lets in as many as at first.
func TestWhoeverCanGoInIsIn(t *testing.T) {
	number := rapid.IntRange(0, 99)
	rapid.Check(t, func(r *rapid.T) {
		steps := rapid.SliceOfN(rapid.Custom(func(r *rapid.T) step {
			return step{number.Draw(r, "what"), number.Draw(r, "one"), number.Draw(r, "two"), number.Draw(r, "three")}
		}), 1, 120).Draw(r, "steps")
		var wrong string // rapid must not be called in the bubble
		synctest.Test(t, func(t *testing.T) { wrong = walk(t, steps) })
		if wrong != "" {
			r.Fatal(wrong)
		}
	})
}

const most, mostOfOne = 4, 3

// walk takes steps at a gate, and says what is wrong; empty: nothing.
func walk(t *testing.T, steps []step) (wrong string) {
	clock := broker.NewClock(nil)
	h := &hall{clock: clock, gates: gate.New(clock, most)}
	facts := &broker.Facts{Name: "shop", Requests: 1}
	defer func() {
		for len(h.all) > 0 {
			h.leaves(h.all[0], nil)
		}
	}()
	answers := []*broker.UpstreamError{
		nil, nil, {Level: broker.LevelUpstream}, {Level: broker.LevelCredential}, {Level: broker.LevelScope}, {Level: broker.LevelRateLimited}, {Refused: true},
	}
	failing := false // the upstream may be left alone
	for _, s := range steps {
		switch {
		case s.what%10 < 6:
			h.comes(t, asks(clock, fmt.Sprint("c", max(s.one%6-3, 0)), fmt.Sprint(s.two%6), s.three%2 == 0, s.three > 90, facts))
		case s.what%10 == 6:
			sleep(time.Duration(s.one%20+1) * time.Second)
		case len(h.all) > 0:
			v, e := h.all[s.one%len(h.all)], &broker.UpstreamError{Refused: true} // it gives up
			if v.in() {
				e = answers[s.two%len(answers)]
			}
			failing = failing || e != nil && !e.Refused
			h.leaves(v, e)
		}
		if n := h.inside(anybody); n > most {
			return fmt.Sprintf("%d are in, of %d that may be", n, most)
		}
		for _, v := range h.all {
			of := h.inside(func(o *visitor) bool { return o.ask.Token.Credential == v.ask.Token.Credential })
			switch {
			case of > mostOfOne:
				return fmt.Sprintf("%d are in of one credential, of %d that may be", of, mostOfOne)
			case !v.done.Load() && !failing && h.inside(anybody) < most && of < mostOfOne:
				return fmt.Sprintf("one waits of %s, although only %d are in, %d of it", v.ask.Token.Credential, h.inside(anybody), of)
			}
		}
	}
	for len(h.all) > 0 {
		h.leaves(h.all[0], &broker.UpstreamError{Refused: true})
	}
	sleep(2 * time.Hour) // whatever was left alone is asked again
	for i := range 2 * most {
		h.comes(t, asks(clock, fmt.Sprint("c", i), "t", true, false, facts))
	}
	if n := h.inside(anybody); n != most && !(failing && n == 1) { // the one that tries whether it is well
		return fmt.Sprintf("%d are in in the end, of %d that may be", n, most)
	}
	h.leaves(h.all[slices.IndexFunc(h.all, (*visitor).in)], nil)
	if n := h.inside(anybody); n != most {
		return fmt.Sprintf("%d are in after it answered, of %d that may be", n, most)
	}
	return ""
}

// TestTheRateIsNeverMoreThanDeclared: however many want to go in, and however they come and go, no period sees more requests than were declared.
func TestTheRateIsNeverMoreThanDeclared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := broker.NewClock(nil)
		h := &hall{clock: clock, gates: gate.New(clock, 16)}
		facts := &broker.Facts{Name: "shop", Requests: 2, RateRequests: 20, RatePeriod: 10 * time.Second}
		var at []time.Duration // of each that went in
		began := time.Now()
		for i := range 400 {
			h.comes(t, asks(clock, fmt.Sprint("c", i%7), fmt.Sprint(i), i%2 == 0, false, facts))
		}
		for len(h.all) > 0 {
			for _, v := range slices.Clone(h.all) {
				if v.in() {
					at = append(at, time.Since(began))
				}
				if v.done.Load() {
					h.leaves(v, nil)
				}
			}
			sleep(50 * time.Millisecond)
		}
		for i, from := range at {
			n := 0
			for _, other := range at[i:] {
				if other-from < facts.RatePeriod {
					n += facts.Requests
				}
			}
			if n > facts.RateRequests+facts.Requests {
				t.Fatalf("%d requests within %v, of %d that were declared", n, facts.RatePeriod, facts.RateRequests)
			}
		}
		if len(at) < 30 {
			t.Errorf("%d went in within a minute, want half of what was declared at least", len(at))
		}
	})
}

// TestWhatOnlyACallerChoseFailsByItself: an upstream that answers others is not left alone for it, and one of which nobody knows is, but not by those
// who ask for what is known to work.
func TestWhatOnlyACallerChoseFailsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		clock := broker.NewClock(nil)
		h := &hall{clock: clock, gates: gate.New(clock, 0)}
		facts, fails := &broker.Facts{Name: "shop", Requests: 1}, &broker.UpstreamError{Level: broker.LevelUpstream, Status: 500}
		chosen := func(token string) *visitor { return h.comes(t, asks(clock, "c", token, false, false, facts)) }
		proven := func() *visitor { return h.comes(t, asks(clock, "c", "works", true, false, facts)) }

		if f := h.leaves(chosen("a"), fails); f.OfKey || f.News != nil {
			t.Errorf("got %+v, want what nobody knows kept from other brokers", f)
		}
		if v := chosen("b"); v.err == nil {
			t.Error("something else that may not work was asked for at once")
		} else {
			h.leaves(v, nil)
		}
		v := proven()
		if !v.in() {
			t.Fatalf("what is known to work is kept from the upstream: %v", v.err)
		}
		if f := h.leaves(v, nil); f.News == nil || f.News.Failures != 0 {
			t.Errorf("got %+v, want all told that it is well", f)
		}
		if f := h.leaves(chosen("a"), fails); !f.OfKey {
			t.Errorf("got %+v, want it counted against what was chosen", f)
		}
		if v := proven(); !v.in() {
			t.Errorf("the upstream is left alone for what one caller chose: %v", v.err)
		} else if f := h.leaves(v, fails); f.OfKey || f.News == nil || f.News.Failures != 1 {
			t.Errorf("got %+v, want the upstream's failure told to all", f)
		}
		if v = proven(); v.err == nil {
			t.Error("a failing upstream was asked again at once")
		}
		if at := h.gates.LeftAlone(upstream); !at.After(time.Now()) {
			t.Errorf("left alone until %v", at)
		}
	})
}
