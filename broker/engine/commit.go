package engine

import (
	"context"
	"errors"

	"github.com/tokenbroker/tokenbroker/broker"
)

// succeeded stores what the exchange brought, before anybody gets it. unfit: it has failed after all, and brought a refresh token before; nil: it has
// not.
func (p *pursuit) succeeded(ctx context.Context, t target, end *pending, s seen, a broker.Answer, former bool, unfit *broker.UpstreamError) (*entry, error) {
	b := p.b
	var shown offer
	if unfit == nil {
		shown, unfit = b.fit(ctx, t, a, s.view.Token, s.view.Grant.RefreshToken)
	}
	now := b.clock.Now()
	o := broker.Outcome{
		Attempts: a.Attempts, UsedFormer: former, Now: now.Wall,
		DropGrant: !end.spends && t.facts.Refreshes && !p.unfit && !s.view.Grant.None() && a.RefreshToken.IsZero(), // it is refused, or may be spent
	}
	if t.facts.Refreshes {
		o.RefreshToken, o.Held = a.RefreshToken, heldOf(a)
	}
	switch {
	case unfit != nil && (p.trial.on || unfit.Refused): // a test leaves what is remembered as it is, and where nothing more was sent nobody has failed
		o.Failure = s.view.KeyFailure
	case unfit != nil: // the refresh token, if there is one, is good all the same
		failure := remember(unfit, s.view.KeyFailure, now.Wall)
		o.Failure = &failure
	case !p.trial.on || p.trial.keep:
		o.Token = shown.issued
	}
	b.savesBehind(ctx, t, p.place.LeaveWith(unfit).News)
	moved := p.l.moves.now() // the commit is decided on what is stored then: only what comes after counts against what it stores
	done, err := b.commit(ctx, end, o, shown.told, p.local(o))
	p.l.wake(&p.l.ended)
	switch {
	case errors.Is(err, errUnstored):
		shown.pending = end
		e, err := p.putLocal(ctx, shown, s.view.Mark, s.moved, s.at) // nobody has decided: all since the reading counts
		if err == nil {
			b.commitBehind(ctx, o, e)
		} else {
			b.behind(ctx, end, false, 0, end.release, nil)
		}
		return e, err
	case err != nil:
		return nil, err
	case unfit != nil && unfit.Refused:
		return nil, p.tooLate(ctx)
	case unfit != nil:
		f := said(t, unfit)
		f.RetryAt = now.Wall.Add(retryFirst)
		if o.Failure != nil && !p.trial.on {
			f.RetryAt = o.Failure.RetryAt
		}
		return nil, f
	}
	shown.mark, shown.over = done.Mark, s.view.Mark
	changed := done.Mark.CredentialRevision != t.credential.Revision
	switch {
	case o.Token == nil, done.Token && changed && p.trial.on: // a test; whoever wants what it keeps reads it
		return b.cache.entryOf(p.l, shown, now.At, s.moved), nil
	case !done.Token, changed:
		b.cache.doubt(t.name) // it has changed meanwhile, or another was quicker: take what is there, by the credential as it is now
		return nil, errAgain
	}
	b.solos.forget(t)
	if n := o.Token.RejectedCount; n >= rejectedAtOnce {
		b.log.Warn("callers reject fresh tokens, one after the other: look at the API's answer", "credential", string(t.name), "provider", t.facts.Name,
			"in_a_row", n, "replaced_no_earlier_than", o.Token.ReplaceAt)
	}
	if unread := o.Token.Unread; unread != "" {
		b.log.Warn("the token's end cannot be read", "credential", string(t.name), "provider", t.facts.Name, "advice", broker.UnreadAdvice(unread))
	}
	return b.cache.put(p.l, shown, now.At, moved)
}

// tooLate is for an exchange that had no time left to send what it wanted: the process stood, or the store is slow. At once
// again, the first time, and not without end.
func (p *pursuit) tooLate(ctx context.Context) error {
	if p.late {
		return p.pause(ctx, "await time", lookAgain, nil, nil)
	}
	p.late = true
	return errAgain
}

