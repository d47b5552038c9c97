package broker

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// A gate bounds what one upstream is asked: so many exchanges at a time, a declared rate, and nothing while it is known to
// be failing, but for one exchange that tries whether it is well again.
type gate struct {
	host  string
	slots chan struct{}

	mu      sync.Mutex
	limit   *rate.Limiter
	last    Backoff       // what this process knows, for when the store is away
	probing chan struct{} // closed when the exchange that tries has ended; nil: none is trying
}

// queueMost is how long a flight waits for an upstream's turn; callers have their own deadlines.
const queueMost = time.Minute

func (b *Broker) gate(host string, f *Facts) *gate {
	v, ok := b.gates.Load(host)
	if !ok {
		v, _ = b.gates.LoadOrStore(host, &gate{host: host, slots: make(chan struct{}, b.perHost)})
	}
	g := v.(*gate)
	if f.RateRequests > 0 {
		g.mu.Lock()
		// Half of the rate may come at once and the other half is spread, so that no period sees more than was declared.
		burst := max(f.RateRequests/2, f.Requests)
		every := rate.Limit(float64(max(f.RateRequests-burst, 1)) / f.RatePeriod.Seconds())
		if g.limit == nil || g.limit.Limit() != every || g.limit.Burst() != burst {
			g.limit = rate.NewLimiter(every, burst)
		}
		g.mu.Unlock()
	}
	return g
}

// A pass is the right to one exchange with an upstream. Give it back with leave.
type pass struct {
	gate  *gate
	alone bool
	probe chan struct{}
	known Backoff
}

// enter waits for the upstream's turn. It fails with the upstream's remembered failure while it is to be left alone, unless
// with force, and with UpstreamRateLimited when its turn is too far away. alone: the store is not asked.
func (b *Broker) enter(ctx context.Context, g *gate, f *Facts, c Credential, force, alone bool) (*pass, error) {
	ctx, cancel := context.WithTimeout(ctx, queueMost)
	defer cancel()
	slow := func(wait time.Duration) error {
		if b.stopping.Err() != nil {
			return &Failure{Kind: ShuttingDown, Credential: c.Name, Provider: c.Provider}
		}
		return &Failure{Kind: UpstreamRateLimited, Credential: c.Name, Provider: c.Provider, RetryAt: time.Now().Add(wait)}
	}
	select {
	case g.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, slow(backoffFirst)
	}
	p := &pass{gate: g, alone: alone}
	for {
		known, err := b.known(ctx, p)
		if err != nil {
			p.leave()
			return nil, storeFailure(c.Name, err)
		}
		p.known = known
		if known.Failures == 0 || force {
			break
		}
		if time.Now().Before(known.Until) {
			p.leave()
			r := known.Last
			r.RetryAt = known.Until
			return nil, r.failure(c)
		}
		trying := p.try()
		if trying == nil {
			break
		}
		select {
		case <-trying: // look again
		case <-ctx.Done():
			p.leave()
			return nil, slow(backoffFirst)
		}
	}
	g.mu.Lock()
	limit := g.limit
	g.mu.Unlock()
	if limit != nil {
		if err := limit.WaitN(ctx, f.Requests); err != nil {
			p.leave()
			return nil, slow(f.RatePeriod / time.Duration(max(f.RateRequests, 1)))
		}
	}
	return p, nil
}

// known is what is known of the upstream.
func (b *Broker) known(ctx context.Context, p *pass) (Backoff, error) {
	g := p.gate
	if p.alone {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.last, nil
	}
	known, err := b.store.Backoff(ctx, g.host)
	if err == nil {
		g.remember(known)
	}
	if KindOf(err) == StoreUnavailable && err != nil && b.trusted.shared {
		// It is advisory, and may lie in another part of the store than the credential: what is known has to do.
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.last, nil
	}
	return known, err
}

// save tells everybody.
func (b *Broker) save(ctx context.Context, p *pass, known Backoff) error {
	p.gate.remember(known)
	if p.alone {
		return nil
	}
	return b.store.SaveBackoff(ctx, p.gate.host, known)
}

func (g *gate) remember(known Backoff) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.last = known
}

// try claims the one exchange that finds out whether the upstream is well again, or returns what to wait for.
func (p *pass) try() <-chan struct{} {
	g := p.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.probing != nil {
		return g.probing
	}
	g.probing = make(chan struct{})
	p.probe = g.probing
	return nil
}

// leave gives the pass back. A nil pass is given back already.
func (p *pass) leave() {
	if p == nil {
		return
	}
	if p.probe != nil {
		p.gate.mu.Lock()
		p.gate.probing = nil
		close(p.probe)
		p.gate.mu.Unlock()
	}
	<-p.gate.slots
}

// worked forgets the upstream's failures.
func (b *Broker) worked(ctx context.Context, p *pass) {
	if p == nil || p.known.Failures == 0 {
		return
	}
	if err := b.save(ctx, p, Backoff{}); err != nil {
		b.log.Warn("backoff not cleared", "upstream", p.gate.host, "kind", KindOf(err).Name())
	}
}

// failing counts a failure of the upstream, and returns until when it is to be left alone.
func (b *Broker) failing(ctx context.Context, p *pass, e *UpstreamError, now time.Time) time.Time {
	if p == nil {
		return now.Add(backoffFirst)
	}
	// Exchanges that were under way together count as one failure: their number says nothing about the upstream.
	known := p.known
	if latest, err := b.known(ctx, p); err == nil && latest.Failures > known.Failures {
		if e.RetryAfter <= latest.Until.Sub(now) {
			return latest.Until
		}
		known = latest
	}
	next := Backoff{Failures: known.Failures + 1, Last: Remembered{
		Kind: e.Kind(), At: now, Count: known.Failures + 1, UpstreamStatus: e.Status, UpstreamError: e.Code,
	}}
	next.Until = now.Add(transientWait(next.Failures, max(e.RetryAfter, e.Wait), rand.Float64())) //nolint:gosec // jitter needs no secrecy
	next.Last.RetryAt = next.Until
	if err := b.save(ctx, p, next); err != nil {
		b.log.Warn("backoff not stored", "upstream", p.gate.host, "kind", KindOf(err).Name())
	}
	return next.Until
}
