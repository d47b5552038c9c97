package redis

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
)

// scanCount is how many keys Redis is to look at before it answers a SCAN.
const scanCount = 1000

// listedKeys is the pattern of the keys of listed rows (SCAN, "MATCH").
func (k keys) listedKeys() string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`).Replace(k.prefix) + "{*}:" + string(kindListed)
}

// Relist implements store.Shared. It goes over all keys of all masters. What it could not look at keeps it from nothing else, and it fails afterwards.
func (db *DB) Relist(ctx context.Context) (int, error) {
	var mu sync.Mutex
	var unknown error
	added := 0
	look := func(ctx context.Context, c redis.Cmdable) error {
		for cursor := uint64(0); ; {
			found, next, err := c.Scan(ctx, cursor, db.keys.listedKeys(), scanCount).Result()
			if refusedBy(err, "NOPERM") {
				return store.Unavailable("Redis does not let this user look for its keys (SCAN): see docs/redis.md for its ACL")
			}
			if err != nil {
				return err
			}
			if len(found) > 0 {
				n, err := db.relist(ctx, found)
				mu.Lock()
				added += n
				unknown = cmp.Or(unknown, err)
				mu.Unlock()
			}
			if cursor = next; cursor == 0 {
				return nil
			}
		}
	}
	err := store.Ended(ctx)
	switch {
	case err != nil:
	case db.cluster != nil:
		err = db.cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return look(ctx, c) })
	default:
		err = look(ctx, db.client)
	}
	if err == nil {
		return added, someUnknown(failed(ctx, unknown))
	}
	return added, failed(ctx, err)
}

// relist adds to the index what the listed rows with these keys say, and it lacks. It does what it can, and fails where something is not known.
func (db *DB) relist(ctx context.Context, found []string) (int, error) {
	p := db.client.Pipeline()
	said := make([]*redis.StringCmd, len(found))
	for i, key := range found {
		said[i] = p.GetRange(ctx, key, int64(revisionSize), -1)
	}
	_, _ = p.Exec(ctx) // each command has its own error
	p = db.client.Pipeline()
	var unknown error
	var entries []string
	var indexed []*redis.FloatCmd
	for i, s := range said {
		unknown = cmp.Or(unknown, s.Err())
		if _, g, ok := parseEntry(s.Val()); ok && db.keys.row(g, store.Key{Kind: kindListed}) == found[i] {
			entries = append(entries, s.Val())
			indexed = append(indexed, p.ZScore(ctx, db.keys.index(), s.Val()))
		}
	}
	_, _ = p.Exec(ctx)
	var lost []string
	for i, s := range indexed {
		switch err := s.Err(); {
		case errors.Is(err, redis.Nil):
			lost = append(lost, entries[i])
		case err != nil:
			return 0, err
		}
	}
	var back []redis.Z
	for _, e := range db.judged(ctx, lost) {
		unknown = cmp.Or(unknown, e.err)
		if e.err == nil && e.held() && e.listed == e.entry { // else it was deleted meanwhile; if it is now, the entry is swept
			back = append(back, zero(e.entry))
		}
	}
	if len(back) == 0 {
		return 0, unknown
	}
	if err := db.client.ZAdd(ctx, db.keys.index(), back...).Err(); err != nil {
		return 0, err
	}
	return len(back), unknown
}

// zero is a member of the index: all have the same score.
func zero(entry any) redis.Z { return redis.Z{Member: entry} }

// noteListed writes the listed rows of credentials from before there were such rows. Where a name has several entries, which of them is its credential's is not
// known here: nothing is written, and all of them stay. The index is looked at after the groups were: of a credential that has come meanwhile it has the entry, too.
// One that cannot be written keeps no other from it.
func (db *DB) noteListed(ctx context.Context, all []judged) error {
	unsaid := slices.DeleteFunc(slices.Clone(all), func(j judged) bool { return j.err != nil || !j.held() || j.listed != "" })
	if len(unsaid) == 0 {
		return nil
	}
	p := db.client.Pipeline()
	named := make([]*redis.StringSliceCmd, len(unsaid))
	for i, j := range unsaid {
		l, _, _ := parseEntry(j.entry)
		from, to := ofName(l.Name)
		named[i] = p.ZRangeByLex(ctx, db.keys.index(), &redis.ZRangeBy{Min: from, Max: to, Count: 2})
	}
	_, _ = p.Exec(ctx) // each command has its own error
	var unknown error
	for i, j := range unsaid {
		if unknown = cmp.Or(unknown, failed(ctx, named[i].Err())); !slices.Equal(named[i].Val(), []string{j.entry}) {
			continue
		}
		l, g, _ := parseEntry(j.entry)
		err := db.Apply(ctx, store.Batch{
			Group: g, Conditions: []store.Condition{{Key: store.Key{Kind: store.IndexedKind}, Revision: j.is}}, Puts: []store.Put{listedRow(l, g, j.is)},
		})
		if err != nil && !errors.Is(err, broker.ErrConflict) {
			unknown = cmp.Or(unknown, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return unknown
}
