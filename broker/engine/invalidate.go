package engine

import (
	"context"
	"slices"
	"sync"

	"github.com/tokenbroker/tokenbroker/broker"
)

// An Invalidation says which tokens are to be dropped. Exactly one of TokenID, AccessToken and All is set.
type Invalidation struct {
	Credential broker.CredentialName
	// TokenID is of the rejected token; AccessToken is the token itself.
	TokenID     string
	AccessToken broker.Secret
	// All drops every token, or exactly that of Selection where it is not the zero one.
	All       bool
	Selection broker.Selection
}

// Invalidate drops tokens. A token that is not a current one any more is left alone, so that a thousand callers who got a 401
// on the same token cause one exchange. Invalidating one token blocks no commit; invalidating all makes the access tokens of
// running exchanges void and keeps their refresh tokens. Grants are not changed. What is named is gone from this process also where
// it fails because the store is away, and nothing else is. It fails with a *broker.Failure; NotFound.
func (b *Broker) Invalidate(ctx context.Context, caller *broker.Caller, i Invalidation) (broker.Dropped, error) {
	op := broker.InvalidateOne
	if i.All {
		op = broker.InvalidateAll
	}
	return allowed(ctx, b, caller, op, i.Credential, func(may permit) (broker.Dropped, error) {
		done, err := b.invalidate(ctx, i, may)
		if err == nil && done.Count > 0 {
			b.log.Info("tokens invalidated", "credential", string(i.Credential), "caller", caller.String(), "operation", string(op), "tokens", done.Count)
		}
		return done, err
	})
}

func (b *Broker) invalidate(ctx context.Context, i Invalidation, may permit) (broker.Dropped, error) {
	var named func(*entry) bool // in this process, without the store
	switch {
	case i.TokenID != "", !i.AccessToken.IsZero():
		named = ofToken(i.TokenID, i.AccessToken)
	case i.All && i.Selection != broker.Selection{}:
		named = b.ofSelection(lookup{i.Credential, i.Selection})
	case i.All:
		named = func(*entry) bool { return true }
	default:
		return broker.Dropped{}, broker.Invalid(broker.Violation{Field: "target", Description: "say which token: token_id, access_token or all"})
	}
	wrote := &written{ctx: ctx, may: may, more: func(r *broker.AuditRecord) {
		if r.TokenID = i.TokenID; i.All {
			r.Selection = i.Selection
		}
	}}
	// Whoever misspells a name must not believe that its tokens are gone.
	c, err := b.store.Credential(ctx, i.Credential)
	if err != nil {
		err = b.storeFailure(i.Credential, err)
		if broker.KindOf(err) == broker.NotFound || !b.mayUnread(may) || !b.cache.any(i.Credential, named) {
			return broker.Dropped{}, err
		}
		if away := wrote.down(broker.Credential{Provider: b.providerOf(i.Credential, nil)}); away != nil {
			return broker.Dropped{}, away
		}
		wrote.done(b.cache.drop(i.Credential, named, false), err)
		return broker.Dropped{}, err
	}
	if err := may.on(c); err != nil {
		return broker.Dropped{}, err
	}
	m := broker.Match{TokenID: i.TokenID, Before: func(c broker.Credential) error {
		if err := may.on(c); err != nil { // it may be another one by now
			return err
		}
		return wrote.down(c)
	}}
	var what dropped // everything
	switch {
	case !i.AccessToken.IsZero():
		m.TokenID = b.tokenID(c, i.AccessToken)
		wrote.more = func(r *broker.AuditRecord) { r.TokenID = m.TokenID }
	case i.All && i.Selection != broker.Selection{}:
		t, err := b.aim(lookup{i.Credential, i.Selection}, c)
		if err != nil {
			return broker.Dropped{}, err
		}
		m.Selection = &t.token.Selection
		named, what = func(e *entry) bool { return e.target.token.Selection == t.token.Selection }, droppedSelection(t.chosen)
	case i.All:
		m.Epoch = broker.NewID()
	}
	if m.TokenID != "" {
		what = droppedID(m.TokenID)
	}
	done, err := b.drop(ctx, c, m, nil, named, what)
	wrote.done(done.Count, err)
	b.shares.owe(may.access.Caller, done.Looked/rowsAtOnce)
	return done, err
}

// written is how a drop is audited: before anything is dropped, and only where something is. Whoever makes up tokens leaves no lines.
type written struct {
	ctx   context.Context //nolint:containedctx // of the call that drops
	may   permit
	more  func(*broker.AuditRecord)
	after func(count int, err error)
}

// down writes down what is about to be dropped, once.
func (w *written) down(c broker.Credential) (err error) {
	if w.after == nil {
		w.after, err = w.may.intend(w.ctx, broker.AuditInvalidated, c, w.more)
	}
	return err
}

