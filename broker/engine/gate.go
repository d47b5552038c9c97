package engine

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tokenbroker/tokenbroker/broker"
)

// gates bound what upstreams are asked. They know no store: what other brokers know of an upstream comes in as advice, and what
// has become known goes out of pass.leaveWith.
type gates struct {
	clock *broker.Clock
	// atOnce is how many exchanges an upstream may have at a time.
	atOnce int
	all    sync.Map // upstream to *gate
}

// A gate bounds what one upstream is asked: so many exchanges at a time, a declared rate, and nothing while it is known to
// be failing, but for one exchange that tries whether it is well again.
type gate struct {
	clock *broker.Clock
	slots chan struct{}

	mu      sync.Mutex
	limit   *rate.Limiter
	known   broker.Backoff
	since   broker.Moment // when known was found out
	unsaved bool          // the store was not told of known
	// well: it has answered since it last failed. doubtful: what is known of its failing comes from requests alone of which nobody knows
	// whether they work at all.
	well, doubtful bool
	// doubts are of credentials of which nothing but what callers chose fails.
	doubts  map[broker.CredentialName]doubt
	probing chan struct{} // closed when the exchange that tries has ended; nil: none is trying
}

// queueMost is how long a flight waits for an upstream's turn; callers have their own deadlines.
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
		v, _ = g.all.LoadOrStore(upstream, &gate{clock: g.clock, slots: make(chan struct{}, g.atOnce), since: broker.Never})
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

// A pass is the right to one exchange with an upstream. Give it back with leave. nil: nobody is asked, and nothing is bounded.
type pass struct {
	gate  *gate
	known broker.Backoff
	why   broker.Remembered // of the failure for which it may not go yet
	probe chan struct{}
	left  bool
	// token is what is asked for. proven: such a request is known to work, or nobody chose anything of it: if it fails, the upstream does.
	token  broker.TokenKey
	proven bool
}

// enter waits for the upstream's turn. It fails with the upstream's remembered failure while it is to be left alone, unless
// with force, and with UpstreamRateLimited when its turn is too far away. there is the token that is stored; nil: none.
func (g *gates) enter(ctx context.Context, t target, a advice, there *broker.Issued, force bool) (*pass, error) {
	if t.upstream == "" {
		return nil, nil
	}
	c, one := t.credential, g.gate(t.upstream, t.facts)
	one.advise(a)
	queueing, cancel := context.WithTimeout(ctx, queueMost)
	defer cancel()
	slow := func(wait time.Duration) error {
		if ctx.Err() != nil {
			return &broker.Failure{Kind: broker.ShuttingDown, Credential: c.Name, Provider: c.Provider}
		}
		return &broker.Failure{
			Kind: broker.UpstreamRateLimited, Credential: c.Name, Provider: c.Provider, RetryAt: g.clock.Now().Wall.Add(wait),
		}
	}
	select {
	case one.slots <- struct{}{}:
	case <-queueing.Done():
		return nil, slow(backoffFirst)
	}
	p := &pass{gate: one, token: t.token, proven: proven(t, there)}
	for {
		until, trying := p.proceed(force)
		if !until.IsZero() {
			p.leave()
			r := p.why
			r.RetryAt = until
			return nil, share(&r, c)
		}
		if trying == nil {
			break
		}
		select {
		case <-trying: // look again
		case <-queueing.Done():
			p.leave()
			return nil, slow(backoffFirst)
		}
	}
	one.mu.Lock()
	limit := one.limit
	one.mu.Unlock()
	if limit != nil {
		if err := limit.WaitN(queueing, t.facts.Requests); err != nil {
			p.leave()
			return nil, slow(t.facts.RatePeriod / time.Duration(max(t.facts.RateRequests, 1)))
		}
	}
	return p, nil
}

