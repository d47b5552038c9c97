package redis

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

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

// A key that is moved while all masters are gone over may be at none of them when that is looked at. So they are gone over again until each slot had one master all the while:
// relistMost times, relistPause apart.
const (
	relistMost  = 3
	relistPause = time.Second
)

var errSlotsMove = store.Unavailable("slots of the Redis Cluster are being moved, or nobody has them, and a credential there may be missed: try again once `redis-cli --cluster check` finds nothing wrong")

// Relist implements store.Shared. It goes over all keys of all masters. What it could not look at keeps it from nothing else, and it fails afterwards.
func (db *DB) Relist(ctx context.Context) (int, error) {
	added := 0
	for round := range relistMost {
		if round > 0 {
			select {
			case <-time.After(relistPause):
			case <-ctx.Done():
				return added, store.Ended(ctx)
			}
		}
		n, all, err := db.relistAll(ctx)
		if added += n; all || err != nil {
			return added, err
		}
	}
	return added, errSlotsMove
}

// relistAll is Relist, once. all: no key can have been missed.
func (db *DB) relistAll(ctx context.Context) (added int, all bool, err error) {
	var mu sync.Mutex
	var unknown error
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
	err, all = store.Ended(ctx), true
	switch {
	case err != nil:
	case db.cluster != nil:
		var had slots
		err = db.cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error {
			before, unsaid := claim(ctx, c)
			if err := cmp.Or(look(ctx, c), unsaid); err != nil {
				return err
			}
			after, err := claim(ctx, c)
			if after == before {
				mu.Lock()
				defer mu.Unlock()
				had.add(after)
			}
			return err
		})
		all = had.once()
	default:
		err = look(ctx, db.client)
	}
	if err == nil {
		err = someUnknown(failed(ctx, unknown))
	}
	return added, all, failed(ctx, err)
}

// claim is what a master says of itself in CLUSTER NODES: since which change it has slots (its epoch), and which; in brackets those that are on their way.
func claim(ctx context.Context, c *redis.Client) (string, error) {
	said, err := c.ClusterNodes(ctx).Result()
	if refusedBy(err, "NOPERM") {
		return "", store.Unavailable("Redis does not let this user look which master has which slots (CLUSTER NODES): see docs/redis.md for its ACL")
	}
	for line := range strings.Lines(said) {
		f := strings.Fields(line) // id, address, flags, its master, two times, epoch, link, slots
		if len(f) >= 8 && slices.Contains(strings.Split(f[2], ","), "myself") {
			return f[6] + " " + strings.Join(f[8:], " "), nil
		}
	}
	return "", err
}

// slots are how many masters have each slot.
type slots [16384]int

// add adds a master's claim. One with a slot that is on its way does not count: its slots are nobody's then.
func (s *slots) add(claim string) {
	if strings.Contains(claim, "[") {
		return
	}
	for i, part := range strings.Fields(claim) {
		from, to, ranged := strings.Cut(part, "-")
		if !ranged {
			to = from
		}
		first, _ := strconv.Atoi(from)
		last, err := strconv.Atoi(to)
		for n := first; i > 0 && err == nil && n <= last && n < len(s); n++ { // the first part is the epoch
			s[n]++
		}
	}
}

// once reports whether each slot has one master.
func (s *slots) once() bool { return !slices.ContainsFunc(s[:], func(n int) bool { return n != 1 }) }

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
