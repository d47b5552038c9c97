package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A credential goes where its record says, and nowhere else. The record is written when it is created or moves, by the definition as it is then.
// A definition of a file that leads elsewhere later, or does something else there, holds the credential, with all that it has: whoever may write such a
// file is not whoever may read secrets. A built-in definition moves with the release, and is followed by those that were given for it: where a file of its
// name was, and is gone, they were given for the file.

// definition returns a credential's definition. ProviderInvalid, with why.
func (b *Broker) definition(c broker.Credential) (broker.Definition, error) {
	def, err := b.upstream.Definition(c.Provider)
	if err == nil {
		return def, nil
	}
	f := &broker.Failure{Kind: broker.ProviderInvalid, Credential: c.Name, Provider: c.Provider}
	if why := (*broker.Failure)(nil); errors.As(err, &why) {
		f.Detail = why.Detail
	}
	return nil, f
}

// Destinations are where a credential's secrets and tokens go by the definition as it is now; nil: there is none that loads.
func (b *Broker) Destinations(c broker.Credential) []broker.Destination {
	def, err := b.upstream.Definition(c.Provider)
	if err != nil {
		return nil
	}
	return def.Destinations(c)
}

// astray reports whether a credential would go where its record does not say, and whether it is held for it. What a record of before does not
// say is completed when the credential is used.
func astray(def broker.Definition, c broker.Credential) (astray, held bool) {
	to := def.Destinations(c)
	astray = c.Destinations == nil || len(c.Unaccepted(to)) > 0
	return astray, len(c.Against(to)) > 0 && !(def.Facts().Builtin && followed(c))
}

// followed reports whether a credential goes where releases of the broker say, as long as its definition comes with them.
func followed(c broker.Credential) bool {
	return slices.ContainsFunc(c.Destinations, func(d broker.Destination) bool { return d.Use == broker.Release })
}

// held is why a credential is; the log says it once of each change.
func (b *Broker) held(t target) *broker.Failure {
	to := t.credential.Unaccepted(t.definition.Destinations(t.credential))
	f := failureOf(t, broker.CredentialHeld)
	f.Detail = broker.News(to)
	why := fmt.Sprint(t.credential.Etag, to)
	if was, _ := b.heldFor.Swap(t.name, why); was != why {
		b.log.Warn("a credential is held: its definition has changed, and nobody has accepted that; look at the file and `credential get`, then run `credential accept`",
			"credential", string(t.name), "provider", t.facts.Name, "news", f.Detail, "to", writtenOut(to))
	}
	return f
}

// follow writes down where a credential goes that is not held. errAgain: it is written.
func (b *Broker) follow(ctx context.Context, t target) error {
	before, after := t.credential.Destinations, t.definition.Destinations(t.credential)
	_, err := b.rewrite(ctx, Change{Name: t.name, permit: anyway}, func(there broker.Credential, _ time.Time) (broker.Credential, *broker.Grant, error) {
		if there.Revision != t.credential.Revision {
			return there, nil, nil // it is looked at again
		}
		return accepting(there, after), nil, nil
	})
	if err != nil {
		return err
	}
	if len(t.credential.Against(after)) > 0 {
		b.log.Info("a built-in definition has changed with this release: "+broker.News(t.credential.Unaccepted(after)), "credential", string(t.name), "provider", t.facts.Name,
			"before", writtenOut(before), "now", writtenOut(after))
	}
	b.cache.forget(t.name)
	return errAgain
}

// accepting returns the credential with these places among those that it may go to. Those of before stay, unless somebody says otherwise:
// brokers that have not read the new definition yet go there.
func accepting(c broker.Credential, to []broker.Destination) broker.Credential {
	c = c.Clone()
	c.Destinations = broker.SortDestinations(append(slices.Clone(c.Destinations), to...))
	if c.Destinations == nil {
		c.Destinations = []broker.Destination{}
	}
	c.Etag = broker.NewID()
	return c
}

// An Acceptance says that a credential's secrets and tokens may go where its definition sends them now.
type Acceptance struct {
	Name broker.CredentialName
	// Destinations are those that are accepted: all that are not yet, as whoever accepts them has seen them.
	Destinations []broker.Destination
	// Etag must match what is there; zero: whatever is there.
	Etag broker.ID
	// ForgetFormer: where it went before, and goes no more, it may go no more.
	ForgetFormer bool
}

// AcceptCredential releases a credential that is held: CredentialHeld. Its secrets and refresh tokens are kept. Where nothing is to be
// accepted, nothing changes. EtagMismatch where the definition sends it to other places by now. NotFound, ProviderInvalid.
func (b *Broker) AcceptCredential(ctx context.Context, caller *broker.Caller, a Acceptance) (broker.Credential, error) {
	return allowed(ctx, b, caller, broker.WriteCredential, a.Name, func(may permit) (broker.Credential, error) {
		return b.rewrite(ctx, Change{Name: a.Name, Etag: a.Etag, permit: may, how: broker.AuditAccepted}, func(there broker.Credential, now time.Time) (c broker.Credential, _ *broker.Grant, err error) {
			def, err := b.definition(there)
			if err != nil {
				return c, nil, err
			}
			to := there.Unaccepted(def.Destinations(there))
			switch {
			case !slices.Equal(to, broker.SortDestinations(slices.Clone(a.Destinations))):
				return c, nil, &broker.Failure{Kind: broker.EtagMismatch, Credential: a.Name, Detail: "its definition sends it to other places than those that were accepted"}
			case len(to) == 0 && there.Destinations != nil && !a.ForgetFormer:
				return there, nil, nil
			case a.ForgetFormer:
				there = there.Clone()
				there.Destinations, to = nil, def.Destinations(there)
			}
			c = accepting(there, to)
			c.UpdateTime = now
			return c, nil, nil
		})
	})
}
