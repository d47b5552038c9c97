package engine

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/gate"
	"github.com/tokenbroker/tokenbroker/broker/trace"
)

// lookAgain is how often a flight looks whether somebody else's lease has brought a token, as the safety net below events; lookRarely is that where
// the event is this process's own.
const (
	lookAgain  = 250 * time.Millisecond
	lookRarely = 15 * time.Second
)

// waitMost is how long a flight waits, for a turn, a lease and a commit together; callers have their own deadlines.
const waitMost = time.Minute

// roundsAtOnce is how many rounds a flight makes without a pause.
const roundsAtOnce = 10

// stoodMost is how many readings that are too old a flight makes once more: a store that is always so slow must not keep others waiting.
const stoodMost = 3

// errAgain says that something has moved: look again.
var errAgain = errors.New("look again")

// A pursuit is a flight at work: what it is for, and what it has done so far.
type pursuit struct {
	b     *Broker
	l     *line
	key   lookup
	need  need
	trial trial
	// asked: the upstream was asked, so that a test has been made, and nothing is obtained a second time. attempts are its requests, of which
	// the last worked with former secrets if former. All are written by ask.
	asked    bool
	attempts []broker.Attempt
	former   bool
	// turn is at the grant that it goes for; nil: it spends none. mine: it has it, until it has made its exchange.
	turn *turn
	mine bool
	// place is its place at the upstream's gate, until it is left; nil: it has none.
	place *gate.Place
	// unfit: this definition cannot present what is kept of the grant.
	unfit bool
	// stood is how many readings in a row were older, when they came, than anything is relied on, and were made once more.
	stood int
	// late: it was too late to send what it had begun with, because the machine slept, or the store is slow. untried: the same of the secret that is
	// set, after a former one was refused.
	late, untried bool
	// until is when it waits no longer, whatever it waits for, and rounds how many it has made since it last waited.
	until  broker.Moment
	rounds int
}

// seen is what a round has read, and what it was read after: whatever changes since is noticed. Immutable.
type seen struct {
	view  broker.View
	ended <-chan struct{}
	moved movedTo
	heard uint64
	// at is when that began, and told the same: times that were read are by the wall clock of then.
	at   broker.Moment
	told broker.Instant
}

// wall is the time of day that times which were read are held against.
func (s seen) wall(now broker.Instant) time.Time { return s.told.Steady(now) }

// round looks once at everything, and does the one thing that is to be done. errAgain: look again. It returns what it has read as well;
// nil: it did not get to it.
func (p *pursuit) round(ctx context.Context) (*entry, *seen, error) {
	c, err := p.b.credential(ctx, p.l)
	if err != nil {
		return nil, nil, err
	}
	t, err := p.b.resolve(p.key, c)
	if err != nil {
		return nil, nil, p.recheck(ctx, c, err)
	}
	p.want(t)
	now := p.b.clock.Now()
	s := seen{ended: p.l.ends(), moved: p.l.moves.now(), heard: p.l.heard.Load(), at: now.At, told: now}
	s.view, err = p.b.store.Read(ctx, t.token, t.upstream) // it also puts in place again what a failover has undone
	if err != nil {
		if broker.KindOf(err) == broker.NotFound {
			p.b.cache.forget(p.key.name)
		}
		return nil, nil, p.b.storeFailure(p.key.name, err)
	}
	p.b.cache.learn(p.l, s.view.Credential, s.at, s.moved)
	if p.b.cache.undelivered(p.l, s.view.Token) {
		rejected := *s.view.Token
		rejected.Rejected = true
		s.view.Token = &rejected
	}
	if s.view.Credential.Revision != t.credential.Revision {
		p.b.cache.lapsed(t.token, s)
		return nil, nil, errAgain
	}
	stored, err := p.found(t, s) // however old it is: what comes next may fail
	if err != nil {
		return nil, nil, err
	}
	if !p.b.stoodSince(s.at) {
		p.stood = 0
	} else if p.stood++; p.stood <= stoodMost {
		return nil, nil, errAgain
	}
	e, err := p.act(ctx, t, s, stored)
	return e, &s, err
}

