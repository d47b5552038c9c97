package redis

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tokenbroker/tokenbroker/store"
)

const revisionSize = len(store.Revision{})

// row makes a row of what a script answered; false: there is none, or it is none of ours.
func row(key store.Key, value, left any) (store.Row, bool) {
	text, ok := value.(string)
	ms, timed := left.(int64)
	if !ok || !timed || len(text) < revisionSize {
		return store.Row{}, false
	}
	r := store.Row{Key: key, Revision: store.Revision([]byte(text[:revisionSize])), Value: []byte(text[revisionSize:])}
	if ms > 0 {
		r.Left = time.Duration(ms) * time.Millisecond
	}
	return r, true
}

// Read implements store.Backend.
func (db *DB) Read(ctx context.Context, group store.Group, keys ...store.Key) ([]store.Row, error) {
	names := make([]string, len(keys))
	for i, k := range keys {
		names[i] = db.keys.row(group, k)
	}
	var rows []store.Row
	err := db.do(ctx, func(ctx context.Context, _ time.Duration) error {
		rows = rows[:0]
		out, err := readScript.Run(ctx, db.client, names).Slice()
		if err != nil {
			return err
		}
		for i, k := range keys {
			if 2*i+1 < len(out) {
				if r, ok := row(k, out[2*i], out[2*i+1]); ok {
					rows = append(rows, r)
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return rows, nil
}

// List implements store.Backend.
func (db *DB) List(ctx context.Context, group store.Group, kinds ...store.Kind) ([]store.Row, error) {
	wanted := make([]any, len(kinds))
	for i, k := range kinds {
		wanted[i] = string(k)
	}
	var rows []store.Row
	err := db.do(ctx, func(ctx context.Context, _ time.Duration) error {
		rows = rows[:0]
		out, err := listScript.Run(ctx, db.client, []string{db.keys.rows(group)}, wanted...).Slice()
		if err != nil {
			return err
		}
		for i := 0; i+2 < len(out); i += 3 {
			name, _ := out[i].(string)
			if key, ok := parseMember(name); ok {
				if r, ok := row(key, out[i+1], out[i+2]); ok {
					rows = append(rows, r)
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(rows, func(a, b store.Row) int {
		return cmp.Or(cmp.Compare(slices.Index(kinds, a.Key.Kind), slices.Index(kinds, b.Key.Kind)), bytes.Compare(a.Key.ID[:], b.Key.ID[:]))
	})
	return rows, nil
}

// Count implements store.Backend.
func (db *DB) Count(ctx context.Context, group store.Group, kind store.Kind) (n int, err error) {
	err = db.do(ctx, func(ctx context.Context, _ time.Duration) error {
		n, err = countScript.Run(ctx, db.client, []string{db.keys.rows(group)}, string(kind)).Int()
		return err
	})
	return n, err
}

// mostAtOnce bounds a pipeline: its answers are held in memory by Redis until all are written.
const mostAtOnce = 1000

// Revisions implements store.Shared. In a Cluster, a part may be away.
func (db *DB) Revisions(ctx context.Context, places []store.Place) ([]store.Revision, []bool, error) {
	out, known := make([]store.Revision, len(places)), make([]bool, len(places))
	for from := 0; from < len(places); from += mostAtOnce {
		part := places[from:min(from+mostAtOnce, len(places))]
		err := db.do(ctx, func(ctx context.Context, _ time.Duration) (err error) {
			asked := make([]*redis.StringCmd, len(part))
			p := db.client.Pipeline()
			for i, place := range part {
				asked[i] = p.GetRange(ctx, db.keys.row(place.Group, place.Key), 0, int64(revisionSize)-1)
			}
			_, _ = p.Exec(ctx) // each command has its own error
			answered := 0
			for i, a := range asked {
				known[from+i] = a.Err() == nil
				if known[from+i] {
					copy(out[from+i][:], a.Val())
					answered++
				} else {
					err = a.Err()
				}
			}
			if answered > 0 {
				if err != nil {
					db.troubled.Store(true)
				}
				return nil
			}
			return err
		})
		if err != nil {
			return nil, nil, err
		}
	}
	return out, known, nil
}
