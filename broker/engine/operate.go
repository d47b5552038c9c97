package engine

import (
	"context"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// Credential reads one. Its secrets are part of it: a transport shows their names only. NotFound.
func (b *Broker) Credential(ctx context.Context, caller broker.Caller, name broker.CredentialName) (broker.Credential, error) {
	if err := b.authorize.Allow(caller, broker.ReadCredential, name, broker.Scopes{}); err != nil {
		return broker.Credential{}, b.failed(broker.ReadCredential, err)
	}
	c, err := b.store.Credential(ctx, name)
	if err != nil {
		return broker.Credential{}, b.failed(broker.ReadCredential, storeFailure(name, err))
	}
	return c, nil
}

// Credentials returns up to limit credentials that the caller may read, by name, and the name to go on after; empty: there
// are no more. A page may be short although there are more.
func (b *Broker) Credentials(ctx context.Context, caller broker.Caller, after broker.CredentialName, limit int) ([]broker.Credential, broker.CredentialName, error) {
	if err := b.authorize.Allow(caller, broker.ReadCredential, "", broker.Scopes{}); err != nil {
		return nil, "", b.failed(broker.ReadCredential, err)
	}
	page, err := b.store.Credentials(ctx, after, limit)
	if err != nil {
		return nil, "", b.failed(broker.ReadCredential, storeFailure("", err))
	}
	next := broker.CredentialName("")
	if len(page) == limit && limit > 0 {
		next = page[len(page)-1].Name
	}
	allowed := page[:0]
	for _, c := range page {
		if b.authorize.Allow(caller, broker.ReadCredential, c.Name, broker.Scopes{}) == nil {
			allowed = append(allowed, c)
		}
	}
	return allowed, next, nil
}

// DeleteCredential deletes a credential and everything of it. etag must match; zero: whatever is there. No background work
// brings it back. NotFound, EtagMismatch.
func (b *Broker) DeleteCredential(ctx context.Context, caller broker.Caller, name broker.CredentialName, etag broker.ID) error {
	if err := b.authorize.Allow(caller, broker.DeleteCredential, name, broker.Scopes{}); err != nil {
		return b.failed(broker.DeleteCredential, err)
	}
	err := b.store.DeleteCredential(ctx, name, etag)
	b.wrote(name, err)
	if err != nil {
		return b.failed(broker.DeleteCredential, storeFailure(name, err))
	}
	return nil
}

// A Rotation sets secrets anew and keeps the former ones as a fallback.
type Rotation struct {
	Name    broker.CredentialName
	Secrets map[string]broker.Secret
	// KeepFormer bounds how long the former ones stay; 0: until they are retired.
	KeepFormer time.Duration
	Etag       broker.ID
	RequestID  string
}

// RotateSecret sets secrets anew. The former ones are tried only when the upstream answers invalid_client. Grants are kept.
// RequestInvalid where an input is no secret, or is a seed.
func (b *Broker) RotateSecret(ctx context.Context, caller broker.Caller, r Rotation) (broker.Credential, error) {
	return b.rewrite(ctx, caller, r.Name, r.Etag, r.RequestID, func(c *broker.Credential, f *broker.Facts, now time.Time) error {
		var wrong []broker.Violation
		changed := false
		for name, v := range r.Secrets {
			was, set := c.Secrets[name]
			switch in := f.Inputs[name]; {
			case in.Seed:
				wrong = append(wrong, broker.Violation{Field: "secrets." + name, Code: broker.CodeMisplaced, Description: "is a refresh token, which has no fallback: set it with an update"})
			case !in.Secret:
				wrong = append(wrong, broker.Violation{Field: "secrets." + name, Code: broker.CodeUnknown, Description: "provider " + f.Name + " has no such secret; it has: " + inputNames(f, true)})
			case v.IsZero():
				wrong = append(wrong, broker.Violation{Field: "secrets." + name, Code: broker.CodeRequired, Description: "is empty"})
			case set && was.Value.Equal(v): // a repeated rotation must not make the former one forgotten
			default:
				s := broker.SecretInput{Value: v, SetTime: now, Former: was.Value}
				if r.KeepFormer > 0 {
					s.FormerUntil = now.Add(r.KeepFormer)
				}
				c.Secrets[name] = s
				changed = true
			}
		}
		if len(wrong) > 0 {
			return broker.Invalid(wrong...)
		}
		if changed {
			c.Version = broker.NewID()
			c.Number++
		}
		return nil
	})
}

// RetireSecret forgets former secrets; no names: all of them. It changes no version: tokens go on being served.
func (b *Broker) RetireSecret(ctx context.Context, caller broker.Caller, name broker.CredentialName, names []string) (broker.Credential, error) {
	return b.rewrite(ctx, caller, name, broker.ID{}, "", func(c *broker.Credential, f *broker.Facts, _ time.Time) error {
		if len(names) == 0 {
			names = c.SecretNames()
		}
		var wrong []broker.Violation
		for _, n := range names {
			s, ok := c.Secrets[n]
			if !ok {
				if _, seed := c.Seeds[n]; !seed {
					wrong = append(wrong, broker.Violation{Field: "secrets", Code: broker.CodeUnknown, Description: "the credential has no secret of the name " + quoted(n) + "; it has: " + inputNames(f, true)})
				}
				continue
			}
			s.Former, s.FormerUntil, s.FormerUsedTime = broker.Secret{}, time.Time{}, time.Time{}
			c.Secrets[n] = s
		}
		return broker.Invalid(wrong...)
	})
}

// rewrite changes a credential that is there, and tries again when somebody else changes it meanwhile.
func (b *Broker) rewrite(ctx context.Context, caller broker.Caller, name broker.CredentialName, etag broker.ID, requestID string,
	edit func(*broker.Credential, *broker.Facts, time.Time) error,
) (broker.Credential, error) {
	if err := b.authorize.Allow(caller, broker.WriteCredential, name, broker.Scopes{}); err != nil {
		return broker.Credential{}, b.failed(broker.WriteCredential, err)
	}
	for range conflictsMost {
		there, err := b.store.Credential(ctx, name)
		if err != nil {
			return broker.Credential{}, b.failed(broker.WriteCredential, storeFailure(name, err))
		}
		now := b.clock.Now().Wall
		if at, ok := there.Requests[requestID]; ok && now.Sub(at) < requestMemory {
			return there, nil
		}
		if !etag.IsZero() && etag != there.Etag {
			return broker.Credential{}, b.failed(broker.WriteCredential, &broker.Failure{Kind: broker.EtagMismatch, Credential: name})
		}
		def, err := b.upstream.Definition(there.Provider)
		if err != nil {
			return broker.Credential{}, b.failed(broker.WriteCredential, &broker.Failure{Kind: broker.ProviderInvalid, Credential: name, Provider: there.Provider})
		}
		c := there.Clone()
		if c.Secrets == nil {
			c.Secrets = map[string]broker.SecretInput{}
		}
		if err := edit(&c, def.Facts(), now); err != nil {
			return broker.Credential{}, b.failed(broker.WriteCredential, err)
		}
		if v := def.Check(c); len(v) > 0 {
			return broker.Credential{}, b.failed(broker.WriteCredential, &broker.Failure{Kind: broker.RequestInvalid, Credential: name, Violations: v})
		}
		c.Etag, c.UpdateTime = broker.NewID(), now
		c.Requests = rememberRequest(c.Requests, requestID, now)
		err = b.store.SaveCredential(ctx, there.Etag, c, nil)
		b.wrote(name, err)
		if err == nil {
			return c, nil
		}
		if broker.KindOf(err) != broker.EtagMismatch || !etag.IsZero() {
			return broker.Credential{}, b.failed(broker.WriteCredential, storeFailure(name, err))
		}
	}
	return broker.Credential{}, b.failed(broker.WriteCredential, &broker.Failure{Kind: broker.EtagMismatch, Credential: name})
}

func quoted(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return "\"" + s + "\""
}

// A Trial is what TestCredential found.
type Trial struct {
	Attempts []broker.Attempt
	// Failure is why it did not work; nil: it did.
	Failure *broker.Failure
	// ExpireTime of the token that was had.
	ExpireTime time.Time
}

// TestCredential makes one real exchange, under the usual lease, whatever is remembered. A rotated refresh token is always
// kept; the access token only with keep. Whoever asks for the same test while it is made shares it. A failure of the exchange is a result; other failures are errors.
func (b *Broker) TestCredential(ctx context.Context, caller broker.Caller, name broker.CredentialName, sel broker.Selection, keep bool) (Trial, error) {
	if err := b.authorize.Allow(caller, broker.TestCredential, name, sel.Scopes); err != nil {
		return Trial{}, b.failed(broker.TestCredential, err)
	}
	if _, err := b.store.Credential(ctx, name); err != nil {
		return Trial{}, b.failed(broker.TestCredential, storeFailure(name, err))
	}
	f, _, err := b.join(flightKey{lookup{name, sel}, trial{on: true, keep: keep}}, need{force: true})
	if err != nil {
		return Trial{}, b.failed(broker.TestCredential, err)
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		return Trial{}, b.failed(broker.TestCredential, b.gaveUp(name, ctx.Err()))
	}
	found := f.value
	if found.failure != nil && len(found.attempts) == 0 {
		return Trial{}, b.failed(broker.TestCredential, found.failure)
	}
	t := Trial{Attempts: found.attempts, Failure: found.failure}
	if found.entry != nil {
		t.ExpireTime = found.entry.issued.ExpireAt
	}
	return t, nil
}
