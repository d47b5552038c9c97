package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tokenbroker/tokenbroker/store"
)

// Scan implements store.Backend.
func (db *DB) Scan(ctx context.Context, key store.Key, after store.Listing, limit int) ([]store.Listed, error) {
	if limit <= 0 {
		return nil, nil
	}
	entries, err := db.entries(ctx, afterEntry(after), limit)
	if err != nil {
		return nil, err
	}
	page := make([]store.Listed, 0, len(entries))
	for part := range slices.Chunk(entries, mostAtOnce) {
		var some []store.Listed
		err := db.do(ctx, many, func(ctx context.Context, _ time.Duration) error {
			some = some[:0]
			asked := make([]*redis.StringCmd, 0, len(part))
			p := db.client.Pipeline()
			for _, e := range part {
				l, g, ok := parseEntry(e)
				if !ok {
					continue
				}
				some = append(some, store.Listed{Listing: l})
				asked = append(asked, p.Get(ctx, db.keys.row(g, key)))
			}
			if len(asked) == 0 {
				return nil
			}
			_, _ = p.Exec(ctx) // each command has its own error
			for i, a := range asked {
				if err := a.Err(); err != nil && !errors.Is(err, redis.Nil) {
					return err
				}
				some[i].Row, _ = row(key, a.Val(), int64(-1))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		page = append(page, some...)
	}
	return page, nil
}

func (db *DB) entries(ctx context.Context, from string, limit int) (out []string, err error) {
	err = db.do(ctx, many, func(ctx context.Context, _ time.Duration) error {
		out, err = db.client.ZRangeByLex(ctx, db.keys.index(), &redis.ZRangeBy{Min: from, Max: "+", Count: int64(limit)}).Result()
		return err
	})
	return out, err
}

// sweepUntilStopped removes entries of the index that no credential has, in one of all brokers.
func (db *DB) sweepUntilStopped() {
	for {
		select {
		case <-db.stopping.Done():
			return
		case <-time.After(sweepEvery + rand.N(sweepEvery/8)): //nolint:gosec // only keeps brokers apart
		}
		mine, err := db.client.SetNX(db.stopping, db.keys.sweep(), db.who, sweepEvery-time.Minute).Result()
		if err == nil && mine {
			_, _ = db.Relist(db.stopping)
			_ = db.sweep(db.stopping, time.Now()) // what they did not get done is done by the next
		}
	}
}

// sweep notes the entries that no credential has, and removes those that were noted an hour ago and that none has still: a
// credential's entry is added before the credential is. It does what it can, and fails afterwards where some could not be looked at.
func (db *DB) sweep(ctx context.Context, now time.Time) error {
	var unknown error
	for from := "-"; ; {
		entries, err := db.entries(ctx, from, mostAtOnce)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			break
		}
		from = "(" + entries[len(entries)-1]
		all := db.judged(ctx, entries)
		if err := db.noteListed(ctx, all); err != nil {
			unknown = cmp.Or(unknown, err)
		}
		var noted []redis.Z
		for _, e := range all {
			unknown = cmp.Or(unknown, e.err)
			if e.err == nil && !e.held() {
				noted = append(noted, redis.Z{Score: float64(now.UnixMilli()), Member: e.entry})
			}
		}
		if len(noted) > 0 {
			if err := db.client.ZAddNX(ctx, db.keys.orphans(), noted...).Err(); err != nil {
				return failed(ctx, err)
			}
		}
	}
	ripe, err := db.client.ZRangeByScore(ctx, db.keys.orphans(), &redis.ZRangeBy{
		Min: "-inf", Max: strconv.FormatInt(now.Add(-sweepEvery).UnixMilli(), 10), Count: 10 * mostAtOnce,
	}).Result()
	if err != nil {
		return failed(ctx, err)
	}
	var orphans, done []any
	for _, e := range db.judged(ctx, ripe) {
		unknown = cmp.Or(unknown, e.err)
		if e.err == nil && !e.held() {
			orphans = append(orphans, e.entry)
		}
		if e.err == nil {
			done = append(done, e.entry)
		}
	}
	for _, gone := range []struct {
		key     string
		entries []any
	}{{db.keys.index(), orphans}, {db.keys.orphans(), done}} {
		if len(gone.entries) > 0 {
			if err := db.client.ZRem(ctx, gone.key, gone.entries...).Err(); err != nil {
				return failed(ctx, err)
			}
		}
	}
	return someUnknown(unknown)
}

// someUnknown is the failure of what has gone over all credentials and done what it could; nil: nothing was in its way.
func someUnknown(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("some credentials could not be looked at: %w", err)
}

// A judged is an entry of the index, and what its group has.
type judged struct {
	entry string
	// is is the credential's revision; zero: there is none.
	is store.Revision
	// listed is the entry that the group says it has; empty: it does not say, as one that a former broker made.
	listed string
	// err is why nothing is known.
	err error
}

// held reports whether there is a credential that has this entry, as far as its group says: else it is that of one that was deleted, or is about to be created.
func (j judged) held() bool {
	return j.is != (store.Revision{}) && (j.listed == "" || j.listed == j.entry)
}

// judged looks at the groups of entries.
func (db *DB) judged(ctx context.Context, entries []string) []judged {
	all, groups := make([]judged, len(entries)), make([]store.Group, len(entries))
	for i, e := range entries {
		all[i].entry = e
		_, groups[i], _ = parseEntry(e)
	}
	said := db.each(ctx, len(entries), func(i int) store.Group { return groups[i] }, 0, func(ctx context.Context, at []int) []error {
		var wrong []error
		for part := range slices.Chunk(at, mostAtOnce/2) {
			is, listed := make([]*redis.StringCmd, len(part)), make([]*redis.StringCmd, len(part))
			p := db.client.Pipeline()
			for i, j := range part {
				is[i] = p.GetRange(ctx, db.keys.row(groups[j], store.Key{Kind: store.IndexedKind}), 0, int64(revisionSize)-1)
				listed[i] = p.GetRange(ctx, db.keys.row(groups[j], store.Key{Kind: kindListed}), int64(revisionSize), -1)
			}
			_, _ = p.Exec(ctx) // each command has its own error
			for i, j := range part {
				wrong = append(wrong, cmp.Or(is[i].Err(), listed[i].Err()))
				all[j].is, all[j].listed = store.Revision{}, listed[i].Val()
				copy(all[j].is[:], is[i].Val())
			}
		}
		return wrong
	})
	for i, err := range said {
		all[i].err = err
	}
	return all
}
