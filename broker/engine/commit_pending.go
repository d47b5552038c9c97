package engine

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/trace"
)

const (
	// storeRetry is how often a commit is tried while the store is away.
	storeRetry = 500 * time.Millisecond
	// commitMost bounds one such try where a network may hang; a disk is waited for.
	commitMost = time.Second
	// commitWait is how long a flight waits for a commit that must not get lost.
	commitWait = 3 * time.Second
	// lastTry bounds the one that is made when the broker is stopped.
	lastTry = 2 * time.Second
)

// errUnstored says that a token could not be committed in time, and may be handed out all the same.
var errUnstored = errors.New("not stored yet")

// A pending is the end of an exchange on its way to the store: whoever holds an answer commits it, and whoever holds a lease gives
// it back, for as long as it counts.
type pending struct {
	l     *line
	lease broker.Lease
	// spends: the exchange presents a refresh token.
	spends bool
	// ends is when the lease ends by itself.
	ends broker.Moment
}

// A storing is one try to bring a pending to the store.
type storing func(context.Context) (broker.Committed, error)

// committing stores what an exchange brought, whose token was issued at an instant, failing why it brought nothing, and release says that nothing was sent.
func (p *pending) committing(clock *broker.Clock, o broker.Outcome, told broker.Instant) storing {
	return traced("commit", func(ctx context.Context) (broker.Committed, error) {
		return p.lease.Commit(ctx, outcomeNow(clock, o, told))
	})
}

// outcomeNow is an outcome with its token's times by the wall clock as it is now.
func outcomeNow(clock *broker.Clock, o broker.Outcome, told broker.Instant) broker.Outcome {
	if o.Token != nil {
		t := o.Token.Told(told, clock.Now())
		o.Token = &t
	}
	return o
}

func (p *pending) failing(r broker.FailureRecord) storing {
	return traced("record failure", func(ctx context.Context) (broker.Committed, error) {
		return broker.Committed{}, p.lease.Fail(ctx, r)
	})
}

func (p *pending) release(ctx context.Context) (broker.Committed, error) {
	return traced("release lease", func(ctx context.Context) (broker.Committed, error) {
		return broker.Committed{}, p.lease.Release(ctx)
	})(ctx)
}

// traced has each try be a step of the trace.
func traced(name string, store storing) storing {
	return func(ctx context.Context) (done broker.Committed, err error) {
		ctx, step := trace.Begin(ctx, name)
		defer func() { step.End(err) }()
		return store(ctx)
	}
}

// once tries once. Where the broker was stopped before, it is the last try. A try whose time was over because the process stood says nothing of the
// store, and does not count.
func (b *Broker) once(ctx context.Context, p *pending, store storing) (done broker.Committed, err error) {
	defer func() {
		if r := recover(); r != nil {
			b.logPanic(ctx, p.l.name, r)
			err = &broker.Failure{Kind: broker.Internal, Credential: p.l.name}
		}
		b.took(p.l, err)
	}()
	began := b.clock.Now().At
	if done, err = b.one(ctx, store); err != nil && b.stoodSince(began) {
		done, err = b.one(ctx, store)
	}
	return done, err
}

func (b *Broker) one(ctx context.Context, store storing) (broker.Committed, error) {
	ctx, cancel := b.briefly(ctx)
	defer cancel()
	return store(ctx)
}

// stoodSince reports whether what was asked of the store at a moment took longer than anything is relied on: the process stood, or the question hung, and
// others have gone on.
func (b *Broker) stoodSince(asked broker.Moment) bool {
	return b.cache.shared && b.clock.Now().At.Sub(asked) >= b.cache.bound
}

// briefly bounds one try. A network may hang, and a disk is waited for; but for whoever stops the broker.
func (b *Broker) briefly(ctx context.Context) (context.Context, context.CancelFunc) {
	switch {
	case ctx.Err() != nil:
		return context.WithTimeout(context.WithoutCancel(ctx), lastTry)
	case b.cache.shared:
		return context.WithTimeout(ctx, commitMost)
	}
	return ctx, func() {}
}

// behind goes on trying, the first time after a while, until it is done: as long as the lease lasts or, where it must, until the broker is stopped. Only
// a record that cannot be read ends that earlier, with the lease: it does not mend itself. then gets what came of it; nil: nobody does. It belongs to the
// trace of ctx, and outlives it.
func (b *Broker) behind(ctx context.Context, p *pending, must bool, after time.Duration, store storing, then func(broker.Committed, error)) {
	b.cache.hold(p.l.name) // whoever comes next has to find it
	ctx = trace.Detach(ctx, b.stopping)
	b.running.Go(func() {
		defer b.cache.release(p.l)
		defer p.l.wake(&p.l.ended)
		for ; ; after = storeRetry {
			select {
			case <-b.stopping.Done():
			case <-time.After(after):
			}
			stopped := b.stopping.Err() != nil
			done, err := b.once(ctx, p, store)
			if err != nil && !stopped && (must && broker.KindOf(err) == broker.StoreUnavailable || b.clock.Now().At < p.ends) {
				continue
			}
			p.l.unstored.Store(nil) // nothing waits for it any more
			if then != nil {
				then(done, err)
			}
			return
		}
	})
}

