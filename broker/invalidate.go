package broker

import (
	"context"
	"encoding/hex"
)

// An Invalidation says which tokens are to be dropped. Exactly one of TokenID, AccessToken and All is set.
type Invalidation struct {
	Credential CredentialName
	// TokenID is of the rejected token; AccessToken is the token itself.
	TokenID     string
	AccessToken Secret
	// All drops every token, or exactly that of Selection where it is not the zero one.
	All       bool
	Selection Selection
}

// Invalidated says what an Invalidation did.
type Invalidated struct {
	// Count of the tokens that were dropped; 0: what was rejected is no longer current.
	Count int
	// CurrentID is the id of the token that takes its place, where there is one already.
	CurrentID string
}

// Invalidate drops tokens. A token that is not a current one any more is left alone, so that a thousand callers who got a 401
// on the same token cause one exchange. Invalidating one token blocks no commit; invalidating all makes the access tokens of
// running exchanges void and keeps their refresh tokens. Grants are not changed. It fails with a *Failure; NotFound.
func (b *Broker) Invalidate(ctx context.Context, caller Caller, i Invalidation) (Invalidated, error) {
	op := InvalidateOne
	if i.All {
		op = InvalidateAll
	}
	if err := b.authorize.Allow(caller, op, i.Credential, i.Selection.Scopes); err != nil {
		return Invalidated{}, b.failed(op, err)
	}
	done, err := b.invalidate(ctx, i)
	if err != nil {
		return Invalidated{}, b.failed(op, err)
	}
	return Invalidated(done), nil
}

func (b *Broker) invalidate(ctx context.Context, i Invalidation) (Dropped, error) {
	// Whoever misspells a name must not believe that its tokens are gone.
	c, err := b.store.Credential(ctx, i.Credential)
	if err != nil {
		if KindOf(err) != NotFound {
			b.state(i.Credential).move() // the store is away: in this process they are gone all the same
		}
		return Dropped{}, storeFailure(i.Credential, err)
	}
	var m Match
	switch {
	case i.TokenID != "":
		m.TokenID = i.TokenID
	case !i.AccessToken.IsZero():
		id := b.store.Fingerprint("token", c.Incarnation.String(), i.AccessToken.Reveal())
		m.TokenID = hex.EncodeToString(id[:16])
	case i.All && i.Selection != Selection{}:
		p := &pursuit{b: b, key: lookup{i.Credential, i.Selection}, f: &flight{}, state: b.state(i.Credential)}
		if err := p.prepare(ctx); err != nil {
			return Dropped{}, err
		}
		m.Selection = &p.token.Selection
	case i.All:
		m.Epoch = NewID()
	default:
		return Dropped{}, invalid("target", "say which token: token_id, access_token or all")
	}
	return b.drop(ctx, i.Credential, m)
}

// drop drops in the store, and whatever the store answers, in this process.
func (b *Broker) drop(ctx context.Context, name CredentialName, m Match) (Dropped, error) {
	done, err := b.store.Drop(ctx, name, m)
	if err != nil || done.Count > 0 {
		b.state(name).move()
	}
	if err != nil {
		return Dropped{}, storeFailure(name, err)
	}
	return done, nil
}
