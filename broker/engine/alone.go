package engine

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/gate"
)

// withoutStore does what can be done where the store cannot be asked, or takes nothing: a valid token that this process has is served, and
// where the definition allows it, the process obtains one for itself. That is never stored: when the store is back, what is
// there wins. last is what was last read; nil: nothing. again: look again, the store may be there.
func (p *pursuit) withoutStore(ctx context.Context, last *seen, why *broker.Failure) (out outcome, again bool) {
	b, now := p.b, p.b.clock.Now()
	k := p.l.known.Load()
	if k == nil {
		return outcome{failure: why}, false
	}
	t, aimed := b.aim(p.key, k.credential)
	if aimed != nil {
		return outcome{failure: why}, false
	}
	there := b.cache.peekFor(t)
	if there != nil && b.asDefined(there) {
		b.cache.try(there, now.At)
		b.cache.warm(there)
		serves := !b.cache.old(there, now.At) || b.cache.graced(broker.Moment(there.confirmed.Load()), now.At)
		if serves && fallback(there.issued, there.wall(now), need{rejected: p.need.rejected}) {
			return outcome{entry: there, failure: why}, false
		}
	}
	if p.need.fresh || p.need.stored || p.asked || !t.facts.ObtainsAlone || !b.cache.graced(broker.Moment(k.confirmed.Load()), now.At) {
		return outcome{failure: why}, false
	}
	if t, aimed = b.resolve(p.key, k.credential); aimed != nil {
		return outcome{failure: why}, false
	}
	tried := b.solos.of(t)
	if r := tried.why; r != nil && now.Wall.Before(r.RetryAt) {
		return outcome{failure: t.blamed(r.Shared(t.credential.Name, t.credential.Provider))}, false
	}
	before := tried.before(p.need.rejected)
	if there != nil {
		before = there.issued
	}
	if keeps(before, now.Wall) && before.Rejected {
		return outcome{failure: refusesFresh(t.credential, before)}, false
	}
	// What is stored, as far as it is known: only the credential, where the token could not be read.
	mark := broker.Mark{Credential: t.name, Token: t.token.Token, CredentialRevision: t.credential.Revision}
	if last != nil && last.view.Mark.CredentialRevision == mark.CredentialRevision {
		mark = last.view.Mark
	}
	e, err := p.obtainAlone(ctx, t, before, mark)
	switch {
	case err == nil:
		return outcome{entry: e}, false
	case errors.Is(err, errAgain): // it has waited, or something has moved meanwhile
		return outcome{}, true
	}
	return outcome{failure: asFailure(err, p.key.name)}, false
}

// asDefined reports whether an entry is what its definition says as it is now, where others may have changed.
func (b *Broker) asDefined(e *entry) bool {
	revision := b.upstream.Revision()
	if e.defined.Load() == revision {
		return true
	}
	is, err := b.definition(e.credential)
	if err != nil || is.Facts().Digest != e.facts.Digest || !slices.Equal(is.Destinations(e.credential), e.definition.Destinations(e.credential)) {
		return false
	}
	e.defined.Store(revision)
	return true
}

// obtainAlone obtains without a lease. before is what the process had until now, nil for nothing, and mark of what is stored.
func (p *pursuit) obtainAlone(ctx context.Context, t target, before *broker.Issued, mark broker.Mark) (*entry, error) {
	b, moved, asked := p.b, p.l.moves.now(), p.b.clock.Now().At
	if err := p.enter(ctx, t, gate.Advice{Unknown: true}, before, p.l.heard.Load()); err != nil {
		return nil, err
	}
	defer p.leave()
	bounded, cancel := patient(ctx, b.clock, b.timeout)
	defer cancel()
	x := request(t, broker.Obtain, broker.Grant{})
	x.BeforeSend = b.beforeSend(b.clock.Now().At.Add(b.timeout), &atomic.Bool{})
	a, _, failure := p.ask(bounded, t, x, false, math.MaxInt64)
	var shown offer
	if failure == nil {
		shown, failure = b.fit(ctx, t, a, before, broker.Secret{})
	}
	found := p.place.LeaveWith(failure)
	if found.News != nil {
		b.gates.Saved(t.upstream, false) // nobody tells the store
	}
	if failure != nil {
		r := remember(failure, b.solos.of(t).why, b.clock.Now().Wall)
		if failure.Level < broker.LevelResponse && !found.OfKey {
			r.RetryAt = found.RetryAt(r.At)
		}
		b.solos.put(t, &solo{why: &r, issued: before})
		return nil, t.blamed(r.Shared(t.credential.Name, t.credential.Provider))
	}
	shown.solo = &solo{issued: shown.issued}
	b.solos.put(t, shown.solo)
	return p.putLocal(ctx, shown, mark, moved, asked)
}

// putLocal caches a token that the store does not have. It is relied on for as long as the credential is, and until the store has
// one: mark is of what was stored when it was obtained, and moved what the line had moved to before, at a moment.
func (p *pursuit) putLocal(ctx context.Context, a offer, mark broker.Mark, moved movedTo, began broker.Moment) (*entry, error) {
	if b := p.b; b.clock.Now().At.Sub(began) >= b.cache.bound {
		// It took so long that the store may be there again, and the credential another, or gone.
		if err := p.recheck(ctx, a.credential, nil); err != nil && broker.KindOf(err) != broker.StoreUnavailable {
			return nil, err
		}
	}
	if p.l.known.Load() == nil {
		return nil, errAgain
	}
	a.local, a.mark, a.over = true, mark, mark
	return p.b.cache.put(p.l, a, began, moved)
}

// solos are what came of it when this process obtained a token for itself: while the store is away that is remembered here. Safe for concurrent use.
type solos struct {
	mu  sync.Mutex
	all map[broker.TokenKey]*solo
}

// A solo is of one version of a credential.
type solo struct {
	version broker.ID
	// why it failed; nil: it did not. issued is the token that came last, without its values; nil: none did. dropped: it was rejected since.
	why     *broker.Remembered
	issued  *broker.Issued
	dropped atomic.Bool
}

// before is the token that came last, for where the cache has it no longer; nil: none came. rejected is the id of one that is rejected just now.
func (t *solo) before(rejected string) *broker.Issued {
	if t.issued == nil {
		return nil
	}
	last := *t.issued
	last.Rejected = last.Rejected || t.dropped.Load() || last.ID == rejected
	return &last
}

// solosMost bounds what is remembered.
const solosMost = 10_000

// of is what came of the last try for a target; zero: there was none.
func (r *solos) of(t target) *solo {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last := r.all[t.token]; last != nil && last.version == t.credential.Version {
		return last
	}
	return &solo{}
}

// forget is for when there is a token that is stored.
func (r *solos) forget(t target) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.all, t.token)
}

// put notes what came of one.
func (r *solos) put(t target, came *solo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil || len(r.all) >= solosMost {
		r.all = map[broker.TokenKey]*solo{}
	}
	if came.issued != nil {
		i := *came.issued
		i.Values, i.Headers = nil, nil
		came.issued = &i
	}
	came.version = t.credential.Version
	r.all[t.token] = came
}
