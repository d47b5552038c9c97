package broker

import (
	"context"
	"errors"
	"time"
)

// A Request asks for a token.
type Request struct {
	Credential CredentialName
	Selection  Selection
	// MinTTL is how long the token must live at least, as far as the upstream can give it; 0: no wish.
	MinTTL time.Duration
	// RejectedTokenID is the id of a token that the API refused: it is not the answer, unless the upstream hands out the same
	// token again. Needs the permission InvalidateOne. Empty: none.
	RejectedTokenID string
}

// A Result is a token, and whether all is well with it.
type Result struct {
	Token *Token
	// Degraded: the token is valid, but its refresh is failing.
	Degraded bool
}

// Token returns a token that is valid now. Equal requests share one token and one exchange; a caller that gives up leaves
// the exchange running. It fails with a *Failure.
func (b *Broker) Token(ctx context.Context, caller Caller, r Request) (Result, error) {
	if err := b.authorize.Allow(caller, GetToken, r.Credential, r.Selection.Scopes); err != nil {
		return Result{}, b.failed(GetToken, err)
	}
	if r.RejectedTokenID != "" {
		if err := b.authorize.Allow(caller, InvalidateOne, r.Credential, r.Selection.Scopes); err != nil {
			return Result{}, b.failed(GetToken, err)
		}
	}
	now := time.Now()
	key := lookup{r.Credential, r.Selection}
	n := need{minTTL: r.MinTTL, rejected: r.RejectedTokenID}
	if e, ok := b.cache.GetIfPresent(key); ok && e.current(b.upstream.Revision()) {
		relied, away := b.trusted.relies(e, now)
		if b.trusted.shared && n.rejected != "" {
			// What is cached may be older still than the token that is rejected, and the store has to hear of the rejection.
			told := e.state.rejected.Load()
			relied = relied && told != nil && told.id == n.rejected && e.confirmed.Load() >= told.at
		}
		verdict := fetch
		if relied {
			verdict = e.issued.decide(now, n)
		}
		switch verdict {
		case serveAndRefresh:
			if e.claimRefresh(now) {
				// Nobody waits for it; a broker that is closing goes on serving what it has.
				_, _, _ = b.join(key, need{fresh: true})
			}
			fallthrough
		case serve:
			b.observe.Hit()
			return Result{Token: e.token, Degraded: away || e.degraded()}, nil
		case fetch:
		}
	}
	b.observe.Miss()
	if told := b.state(r.Credential).rejected.Load(); r.RejectedTokenID != "" && (told == nil || told.id != r.RejectedTokenID || !b.trusted.shared) {
		// Where the store is away, it is gone from this process at least, and the flight does what can be done.
		if err := b.reject(ctx, r.Credential, r.RejectedTokenID); err != nil && (!b.trusted.shared || KindOf(err) != StoreUnavailable) {
			return Result{}, b.failed(GetToken, err)
		}
	}
	res, err := b.wait(ctx, key, n)
	if err != nil {
		return Result{}, b.failed(GetToken, err)
	}
	return res, nil
}

// rejectMost bounds the call to the store that drops a rejected token.
const rejectMost = 10 * time.Second

// reject drops a rejected token. Callers who reject the same one at the same time share one call to the store.
func (b *Broker) reject(ctx context.Context, name CredentialName, id string) error {
	shared := b.rejections.DoChan(string(name)+" "+id, func() (_ any, err error) {
		defer func() {
			if p := recover(); p != nil {
				b.logPanic(name, p)
				err = &Failure{Kind: Internal, Credential: name}
			}
		}()
		bounded, cancel := context.WithTimeout(b.stopping, rejectMost) // whoever began it may give up
		defer cancel()
		began := b.trusted.now()
		if _, err = b.drop(bounded, name, Match{TokenID: id}); err == nil {
			if s, ok := b.states.Load(name); ok {
				s.(*state).rejected.Store(&rejection{id, began})
			}
		}
		return nil, err
	})
	select {
	case done := <-shared:
		return done.Err
	case <-ctx.Done():
		return gaveUp(name, ctx.Err())
	}
}

// wait joins or starts flights until one brings what the caller needs, or fails.
func (b *Broker) wait(ctx context.Context, key lookup, n need) (Result, error) {
	b.observe.Waiting(1)
	defer b.observe.Waiting(-1)
	for {
		if err := ctx.Err(); err != nil {
			return Result{}, gaveUp(key.name, err)
		}
		f, mine, err := b.join(key, n)
		if err != nil {
			return Result{}, err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return Result{}, gaveUp(key.name, ctx.Err())
		}
		// Look again: a flight that somebody else started may have wanted less.
		now := time.Now()
		switch e := f.entry; {
		case e == nil:
			if !mine && f.need != n {
				continue
			}
			return Result{}, f.failure
		case e.issued.decide(now, n) != fetch, mine && f.failure == nil && now.Before(e.issued.ExpireAt):
			return Result{Token: e.token, Degraded: f.failure != nil || e.degraded()}, nil
		case f.failure != nil && (mine || f.need == n):
			if e.issued.fallback(now, n) {
				return Result{Token: e.token, Degraded: true}, nil
			}
			return Result{}, f.failure
		}
	}
}

// gaveUp is the failure of a caller whose context ended while it waited.
func gaveUp(name CredentialName, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return &Failure{Kind: UpstreamSlow, Credential: name, RetryAt: time.Now().Add(backoffFirst)}
	}
	return &Failure{Kind: Canceled, Credential: name}
}

// failed counts a failure on its way out.
func (b *Broker) failed(op Operation, err error) error {
	b.observe.Failed(op, KindOf(err))
	return err
}
