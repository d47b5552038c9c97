package daemon

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/bolt"
	"github.com/tokenbroker/tokenbroker/store/redis"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// beginAgain is how long after a Redis could not be asked at the start it is asked again.
const beginAgain = time.Second

// beginMost bounds one such try, and kekMost what asking a KEK adds to it.
const (
	beginMost = 10 * time.Second
	kekMost   = 20 * time.Second
)

// openBackend opens where the data are. An embedded store is this broker's alone from then on; a Redis need not be there yet.
func (r *Running) openBackend() (db store.Backend, err error) {
	if r.settings.IsEmbedded() {
		if r.db, err = bolt.Open(filepath.Join(r.settings.DataDir, settings.DataFile), bolt.Options{}); err != nil {
			return nil, err
		}
		r.cleanup = append(r.cleanup, func() { _ = r.db.Close() })
		r.disk = &disk{DB: r.db, log: r.log}
		return r.disk, nil
	}
	o, err := r.settings.RedisOptions()
	if err != nil {
		return nil, console.WrongInput(err)
	}
	shared, err := redis.Open(o)
	if err != nil {
		return nil, err
	}
	r.redis = shared
	r.cleanup = append(r.cleanup, func() { _ = shared.Close() })
	return shared, nil
}

// openStore opens the store with its key, which is made at the first start; or with keys that a KEK wraps, which are opened when it is begun.
func (r *Running) openStore(ctx context.Context, db store.Backend, metrics *server.Metrics) (*store.Store, error) {
	key := r.settings.KeyPath()
	_, missing := os.Stat(key)
	absent := errors.Is(missing, fs.ErrNotExist)
	r.firstRun = absent && !r.settings.Wrapped()
	o := store.Options{Log: r.log}
	if r.settings.Wrapped() {
		k, err := r.settings.KEK()
		if err != nil {
			return nil, console.WrongInput(err)
		}
		o.KEK, o.KeysStale, o.Later = k, metrics.KeysStale, true
		o.Name, _ = os.Hostname() // for people
		if !absent {
			o.KeyFile = key
		}
	}
	if !r.settings.IsEmbedded() {
		return r.openShared(ctx, db, metrics, key, o)
	}
	r.disk.tell = func(full bool) {
		metrics.StoreAway(full)
		if r.server != nil { // else it is just starting
			r.server.SetChanging(!full)
		}
	}
	if o.KEK != nil {
		return store.New(db, nil, o)
	}
	keys, err := store.LoadKeyring(ctx, db, key)
	if err != nil {
		return nil, err
	}
	return store.New(db, keys, o)
}

// sharedKeys are the keys of the key file; nil: a KEK wraps them.
func (r *Running) sharedKeys(ctx context.Context, db store.Backend, key string) (*seal.Keyring, error) {
	if r.settings.Wrapped() {
		return nil, nil //nolint:nilnil // they are in the store
	}
	bounded, cancel := context.WithTimeout(ctx, beginAgain)
	defer cancel()
	keys, err := store.LoadKeyring(bounded, db, key)
	if errors.Is(err, broker.StoreUnavailable) && r.firstRun {
		// Whether this key is the right one is found out when Redis can be asked.
		keys, err = seal.Create(key)
		if errors.Is(err, fs.ErrExist) { // another broker was quicker
			keys, err = seal.Load(key)
		}
		r.madeKey = err == nil
	}
	return keys, err
}

func (r *Running) openShared(ctx context.Context, db store.Backend, metrics *server.Metrics, key string, o store.Options) (*store.Store, error) {
	keys, err := r.sharedKeys(ctx, db, key)
	if err != nil {
		return nil, err
	}
	a, err := redis.ParseAddress(r.settings.Store)
	if err != nil {
		return nil, console.WrongInput(err)
	}
	log := r.log.With("store", a.String()) // without user and password
	follows := &outage{log: log, grace: r.settings.CacheBound + max(r.settings.OutageGrace, 0)}
	if !a.Cluster { // of a Cluster the rest may be there
		follows.serving = func(serving bool) { r.server.SetServing(serving) }
	}
	o.Later, o.Unconfirmed, o.Log = true, metrics.Unconfirmed, log
	o.Away = func(away bool) {
		metrics.StoreAway(away)
		follows.away(away)
	}
	return store.New(db, keys, o)
}

// where is the store for people, without user and password.
func (r *Running) where() string {
	if r.settings.IsEmbedded() {
		return "embedded"
	}
	address, _ := redis.ParseAddress(r.settings.Store) // it was parsed when the store was opened
	return address.String()
}

// tellAgain is how often it is said that the store cannot be asked since the start.
const tellAgain = time.Minute

// begin makes the store usable, and reports whether it is: a store that cannot be asked yet may be later. One that must not be
// used fails it.
func (r *Running) begin(ctx context.Context, st *store.Store) (ready bool, err error) {
	most := beginMost
	if r.settings.Wrapped() {
		most += kekMost
	}
	bounded, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	warnings, err := st.Begin(bounded)
	for _, w := range warnings {
		r.log.Warn(w)
	}
	switch {
	case err == nil:
		r.metrics.StoreAway(false)
		r.warnSuspended(bounded, st)
		return true, nil
	case errors.Is(err, broker.StoreUnavailable):
		r.metrics.StoreAway(true)
		if why := err.Error(); why != r.notReady || time.Since(r.toldAt) >= tellAgain {
			r.log.Warn("the store cannot be asked yet: trying again until it can", "store", r.where(), "error", why)
			r.notReady, r.toldAt = why, time.Now()
		}
		return false, nil
	}
	return false, r.unfit(err)
}

// warnSuspended warns that refreshing is suspended, if it is.
func (r *Running) warnSuspended(ctx context.Context, st *store.Store) {
	since, err := st.Suspended(ctx)
	if err != nil {
		r.log.Warn("whether refreshing is suspended cannot be found out", "error", err.Error())
	} else if !since.IsZero() {
		r.log.Warn("refreshing is suspended since this store was exported: no refresh token is presented, until `tokenbroker store export --resume` undoes it",
			"since", since.Format(time.RFC3339))
	}
}

// beginLater tries until the store can be used. Until then health says NOT_SERVING. A store that must not be used ends the
// broker.
func (r *Running) beginLater(ctx context.Context, st *store.Store) {
	for {
		select {
		case <-time.After(beginAgain):
		case <-ctx.Done():
			return
		}
		switch ready, err := r.begin(ctx, st); {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.failed <- err
			return
		case ready:
			r.log.Info("the store can be asked now")
			r.server.SetServing(true)
			return
		}
	}
}

// unfit passes the failure on. A key that was made for a store which turns out to be sealed with another is of no use.
func (r *Running) unfit(err error) error {
	if r.madeKey && errors.Is(err, broker.RecordUnreadable) {
		_ = os.Remove(r.settings.KeyPath())
	}
	return err
}
