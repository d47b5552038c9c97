package engine

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// What a flight waits for before it begins anything: for its turn at a grant, for others' leases and commits, for its turn at the upstream. All of that
// has one bound, queueMost.

// pause waits until somebody lets go of a lease or, where turn is not nil, until its turn comes, at most for so long: errAgain. Whoever has the turn keeps
// it: others would wait for the same lease. The place at the gate goes to others meanwhile. A flight that has waited for as long as it may fails: with StoreUnavailable where a commit is waited for, else with UpstreamSlow.
func (p *pursuit) pause(ctx context.Context, most time.Duration, ended <-chan struct{}, turn chan<- struct{}) error {
	p.leavePlace()
	p.rounds = 0
	now := p.b.clock.Now()
	if now.At >= p.until {
		f := &broker.Failure{Kind: broker.UpstreamSlow, Credential: p.l.name, Provider: p.b.providerOf(p.l.name, nil), RetryAt: now.Wall.Add(backoffFirst)}
		f.Detail = "other exchanges of the credential are before it"
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
		p.leavePlace()
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
	p.leavePlace()
	p.leaveTurn()
}

func (p *pursuit) leavePlace() {
	if p.place != nil {
		p.place.quit()
		p.place = nil
	}
}

func (p *pursuit) leaveTurn() {
	if p.turn {
		p.turn = false
		<-p.l.turn
	}
}
