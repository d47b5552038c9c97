package store

import (
	"context"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// Release implements broker.Lease.
func (l *lease) Release(ctx context.Context) error {
	return l.end(ctx, false, func(b *changing, _ bool) error {
		if b == nil {
			return nil
		}
		b.release(l)
		return b.failGrant(l, broker.FailureRecord{})
	})
}

// Fail implements broker.Lease.
func (l *lease) Fail(ctx context.Context, r broker.FailureRecord) error {
	return l.end(ctx, false, func(b *changing, full bool) error {
		if b == nil {
			return nil
		}
		b.release(l)
		if err := b.failGrant(l, r); err != nil {
			return err
		}
		if b.credential.Version == l.version {
			if err := b.recordFailure(ctx, l, r, full); err != nil {
				return err
			}
		}
		return b.note(r.Attempts, time.Time{})
	})
}

// failGrant notes what the exchange means for the grant, if it is the generation that the lease was taken for. The
// generation stays: a successor that comes late must still be kept.
func (b *changing) failGrant(l *lease, r broker.FailureRecord) error {
	if !l.spends {
		return nil
	}
	key := grantKey(l.key)
	var g grantRecord
	if there, err := b.open(key, &g); err != nil {
		return err
	} else if !there || g.Generation.id() != l.generation {
		return nil
	}
	old := g
	g.unmark(l.owner, r.Presented || r.Uncertain)
	if r.Uncertain {
		g.Uncertain = true
	}
	if r.Level == broker.LevelGrant {
		refused := b.remember(r.Failure)
		g.Refused, g.RefusedBy = &refused, l.key.Digest
	}
	if g.Marker == old.Marker && g.Uncertain == old.Uncertain && g.Refused == old.Refused {
		return nil
	}
	b.put(key, g)
	return nil
}

// recordFailure notes a failure of the key or of the credential.
func (b *changing) recordFailure(ctx context.Context, l *lease, r broker.FailureRecord, full bool) error {
	switch r.Level {
	case broker.LevelResponse, broker.LevelScope, broker.LevelTarget, broker.LevelRequest:
		return b.failKey(ctx, l, r.Failure, full)
	case broker.LevelCredential:
		var h healthRecord
		if err := b.spare(healthKey, &h); err != nil {
			return err
		}
		failed := b.remember(r.Failure)
		h.Version, h.Digest, h.Failure = id(l.version), l.key.Digest, &failed
		b.put(healthKey, h)
	case broker.LevelUpstream, broker.LevelRateLimited, broker.LevelGrant:
	}
	return nil
}

// failKey notes a failure of the key.
func (b *changing) failKey(ctx context.Context, l *lease, f broker.Remembered, full bool) error {
	key := failureKey(l.key)
	if _, there := b.rows[key]; !there {
		if err := b.makeRoom(ctx, kindFailure, full, endsFirst); err != nil {
			return err
		}
	}
	b.putUntil(key, failureRecord{id(l.version), b.remember(f)}, b.s.forgotten(f.RetryAt))
	return nil
}

// forgotten is when a failure is forgotten that may be tried again at retry.
func (s *Store) forgotten(retry time.Time) time.Time {
	if now := s.wall(); retry.Before(now) {
		retry = now
	}
	return retry.Add(memory)
}

// endsFirst is when a failure ends.
func endsFirst(n *snapshot, key Key) (time.Time, bool, error) {
	return n.now.Add(n.rows[key].Left), true, nil
}
