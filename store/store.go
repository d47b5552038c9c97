package store

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// Store implements broker.Store above a Backend. It is made by New. Safe for concurrent use.
type Store struct {
	backend *reach
	// keyring is replaced whole, where the keys are wrapped; nil: they are not there yet.
	keyring atomic.Pointer[seal.Keyring]
	ring    ring
	options Options
	clock   *broker.Clock
	// opened is when the Store was made: what is written before by a clock that was ahead is told by it.
	opened broker.Instant
	// shared is the backend, if others change it too; nil: they do not.
	shared *reach
	// names are the credentials that were read, by their groups: who hears that a group has changed has only its hash. One that is not there any more goes when that is seen.
	names sync.Map
	kept  kept
}

var _ broker.Store = (*Store)(nil)

// Options change how a Store works. The zero value is right for all but tests.
type Options struct {
	// MaxTokens is how many live tokens, grants and failures of single keys a credential may have, the last of each; 0: 1,000.
	MaxTokens int
	// RewrapSettles is how long after a rewrap no key is retired; 0: 30 s; negative: it may be at once.
	RewrapSettles time.Duration
	// Clock is the process's; nil: the machine's.
	Clock *broker.Clock
	// KEK wraps the keys, which are in the backend then; nil: they are in a key file.
	KEK seal.KEK
	// KeyFile is a key file that is there although there is a KEK: it has to be wrapped first. Empty: there is none.
	KeyFile string
	// Name is how people find this broker among those that hold the keys.
	Name string
	// KeysStale is called when the keys in the backend are others than those that this process can have, and when that is over; nil: nobody listens.
	KeysStale func(stale bool)
	// Later: New does not ask the backend anything, and every call fails with StoreUnavailable until Begin has succeeded.
	Later bool
	// Unconfirmed is called for each change that too few replicas have confirmed; nil: nobody counts.
	Unconfirmed func()
	// Away is called when a part of a Shared backend has not answered for a while, and when all of it answers again; nil: nobody
	// listens.
	Away func(away bool)
	// Log gets outages of a Shared backend, and what had to be put in place again after them; nil: discarded.
	Log *slog.Logger
}

const (
	defaultMaxTokens = 1000
	startTimeout     = 10 * time.Second
	// maxTTL keeps a backend's sums from overflowing. What lives longer is looked at again before.
	maxTTL = 10 * 365 * 24 * time.Hour
	// memory is how long a failure or backoff is kept beyond the time at which it may be tried again.
	memory = 24 * time.Hour
	// retryFirst and retryMost bound the pause after a conflict.
	retryFirst = time.Millisecond
	retryMost  = 64 * time.Millisecond
)

