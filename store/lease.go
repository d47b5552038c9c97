package store

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// Acquire implements broker.Tokens. It fails with TooManyTokens where the key would be one too many, and with
// StoreUnavailable while refreshing is suspended (see suspend.go).
//
// It applies one batch whose conditions are the revisions that the view came with, so nothing is read before. Where that
// conflicts, the lease may be this owner's already, because an answer was lost.
func (s *Store) Acquire(ctx context.Context, v broker.View, owner broker.ID, ttl time.Duration, spend bool) (broker.Lease, error) {
	n, ok := v.Rows.(*snapshot)
	switch {
	case !ok:
		return broker.Lease{}, misused("a view that is not of this store")
	case owner.IsZero() || ttl <= 0:
		return broker.Lease{}, misused("a lease without an owner or without a time")
	case spend && (v.Grant.None() || !v.Key.Spends):
		return broker.Lease{}, misused("nothing that this key may spend")
	}
	c := v.Credential
	lease := broker.Lease{
		Key: v.Key, Owner: owner, Incarnation: c.Incarnation, Version: c.Version, Epoch: c.Epoch,
		Generation: v.Grant.Generation, Spends: spend,
	}
	batch, err := n.acquisition(lease, ttl)
	if err != nil {
		return broker.Lease{}, err
	}
	err = s.apply(ctx, s.backend, *batch)
	switch {
	case err == nil:
		lease.Rows = n.after(*batch)
		return lease, nil
	case errors.Is(err, ErrUnconfirmed):
		// A failover could forget that the refresh token is being presented: nothing is sent.
		lease.Rows = n.after(*batch)
		_ = s.Fail(ctx, lease, nil) // it ends by itself otherwise
		return broker.Lease{}, Unavailable("too few replicas confirm what is written (wait_replicas)")
	case errors.Is(err, ErrNoRoom):
		return broker.Lease{}, failure(broker.TooManyTokens, v.Key.Credential)
	case errors.Is(err, broker.ErrConflict):
		return s.held(ctx, lease)
	}
	return broker.Lease{}, err
}

func (n *snapshot) acquisition(lease broker.Lease, ttl time.Duration) (*Batch, error) {
	key := lease.Key
	b := n.change()
	b.unchanged(tokenKey(key))
	b.unchanged(failureKey(key))
	b.unchanged(healthKey)
	if key.Spends {
		b.unchanged(suspendedKey) // it was not asked for: there must be none
	}
	b.batch.Keep = lease.Spends
	if lease.Spends {
		var marked grantRecord
		if _, err := n.open(grantKey(key), &marked); err != nil {
			return nil, err
		}
		marked.present(lease.Owner, n.s.wall(), n.clock())
		b.put(grantKey(key), marked)
	} else {
		b.unchanged(grantKey(key))
	}
	if n.revision(tokenKey(key)) == (Revision{}) {
		b.batch.Room = &Room{kindToken, n.s.options.MaxTokens}
	}
	// The view says that nobody holds the lease: there is none, or one that does not count. One that the view did see held
	// stands in the way as long as it is there.
	held, err := n.leased(key)
	if err != nil {
		return nil, err
	}
	if held {
		b.batch.Conditions = append(b.batch.Conditions, Condition{Key: leaseKey(key)})
	}
	b.putFor(leaseKey(key), fromLease(lease), ttl)
	return b.done()
}

// held returns the lease if it is this owner's already, and was taken for the same; else ErrConflict, or that refreshing is
// suspended.
func (s *Store) held(ctx context.Context, lease broker.Lease) (broker.Lease, error) {
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
	return lease, nil
}
