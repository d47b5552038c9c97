package redis

import (
	"context"
	"errors"
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

// sweepUntilStopped removes entries of the index that have no credential, in one of all brokers.
func (db *DB) sweepUntilStopped() {
	for {
		select {
		case <-db.stopping.Done():
			return
		case <-time.After(sweepEvery + rand.N(sweepEvery/8)): //nolint:gosec // only keeps brokers apart
		}
		mine, err := db.client.SetNX(db.stopping, db.keys.sweep(), db.who, sweepEvery-time.Minute).Result()
		if err == nil && mine {
			_ = db.sweep(db.stopping, time.Now()) // what it did not get done is done by the next
		}
	}
}

// sweep notes the entries that have no credential, and removes those that were noted an hour ago and still have none: a
// credential's entry is added before the credential is.
func (db *DB) sweep(ctx context.Context, now time.Time) error {
	for from := "-"; ; {
		entries, err := db.entries(ctx, from, mostAtOnce)
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			break
		}
		from = "(" + entries[len(entries)-1]
		missing, _, err := db.missing(ctx, entries)
		if err != nil {
			return err
		}
		var noted []redis.Z
		for _, e := range missing {
			noted = append(noted, redis.Z{Score: float64(now.UnixMilli()), Member: e})
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
	missing, there, err := db.missing(ctx, ripe)
	if err != nil {
		return err
	}
	for _, gone := range []struct {
		key     string
		entries []any
	}{{db.keys.index(), missing}, {db.keys.orphans(), append(there, missing...)}} {
		if len(gone.entries) > 0 {
			if err := db.client.ZRem(ctx, gone.key, gone.entries...).Err(); err != nil {
				return failed(ctx, err)
			}
		}
	}
	return nil
}

// missing tells entries that have no credential from those that have one.
func (db *DB) missing(ctx context.Context, entries []string) (missing, there []any, err error) {
	places := make([]store.Place, len(entries))
	for i, e := range entries {
		_, g, _ := parseEntry(e)
		places[i] = store.Place{Group: g, Key: store.Key{Kind: store.IndexedKind}}
	}
	revisions, known, err := db.Revisions(ctx, places)
	if err != nil {
		return nil, nil, err
	}
	for i, e := range entries {
		switch {
		case !known[i]:
		case revisions[i] == (store.Revision{}):
			missing = append(missing, e)
		default:
			there = append(there, e)
		}
	}
	return missing, there, nil
}
