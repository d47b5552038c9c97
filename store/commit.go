package store

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// read returns what an exchange's end decides by; nil where the credential is gone, or is another one by now.
func (s *Store) readFor(ctx context.Context, l broker.Lease) (*snapshot, error) {
	n, err := s.read(ctx, l.Key.Credential, grantKey(l.Key), failureKey(l.Key), healthKey, historyKey, leaseKey(l.Key))
	if errors.Is(err, broker.NotFound) || err == nil && n.credential.Incarnation != l.Incarnation {
		return nil, nil
	}
	return n, err
}

// Commit implements broker.Store. Token is true also for a token whose life was over before it could be stored: it would be
// gone by now.
func (s *Store) Commit(ctx context.Context, l broker.Lease, o broker.Outcome) (broker.Committed, error) {
	stored, _, err := s.commit(ctx, l, o, false)
	if err == nil && stored.Grant {
		s.keep(l, o)
	}
	return stored, err
}

// commit is Commit; again: after what it had stored may have been undone. Then it applies only where the grant is still the
// one that the lease was taken for. made: it was not in place already.
func (s *Store) commit(ctx context.Context, l broker.Lease, o broker.Outcome, again bool) (stored broker.Committed, made bool, err error) {
	err = s.change(ctx, func() (*Batch, error) {
		stored, made = broker.Committed{}, false
		n, err := s.readFor(ctx, l)
		if n == nil || err != nil {
			return nil, err
		}
		history, err := n.history()
		if err != nil {
			return nil, err
		}
		if done, ok := history.receipt(l.Owner); ok {
			stored = done
			return nil, nil
		}
		b := n.change()
		b.batch.Tell, b.batch.Finish = noteNews, true
		if stored.Grant, err = b.commitGrant(ctx, l, o); err != nil {
			return nil, err
		}
		b.batch.Keep = stored.Grant
		if again && !stored.Grant {
			return nil, nil
		}
		c := n.credential
		if c.Version == l.Version {
			if err := b.commitHealth(l, o); err != nil {
				return nil, err
			}
			if o.UsedFormer {
				b.put(credentialKey, fromCredential(formerUsed(c, o.Now)), 0)
			}
			b.remove(failureKey(l.Key))
			if o.Token != nil && c.Epoch == l.Epoch {
				b.commitToken(l, *o.Token)
				stored.Token = true
				stored.Mark = b.mark(l.Key)
			}
		}
		if history.LastSuccess.time().Before(o.Now) {
			history.LastSuccess = at(o.Now)
		}
		history.addAttempts(o.Attempts)
		history.addReceipt(l.Owner, stored)
		b.put(historyKey, history, 0)
		b.release(l)
		made = true
		return b.done()
	})
	if err != nil {
		return broker.Committed{}, false, err
	}
	return stored, made, nil
}

// commitGrant keeps, replaces or drops the grant if it is the generation that the lease was taken for.
func (b *changing) commitGrant(ctx context.Context, l broker.Lease, o broker.Outcome) (bool, error) {
	key := grantKey(l.Key)
	var old grantRecord
	there, err := b.open(key, &old)
	if err != nil {
		return false, err
	}
	if old.Generation.id() != l.Generation {
		return false, nil
	}
	g := grantRecord{
		// The owner is drawn for one exchange: its commit has the same generation also when it is made again after a failover, so
		// that the commits that built on it apply too.
		Generation: id(l.Owner), Predecessor: id(l.Generation), RefreshToken: reveal(o.RefreshToken),
		Held: revealAll(o.Held), GivenAt: at(o.Now),
	}
	if l.Spends {
		// The presentation was answered: whatever was in doubt before, this line goes on.
		g.GivenAt, g.UsedAt = old.GivenAt, at(o.Now)
	}
	switch {
	case !o.RefreshToken.IsZero():
		if !there && key != ownGrantKey {
			if err := b.makeRoom(ctx); err != nil {
				return false, err
			}
		}
	case o.DropGrant:
		b.remove(key)
		return there, nil
	case l.Spends && there:
		g.RefreshToken = old.RefreshToken
		if o.Held == nil {
			g.Held = old.Held
		}
	default:
		return false, nil
	}
	b.put(key, g, 0)
	return true, nil
}

// makeRoom drops the key's grant that was used least recently, if there are as many as may be. Grants of keys were obtained
// without a human, and can be again; one that is being presented stays.
func (b *changing) makeRoom(ctx context.Context) error {
	count, err := b.s.backend.Count(ctx, b.group, kindGrant)
	if err != nil {
		return fromBackend(err)
	}
	if count < b.s.options.MaxTokens {
		return nil
	}
	all, err := b.s.list(ctx, b.name, kindGrant)
	if err != nil {
		return err
	}
	if all.revision(credentialKey) != b.revision(credentialKey) {
		return nil // the batch will conflict
	}
	var oldest Key
	var used time.Time
	for _, key := range all.order {
		var g grantRecord
		if key.Kind != kindGrant || key == ownGrantKey {
			continue
		}
		if _, err := all.open(key, &g); err != nil {
			return err
		}
		last := g.UsedAt.time()
		if last.Before(g.GivenAt.time()) {
			last = g.GivenAt.time()
		}
		if g.Marker.IsZero() && (oldest == Key{} || last.Before(used)) {
			oldest, used = key, last
		}
	}
	if oldest != (Key{}) {
		b.rows[oldest] = all.rows[oldest]
		b.remove(oldest)
	}
	return nil
}

func (b *changing) commitToken(l broker.Lease, t broker.Issued) {
	key := tokenKey(l.Key)
	t.Incarnation, t.Version, t.Epoch = l.Incarnation, l.Version, l.Epoch
	if ttl := b.s.until(t.ExpireAt); ttl > 0 {
		b.overwrite(key, fromToken(t), ttl)
		return
	}
	b.batch.Deletes = append(b.batch.Deletes, key)
}

// commitHealth notes that this version works, and with which secret.
func (b *changing) commitHealth(l broker.Lease, o broker.Outcome) error {
	var h healthRecord
	if _, err := b.open(healthKey, &h); err != nil {
		return err
	}
	old := h
	if h.failure(l.Version, l.Key.Digest) != nil {
		h.Version, h.Digest, h.Failure = id{}, "", nil
	}
	h.FormerWorked = id{}
	if o.UsedFormer {
		h.FormerWorked = id(l.Version)
	}
	switch {
	case h == old:
	case h.empty():
		b.remove(healthKey)
	default:
		b.put(healthKey, h, 0)
	}
	return nil
}

// release deletes the lease if it is still this owner's. One that cannot be read is not: it ends by itself.
func (b *changing) release(l broker.Lease) {
	key := leaseKey(l.Key)
	var there leaseRecord
	if ok, err := b.open(key, &there); ok && err == nil && there.Owner.id() == l.Owner {
		b.remove(key)
	}
}
