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

// reading makes the first number of what a script answered the time.
func reading(out []any) store.Reading {
	if len(out) == 0 {
		return store.Reading{}
	}
	ms, _ := out[0].(int64)
	return store.Reading{Now: time.UnixMilli(ms)}
}

// Read implements store.Backend: one pipeline. In a Cluster it goes to the masters that have the groups at the same time.
func (db *DB) Read(ctx context.Context, asks ...store.Ask) ([]store.Reading, error) {
	all := make([]store.Reading, len(asks))
	err := db.do(ctx, db.Shard(asks[0].Group), func(ctx context.Context, _ time.Duration) error {
		cmds := db.readAll(ctx, asks, readScript.EvalSha)
		if slices.ContainsFunc(cmds, func(c *redis.Cmd) bool { return redis.HasErrorPrefix(c.Err(), "NOSCRIPT") }) {
			cmds = db.readAll(ctx, asks, readScript.Eval)
		}
		for i, cmd := range cmds {
			out, err := cmd.Slice()
			if err != nil {
				all[i] = store.Reading{Err: err}
				continue
			}
			all[i] = reading(out)
			for j, k := range asks[i].Keys {
				if 2*j+2 < len(out) {
					if r, ok := row(k, out[2*j+1], out[2*j+2]); ok {
						all[i].Rows = append(all[i].Rows, r)
					}
				}
			}
		}
		return all[0].Err
	})
	for i := range all {
		all[i].Err = failed(ctx, all[i].Err)
	}
	return all, err
}

// readAll sends one pipeline. Each command has its own error.
func (db *DB) readAll(ctx context.Context, asks []store.Ask, script func(context.Context, redis.Scripter, []string, ...any) *redis.Cmd) []*redis.Cmd {
	cmds := make([]*redis.Cmd, len(asks))
	p := db.client.Pipeline()
	for i, ask := range asks {
		names := make([]string, len(ask.Keys))
		for j, k := range ask.Keys {
			names[j] = db.keys.row(ask.Group, k)
		}
		cmds[i] = script(ctx, p, names)
	}
	_, _ = p.Exec(ctx)
	return cmds
}

// List implements store.Backend.
func (db *DB) List(ctx context.Context, group store.Group, kinds ...store.Kind) (all store.Reading, err error) {
	wanted := make([]any, len(kinds))
	for i, k := range kinds {
		wanted[i] = string(k)
	}
	err = db.do(ctx, db.Shard(group), func(ctx context.Context, _ time.Duration) error {
		out, err := listScript.Run(ctx, db.client, []string{db.keys.rows(group)}, wanted...).Slice()
		if err != nil {
			return err
		}
		all = reading(out)
		for i := 1; i+2 < len(out); i += 3 {
			name, _ := out[i].(string)
			if key, ok := parseMember(name); ok {
				if r, ok := row(key, out[i+1], out[i+2]); ok {
					all.Rows = append(all.Rows, r)
				}
			}
		}
		return nil
	})
	slices.SortFunc(all.Rows, func(a, b store.Row) int {
		return cmp.Or(cmp.Compare(slices.Index(kinds, a.Key.Kind), slices.Index(kinds, b.Key.Kind)), bytes.Compare(a.Key.ID[:], b.Key.ID[:]))
	})
	return all, err
}

// mostAtOnce bounds a pipeline: its answers are held in memory by Redis until all are written.
const mostAtOnce = 1000

// Revisions implements store.Shared. In a Cluster, a part may be away.
func (db *DB) Revisions(ctx context.Context, places []store.Place) ([]store.Revision, []bool, error) {
	out, known := make([]store.Revision, len(places)), make([]bool, len(places))
	for from := 0; from < len(places); from += mostAtOnce {
		part := places[from:min(from+mostAtOnce, len(places))]
		err := db.do(ctx, many, func(ctx context.Context, _ time.Duration) (err error) {
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
