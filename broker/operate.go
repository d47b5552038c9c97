package broker

import (
	"context"
	"time"
)

// Credential reads one. Its secrets are part of it: a transport shows their names only. NotFound.
func (b *Broker) Credential(ctx context.Context, caller Caller, name CredentialName) (Credential, error) {
	if err := b.authorize.Allow(caller, ReadCredential, name, Scopes{}); err != nil {
		return Credential{}, b.failed(ReadCredential, err)
	}
	c, err := b.store.Credential(ctx, name)
	if err != nil {
		return Credential{}, b.failed(ReadCredential, storeFailure(name, err))
	}
	return c, nil
}

// Credentials returns up to limit credentials that the caller may read, by name, and the name to go on after; empty: there
// are no more. A page may be short although there are more.
func (b *Broker) Credentials(ctx context.Context, caller Caller, after CredentialName, limit int) ([]Credential, CredentialName, error) {
	if err := b.authorize.Allow(caller, ReadCredential, "", Scopes{}); err != nil {
		return nil, "", b.failed(ReadCredential, err)
	}
	page, err := b.store.Credentials(ctx, after, limit)
	if err != nil {
		return nil, "", b.failed(ReadCredential, storeFailure("", err))
	}
	next := CredentialName("")
	if len(page) == limit && limit > 0 {
		next = page[len(page)-1].Name
	}
	allowed := page[:0]
	for _, c := range page {
		if b.authorize.Allow(caller, ReadCredential, c.Name, Scopes{}) == nil {
			allowed = append(allowed, c)
		}
	}
	return allowed, next, nil
}

// DeleteCredential deletes a credential and everything of it. etag must match; zero: whatever is there. No background work
// brings it back. NotFound, EtagMismatch.
func (b *Broker) DeleteCredential(ctx context.Context, caller Caller, name CredentialName, etag ID) error {
	if err := b.authorize.Allow(caller, DeleteCredential, name, Scopes{}); err != nil {
		return b.failed(DeleteCredential, err)
	}
	err := b.store.DeleteCredential(ctx, name, etag)
	b.state(name).move()
	if err != nil {
		return b.failed(DeleteCredential, storeFailure(name, err))
	}
	return nil
}

// A Rotation sets secrets anew and keeps the former ones as a fallback.
type Rotation struct {
	Name    CredentialName
	Secrets map[string]Secret
	// KeepFormer bounds how long the former ones stay; 0: until they are retired.
	KeepFormer time.Duration
	Etag       ID
	RequestID  string
}

// RotateSecret sets secrets anew. The former ones are tried only when the upstream answers invalid_client. Grants are kept.
// RequestInvalid where an input is no secret, or is a seed.
func (b *Broker) RotateSecret(ctx context.Context, caller Caller, r Rotation) (Credential, error) {
	return b.rewrite(ctx, caller, r.Name, r.Etag, r.RequestID, func(c *Credential, f *Facts, now time.Time) error {
		var wrong []Violation
		changed := false
		for name, v := range r.Secrets {
			was, set := c.Secrets[name]
			switch in := f.Inputs[name]; {
			case in.Seed:
				wrong = append(wrong, Violation{"secrets." + name, CodeMisplaced, "is a refresh token, which has no fallback: set it with an update"})
			case !in.Secret:
				wrong = append(wrong, Violation{"secrets." + name, CodeUnknown, "provider " + f.Name + " has no such secret; it has: " + inputNames(f, true)})
			case v.IsZero():
				wrong = append(wrong, Violation{"secrets." + name, CodeRequired, "is empty"})
			case set && was.Value.Equal(v): // a repeated rotation must not make the former one forgotten
			default:
				s := SecretInput{Value: v, SetTime: now, Former: was.Value}
				if r.KeepFormer > 0 {
					s.FormerUntil = now.Add(r.KeepFormer)
				}
				c.Secrets[name] = s
				changed = true
			}
		}
		if len(wrong) > 0 {
			return Invalid(wrong...)
		}
		if changed {
			c.Version = NewID()
			c.Number++
		}
		return nil
	})
}

