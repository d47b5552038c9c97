package gate

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tokenbroker/tokenbroker/broker"
)

// DefaultAtOnce is how many exchanges an upstream may have at a time.
const DefaultAtOnce = 16

// Gates are those of all upstreams. Made by New. Safe for concurrent use.
type Gates struct {
	clock  *broker.Clock
	atOnce int
	all    sync.Map // upstream to *gate
}

// New makes gates that let so many exchanges in at a time for each upstream; 0 or less: DefaultAtOnce.
func New(clock *broker.Clock, atOnce int) *Gates {
	if atOnce <= 0 {
		atOnce = DefaultAtOnce
	}
	return &Gates{clock: clock, atOnce: atOnce}
}

// A gate is one upstream's.
type gate struct {
	clock *broker.Clock
	// most is how many exchanges there may be at a time, and mostOfOne how many of one credential: another's finds room at once.
	most, mostOfOne int

	mu      sync.Mutex
	queue   queue
	running int
	of      map[broker.CredentialName]int // running, by credential; none is zero
	limit   *rate.Limiter
	timer   *time.Timer // looks again when the rate allows one more; nil: none was needed
	known   broker.Backoff
	until   broker.Moment // of known, by the clock that nobody sets
	since   broker.Moment // when known was found out
	unsaved bool          // the store was not told of known
	// well: it has answered since it last failed. doubtful: only requests have failed of which nobody knows whether they work at all.
	well, doubtful bool
	// doubts are of credentials of which nothing but what callers chose fails.
	doubts map[broker.CredentialName]doubt
	// probing: the exchange that tries is under way.
	probing bool
}

// Advice is what the store knew of an upstream at a moment.
type Advice struct {
	Known broker.Backoff
	// Unknown: it could not say, and Known says nothing.
	Unknown bool
	Read    broker.Moment
}

func (g *Gates) gate(upstream string, f *broker.Facts) *gate {
	v, ok := g.all.Load(upstream)
	if !ok {
		v, _ = g.all.LoadOrStore(upstream, &gate{
			clock: g.clock, most: g.atOnce, mostOfOne: max(g.atOnce*3/4, 1), of: map[broker.CredentialName]int{}, since: broker.Never,
		})
	}
	one := v.(*gate)
	one.mu.Lock()
	defer one.mu.Unlock()
	if f.RateRequests == 0 {
		one.limit = nil
	} else {
		// Half of the rate may come at once and the other half is spread, so that no period sees more than was declared.
		burst := max(f.RateRequests/2, f.Requests)
		every := rate.Limit(float64(max(f.RateRequests-burst, 1)) / f.RatePeriod.Seconds())
		if one.limit == nil || one.limit.Limit() != every || one.limit.Burst() != burst {
			one.limit = rate.NewLimiter(every, burst)
		}
	}
	return one
}

// serve lets in whose turn it is, while there is room and the rate allows it. The caller holds mu.
func (g *gate) serve() {
	for {
		w := g.queue.next(g.ready)
		if w == nil {
			return
		}
		now := g.clock.Now().At
		if why, barred := g.barred(w); barred {
			w.refused = &why
		} else if wait := g.rated(w.Facts.Requests, now); wait > 0 {
			if now.Add(wait) <= w.Until {
				g.lookIn(wait)
				return
			}
			w.far = wait
		} else {
			g.admit(w)
			g.queue.had(w.Token.Credential)
		}
		g.queue.remove(w)
		close(w.done)
	}
}

// ready reports whether there is room for one that waits, and no exchange under way whose end it has to wait for. One that would only be refused needs
// neither. The caller holds mu.
func (g *gate) ready(p *Place) bool {
	if _, barred := g.barred(p); barred {
		return true
	}
	return g.running < g.most && g.of[p.Token.Credential] < g.mostOfOne && (!g.probing || g.exempt(p))
}

// exempt reports whether it goes although the upstream is known to be failing. The caller holds mu.
func (g *gate) exempt(p *Place) bool {
	return g.known.Failures == 0 || p.Force || g.doubtful && p.Proven
}

