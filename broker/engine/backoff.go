package engine

import (
	"math/rand/v2"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

const (
	// backoffFirst is how long after a first failure of an upstream it is left alone.
	backoffFirst = time.Second
	// backoffMost bounds the doubling of that, and retryAfterMost what an upstream may ask for.
	backoffMost    = 5 * time.Minute
	retryAfterMost = time.Hour
	// permanentFirst is how long a refused credential or selection is not tried again, at first; it grows fourfold up to
	// permanentMost, so that a dead credential costs its upstream a handful of requests a day.
	permanentFirst = time.Minute
	permanentMost  = 6 * time.Hour
	// muteMost bounds that for the first muteTries, some three hours, where the upstream does not say why: a proxy may have answered, which
	// passes; what lasts longer is taken for a refusal.
	muteMost  = 15 * time.Minute
	muteTries = 14
)

// transientWait is the wait after so many failures in a row of an upstream (the first is 1).
func transientWait(failures int, retryAfter time.Duration, jitter float64) time.Duration {
	wait := min(backoffFirst<<min(max(failures, 1)-1, 20), backoffMost)
	wait += time.Duration(jitter * float64(wait) / 4)
	return max(wait, min(retryAfter, retryAfterMost))
}

// permanentWait is the wait after so many refusals in a row (the first is 1). said is what the definition or the upstream
// asks for.
func permanentWait(refusals int, said time.Duration) time.Duration {
	wait := permanentFirst
	for range min(max(refusals, 1)-1, 8) {
		wait = min(wait*4, permanentMost)
	}
	return max(wait, min(said, 24*time.Hour))
}

// remember makes the record of a failure, counting on from the one before, nil for none.
func remember(e *broker.UpstreamError, before *broker.Remembered, now time.Time) broker.Remembered {
	r := broker.Remembered{Kind: e.Kind(), At: now, Count: 1, UpstreamStatus: e.Status, UpstreamError: e.Code, Detail: e.Detail}
	passes := e.Level <= broker.LevelResponse
	if before != nil && before.Kind.Passes() == passes { // what may pass says nothing of what was refused, nor the other way round
		r.Count = before.Count + 1
	}
	wait := max(e.RetryAfter, e.Wait)
	switch {
	case passes:
		wait = transientWait(r.Count, wait, rand.Float64()) //nolint:gosec // jitter needs no secrecy
	case e.Mute && r.Count <= muteTries: // nothing says that it is for ever
		wait = max(min(permanentWait(r.Count, 0), muteMost), min(wait, retryAfterMost))
	default:
		wait = permanentWait(r.Count, wait)
	}
	r.RetryAt = now.Add(wait)
	return r
}

// shared makes the Failure that everybody gets who asks while it is remembered.
func shared(r *broker.Remembered, c broker.Credential) *broker.Failure {
	return &broker.Failure{
		Kind: r.Kind, Credential: c.Name, Provider: c.Provider, RetryAt: r.RetryAt,
		UpstreamStatus: r.UpstreamStatus, UpstreamError: r.UpstreamError, Detail: r.Detail,
	}
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

// retryAt is when the upstream may be asked again.
func (f finding) retryAt(now time.Time) time.Time {
	if f.until.IsZero() {
		return now.Add(backoffFirst)
	}
	return f.until
}

// leaveWith is leave with what became of the exchange, nil where it went well.
//
// That a request fails says that the upstream does, if such a request is known to work or is as the operator has it. What only a caller chose may
// be what makes it fail: that counts against what was chosen, where the upstream has answered others since it last failed. Where it has not,
// nobody knows; then it is left alone, by this process, but by those who ask for what is known to work.
func (p *place) leaveWith(e *broker.UpstreamError) finding {
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

// proven reports whether a request for a target is known to work, there being a token for it, or is at least what the operator asks for:
// what only a caller chose may be what makes the upstream fail.
func proven(t target, there *broker.Issued) bool {
	return there != nil || t.sel == broker.Selection{}
}

// doubtfulMost is how many different things in a row, that only callers chose of one credential, fail each for itself. Then it may be the
// upstream after all, and what else is chosen of that credential, and not known to work, waits.
const doubtfulMost = 3

// A doubt is whether it is what callers choose of a credential that fails, or the upstream.
type doubt struct {
	// last is what failed last, and failures how often something else did than just before.
	last     [32]byte
	failures int
	// why is the last failure, and until when something else that is not known to work has to wait.
	why   broker.Remembered
	until broker.Moment
}

// refusedMost bounds how long another choice waits because others were refused: the upstream has answered, and costs them little.
const refusedMost = 15 * time.Second

// doubt notes that something failed, or was refused, that only a caller chose. The caller holds mu.
func (g *gate) doubt(key broker.TokenKey, e *broker.UpstreamError) {
	d, now := g.doubts[key.Credential], g.clock.Now()
	if d.last != key.Token {
		d.failures++
	}
	d.last = key.Token
	d.why = broker.Remembered{Kind: e.Kind(), At: now.Wall, Count: d.failures, UpstreamStatus: e.Status, UpstreamError: e.Code, Detail: e.Detail}
	if e.Level >= broker.LevelResponse { // that was said of this choice, and not of the next
		d.why.Kind, d.why.UpstreamStatus, d.why.UpstreamError = broker.UpstreamRateLimited, 0, ""
		d.why.Detail = "the upstream refuses what is chosen of this credential, one choice after the other: others wait, but for those that are known to work"
	}
	if over := d.failures - doubtfulMost; over >= 0 {
		wait := transientWait(over+1, 0, rand.Float64()) //nolint:gosec // jitter needs no secrecy
		if e.Level >= broker.LevelResponse {
			wait = min(wait, refusedMost)
		}
		d.until = now.At.Add(wait)
	}
	if g.doubts == nil {
		g.doubts = map[broker.CredentialName]doubt{}
	}
	g.doubts[key.Credential] = d
}

// doubted reports whether something that is not known to work has to wait, and why. The caller holds mu.
func (g *gate) doubted(name broker.CredentialName) (broker.Remembered, bool) {
	d, ok := g.doubts[name]
	now := g.clock.Now()
	if !ok || d.failures < doubtfulMost || now.At >= d.until {
		return broker.Remembered{}, false
	}
	d.why.RetryAt = now.Wall.Add(d.until.Sub(now.At))
	return d.why, true
}

// tries notes that something is asked for that is not known to work. Where that had to wait, it goes ahead of the others. The caller holds mu.
func (g *gate) tries(name broker.CredentialName) {
	if d, ok := g.doubts[name]; ok && d.failures >= doubtfulMost {
		d.until = g.clock.Now().At.Add(backoffFirst)
		g.doubts[name] = d
	}
}
