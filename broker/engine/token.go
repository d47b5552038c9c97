package engine

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A Request asks for a token.
type Request struct {
	Credential broker.CredentialName
	Selection  broker.Selection
	// MinTTL is how long the token must live at least, as far as the upstream can give it; 0: no wish.
	MinTTL time.Duration
	// RejectedTokenID is the id of a token that the API refused: it is not the answer, unless the upstream hands out the same
	// token again. Needs the permission InvalidateOne. Empty: none.
	RejectedTokenID string
}

// A Result is a token, and whether all is well with it.
type Result struct {
	Token *broker.Token
	// Rendering is what Settings.Render made of it.
	Rendering any
	// Degraded: the token is valid, but something is not well with its supply.
	Degraded bool
}

// Token returns a token that is valid now. Equal requests share one token and one exchange; a caller that gives up leaves
// the exchange running. It fails with a *broker.Failure.
func (b *Broker) Token(ctx context.Context, caller *broker.Caller, r Request) (Result, error) {
	res, err := b.token(ctx, caller, broker.GetToken, r)
	if err != nil {
		return Result{}, b.failed(ctx, broker.Access{Caller: caller, Operation: broker.GetToken, Credential: r.Credential, Selection: r.Selection}, err)
	}
	return res, nil
}

// token is Token for an operation that hands out tokens. Its failures are not counted.
func (b *Broker) token(ctx context.Context, caller *broker.Caller, op broker.Operation, r Request) (Result, error) {
	now, key, n := b.clock.Now(), lookup{r.Credential, r.Selection}, need{minTTL: r.MinTTL, rejected: r.RejectedTokenID}
	e, v := b.cache.look(key, n, now, b.upstream.Revision())
	if v != fetch && n.rejected != "" && b.cache.shared && !e.line.told(n.rejected, &key, broker.Moment(e.confirmed.Load())) {
		v = fetch // what is cached may be older still than the token that is rejected, and the store has to hear of it
	}
	var taken broker.Meter
	if v != fetch {
		remembered, took, err := b.admits(ctx, caller, op, key, e, now, nil)
		taken = took
		switch {
		case broker.KindOf(err) == broker.CallerLimited:
			return Result{}, err
		case err != nil:
			v = fetch // what is stored by now decides
		case !remembered:
			now = b.clock.Now()
			if again, is := b.cache.look(key, n, now, b.upstream.Revision()); again == e {
				v = is
			} else {
				v = fetch
			}
		}
	}
	if v == serveAndRefresh && e.claim(now.At) {
		b.refresh(key, need{fresh: true})
	}
	if v != fetch {
		e.count()
		degraded := b.cache.degraded(e, now.At)
		if degraded {
			b.observe.Degraded(e.facts.Name)
		}
		return Result{e.token, e.rendering, degraded}, nil
	}
	res, err := b.miss(ctx, caller, op, key, n, taken)
	if broker.KindOf(err) != broker.CallerNotAllowed {
		b.observe.Miss(b.providerOf(key.name, err))
	}
	return res, err
}

// miss brings a token that is not in the process. Of taken the call has one already.
func (b *Broker) miss(ctx context.Context, caller *broker.Caller, op broker.Operation, key lookup, n need, taken broker.Meter) (Result, error) {
	l := b.cache.hold(key.name) // what is read of the credential is read once
	defer b.cache.release(l)
	a := broker.Access{Caller: caller, Operation: op, Credential: key.name, Selection: key.sel}
	if err := b.mayAsk(ctx, a, taken); err != nil {
		return Result{}, err
	}
	invalidates := a
	invalidates.Operation = broker.InvalidateOne
	if n.rejected != "" {
		if err := b.mayAsk(ctx, invalidates, taken); err != nil {
			return Result{}, err
		}
	}
	may := func() error { return b.shares.take(caller, key.name) }
	if e := b.cache.peek(key); n.rejected != "" && e != nil && e.issued.ID == n.rejected && keeps(e.issued, e.wall(b.clock.Now())) {
		// As the store would answer.
		if err := may(); err != nil {
			return Result{}, err
		}
		return Result{}, refusesFresh(e.credential, e.issued)
	}
	if n.rejected != "" && !(b.cache.shared && l.told(n.rejected, &key, broker.Never)) {
		// Where the store is away, it is gone from this process at least, and the flight does what can be done.
		if err := b.reject(ctx, l, invalidates, key, n.rejected, may); err != nil && (!b.cache.shared || broker.KindOf(err) != broker.StoreUnavailable) {
			return Result{}, err
		}
	}
	return b.wait(ctx, a, key, n, taken)
}

// rejectMost bounds the call to the store that drops a rejected token.
const rejectMost = 10 * time.Second