// commit commits what an exchange brought, whose token was issued at an instant. What hangs on a refresh token goes on until it is stored: nobody is given an access token whose refresh token is not. A flight waits
// only a while for what goes on: a token that is still valid must not be hidden by one that is not stored yet. Where local says so, a token that hangs on
// none is not waited for: errUnstored. Where the store is this broker's own and takes nothing, as on a full disk, whoever asks is told at once: nobody
// waits for somebody to make room.
func (b *Broker) commit(ctx context.Context, p *pending, o broker.Outcome, told broker.Instant, local bool) (broker.Committed, error) {
	store := p.committing(b.clock, o, told)
	done, err := b.once(ctx, p, store)
	if err == nil {
		return done, nil
	}
	must := !o.RefreshToken.IsZero() || p.spends || o.DropGrant
	b.logWaiting(ctx, must, "commit waits for the store", p.l.name, err)
	away := broker.KindOf(err) == broker.StoreUnavailable
	if !must && local && away {
		return broker.Committed{}, errUnstored
	}
	if must {
		p.l.commits.Add(1) // nothing is presented until it is stored
	}
	stored := make(chan broker.Committed, 1)
	b.behind(ctx, p, must, storeRetry, store, func(done broker.Committed, err error) {
		if must {
			p.l.commits.Add(-1)
		}
		if err == nil {
			stored <- done
			return
		}
		if !o.RefreshToken.IsZero() {
			b.lost.Add(1)
			b.log.ErrorContext(ctx, "commit given up: a refresh token is lost", "credential", string(p.l.name), "kind", broker.KindOf(err).Name())
		}
		close(stored)
	})
	if away && !b.cache.shared {
		return broker.Committed{}, b.storeFailure(p.l.name, err)
	}
	select {
	case done, ok := <-stored:
		if ok {
			return done, nil
		}
	case <-time.After(commitWait):
	case <-ctx.Done():
	}
	return broker.Committed{}, b.storeFailure(p.l.name, err)
}

// commitBehind goes on with a commit whose token is handed out already. One that is invalidated meanwhile is not stored, or is
// dropped again: also where an answer was lost, or it was given up, and it has arrived all the same.
func (b *Broker) commitBehind(ctx context.Context, o broker.Outcome, e *entry) {
	var asked broker.Moment
	var moved movedTo
	store := traced("commit", func(ctx context.Context) (broker.Committed, error) {
		if e.dropped.Load() {
			o.Token = nil
		}
		asked, moved = b.clock.Now().At, e.line.moves.now()
		return e.pending.lease.Commit(ctx, outcomeNow(b.clock, o, e.told))
	})
	arrived := func(done broker.Committed, err error) { b.cache.arrived(e, done, err, asked, moved) }
	b.behind(ctx, e.pending, false, storeRetry, store, func(done broker.Committed, err error) {
		if e.dropped.Load() {
			b.behind(ctx, e.pending, true, 0, b.dropping(e), arrived)
			return
		}
		arrived(done, err)
	})
}

// dropping drops a token that may have arrived.
func (b *Broker) dropping(e *entry) storing {
	return traced("drop", func(ctx context.Context) (broker.Committed, error) {
		_, err := b.store.Drop(ctx, e.name, broker.Match{TokenID: e.issued.ID})
		return broker.Committed{}, err
	})
}

// fence sees to it that what is on its way to the store does not arrive there any more, unless it has: its lease is given back. Where the store takes
// nothing, nobody else can be told anything.
func (b *Broker) fence(ctx context.Context, p *pending) {
	if _, err := b.once(ctx, p, p.release); err != nil {
		b.logWaiting(ctx, false, "a token that was dropped on its way may arrive", p.l.name, err)
	}
}

// took notes whether the store has taken what is to be stored of a credential.
func (b *Broker) took(l *line, err error) {
	if err == nil {
		l.unstored.Store(nil)
		return
	}
	l.failures.Add(1)
	if f := b.storeFailure(l.name, err); f.Kind == broker.StoreUnavailable {
		l.unstored.Store(f)
	}
}

// logWaiting says what waits for the store, and why. A disk that takes nothing, and a refresh token that is not stored, need somebody.
func (b *Broker) logWaiting(ctx context.Context, must bool, what string, name broker.CredentialName, err error) {
	level, f := slog.LevelWarn, b.storeFailure(name, err)
	if must || !b.cache.shared {
		level = slog.LevelError
	}
	b.log.Log(ctx, level, what, "credential", string(name), "kind", f.Kind.Name(), "cause", f.Detail)
}

// saves tells all brokers what has become known of an upstream; nil: nothing has.
func (b *Broker) saves(ctx context.Context, t target, known *broker.Backoff) {
	if known == nil {
		return
	}
	ctx, cancel := context.WithTimeout(trace.Detach(ctx, b.stopping), commitMost)
	defer cancel()
	err := b.store.SaveBackoff(ctx, t.upstream, *known)
	b.gates.Saved(t.upstream, err == nil)
	if err != nil {
		b.log.WarnContext(ctx, "what is known of an upstream could not be stored", "upstream", t.upstream, "kind", broker.KindOf(err).Name())
	}
}

// savesBehind saves in the background: nobody waits for good news.
func (b *Broker) savesBehind(ctx context.Context, t target, known *broker.Backoff) {
	if known != nil {
		b.running.Go(func() { b.saves(ctx, t, known) })
	}
}
