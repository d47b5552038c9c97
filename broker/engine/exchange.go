package engine

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// leaseSpare is what a lease outlives the exchange's deadline by, so that a commit finds it held.
const leaseSpare = 2 * time.Second

// errLate is what a request is refused with when the lease has no time left for it.
var errLate = errors.New("too late to send")

// exchange takes the lease, asks the upstream once and commits what came of it. It gives the pass back as soon as the upstream
// has answered.
func (p *pursuit) exchange(ctx context.Context, t target, run broker.Run, granted *pass, at asOf) (e *entry, err error) {
	b := p.b
	defer granted.leave()
	deadline := b.clock.Now().At.Add(b.timeout)
	ends := deadline.Add(leaseSpare) // both counted from before the lease is asked for
	owner := broker.NewID()
	lease, err := b.store.Acquire(ctx, p.view, owner, b.timeout+leaseSpare, run == broker.Refresh)
	if errors.Is(err, broker.ErrConflict) {
		return nil, pause(ctx, lookAgain/10, at.ended)
	}
	if err != nil && broker.KindOf(err) != broker.StoreUnavailable {
		return nil, storeFailure(p.key.name, err)
	}
	if err != nil {
		// The lease may have been taken although nothing says so. Nothing was sent: nobody need wait for it, or believe that the
		// refresh token may be spent.
		c := p.view.Credential
		b.releaseBehind(&pending{p.l, broker.Lease{
			Key: t.token, Owner: owner, Incarnation: c.Incarnation, Version: c.Version, Epoch: c.Epoch,
			Generation: p.view.Grant.Generation, Spends: run == broker.Refresh,
		}, ends}, nil)
		return nil, storeFailure(p.key.name, err)
	}
	end := &pending{p.l, lease, ends}
	x := request(t, run, p.view.Grant)
	sent := false
	x.BeforeSend = func(string) error {
		if b.clock.Now().At >= deadline {
			return errLate // the process was stopped, or the machine slept: somebody else may have the lease
		}
		sent = true
		return nil
	}
	defer func() {
		if r := recover(); r != nil {
			b.releaseBehind(end, &broker.FailureRecord{Presented: sent && lease.Spends, Uncertain: sent && lease.Spends, Now: b.clock.Now().Wall})
			panic(r)
		}
	}()
	// What a refresh token is spent for is waited for longer: nobody else presents that token before the takeover grace is over,
	// and given up it would be lost.
	until := deadline
	if lease.Spends && !t.facts.Reuse.Allowed {
		until = until.Add(takeoverGrace)
	}
	bounded, cancel := patient(ctx, b.clock, until.Sub(b.clock.Now().At))
	defer cancel()
	p.asked = true
	a, former, failure := p.ask(bounded, t, x)
	if failure != nil {
		return nil, p.failed(ctx, t, end, granted, failure)
	}
	return p.commit(ctx, t, end, granted, a, former, at.moved)
}

// request is what an exchange asks with, but for BeforeSend.
func request(t target, run broker.Run, g broker.Grant) broker.Exchange {
	x := broker.Exchange{Run: run, Credential: t.credential, Selection: t.chosen, Held: g.Held}
	if run == broker.Refresh {
		x.RefreshToken = g.RefreshToken
	}
	return x
}

// ask runs the exchange, and once more with the former secrets where the upstream refuses the client and there are some.
func (p *pursuit) ask(ctx context.Context, t target, x broker.Exchange) (a broker.Answer, former bool, failure *broker.UpstreamError) {
	now := p.b.clock.Now().Wall
	// Whichever worked last is asked with first: the upstream may know the new secret only later.
	order := []bool{false}
	if x.Credential.FormerKept(now) {
		order = []bool{p.view.FormerWorked, !p.view.FormerWorked}
	}
	var attempts []broker.Attempt
	for _, former = range order {
		y := x
		if former {
			y.Credential = x.Credential.WithFormer(now)
		}
		a, failure = p.run(ctx, t, y)
		if failure == nil {
			a.Attempts = append(attempts, a.Attempts...)
			break
		}
		attempts = append(attempts, failure.Attempts...)
		failure.Attempts = attempts
		if !failure.InvalidClient {
			break
		}
	}
	return a, former && failure == nil, failure
}

