package redis

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
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

// each asks each master for its part of n things, at the same time, each for itself and with a deadline of its own: one pipeline for all
// would be answered when the last is, and a master that hangs would take along what others have answered. ask is given the numbers of a part,
// and returns why each of them failed; if all have, the part is asked once more where that may help. Where beside is given, it bounds what is
// asked of other masters than the first thing's. It returns why nothing is known, by number.
func (db *DB) each(ctx context.Context, n int, group func(i int) store.Group, beside time.Duration, ask func(ctx context.Context, at []int) []error) []error {
	all := make([]error, n)
	one := func(shard string, at []int) {
		ctx := ctx
		if beside > 0 && at[0] != 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, beside)
			defer cancel()
		}
		said := make([]error, len(at))
		err := db.do(ctx, shard, func(ctx context.Context, _ time.Duration) error {
			said = ask(ctx, at)
			return noneOf(said)
		})
		for i, j := range at {
			if all[j] = err; err == nil {
				all[j] = failed(ctx, said[i])
			}
		}
	}
	parts := map[string][]int{}
	for i := range n {
		shard := db.Shard(group(i))
		parts[shard] = append(parts[shard], i)
	}
	var asking sync.WaitGroup
	for shard, at := range parts {
		if len(parts) == 1 { // as mostly
			one(shard, at)
			break
		}
		asking.Go(func() { one(shard, at) })
	}
	asking.Wait()
	return all
}

// noneOf is why nothing is known of any; nil: something is.
func noneOf(all []error) error {
	if len(all) == 0 || slices.Contains(all, nil) {
		return nil
	}
	return all[0]
}

// adviceMost bounds the wait for what is read beside the first group, where another master has it: it may hang.
const adviceMost = 250 * time.Millisecond

// Read implements store.Backend: one pipeline for each master.
func (db *DB) Read(ctx context.Context, asks ...store.Ask) ([]store.Reading, error) {
	all := make([]store.Reading, len(asks))
	said := db.each(ctx, len(asks), func(i int) store.Group { return asks[i].Group }, adviceMost, func(ctx context.Context, at []int) []error {
		cmds := db.runAll(ctx, readScript, len(at), func(i int) ([]string, []any) {
			ask := asks[at[i]]
			names := make([]string, len(ask.Keys))
			for j, k := range ask.Keys {
				names[j] = db.keys.row(ask.Group, k)
			}
			return names, nil
		})
		wrong := make([]error, len(at))
		for i, cmd := range cmds {
			var out []any
			if out, wrong[i] = cmd.Slice(); wrong[i] != nil {
				continue
			}
			to := &all[at[i]]
			*to = reading(out)
			for j, k := range asks[at[i]].Keys {
				if 2*j+2 < len(out) {
					if r, ok := row(k, out[2*j+1], out[2*j+2]); ok {
						to.Rows = append(to.Rows, r)
					}
				}
			}
		}
		if at[0] == 0 && wrong[0] != nil { // the first decides: it is asked once more where that may help, whatever else was answered
			for i := range wrong {
				wrong[i] = wrong[0]
			}
		}
		return wrong
	})
	for i := range all {
		all[i].Err = said[i]
	}
	return all, all[0].Err
}

// runAll runs a script n times, in one pipeline; another one where Redis does not know the script yet. Each command has its own
// error.
func (db *DB) runAll(ctx context.Context, script *redis.Script, n int, arguments func(i int) (names []string, args []any)) []*redis.Cmd {
	send := func(run func(context.Context, redis.Scripter, []string, ...any) *redis.Cmd) []*redis.Cmd {
		cmds := make([]*redis.Cmd, n)
		p := db.client.Pipeline()
		for i := range cmds {
			names, args := arguments(i)
			cmds[i] = run(ctx, p, names, args...)
		}
		_, _ = p.Exec(ctx)
		return cmds
	}
	cmds := send(script.EvalSha)
	if slices.ContainsFunc(cmds, func(c *redis.Cmd) bool { return redis.HasErrorPrefix(c.Err(), "NOSCRIPT") }) {
		cmds = send(script.Eval)
	}
	return cmds
}