// reject drops a rejected token, of an access that may do so. Callers who reject the same one at the same time share one call to the store.
func (b *Broker) reject(ctx context.Context, l *line, a broker.Access, key lookup, id string, may func() error) error {
	begin := func() (context.Context, error) { return context.WithoutCancel(ctx), may() } // whoever began it may give up
	f, _, err := b.rejections.join(rejected{key, id}, begin, func(ctx context.Context) (err error) {
		defer func() {
			if p := recover(); p != nil {
				b.logPanic(ctx, l.name, p)
				err = &broker.Failure{Kind: broker.Internal, Credential: l.name}
			}
		}()
		bounded, cancel := context.WithTimeout(ctx, rejectMost)
		defer cancel()
		defer context.AfterFunc(b.stopping, cancel)()
		c, err := b.credential(bounded, l)
		if err != nil {
			return err
		}
		t, err := b.aim(key, c)
		if err != nil {
			return nil // there is no such token; the flight says why, by what is stored then
		}
		may, err := b.permit(a)
		if err != nil {
			return err
		}
		wrote := &written{ctx: bounded, may: may, more: func(r *broker.AuditRecord) { r.TokenID = id }}
		// One caller who rejects whatever it gets takes nobody's token away.
		m := broker.Match{TokenID: id, Spare: true, Before: func(c broker.Credential) error {
			if err := b.effective(may, c).on(c); err != nil {
				return err
			}
			return wrote.down(c)
		}}
		done, err := b.drop(bounded, c, m, &t, ofToken(id, broker.Secret{}), droppedID(id))
		wrote.done(done.Count, err)
		if err == nil && !done.Spared.IsZero() {
			err = &broker.Failure{Kind: broker.FreshTokensRejected, Credential: l.name, Provider: c.Provider, RetryAt: done.Spared}
		}
		return err
	})
	if err != nil {
		return asFailure(err, l.name)
	}
	if err := f.wait(ctx); err != nil {
		return b.gaveUp(l.name, err)
	}
	return f.value
}

// rejected is a token that a caller has rejected: of what it asked for.
type rejected struct {
	lookup
	id string
}

// wait joins or starts flights until one brings what the caller needs, or fails. What it brings is decided on again, and so is a failure where who may
// what has changed meanwhile. The caller holds the line: what is dropped is noted there, also of what is not cached.
func (b *Broker) wait(ctx context.Context, a broker.Access, key lookup, n need, taken broker.Meter) (Result, error) {
	b.observe.Waiting(1)
	defer b.observe.Waiting(-1)
	generation := b.authorize.Generation()
	fails := func(err error) (Result, error) {
		if may, _ := b.permit(a); may.effect != broker.Allowed || b.authorize.Generation() != generation { // labels may have changed, too
			if denied := b.mayAsk(ctx, a, taken); broker.KindOf(denied) == broker.CallerNotAllowed {
				err = denied // else what came of it says more
			}
		}
		return Result{}, b.unseen(a, err)
	}
	for {
		if err := ctx.Err(); err != nil {
			return Result{}, b.gaveUp(key.name, err)
		}
		f, mine, err := b.join(ctx, flightKey{lookup: key}, n, a.Caller, func() error { return b.shares.take(a.Caller, key.name) })
		if err != nil {
			return Result{}, err
		}
		if err := f.wait(ctx); err != nil {
			return Result{}, b.gaveUp(key.name, err)
		}
		// A flight that somebody else started may have wanted less: who gets nothing below joins the next.
		now, e, failure := b.clock.Now(), f.value.entry, f.value.failure
		mine = mine || f.value.need == n
		switch {
		case e == nil && mine:
			return fails(failure)
		case e == nil, failure == nil && b.cache.heldUp(e, now.At):
		case decide(e.issued, e.wall(now), n) != fetch, mine && failure == nil && !e.ended(now),
			mine && failure != nil && fallback(e.issued, e.wall(now), n):
			remembered, took, err := b.admits(ctx, a.Caller, a.Operation, key, e, now, taken)
			taken = took
			if errors.Is(err, errAgain) || err == nil && !remembered && !b.stands(e) {
				continue
			}
			if err != nil {
				return Result{}, err
			}
			degraded := failure != nil || b.cache.degraded(e, now.At)
			if degraded {
				b.observe.Degraded(e.facts.Name)
			}
			return Result{e.token, e.rendering, degraded}, nil
		case mine && failure != nil:
			return fails(failure)
		}
	}
}

// gaveUp is the failure of a caller whose context ended while it waited.
func (b *Broker) gaveUp(name broker.CredentialName, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return &broker.Failure{Kind: broker.UpstreamSlow, Credential: name, RetryAt: b.clock.Now().Wall.Add(retryFirst)}
	}
	return &broker.Failure{Kind: broker.Canceled, Credential: name}
}

// failed counts a failure on its way out, and has what is denied audited.
func (b *Broker) failed(ctx context.Context, a broker.Access, err error) error {
	provider := ""
	if f, ok := err.(*broker.Failure); ok { //nolint:errorlint // a Failure is never wrapped
		if provider = b.providerOf(f.Credential, f); f.Kind == broker.CallerNotAllowed {
			provider = "" // who is denied learns nothing, and nor does who reads metrics
			b.audit.Note(ctx, broker.AuditRecord{
				Event: broker.AuditDenied, Outcome: f, Caller: a.Caller, Operation: a.Operation, Credential: a.Credential, Selection: a.Selection,
			})
		}
	}
	b.observe.Failed(a.Operation, provider, broker.KindOf(err))
	return err
}

// providerOf is whose token a call was about, as far as is known; empty: it is not.
func (b *Broker) providerOf(name broker.CredentialName, err error) string {
	if f, ok := err.(*broker.Failure); ok && f.Provider != "" { //nolint:errorlint // a Failure is never wrapped
		return f.Provider
	}
	if l := b.cache.line(name); l != nil {
		if k := l.known.Load(); k != nil {
			return k.credential.Provider
		}
	}
	return ""
}