// want takes the turn at the grant that a target spends. Mostly it is free; a flight that finds what it needs stored does not wait for it, and one that
// waits looks after its turn has come.
func (p *pursuit) want(t target) {
	if p.turn != nil && (!t.token.Spends || p.turn.grant != t.token.Grant) {
		p.unwant()
	}
	if !t.token.Spends || p.mine {
		return
	}
	if p.turn == nil {
		p.turn = p.l.wants(t.token.Grant)
	}
	select {
	case p.turn.taken <- struct{}{}:
		p.mine = true
	default:
	}
}

// unwant is for a flight that goes for that grant no more.
func (p *pursuit) unwant() {
	p.leaveTurn()
	if p.turn != nil {
		p.l.unwanted(p.turn)
		p.turn = nil
	}
}

// act does the step that is planned for what a round has read. stored is the entry of that; nil: it cannot be served.
func (p *pursuit) act(ctx context.Context, t target, s seen, stored *entry) (*entry, error) {
	b, now := p.b, p.b.clock.Now()
	good := stored != nil && decide(s.view.Token, s.wall(now), p.need) != fetch
	local := b.cache.peekFor(t)
	if local != nil && local.local && local.mark == s.view.Mark && !good { // the store has none still
		b.cache.confirm(local, s.at)
		b.cache.warm(local)
	} else {
		local = nil
	}
	next := situation{
		target: t, view: s.view, need: p.need, now: now.Wall, good: good,
		local:   local != nil && !p.need.stored && decide(local.issued, local.wall(now), p.need) != fetch,
		mayTake: p.turn == nil || p.mine, shared: b.cache.shared, unstored: p.l.unstored.Load(), committing: p.l.commits.Load() > 0,
		asked: p.asked, unfit: p.unfit,
	}.plan()
	switch next.step {
	case serveStored:
		return stored, nil
	case serveLocal:
		return local, nil
	case fail:
		return nil, next.failure
	case awaitTurn:
		return nil, p.pause(ctx, "await turn", waitMost, nil, p.turn.taken)
	case awaitCommit:
		return nil, p.pause(ctx, "await commit", lookRarely, s.ended, nil)
	case awaitLease:
		return nil, p.pause(ctx, "await lease", min(s.view.LeaseLeft, lookAgain), s.ended, nil)
	case noteDestinations:
		p.leave()
		return nil, b.follow(ctx, t)
	case askWhenAbandoned:
		if !p.l.watched(t.token.Grant, s.view.Grant.Marker, now.Ran) {
			return nil, p.pause(ctx, "await presentation", lookAgain, s.ended, nil)
		}
	case ask:
	}
	// The place first, the lease second: a lease's time is for the exchange.
	if err := p.enter(ctx, t, gate.Advice{Known: s.view.Upstream, Unknown: s.view.UpstreamUnknown, Read: s.at}, s.view.Token, s.heard); err != nil {
		return nil, err
	}
	return p.exchange(ctx, t, next.run, s)
}

// recheck is about a failure to resolve what this process knows of a credential. That may be out of date: it is forgotten, and the next
// round reads; so such a failure is told only of what was read just now.
func (p *pursuit) recheck(ctx context.Context, c broker.Credential, err error) error {
	read, moved := p.b.clock.Now().At, p.l.moves.now()
	there, readErr := p.b.store.Credential(ctx, p.key.name)
	switch {
	case readErr != nil:
		if broker.KindOf(readErr) == broker.NotFound {
			p.b.cache.forget(p.key.name)
		}
		return p.b.storeFailure(p.key.name, readErr)
	case there.Revision != c.Revision:
		p.b.cache.learn(p.l, there, read, moved)
		return errAgain
	}
	return err
}

