package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// lookAgain is how often a flight looks whether somebody else's lease has brought a token, as the safety net below events; lookRarely is that where
// the event is this process's own.
const (
	lookAgain  = 250 * time.Millisecond
	lookRarely = 15 * time.Second
)

// errAgain says that something has moved: look again.
var errAgain = errors.New("look again")

// flightKey tells flights apart. A test of a credential is no flight that callers share.
type flightKey struct {
	lookup
	trial trial
}

// A trial is a test of a credential; the zero value is none.
type trial struct {
	on bool
	// keep: the access token is kept.
	keep bool
	// of is what is tested.
	of tested
}

// An outcome is what a flight brings. Both entry and failure are set when a valid token is there but a better one could not be
// had.
type outcome struct {
	// need is what the flight was started for.
	need    need
	entry   *entry
	failure *broker.Failure
	// attempts are the requests that it made. former: the last of them worked with former secrets.
	attempts []broker.Attempt
	former   bool
}

// join returns the flight for a key, and whether this call started it, for by. It fails with ShuttingDown, as shares.fly does, and as may does, which
// is asked before one is started; nil: nobody is.
func (b *Broker) join(key flightKey, n need, by broker.Caller, may func() error) (*flight[outcome], bool, error) {
	var land func()
	begin := func() (err error) {
		if land, err = b.shares.fly(by, key.name); err != nil || may == nil {
			return err
		}
		if err = may(); err != nil {
			land()
		}
		return err
	}
	f, mine, err := b.flights.join(key, begin, func() outcome {
		defer land()
		return b.fly(key, n)
	})
	if err != nil {
		return nil, false, asFailure(err, key.name)
	}
	return f, mine, nil
}

// refresh has a flight begin that nobody waits for. Where it may not begin yet, whoever asks soon tries again; a broker that is closing goes on
// serving what it has.
func (b *Broker) refresh(key lookup, n need) {
	_, _, err := b.join(flightKey{lookup: key}, n, broker.Caller{}, nil)
	if err == nil || broker.KindOf(err) == broker.ShuttingDown {
		return
	}
	f := asFailure(err, key.name)
	b.postpone(key, f)
	b.delayed.Do(func() { b.logFailure(slog.LevelWarn, "refresh not begun", outcome{failure: f}) })
}

// fly brings a token: from the store, or from the upstream. It ends by its own bounds: the store's, a minute of waiting, and the exchange's.
func (b *Broker) fly(key flightKey, n need) (out outcome) {
	l := b.cache.hold(key.name)
	defer b.cache.release(l)
	p := &pursuit{b: b, l: l, key: key.lookup, need: n, trial: key.trial, until: b.clock.Now().At.Add(queueMost)}
	defer p.leave()
	defer func() {
		if r := recover(); r != nil {
			b.logPanic(key.name, r)
			out = outcome{need: n, failure: &broker.Failure{Kind: broker.Internal, Credential: key.name}}
		}
		out.need, out.attempts, out.former = n, p.attempts, p.former
		if key.trial.on {
			b.trials.end(b.clock.Now().At, key, out)
		}
		b.settle(key, out)
	}()
	var last *seen // what was last read; nil: nothing
	for {
		e, s, err := p.round(b.stopping)
		if s != nil {
			last = s
		}
		if err == nil {
			return outcome{entry: e}
		}
		if errors.Is(err, errAgain) {
			if b.stopping.Err() == nil {
				continue
			}
			err = &broker.Failure{Kind: broker.ShuttingDown, Credential: key.name}
		}
		f := asFailure(err, key.name)
		if f.Kind == broker.StoreUnavailable && b.stopping.Err() != nil { // the question was cut short: that says nothing of the store
			f = &broker.Failure{Kind: broker.ShuttingDown, Credential: key.name}
		}
		if f.Kind == broker.StoreUnavailable && b.cache.shared {
			l.failures.Add(1)
			p.leaveTurn()
			if !key.trial.on {
				out, again := p.withoutStore(b.stopping, last, f)
				if again {
					continue
				}
				return out
			}
		}
		if e := p.fallback(last); e != nil || !b.cache.shared || last == nil || last.view.Token == nil {
			return outcome{entry: e, failure: f}
		}
		// What this flight has read cannot be served: it was too long ago, or something has moved since. The cache may hold what was
		// confirmed meanwhile.
		return outcome{entry: p.served(), failure: f}
	}
}

