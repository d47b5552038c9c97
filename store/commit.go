package store

import (
	"context"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// Commit implements broker.Lease. Token is true also for a token whose life was over before it could be stored: it would be
// gone by now.
func (l *lease) Commit(ctx context.Context, o broker.Outcome) (broker.Committed, error) {
	told := l.s.clock.Now()
	stored, shown, _, err := l.commit(ctx, o, told, false)
	if err == nil && (stored.Grant || l.spends && !o.RefreshToken.IsZero() && !l.followed) {
		l.keepCommit(o, told, shown, stored.Grant) // a failover may bring back what it spent, also where that was replaced, or deleted, by somebody else
	}
	return stored, err
}

// commit is Commit; again: after what it had stored may have been undone. Then it applies only where the grant is still the
// one that the lease was taken for. told is when what it stores was told: the token's times are by the wall clock of then. shown is the revision of the grant as it is
// then; made: it was changed now.
func (l *lease) commit(ctx context.Context, o broker.Outcome, told broker.Instant, again bool) (stored broker.Committed, shown Revision, made bool, err error) {
	err = l.end(ctx, again, func(b *changing) (err error) {
		stored, shown, made = broker.Committed{}, Revision{}, false
		if b == nil {
			return nil
		}
		if there, err := b.committed(l); there || err != nil {
			stored = broker.Committed{Grant: true, Token: b.tokenOf(l)}
			if stored.Token {
				stored.Mark = b.mark(l.key)
			}
			return err
		}
		if stored.Grant, err = b.commitGrant(l, o); err != nil {
			return err
		}
		if again && !stored.Grant {
			return nil
		}
		b.batch.Keep = stored.Grant
		if c := b.credential; c.Version == l.version {
			if err := b.commitHealth(l, o); err != nil {
				return err
			}
			if o.UsedFormer {
				b.put(credentialKey, fromCredential(formerUsed(c, o.Now)))
			}
			if o.Failure == nil {
				b.remove(failureKey(l.key))
			} else {
				b.failKey(l, *o.Failure)
			}
			if o.Token != nil && c.Epoch == l.epoch && (stored.Grant || b.heldBy(l)) {
				if stored.Token, err = b.commitToken(l, o.Token.Told(told, b.s.clock.Now())); err != nil {
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
			stored.Mark = after.mark(l.key)
		}
		shown, made = after.revision(grantKey(l.key)), stored.Grant
		return nil
	})
	if err != nil {
		return broker.Committed{}, Revision{}, false, err
	}
	return stored, shown, made, nil
}

// committed reports whether this commit was made before, and its answer was lost.
func (b *changing) committed(l *lease) (bool, error) {
	var g grantRecord
	there, err := b.open(grantKey(l.key), &g)
	return there && g.Generation.id() == l.owner || b.tokenOf(l), err
}

// tokenOf reports whether the token that is there, and can be used, is this exchange's.
func (b *changing) tokenOf(l *lease) bool {
	var t tokenRecord
	there, err := b.open(tokenKey(l.key), &t)
	return there && err == nil && t.Owner.id() == l.owner && !t.Rejected
}

// commitGrant keeps, replaces or drops the grant if it is the generation that the lease was taken for. It reports whether it
// did.
func (b *changing) commitGrant(l *lease, o broker.Outcome) (bool, error) {
	key := grantKey(l.key)
	var old grantRecord
	there, err := b.open(key, &old)
	if err != nil || old.Generation.id() != l.generation {
		l.followed = there && old.Predecessor.id() == l.generation
		return false, err
	}
	if c := b.credential; c.Place != l.place && !c.Place.IsZero() && (c.Version != l.version || !l.place.IsZero()) {
		return false, nil // it was obtained at another place; but where a former broker has left that out, nobody knows of another
	}
	g := grantRecord{
		// The owner is drawn for one exchange: its commit has the same generation also when it is made again after a failover, so
		// that the commits that built on it apply too. And one that is repeated sees that it was made.
		Generation: id(l.owner), Predecessor: id(l.generation), RefreshToken: reveal(o.RefreshToken), GivenAt: at(o.Now),
	}
	g.hold(o.Held)
	if l.spends {
		// The presentation was answered: whatever was in doubt before, this line goes on.
		g.GivenAt, g.UsedAt, g.Used = old.GivenAt, at(o.Now), storedAt(b.clock())
	}
	switch {
	case !o.RefreshToken.IsZero():
		if !there && key != ownGrantKey {
			b.makeRoom(kindGrant)
		}
	case o.DropGrant:
		b.remove(key)
		return there, nil
	case l.spends && there:
		g.RefreshToken = old.RefreshToken
		if o.Held == nil {
			g.Held, g.TakenBy = old.Held, old.TakenBy
		}
	default:
		return false, nil
	}
	b.putGrant(key, g)
	return true, nil
}

// makeRoom makes room for a row of a kind that has to be there at the end.
func (b *changing) makeRoom(kind Kind) {
	b.batch.Rooms = append(b.batch.Rooms, Room{kind, b.s.options.MaxTokens})
}

// putGrant is put of a grant. One of a key was obtained without a human, and can be again: it lives for years from when it was used last, so that the one
// that was used the longest ago ends first.
func (b *changing) putGrant(key Key, g grantRecord) {
	if key == ownGrantKey {
		b.put(key, g)
	} else {
		b.putFor(key, g, maxTTL)
	}
}

// commitToken stores the token, unless it was stored before and has been rejected since. It reports whether it did. Whoever was held up
// does not come here: a lease that is still held, or a grant that nobody else has moved, says that nothing came meanwhile.
func (b *changing) commitToken(l *lease, t broker.Issued) (bool, error) {
	key := tokenKey(l.key)
	var there tokenRecord
	if err := b.spare(key, &there); err != nil {
		return false, err
	}
	if there.of(b.credential) && there.Owner.id() == l.owner {
		return false, nil
	}
	if !b.s.wall().Before(t.ExpireAt) {
		b.remove(key)
		return true, nil
	}
	record := fromToken(t)
	record.SelectionID, record.Owner = l.key.Selection, id(l.owner)
	record.Incarnation, record.Version, record.Epoch = id(l.incarnation), id(l.version), id(l.epoch)
	b.putUntil(key, record, t.ExpireAt)
	return true, nil
}

// commitHealth notes that this version works, and with which secret.
func (b *changing) commitHealth(l *lease, o broker.Outcome) error {
	var h healthRecord
	if err := b.spare(healthKey, &h); err != nil {
		return err
	}
	old := h
	if h.failure(l.version, l.key.Digest) != nil {
		h.Version, h.Digest, h.Failure = id{}, "", nil
	}
	h.FormerWorked = id{}
	if o.UsedFormer {
		h.FormerWorked = id(l.version)
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