// advise takes what the store knew, unless something has been found out here since.
func (g *gate) advise(a advice) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !a.unknown && a.read > g.since && !(g.unsaved && a.known.Failures == 0) {
		if g.known, g.since = a.known, a.read; a.known.Failures > 0 {
			g.well, g.doubtful = false, false
		}
	}
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
	if until := one.known.Until; g.clock.Now().Wall.Before(until) {
		return until
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

// proceed makes this exchange the one that tries, where the upstream was failing and none does; or says why it may not go yet: the
// upstream is to be left alone until known.Until, or the exchange that tries is under way, which ends with trying.
func (p *pass) proceed(force bool) (until time.Time, trying <-chan struct{}) {
	g := p.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	p.known, p.why = g.known, g.known.Last
	if !force && !p.proven {
		if why, wait := g.doubted(p.token.Credential); wait {
			p.why = why
			return why.RetryAt, nil
		}
	}
	switch {
	case g.known.Failures == 0 || force || g.doubtful && p.proven:
	case g.clock.Now().Wall.Before(g.known.Until):
		return g.known.Until, nil
	case g.probing != nil:
		return time.Time{}, g.probing
	default:
		g.probing = make(chan struct{})
		p.probe = g.probing
	}
	return time.Time{}, nil
}

// leave gives the pass back. Given back already, it does nothing.
func (p *pass) leave() {
	if p == nil || p.left {
		return
	}
	p.left = true
	if p.probe != nil {
		p.gate.mu.Lock()
		p.gate.probing = nil
		close(p.probe)
		p.gate.mu.Unlock()
	}
	<-p.gate.slots
}

// A finding is what has become known of an upstream by an exchange.
type finding struct {
	// news is what all brokers are to know of it now; nil: nothing new.
	news *broker.Backoff
	// until is until when it is left alone; zero: it is not.
	until time.Time
	// ofKey: it is what was asked for that fails, and not the upstream.
	ofKey bool
}

// leaveWith is leave with what became of the exchange, nil where it went well.
//
// That a request fails says that the upstream does, if such a request is known to work or is as the operator has it. What only a caller chose may
// be what makes it fail: that counts against what was chosen, where the upstream has answered others since it last failed. Where it has not,
// nobody knows; then it is left alone, by this process, but by those who ask for what is known to work.
func (p *pass) leaveWith(e *broker.UpstreamError) finding {
	if p == nil {
		return finding{}
	}
	defer p.leave()
	g, now := p.gate, p.gate.clock.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case e != nil && e.Refused:
		return finding{} // nothing was sent
	case e == nil || e.Level >= broker.LevelResponse: // it answered this request: that says nothing of others
		g.well = true
		if !p.proven {
			delete(g.doubts, p.token.Credential)
		}
		if p.known.Failures == 0 {
			return finding{}
		}
		g.known, g.since, g.doubtful = broker.Backoff{}, now.At, false
		return finding{news: &broker.Backoff{}}
	case e.Level == broker.LevelUpstream && !p.proven && g.well:
		g.doubt(p.token, e)
		return finding{ofKey: true}
	}
	// Exchanges that were under way together count as one failure: their number says nothing about the upstream.
	known := p.known
	if latest := g.known; latest.Failures > known.Failures {
		if e.RetryAfter <= latest.Until.Sub(now.Wall) && (g.doubtful == !p.proven) {
			return finding{news: g.told(&latest), until: latest.Until}
		}
		known = latest
	}
	next := broker.Backoff{Failures: known.Failures + 1, Last: broker.Remembered{
		Kind: e.Kind(), At: now.Wall, Count: known.Failures + 1, UpstreamStatus: e.Status, UpstreamError: e.Code, Detail: e.Detail,
	}}
	next.Until = now.Wall.Add(transientWait(next.Failures, max(e.RetryAfter, e.Wait), rand.Float64())) //nolint:gosec // jitter needs no secrecy
	next.Last.RetryAt = next.Until
	g.doubtful = e.Level == broker.LevelUpstream && !p.proven && (known.Failures == 0 || g.doubtful)
	g.known, g.since, g.well = next, now.At, false
	return finding{news: g.told(&next), until: next.Until}
}

// told is what the store is told of known: nothing that is doubtful. The caller holds mu.
func (g *gate) told(known *broker.Backoff) *broker.Backoff {
	if g.doubtful {
		g.unsaved = true
		return nil
	}
	return known
}
