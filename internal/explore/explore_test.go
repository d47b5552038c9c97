package explore

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/store/seal"
)

// tell fails for promises that could have been kept.
func tell(t *testing.T, c *Campaign) {
	t.Helper()
	t.Log(c)
	for _, f := range c.Found() {
		if f.Violations[0].Because != "" {
			t.Logf("known: %v", f)
		} else {
			t.Errorf("%v", f)
		}
	}
}

func newCampaign(t *testing.T) *Campaign {
	t.Helper()
	c, err := NewCampaign()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestNothingHappens: a schedule without a deviation keeps every promise.
func TestNothingHappens(t *testing.T) {
	c := newCampaign(t)
	for _, name := range Scenarios() {
		r := Replay(t, c.keys, Schedule{Scenario: name})
		if len(r.Violations) > 0 || len(r.Trace) == 0 {
			t.Errorf("%s: %v\n%v", name, r.Violations, r.Trace)
		}
	}
}

// TestOneThingHappens runs every schedule with one deviation. With the race detector each takes five times as long: it looks at one of twelve, and make
// test has all of them run without it.
func TestOneThingHappens(t *testing.T) {
	c := newCampaign(t)
	if racing {
		c.Every = 12
	}
	for _, name := range Scenarios() {
		c.Exhaust(t, runtime.GOMAXPROCS(0), 1, Schedule{Scenario: name})
	}
	tell(t, c)
}

// TestManyThingsHappen runs random schedules, the same ones every time.
func TestManyThingsHappen(t *testing.T) {
	c := newCampaign(t)
	n := uint64(3000)
	if racing {
		n = 300 // each takes five times as long; make test has all of them run without it, too
	}
	c.Random(t, runtime.GOMAXPROCS(0), 0, n)
	tell(t, c)
}

// TestReplaysAlike: a seed gives the same deviations and the same result each time, and the schedule that it gives does too. What
// brokers draw at random, and which of two goroutines that one event wakes comes first, is not the scheduler's: a few may differ.
func TestReplaysAlike(t *testing.T) {
	keys, err := seal.New()
	if err != nil {
		t.Fatal(err)
	}
	seeds := 200
	if racing {
		seeds = 60 // each takes five times as long
	}
	alike, steps := 0, 0
	for seed := range uint64(seeds) {
		a, b := Random(t, keys, seed), Random(t, keys, seed)
		c := Replay(t, keys, a.Schedule)
		if a.outcome() == b.outcome() && a.outcome() == c.outcome() {
			alike++
		} else {
			t.Logf("seed %d:\n%s\n%s\n%s", seed, a.outcome(), b.outcome(), c.outcome())
		}
		if strings.Join(a.Trace, " ") == strings.Join(b.Trace, " ") {
			steps++
		}
	}
	t.Logf("%d of %d seeds replay alike; %d step by step", alike, seeds, steps)
	if alike < seeds*19/20 {
		t.Errorf("got %d of %d alike", alike, seeds)
	}
}

// outcome is what has to be the same: what happened, and what came of it.
func (r Run) outcome() string {
	var done []string
	for _, d := range r.Schedule.Deviations {
		done = append(done, d.String())
	}
	slices.Sort(done)
	out := r.Schedule.Scenario + ": " + strings.Join(done, "; ")
	if len(r.Violations) > 0 {
		out += " -> " + r.Violations[0].Promise
	}
	return out
}

// TestCampaign is `make explore`: as many schedules as one likes.
func TestCampaign(t *testing.T) {
	n := number(t, "SCHEDULES")
	if n == 0 {
		t.Skip("for make explore")
	}
	c := newCampaign(t)
	c.Tell = func(f *Found) {
		word := "NEW"
		if f.Violations[0].Because != "" {
			word = "known"
		}
		fmt.Printf("%s: %v\n", word, f)
	}
	c.Progress = func(seed uint64) { fmt.Printf("%v; go on with SEED=%d\n", c, seed) }
	if depth := number(t, "DEPTH"); depth > 0 {
		c.Most = int(min(n, math.MaxInt32))
		var from []string
		for _, name := range Scenarios() {
			from = append(from, name+":")
		}
		if only := os.Getenv("SCENARIO"); only != "" {
			from = []string{only}
			if !strings.Contains(only, ":") {
				from[0] += ":"
			}
		}
		for _, text := range from {
			s, err := Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			c.Exhaust(t, runtime.GOMAXPROCS(0), int(min(depth, 9)), s)
		}
	} else {
		c.Random(t, runtime.GOMAXPROCS(0), number(t, "SEED"), n)
	}
	tell(t, c)
}

func number(t *testing.T, name string) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return 0
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}
