package broker

import (
	"context"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"time"
)

const (
	// lookAgain is how often a flight looks whether somebody else's lease has brought a token, as the safety net below events.
	lookAgain = 250 * time.Millisecond
	// storeRetry is how often a commit is tried while the store is away.
	storeRetry = 500 * time.Millisecond
	// commitMost bounds one such try where a network may hang; a disk is waited for.
	commitMost = time.Second
)

// errAgain says that something has moved: look again.
var errAgain = errors.New("look again")

// A pursuit is a flight at work.
type pursuit struct {
	b     *Broker
	key   lookup
	f     *flight
	keep  *bool // of a test: whether the access token is kept; nil: no test
	state *state
	plan  *plan
	sel   Selection
	token TokenKey
	moved uint64
	view  View
	// alone: what is issued is not stored.
	alone bool
	// read is when what is known now began to be read; see trusted.
	read int64
	// asked: the upstream was asked already, so that force has been satisfied.
	asked bool
}

// fetch brings a token: from the store, or from the upstream. Both results are set when a valid token is there but a better
// one could not be had. It ends by its own bounds: the store's, the queue's, and the exchange's.
func (b *Broker) fetch(key lookup, f *flight, keep *bool) (*entry, *Failure) {
	ctx := b.stopping
	p := &pursuit{b: b, key: key, f: f, keep: keep}
	for {
		e, err := p.round(ctx)
		if errors.Is(err, errAgain) {
			if ctx.Err() == nil {
				continue
			}
			err = &Failure{Kind: ShuttingDown, Credential: key.name}
		}
		if err == nil {
			return e, nil
		}
		var fail *Failure
		if !errors.As(err, &fail) {
			fail = &Failure{Kind: KindOf(err), Credential: key.name}
		}
		if fail.Kind == StoreUnavailable && b.trusted.shared && keep == nil && !p.asked {
			return p.withoutStore(ctx, fail)
		}
		return p.fallback(fail), fail
	}
}

// fallback is the entry that is served although something better was wanted, and why; nil: none.
func (p *pursuit) fallback(why *Failure) *entry {
	if p.keep != nil || !p.view.Token.fallback(time.Now(), need{rejected: p.f.need.rejected}) {
		return nil
	}
	e, err := p.entry(p.view.Token, why)
	if err != nil {
		return nil
	}
	return e
}

// round looks once at everything, and does the one thing that is to be done. errAgain: look again.
func (p *pursuit) round(ctx context.Context) (*entry, error) {
	p.view, p.state = View{}, p.b.state(p.key.name)
	if p.b.trusted.given() {
		return nil, p.b.trusted.failure(p.key.name)
	}
	if err := p.prepare(ctx); err != nil {
		return nil, err
	}
	if shared := p.plan.credential.Seeded() && p.token.Spends; shared {
		// All keys of this credential spend one refresh token: they take turns, and look after their turn has come.
		select {
		case p.state.turn <- struct{}{}:
			defer func() { <-p.state.turn }()
		case <-ctx.Done():
			return nil, &Failure{Kind: ShuttingDown, Credential: p.key.name}
		}
	}
	changed := p.state.changes()
	p.moved, p.read = p.state.moved.Load(), p.b.trusted.now()
	view, err := p.b.store.Read(ctx, p.token)
	if err != nil {
		return nil, p.storeFailure(err)
	}
	// Version and incarnation decide what is issued, and the etag what is asked for where the caller does not say.
	if c, known := view.Credential, p.plan.credential; c.Etag != known.Etag || c.Version != known.Version || c.Incarnation != known.Incarnation {
		p.state.move()
		return nil, errAgain
	}
	p.plan.confirmed.Store(p.read)
	p.view = view
	now := time.Now()
	if view.Token.decide(now, p.f.need) != fetch {
		if e, err := p.entry(view.Token, nil); err == nil {
			return e, nil
		} // the definition presents something that this token does not have: another is needed
	}
	if err := p.remembered(now); err != nil {
		return nil, err
	}
	if view.LeaseLeft > 0 {
		return nil, p.pause(ctx, min(view.LeaseLeft, lookAgain), changed)
	}
	run, err := p.choose(now)
	if errors.Is(err, errLooksAlive) {
		return nil, p.pause(ctx, lookAgain, changed)
	}
	if err != nil {
		return nil, err
	}
	var turn *pass
	if host := p.upstream(); host != "" {
		// The turn first, the lease second: a lease's time is for the exchange.
		if turn, err = p.b.enter(ctx, p.b.gate(host, p.plan.facts), p.plan.facts, p.plan.credential, p.f.need.force, false); err != nil {
			return nil, err
		}
		defer turn.leave()
	}
	return p.exchange(ctx, run, turn, changed)
}

