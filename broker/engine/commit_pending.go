package engine

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
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

// commit commits. What hangs on a refresh token goes on until it is stored, or the broker is stopped: nobody is given an access token
// whose refresh token is not. Only a record that cannot be read ends it earlier, with the lease: that does not mend itself. Where
// local says so, a token that hangs on none is waited for only a moment: errUnstored. Where the store is this broker's own and takes nothing, as on a
// full disk, whoever asks is told at once, and the commit goes on behind: while the lease lasts, or until a refresh token is stored.
func (b *Broker) commit(ctx context.Context, p *pending, o broker.Outcome, local bool) (broker.Committed, error) {
	must := !o.RefreshToken.IsZero() || p.spends || o.DropGrant
	done, err := b.commitOnce(ctx, p, o)
	if err == nil {
		return done, nil
	}
	b.logWaiting(must, "commit waits for the store", p.l.name, err)
	if !must && local && broker.KindOf(err) == broker.StoreUnavailable {
		return broker.Committed{}, errUnstored
	}
	same := func() broker.Outcome { return o }
	full := !b.cache.shared && broker.KindOf(err) == broker.StoreUnavailable
	if !full && (!must || !b.cache.shared) {
		return b.commitOn(ctx, p, same, must)
	}
	// It goes on behind the flight, which waits for it only a while: a token that is still valid must not be hidden by one that is
	// not stored yet. Nothing is presented until it is.
	b.cache.hold(p.l.name) // whoever comes next has to find it
	p.l.commits.Add(1)
	stored := make(chan broker.Committed, 1)
	b.running.Go(func() {
		defer b.cache.release(p.l)
		defer p.l.wake(&p.l.ended)
		defer p.l.commits.Add(-1)
		if done, err := b.commitOn(ctx, p, same, must); err == nil {
			stored <- done
		}
	})
	if full { // nobody waits for somebody to make room
		return broker.Committed{}, b.storeFailure(p.l.name, err)
	}
	select {
	case done := <-stored:
		return done, nil
	case <-time.After(commitWait):
	case <-ctx.Done():
	}
	return broker.Committed{}, b.storeFailure(p.l.name, err)
}

// commitBehind goes on with a commit whose token is handed out already. One that is invalidated meanwhile is not stored, or is
// dropped again: also where an answer was lost, and only the commit that is repeated says that it is there.
func (b *Broker) commitBehind(ctx context.Context, p *pending, o broker.Outcome, e *entry) {
	b.running.Go(func() {
		defer b.cache.arrived(e)
		done, err := b.commitOn(ctx, p, func() broker.Outcome {
			if e.dropped.Load() {
				o.Token = nil
			}
			return o
		}, false)
		for e.dropped.Load() && (err != nil || done.Token) { // one that was given up may have arrived
			if _, failed := b.store.Drop(ctx, e.name, broker.Match{TokenID: e.issued.ID}); broker.KindOf(failed) != broker.StoreUnavailable {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(storeRetry):
			}
		}
	})
}

// commitOn tries until it is done: while the lease lasts or, where it must, until the broker is stopped. outcome is what is to be
// stored by now.
func (b *Broker) commitOn(ctx context.Context, p *pending, outcome func() broker.Outcome, must bool) (broker.Committed, error) {
	defer p.l.unstored.Store(nil) // nothing waits for it any more
	for {
		select {
		case <-ctx.Done():
		case <-time.After(storeRetry):
		}
		try, stopped := ctx, ctx.Err() != nil
		if stopped {
			var cancel context.CancelFunc
			try, cancel = context.WithTimeout(context.WithoutCancel(ctx), lastTry)
			defer cancel()
		}
		o := outcome()
		done, err := b.commitOnce(try, p, o)
		if err == nil {
			return done, nil
		}
		waits := must && broker.KindOf(err) == broker.StoreUnavailable
		if !stopped && (waits || b.clock.Now().At < p.ends) {
			continue
		}
		if !o.RefreshToken.IsZero() {
			b.lost.Add(1)
			b.log.Error("commit given up: a refresh token is lost", "credential", string(p.l.name), "kind", broker.KindOf(err).Name())
		}
		if stopped {
			return broker.Committed{}, &broker.Failure{Kind: broker.ShuttingDown, Credential: p.l.name}
		}
		return broker.Committed{}, b.storeFailure(p.l.name, err)
	}
}

func (b *Broker) commitOnce(ctx context.Context, p *pending, o broker.Outcome) (broker.Committed, error) {
	if b.cache.shared {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, commitMost)
		defer cancel()
	}
	done, err := p.lease.Commit(ctx, o)
	b.took(p.l, err)
	return done, err
}

// failing records why an exchange failed.
func (p *pending) failing(r broker.FailureRecord) func(context.Context) error {
	return func(ctx context.Context) error { return p.lease.Fail(ctx, r) }
}

// giveBack ends a lease, by a call of it.
func (b *Broker) giveBack(ctx context.Context, p *pending, how func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTry)
	defer cancel()
	err := how(ctx)
	b.took(p.l, err)
	return err
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
func (b *Broker) logWaiting(must bool, what string, name broker.CredentialName, err error) {
	level, f := slog.LevelWarn, b.storeFailure(name, err)
	if must || !b.cache.shared {
		level = slog.LevelError
	}
	b.log.Log(b.stopping, level, what, "credential", string(name), "kind", f.Kind.Name(), "cause", f.Detail)
}

// giveBackBehind is giveBack in the background, until the lease would have ended by itself.
func (b *Broker) giveBackBehind(p *pending, how func(context.Context) error) {
	b.running.Go(func() {
		for b.giveBack(b.stopping, p, how) != nil && b.clock.Now().At < p.ends {
			select {
			case <-b.stopping.Done():
				return
			case <-time.After(storeRetry):
			}
		}
		p.l.unstored.Store(nil)
		p.l.wake(&p.l.ended)
	})
}

// saves tells all brokers what has become known of an upstream; nil: nothing has.
func (b *Broker) saves(t target, known *broker.Backoff) {
	if known == nil {
		return
	}
	ctx, cancel := context.WithTimeout(b.stopping, commitMost)
	defer cancel()
	err := b.store.SaveBackoff(ctx, t.upstream, *known)
	b.gates.saved(t.upstream, err == nil)
	if err != nil {
		b.log.Warn("what is known of an upstream could not be stored", "upstream", t.upstream, "kind", broker.KindOf(err).Name())
	}
}

// savesBehind saves in the background: nobody waits for good news.
func (b *Broker) savesBehind(t target, known *broker.Backoff) {
	if known != nil {
		b.running.Go(func() { b.saves(t, known) })
	}
}
