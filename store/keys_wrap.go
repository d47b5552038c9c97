package store

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// WrapKeyring has a KEK wrap the keys of a store: those of its key file or, where former is given, those that former wraps, which stay as they are. Brokers that
// share the store may run: those with the former KEK go on with the keys that they have, until they are started with this one. A
// *Refused.
func WrapKeyring(ctx context.Context, backend Backend, file *seal.Keyring, former, kek seal.KEK) error {
	s := &Store{}
	s.options.Log = slog.New(slog.DiscardHandler)
	for {
		w, row, now, err := readKeyring(ctx, backend)
		if err != nil {
			return err
		}
		var k *seal.Keyring
		switch {
		case former == nil && w != nil:
			return refused("the keys are wrapped already, by %s: name it with --former-kek to have another wrap them", w.KEK)
		case former != nil && w == nil:
			return refused("the keys are not wrapped yet: leave out --former-kek, and they are taken from the key file")
		case former != nil:
			s.ring.kek = former
			if k, err = s.unwrap(ctx, w); err == nil {
				err = rowCounts(ctx, backend, k)
			}
			if err == nil {
				k, err = k.Again()
			}
		default:
			k, err = wrappable(ctx, backend, file, now)
		}
		if err != nil {
			return err
		}
		s.ring.kek = kek
		if err := s.putKeyring(ctx, backend, k, row.Revision); !errors.Is(err, broker.ErrConflict) {
			if errors.Is(err, ErrUnconfirmed) {
				return Unavailable("it is done, and too few replicas confirm it (wait_replicas): a failover may undo it")
			}
			return err
		}
	}
}

// rowCounts fails with a *Refused where something says that a keyring in the row is not the one that counts.
func rowCounts(ctx context.Context, backend Backend, k *seal.Keyring) error {
	r, err := readCheck(ctx, backend)
	if err != nil {
		return err
	}
	if r != nil {
		if why := verify(r, k); why != "" {
			return unreadableData("they are " + why)
		}
	}
	all, err := backend.List(ctx, []Group{metaGroup}, kindReader)
	if err == nil {
		err = all[0].Err
	}
	if err != nil {
		return fromBackend(err)
	}
	for _, row := range all[0].Rows {
		var r readerRecord
		if json.Unmarshal(row.Value, &r) == nil && r.Version != "" && !k.Follows(r.Version) {
			return refused("the broker %s has keys that are not in the store: a backup, or a former row, lies below it. It puts that right within ten seconds if its KEK answers: see its log", r.Name)
		}
	}
	return nil
}

// wrappable are the keys of a key file, which have to be those of the store.
func wrappable(ctx context.Context, backend Backend, file *seal.Keyring, now time.Time) (*seal.Keyring, error) {
	r, err := readCheck(ctx, backend)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, refused("this store holds no tokenbroker data: is it the right one? A broker that starts on an empty store with keys.kek draws keys of its own")
	}
	if why := verify(r, file); why != "" {
		return nil, unreadableData("they are " + why)
	}
	return file.Adopted(now)
}