// pause waits for a change, at most for so long.
func (p *pursuit) pause(ctx context.Context, most time.Duration, changed <-chan struct{}) error {
	timer := time.NewTimer(most + time.Duration(rand.Float64()*float64(most)/4)) //nolint:gosec // jitter needs no secrecy
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	case <-ctx.Done():
	}
	return errAgain
}

// prepare finds the credential, its definition, the selection with its defaults, and the key.
func (p *pursuit) prepare(ctx context.Context) error {
	b := p.b
	pl, err := b.planFor(ctx, p.key.name, p.state)
	if err != nil {
		return err
	}
	p.plan = pl
	return p.selects()
}

// selects decides by the plan what is asked for, and by which key.
func (p *pursuit) selects() (err error) {
	b, pl := p.b, p.plan
	c := pl.credential
	if c.Disabled {
		return &Failure{Kind: CredentialDisabled, Credential: c.Name, Provider: c.Provider}
	}
	if v := pl.definition.Check(c); len(v) > 0 {
		return &Failure{Kind: CredentialIncomplete, Credential: c.Name, Provider: c.Provider, Violations: v}
	}
	if p.sel, err = pl.definition.Select(c, p.key.sel); err != nil {
		var f *Failure
		if errors.As(err, &f) {
			named := *f
			named.Credential, named.Provider = c.Name, c.Provider
			return &named
		}
		return err
	}
	if c.Seeded() && !pl.facts.RefreshSendsScopes && pl.facts.Refreshes {
		p.sel.Scopes = Scopes{} // one token serves all scope sets of what a human granted
	}
	p.token = b.tokenKey(pl, p.sel)
	return nil
}

// planFor returns the credential and its definition as of now.
func (b *Broker) planFor(ctx context.Context, name CredentialName, s *state) (*plan, error) {
	moved, revision, read := s.moved.Load(), b.upstream.Revision(), b.trusted.now()
	if pl := s.plan.Load(); pl != nil && pl.moved == moved && pl.revision == revision && b.trusted.within(pl.confirmed.Load()) {
		return pl, nil
	}
	c, err := b.store.Credential(ctx, name)
	if err != nil {
		if KindOf(err) == NotFound {
			b.forget(name, s)
		}
		return nil, storeFailure(name, err)
	}
	d, err := b.upstream.Definition(c.Provider)
	if err != nil {
		return nil, &Failure{Kind: ProviderInvalid, Credential: name, Provider: c.Provider}
	}
	pl := &plan{moved: moved, revision: revision, credential: c, definition: d, facts: d.Facts()}
	pl.confirmed.Store(read)
	s.plan.Store(pl)
	return pl, nil
}

// tokenKey names the token by everything that changes the answer.
func (b *Broker) tokenKey(pl *plan, sel Selection) TokenKey {
	k := TokenKey{Credential: pl.credential.Name, Digest: pl.facts.Digest, Spends: pl.facts.Refreshes}
	k.Selection = b.selectionID(sel)
	k.Token = b.store.Fingerprint("token-key", hex.EncodeToString(k.Selection[:]), pl.facts.Name, pl.facts.Digest)
	if !pl.credential.Seeded() {
		k.Grant = k.Selection
	}
	return k
}

func (b *Broker) selectionID(sel Selection) [32]byte {
	return b.store.Fingerprint("selection", sel.Scopes.joined, sel.Audience, sel.Parameters.joined, sel.Resources.joined)
}

// upstream names whose limits and backoff apply: the definition at the host that this credential's inputs lead to. Two
// credentials that go to different places through one definition do not disturb each other.
func (p *pursuit) upstream() string {
	host := p.plan.definition.Host(p.plan.credential)
	if host == "" {
		return ""
	}
	parts := []string{}
	for _, name := range p.plan.facts.HostInputs {
		parts = append(parts, name, p.plan.credential.Inputs[name])
	}
	where := p.b.store.Fingerprint("upstream", parts...)
	return p.plan.facts.Name + "@" + host + "#" + hex.EncodeToString(where[:8])
}

