package engine

import (
	"context"
	"encoding/hex"
	"errors"

	"github.com/tokenbroker/tokenbroker/broker"
)

// lookup is the key of the cache and of flights: what the caller said, before defaults. Comparable, so that a hit builds
// no string.
type lookup struct {
	name broker.CredentialName
	sel  broker.Selection
}

// A target is what is asked for, with everything that decides how: a lookup, resolved by one credential and one definition.
// Immutable, and made by resolve only.
type target struct {
	lookup
	credential broker.Credential
	definition broker.Definition
	facts      *broker.Facts
	// revision is that of the definitions.
	revision uint64
	// chosen is the selection with the defaults applied.
	chosen broker.Selection
	token  broker.TokenKey
	// upstream names whom this asks, for limits and backoff: the definition at the host that the credential's inputs, and what the caller
	// chose, lead to. Two that go to different places through one definition do not disturb each other. Empty: nobody is asked.
	upstream string
	// astray: the credential's record does not say yet that it goes where this definition sends it.
	astray bool
}

// An offer is a token for a target. Immutable.
type offer struct {
	target
	issued *broker.Issued
	// told is when it was issued, or read: its times are by the wall clock of then.
	told broker.Instant
	// token is what callers get, and rendering what Settings.Render made of it.
	token     *broker.Token
	rendering any
	// mark is what the store tells it by, and over of what was stored when it was obtained; zero: it was read.
	mark, over broker.Mark
	// local: the store does not have it, and mark is over. pending is by what it is on its way there; nil: it is not.
	local   bool
	pending *pending
	// solo is what is remembered of it where this process obtained it for itself; nil: it did not.
	solo *solo
}

// resolve makes the target of what is to be asked for or shown. It asks nobody. CredentialHeld where nobody has accepted what the definition does.
func (b *Broker) resolve(key lookup, c broker.Credential) (target, error) {
	t, err := b.aim(key, c)
	if err != nil {
		return t, err
	}
	var held bool
	if t.astray, held = astray(t.definition, c); held {
		return t, b.held(t)
	}
	return t, nil
}

// aim makes the target of what is not sent anywhere.
func (b *Broker) aim(key lookup, c broker.Credential) (t target, err error) {
	t = target{lookup: key, credential: c, revision: b.upstream.Revision()}
	if t.definition, err = b.definition(c); err != nil {
		return t, err
	}
	t.facts = t.definition.Facts()
	if c.Disabled {
		return t, &broker.Failure{Kind: broker.CredentialDisabled, Credential: c.Name, Provider: c.Provider}
	}
	if v := t.definition.Check(c, nil); len(v) > 0 {
		return t, &broker.Failure{Kind: broker.CredentialIncomplete, Credential: c.Name, Provider: c.Provider, Violations: v}
	}
	if t.chosen, err = t.definition.Select(c, key.sel); err != nil {
		var f *broker.Failure
		if errors.As(err, &f) {
			named := *f
			named.Credential, named.Provider = c.Name, c.Provider
			return t, &named
		}
		return t, err
	}
	t.token = b.tokenKey(t)
	t.upstream = b.upstreamOf(t)
	return t, nil
}

// tokenKey names the token by everything that changes the answer.
func (b *Broker) tokenKey(t target) broker.TokenKey {
	k := broker.TokenKey{Credential: t.credential.Name, Digest: t.facts.Digest, Spends: t.facts.Refreshes}
	k.Selection = b.store.Fingerprint("selection", t.chosen.Canonical()...)
	k.Token = b.store.Fingerprint("token-key", hex.EncodeToString(k.Selection[:]), t.facts.Name, t.facts.Digest)
	if !t.credential.Seeded() {
		k.Grant = k.Selection
	}
	return k
}

func (b *Broker) upstreamOf(t target) string {
	host := t.definition.Host(t.credential, t.chosen)
	if host == "" {
		return ""
	}
	parts := []string{}
	for _, name := range t.facts.HostInputs {
		parts = append(parts, name, t.credential.Inputs[name])
	}
	where := b.store.Fingerprint("upstream", parts...)
	return t.facts.Name + "@" + host + "#" + hex.EncodeToString(where[:8])
}

// credential is what this process knows of a credential, which may be too old to decide by: whatever is decided by it is held
// against what is stored. Where it knows nothing, it is read.
func (b *Broker) credential(ctx context.Context, l *line) (broker.Credential, error) {
	if k := l.known.Load(); k != nil {
		return k.credential, nil
	}
	read, moved := b.clock.Now().At, l.moves.now()
	c, err := b.store.Credential(ctx, l.name)
	if err != nil {
		return c, b.storeFailure(l.name, err)
	}
	b.cache.learn(l, c, read, moved)
	return c, nil
}

// tokenID is opaque and safe to log: a keyed hash of the token, so that the same token again has the same id.
func (b *Broker) tokenID(c broker.Credential, token broker.Secret) string {
	id := b.store.Fingerprint("token", c.Incarnation.String(), token.Reveal())
	return hex.EncodeToString(id[:16])
}

// offer makes what callers get of a token, whose times are by the wall clock of an instant.
func (b *Broker) offer(t target, issued *broker.Issued, told broker.Instant, mark broker.Mark) (offer, error) {
	a := offer{target: t, issued: issued, told: told, mark: mark}
	why := ""
	shown, err := t.definition.Present(t.credential, t.chosen, *issued)
	if err == nil {
		a.token = &broker.Token{
			ID: issued.ID, AccessToken: issued.Values["token"], TokenType: issued.TokenType, ExpireTime: issued.ExpireAt,
			RefreshTime: issued.RefreshAt, Scopes: issued.Granted, Source: issued.Source, Presentation: shown,
		}
		a.rendering, err = b.render(a.token)
	} else {
		why = ": " + err.Error()
	}
	if err != nil {
		return a, &broker.Failure{Kind: broker.UpstreamResponseInvalid, Credential: t.name, Provider: t.facts.Name, Detail: "the token cannot be shown" + why}
	}
	return a, nil
}
