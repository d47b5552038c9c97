package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
)

// Apply implements store.Backend. The index is in another slot: an entry is added before the change, and removed after it. What is listed has a row that says
// so, by which the entry is found again (Relist).
func (db *DB) Apply(ctx context.Context, b store.Batch) error {
	var listed int64
	if b.List != nil {
		err := db.do(ctx, many, func(ctx context.Context, _ time.Duration) (err error) {
			listed, err = db.client.ZAdd(ctx, db.keys.index(), redis.Z{Member: entry(*b.List, b.Group)}).Result()
			return err
		})
		if err != nil {
			return err
		}
	}
	var made bool
	confirmed := true
	err := db.do(ctx, db.Shard(b.Group), func(ctx context.Context, since time.Duration) (err error) {
		made, confirmed, err = db.apply(ctx, b, since)
		return err
	})
	switch {
	case err != nil:
		return err
	case !made:
		if listed > 0 {
			db.tidy(ctx, *b.List, b.Group)
		}
		return broker.ErrConflict
	}
	if b.Unlist != nil {
		db.tidy(ctx, *b.Unlist, b.Group)
	}
	if !confirmed {
		return store.ErrUnconfirmed
	}
	return nil
}

// tidy removes an entry that nothing belongs to. One that stays is skipped, and swept: that fails nobody's change.
func (db *DB) tidy(ctx context.Context, l store.Listing, g store.Group) {
	_ = db.do(ctx, many, func(ctx context.Context, _ time.Duration) error { return db.unlist(ctx, l, g) })
}

func (db *DB) unlist(ctx context.Context, l store.Listing, g store.Group) error {
	if l.Incarnation == ([16]byte{}) {
		from, to := ofName(l.Name)
		return db.client.ZRemRangeByLex(ctx, db.keys.index(), from, to).Err()
	}
	return db.client.ZRem(ctx, db.keys.index(), entry(l, g)).Err()
}

func (db *DB) apply(ctx context.Context, b store.Batch, since time.Duration) (made, confirmed bool, err error) {
	first := "*" // what one server has not is nowhere
	if db.cluster != nil {
		first = ""
	}
	said, confirmed, err := db.applied(ctx, b, since, first)
	if lost, ok := said.([]any); ok && err == nil {
		var gone string
		if gone, err = db.gone(ctx, b.Group, texts(lost)); err == nil {
			said, confirmed, err = db.applied(ctx, b, since, gone)
		}
	}
	if err != nil {
		return false, false, err
	}
	n, ok := said.(int64)
	if !ok {
		return false, false, errStrayed
	}
	return n == 1, n == 0 || confirmed, nil
}

// gone are those of these members of a group that have no key anywhere, with a comma before each; a comma: there is none.
func (db *DB) gone(ctx context.Context, g store.Group, members []string) (string, error) {
	names := make([]string, len(members))
	for i, m := range members {
		names[i] = db.keys.group(g) + m
	}
	gone := []string{""}
	for i, err := range db.nowhere(ctx, names) {
		switch {
		case err == nil:
			gone = append(gone, members[i])
		case !errors.Is(err, errStrayed):
			return "", err
		}
	}
	return cmp.Or(strings.Join(gone, ","), ","), nil
}

// applied runs the script once, and gives what it said. gone says of which members it is known that they have no key.
func (db *DB) applied(ctx context.Context, b store.Batch, since time.Duration, gone string) (said any, confirmed bool, err error) {
	names, args := db.arguments(b, since, gone)
	script := applyScript
	if b.Finish {
		script = finishScript
	}
	if !b.Keep || db.options.WaitReplicas == 0 {
		said, err = script.Run(ctx, db.client, names, args...).Result()
		return said, true, err
	}
	// WAIT is about what was written on its own connection.
	run := func(conn *redis.Conn, asking bool) {
		defer func() { _ = conn.Close() }()
		said, confirmed, err = runAndWait(ctx, conn, asking, script.EvalSha, names, args, db.options)
		if redis.HasErrorPrefix(err, "NOSCRIPT") {
			said, confirmed, err = runAndWait(ctx, conn, asking, script.Eval, names, args, db.options)
		}
	}
	conn, err := db.conn(ctx, names[0])
	if err != nil {
		return nil, false, err
	}
	run(conn, false)
	if addr, elsewhere := redis.IsAskError(err); elsewhere { // the slot is being moved, and all that is named is there already
		there := redis.NewClient(db.options.at(addr))
		defer func() { _ = there.Close() }()
		run(there.Conn(), true)
	}
	return said, confirmed, err
}