// remembered returns the failure that is to be shared instead of asking, if there is one.
func (p *pursuit) remembered(now time.Time) error {
	if p.f.need.force {
		return nil // the operator says: try now
	}
	for _, r := range []*Remembered{p.view.CredentialFailure, p.view.KeyFailure} {
		if r != nil && now.Before(r.RetryAt) {
			return r.failure(p.plan.credential)
		}
	}
	return nil
}

// choose decides between obtain and refresh, and whether a refresh token that may be spent is presented.
func (p *pursuit) choose(now time.Time) (Run, error) {
	f, g, c := p.plan.facts, p.view.Grant, p.plan.credential
	if !f.Refreshes || g.None() {
		if f.Obtains {
			return Obtain, nil
		}
		return 0, &Failure{Kind: ReauthorizationRequired, Credential: c.Name, Provider: c.Provider}
	}
	if g.Refused != nil {
		if f.Obtains {
			return Obtain, nil
		}
		if p.f.need.force && !p.asked {
			return Refresh, nil // it cannot become worse
		}
		r := *g.Refused
		r.Kind, r.RetryAt = ReauthorizationRequired, time.Time{}
		return 0, r.failure(c)
	}
	if !g.MayBeSpent() || f.Reuse.Allowed || f.Reuse.Within > 0 && now.Sub(g.UsedAt) < f.Reuse.Within {
		return Refresh, nil
	}
	if f.Obtains {
		return Obtain, nil // never presented again
	}
	if t := p.view.Token; t != nil && now.Before(t.ExpireAt) && !t.Rejected && !p.f.need.force {
		// While the old access token serves, nothing is gained by the risk.
		return 0, &Failure{Kind: RefreshUncertain, Credential: c.Name, Provider: c.Provider, RetryAt: t.ExpireAt}
	}
	if p.b.trusted.shared && !g.Marker.IsZero() && !p.state.givenUp(p.token.Grant, g.Marker, p.b.trusted.now(), p.b.trusted.misses.Load()) {
		return 0, errLooksAlive
	}
	return Refresh, nil
}

// entry renders a token and puts it into the cache, as of what had moved before it was read. why is what its refresh has
// just failed with; nil: nothing: an entry is never seen without it.
func (p *pursuit) entry(t *Issued, why *Failure) (*entry, error) {
	shown, err := p.plan.definition.Present(p.view.Credential, p.sel, *t)
	if err != nil {
		return nil, &Failure{Kind: UpstreamResponseInvalid, Credential: p.key.name, Provider: p.plan.facts.Name}
	}
	e := &entry{state: p.state, moved: p.moved, revision: p.plan.revision, key: p.key, plan: p.plan, mark: p.view.Mark, issued: t, token: &Token{
		ID: t.ID, AccessToken: t.Values["token"], TokenType: t.TokenType, ExpireTime: t.ExpireAt, RefreshTime: t.RefreshAt,
		Scopes: t.Granted, Source: t.Source, Presentation: shown,
	}}
	e.refreshFrom.Store(t.RefreshAt.UnixNano())
	if why != nil {
		e.trouble.Store(why)
	}
	e.alone = p.alone
	e.unreached.Store(p.alone)
	e.confirmed.Store(p.read)
	if p.keep == nil || *p.keep {
		p.b.cache.Set(p.key, e)
		p.b.trusted.add(e)
	}
	return e, nil
}

func (p *pursuit) storeFailure(err error) error {
	if KindOf(err) == StoreUnavailable {
		p.b.trusted.missed()
	}
	return storeFailure(p.key.name, err)
}

// storeFailure passes a store's kind on, and nothing else of it.
func storeFailure(name CredentialName, err error) error {
	var f *Failure
	if errors.As(err, &f) && f.Credential != "" {
		return f
	}
	k := KindOf(err)
	if k == Internal && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		k = Canceled
	}
	out := &Failure{Kind: k, Credential: name}
	if f != nil {
		out.Detail = f.Detail
	}
	if k == StoreUnavailable {
		out.RetryAt = time.Now().Add(backoffFirst)
	}
	return out
}
