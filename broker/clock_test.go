package broker_test

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// hands are a clock's, set by a test.
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

func (h *hands) pass(wall, mono time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.wall, h.mono = h.wall.Add(wall), h.mono+mono
}

func TestAMomentGoesOnWhileTheMachineSleeps(t *testing.T) {
	for name, test := range map[string]struct{ wall, mono, want time.Duration }{
		"it runs":                            {time.Second, time.Second, time.Second},
		"it sleeps":                          {time.Hour, time.Second, time.Hour},
		"the clock is set ahead":             {time.Minute, 0, time.Minute},
		"the clock is set back":              {-time.Hour, time.Second, time.Second},
		"the clock is corrected by a little": {1050 * time.Millisecond, time.Second, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			h := &hands{wall: time.Unix(1e9, 0)}
			c := broker.NewClock(h.read)
			before := c.Now()
			h.pass(test.wall, test.mono)
			after := c.Now()
			if got := after.At.Sub(before.At); got != test.want {
				t.Errorf("got %v later, want %v", got, test.want)
			}
			if got := before.Steady(after).Sub(before.Wall); got < test.want || got > test.want+50*time.Millisecond { // which no correction takes away
				t.Errorf("by the clock that nobody sets back: got %v later, want %v", got, test.want)
			}
			if got := after.Wall.Sub(before.Wall); got != test.wall {
				t.Errorf("by the wall clock: got %v, want %v", got, test.wall)
			}
		})
	}
}

// TestAMomentNeverGoesBack, and is never younger than the monotonic clock says, whatever is done to the wall clock.
func TestAMomentNeverGoesBack(t *testing.T) {
	h := &hands{wall: time.Unix(1e9, 0)}
	c := broker.NewClock(h.read)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			last := c.Now().At
			for range 20_000 {
				now := c.Now().At
				if now < last {
					t.Errorf("%v after %v", now, last)
					return
				}
				last = now
			}
		})
	}
	began := c.Now().At
	for range 2000 {
		h.pass(rand.N(10*time.Second)-5*time.Second, rand.N(time.Millisecond))
		if _, mono := h.read(); c.Now().At.Sub(began) < mono-time.Millisecond {
			t.Fatal("younger than the monotonic clock says")
		}
	}
	all.Wait()
}

// TestTheMachinesClock: what is read of it is consistent, and its wall clock has no monotonic part.
func TestTheMachinesClock(t *testing.T) {
	c := broker.NewClock(nil)
	a := c.Now()
	<-time.After(10 * time.Millisecond)
	b := c.Now()
	if d := b.At.Sub(a.At); d < 10*time.Millisecond || d > time.Minute {
		t.Errorf("10 ms were %v", d)
	}
	if b.Wall != b.Wall.Round(0) {
		t.Error("the wall clock has a monotonic part")
	}
}

func BenchmarkClock(b *testing.B) {
	c := broker.NewClock(nil)
	for b.Loop() {
		_ = c.Now()
	}
}
