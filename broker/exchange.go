package broker

import (
	"context"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"time"
)

// errLate is what a request is refused with when the lease has no time left for it.
var errLate = errors.New("too late to send")

// exchange takes the lease, asks the upstream once and commits what came of it.
func (p *pursuit) exchange(ctx context.Context, run Run, turn *pass, changed <-chan struct{}) (*entry, error) {
	b, started := p.b, time.Now()
	deadline := started.Add(b.timeout) // both counted from before the lease is asked for
	owner := NewID()
	lease, err := b.store.Acquire(ctx, p.view, owner, b.timeout+leaseSpare, run == Refresh)
	if errors.Is(err, ErrConflict) {
		return nil, p.pause(ctx, lookAgain/10, changed)
	}
	if err != nil {
		p.disown(ctx, owner, run)
		return nil, p.storeFailure(err)
	}
	if lease.Until.Before(deadline.Add(leaseSpare)) {
		deadline = lease.Until.Add(-leaseSpare)
	}
	if !time.Now().Before(deadline) {
		// The process was stopped meanwhile: nothing is sent, and nobody has failed.
		p.disown(ctx, owner, run)
		return nil, errAgain
	}
	bounded, cancel := awake(ctx, time.Until(deadline))
	defer cancel()
	x := Exchange{
		Run: run, Credential: p.view.Credential, Selection: p.sel, Held: p.view.Grant.Held,
		BeforeSend: func(string) error {
			if !time.Now().Before(deadline) || bounded.Err() != nil {
				return errLate // the process may have slept since
			}
			return nil
		},
	}
	if run == Refresh {
		x.RefreshToken = p.view.Grant.RefreshToken
	}
	p.asked = true
	answer, former, failure := p.ask(bounded, x)
	if failure != nil {
		return nil, p.failed(ctx, lease, turn, failure)
	}
	return p.commit(ctx, lease, turn, answer, former)
}

// disown gives up a lease that may have been taken although nothing says so: nothing was sent, so nobody need wait for it, or
// believe that the refresh token may be spent. Where that fails too, the lease ends by itself.
func (p *pursuit) disown(ctx context.Context, owner ID, run Run) {
	c := p.view.Credential
	bounded, cancel := context.WithTimeout(ctx, leaseSpare)
	defer cancel()
	_ = p.b.store.Fail(bounded, Lease{
		Key: p.token, Owner: owner, Incarnation: c.Incarnation, Version: c.Version, Epoch: c.Epoch,
		Generation: p.view.Grant.Generation, Spends: run == Refresh,
	}, nil)
}