// New returns a Store whose records are sealed with keyring; nil: with the keys that are in backend, which options.KEK opens when it is begun. It fails with RecordUnreadable if what backend holds was sealed
// with other keys, or written by a newer tokenbroker; that error names the keys. On an Exclusive backend it releases the
// leases of former processes; the markers of their grants stay, because what they were presenting may be spent. The
// caller closes backend, after the last use of the Store.
func New(backend Backend, keyring *seal.Keyring, options Options) (*Store, error) {
	if options.MaxTokens <= 0 {
		options.MaxTokens = defaultMaxTokens
	}
	if options.Clock == nil {
		options.Clock = broker.NewClock(nil)
	}
	if options.Log == nil {
		options.Log = slog.New(slog.DiscardHandler)
	}
	if (keyring == nil) != (options.KEK != nil) {
		return nil, misused("a store with either no keys, or two kinds of them")
	}
	s := &Store{options: options, clock: options.Clock, opened: options.Clock.Now()}
	s.keyring.Store(keyring)
	s.ring.kek, s.ring.instance = options.KEK, broker.NewID()
	s.ring.learned, s.ring.tried = broker.Never, broker.Never
	s.ring.until.Store(int64(broker.Never))
	s.ring.look = make(chan struct{}, 1)
	s.backend = newReach(backend, s.clock, options)
	if _, ok := backend.(Shared); ok {
		s.shared = s.backend
	}
	if options.Later {
		return s, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	if _, err := s.Begin(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Begin finds out whether the backend can be used: whether it is fit, and what it holds was sealed with these keys. It has the KEK open them, where there is
// one. It fails with StoreUnavailable while the backend or the KEK cannot be asked: try again then. Any other failure stays until somebody mends it.
// warnings are for the operator.
func (s *Store) Begin(ctx context.Context) (warnings []string, err error) {
	if s.backend.ready.Load() {
		return nil, nil
	}
	if s.shared != nil {
		if warnings, err = s.shared.shared.Check(ctx); err != nil {
			return warnings, err
		}
	}
	backend := s.backend.Backend
	if s.ring.kek == nil {
		s.noRow(s.clock.Now().At)
		err = refuseWrapped(ctx, backend)
	} else {
		err = s.openKeyring(ctx, backend)
	}
	if err != nil {
		return warnings, err
	}
	if err := s.checkKeys(ctx, backend); err != nil {
		return warnings, err
	}
	if s.ring.kek != nil && s.shared != nil {
		if err := s.confirm(ctx, backend); err != nil {
			return warnings, err
		}
	}
	if e, ok := backend.(Exclusive); ok {
		for _, kind := range []Kind{kindGrantLease, kindKeyLease} {
			if _, err := e.ClearAll(ctx, kind); err != nil {
				return warnings, fmt.Errorf("release the leases of former processes: %w", fromBackend(err))
			}
		}
	}
	s.backend.ready.Store(true)
	return warnings, nil
}

// Shared implements broker.Store.
func (s *Store) Shared() bool { return s.shared != nil }

// Fingerprint implements broker.Store. Purposes that begin with "store:" are its own. Before Ready says that it can be asked there are no keys, and it panics.
func (s *Store) Fingerprint(purpose string, parts ...string) [32]byte {
	k := s.keys()
	if k == nil || s.Ready() != nil {
		panic("store: a fingerprint before there are keys") // a bug of the caller's: it would be another one later
	}
	return k.Fingerprint(purpose, parts...)
}

// change decides and applies until no condition fails. decide reads, and returns the batch; nil: there is nothing to do.
// It is bounded by ctx, and goes on as long as that does: each conflict means that somebody else got on. A change that too few
// replicas have confirmed is made, and counted.
func (s *Store) change(ctx context.Context, decide func() (*Batch, error)) error {
	err := s.changeKept(ctx, s.backend, decide)
	if errors.Is(err, ErrUnconfirmed) {
		return nil
	}
	return err
}

// rows reads rows of one group.
func (s *Store) rows(ctx context.Context, group Group, keys ...Key) ([]Row, error) {
	all, err := s.backend.Read(ctx, Ask{group, keys})
	if err != nil {
		return nil, fromBackend(err)
	}
	return all[0].Rows, nil
}

// changeKept is change for who has to know that too few replicas have confirmed it: it fails with ErrUnconfirmed.
func (s *Store) changeKept(ctx context.Context, backend Backend, decide func() (*Batch, error)) error {
	for pause := retryFirst; ; pause = min(2*pause, retryMost) {
		batch, err := decide()
		if err != nil || batch == nil {
			return err
		}
		err = s.apply(ctx, backend, *batch)
		if !errors.Is(err, broker.ErrConflict) {
			return err
		}
		timer := time.NewTimer(mathrand.N(pause)) //nolint:gosec // only keeps contenders apart
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return Ended(ctx)
		}
	}
}

// apply makes a batch, and counts what is made and not confirmed.
func (s *Store) apply(ctx context.Context, backend Backend, b Batch) error {
	err := fromBackend(backend.Apply(ctx, b))
	if errors.Is(err, ErrUnconfirmed) && s.options.Unconfirmed != nil {
		s.options.Unconfirmed()
	}
	return err
}

// seal gives the put of a record, which lives for ever.
func (s *Store) seal(p binding, record any) (Put, error) { return s.sealBy(nil, p, record) }

// sealBy is seal with these keys; nil: with those that count now.
func (s *Store) sealBy(k *seal.Keyring, p binding, record any) (Put, error) {
	plain, err := encode(record)
	if err != nil {
		return Put{}, misused(err.Error())
	}
	return s.sealed(k, p, plain)
}

// sealed is sealBy of a record's plaintext.
func (s *Store) sealed(k *seal.Keyring, p binding, plain []byte) (Put, error) {
	if k == nil {
		var err error
		if k, err = s.sealing(); err != nil {
			return Put{}, err
		}
	}
	sealed, err := k.Seal(plain, p.associated())
	if err != nil {
		return Put{}, misused(err.Error())
	}
	return Put{Key: p.key, Revision: newRevision(), Value: sealed}, nil
}

// open is the inverse of seal. RecordUnreadable.
func (s *Store) open(p binding, row Row, record any) error {
	plain, err := s.unseal(p, row)
	if err != nil {
		return err
	}
	if err := decode(plain, record); err != nil {
		return s.unreadable(p, err)
	}
	return nil
}

// unseal gives the plaintext of a record. What is sealed with a key that this process does not have, another broker may have added. RecordUnreadable.
func (s *Store) unseal(p binding, row Row) ([]byte, error) {
	k := s.keys()
	if k == nil {
		return nil, errNotReady
	}
	plain, err := k.Open(row.Value, p.associated())
	var o *seal.OpenError
	if errors.As(err, &o) && o.KeyID != "" && !o.Held {
		if why := s.learn(o.KeyID); why != nil {
			return nil, why
		}
		plain, err = s.keys().Open(row.Value, p.associated())
	}
	if err != nil {
		return nil, s.unreadable(p, err)
	}
	return plain, nil
}

func newRevision() (r Revision) {
	_, _ = rand.Read(r[:]) // never fails (crypto/rand)
	return r
}

// wall is the time of day.
func (s *Store) wall() time.Time { return s.clock.Now().Wall }
