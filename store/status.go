package store

import (
	"context"

	"github.com/tokenbroker/tokenbroker/broker"
)

// Status implements broker.Store. The credential's own grant comes first.
func (s *Store) Status(ctx context.Context, name broker.CredentialName) (broker.Status, error) {
	none := broker.Status{}
	n, err := s.list(ctx, name, kindHealth, kindHistory, kindGrant, kindToken)
	if err != nil {
		return none, err
	}
	st := broker.Status{Credential: n.credential}
	for _, key := range n.order {
		if key.Kind != kindGrant {
			continue
		}
		var g grantRecord
		if _, err := n.open(key, &g); err != nil {
			return none, err
		}
		st.Grants = append(st.Grants, g.grant())
	}
	if err := n.tokens(func(_ Key, t *broker.Issued) { st.Tokens = append(st.Tokens, *t) }); err != nil {
		return none, err
	}
	var h healthRecord
	if _, err := n.open(healthKey, &h); err != nil {
		return none, err
	}
	st.Failure = h.failure(n.credential.Version, h.Digest) // of whichever definition was tried last
	st.FormerWorked = !h.FormerWorked.IsZero() && h.FormerWorked.id() == n.credential.Version
	history, err := n.history()
	if err != nil {
		return none, err
	}
	st.LastSuccess, st.Attempts = history.LastSuccess.time(), history.attempts()
	return st, nil
}

// Backoff implements broker.Store.
func (s *Store) Backoff(ctx context.Context, upstream string) (broker.Backoff, error) {
	rows, err := s.backend.Read(ctx, s.upstreamGroup(upstream), backoffKey)
	if err != nil {
		return broker.Backoff{}, fromBackend(err)
	}
	if len(rows) == 0 {
		return broker.Backoff{}, nil
	}
	var r backoffRecord
	if err := s.open(place{key: backoffKey, subject: upstream}, rows[0], &r); err != nil {
		return broker.Backoff{}, err
	}
	return broker.Backoff{Failures: r.Failures, Until: r.Until.time(), Last: r.Last.remembered()}, nil
}

// SaveBackoff implements broker.Store. It is advisory: the last one to save wins.
func (s *Store) SaveBackoff(ctx context.Context, upstream string, b broker.Backoff) error {
	batch := Batch{Group: s.upstreamGroup(upstream)}
	if b == (broker.Backoff{}) {
		batch.Deletes = []Key{backoffKey}
	} else {
		record := backoffRecord{b.Failures, at(b.Until), fromRemembered(b.Last)}
		put, err := s.seal(place{key: backoffKey, subject: upstream}, record, s.remembered(b.Until))
		if err != nil {
			return err
		}
		batch.Puts = []Put{put}
	}
	return fromBackend(s.backend.Apply(ctx, batch))
}
