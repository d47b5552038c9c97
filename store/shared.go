package store

import (
	"context"
	"sync"

	"github.com/tokenbroker/tokenbroker/broker"
)

// The notes that brokers give each other.
const (
	// noteNews: an exchange has ended, well or not. What was read before is still true, but there may be something better.
	noteNews Note = 'n'
	// noteMoved: tokens were dropped, or the credential has changed.
	noteMoved Note = 'm'
)

// Unchanged implements broker.Tokens.
func (s *Store) Unchanged(ctx context.Context, marks []broker.Mark) ([]broker.Verdict, error) {
	out := make([]broker.Verdict, len(marks))
	if s.shared == nil {
		return out, misused("the store is not shared")
	}
	places := make([]Place, 0, 2*len(marks))
	for _, m := range marks {
		group := s.credentialGroup(m.Credential)
		places = append(places, Place{group, credentialKey}, Place{group, Key{kindToken, m.Token}})
	}
	there, known, err := s.shared.Revisions(ctx, places)
	if err != nil {
		return out, fromBackend(err)
	}
	for i, m := range marks {
		switch {
		case !known[2*i] || !known[2*i+1]:
		case !m.CredentialRevision.IsZero() && there[2*i] == Revision(m.CredentialRevision) && there[2*i+1] == Revision(m.TokenRevision):
			out[i] = broker.Same
		default:
			out[i] = broker.Changed
		}
	}
	return out, nil
}

// Watch implements broker.Tokens. Meanwhile it looks after what is kept, and after the keys.
func (s *Store) Watch(ctx context.Context, f func(broker.Notice)) {
	if s.shared == nil {
		<-ctx.Done()
		return
	}
	var tending sync.WaitGroup
	defer tending.Wait()
	tending.Go(func() { s.tendUntil(ctx) })
	tending.Go(func() { s.FollowKeys(ctx) })
	s.shared.shared.Watch(ctx, func(h Happened) {
		if h.Group == "" {
			f(broker.Notice{})
			return
		}
		s.backend.heard(h.Group)
		if name, ok := s.names.Load(h.Group); ok {
			f(broker.Notice{Credential: name.(broker.CredentialName), Moved: h.Note == noteMoved})
		}
	})
}
