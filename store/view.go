package store

import (
	"context"

	"github.com/tokenbroker/tokenbroker/broker"
)

// revisions are those of the rows that decide about a token, as broker.View carries them from Read to Acquire.
type revisions struct {
	credential, grant, token, failure, health, lease Revision
	// leaseHeld: the lease counts, so that it has to be gone.
	leaseHeld bool
	// grantRecord is what Acquire marks; nil: there is no grant.
	grantRecord *grantRecord
}

// Read implements broker.Store.
func (s *Store) Read(ctx context.Context, key broker.TokenKey) (broker.View, error) {
	none := broker.View{}
	grant, token, fail, lease := grantKey(key), tokenKey(key), failureKey(key), leaseKey(key)
	n, err := s.read(ctx, key.Credential, grant, token, fail, healthKey, lease)
	if err != nil {
		return none, err
	}
	r := revisions{
		credential: n.revision(credentialKey), grant: n.revision(grant), token: n.revision(token), failure: n.revision(fail),
		health: n.revision(healthKey), lease: n.revision(lease),
	}
	v := broker.View{Key: key, Credential: n.credential}
	var g grantRecord
	if ok, err := n.open(grant, &g); err != nil {
		return none, err
	} else if ok {
		v.Grant, r.grantRecord = g.grant(), &g
	}
	if v.Token, err = n.token(token); err != nil {
		return none, err
	}
	var f failureRecord
	if ok, err := n.open(fail, &f); err != nil {
		return none, err
	} else if ok && f.Version.id() == n.credential.Version {
		v.KeyFailure = f.Failure.pointer()
	}
	var h healthRecord
	if _, err := n.open(healthKey, &h); err != nil {
		return none, err
	}
	v.CredentialFailure = h.failure(n.credential.Version, key.Digest)
	v.FormerWorked = !h.FormerWorked.IsZero() && h.FormerWorked.id() == n.credential.Version
	var l leaseRecord
	if ok, err := n.open(lease, &l); err != nil {
		return none, err
	} else if ok && l.counts(key, n.credential) {
		v.LeaseLeft, r.leaseHeld = n.rows[lease].Left, true
	}
	v.Revisions = r
	if v.Token != nil {
		v.Mark = mark(key, r.credential, r.token)
	}
	return v, nil
}
