package engine

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// Credential reads one. Its secrets are part of it: a transport shows their names only. NotFound.
func (b *Broker) Credential(ctx context.Context, caller *broker.Caller, name broker.CredentialName) (broker.Credential, error) {
	return allowed(ctx, b, caller, broker.ReadCredential, name, func(may permit) (broker.Credential, error) {
		c, err := b.stored(ctx, name)
		if err == nil {
			err = may.on(c)
		}
		return c, err
	})
}

// stored reads a credential. NotFound.
func (b *Broker) stored(ctx context.Context, name broker.CredentialName) (broker.Credential, error) {
	c, err := b.store.Credential(ctx, name)
	if err != nil {
		return c, b.storeFailure(name, err)
	}
	return c, nil
}

// A Page is some of the credentials, by name, and the name to go on after; empty: there are no more.
type Page struct {
	Credentials []broker.Credential
	Next        broker.CredentialName
}

// PageKey is a key for sealing where a list goes on: a page ends with a name that its caller may not have been shown. Every broker of a store has the same
// one for the same parts: who asks, and for what.
func (b *Broker) PageKey(parts ...string) [32]byte {
	return b.store.Fingerprint("page-token", parts...)
}

// scannedMost bounds what one page looks through. Beyond it a page may be short although there are more: so much may be hidden, and nobody may count less of it.
const scannedMost = 1000

// Credentials returns up to limit credentials that the caller may read. A page may be short although there are more, where a thousand in a row are hidden.
func (b *Broker) Credentials(ctx context.Context, caller *broker.Caller, after broker.CredentialName, limit int) (Page, error) {
	return allowed(ctx, b, caller, broker.ReadCredential, "", func(permit) (p Page, err error) {
		for scanned := 0; limit > 0; {
			most := max(limit+1, 100) // one more, which says whether there is another page
			page, err := b.store.Credentials(ctx, after, most)
			if err != nil {
				return Page{}, b.unreadable(caller, err)
			}
			for _, c := range page {
				may, err := b.permit(broker.Access{Caller: caller, Operation: broker.ReadCredential, Credential: c.Name})
				if after = c.Name; err != nil || may.on(c) != nil {
					continue
				}
				if len(p.Credentials) == limit { // there is one more, so that there is another page
					p.Next = p.Credentials[limit-1].Name
					return p, nil
				}
				p.Credentials = append(p.Credentials, c)
			}
			if scanned += len(page); len(page) < most {
				return p, nil
			}
			if scanned >= scannedMost {
				p.Next = after
				return p, nil
			}
		}
		return p, nil
	})
}

// unreadable is why a list cannot be read, without the name of a record that the caller may not know of: one that cannot be read, whose labels nobody knows.
func (b *Broker) unreadable(caller *broker.Caller, err error) error {
	f := b.storeFailure("", err)
	if f.Credential == "" {
		return f
	}
	if may, denied := b.permit(broker.Access{Caller: caller, Operation: broker.ReadCredential, Credential: f.Credential}); denied == nil && may.effect == broker.Allowed {
		return f
	}
	named := *f
	named.Credential = ""
	return &named
}

