package gate

import (
	"math/rand/v2"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

const (
	// FirstWait is how long an upstream is left alone after a first failure.
	FirstWait = time.Second
	// waitMost bounds the doubling of that.
	waitMost = 5 * time.Minute
	// RetryAfterMost bounds what an upstream may ask for.
	RetryAfterMost = time.Hour
)

// WaitAfter is the wait after so many failures in a row that may pass (the first is 1). retryAfter is what the upstream asks for; jitter is from 0 to 1.
func WaitAfter(failures int, retryAfter time.Duration, jitter float64) time.Duration {
	wait := min(FirstWait<<min(max(failures, 1)-1, 20), waitMost)
	wait += time.Duration(jitter * float64(wait) / 4)
	return max(wait, min(retryAfter, RetryAfterMost))
}

// A Finding is what has become known of an upstream by an exchange.
type Finding struct {
	// News is what all brokers are to know of it now; nil: nothing new.
	News *broker.Backoff
	// OfKey: it is what was asked for that fails, and not the upstream.
	OfKey bool
	until time.Time // it is left alone; zero: it is not
}

// RetryAt is when the upstream may be asked again.
func (f Finding) RetryAt(now time.Time) time.Time {
	if f.until.IsZero() {
		return now.Add(FirstWait)
	}
	return f.until
}

// LeaveWith is Leave with what became of the exchange, nil where it went well.
//
// That a request fails says that the upstream does, if such a request is known to work or is as the operator has it. What only a caller chose may
// be what makes it fail: that counts against what was chosen, where the upstream has answered others since it last failed. Where it has not,
// nobody knows; then it is left alone, by this process, but by those who ask for what is known to work.
func (p *Place) LeaveWith(e *broker.UpstreamError) Finding {
	if p == nil {
		return Finding{}
	}
	defer p.Leave()
	g, now := p.gate, p.gate.clock.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case e != nil && (e.Refused || e.Unsent):
		return Finding{}
	case e == nil || e.Level >= broker.LevelResponse: // it answered this request: that says nothing of others
		g.well = true
		switch {
		case p.Proven:
		case e == nil:
			delete(g.doubts, p.Token.Credential)
		case e.Level < broker.LevelCredential: // what was chosen is refused
			g.doubt(p.Token, e)
		}
		if p.known.Failures == 0 {
			return Finding{}
		}
		g.knows(broker.Backoff{})
		g.since, g.doubtful = now.At, false
		return Finding{News: &broker.Backoff{}}
	case e.Level == broker.LevelUpstream && !p.Proven && g.well:
		g.doubt(p.Token, e)
		return Finding{OfKey: true}
	}
	// Exchanges that were under way together count as one failure: their number says nothing about the upstream.
	known := p.known
	if latest := g.latest(now); latest.Failures > known.Failures {
		if e.RetryAfter <= latest.Until.Sub(now.Wall) && (g.doubtful == !p.Proven) {
			return Finding{News: g.told(&latest), until: latest.Until}
		}
		known = latest
	}
	next := broker.Backoff{Failures: known.Failures + 1, Last: e.Remembered(now.Wall, known.Failures+1)}
	next.Until = now.Wall.Add(WaitAfter(next.Failures, max(e.RetryAfter, e.Wait), rand.Float64())) //nolint:gosec // jitter needs no secrecy
	next.Last.RetryAt = next.Until
	g.doubtful = e.Level == broker.LevelUpstream && !p.Proven && (known.Failures == 0 || g.doubtful)
	g.knows(next)
	g.since, g.well = now.At, false
	return Finding{News: g.told(&next), until: next.Until}
}

// told is what the store is told of known: nothing that is doubtful. The caller holds mu.
func (g *gate) told(known *broker.Backoff) *broker.Backoff {
	if g.doubtful {
		g.unsaved = true
		return nil
	}
	return known
}
