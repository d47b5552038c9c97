package broker

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// A Moment is when something happened in this process, in nanoseconds by a clock that goes on while the machine sleeps. It
// says how old something is, and for how long it may be relied on. Moments of one Clock can be compared with each other,
// and with nothing else.
type Moment int64

// Never is before every other Moment, and stays older than any bound.
const Never Moment = -1 << 62

// Add returns the moment so much later; the last one there is, where that is further away than can be counted.
func (m Moment) Add(d time.Duration) Moment {
	if m > 0 && d > time.Duration(math.MaxInt64-m) {
		return math.MaxInt64
	}
	return m + Moment(d)
}

// Sub returns how much later m is than o.
func (m Moment) Sub(o Moment) time.Duration { return time.Duration(m - o) }

// An Instant is one look at a Clock.
type Instant struct {
	// Wall is the time of day, without a monotonic part. Ends of tokens, and whatever people and upstreams say, are held
	// against it.
	Wall time.Time
	// At is what ages and deadlines are held against.
	At Moment
	// Ran is for how long the machine has run: it stands while that sleeps, and nobody can set it. Use it to wait for another
	// process to give up: sleep does not count.
	Ran time.Duration
}

// Steady is the time of day at now, by a wall clock that nobody has set back since i: times that were noted at i are held against it. Both are of one
// Clock.
func (i Instant) Steady(now Instant) time.Time {
	if steady := i.Wall.Add(now.At.Sub(i.At)); steady.After(now.Wall) {
		return steady
	}
	return now.Wall
}

// A Clock tells the time. Make one with NewClock; safe for concurrent use.
//
// A process has two clocks, and neither is right for everything. The wall clock can be set, by a human or by NTP. The monotonic
// one cannot, and stands while a machine sleeps (CLOCK_MONOTONIC): whatever was to be relied on for two seconds would be relied on
// for two seconds and a night. So a Moment is the monotonic clock, and whatever the wall clock was ahead of it at once: a
// sleep, or a step that somebody made. A step makes things older than they are, never younger, and a moment never goes back.
//
// A virtual machine that is frozen with both clocks standing is beyond what any process can see.
type Clock struct {
	read func() (wall time.Time, mono time.Duration)
	// apart is how far the wall clock was from the monotonic one when they were last found to be apart, and slept is the sum
	// of all its jumps ahead. jumping guards their changes.
	apart, slept atomic.Int64
	jumping      sync.Mutex
}

// jump is the least difference that is taken for a sleep: less is how clocks are corrected.
const jump = 100 * time.Millisecond

// NewClock returns a Clock that reads the machine's. read replaces that, for tests of machines that sleep: mono never goes back.
func NewClock(read func() (wall time.Time, mono time.Duration)) *Clock {
	if read == nil {
		began := time.Now()
		read = func() (time.Time, time.Duration) {
			now := time.Now()
			return now, now.Sub(began)
		}
	}
	c := &Clock{read: read}
	wall, mono := read()
	c.apart.Store(wall.UnixNano() - int64(mono))
	return c
}

// Now is the current instant.
func (c *Clock) Now() Instant {
	wall, mono := c.read()
	if c.jumped(wall, mono) != 0 {
		wall, mono = c.jump()
	}
	return Instant{Wall: wall.Round(0), At: Moment(int64(mono) + c.slept.Load()), Ran: mono}
}

// jumped is how far the clocks have come apart since that was last noted; 0: no further than they are corrected.
func (c *Clock) jumped(wall time.Time, mono time.Duration) time.Duration {
	ahead := time.Duration(wall.UnixNano() - int64(mono) - c.apart.Load())
	if ahead > jump || ahead < -jump {
		return ahead
	}
	return 0
}

// jump notes a jump, once: it looks again, alone. What has slept is added first, so that nobody sees the clocks as they are and a moment that is too
// early.
func (c *Clock) jump() (wall time.Time, mono time.Duration) {
	c.jumping.Lock()
	defer c.jumping.Unlock()
	wall, mono = c.read()
	if ahead := c.jumped(wall, mono); ahead != 0 {
		c.slept.Add(int64(max(ahead, 0)))
		c.apart.Add(int64(ahead))
	}
	return wall, mono
}
