package store

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/tokenbroker/tokenbroker/broker"
)

// The notes that brokers give each other.
const (
	// noteNews: an exchange has ended, well or not. What was read before is still true, but there may be something better.
	noteNews Note = 'n'
	// noteMoved: tokens were dropped, or the credential has changed.
	noteMoved Note = 'm'
)

// mark: see broker.Mark.
func mark(key broker.TokenKey, credential, token Revision) broker.Mark {
	return broker.Mark{Credential: key.Credential, Token: key.Token, Revisions: [2][16]byte{credential, token}}
}

// mark is of the token that a batch puts; zero if it puts none.
func (b *changing) mark(key broker.TokenKey) broker.Mark {
	credential := b.revision(credentialKey)
	var token Revision
	for _, p := range b.batch.Puts {
		switch p.Key {
		case credentialKey:
			credential = p.Revision
		case tokenKey(key):
			token = p.Revision
		}
	}
	if token == (Revision{}) {
		return broker.Mark{}
	}
	return mark(key, credential, token)
}

// Unchanged implements broker.Store.
func (s *Store) Unchanged(ctx context.Context, marks []broker.Mark) ([]broker.Verdict, error) {
	out := make([]broker.Verdict, len(marks))
	if s.shared == nil {
		return out, misused("the store is not shared")
	}
	if !s.ready.Load() {
		return out, errNotReady
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
		case m.Revisions[1] != (Revision{}) && there[2*i] == m.Revisions[0] && there[2*i+1] == m.Revisions[1]:
			out[i] = broker.Same
		default:
			out[i] = broker.Changed
		}
	}
	return out, nil
}

// Watch implements broker.Store. It also puts commits back that a failover has undone.
func (s *Store) Watch(ctx context.Context, f func(broker.Notice)) {
	if s.shared == nil {
		<-ctx.Done()
		return
	}
	returned := make(chan struct{}, 1)
	var working sync.WaitGroup
	defer working.Wait()
	working.Go(func() {
		for {
			select {
			case <-returned:
				s.putBack(ctx)
			case <-ctx.Done():
				return
			}
		}
	})
	s.shared.Watch(ctx, func(h Happened) {
		switch {
		case h.Returned:
			select {
			case returned <- struct{}{}:
			default: // it has not begun yet
			}
			f(broker.Notice{})
		case h.Missed:
			f(broker.Notice{})
		default:
			if name, ok := s.names.Load(h.Group); ok {
				f(broker.Notice{Credential: name.(broker.CredentialName), Moved: h.Note == noteMoved})
			}
		}
	})
}

var errNotReady = Unavailable("the broker has not been able to look at it since it started")

// unready is a backend that nothing is asked of before the store is ready.
type unready struct {
	Backend
	ready *atomic.Bool
}

func (u *unready) check() error {
	if u.ready.Load() {
		return nil
	}
	return errNotReady
}

func (u *unready) Read(ctx context.Context, group Group, keys ...Key) ([]Row, error) {
	if err := u.check(); err != nil {
		return nil, err
	}
	return u.Backend.Read(ctx, group, keys...)
}

func (u *unready) List(ctx context.Context, group Group, kinds ...Kind) ([]Row, error) {
	if err := u.check(); err != nil {
		return nil, err
	}
	return u.Backend.List(ctx, group, kinds...)
}

func (u *unready) Count(ctx context.Context, group Group, kind Kind) (int, error) {
	if err := u.check(); err != nil {
		return 0, err
	}
	return u.Backend.Count(ctx, group, kind)
}

func (u *unready) Apply(ctx context.Context, b Batch) error {
	if err := u.check(); err != nil {
		return err
	}
	return u.Backend.Apply(ctx, b)
}

func (u *unready) Scan(ctx context.Context, key Key, after Listing, limit int) ([]Listed, error) {
	if err := u.check(); err != nil {
		return nil, err
	}
	return u.Backend.Scan(ctx, key, after, limit)
}
