package broker

import (
	"context"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"time"
)

// withoutStore does what can be done while the store cannot be asked: a valid token that this process has is served, and
// where the definition allows it, the process obtains one for itself. That is never stored: when the store is back, what is
// there wins.
func (p *pursuit) withoutStore(ctx context.Context, why *Failure) (*entry, *Failure) {
	t := &p.b.trusted
	now := time.Now()
	var before *Issued
	if e, ok := p.b.cache.GetIfPresent(p.key); ok && e.current(p.b.upstream.Revision()) {
		if e.alone && p.view.Credential.Version == e.plan.credential.Version {
			// The store can be read, and has nothing better, but takes nothing: nothing has changed about this one.
			e.confirmed.Store(p.read)
		}
		if t.withinGrace(e.confirmed.Load()) && e.issued.fallback(now, need{rejected: p.f.need.rejected}) {
			e.unreached.Store(true)
			t.add(e)
			return e, why
		}
		before = e.issued
	}
	if p.f.need.fresh || p.f.need.force {
		return nil, why
	}
	pl := p.state.plan.Load()
	if pl == nil || pl.revision != p.b.upstream.Revision() || !pl.facts.ObtainsAlone || !t.withinGrace(pl.confirmed.Load()) {
		return nil, why
	}
	if refused := t.refusedBefore(p.key, now); refused != nil {
		return nil, refused
	}
	p.plan = pl
	e, err := p.obtainAlone(ctx, before)
	if err == nil {
		return e, nil
	}
	f := asFailure(err, p.key.name)
	t.refuse(p.key, f)
	return nil, f
}

// obtainAlone obtains without a lease. before is what the process had until now, if it had something.
func (p *pursuit) obtainAlone(ctx context.Context, before *Issued) (*entry, error) {
	b, pl := p.b, p.plan
	if err := p.selects(); err != nil {
		return nil, err
	}
	if host := p.upstream(); host != "" {
		turn, err := b.enter(ctx, b.gate(host, pl.facts), pl.facts, pl.credential, false, true)
		if err != nil {
			return nil, err
		}
		defer turn.leave()
		return p.exchangeAlone(ctx, turn, before)
	}
	return p.exchangeAlone(ctx, nil, before)
}

func (p *pursuit) exchangeAlone(ctx context.Context, turn *pass, before *Issued) (*entry, error) {
	b, c := p.b, p.plan.credential
	deadline := time.Now().Add(b.timeout)
	bounded, cancel := awake(ctx, b.timeout)
	defer cancel()
	p.view, p.asked = View{Credential: c, Key: p.token}, true
	answer, _, failure := p.ask(bounded, Exchange{
		Run: Obtain, Credential: c, Selection: p.sel,
		BeforeSend: func(string) error {
			if !time.Now().Before(deadline) || bounded.Err() != nil {
				return errLate
			}
			return nil
		},
	})
	now := time.Now()
	if failure != nil {
		f := &Failure{
			Kind: failure.Kind(), Credential: c.Name, Provider: c.Provider, UpstreamStatus: failure.Status, UpstreamError: failure.Code,
			Detail: failure.Detail, RetryAt: now.Add(backoffFirst),
		}
		switch {
		case failure.Refused:
		case failure.Level >= LevelScope:
			b.worked(ctx, turn)
			f.RetryAt = now.Add(permanentWait(1, max(failure.RetryAfter, failure.Wait)))
		default:
			f.RetryAt = b.failing(ctx, turn, failure, now)
		}
		return nil, f
	}
	b.worked(ctx, turn)
	id := b.store.Fingerprint("token", c.Incarnation.String(), answer.Values["token"].Reveal())
	t := issue(answer, p.plan.facts, p.token, p.sel, c, hex.EncodeToString(id[:16]), before, rand.Float64()) //nolint:gosec // jitter needs no secrecy
	if !now.Before(t.ExpireAt) {
		return nil, &Failure{
			Kind: UpstreamResponseInvalid, Credential: c.Name, Provider: c.Provider, RetryAt: b.failing(ctx, turn, &UpstreamError{Level: LevelResponse}, now),
			Detail: "the token that it gave has expired already",
		}
	}
	return p.unstored(t)
}

// unstored is an entry of a token that the store does not have. It is relied on for as long as what the process knows of the
// credential.
func (p *pursuit) unstored(t *Issued) (*entry, error) {
	p.moved, p.read, p.view.Mark, p.alone = p.state.moved.Load(), p.plan.confirmed.Load(), Mark{}, true
	e, err := p.entry(t, nil)
	if err == nil {
		p.state.notify()
	}
	return e, err
}

// servesUnstored reports whether a token is handed out although it could not be committed: nothing that was spent, and nothing
// that may be presented again, hangs on it.
func (p *pursuit) servesUnstored(o Outcome, l Lease, err error) bool {
	t := &p.b.trusted
	return t.shared && KindOf(err) == StoreUnavailable && p.b.stopping.Err() == nil && p.keep == nil && o.Token != nil &&
		o.RefreshToken.IsZero() && !l.Spends && !o.DropGrant && t.withinGrace(p.plan.confirmed.Load())
}

// refusedBefore is how the last exchange for the key went that was made while the store is away, if it is not to be made again
// yet.
func (t *trusted) refusedBefore(key lookup, now time.Time) *Failure {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.refused[key]; f != nil && now.Before(f.RetryAt) {
		return f
	}
	return nil
}

// refusedMost bounds what is remembered of such exchanges.
const refusedMost = 10_000

func (t *trusted) refuse(key lookup, f *Failure) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.refused) < refusedMost {
		t.refused[key] = f
	}
}

// takeoverGrace is how long a broker itself has to see a marker without a lease before it presents that refresh token again.
// Whoever set it may be stopped, or hold the successor while the store is away; pending commits are tried more often than
// this.
const takeoverGrace = 10 * time.Second

// errLooksAlive says that whoever is presenting the refresh token may still come back with its successor.
var errLooksAlive = errors.New("its owner may still come back")

// abandoned is a marker without a lease, since when, and how often the store had failed then.
type abandoned struct {
	marker ID
	since  int64
	misses uint64
}

// givenUp reports whether this process has seen the marker, leaseless, for the takeover grace without a failure of the store
// in between.
func (s *state) givenUp(grant [32]byte, marker ID, now int64, misses uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen, ok := s.abandoned[grant]
	if !ok || seen.marker != marker || seen.misses != misses {
		if s.abandoned == nil {
			s.abandoned = map[[32]byte]abandoned{}
		}
		s.abandoned[grant] = abandoned{marker, now, misses}
		return false
	}
	return now-seen.since >= int64(takeoverGrace)
}