// found has what has been read, where it can be served, take the place of whatever this process has of that token, and returns its entry, whatever the
// flight needs: what fails later fails with it in the cache. nil: it cannot be served, and what was there before is over.
func (p *pursuit) found(t target, s seen) (*entry, error) {
	b := p.b
	if b.cache.lapsed(t.token, s) {
		return nil, nil
	}
	if a, err := b.offer(t, s.view.Token, s.told, s.view.Mark); err == nil {
		return b.cache.found(p.l, a, s, decide(s.view.Token, s.wall(b.clock.Now()), p.need) != fetch)
	}
	// The definition presents something that this token does not have: another is needed.
	b.cache.outdate(t.token, s)
	return nil, nil
}

// served is the entry that is in the cache, and trusted, although something better was wanted; nil: none.
func (p *pursuit) served() *entry {
	n := need{rejected: p.need.rejected}
	e, v := p.b.cache.look(p.key, n, p.b.clock.Now(), p.b.upstream.Revision())
	if v == fetch || p.trial.on {
		return nil
	}
	return e
}

// What a flight waits for before it begins anything: for its turn at a grant, for others' leases and commits, for its turn at the upstream. All of that
// has one bound, waitMost.

// pause waits until somebody lets go of a lease or, where turn is not nil, until its turn comes, at most for so long: errAgain. Whoever has the turn keeps
// it: others would wait for the same lease. The place at the gate goes to others. A flight that has waited for as long as it may fails: with
// StoreUnavailable where a commit is waited for, else with UpstreamSlow. what is how a trace calls it.
func (p *pursuit) pause(ctx context.Context, what string, most time.Duration, ended <-chan struct{}, turn chan<- struct{}) error {
	p.leavePlace()
	p.rounds = 0
	now := p.b.clock.Now()
	if now.At >= p.until {
		f := &broker.Failure{Kind: broker.UpstreamSlow, Credential: p.l.name, Provider: p.b.providerOf(p.l.name, nil), RetryAt: now.Wall.Add(retryFirst)}
		f.Detail = "other exchanges of the credential are before it"
		if p.l.commits.Load() > 0 {
			f.Kind, f.Detail = broker.StoreUnavailable, "what the last exchange has brought is not stored yet"
		}
		return f
	}
	ctx, step := trace.Begin(ctx, what)
	defer step.End(nil)
	most += time.Duration(rand.Float64() * float64(most) / 4) //nolint:gosec // jitter needs no secrecy
	timer := time.NewTimer(min(most, p.until.Sub(now.At)))
	defer timer.Stop()
	select {
	case turn <- struct{}{}:
		p.mine = true
	case <-timer.C:
	case <-ended:
	case <-ctx.Done():
	}
	return errAgain
}

// enter takes a place at the upstream's gate, and waits until it is in. Whoever had to wait looks again before it is used: what was read is old by then,
// and the store may be there again. So does one of those that wait still, now and then, when another broker has told of something since heard was
// read: errAgain, and the place is kept.
func (p *pursuit) enter(ctx context.Context, t target, known gate.Advice, there *broker.Issued, heard uint64) error {
	ask := gate.Ask{
		Upstream: t.upstream, Facts: t.facts, Token: t.token, Proven: there != nil || t.sel == broker.Selection{}, Force: p.need.force, Until: p.until,
	}
	if p.place != nil && !p.place.For(ask) {
		p.leavePlace()
	}
	if t.upstream == "" {
		return nil
	}
	if p.place == nil {
		p.place = p.b.gates.Queue(ask, known)
	}
	ctx, step := trace.Begin(ctx, "await upstream")
	waited, err := p.place.Wait(ctx, func() bool { return p.l.heard.Load() != heard && p.l.look(p.b.clock.Now().At) })
	step.End(err)
	if err != nil || !waited {
		return err
	}
	p.rounds = 0
	return errAgain
}

// leave gives the turn to another flight, and the place at the gate.
func (p *pursuit) leave() {
	p.leavePlace()
	p.leaveTurn()
}

func (p *pursuit) leavePlace() {
	p.place.Leave()
	p.place = nil
}

func (p *pursuit) leaveTurn() {
	if p.mine {
		p.mine = false
		<-p.turn.taken
	}
}