// logPanic logs a panic that was recovered. Its value may hold anything: only its type is logged.
func (b *Broker) logPanic(name broker.CredentialName, p any) {
	b.log.Error("flight panicked", "credential", string(name), "type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
}

// settle tells the entry that is being served how its refresh went. A test disturbs nobody.
func (b *Broker) settle(key flightKey, out outcome) {
	if out.failure == nil || key.trial.on {
		return // the flight has put its own entry in place
	}
	trouble := b.postpone(key.lookup, out.failure)
	switch {
	case !trouble:
	case out.need.fresh:
		b.logFailure(slog.LevelWarn, "refresh failed; the valid token goes on being served", out)
	case len(out.attempts) > 0:
		b.logFailure(slog.LevelWarn, "exchange failed", out)
	default: // what is remembered, or was asked for in vain: whoever asked is told
		b.logFailure(slog.LevelDebug, "no token", out)
	}
}

// postpone has the refresh of the entry that is being served wait for as long as its failure says, and reports whether that is a trouble of the
// token's.
func (b *Broker) postpone(key lookup, f *broker.Failure) (trouble bool) {
	now := b.clock.Now()
	trouble = f.Kind != broker.StoreUnavailable || !b.cache.shared // else it is the store's
	if e := b.cache.peek(key); e != nil {
		e.refreshFrom.Store(int64(now.At.Add(max(f.RetryAt.Sub(now.Wall), backoffFirst))))
		if trouble {
			// Watches are told when it begins, and not each time that it goes on.
			if was := e.trouble.Swap(f); was == nil || was.Kind != f.Kind {
				e.line.wake(&e.line.changed)
			}
		}
	}
	return trouble
}

// logFailure logs why a flight failed: for whoever looks after the broker, where the upstream is and what it said.
func (b *Broker) logFailure(level slog.Level, what string, out outcome, more ...slog.Attr) {
	f := out.failure
	attrs := append([]slog.Attr{slog.String("credential", string(f.Credential)), slog.String("provider", f.Provider), slog.String("outcome", f.Kind.Name())}, more...)
	if n := len(out.attempts); n > 0 {
		attrs = append(attrs, slog.String("host", out.attempts[n-1].Host))
	}
	if f.UpstreamStatus != 0 {
		attrs = append(attrs, slog.Int("status", f.UpstreamStatus))
	}
	if f.UpstreamError != "" {
		attrs = append(attrs, slog.String("upstream_error", f.UpstreamError))
	}
	if f.Detail != "" {
		attrs = append(attrs, slog.String("cause", f.Detail))
	}
	if !f.RetryAt.IsZero() {
		attrs = append(attrs, slog.Time("retry_at", f.RetryAt))
	}
	b.log.LogAttrs(b.stopping, level, what, attrs...)
}

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
	// turn: it has its turn at the grant that all keys of a seeded credential share, until the end of the round that needs it.
	turn bool
	// place is its place at the upstream's gate, or the pass that came of it; nil: it has none.
	place *waiter
	// unfit: this definition cannot present what is kept of the grant.
	unfit bool
	// late: it was too late to send what it had begun with, because the machine slept, or the store is slow.
	late bool
	// until is when it waits no longer, whatever it waits for.
	until broker.Moment
}

// seen is what a round has read, and what it was read after: whatever changes since is noticed. Immutable.
type seen struct {
	view         broker.View
	ended        <-chan struct{}
	moved, heard uint64
	at           broker.Moment
}

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
	takesTurns := t.credential.Seeded() && t.token.Spends
	if takesTurns && !p.turn { // it is had for nothing, mostly; else it is waited for only by who needs it
		select {
		case p.l.turn <- struct{}{}:
			p.turn = true
		default:
		}
	}
	s := seen{ended: p.l.ends(), moved: p.l.moved.Load(), heard: p.l.heard.Load(), at: p.b.clock.Now().At}
	s.view, err = p.b.store.Read(ctx, t.token, t.upstream)
	if err != nil {
		if broker.KindOf(err) == broker.NotFound {
			p.b.cache.forget(p.key.name)
		}
		return nil, nil, p.b.storeFailure(p.key.name, err)
	}
	if s.view.Credential.Revision != t.credential.Revision {
		p.l.learn(s.view.Credential, s.at)
		return nil, nil, errAgain
	}
	p.l.confirm(t.credential.Revision, s.at)
	e, err := p.act(ctx, t, s, takesTurns)
	return e, &s, err
}

