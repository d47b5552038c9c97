package bolt

import (
	"bytes"
	"context"
	"time"

	"go.etcd.io/bbolt"

	"github.com/tokenbroker/tokenbroker/store"
)

// view runs f in a read transaction, unless ctx has ended.
func (d *DB) view(ctx context.Context, f func(tx *bbolt.Tx, now time.Time) error) error {
	if err := store.Ended(ctx); err != nil {
		return err
	}
	return failed(guard(func() error {
		return d.db.View(func(tx *bbolt.Tx) error { return f(tx, d.options.Now()) })
	}))
}

// live reads a row as it is at now. The value is a copy.
func live(key store.Key, value []byte, now time.Time) (store.Row, bool) {
	h, ok := headOf(value)
	if !ok || h.over(now) {
		return store.Row{}, false
	}
	return store.Row{Key: key, Revision: h.revision, Value: bytes.Clone(value[headSize:]), Left: h.left(now)}, true
}

// Read implements store.Backend.
func (d *DB) Read(ctx context.Context, asks ...store.Ask) ([]store.Reading, error) {
	all := make([]store.Reading, len(asks))
	err := d.view(ctx, func(tx *bbolt.Tx, now time.Time) error {
		b := tx.Bucket(rowsBucket)
		for i, ask := range asks {
			all[i].Now = now
			for _, k := range ask.Keys {
				if r, ok := live(k, b.Get(rowKey(ask.Group, k)), now); ok {
					all[i].Rows = append(all[i].Rows, r)
				}
			}
		}
		return nil
	})
	return all, err
}

// each calls f with every row of a kind, those included whose time is over.
func each(rows *bbolt.Bucket, group store.Group, kind store.Kind, f func(key store.Key, value []byte)) {
	prefix := kindPrefix(group, kind)
	c := rows.Cursor()
	for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
		if id := k[len(prefix):]; len(id) == idSize {
			f(store.Key{Kind: kind, ID: [idSize]byte(id)}, v)
		}
	}
}

// List implements store.Backend.
func (d *DB) List(ctx context.Context, groups []store.Group, kinds ...store.Kind) ([]store.Reading, error) {
	all := make([]store.Reading, len(groups))
	err := d.view(ctx, func(tx *bbolt.Tx, now time.Time) error {
		for i, group := range groups {
			all[i].Now = now
			for _, kind := range kinds {
				each(tx.Bucket(rowsBucket), group, kind, func(k store.Key, v []byte) {
					if r, ok := live(k, v, now); ok {
						all[i].Rows = append(all[i].Rows, r)
					}
				})
			}
		}
		return nil
	})
	return all, err
}

// Scan implements store.Backend.
func (d *DB) Scan(ctx context.Context, key store.Key, after store.Listing, limit int) ([]store.Listed, error) {
	var page []store.Listed
	err := d.view(ctx, func(tx *bbolt.Tx, now time.Time) error {
		rows, from := tx.Bucket(rowsBucket), indexKey(after)
		c := tx.Bucket(indexBucket).Cursor()
		k, group := c.Seek(from)
		if bytes.Equal(k, from) {
			k, group = c.Next()
		}
		for ; k != nil && len(page) < limit; k, group = c.Next() {
			l, ok := listing(k)
			if !ok {
				continue
			}
			row, _ := live(key, rows.Get(rowKey(store.Group(group), key)), now)
			page = append(page, store.Listed{Listing: l, Row: row})
		}
		return nil
	})
	return page, err
}
