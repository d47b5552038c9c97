package engine

import (
	"math/rand/v2"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

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
	case e != nil && (e.Refused || e.Unsent):
		return finding{}
	case e == nil || e.Level >= broker.LevelResponse: // it answered this request: that says nothing of others
		g.well = true
		switch {
		case p.proven:
		case e == nil:
			delete(g.doubts, p.token.Credential)
		case e.Level < broker.LevelCredential: // what was chosen is refused
			g.doubt(p.token, e)
		}
		if p.known.Failures == 0 {
			return finding{}
		}
		g.knows(broker.Backoff{})
		g.since, g.doubtful = now.At, false
		return finding{news: &broker.Backoff{}}
	case e.Level == broker.LevelUpstream && !p.proven && g.well:
		g.doubt(p.token, e)
		return finding{ofKey: true}
	}
	// Exchanges that were under way together count as one failure: their number says nothing about the upstream.
	known := p.known
	if latest := g.latest(now); latest.Failures > known.Failures {
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
	g.knows(next)
	g.since, g.well = now.At, false
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