// act does what is to be done about what a round has read. takesTurns: all keys of the credential spend one refresh token, so only one of them
// goes for it at a time, and looks after its turn has come.
func (p *pursuit) act(ctx context.Context, t target, s seen, takesTurns bool) (*entry, error) {
	b, at := p.b, p.b.clock.Now()
	now := at.Wall
	if decide(s.view.Token, now, p.need) != fetch {
		a, err := b.offer(t, s.view.Token, s.view.Mark)
		if err == nil {
			return b.cache.put(p.l, a, s.at, s.moved)
		} // the definition presents something that this token does not have: another is needed
	}
	if e := b.cache.peek(p.key); e != nil && e.local && e.mark == s.view.Mark { // the store has none still
		b.cache.confirm(e, s.at)
		b.cache.warm(e)
		if !p.need.stored && decide(e.issued, e.wall(at), p.need) != fetch {
			return e, nil
		}
	}
	if f := p.remembered(t, s.view, now); f != nil {
		return nil, f
	}
	if there := s.view.Token; keeps(there, now) && !p.need.force && (there.Rejected || there.ID == p.need.rejected) {
		return nil, refusesFresh(t.credential, there)
	}
	if takesTurns && !p.turn {
		return nil, p.pause(ctx, t, queueMost, nil, p.l.turn)
	}
	defer func() {
		if p.place == nil {
			p.leave()
		}
	}()
	if f := p.l.unstored.Load(); f != nil && !b.cache.shared {
		told := failureOf(t, f.Kind) // as the disk itself would: the next try stores what has come, and no other exchange may
		told.Detail, told.RetryAt = f.Detail, now.Add(backoffFirst)
		return nil, told
	}
	if p.l.commits.Load() > 0 {
		return nil, p.pause(ctx, t, lookRarely, s.ended, nil)
	}
	if s.view.LeaseLeft > 0 {
		return nil, p.pause(ctx, t, min(s.view.LeaseLeft, lookAgain), s.ended, nil)
	}
	run, err := p.choose(t, s.view, now)
	if errors.Is(err, errLooksAlive) {
		return nil, p.pause(ctx, t, lookAgain, s.ended, nil)
	}
	if err != nil {
		return nil, err
	}
	if t.astray {
		return nil, b.follow(ctx, t)
	}
	// The pass first, the lease second: a lease's time is for the exchange.
	granted, err := p.enter(ctx, t, advice{known: s.view.Upstream, unknown: s.view.UpstreamUnknown, read: s.at}, s.view.Token, s.heard)
	if err != nil {
		return nil, err
	}
	return p.exchange(ctx, t, run, granted, s)
}

// recheck is about a failure to resolve what this process knows of a credential. That may be out of date: it is forgotten, and the next
// round reads; so such a failure is told only of what was read just now.
func (p *pursuit) recheck(ctx context.Context, c broker.Credential, err error) error {
	read := p.b.clock.Now().At
	there, readErr := p.b.store.Credential(ctx, p.key.name)
	switch {
	case readErr != nil:
		if broker.KindOf(readErr) == broker.NotFound {
			p.b.cache.forget(p.key.name)
		}
		return p.b.storeFailure(p.key.name, readErr)
	case there.Revision != c.Revision:
		p.l.learn(there, read)
		return errAgain
	}
	return err
}