// local reports whether a token may be handed out although it could not be committed, as far as this process knows the credential.
// Broker.commit sees to it that no refresh token hangs on it.
func (p *pursuit) local(o broker.Outcome) bool {
	b := p.b
	k := p.l.known.Load()
	return b.cache.shared && !p.trial.on && o.Token != nil && k != nil && b.cache.graced(broker.Moment(k.confirmed.Load()), b.clock.Now().At)
}

// heldOf keeps the values that a refresh may name beside its token.
func heldOf(a broker.Answer) map[string]broker.HeldValue {
	held := map[string]broker.HeldValue{}
	for name, v := range a.Values {
		if name != "token" {
			held[name] = broker.HeldValue{Value: v, TakenBy: a.TakenBy[name]}
		}
	}
	return held
}

// failed records why an exchange failed, and says what is to be done: errAgain, or the failure that all waiters share.
func (p *pursuit) failed(ctx context.Context, t target, end *pending, s seen, e *broker.UpstreamError) error {
	b, now := p.b, p.b.clock.Now().Wall
	sent := len(e.Attempts) > 0 && !e.Refused && !e.Unsent || e.Lost
	r := broker.FailureRecord{
		Level: e.Level, Attempts: e.Attempts, Now: now, Presented: end.spends && sent, Uncertain: end.spends && e.Lost,
	}
	found := p.place.LeaveWith(e)
	if found.OfKey && e.Detail == "" {
		e.Detail = "it fails for what this caller chose, and answers others"
	}
	out, again := said(t, e), false
	switch e.Level {
	case broker.LevelUpstream, broker.LevelRateLimited:
		if e.Refused {
			out.RetryAt = now
			again = ctx.Err() == nil // nothing was sent: nobody failed
			break
		}
		if found.OfKey {
			r.Level, r.Failure = broker.LevelResponse, remember(e, s.view.KeyFailure, now)
			out.RetryAt = r.Failure.RetryAt
			break
		}
		out.RetryAt = found.RetryAt(now)
		b.saves(ctx, t, found.News) // before anybody is told that this exchange has ended
	case broker.LevelCredential:
		r.Failure = remember(e, s.view.CredentialFailure, now)
		out.RetryAt = r.Failure.RetryAt
	case broker.LevelResponse, broker.LevelScope, broker.LevelTarget, broker.LevelRequest:
		r.Failure = remember(e, s.view.KeyFailure, now)
		out.RetryAt = r.Failure.RetryAt
	case broker.LevelGrant:
		if !end.spends { // refused where nothing was presented: it is the credential
			r.Level = broker.LevelCredential
			r.Failure = remember(e, s.view.CredentialFailure, now)
			r.Failure.Kind = broker.CredentialMisconfigured
			out.Kind, out.RetryAt = broker.CredentialMisconfigured, r.Failure.RetryAt
			break
		}
		if e.Unsent && !sent { // so nobody has refused it: a definition that comes back may go on with it
			p.unfit, again = true, t.facts.Obtains
			if r.Level = broker.LevelUpstream; !again {
				r.Level, r.Failure = broker.LevelResponse, remember(e, s.view.KeyFailure, now)
				out.RetryAt = r.Failure.RetryAt
			}
			break
		}
		r.Failure = remember(e, nil, now)
		again = true // look whether another generation has won, and whether obtain can do without
	}
	if r.Uncertain && !t.facts.Obtains && e.Level <= broker.LevelResponse {
		out.Kind, r.Failure.Kind = broker.RefreshUncertain, broker.RefreshUncertain
	}
	if p.trial.on && (e.Level != broker.LevelGrant || e.Unsent) {
		// A test leaves no failure behind but its attempts: the next caller finds out for itself.
		r.Level = broker.LevelUpstream
	}
	if e.Level >= broker.LevelResponse {
		b.savesBehind(ctx, t, found.News) // it answered
	}
	if _, err := b.once(ctx, end, end.failing(r)); err != nil {
		b.logWaiting(ctx, false, "failure not recorded yet", t.name, err)
		b.behind(ctx, end, false, storeRetry, end.failing(r), nil)
		again = false
		if e.Level == broker.LevelGrant {
			out.RetryAt = now.Add(retryFirst)
		}
	}
	p.l.wake(&p.l.ended)
	switch {
	case again && e.Refused:
		return p.tooLate(ctx)
	case again:
		return errAgain
	}
	return out
}
