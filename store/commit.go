package store

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// end decides what an exchange leaves behind, and applies it. The first decision is by what Acquire left, without reading; only
// where that has changed meanwhile, or the answer to it was lost, is it read what there is. Then what the backend has lost is put in place
// first, because this exchange may have built on it; unless with again, for what is put in place. decide is called with nil where the
// credential is gone, or is another one by now. full: there was no room for what was decided before.
func (s *Store) end(ctx context.Context, l broker.Lease, again bool, decide func(b *changing, full bool) error) error {
	full := false
	err := s.endIn(ctx, l, again, func(b *changing) error { return decide(b, full) })
	if errors.Is(err, ErrNoRoom) {
		full = true
		err = s.endIn(ctx, l, again, func(b *changing) error { return decide(b, full) })
	}
	return err
}

func (s *Store) endIn(ctx context.Context, l broker.Lease, again bool, decide func(*changing) error) error {
	read := s.readMended
	if again {
		read = s.read
	}
	known, _ := l.Rows.(*snapshot)
	return s.change(ctx, func() (*Batch, error) {
		n := known
		known = nil
		if n == nil {
			var err error
			n, err = read(ctx, l.Key.Credential,
				grantKey(l.Key), tokenKey(l.Key), failureKey(l.Key), healthKey, historyKey, leaseKey(l.Key))
			if errors.Is(err, broker.NotFound) || err == nil && n.credential.Incarnation != l.Incarnation {
				return nil, decide(nil)
			}
			if err != nil {
				return nil, err
			}
		}
		b := n.change()
		b.batch.Tell, b.batch.Finish = noteNews, true
		if err := decide(b); err != nil {
			return nil, err
		}
		return b.done()
	})
}

// Commit implements broker.Tokens. Token is true also for a token whose life was over before it could be stored: it would be
// gone by now.
func (s *Store) Commit(ctx context.Context, l broker.Lease, o broker.Outcome) (broker.Committed, error) {
	stored, shown, _, err := s.commit(ctx, l, o, false)
	if err == nil && stored.Grant {
		s.keepCommit(l, o, shown)
	}
	return stored, err
}

// commit is Commit; again: after what it had stored may have been undone. Then it applies only where the grant is still the
// one that the lease was taken for. shown is the revision of the grant as it is then; made: it was changed now.
func (s *Store) commit(ctx context.Context, l broker.Lease, o broker.Outcome, again bool) (stored broker.Committed, shown Revision, made bool, err error) {
	err = s.end(ctx, l, again, func(b *changing, full bool) (err error) {
		stored, shown, made = broker.Committed{}, Revision{}, false
		if b == nil {
			return nil
		}
		if there, err := b.committed(l); there || err != nil {
			stored = broker.Committed{Grant: true, Token: b.tokenOf(l)}
			if stored.Token {
				stored.Mark = b.mark(l.Key)
			}
			return err
		}
		if stored.Grant, err = b.commitGrant(ctx, l, o, full); err != nil {
			return err
		}
		if again && !stored.Grant {
			return nil
		}
		b.batch.Keep = stored.Grant
		if c := b.credential; c.Version == l.Version {
			if err := b.commitHealth(l, o); err != nil {
				return err
			}
			if o.UsedFormer {
				b.put(credentialKey, fromCredential(formerUsed(c, o.Now)))
			}
			b.remove(failureKey(l.Key))
			if o.Token != nil && c.Epoch == l.Epoch && (stored.Grant || b.holds(l)) {
				if stored.Token, err = b.commitToken(l, *o.Token); err != nil {
					return err
				}
			}
		}
		if err := b.note(o.Attempts, o.Now); err != nil {
			return err
		}
		b.release(l)
		after := b.after(b.batch)
		if stored.Token {
			stored.Mark = after.mark(l.Key)
		}
		shown, made = after.revision(grantKey(l.Key)), stored.Grant
		return nil
	})
	if err != nil {
		return broker.Committed{}, Revision{}, false, err
	}
	return stored, shown, made, nil
}

// committed reports whether this commit was made before, and its answer was lost.
func (b *changing) committed(l broker.Lease) (bool, error) {
	var g grantRecord
	there, err := b.open(grantKey(l.Key), &g)
	return there && g.Generation.id() == l.Owner || b.tokenOf(l), err
}