// runAndWait runs a script, and waits for the replicas to have what it wrote, in one round trip. asking: its slot is not that master's yet.
func runAndWait(ctx context.Context, conn *redis.Conn, asking bool, script func(context.Context, redis.Scripter, []string, ...any) *redis.Cmd,
	names []string, args []any, o Options,
) (said any, waited bool, err error) {
	p := conn.Pipeline()
	if asking {
		p.Do(ctx, "ASKING")
	}
	run := script(ctx, p, names, args...)
	wait := p.Do(ctx, "WAIT", o.WaitReplicas, (o.Timeout / 2).Milliseconds())
	_, _ = p.Exec(ctx) // each command has its own error
	said, err = run.Result()
	n, waitErr := wait.Int64()
	return said, waitErr == nil && n >= int64(o.WaitReplicas), err
}

// conn is a connection of its own to the master that has the key.
func (db *DB) conn(ctx context.Context, key string) (*redis.Conn, error) {
	if db.cluster != nil {
		master, err := db.cluster.MasterForKey(ctx, key)
		if err != nil {
			return nil, err
		}
		return master.Conn(), nil
	}
	return db.client.(*redis.Client).Conn(), nil
}

// arguments are what applyLua takes. since is how long ago the batch's times to live were right, and gone is as the script takes it.
func (db *DB) arguments(b store.Batch, since time.Duration, gone string) (names []string, args []any) {
	if b.List != nil && len(b.Puts) > 0 {
		b.Puts = append(slices.Clip(b.Puts), listedRow(*b.List, b.Group, b.Puts[0].Revision))
	}
	names = make([]string, 0, 1+len(b.Conditions)+len(b.Deletes)+len(b.Puts))
	names = append(names, db.keys.rows(b.Group))
	whole, kinds, message := "0", "", ""
	if b.DeleteGroup {
		whole = "1"
	}
	for i, k := range b.Clear {
		if i > 0 {
			kinds += ","
		}
		kinds += string(k)
	}
	if b.Tell != 0 {
		message = db.who + " " + string(rune(b.Tell)) + " " + string(b.Group)
	}
	rooms := ""
	for _, r := range b.Rooms {
		rooms += fmt.Sprintf("%s=%d,", r.Kind, r.Most)
	}
	args = append(make([]any, 0, 9+len(b.Conditions)+3*len(b.Puts)),
		len(b.Conditions), len(b.Deletes), len(b.Puts), whole, kinds, db.keys.events(), message, rooms, gone)
	for _, c := range b.Conditions {
		names = append(names, db.keys.row(b.Group, c.Key))
		want := c.Revision[:]
		if c.Revision == (store.Revision{}) {
			want = nil
		}
		args = append(args, want)
	}
	for _, k := range b.Deletes {
		names = append(names, db.keys.row(b.Group, k))
	}
	for _, p := range b.Puts {
		names = append(names, db.keys.row(b.Group, p.Key))
		value := make([]byte, 0, revisionSize+len(p.Value))
		value = append(append(value, p.Revision[:]...), p.Value...)
		ttl, ends := int64(0), int64(0)
		if p.TTL > 0 {
			ttl = max(1, (p.TTL - since).Milliseconds())
		}
		if !p.Ends.IsZero() {
			ends = max(1, p.Ends.UnixMilli())
		}
		args = append(args, value, ttl, ends)
	}
	return names, args
}