// ask runs the exchange, and once more with the former secrets where the upstream refuses the client and there are some.
func (p *pursuit) ask(ctx context.Context, x Exchange) (a Answer, former bool, failure *UpstreamError) {
	now := time.Now()
	kept := x.Credential.FormerKept(now)
	// Whichever worked last is asked with first: the upstream may know the new secret only later.
	order := []bool{false}
	if kept {
		order = []bool{p.view.FormerWorked, !p.view.FormerWorked}
	}
	var attempts []Attempt
	for _, former = range order {
		y := x
		if former {
			y.Credential = x.Credential.withFormer(now)
		}
		a, failure = p.run(ctx, y)
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

func (p *pursuit) run(ctx context.Context, x Exchange) (Answer, *UpstreamError) {
	started := time.Now()
	a, err := p.plan.definition.Exchange(ctx, x)
	var failure *UpstreamError
	if err != nil && !errors.As(err, &failure) {
		failure = &UpstreamError{Level: LevelUpstream, Lost: true}
	}
	var kind *Kind
	if failure != nil {
		k := failure.Kind()
		kind = &k
		p.f.attempts = append(p.f.attempts, failure.Attempts...)
	} else {
		p.f.attempts = append(p.f.attempts, a.Attempts...)
	}
	p.b.observe.Exchanged(p.plan.facts.Name, x.Run, kind, time.Since(started))
	return a, failure
}

// commit stores what the exchange brought, before anybody gets it.
func (p *pursuit) commit(ctx context.Context, lease Lease, turn *pass, a Answer, former bool) (*entry, error) {
	b, c := p.b, p.view.Credential
	id := b.store.Fingerprint("token", c.Incarnation.String(), a.Values["token"].Reveal())
	t := issue(a, p.plan.facts, p.token, p.sel, c, hex.EncodeToString(id[:16]), p.view.Token, rand.Float64()) //nolint:gosec // jitter needs no secrecy
	now := time.Now()
	if !now.Before(t.ExpireAt) {
		// The refresh token, if there is one, is good all the same.
		t = nil
	}
	o := Outcome{
		Token: t, Attempts: a.Attempts, UsedFormer: former, Now: now,
		DropGrant: !lease.Spends && !p.view.Grant.None() && a.RefreshToken.IsZero(),
	}
	if p.plan.facts.Refreshes {
		o.RefreshToken, o.Held = a.RefreshToken, heldOf(a)
	}
	if p.keep != nil && !*p.keep {
		o.Token = nil
	}
	p.read = b.trusted.now()
	done, err := p.commitUntil(ctx, lease, o)
	if err != nil && p.servesUnstored(o, lease, err) {
		return p.unstored(t)
	}
	if err != nil {
		return nil, err
	}
	p.view.Mark = done.Mark
	b.worked(ctx, turn)
	if t == nil {
		p.state.notify()
		e := &UpstreamError{Level: LevelResponse}
		until := b.failing(ctx, turn, e, now)
		return nil, &Failure{Kind: UpstreamResponseInvalid, Credential: c.Name, Provider: c.Provider, RetryAt: until,
			Detail: "the token that it gave has expired already"}
	}
	if o.Token == nil {
		return p.entry(t, nil)
	}
	if !done.Token {
		p.state.move() // the credential has changed meanwhile: take what is there
		return nil, errAgain
	}
	e, err := p.entry(t, nil)
	p.state.notify()
	return e, err
}

// heldOf keeps the values that a refresh may name beside its token.
func heldOf(a Answer) map[string]Secret {
	held := map[string]Secret{}
	for name, v := range a.Values {
		if name != "token" {
			held[name] = v
		}
	}
	return held
}

// commitUntil commits, and while the store is away tries again until it is back or the broker is stopped. Nobody is given an
// access token whose refresh token is not stored.
func (p *pursuit) commitUntil(ctx context.Context, lease Lease, o Outcome) (Committed, error) {
	warned := false
	for {
		bounded, cancel := ctx, context.CancelFunc(func() {})
		if p.b.trusted.shared {
			bounded, cancel = context.WithTimeout(ctx, commitMost)
		}
		done, err := p.b.store.Commit(bounded, lease, o)
		cancel()
		if err == nil {
			return done, nil
		}
		if KindOf(err) == StoreUnavailable && p.servesUnstored(o, lease, err) {
			return Committed{}, err
		}
		switch KindOf(err) {
		case StoreUnavailable:
		case Internal:
			if ctx.Err() == nil {
				return Committed{}, p.storeFailure(err)
			}
		default:
			return Committed{}, p.storeFailure(err)
		}
		if !warned {
			p.b.log.Warn("commit waits for the store", "credential", string(p.key.name))
			warned = true
		}
		select {
		case <-ctx.Done():
			if !o.RefreshToken.IsZero() {
				p.b.lost.Add(1)
				p.b.log.Error("commit given up: a refresh token is lost", "credential", string(p.key.name),
					"generation", lease.Generation.String())
			}
			return Committed{}, &Failure{Kind: ShuttingDown, Credential: p.key.name}
		case <-time.After(storeRetry):
		}
	}
}

// failed records why an exchange failed, and says what is to be done: errAgain, or the failure that all waiters share.
func (p *pursuit) failed(ctx context.Context, lease Lease, turn *pass, e *UpstreamError) error {
	b, c, now := p.b, p.view.Credential, time.Now()
	sent := len(e.Attempts) > 0 && !e.Refused || e.Lost
	r := &FailureRecord{
		Level: e.Level, Attempts: e.Attempts, Now: now,
		Presented: lease.Spends && sent, Uncertain: lease.Spends && e.Lost,
	}
	out := &Failure{
		Kind: e.Kind(), Credential: c.Name, Provider: c.Provider, UpstreamStatus: e.Status, UpstreamError: e.Code, Detail: e.Detail,
	}
	again := false
	switch e.Level {
	case LevelUpstream, LevelRateLimited, LevelResponse:
		if e.Refused {
			out.RetryAt = now
			again = ctx.Err() == nil // nothing was sent: nobody failed
			break
		}
		out.RetryAt = b.failing(ctx, turn, e, now)
		if r.Uncertain && !p.plan.facts.Obtains {
			out.Kind = RefreshUncertain
		}
	case LevelCredential:
		r.Failure = remember(e, p.view.CredentialFailure, now)
		out.RetryAt = r.Failure.RetryAt
	case LevelScope, LevelTarget, LevelRequest:
		r.Failure = remember(e, p.view.KeyFailure, now)
		out.RetryAt = r.Failure.RetryAt
	case LevelGrant:
		if !lease.Spends { // refused where nothing was presented: it is the credential
			r.Level = LevelCredential
			r.Failure = remember(e, p.view.CredentialFailure, now)
			r.Failure.Kind = CredentialMisconfigured
			out.Kind, out.RetryAt = CredentialMisconfigured, r.Failure.RetryAt
			break
		}
		r.Failure = remember(e, nil, now)
		again = true // look whether another generation has won, and whether obtain can do without
	}
	if p.keep != nil && e.Level != LevelGrant {
		// A test leaves no failure behind but its attempts: the next caller finds out for itself.
		r.Level = LevelUpstream
	}
	recording, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaseSpare)
	defer cancel()
	if err := b.store.Fail(recording, lease, r); err != nil {
		b.log.Warn("failure not recorded", "credential", string(c.Name), "kind", KindOf(err).Name())
		again = false
		if e.Level == LevelGrant {
			out.RetryAt = now.Add(backoffFirst)
		}
	}
	if e.Level >= LevelScope {
		b.worked(ctx, turn) // it answered, and knows what it says
	}
	p.state.notify()
	if again {
		return errAgain
	}
	return out
}