// fallback is the entry that is served although something better was wanted; nil: none. It is not cached: a flight that
// fails changes nothing, and what was read may have been dropped since, of which the line tells, or too long ago to be served.
func (p *pursuit) fallback(s *seen) *entry {
	b, now := p.b, p.b.clock.Now()
	if s == nil || p.trial.on || !fallback(s.view.Token, now.Wall, need{rejected: p.need.rejected}) {
		return nil
	}
	if p.l.moved.Load() != s.moved || b.cache.shared && now.At.Sub(s.at) >= b.cache.bound {
		return nil
	}
	t, err := b.resolve(p.key, s.view.Credential)
	if err != nil {
		return nil
	}
	a, err := b.offer(t, s.view.Token, s.view.Mark)
	if err != nil {
		return nil
	}
	return b.cache.entryOf(p.l, a, s.at)
}

// served is the entry that is in the cache, and trusted, where what this flight has read is too old.
func (p *pursuit) served() *entry {
	n := need{rejected: p.need.rejected}
	e, v := p.b.cache.look(p.key, n, p.b.clock.Now(), p.b.upstream.Revision())
	if v == fetch {
		return nil
	}
	return e
}

// remembered is the failure that is to be shared instead of asking; nil: there is none.
func (p *pursuit) remembered(t target, v broker.View, now time.Time) *broker.Failure {
	if p.need.force {
		return nil // the operator says: try now
	}
	for _, r := range []*broker.Remembered{v.CredentialFailure, v.KeyFailure} {
		if r != nil && now.Before(r.RetryAt) {
			return t.blamed(share(r, t.credential))
		}
	}
	return nil
}

// errLooksAlive says that whoever is presenting the refresh token may still come back with its successor.
var errLooksAlive = errors.New("its owner may still come back")

// choose decides between obtain and refresh, and whether a refresh token that may be spent is presented.
func (p *pursuit) choose(t target, v broker.View, now time.Time) (broker.Run, error) {
	f, g := t.facts, v.Grant
	if !f.Refreshes || g.None() {
		if f.Obtains {
			return broker.Obtain, nil
		}
		return 0, failureOf(t, broker.ReauthorizationRequired)
	}
	if p.unfit && f.Obtains {
		return broker.Obtain, nil
	}
	if refused := g.RefusedFor(f.Digest, now); refused != nil {
		if f.Obtains {
			return broker.Obtain, nil
		}
		if p.need.force && !p.asked {
			return broker.Refresh, nil // it cannot become worse
		}
		r := *refused
		if r.Kind = broker.ReauthorizationRequired; g.RefusedBy == "" || g.RefusedBy == f.Digest {
			r.RetryAt = time.Time{}
		}
		return 0, share(&r, t.credential)
	}
	if !g.MayBeSpent() || f.Reuse.Allowed || g.UsedFor > 0 && g.UsedFor < f.Reuse.Within {
		return broker.Refresh, nil
	}
	if f.Obtains {
		return broker.Obtain, nil // never presented again
	}
	if there := v.Token; there != nil && now.Before(there.ExpireAt) && !there.Rejected && !p.need.force {
		// While the old access token serves, nothing is gained by the risk.
		f := failureOf(t, broker.RefreshUncertain)
		f.RetryAt = there.ExpireAt
		return 0, f
	}
	if p.b.cache.shared && !g.Marker.IsZero() && !p.l.watched(t.token.Grant, g.Marker, p.b.clock.Now().Ran) {
		return 0, errLooksAlive
	}
	return broker.Refresh, nil
}

// storeFailure passes a store's kind on, and nothing else of it.
func (b *Broker) storeFailure(name broker.CredentialName, err error) *broker.Failure {
	var f *broker.Failure
	if errors.As(err, &f) && f.Credential != "" {
		return f
	}
	k := broker.KindOf(err)
	if k == broker.Internal && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		k = broker.Canceled
	}
	out := &broker.Failure{Kind: k, Credential: name}
	if f != nil {
		out.Detail = f.Detail
	}
	if k == broker.StoreUnavailable {
		out.RetryAt = b.clock.Now().Wall.Add(backoffFirst)
	}
	return out
}

func asFailure(err error, name broker.CredentialName) *broker.Failure {
	var f *broker.Failure
	if errors.As(err, &f) {
		return f
	}
	return &broker.Failure{Kind: broker.KindOf(err), Credential: name}
}