func (p *pursuit) run(ctx context.Context, t target, x broker.Exchange) (broker.Answer, *broker.UpstreamError) {
	started := p.b.clock.Now().At
	a, err := t.definition.Exchange(ctx, x)
	var failure *broker.UpstreamError
	if err != nil && !errors.As(err, &failure) {
		failure = &broker.UpstreamError{Level: broker.LevelUpstream, Lost: true}
	}
	var kind *broker.Kind
	if failure != nil {
		k := failure.Kind()
		kind = &k
		p.attempts = append(p.attempts, failure.Attempts...)
	} else {
		p.attempts = append(p.attempts, a.Attempts...)
	}
	p.b.observe.Exchanged(t.facts.Name, x.Run, kind, p.b.clock.Now().At.Sub(started))
	return a, failure
}

// issued is the token of an answer. before is what there was until now; nil: nothing.
func (b *Broker) issued(t target, a broker.Answer, before *broker.Issued) *broker.Issued {
	id := b.tokenID(t.credential, a.Values["token"])
	return issue(a, t.facts, t.token, t.chosen, t.credential, id, before, rand.Float64()) //nolint:gosec // jitter needs no secrecy
}

// commit stores what the exchange brought, before anybody gets it. began is what the line had moved to before the exchange.
func (p *pursuit) commit(ctx context.Context, t target, end *pending, granted *pass, a broker.Answer, former bool, began uint64) (*entry, error) {
	b, c, lease := p.b, t.credential, end.lease
	issued, now := b.issued(t, a, p.view.Token), b.clock.Now().Wall
	o := broker.Outcome{
		Token: issued, Attempts: a.Attempts, UsedFormer: former, Now: now,
		DropGrant: !lease.Spends && !p.view.Grant.None() && a.RefreshToken.IsZero(),
	}
	if t.facts.Refreshes {
		o.RefreshToken, o.Held = a.RefreshToken, heldOf(a)
	}
	shown, unfit := b.answer(t, issued, broker.Mark{})
	if !now.Before(issued.ExpireAt) {
		unfit = expired(c)
	}
	var retry *broker.Backoff
	if unfit != nil {
		o.Token = nil // the refresh token, if there is one, is good all the same
		retry = granted.answered(&broker.UpstreamError{Level: broker.LevelResponse})
	} else {
		b.savesBehind(t, granted.answered(nil))
	}
	if p.trial.on && !p.trial.keep {
		o.Token = nil
	}
	moved, stored := p.l.moves(), b.clock.Now().At
	done, err := b.commit(ctx, end, o, p.local(o))
	p.l.wake(&p.l.ended)
	if unfit != nil {
		b.saves(t, retry) // after the commit: a refresh token that came is nowhere but here until then
	}
	switch {
	case errors.Is(err, errUnstored):
		e, err := b.putLocal(p.l, shown, p.view.Mark, began)
		if err == nil {
			b.commitBehind(ctx, end, o, e)
		} else {
			b.releaseBehind(end, nil)
		}
		return e, err
	case err != nil:
		return nil, err
	case unfit != nil:
		f := *asFailure(unfit, c.Name)
		f.RetryAt = retryAt(retry, now)
		return nil, &f
	}
	shown.mark = done.Mark
	switch {
	case o.Token == nil: // a test
		return b.cache.entryOf(p.l, shown, stored, nil), nil
	case !done.Token:
		b.cache.doubt(p.key.name) // it has changed meanwhile, or another was quicker: take what is there
		return nil, errAgain
	}
	return p.put(shown, stored, moved)
}

// expired is the failure of a token that had ended when it came.
func expired(c broker.Credential) *broker.Failure {
	return &broker.Failure{
		Kind: broker.UpstreamResponseInvalid, Credential: c.Name, Provider: c.Provider, Detail: "the token that it gave has expired already",
	}
}