// tokenOf reports whether the token that is there, and can be used, is this exchange's.
func (b *changing) tokenOf(l broker.Lease) bool {
	var t tokenRecord
	there, err := b.open(tokenKey(l.Key), &t)
	return there && err == nil && t.Owner.id() == l.Owner && !t.Rejected
}

// commitGrant keeps, replaces or drops the grant if it is the generation that the lease was taken for. It reports whether it
// did.
func (b *changing) commitGrant(ctx context.Context, l broker.Lease, o broker.Outcome, full bool) (bool, error) {
	key := grantKey(l.Key)
	var old grantRecord
	there, err := b.open(key, &old)
	if err != nil || old.Generation.id() != l.Generation {
		return false, err
	}
	g := grantRecord{
		// The owner is drawn for one exchange: its commit has the same generation also when it is made again after a failover, so
		// that the commits that built on it apply too. And one that is repeated sees that it was made.
		Generation: id(l.Owner), Predecessor: id(l.Generation), RefreshToken: reveal(o.RefreshToken),
		Held: revealAll(o.Held), GivenAt: at(o.Now),
	}
	if l.Spends {
		// The presentation was answered: whatever was in doubt before, this line goes on.
		g.GivenAt, g.UsedAt, g.Used = old.GivenAt, at(o.Now), storedAt(b.clock())
	}
	switch {
	case !o.RefreshToken.IsZero():
		switch {
		case there || key == ownGrantKey:
		case full:
			if err := b.makeRoom(ctx); err != nil {
				return false, err
			}
		default:
			b.batch.Room = &Room{kindGrant, b.s.options.MaxTokens}
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
	b.put(key, g)
	return true, nil
}

// makeRoom drops the key's grant that was used least recently, if there are as many as may be. Grants of keys were obtained
// without a human, and can be again; one that is being presented stays.
func (b *changing) makeRoom(ctx context.Context) error {
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

// commitToken stores the token, unless it was stored before and has been rejected since. It reports whether it did. Whoever was held up
// does not come here: a lease that is still held, or a grant that nobody else has moved, says that nothing came meanwhile.
func (b *changing) commitToken(l broker.Lease, t broker.Issued) (bool, error) {
	key := tokenKey(l.Key)
	var there tokenRecord
	if err := b.spare(key, &there); err != nil {
		return false, err
	}
	current := there.Version.id() == l.Version && there.Epoch.id() == l.Epoch && there.Incarnation.id() == l.Incarnation
	if current && there.Owner.id() == l.Owner {
		return false, nil
	}
	t.Incarnation, t.Version, t.Epoch = l.Incarnation, l.Version, l.Epoch
	if !b.s.wall().Before(t.ExpireAt) {
		b.remove(key)
		return true, nil
	}
	record := fromToken(t)
	record.Owner = id(l.Owner)
	b.putUntil(key, record, t.ExpireAt)
	return true, nil
}

// commitHealth notes that this version works, and with which secret.
func (b *changing) commitHealth(l broker.Lease, o broker.Outcome) error {
	var h healthRecord
	if err := b.spare(healthKey, &h); err != nil {
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
	case h.empty():
		b.remove(healthKey)
	case h != old:
		b.put(healthKey, h)
	}
	return nil
}

// note adds to what people see. success is when the exchange went well; zero: it did not.
func (b *changing) note(attempts []broker.Attempt, success time.Time) error {
	var history historyRecord
	if err := b.spare(historyKey, &history); err != nil {
		return err
	}
	if history.LastSuccess.time().Before(success) {
		history.LastSuccess = at(success)
	}
	history.addAttempts(attempts)
	b.put(historyKey, history)
	return nil
}

// holds reports whether the lease is still this owner's. Whoever has lost it cannot know what has become of a token that hangs on
// no grant: it may have been stored, and dropped since.
func (n *snapshot) holds(l broker.Lease) bool {
	var there leaseRecord
	ok, err := n.open(leaseKey(l.Key), &there)
	return ok && err == nil && there.Owner.id() == l.Owner
}

// release deletes the lease if it is still this owner's. One that cannot be read is not: it ends by itself.
func (b *changing) release(l broker.Lease) {
	if b.holds(l) {
		b.remove(leaseKey(l.Key))
	}
}