// DeleteCredential deletes a credential and everything of it. etag must match; zero: whatever is there. No background work
// brings it back. NotFound, EtagMismatch.
func (b *Broker) DeleteCredential(ctx context.Context, caller *broker.Caller, name broker.CredentialName, etag broker.ID) error {
	_, err := allowed(ctx, b, caller, broker.DeleteCredential, name, func(may permit) (none struct{}, err error) {
		for range conflictsMost {
			is, there := etag, broker.Credential{Name: name}
			if may.effect == broker.Depends { // what was decided on is deleted, and nothing else
				if there, err = b.stored(ctx, name); err == nil {
					err = may.on(there)
				}
				if err != nil {
					return none, err
				}
				is = cmp.Or(etag, there.Etag)
			}
			done, err := may.intend(ctx, broker.AuditDeleted, there, nil)
			if err != nil {
				return none, err
			}
			err = b.store.DeleteCredential(ctx, name, is)
			b.wrote(name, err)
			done(0, err)
			switch {
			case err == nil:
				b.logChange(caller, broker.AuditDeleted, broker.Credential{Name: name}, nil)
				return none, nil
			case is == etag || broker.KindOf(err) != broker.EtagMismatch:
				return none, b.storeFailure(name, err)
			}
		}
		return none, &broker.Failure{Kind: broker.EtagMismatch, Credential: name}
	})
	return err
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

// RotateSecret sets secrets anew. The former ones are tried where it may be the secret that the upstream refuses. Of two that were set one after
// the other, the one that is known to have worked is kept as the former. Grants are kept. RequestInvalid where an input is no secret, or is a seed.
func (b *Broker) RotateSecret(ctx context.Context, caller *broker.Caller, r Rotation) (broker.Credential, error) {
	ch := Change{Name: r.Name, Etag: r.Etag, RequestID: r.RequestID, how: broker.AuditRotated}
	if r.RequestID != "" {
		ch.contents = b.contentsOf("rotate for "+r.KeepFormer.String(), Draft{Secrets: r.Secrets})
	}
	return b.resecret(ctx, caller, ch, func(c *broker.Credential, f *broker.Facts, now time.Time) error {
		worked, err := b.workedAt(ctx, *c, now)
		if err != nil {
			return err
		}
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
				if r.KeepFormer > 0 && was.FormerKept(now) {
					was.FormerUntil = now.Add(r.KeepFormer)
					c.Secrets[name] = was
				}
			default:
				s := broker.SecretInput{Value: v, SetTime: now, Former: was.Value}
				if r.KeepFormer > 0 {
					s.FormerUntil = now.Add(r.KeepFormer)
				}
				if was.FormerKept(now) && !was.Former.Equal(v) && !worked.After(was.SetTime) {
					s.Former, s.FormerUsedTime = was.Former, was.FormerUsedTime
					if u := was.FormerUntil; !u.IsZero() && (s.FormerUntil.IsZero() || u.Before(s.FormerUntil)) {
						s.FormerUntil = u // whoever wanted it forgotten by then wants it still
					}
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

// workedAt is when the secrets that are set worked last; zero: never, or the former ones worked since. It is asked only where there are former ones.
func (b *Broker) workedAt(ctx context.Context, c broker.Credential, now time.Time) (time.Time, error) {
	if !c.FormerKept(now) {
		return time.Time{}, nil
	}
	all, err := b.store.Statuses(ctx, []broker.CredentialName{c.Name})
	if err == nil {
		err = all[0].Err
	}
	if err != nil {
		return time.Time{}, b.storeFailure(c.Name, err)
	}
	if all[0].FormerWorked {
		return time.Time{}, nil
	}
	return all[0].LastSuccess, nil
}

// RetireSecret forgets former secrets; no names: all of them. It changes no version: tokens go on being served.
func (b *Broker) RetireSecret(ctx context.Context, caller *broker.Caller, name broker.CredentialName, names []string) (broker.Credential, error) {
	return b.resecret(ctx, caller, Change{Name: name, how: broker.AuditRetired}, func(c *broker.Credential, f *broker.Facts, _ time.Time) error {
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

// resecret changes the secrets of a credential.
func (b *Broker) resecret(ctx context.Context, caller *broker.Caller, ch Change, edit func(*broker.Credential, *broker.Facts, time.Time) error) (broker.Credential, error) {
	return allowed(ctx, b, caller, broker.WriteCredential, ch.Name, func(may permit) (broker.Credential, error) {
		ch.permit = may
		return b.rewrite(ctx, ch, func(there broker.Credential, now time.Time) (c broker.Credential, _ *broker.Grant, err error) {
			def, err := b.definition(there)
			if err != nil {
				return c, nil, err
			}
			c = there.Clone()
			if c.Secrets == nil {
				c.Secrets = map[string]broker.SecretInput{}
			}
			renameSecrets(c, def.Facts())
			if err := edit(&c, def.Facts(), now); err != nil {
				return c, nil, err
			}
			if v := def.Check(c, given(there, c, def.Facts())); len(v) > 0 {
				return c, nil, &broker.Failure{Kind: broker.RequestInvalid, Credential: ch.Name, Violations: v}
			}
			if ch.RequestID == "" && len(differing(there, c)) == 0 {
				return there, nil, nil // nothing changes: no new etag either
			}
			c.Etag, c.UpdateTime = broker.NewID(), now
			c.Requests = rememberRequest(c.Requests, ch, now)
			return c, nil, nil
		})
	})
}

// quoted is a name of a request's in a message.
func quoted(s string) string { return fmt.Sprintf("%.80q", s) }
