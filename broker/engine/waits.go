package engine

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// What a flight waits for before it begins anything: for its turn at a grant, for others' leases and commits, for its turn at the upstream. All of that
// has one bound, queueMost.

// pause waits until somebody lets go of a lease or, where turn is not nil, until its turn comes, at most for so long: errAgain. Others have their turn
// meanwhile. A flight that has waited for as long as it may fails: with StoreUnavailable where a commit is waited for, else with UpstreamSlow.
func (p *pursuit) pause(ctx context.Context, t target, most time.Duration, ended <-chan struct{}, turn chan<- struct{}) error {
	p.leave()
	now := p.b.clock.Now()
	if now.At >= p.until {
		f := failureOf(t, broker.UpstreamSlow)
		f.Detail, f.RetryAt = "other exchanges of the credential are before it", now.Wall.Add(backoffFirst)
		if p.l.commits.Load() > 0 {
			f.Kind, f.Detail = broker.StoreUnavailable, "what the last exchange has brought is not stored yet"
		}
		return f
	}
	most += time.Duration(rand.Float64() * float64(most) / 4) //nolint:gosec // jitter needs no secrecy
	timer := time.NewTimer(min(most, p.until.Sub(now.At)))
	defer timer.Stop()
	select {
	case turn <- struct{}{}:
		p.turn = true
	case <-timer.C:
	case <-ended:
	case <-ctx.Done():
	}
	return errAgain
}

// enter returns the pass of the upstream's gate, which stays in hand until leave; whoever gives it back earlier takes place away. Whoever had to wait
// for it looks again before it is used: what was read is old by then, and the store may be there again. So does one of those that wait still, now and
// then, when another broker has told of something since heard was read: errAgain, and the place is kept.
func (p *pursuit) enter(ctx context.Context, t target, known advice, there *broker.Issued, heard uint64) (*pass, error) {
	if p.place != nil && !p.place.of(t) {
		p.place.quit()
		p.place = nil
	}
	if t.upstream == "" {
		return nil, nil
	}
	if p.place == nil {
		p.place = p.b.gates.queue(t, known, there, p.need.force, p.until)
	}
	if !p.place.answered() {
		news := func() bool { return p.l.heard.Load() != heard && p.l.look(p.b.clock.Now().At) }
		if err := p.place.wait(ctx, t, news); err != nil {
			return nil, err
		}
		if p.place.admitted() {
			return nil, errAgain
		}
	}
	return p.place.result(ctx, t)
}

// leave gives the turn to another flight, and the place at the gate.
func (p *pursuit) leave() {
	if p.place != nil {
		p.place.quit()
		p.place = nil
	}
	p.leaveTurn()
}

func (p *pursuit) leaveTurn() {
	if p.turn {
		p.turn = false
		<-p.l.turn
	}
}