// barred reports whether the upstream is to be left alone by it, until when, and why. The caller holds mu.
func (g *gate) barred(p *Place) (why broker.Remembered, barred bool) {
	if !p.Force && !p.Proven {
		if why, barred = g.doubted(p.Token.Credential); barred {
			return why, true
		}
	}
	now := g.clock.Now()
	if g.exempt(p) || now.At >= g.until {
		return why, false
	}
	return g.latest(now).Last, true
}

// rated takes so many requests of the declared rate, or says how long they have to wait. The caller holds mu.
func (g *gate) rated(requests int, now broker.Moment) time.Duration {
	if g.limit == nil {
		return 0
	}
	return Take(g.limit, min(requests, g.limit.Burst()), now)
}

// lookIn has serve look again. The caller holds mu.
func (g *gate) lookIn(wait time.Duration) {
	if g.timer != nil {
		g.timer.Stop()
	}
	g.timer = time.AfterFunc(wait, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.serve()
	})
}

// admit lets one in: for the exchange that tries, where the upstream was failing. The caller holds mu.
func (g *gate) admit(p *Place) {
	g.running++
	g.of[p.Token.Credential]++
	p.known = g.known
	if !g.exempt(p) {
		p.probe, g.probing = true, true
	}
	if !p.Force && !p.Proven {
		g.tries(p.Token.Credential)
	}
}

// advise takes what the store knew, unless something has been found out here since.
func (g *gate) advise(a Advice) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !a.Unknown && a.Read > g.since && !(g.unsaved && a.Known.Failures == 0) {
		g.knows(a.Known)
		if g.since = a.Read; a.Known.Failures > 0 {
			g.well, g.doubtful = false, false
		}
	}
}

// knows notes what is known of the upstream. The caller holds mu.
func (g *gate) knows(k broker.Backoff) {
	now := g.clock.Now()
	g.known, g.until = k, now.At.Add(k.Until.Sub(now.Wall))
}

// latest is what is known, with its times by the wall clock as it is now. The caller holds mu.
func (g *gate) latest(now broker.Instant) broker.Backoff {
	k := g.known
	k.Until = now.Wall.Add(g.until.Sub(now.At))
	k.Last.RetryAt = k.Until
	return k
}

// LeftAlone is until when an upstream is not asked, as far as this process knows; zero: it may be asked.
func (g *Gates) LeftAlone(upstream string) time.Time {
	v, there := g.all.Load(upstream)
	if !there {
		return time.Time{}
	}
	one := v.(*gate)
	one.mu.Lock()
	defer one.mu.Unlock()
	if now := g.clock.Now(); one.known.Failures > 0 && now.At < one.until {
		return one.latest(now).Until
	}
	return time.Time{}
}

// Failing calls each for every upstream that is known to be failing.
func (g *Gates) Failing(each func(upstream string)) {
	g.all.Range(func(upstream, v any) bool {
		one := v.(*gate)
		one.mu.Lock()
		failing := one.known.Failures > 0
		one.mu.Unlock()
		if failing {
			each(upstream.(string))
		}
		return true
	})
}

// Saved notes whether the store could be told what is known of an upstream: where it could not, its knowing nothing says nothing.
func (g *Gates) Saved(upstream string, ok bool) {
	if v, there := g.all.Load(upstream); there {
		one := v.(*gate)
		one.mu.Lock()
		defer one.mu.Unlock()
		one.unsaved = !ok
	}
}

// out is for one that was in. The caller holds mu.
func (g *gate) out(p *Place) {
	if p.probe {
		g.probing = false
	}
	g.running--
	if g.of[p.Token.Credential]--; g.of[p.Token.Credential] == 0 {
		delete(g.of, p.Token.Credential)
	}
}

// Take takes so many of a limiter's at a moment, or none and says in how long there will be as many. Moments must not go back from one call to
// the next, so that they are taken under one lock: a limiter counts the time between twice.
func Take(l *rate.Limiter, n int, now broker.Moment) (wait time.Duration) {
	at := time.Unix(0, int64(now))
	r := l.ReserveN(at, n)
	if wait = r.DelayFrom(at); wait > 0 {
		r.CancelAt(at)
	}
	return wait
}