// List implements store.Backend: one pipeline for each master, and another for keys that a master of a Cluster has not found.
func (db *DB) List(ctx context.Context, groups []store.Group, kinds ...store.Kind) ([]store.Reading, error) {
	all := make([]store.Reading, len(groups))
	wanted := make([]any, len(kinds))
	for i, k := range kinds {
		wanted[i] = string(k)
	}
	list := func(ctx context.Context, at []int) []error {
		cmds := db.runAll(ctx, listScript, len(at), func(i int) ([]string, []any) {
			return []string{db.keys.rows(groups[at[i]])}, wanted
		})
		wrong := make([]error, len(at))
		var lost []string
		var whose []int
		for i, cmd := range cmds {
			var out []any
			if out, wrong[i] = cmd.Slice(); wrong[i] == nil {
				var members []string
				all[at[i]], members = listed(out, kinds)
				for _, m := range members {
					lost, whose = append(lost, db.keys.group(groups[at[i]])+m), append(whose, i)
				}
			}
		}
		if db.cluster != nil { // what one server has not is nowhere
			for j, err := range db.nowhere(ctx, lost) {
				wrong[whose[j]] = cmp.Or(wrong[whose[j]], err)
			}
		}
		return wrong
	}
	said := db.each(ctx, len(groups), func(i int) store.Group { return groups[i] }, 0, func(ctx context.Context, at []int) []error {
		wrong := list(ctx, at)
		var astray, again []int
		for i, err := range wrong {
			if errors.Is(err, errStrayed) { // or somebody has put it since
				astray, again = append(astray, i), append(again, at[i])
			}
		}
		if len(again) > 0 {
			for j, err := range list(ctx, again) {
				wrong[astray[j]] = err
			}
		}
		return wrong
	})
	for i := range all {
		all[i].Err = said[i]
	}
	return all, noneOf(said)
}

// nowhere says of each of these keys, which a master has not found, why it may be there all the same; nil: no master has it. It has ended then, or somebody has deleted it by
// hand, or a Redis that evicts. Of one key a Cluster always says what is so: one that is there is at another master, because its slot is being moved.
func (db *DB) nowhere(ctx context.Context, names []string) []error {
	said := make([]error, 0, len(names))
	for part := range slices.Chunk(names, mostAtOnce) {
		p := db.client.Pipeline()
		for _, name := range part {
			p.GetRange(ctx, name, 0, int64(revisionSize)-1)
		}
		cmds, _ := p.Exec(ctx) // each command has its own error
		for _, c := range cmds {
			value, err := c.(*redis.StringCmd).Result()
			if err == nil && value != "" {
				err = errStrayed
			}
			said = append(said, err)
		}
	}
	return said
}

func texts(all []any) []string {
	out := make([]string, len(all))
	for i, v := range all {
		out[i], _ = v.(string)
	}
	return out
}

// listed is what listScript answered, in the order in which List promises it, and the members that have no key there.
func listed(out []any, kinds []store.Kind) (all store.Reading, lost []string) {
	all = reading(out)
	for i := 1; i+2 < len(out); i += 3 {
		name, _ := out[i].(string)
		if out[i+1] == nil {
			lost = append(lost, name)
			continue
		}
		if key, ok := parseMember(name); ok {
			if r, ok := row(key, out[i+1], out[i+2]); ok {
				all.Rows = append(all.Rows, r)
			}
		}
	}
	slices.SortFunc(all.Rows, func(a, b store.Row) int {
		return cmp.Or(cmp.Compare(slices.Index(kinds, a.Key.Kind), slices.Index(kinds, b.Key.Kind)), bytes.Compare(a.Key.ID[:], b.Key.ID[:]))
	})
	return all, lost
}

// mostAtOnce bounds a pipeline: its answers are held in memory by Redis until all are written.
const mostAtOnce = 1000

// Revisions implements store.Shared: a pipeline at a time for each master.
func (db *DB) Revisions(ctx context.Context, places []store.Place) ([]store.Revision, []bool, error) {
	out, known := make([]store.Revision, len(places)), make([]bool, len(places))
	said := db.each(ctx, len(places), func(i int) store.Group { return places[i].Group }, 0, func(ctx context.Context, at []int) []error {
		var wrong []error
		for part := range slices.Chunk(at, mostAtOnce) {
			asked := make([]*redis.StringCmd, len(part))
			p := db.client.Pipeline()
			for i, j := range part {
				asked[i] = p.GetRange(ctx, db.keys.row(places[j].Group, places[j].Key), 0, int64(revisionSize)-1)
			}
			_, _ = p.Exec(ctx) // each command has its own error
			for i, a := range asked {
				wrong = append(wrong, a.Err())
				copy(out[part[i]][:], a.Val())
			}
		}
		return wrong
	})
	for i, err := range said {
		known[i] = err == nil
	}
	return out, known, noneOf(said)
}
