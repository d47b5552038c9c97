package store

import (
	"context"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// Fail implements broker.Store. A nil record says that nothing was presented: it removes the owner's marker as well.
func (s *Store) Fail(ctx context.Context, l broker.Lease, r *broker.FailureRecord) error {
	return s.change(ctx, func() (*Batch, error) {
		n, err := s.readFor(ctx, l)
		if n == nil || err != nil {
			return nil, err
		}
		b := n.change()
		b.batch.Tell, b.batch.Finish = noteNews, true
		b.release(l)
		if r == nil {
			if err := b.failGrant(l, &broker.FailureRecord{}); err != nil {
				return nil, err
			}
			return b.done()
		}
		history, err := n.history()
		if err != nil {
			return nil, err
		}
		if _, done := history.receipt(l.Owner); done {
			return nil, nil
		}
		if err := b.failGrant(l, r); err != nil {
			return nil, err
		}
		if n.credential.Version == l.Version {
			if err := b.remember(ctx, l, r); err != nil {
				return nil, err
			}
		}
		history.addAttempts(r.Attempts)
		history.addReceipt(l.Owner, broker.Committed{})
		b.put(historyKey, history, 0)
		return b.done()
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
	old := g
	presented := r.Presented || r.Uncertain
	g.unmark(l.Owner, presented)
	if r.Uncertain {
		g.Uncertain = true
	}
	if presented && g.Uncertain {
		g.Presented++
	}
	if r.Level == broker.LevelGrant {
		refused := fromRemembered(r.Failure)
		g.Refused = &refused
	}
	if g.Marker == old.Marker && g.Uncertain == old.Uncertain && g.Presented == old.Presented && g.Refused == old.Refused {
		return nil
	}
	b.put(key, g, 0)
	return nil
}

// remember notes a failure of the key or of the credential.
func (b *changing) remember(ctx context.Context, l broker.Lease, r *broker.FailureRecord) error {
	switch r.Level {
	case broker.LevelScope, broker.LevelTarget, broker.LevelRequest:
		key := failureKey(l.Key)
		if _, there := b.rows[key]; !there {
			if err := b.forgetFailure(ctx); err != nil {
				return err
			}
		}
		b.put(key, failureRecord{id(l.Version), fromRemembered(r.Failure)}, b.s.remembered(r.Failure.RetryAt))
	case broker.LevelCredential:
		var h healthRecord
		if _, err := b.open(healthKey, &h); err != nil {
			return err
		}
		failed := fromRemembered(r.Failure)
		h.Version, h.Digest, h.Failure = id(l.Version), l.Key.Digest, &failed
		b.put(healthKey, h, 0)
	case broker.LevelUpstream, broker.LevelRateLimited, broker.LevelResponse, broker.LevelGrant:
	}
	return nil
}

// remembered is how long a failure is kept that may be tried again at retry.
func (s *Store) remembered(retry time.Time) time.Duration {
	return max(0, s.until(retry)) + memory
}

// forgetFailure makes room for another failure of a key: the one that ends first goes.
func (b *changing) forgetFailure(ctx context.Context) error {
	count, err := b.s.backend.Count(ctx, b.group, kindFailure)
	if err != nil {
		return fromBackend(err)
	}
	if count < b.s.options.MaxTokens {
		return nil
	}
	all, err := b.s.backend.List(ctx, b.group, kindFailure)
	if err != nil {
		return fromBackend(err)
	}
	var first *Row
	for i := range all {
		if first == nil || all[i].Left < first.Left {
			first = &all[i]
		}
	}
	if first != nil {
		b.batch.Deletes = append(b.batch.Deletes, first.Key)
	}
	return nil
}