// done writes down what came of it.
func (w *written) done(count int, err error) {
	if w.after != nil {
		w.after(count, err)
	}
}

// ofSelection matches the entry of a selection, by what this process knows of its credential.
func (b *Broker) ofSelection(key lookup) func(*entry) bool {
	is := key.sel
	if l := b.cache.line(key.name); l != nil {
		if k := l.known.Load(); k != nil {
			if t, err := b.aim(key, k.credential); err == nil {
				is = t.chosen
			}
		}
	}
	return func(e *entry) bool { return e.chosen == is }
}

// ofToken matches the entries of a token that is not rejected yet: by its id or, where that is empty, by the token itself.
func ofToken(id string, token broker.Secret) func(*entry) bool {
	return func(e *entry) bool {
		if e.issued.Rejected {
			return false
		}
		return id != "" && e.issued.ID == id || !token.IsZero() && e.issued.Values["token"].Equal(token)
	}
}

// drop drops of a credential in the store and, whatever the store answers, what is named in this process. of is whose token a caller says it has; nil: nobody's in
// particular. what is named in the store.
func (b *Broker) drop(ctx context.Context, c broker.Credential, m broker.Match, of *target, named func(*entry) bool, what dropped) (broker.Dropped, error) {
	name := c.Name
	l, began := b.cache.hold(name), b.clock.Now().At
	defer b.cache.release(l)
	if m.Before != nil && b.cache.any(name, named) { // it is gone from here whatever the store says
		if err := m.Before(c); err != nil {
			return broker.Dropped{}, err
		}
	}
	local := 0
	if !m.Spare { // else nobody is told that it is gone
		// What is on its way to the store arrives before this, and is dropped there, or not at all.
		var way []*pending
		local = b.cache.drop(name, func(e *entry) bool {
			if e.pending == nil || !named(e) {
				return false
			}
			if !slices.Contains(way, e.pending) {
				way = append(way, e.pending)
			}
			return true
		}, false)
		var fenced sync.WaitGroup
		for _, p := range way {
			fenced.Go(func() { b.fence(ctx, p) })
		}
		fenced.Wait()
	}
	done, err := b.dropStored(ctx, name, m, of)
	if err == nil && !done.Spared.IsZero() {
		return done, nil
	}
	if err == nil && done.Matched {
		l.moves.drop(what)
	}
	if err == nil && of != nil && !done.Matched { // it is no more under this key, and nothing is said of others
		every, key := named, of.token
		named = func(e *entry) bool { return e.target.token == key && every(e) }
	}
	if k := broker.KindOf(err); k == broker.AuditUnavailable || k == broker.CallerNotAllowed || k == broker.Canceled {
		return broker.Dropped{}, err // before anything was dropped
	}
	local += b.cache.drop(name, named, done.Count > 0)
	if err != nil {
		return broker.Dropped{}, b.storeFailure(name, err)
	}
	switch {
	case m.TokenID != "" && done.Matched:
		l.tell(rejection{id: m.TokenID, at: began})
	case of != nil:
		key := of.lookup
		l.tell(rejection{id: m.TokenID, of: &key, at: began})
	}
	if m.TokenID == "" || done.Count == 0 { // else it is one token, which has arrived meanwhile
		done.Count += local
	}
	return done, nil
}

// listsMost is how many at a time have all tokens of a credential read.
const listsMost = 2

// listing waits until it may have all tokens of a credential read.
func (b *Broker) listing(ctx context.Context, name broker.CredentialName) (leave func(), err error) {
	l := b.cache.hold(name)
	select {
	case l.listing <- struct{}{}:
		return func() {
			<-l.listing
			b.cache.release(l)
		}, nil
	case <-ctx.Done():
		b.cache.release(l)
		return nil, ctx.Err()
	}
}

// dropStored drops in the store. Of the token that a caller says it has, one row is read first: an id that this does not have, or that is rejected
// already, is not looked for under all other keys, whatever callers make up.
func (b *Broker) dropStored(ctx context.Context, name broker.CredentialName, m broker.Match, of *target) (broker.Dropped, error) {
	if of == nil {
		leave, err := b.listing(ctx, name)
		if err != nil {
			return broker.Dropped{}, err
		}
		defer leave()
	} else {
		v, err := b.store.Read(ctx, of.token, "")
		switch there := v.Token; {
		case err != nil, there == nil, there.ID != m.TokenID:
			return broker.Dropped{}, err
		case there.Rejected:
			return broker.Dropped{Matched: true}, nil
		}
	}
	return b.store.Drop(ctx, name, m)
}
