package store

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// A lessor gives leases as of a snapshot that was read for a key. It implements broker.Lessor.
type lessor struct {
	*snapshot
	key   broker.TokenKey
	grant grantRecord // the zero one: there is none
}

// A lease is who holds it, and what it was taken for. It implements broker.Lease.
type lease struct {
	s                                       *Store
	key                                     broker.TokenKey
	owner                                   broker.ID
	incarnation, version, epoch, generation broker.ID
	place                                   broker.ID
	spends                                  bool
	// left is what Acquire left of the credential; nil: it is to be read.
	left *snapshot
	// followed: when its commit was decided, the grant was the one that somebody else's exchange had brought for the same refresh token.
	followed bool
}

// Acquire implements broker.Lessor. Where the key would be one too many, the token goes that ends first. It fails with StoreUnavailable while refreshing is
// suspended (see suspend.go). It applies one batch whose conditions are the revisions of what was read, so nothing is read before.
func (n lessor) Acquire(ctx context.Context, ttl time.Duration, spend bool) (broker.Lease, error) {
	if ttl <= 0 || spend && (len(n.grant.RefreshToken) == 0 || !n.key.Spends) {
		return nil, misused("a lease without a time, or of nothing that this key may spend")
	}
	if n.key.Spends {
		if err := n.suspended(); err != nil {
			return nil, err
		}
	}
	if spend && n.s.kept.has(replacement{kindGrant, n.grant.Generation.id()}) {
		return nil, broker.ErrConflict // it has been replaced, and a failover undid that: Read puts it in place again
	}
	c := n.credential
	l := &lease{
		s: n.s, key: n.key, owner: broker.NewID(), incarnation: c.Incarnation, version: c.Version, epoch: c.Epoch,
		place: c.Place, generation: n.grant.Generation.id(), spends: spend,
	}
	batch, err := n.acquisition(l, ttl)
	if errors.Is(err, broker.RecordUnreadable) {
		return nil, broker.ErrConflict // it could be read, and its key was retired since: what is stored is sealed with another
	}
	if err != nil {
		return nil, err
	}
	switch err = n.s.apply(ctx, n.s.backend, *batch); {
	case err == nil:
		l.left = n.after(*batch)
		return l, nil
	case errors.Is(err, ErrUnconfirmed):
		// A failover could forget that the refresh token is being presented: nothing is to be sent.
		return l, Unavailable("too few replicas confirm what is written (wait_replicas)")
	case errors.Is(err, broker.ErrConflict):
		return nil, err
	}
	return l, err // it may have been taken all the same
}

// acquisition is the batch that takes the lease.
func (n lessor) acquisition(l *lease, ttl time.Duration) (*Batch, error) {
	b := n.change()
	b.unchanged(tokenKey(n.key))
	b.unchanged(failureKey(n.key))
	b.unchanged(healthKey)
	if n.key.Spends {
		b.unchanged(suspendedKey)
	}
	b.batch.Keep = l.spends
	if l.spends {
		marked := n.grant
		marked.present(l.owner, n.s.wall(), n.clock())
		b.putGrant(grantKey(n.key), marked)
	} else {
		b.unchanged(grantKey(n.key))
	}
	if n.revision(tokenKey(n.key)) == (Revision{}) {
		b.makeRoom(kindToken)
	}
	// The view says that nobody holds the lease: there is none, or one that does not count. One that the view did see held
	// stands in the way as long as it is there.
	held, err := n.leased(n.key)
	if err != nil {
		return nil, err
	}
	if held {
		b.batch.Conditions = append(b.batch.Conditions, Condition{Key: leaseKey(n.key)})
	}
	b.putFor(leaseKey(n.key), fromLease(l), ttl)
	return b.done()
}

// end decides what an exchange leaves behind, and applies it. It decides first by what Acquire left, without reading. Only where that has
// changed meanwhile, or the answer to Acquire was lost, does it read; and then it puts in place first what the backend has lost, because
// this exchange may have built on it. With again it does not do that: it is itself what is put in place. decide is called with nil where the
// credential is gone, or is another one by now. It fails with StoreUnavailable where a record's key is retired, as after a failover that has undone a rewrap: what it
// leaves cannot be had again, and that key can be restored.
func (l *lease) end(ctx context.Context, again bool, decide func(*changing) error) error {
	read, left := l.s.readMended, l.left
	if again {
		read = l.s.read
	}
	err := l.s.change(ctx, func() (*Batch, error) {
		n := left
		left = nil
		if n != nil {
			batch, err := l.decided(n, decide)
			if !errors.Is(err, broker.RecordUnreadable) {
				return batch, err
			} // what Acquire left is sealed with a key that was retired since: what is stored is not
		}
		n, err := read(ctx, l.key.Credential, flightRows(l.key)...)
		if errors.Is(err, broker.NotFound) || err == nil && n.credential.Incarnation != l.incarnation {
			return nil, decide(nil)
		}
		if err != nil {
			return nil, err
		}
		return l.decided(n, decide)
	})
	if !errors.Is(err, errRetired) {
		return err
	}
	var f *broker.Failure
	errors.As(err, &f)
	l.s.ring.mu.Lock()
	defer l.s.ring.mu.Unlock()
	l.s.tell("the end of an exchange cannot be stored, because the key of a record beside it is retired: it is tried again",
		slog.String("credential", string(l.key.Credential)), slog.String("error", f.Detail))
	return Unavailable(f.Detail)
}

func (l *lease) decided(n *snapshot, decide func(*changing) error) (*Batch, error) {
	b := n.change()
	b.batch.Tell, b.batch.Finish = noteNews, true
	if b.keys = n.fenced(l); b.keys != nil {
		b.unchanged(leaseKey(l.key))
	}
	if err := decide(b); err != nil {
		return nil, err
	}
	return b.done()
}

// fenced are the keys of this process if the lease is sealed with them and still held; nil: else. While the lease is there the key that it is sealed with is not
// retired (needed): whatever this process has missed of the keys, it may leave what it has got.
func (n *snapshot) fenced(l *lease) *seal.Keyring {
	k := n.s.keys()
	if row, there := n.rows[leaseKey(l.key)]; k != nil && there && seal.SealedWith(row.Value) == k.ID() && n.heldBy(l) {
		return k
	}
	return nil
}

// heldBy reports whether the lease is still this one. Whoever has lost it cannot know what has become of a token that hangs on
// no grant: it may have been stored, and dropped since.
func (n *snapshot) heldBy(l *lease) bool {
	var there leaseRecord
	ok, err := n.open(leaseKey(l.key), &there)
	return ok && err == nil && there.Owner.id() == l.owner
}

// release deletes the lease if it is still this one. A record that cannot be read is not: it ends by itself.
func (b *changing) release(l *lease) {
	if b.heldBy(l) {
		b.remove(leaseKey(l.key))
	}
}
