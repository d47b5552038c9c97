package engine

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"

	"github.com/tokenbroker/tokenbroker/broker"
)

// withoutStore does what can be done where the store cannot be asked, or takes nothing: a valid token that this process has is served, and
// where the definition allows it, the process obtains one for itself. That is never stored: when the store is back, what is
// there wins. last is what was last read; nil: nothing.
func (p *pursuit) withoutStore(ctx context.Context, last *seen, why *broker.Failure) outcome {
	b, now := p.b, p.b.clock.Now()
	there := b.cache.peek(p.key)
	if there != nil && last != nil && there.mark != last.view.Mark && broker.Moment(there.confirmed.Load()) < last.at {
		b.cache.drop(p.key.name, func(e *entry) bool { return e == there }, false) // what was read since says that it is over
	}
	if there != nil && !there.dropped.Load() && there.revision == b.upstream.Revision() {
		b.cache.try(there, now.At)
		b.cache.warm(there)
		serves := !b.cache.old(there, now.At) || b.cache.graced(broker.Moment(there.confirmed.Load()), now.At)
		if serves && fallback(there.issued, now.Wall, need{rejected: p.need.rejected}) {
			return outcome{entry: there, failure: why}
		}
	}
	if p.need.fresh || p.need.stored || p.asked {
		return outcome{entry: p.fallback(last), failure: why}
	}
	k := p.l.known.Load()
	if k == nil || !b.cache.graced(broker.Moment(k.confirmed.Load()), now.At) {
		return outcome{failure: why}
	}
	t, err := b.resolve(p.key, k.credential)
	if err != nil || !t.facts.ObtainsAlone {
		return outcome{failure: why}
	}
	if r := b.refusals.of(t); r != nil && now.Wall.Before(r.RetryAt) {
		return outcome{failure: t.blamed(share(r, t.credential))}
	}
	var before *broker.Issued
	if there != nil {
		before = there.issued
	}
	// What is stored, as far as it is known: only the credential, where the token could not be read.
	mark := broker.Mark{Credential: t.name, Token: t.token.Token, CredentialRevision: t.credential.Revision}
	if last != nil && last.view.Mark.CredentialRevision == mark.CredentialRevision {
		mark = last.view.Mark
	}
	e, err := p.obtainAlone(ctx, t, before, mark)
	switch {
	case err == nil:
		return outcome{entry: e}
	case errors.Is(err, errAgain): // something has moved meanwhile
		return outcome{failure: why}
	}
	return outcome{failure: asFailure(err, p.key.name)}
}

// obtainAlone obtains without a lease. before is what the process had until now, nil for nothing, and mark of what is stored.
func (p *pursuit) obtainAlone(ctx context.Context, t target, before *broker.Issued, mark broker.Mark) (*entry, error) {
	b, moved, asked := p.b, p.l.moved.Load(), p.b.clock.Now().At
	granted, err := b.gates.enter(ctx, t, advice{unknown: true}, before)
	if err != nil {
		return nil, err
	}
	defer granted.leave()
	bounded, cancel := patient(ctx, b.clock, b.timeout)
	defer cancel()
	x := request(t, broker.Obtain, broker.Grant{})
	x.BeforeSend = b.beforeSend(b.clock.Now().At.Add(b.timeout), &atomic.Bool{})
	a, _, failure := p.ask(bounded, t, x, false, math.MaxInt64)
	var shown offer
	if failure == nil {
		shown, failure = b.fit(t, a, before)
	}
	found := granted.leaveWith(failure)
	if found.news != nil {
		b.gates.saved(t.upstream, false) // nobody tells the store
	}
	if failure != nil {
		r := remember(failure, b.refusals.of(t), b.clock.Now().Wall)
		if failure.Level < broker.LevelResponse && !found.ofKey {
			r.RetryAt = found.retryAt(r.At)
		}
		b.refusals.put(t, &r)
		return nil, t.blamed(share(&r, t.credential))
	}
	b.refusals.put(t, nil)
	return p.putLocal(ctx, shown, mark, moved, asked)
}

// putLocal caches a token that the store does not have. It is relied on for as long as the credential is, and until the store has
// one: mark is of what was stored when it was obtained, and moved what the line had moved to before, at a moment.
func (p *pursuit) putLocal(ctx context.Context, a offer, mark broker.Mark, moved uint64, began broker.Moment) (*entry, error) {
	if b := p.b; b.clock.Now().At.Sub(began) >= b.cache.bound {
		// It took so long that the store may be there again, and the credential another, or gone.
		if err := p.recheck(ctx, a.credential, nil); err != nil && broker.KindOf(err) != broker.StoreUnavailable {
			return nil, err
		}
	}
	k := p.l.known.Load()
	if k == nil {
		return nil, errAgain
	}
	a.local, a.mark = true, mark
	return p.b.cache.put(p.l, a, broker.Moment(k.confirmed.Load()), moved)
}

// refusals are how what this process tried to obtain for itself failed last: while the store is away they are remembered here. Safe for
// concurrent use.
type refusals struct {
	mu  sync.Mutex
	all map[lookup]refusal
}

// A refusal is of one version of a credential, and of one definition.
type refusal struct {
	version broker.ID
	digest  string
	why     *broker.Remembered
}

// refusalsMost bounds what is remembered.
const refusalsMost = 10_000

// of is how the last try for a target failed; nil: it did not, or there was none.
func (r *refusals) of(t target) *broker.Remembered {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last := r.all[t.lookup]; last.version == t.credential.Version && last.digest == t.facts.Digest {
		return last.why
	}
	return nil
}

// put notes how a try failed; nil: there is a token.
func (r *refusals) put(t target, failed *broker.Remembered) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case failed == nil:
		delete(r.all, t.lookup)
		return
	case r.all == nil || len(r.all) >= refusalsMost:
		r.all = map[lookup]refusal{}
	}
	r.all[t.lookup] = refusal{t.credential.Version, t.facts.Digest, failed}
}
