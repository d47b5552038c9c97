package store

import (
	"context"
	"errors"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// statusKinds are what a status is made of.
var statusKinds = []Kind{kindHealth, kindHistory, kindGrant, kindToken}

// Statuses implements broker.Credentials. A credential's own grant comes first.
func (s *Store) Statuses(ctx context.Context, names []broker.CredentialName) ([]broker.Status, error) {
	all := make([]broker.Status, len(names))
	err := s.listAll(ctx, names, func(i int, n *snapshot, err error) {
		if err == nil {
			all[i], err = n.status()
		}
		all[i].Err = err
	}, statusKinds...)
	if err != nil {
		return nil, err
	}
	return all, nil
}

func (n *snapshot) status() (broker.Status, error) {
	none := broker.Status{}
	st := broker.Status{Credential: n.credential}
	for _, key := range n.order {
		if key.Kind != kindGrant {
			continue
		}
		var g grantRecord
		if _, err := n.open(key, &g); err != nil {
			return none, err
		}
		st.Grants = append(st.Grants, n.grant(g))
	}
	tokens, err := n.tokens()
	if err != nil {
		return none, err
	}
	for _, t := range tokens {
		st.Tokens = append(st.Tokens, *t.issued)
	}
	var h healthRecord
	if _, err := n.open(healthKey, &h); err != nil {
		return none, err
	}
	st.Failure = n.recall(h.failure(n.credential.Version, h.Digest)) // of whichever definition was tried last
	st.FormerWorked = !h.FormerWorked.IsZero() && h.FormerWorked.id() == n.credential.Version
	var history historyRecord
	if err := n.spare(historyKey, &history); err != nil {
		return none, err
	}
	st.LastSuccess, st.Attempts = history.LastSuccess.time(), history.attempts()
	return st, nil
}

// backoff is what a reading says of an upstream. How long it is to be left alone is what the row has left, whose time counts by
// the backend's clock.
func (s *Store) backoff(upstream string, read Reading, asked broker.Instant) (b broker.Backoff, unknown bool) {
	if read.Err != nil || len(read.Rows) == 0 {
		return broker.Backoff{}, read.Err != nil
	}
	var r backoffRecord
	row := read.Rows[0]
	if err := s.open(binding{key: backoffKey, subject: upstream}, row, &r); err != nil {
		// It is in no index, so that nobody has sealed it anew before its key was retired.
		gone := errors.Is(err, broker.RecordUnreadable) && seal.SealedWith(row.Value) != "" && !s.keys().Opens(seal.SealedWith(row.Value))
		return broker.Backoff{}, !gone
	}
	b = broker.Backoff{Failures: r.Failures, Until: r.Until.time(), Last: r.Last.remembered()}
	if s.ahead(b.Last.At, asked) {
		return broker.Backoff{}, false
	}
	if row.Left > 0 {
		b.Until = s.over(b.Until, asked.Wall.Add(row.Left-memory))
		b.Last.RetryAt = b.Until
	}
	return b, false
}

// SaveBackoff implements broker.Tokens. It is advisory: the last one to save wins.
func (s *Store) SaveBackoff(ctx context.Context, upstream string, b broker.Backoff) error {
	batch := Batch{Group: s.upstreamGroup(upstream)}
	if b == (broker.Backoff{}) {
		batch.Deletes = []Key{backoffKey}
	} else {
		put, err := s.seal(binding{key: backoffKey, subject: upstream}, backoffRecord{b.Failures, at(b.Until), fromRemembered(b.Last)})
		if err != nil {
			return err
		}
		put.TTL = s.forgotten(b.Until).Sub(s.wall())
		batch.Puts = []Put{put}
	}
	return fromBackend(s.backend.Apply(ctx, batch))
}
