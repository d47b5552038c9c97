package explore

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/store/seal"
)

// A Found is a violation, shrunk, with how often it was met.
type Found struct {
	Run
	// Seed is that of a random schedule; after how many schedules it was found first.
	Seed  uint64
	After int
	Times int
}

// A Campaign runs many schedules, on all cores, and keeps each distinct violation once: by its signature, with the fewest deviations.
type Campaign struct {
	// Tell is called with each violation that is found for the first time, Progress now and then with the next seed; may be nil.
	Tell     func(*Found)
	Progress func(next uint64)
	// Most bounds the schedules that Exhaust runs; 0: all. Of those that follow one schedule it takes one of Every; 0: each.
	Most, Every int

	keys  *seal.Keyring
	began time.Time

	mu        sync.Mutex
	found     map[string]*Found
	schedules int
	steps     int
	progress  time.Time
}

// progressEvery is how often a campaign says how far it is.
const progressEvery = 10 * time.Second

// NewCampaign returns one that has run nothing.
func NewCampaign() (*Campaign, error) {
	keys, err := seal.New()
	return &Campaign{keys: keys, began: time.Now(), progress: time.Now(), found: map[string]*Found{}}, err
}

// workers calls f at once as often as there are cores, and waits.
func workers(t *testing.T, n int, f func(t *testing.T)) {
	t.Helper()
	t.Run("workers", func(t *testing.T) {
		for i := range n {
			t.Run(fmt.Sprint(i), func(t *testing.T) {
				t.Parallel()
				f(t)
			})
		}
	})
}

// Random runs so many schedules from a seed on.
func (c *Campaign) Random(t *testing.T, cores int, first, n uint64) {
	t.Helper()
	next := first
	workers(t, cores, func(t *testing.T) {
		for {
			c.mu.Lock()
			seed := next
			next++
			speak := c.Progress != nil && time.Since(c.progress) > progressEvery
			if speak {
				c.progress = time.Now()
			}
			c.mu.Unlock()
			if speak {
				c.Progress(seed)
			}
			if seed >= first+n {
				return
			}
			c.note(t, Random(t, c.keys, seed), seed)
		}
	})
}

// Exhaust runs a schedule and all that deviate from it at up to so many steps.
func (c *Campaign) Exhaust(t *testing.T, cores, depth int, from ...Schedule) {
	t.Helper()
	idle := sync.NewCond(&c.mu)
	todo, running := slices.Clone(from), 0
	workers(t, cores, func(t *testing.T) {
		for {
			c.mu.Lock()
			for len(todo) == 0 && running > 0 {
				idle.Wait()
			}
			if len(todo) == 0 || c.Most > 0 && c.schedules >= c.Most {
				c.mu.Unlock()
				return
			}
			s := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			running++
			c.mu.Unlock()
			r := Replay(t, c.keys, s)
			c.note(t, r, 0)
			c.mu.Lock()
			if running--; len(r.Violations) == 0 && len(s.Deviations) < depth {
				for i, next := range r.Next() {
					if i%max(c.Every, 1) == 0 {
						todo = append(todo, next)
					}
				}
			}
			idle.Broadcast()
			c.mu.Unlock()
		}
	})
}

// note counts a schedule, and shrinks what it has found where nothing like it was found before.
func (c *Campaign) note(t *testing.T, r Run, seed uint64) {
	t.Helper()
	c.mu.Lock()
	c.schedules++
	c.steps += len(r.Trace)
	after := c.schedules
	c.mu.Unlock()
	if len(r.Violations) == 0 {
		return
	}
	r = Shrink(t, c.keys, r)
	c.mu.Lock()
	defer c.mu.Unlock()
	f := c.found[r.Signature()]
	if f == nil {
		f = &Found{Run: r, Seed: seed, After: after}
		c.found[r.Signature()] = f
		if c.Tell != nil {
			c.Tell(f)
		}
	}
	if f.Times++; len(r.Schedule.Deviations) < len(f.Schedule.Deviations) {
		f.Run, f.Seed = r, seed
	}
}

// Found are the distinct violations, by their signatures.
func (c *Campaign) Found() []*Found {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*Found
	for _, f := range c.found {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b *Found) int { return strings.Compare(a.Signature(), b.Signature()) })
	return all
}

// String says how much was run, and how fast.
func (c *Campaign) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	took := time.Since(c.began)
	return fmt.Sprintf("%d schedules, %d steps, %v: %.0f schedules a second; %d distinct violations",
		c.schedules, c.steps, took.Round(time.Millisecond), float64(c.schedules)/took.Seconds(), len(c.found))
}

// String is a violation with the schedule that shows it.
func (f *Found) String() string {
	return fmt.Sprintf("%s\n    %s\n    %s\n    met %d times, first after %d schedules (seed %d)",
		f.Signature(), f.Schedule, f.Violations[0].Detail, f.Times, f.After, f.Seed)
}