// retryAt is when an upstream may be asked again of which this is known; nil: nothing.
func retryAt(known *broker.Backoff, now time.Time) time.Time {
	if known == nil {
		return now.Add(backoffFirst)
	}
	return known.Until
}

// local reports whether a token may be handed out although it could not be committed: nothing that was spent, and nothing that may
// be presented again, hangs on it.
func (p *pursuit) local(o broker.Outcome) bool {
	b := p.b
	k := p.l.known.Load()
	return b.cache.shared && !p.trial.on && o.Token != nil && k != nil && b.cache.graced(broker.Moment(k.confirmed.Load()), b.clock.Now().At)
}

// heldOf keeps the values that a refresh may name beside its token.
func heldOf(a broker.Answer) map[string]broker.Secret {
	held := map[string]broker.Secret{}
	for name, v := range a.Values {
		if name != "token" {
			held[name] = v
		}
	}
	return held
}

// failed records why an exchange failed, and says what is to be done: errAgain, or the failure that all waiters share.
func (p *pursuit) failed(ctx context.Context, t target, end *pending, granted *pass, e *broker.UpstreamError) error {
	b, c, lease, now := p.b, t.credential, end.lease, p.b.clock.Now().Wall
	sent := len(e.Attempts) > 0 && !e.Refused || e.Lost
	r := &broker.FailureRecord{
		Level: e.Level, Attempts: e.Attempts, Now: now, Presented: lease.Spends && sent, Uncertain: lease.Spends && e.Lost,
	}
	out := &broker.Failure{
		Kind: e.Kind(), Credential: c.Name, Provider: c.Provider, UpstreamStatus: e.Status, UpstreamError: e.Code, Detail: e.Detail,
	}
	again := false
	backoff := granted.answered(e)
	switch e.Level {
	case broker.LevelUpstream, broker.LevelRateLimited, broker.LevelResponse:
		if e.Refused {
			out.RetryAt = now
			again = ctx.Err() == nil // nothing was sent: nobody failed
			break
		}
		out.RetryAt = retryAt(backoff, now)
		b.saves(t, backoff) // before anybody is told that this exchange has ended
		if r.Uncertain && !t.facts.Obtains {
			out.Kind = broker.RefreshUncertain
		}
	case broker.LevelCredential:
		r.Failure = remember(e, p.view.CredentialFailure, now)
		out.RetryAt = r.Failure.RetryAt
	case broker.LevelScope, broker.LevelTarget, broker.LevelRequest:
		r.Failure = remember(e, p.view.KeyFailure, now)
		out.RetryAt = r.Failure.RetryAt
	case broker.LevelGrant:
		if !lease.Spends { // refused where nothing was presented: it is the credential
			r.Level = broker.LevelCredential
			r.Failure = remember(e, p.view.CredentialFailure, now)
			r.Failure.Kind = broker.CredentialMisconfigured
			out.Kind, out.RetryAt = broker.CredentialMisconfigured, r.Failure.RetryAt
			break
		}
		r.Failure = remember(e, nil, now)
		again = true // look whether another generation has won, and whether obtain can do without
	}
	if p.trial.on && e.Level != broker.LevelGrant {
		// A test leaves no failure behind but its attempts: the next caller finds out for itself.
		r.Level = broker.LevelUpstream
	}
	if e.Level >= broker.LevelScope {
		b.savesBehind(t, backoff) // it answered, and knows what it says
	}
	if err := b.release(ctx, end, r); err != nil {
		b.log.Warn("failure not recorded yet", "credential", string(c.Name), "kind", broker.KindOf(err).Name())
		b.releaseBehind(end, r)
		again = false
		if e.Level == broker.LevelGrant {
			out.RetryAt = now.Add(backoffFirst)
		}
	}
	p.l.wake(&p.l.ended)
	if again {
		return errAgain
	}
	return out
}
