package engine

import (
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tokenbroker/tokenbroker/broker"
)

// gates bound what upstreams are asked. They know no store: what other brokers know of an upstream comes in as advice, and what
// has become known goes out of place.leaveWith.
type gates struct {
	clock *broker.Clock
	// atOnce is how many exchanges an upstream may have at a time.
	atOnce int
	all    sync.Map // upstream to *gate
}

// A gate bounds what one upstream is asked: so many exchanges at a time, a declared rate, and nothing while it is known to
// be failing, but for one exchange that tries whether it is well again. Credentials that wait take turns.
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

// queueMost is how long a flight waits, for a turn, a lease and a commit together; callers have their own deadlines.
const queueMost = time.Minute

// advice is what the store knew of an upstream at a moment; unknown: it could not say.
type advice struct {
	known   broker.Backoff
	unknown bool
	read    broker.Moment
}

func (g *gates) gate(upstream string, f *broker.Facts) *gate {
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
		} else if wait := g.rated(w.requests, now); wait > 0 {
			if now.Add(wait) <= w.until {
				g.lookIn(wait)
				return
			}
			w.far = wait
		} else {
			g.admit(w)
			g.queue.had(w.token.Credential)
		}
		g.queue.remove(w)
		close(w.done)
	}
}

// ready reports whether there is room for one that waits, and no exchange under way whose end it has to wait for. One that would only be refused needs
// neither. The caller holds mu.
func (g *gate) ready(p *place) bool {
	if _, barred := g.barred(p); barred {
		return true
	}
	return g.running < g.most && g.of[p.token.Credential] < g.mostOfOne && (!g.probing || g.exempt(p))
}

// exempt reports whether it goes although the upstream is known to be failing. The caller holds mu.
func (g *gate) exempt(p *place) bool {
	return g.known.Failures == 0 || p.force || g.doubtful && p.proven
}

// barred reports whether the upstream is to be left alone by it, until when, and why. The caller holds mu.
func (g *gate) barred(p *place) (why broker.Remembered, barred bool) {
	if !p.force && !p.proven {
		if why, barred = g.doubted(p.token.Credential); barred {
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
	return takeOf(g.limit, min(requests, g.limit.Burst()), now)
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
func (g *gate) admit(p *place) {
	g.running++
	g.of[p.token.Credential]++
	p.known = g.known
	if !g.exempt(p) {
		p.probe, g.probing = true, true
	}
	if !p.force && !p.proven {
		g.tries(p.token.Credential)
	}
}

// advise takes what the store knew, unless something has been found out here since.
func (g *gate) advise(a advice) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !a.unknown && a.read > g.since && !(g.unsaved && a.known.Failures == 0) {
		g.knows(a.known)
		if g.since = a.read; a.known.Failures > 0 {
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

// leftAlone is until when an upstream is not asked, as far as this process knows; zero: it may be asked.
func (g *gates) leftAlone(upstream string) time.Time {
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

// saved notes whether the store could be told what is known of an upstream: where it could not, its knowing nothing says nothing.
func (g *gates) saved(upstream string, ok bool) {
	if v, there := g.all.Load(upstream); there {
		one := v.(*gate)
		one.mu.Lock()
		defer one.mu.Unlock()
		one.unsaved = !ok
	}
}

// out is for one that was in. The caller holds mu.
func (g *gate) out(p *place) {
	if p.probe {
		g.probing = false
	}
	g.running--
	if g.of[p.token.Credential]--; g.of[p.token.Credential] == 0 {
		delete(g.of, p.token.Credential)
	}
}
