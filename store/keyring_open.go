package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// readKeyring returns the row and what is in it; nil: there is none.
func readKeyring(ctx context.Context, backend Backend) (*seal.Wrapped, Row, time.Time, error) {
	read, err := backend.Read(ctx, Ask{metaGroup, []Key{keyringKey}})
	if err != nil {
		return nil, Row{}, time.Time{}, fromBackend(err)
	}
	if len(read[0].Rows) == 0 {
		return nil, Row{}, read[0].Now, nil
	}
	row := read[0].Rows[0]
	w, err := seal.ParseWrapped(row.Value)
	if err != nil {
		return nil, row, read[0].Now, &keyringError{unreadableData(err.Error()), err}
	}
	return w, row, read[0].Now, nil
}

// A keyringError is that of a row that is no keyring, and why.
type keyringError struct{ failure, why error }

func (e *keyringError) Error() string   { return e.failure.Error() }
func (e *keyringError) Unwrap() []error { return []error{e.failure, e.why} }

// wrappedData is why a key file is of no use.
func wrappedData(w *seal.Wrapped) error {
	return unreadableData("their keys are wrapped by " + w.KEK + ": set keys.kek to it")
}

// refuseWrapped fails where the keys are wrapped, and this broker has a key file.
func refuseWrapped(ctx context.Context, backend Backend) error {
	w, _, _, err := readKeyring(ctx, backend)
	if err == nil && w != nil {
		err = wrappedData(w)
	}
	return err
}

// openKeyring has the KEK open the keys, and draws them where the store is empty.
func (s *Store) openKeyring(ctx context.Context, backend Backend) error {
	s.ring.mu.Lock()
	defer s.ring.mu.Unlock()
	for {
		w, row, now, err := readKeyring(ctx, backend)
		if err != nil {
			return err
		}
		if w == nil {
			err := s.drawKeyring(ctx, backend, now)
			if errors.Is(err, broker.ErrConflict) {
				continue // somebody was quicker
			}
			if errors.Is(err, ErrUnconfirmed) {
				return Unavailable("the keys are drawn, and too few replicas confirm it (wait_replicas)")
			}
			if err != nil {
				if w, _, _, again := readKeyring(ctx, backend); again == nil && w != nil {
					continue // what was found is of keys that somebody has drawn meanwhile
				}
				return err
			}
			continue
		}
		k, err := s.unwrap(ctx, w)
		if err == nil || errors.Is(err, seal.ErrHistory) {
			var r *Refused
			switch why := rowCounts(ctx, backend, k); {
			case errors.As(why, &r):
				if _, is, _, err := readKeyring(ctx, backend); err == nil && is.Revision != row.Revision {
					continue // it is newer by now
				}
				return Unavailable(r.Why)
			case why != nil:
				return why
			}
		}
		if errors.Is(err, seal.ErrHistory) { // somebody has altered where it says that it comes from: the keys are the store's all the same
			s.tell("the keyring in the store does not say truly where it comes from: its keys go on as a state of their own")
			if k, err = k.Again(); err == nil {
				err = s.putKeyring(ctx, backend, k, row.Revision)
			}
			if err == nil || errors.Is(err, broker.ErrConflict) || errors.Is(err, ErrUnconfirmed) {
				continue
			}
		}
		if err != nil {
			return err
		}
		s.ring.revision, s.ring.value, s.ring.settled = row.Revision, row.Value, true
		s.keyring.Store(k)
		return nil
	}
}

// drawKeyring draws the keys of an empty store. It fails with broker.ErrConflict where somebody else has.
func (s *Store) drawKeyring(ctx context.Context, backend Backend, now time.Time) error {
	const wrap = ": wrap it first, with `tokenbroker keys wrap`"
	r, err := readCheck(ctx, backend)
	if err != nil {
		return err
	}
	if r != nil {
		return unreadableData(fmt.Sprintf("they are sealed with key %s of a key file%s", strings.Join(r.Keys, ", "), wrap))
	}
	page, err := backend.Scan(ctx, credentialKey, Listing{}, 1)
	if err != nil {
		return fromBackend(err)
	}
	if len(page) > 0 {
		return unreadableData("there are credentials, which are sealed with a key file" + wrap)
	}
	if s.options.KeyFile != "" {
		return unreadableData(fmt.Sprintf("there are none yet, and there is a key file %s%s; or move it away, if nothing was sealed with it", s.options.KeyFile, wrap))
	}
	k, err := seal.New()
	if err == nil {
		k, err = k.Adopted(now)
	}
	if err != nil {
		return misused(err.Error())
	}
	return s.putKeyring(ctx, backend, k, Revision{}, Condition{Key: checkKey}) // nor has anybody begun with a key file meanwhile
}

// putKeyring wraps keys, and puts them in the place of the row with this revision. broker.ErrConflict.
func (s *Store) putKeyring(ctx context.Context, backend Backend, k *seal.Keyring, over Revision, more ...Condition) error {
	value, err := k.Wrap(ctx, s.ring.kek)
	if err != nil {
		return fromKEK(err)
	}
	return s.putWrapped(ctx, backend, k, value, over, more...)
}

func (s *Store) putWrapped(ctx context.Context, backend Backend, k *seal.Keyring, value []byte, over Revision, more ...Condition) error {
	err := s.apply(ctx, backend, Batch{
		Group: metaGroup, Conditions: append(more, Condition{keyringKey, over}), Puts: []Put{{Key: keyringKey, Revision: newRevision(), Value: value}}, Keep: true,
	})
	if !errors.Is(err, broker.ErrConflict) {
		s.ring.wrote = k.Version()
	}
	return err
}

// unwrap opens a keyring. Where another KEK is asked than the one that wrapped it, it says so.
func (s *Store) unwrap(ctx context.Context, w *seal.Wrapped) (*seal.Keyring, error) {
	k, err := w.Unwrap(ctx, s.ring.kek)
	if err == nil {
		return k, nil
	}
	if errors.Is(err, seal.ErrHistory) {
		return k, &keyringError{unreadableData(err.Error()), err}
	}
	if uri := s.ring.kek.URI(); w.KEK != uri && !passes(err) {
		return nil, unreadableData(fmt.Sprintf("their keys are wrapped by %s, and keys.kek is %s: %s", w.KEK, uri, err))
	}
	return nil, fromKEK(err)
}

// passes reports whether a failure of a KEK may pass by itself.
func passes(err error) bool {
	var f interface{ Passes() bool }
	return errors.As(err, &f) && f.Passes() || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// fromKEK is a failure of the KEK as one of the store: one that passes by itself is StoreUnavailable.
func fromKEK(err error) error {
	if passes(err) {
		return Unavailable(err.Error())
	}
	return unreadableData(err.Error())
}
