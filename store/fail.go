package store

import (
	"context"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// Fail implements broker.Tokens. A nil record says that nothing was presented: it removes the owner's marker as well.
func (s *Store) Fail(ctx context.Context, l broker.Lease, r *broker.FailureRecord) error {
	return s.end(ctx, l, false, func(b *changing, full bool) error {
		if b == nil {
			return nil
		}
		b.release(l)
		if r == nil {
			return b.failGrant(l, &broker.FailureRecord{})
		}
		if err := b.failGrant(l, r); err != nil {
			return err
		}
		if b.credential.Version == l.Version {
			if err := b.recordFailure(ctx, l, r, full); err != nil {
				return err
			}
		}
		return b.note(r.Attempts, time.Time{})
	})
}

// failGrant notes what the exchange means for the grant, if it is the generation that the lease was taken for. The
// generation stays: a successor that comes late must still be kept.
func (b *changing) failGrant(l broker.Lease, r *broker.FailureRecord) error {
	if !l.Spends {
		return nil
	}
	key := grantKey(l.Key)
	var g grantRecord
	if there, err := b.open(key, &g); err != nil {
		return err
	} else if !there || g.Generation.id() != l.Generation {
		return nil
	}
	old, mine := g, g.Marker.id() == l.Owner
	presented := r.Presented || r.Uncertain
	g.unmark(l.Owner, presented)
	if r.Uncertain {
		g.Uncertain = true
	}
	if presented && g.Uncertain && mine {
		g.Presented++
	}
	if r.Level == broker.LevelGrant {
		refused := b.remember(r.Failure)
		g.Refused = &refused
	}
	if g.Marker == old.Marker && g.Uncertain == old.Uncertain && g.Presented == old.Presented && g.Refused == old.Refused {
		return nil
	}
	b.put(key, g)
	return nil
}

// recordFailure notes a failure of the key or of the credential.
func (b *changing) recordFailure(ctx context.Context, l broker.Lease, r *broker.FailureRecord, full bool) error {
	switch r.Level {
	case broker.LevelScope, broker.LevelTarget, broker.LevelRequest:
		key := failureKey(l.Key)
		if _, there := b.rows[key]; !there {
			b.batch.Room = &Room{kindFailure, b.s.options.MaxTokens}
			if full {
				if err := b.forgetFailure(ctx); err != nil {
					return err
				}
			}
		}
		b.putUntil(key, failureRecord{id(l.Version), b.remember(r.Failure)}, b.s.forgotten(r.Failure.RetryAt))
	case broker.LevelCredential:
		var h healthRecord
		if err := b.spare(healthKey, &h); err != nil {
			return err
		}
		failed := b.remember(r.Failure)
		h.Version, h.Digest, h.Failure = id(l.Version), l.Key.Digest, &failed
		b.put(healthKey, h)
	case broker.LevelUpstream, broker.LevelRateLimited, broker.LevelResponse, broker.LevelGrant:
	}
	return nil
}

// forgotten is when a failure is forgotten that may be tried again at retry.
func (s *Store) forgotten(retry time.Time) time.Time {
	if now := s.wall(); retry.Before(now) {
		retry = now
	}
	return retry.Add(memory)
}

// forgetFailure makes room for another failure of a key: the one that ends first goes.
func (b *changing) forgetFailure(ctx context.Context) error {
	all, err := b.s.backend.List(ctx, []Group{b.group}, kindFailure)
	if err != nil {
		return fromBackend(err)
	}
	var first *Row
	for i, r := range all[0].Rows {
		if first == nil || r.Left < first.Left {
			first = &all[0].Rows[i]
		}
	}
	b.batch.Room = nil
	if first != nil {
		b.batch.Deletes = append(b.batch.Deletes, first.Key)
	}
	return nil
}
