package store

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// Acquire implements broker.Store. It fails with TooManyTokens where the key would be one too many, and with
// StoreUnavailable while refreshing is suspended (see suspend.go).
//
// It applies one batch whose conditions are the revisions that the view came with, so nothing is read before. Where that
// conflicts, the lease may be this owner's already, because an answer was lost.
func (s *Store) Acquire(ctx context.Context, v broker.View, owner broker.ID, ttl time.Duration, spend bool) (broker.Lease, error) {
	r, ok := v.Revisions.(revisions)
	switch {
	case !ok:
		return broker.Lease{}, misused("a view that is not of this store")
	case owner.IsZero() || ttl <= 0:
		return broker.Lease{}, misused("a lease without an owner or without a time")
	case spend && (r.grantRecord == nil || !v.Key.Spends):
		return broker.Lease{}, misused("nothing that this key may spend")
	}
	if r.token == (Revision{}) {
		tokens, err := s.backend.Count(ctx, s.credentialGroup(v.Key.Credential), kindToken)
		if err != nil {
			return broker.Lease{}, fromBackend(err)
		}
		if tokens >= s.options.MaxTokens {
			return broker.Lease{}, failure(broker.TooManyTokens, v.Key.Credential)
		}
	}
	c := v.Credential
	lease := broker.Lease{
		Key: v.Key, Owner: owner, Incarnation: c.Incarnation, Version: c.Version, Epoch: c.Epoch,
		Generation: v.Grant.Generation, Spends: spend,
	}
	batch, err := s.acquisition(v.Key, r, lease, ttl)
	if err != nil {
		return broker.Lease{}, err
	}
	asked := s.options.Now()
	err = s.apply(ctx, s.backend, *batch)
	if err == nil {
		lease.Until = asked.Add(ttl)
		return lease, nil
	}
	if errors.Is(err, ErrUnconfirmed) {
		// A failover could forget that the refresh token is being presented: nothing is sent.
		_ = s.Fail(ctx, lease, nil) // it ends by itself otherwise
		return broker.Lease{}, Unavailable("too few replicas confirm what is written (wait_replicas)")
	}
	if !errors.Is(err, broker.ErrConflict) {
		return broker.Lease{}, err
	}
	return s.held(ctx, lease)
}

func (s *Store) acquisition(key broker.TokenKey, r revisions, lease broker.Lease, ttl time.Duration) (*Batch, error) {
	n := &snapshot{
		s: s, group: s.credentialGroup(key.Credential), name: key.Credential,
		credential: broker.Credential{Name: key.Credential, Incarnation: lease.Incarnation},
		rows:       map[Key]Row{},
	}
	for k, revision := range map[Key]Revision{
		credentialKey: r.credential, grantKey(key): r.grant, tokenKey(key): r.token, failureKey(key): r.failure,
		healthKey: r.health, leaseKey(key): r.lease,
	} {
		n.rows[k] = Row{Key: k, Revision: revision}
	}
	b := n.change()
	b.unchanged(tokenKey(key))
	b.unchanged(failureKey(key))
	b.unchanged(healthKey)
	if key.Spends {
		b.unchanged(suspendedKey) // it was not asked for: there must be none
	}
	b.batch.Keep = lease.Spends
	if lease.Spends {
		marked := *r.grantRecord
		marked.present(lease.Owner, s.options.Now())
		b.put(grantKey(key), marked, 0)
	} else {
		b.unchanged(grantKey(key))
	}
	// The view says that nobody holds the lease: there is none, or one that does not count. One that the view did see held
	// stands in the way as long as it is there.
	if r.leaseHeld {
		b.batch.Conditions = append(b.batch.Conditions, Condition{Key: leaseKey(key)})
		b.overwrite(leaseKey(key), fromLease(lease), ttl)
	} else {
		b.put(leaseKey(key), fromLease(lease), ttl)
	}
	return b.done()
}

// held returns the lease if it is this owner's already, and was taken for the same; else ErrConflict, or that refreshing is
// suspended.
func (s *Store) held(ctx context.Context, lease broker.Lease) (broker.Lease, error) {
	asked := s.options.Now()
	key := leaseKey(lease.Key)
	n, err := s.read(ctx, lease.Key.Credential, key, suspendedKey)
	if errors.Is(err, broker.NotFound) {
		return broker.Lease{}, broker.ErrConflict
	}
	if err != nil {
		return broker.Lease{}, err
	}
	var there leaseRecord
	ok, err := n.open(key, &there)
	if err != nil {
		return broker.Lease{}, err
	}
	if !ok || n.credential.Incarnation != lease.Incarnation || there != fromLease(lease) {
		if err := n.suspended(); err != nil && lease.Key.Spends {
			return broker.Lease{}, err
		}
		return broker.Lease{}, broker.ErrConflict
	}
	lease.Until = asked.Add(n.rows[key].Left)
	return lease, nil
}
