package store

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

func listing(c broker.Credential) *Listing {
	return &Listing{Name: string(c.Name), Incarnation: c.Incarnation}
}

// CreateCredential implements broker.Store. A credential of the same incarnation is this one: it was created already.
func (s *Store) CreateCredential(ctx context.Context, c broker.Credential, seed *broker.Grant) error {
	if c.Incarnation.IsZero() || c.Name == "" {
		return misused("a credential without a name or an incarnation")
	}
	n := &snapshot{s: s, group: s.credentialGroup(c.Name), name: c.Name, credential: c}
	return s.change(ctx, func() (*Batch, error) {
		there, err := s.read(ctx, c.Name)
		switch {
		case err == nil && there.credential.Incarnation == c.Incarnation:
			return nil, nil
		case err == nil, errors.Is(err, broker.RecordUnreadable):
			return nil, failure(broker.AlreadyExists, c.Name)
		case !errors.Is(err, broker.NotFound):
			return nil, err
		}
		b := n.change() // nothing was read: the condition is that there is no credential
		b.batch.DeleteGroup = true
		b.batch.List, b.batch.Tell, b.batch.Keep = listing(c), noteMoved, true
		b.put(credentialKey, fromCredential(c))
		if seed != nil {
			b.overwrite(ownGrantKey, freshGrant(*seed))
		}
		return b.done()
	})
}

// Credential implements broker.Store.
func (s *Store) Credential(ctx context.Context, name broker.CredentialName) (broker.Credential, error) {
	n, err := s.read(ctx, name)
	if err != nil {
		return broker.Credential{}, err
	}
	return n.credential, nil
}

// SaveCredential implements broker.Store. It keeps the stored epoch.
func (s *Store) SaveCredential(ctx context.Context, etag broker.ID, c broker.Credential, seed *broker.Grant) error {
	return s.change(ctx, func() (*Batch, error) {
		n, err := s.read(ctx, c.Name, ownGrantKey, healthKey)
		if err != nil {
			return nil, err
		}
		old := n.credential
		if old.Incarnation == c.Incarnation && old.Etag == c.Etag && etag != c.Etag {
			return nil, nil // saved already
		}
		if old.Etag != etag || old.Incarnation != c.Incarnation {
			return nil, failure(broker.EtagMismatch, c.Name)
		}
		saved := c.Clone()
		saved.Epoch = old.Epoch
		keepFormerUsed(saved.Secrets, old.Secrets)
		b := n.change()
		b.batch.Tell, b.batch.Keep = noteMoved, true
		b.put(credentialKey, fromCredential(saved))
		if seed != nil {
			b.put(ownGrantKey, freshGrant(*seed))
		}
		if saved.Version != old.Version {
			// They are absent for readers by their version; gone, they take no room either.
			b.batch.Clear = []Kind{kindToken, kindFailure}
			b.remove(healthKey)
		}
		if saved.Place != old.Place && !saved.Place.IsZero() && saved.Version != old.Version { // a former broker's writing leaves the place out
			b.batch.Clear = append(b.batch.Clear, kindGrant) // before the new one is put
		}
		return b.done()
	})
}

// keepFormerUsed keeps what commits have noted since the credential was read.
func keepFormerUsed(saved, old map[string]broker.SecretInput) {
	for name, s := range saved {
		o := old[name]
		if !s.Former.IsZero() && s.Former.Equal(o.Former) && o.FormerUsedTime.After(s.FormerUsedTime) {
			s.FormerUsedTime = o.FormerUsedTime
			saved[name] = s
		}
	}
}

// DeleteCredential implements broker.Store. With a zero etag it deletes also a credential whose record cannot be read.
func (s *Store) DeleteCredential(ctx context.Context, name broker.CredentialName, etag broker.ID) error {
	tried, group := false, s.credentialGroup(name)
	err := s.change(ctx, func() (*Batch, error) {
		rows, err := s.rows(ctx, group, credentialKey)
		if err != nil {
			return nil, err
		}
		if len(rows) == 0 {
			if tried {
				return nil, nil // it is gone, by us or by somebody else
			}
			return nil, failure(broker.NotFound, name)
		}
		b := Batch{
			Group: group, DeleteGroup: true, Conditions: []Condition{{credentialKey, rows[0].Revision}},
			Unlist: &Listing{Name: string(name)}, Tell: noteMoved, Keep: true, Finish: true,
		}
		c, err := s.openCredential(name, rows[0])
		switch {
		case err == nil && !etag.IsZero() && etag != c.Etag:
			return nil, failure(broker.EtagMismatch, name)
		case err == nil:
			b.Unlist = listing(c)
		case !etag.IsZero() || !errors.Is(err, broker.RecordUnreadable):
			return nil, err
		}
		tried = true
		return &b, nil
	})
	if err == nil || broker.KindOf(err) == broker.NotFound {
		s.names.Delete(group)
	}
	return err
}

// Credentials implements broker.Store. A record that cannot be read fails it, and the failure names the credential: it can
// be deleted by its name.
func (s *Store) Credentials(ctx context.Context, after broker.CredentialName, limit int) ([]broker.Credential, error) {
	var all []broker.Credential
	cursor := Listing{Name: string(after), Incarnation: lastIncarnation}
	if after == "" {
		cursor = Listing{}
	}
	for len(all) < limit {
		want := limit - len(all)
		page, err := s.backend.Scan(ctx, credentialKey, cursor, want)
		if err != nil {
			return nil, fromBackend(err)
		}
		for _, l := range page {
			cursor = l.Listing
			if l.Row.Revision == (Revision{}) {
				continue // the entry of one that was deleted, or is about to be created
			}
			c, err := s.openCredential(broker.CredentialName(l.Name), l.Row)
			if err != nil {
				return nil, err
			}
			if c.Incarnation == l.Incarnation {
				all = append(all, c)
			}
		}
		if len(page) < want {
			break
		}
	}
	return all, nil
}

// lastIncarnation comes after every other.
var lastIncarnation = [16]byte([]byte(strings.Repeat("\xff", 16)))

// formerUsed returns the credential with every former secret that is kept noted as used.
func formerUsed(c broker.Credential, now time.Time) broker.Credential {
	c = c.Clone()
	for name, s := range c.Secrets {
		if !s.Former.IsZero() && s.FormerUsedTime.Before(now) {
			s.FormerUsedTime = now
			c.Secrets[name] = s
		}
	}
	return c
}
