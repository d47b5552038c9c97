package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// withoutStore does what can be done where the store cannot be asked, or takes nothing: a valid token that this process has is served, and
// where the definition allows it, the process obtains one for itself. That is never stored: when the store is back, what is
// there wins.
func (b *Broker) withoutStore(ctx context.Context, p *pursuit, why *broker.Failure) outcome {
	now := b.clock.Now()
	there, _ := b.cache.entries.GetEntryQuietly(p.key)
	if e := there.Value; e != nil && p.view.Rows != nil && e.mark != p.view.Mark {
		b.cache.drop(p.key.name, func(other *entry) bool { return other == e }) // what was read says that it is over
	}
	if e := there.Value; e != nil && !e.dropped.Load() && e.revision == b.upstream.Revision() {
		e.tried.Store(int64(now.At))
		b.cache.warm(e)
		if !b.cache.old(e, now.At) || b.cache.graced(broker.Moment(e.confirmed.Load()), now.At) {
			if fallback(e.issued, now.Wall, need{rejected: p.need.rejected}) {
				return outcome{entry: e, failure: why}
			}
		}
	}
	if p.need.fresh || p.need.stored || p.asked {
		return outcome{entry: p.fallback(why), failure: why}
	}
	k := p.l.known.Load()
	if k == nil || !b.cache.graced(broker.Moment(k.confirmed.Load()), now.At) {
		return outcome{failure: why}
	}
	t, err := b.resolve(p.key, k.credential)
	if err != nil || !t.facts.ObtainsAlone {
		return outcome{failure: why}
	}
	if f := b.refusals.of(p.key, now.Wall); f != nil {
		return outcome{failure: f}
	}
	var before *broker.Issued
	if there.Value != nil {
		before = there.Value.issued
	}
	e, err := p.obtainAlone(ctx, t, before)
	if errors.Is(err, errAgain) {
		return outcome{failure: why} // something has moved meanwhile
	}
	if broker.KindOf(err) == broker.NotFound {
		return outcome{failure: asFailure(err, p.key.name)}
	}
	if err != nil {
		f := asFailure(err, p.key.name)
		b.refusals.put(p.key, f)
		return outcome{failure: f}
	}
	return outcome{entry: e}
}

// obtainAlone obtains without a lease. before is what the process had until now; nil: nothing.
func (p *pursuit) obtainAlone(ctx context.Context, t target, before *broker.Issued) (*entry, error) {
	b, c, moved, asked := p.b, t.credential, p.l.moves(), p.b.clock.Now().At
	granted, err := b.gates.enter(ctx, t, advice{unknown: true}, false)
	if err != nil {
		return nil, err
	}
	defer granted.leave()
	deadline := b.clock.Now().At.Add(b.timeout)
	bounded, cancel := patient(ctx, b.clock, b.timeout)
	defer cancel()
	x := request(t, broker.Obtain, broker.Grant{})
	x.BeforeSend = func(string) error {
		if b.clock.Now().At >= deadline {
			return errLate
		}
		return nil
	}
	a, _, failure := p.ask(bounded, t, x)
	now := b.clock.Now().Wall
	if failure != nil {
		backoff := granted.answered(failure)
		f := &broker.Failure{
			Kind: failure.Kind(), Credential: c.Name, Provider: c.Provider, UpstreamStatus: failure.Status, UpstreamError: failure.Code,
			Detail: failure.Detail, RetryAt: retryAt(backoff, now),
		}
		if failure.Level >= broker.LevelScope {
			f.RetryAt = now.Add(permanentWait(1, max(failure.RetryAfter, failure.Wait)))
		}
		return nil, f
	}
	issued := b.issued(t, a, before)
	shown, unfit := b.answer(t, issued, broker.Mark{})
	if !now.Before(issued.ExpireAt) {
		unfit = expired(c)
	}
	if unfit != nil {
		f := *asFailure(unfit, c.Name)
		f.RetryAt = retryAt(granted.answered(&broker.UpstreamError{Level: broker.LevelResponse}), now)
		return nil, &f
	}
	granted.answered(nil)
	if b.clock.Now().At.Sub(asked) >= b.cache.bound {
		// It took so long that the store may be there again, and the credential another, or gone.
		if err := p.refused(ctx, c, nil); err != nil && broker.KindOf(err) != broker.StoreUnavailable {
			return nil, err
		}
	}
	mark := p.view.Mark // what was read of the token, if the store can be read
	if mark.CredentialRevision != c.Revision {
		mark = broker.Mark{Credential: c.Name, Token: t.token.Token, CredentialRevision: c.Revision}
	}
	return b.putLocal(p.l, shown, mark, moved)
}

// putLocal caches a token that the store does not have. It is relied on for as long as the credential is, and until the store has
// one: mark is of what was stored when it was obtained, and moved what the line had moved to before.
func (b *Broker) putLocal(l *line, a answer, mark broker.Mark, moved uint64) (*entry, error) {
	k := l.known.Load()
	if k == nil {
		return nil, errAgain
	}
	a.local, a.mark = true, mark
	if e := b.cache.put(l, a, broker.Moment(k.confirmed.Load()), moved, nil); e != nil {
		return e, nil
	}
	return nil, errAgain
}

// refusals are the failures of what this process obtained for itself: while the store is away they are remembered here. Safe for
// concurrent use.
type refusals struct {
	mu  sync.Mutex
	all map[lookup]*broker.Failure
}

// refusalsMost bounds what is remembered.
const refusalsMost = 10_000

// of is how the last one for a key went, if it is not to be made again yet.
func (r *refusals) of(key lookup, now time.Time) *broker.Failure {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.all[key]; f != nil && now.Before(f.RetryAt) {
		return f
	}
	delete(r.all, key)
	return nil
}

func (r *refusals) put(key lookup, f *broker.Failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil || len(r.all) >= refusalsMost {
		r.all = map[lookup]*broker.Failure{}
	}
	r.all[key] = f
}
