package store

import (
	"context"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// Release implements broker.Lease.
func (l *lease) Release(ctx context.Context) error {
	return l.end(ctx, false, func(b *changing) error {
		if b == nil {
			return nil
		}
		b.release(l)
		return b.failGrant(l, broker.FailureRecord{})
	})
}

// Fail implements broker.Lease.
func (l *lease) Fail(ctx context.Context, r broker.FailureRecord) error {
	return l.end(ctx, false, func(b *changing) error {
		if b == nil {
			return nil
		}
		b.release(l)
		if err := b.failGrant(l, r); err != nil {
			return err
		}
		if b.credential.Version == l.version {
			if err := b.recordFailure(l, r); err != nil {
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
	b.putGrant(key, g)
	return nil
}

// recordFailure notes a failure of the key or of the credential.
func (b *changing) recordFailure(l *lease, r broker.FailureRecord) error {
	switch r.Level {
	case broker.LevelResponse, broker.LevelScope, broker.LevelTarget, broker.LevelRequest:
		b.failKey(l, r.Failure)
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
func (b *changing) failKey(l *lease, f broker.Remembered) {
	key := failureKey(l.key)
	if _, there := b.rows[key]; !there {
		b.makeRoom(kindFailure)
	}
	b.putUntil(key, failureRecord{id(l.version), b.remember(f)}, b.s.forgotten(f.RetryAt))
}

// forgotten is when a failure is forgotten that may be tried again at retry.
func (s *Store) forgotten(retry time.Time) time.Time {
	if now := s.wall(); retry.Before(now) {
		retry = now
	}
	return retry.Add(memory)
}