// RetireSecret forgets former secrets; no names: all of them. It changes no version: tokens go on being served.
func (b *Broker) RetireSecret(ctx context.Context, caller Caller, name CredentialName, names []string) (Credential, error) {
	return b.rewrite(ctx, caller, name, ID{}, "", func(c *Credential, f *Facts, _ time.Time) error {
		if len(names) == 0 {
			names = c.SecretNames()
		}
		var wrong []Violation
		for _, n := range names {
			s, ok := c.Secrets[n]
			if !ok {
				if _, seed := c.Seeds[n]; !seed {
					wrong = append(wrong, Violation{"secrets", CodeUnknown, "the credential has no secret of the name " + quoted(n) + "; it has: " + inputNames(f, true)})
				}
				continue
			}
			s.Former, s.FormerUntil, s.FormerUsedTime = Secret{}, time.Time{}, time.Time{}
			c.Secrets[n] = s
		}
		return Invalid(wrong...)
	})
}

// rewrite changes a credential that is there, and tries again when somebody else changes it meanwhile.
func (b *Broker) rewrite(ctx context.Context, caller Caller, name CredentialName, etag ID, requestID string,
	edit func(*Credential, *Facts, time.Time) error,
) (Credential, error) {
	if err := b.authorize.Allow(caller, WriteCredential, name, Scopes{}); err != nil {
		return Credential{}, b.failed(WriteCredential, err)
	}
	for range conflictsMost {
		there, err := b.store.Credential(ctx, name)
		if err != nil {
			return Credential{}, b.failed(WriteCredential, storeFailure(name, err))
		}
		now := time.Now()
		if at, ok := there.Requests[requestID]; ok && now.Sub(at) < requestMemory {
			return there, nil
		}
		if !etag.IsZero() && etag != there.Etag {
			return Credential{}, b.failed(WriteCredential, &Failure{Kind: EtagMismatch, Credential: name})
		}
		def, err := b.upstream.Definition(there.Provider)
		if err != nil {
			return Credential{}, b.failed(WriteCredential, &Failure{Kind: ProviderInvalid, Credential: name, Provider: there.Provider})
		}
		c := there.Clone()
		if c.Secrets == nil {
			c.Secrets = map[string]SecretInput{}
		}
		if err := edit(&c, def.Facts(), now); err != nil {
			return Credential{}, b.failed(WriteCredential, err)
		}
		if v := def.Check(c); len(v) > 0 {
			return Credential{}, b.failed(WriteCredential, &Failure{Kind: RequestInvalid, Credential: name, Violations: v})
		}
		c.Etag, c.UpdateTime = NewID(), now
		c.Requests = rememberRequest(c.Requests, requestID, now)
		err = b.store.SaveCredential(ctx, there.Etag, c, nil)
		b.state(name).move()
		if err == nil {
			return c, nil
		}
		if KindOf(err) != EtagMismatch || !etag.IsZero() {
			return Credential{}, b.failed(WriteCredential, storeFailure(name, err))
		}
	}
	return Credential{}, b.failed(WriteCredential, &Failure{Kind: EtagMismatch, Credential: name})
}

func quoted(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return "\"" + s + "\""
}

// A Trial is what TestCredential found.
type Trial struct {
	Attempts []Attempt
	// Failure is why it did not work; nil: it did.
	Failure *Failure
	// ExpireTime of the token that was had.
	ExpireTime time.Time
}

// TestCredential makes one real exchange, under the usual lease, whatever is remembered. A rotated refresh token is always
// kept; the access token only with keep. A failure of the exchange is a result; other failures are errors.
func (b *Broker) TestCredential(ctx context.Context, caller Caller, name CredentialName, sel Selection, keep bool) (Trial, error) {
	if err := b.authorize.Allow(caller, TestCredential, name, sel.Scopes); err != nil {
		return Trial{}, b.failed(TestCredential, err)
	}
	if _, err := b.store.Credential(ctx, name); err != nil {
		return Trial{}, b.failed(TestCredential, storeFailure(name, err))
	}
	f, err := b.try(lookup{name, sel}, keep)
	if err != nil {
		return Trial{}, b.failed(TestCredential, err)
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		return Trial{}, b.failed(TestCredential, gaveUp(name, ctx.Err()))
	}
	if f.failure != nil && len(f.attempts) == 0 {
		return Trial{}, b.failed(TestCredential, f.failure)
	}
	t := Trial{Attempts: f.attempts, Failure: f.failure}
	if f.entry != nil {
		t.ExpireTime = f.entry.issued.ExpireAt
	}
	return t, nil
}

// try starts a flight that nobody joins.
func (b *Broker) try(key lookup, keep bool) (*flight, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closing {
		return nil, &Failure{Kind: ShuttingDown, Credential: key.name}
	}
	f := &flight{need: need{force: true}, done: make(chan struct{})}
	b.running.Add(1)
	go b.fly(key, f, &keep)
	return f, nil
}
