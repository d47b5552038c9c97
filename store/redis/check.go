package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/tokenbroker/tokenbroker/store"
)

// needed is the oldest Redis whose scripts can say that they may be run although memory is full.
const needed = 7

// findings are what Check found out, of all masters.
type findings struct {
	mu                 sync.Mutex
	problems, warnings []string
}

func (f *findings) problem(format string, args ...any) { f.add(&f.problems, format, args...) }
func (f *findings) warn(format string, args ...any)    { f.add(&f.warnings, format, args...) }

func (f *findings) add(to *[]string, format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := fmt.Sprintf(format, args...); !slices.Contains(*to, s) {
		*to = append(*to, s)
	}
}

// Check implements store.Shared. It looks at every master: its version, what it evicts, and whether what it acknowledges is on
// disk; and whether this user may run scripts, write, and publish.
func (db *DB) Check(ctx context.Context) (warnings []string, err error) {
	var f findings
	err = db.eachMaster(ctx, func(ctx context.Context, c redis.Cmdable) error { return db.checkMaster(ctx, c, &f) })
	if err == nil {
		err = db.checkUser(ctx, &f)
	}
	if err != nil {
		if refusedBy(err, "NOAUTH") || refusedBy(err, "WRONGPASS") {
			return nil, &store.Unfit{Problems: []string{answers[firstWord(err.Error())]}}
		}
		return nil, failed(ctx, err)
	}
	slices.Sort(f.problems)
	slices.Sort(f.warnings)
	if len(f.problems) > 0 {
		return f.warnings, &store.Unfit{Problems: f.problems}
	}
	return f.warnings, nil
}

func (db *DB) checkMaster(ctx context.Context, c redis.Cmdable, f *findings) error {
	info, err := c.Info(ctx, "server").Result()
	switch {
	case refusedBy(err, "NOPERM"):
		f.warn("the version of Redis could not be looked at, because its ACL does not allow INFO: it must be %d.0 or newer", needed)
	case err != nil:
		return err
	default:
		version := field(info, "redis_version")
		major, _, _ := strings.Cut(version, ".")
		if n, err := strconv.Atoi(major); err == nil && n < needed {
			f.problem("Redis %.20s is too old: use %d.0 or newer", version, needed)
		}
	}
	d, err := db.durability(ctx, c)
	if err != nil {
		return err
	}
	if d == nil {
		f.warn("the configuration of Redis could not be looked at, because CONFIG GET is not allowed: it must have maxmemory-policy noeviction, appendonly yes and appendfsync always, or credentials and refresh tokens can get lost")
		return nil
	}
	if d.evicts() {
		f.problem("Redis may evict leases and credentials when memory is short (maxmemory-policy %.40s): set maxmemory-policy noeviction", d.policy)
	}
	switch {
	case !d.loses():
	case db.options.AcceptLoss:
		f.warn("Redis can lose what it has acknowledged when it crashes (appendonly %.10s, appendfsync %.10s): credentials and rotated refresh tokens among it", d.only, d.sync)
	default:
		f.problem("Redis can lose what it has acknowledged when it crashes (appendonly %.10s, appendfsync %.10s), a rotated refresh token for example: set appendonly yes and appendfsync always, or set redis.accept_loss: true if you accept the loss", d.only, d.sync)
	}
	return nil
}

// durability is what a master is configured to keep; empty texts: it does not say.
type durability struct{ policy, only, sync string }

// durability asks a master; nil: it may not be looked at.
func (db *DB) durability(ctx context.Context, c redis.Cmdable) (*durability, error) {
	s, err := db.config(ctx, c, "maxmemory-policy", "appendonly", "appendfsync")
	if err != nil || s == nil {
		return nil, err
	}
	return &durability{s["maxmemory-policy"], s["appendonly"], s["appendfsync"]}, nil
}

func (d *durability) evicts() bool { return d.policy != "" && d.policy != "noeviction" }

func (d *durability) loses() bool {
	return (d.only != "" || d.sync != "") && (d.only != "yes" || d.sync != "always")
}

// config is some of a master's configuration; nil: it may not be looked at.
func (db *DB) config(ctx context.Context, c redis.Cmdable, names ...string) (map[string]string, error) {
	all := map[string]string{}
	for _, name := range names {
		part, err := c.ConfigGet(ctx, name).Result()
		var said redis.Error
		if errors.As(err, &said) && !passing(err) {
			return nil, nil // not allowed, or unknown, as in some services that run Redis for others
		}
		if err != nil {
			return nil, err
		}
		for k, v := range part {
			all[k] = v
		}
	}
	return all, nil
}

// probeGroup has no rows, ever.
const probeGroup store.Group = "probe"

// checkUser does what the broker will do, and changes nothing.
func (db *DB) checkUser(ctx context.Context, f *findings) error {
	may := func(what string, err error) error {
		if refusedBy(err, "NOPERM") {
			f.problem("Redis does not let this user %s (NOPERM): see docs/redis.md for its ACL", what)
			return nil
		}
		if errors.Is(err, redis.Nil) {
			return nil
		}
		return err
	}
	rows := db.keys.rows(probeGroup)
	key := db.keys.row(probeGroup, store.Key{Kind: "none"})
	names, args := db.arguments(store.Batch{Group: probeGroup, Deletes: []store.Key{{Kind: "none"}}}, 0, "*")
	for what, ask := range map[string]func() error{
		"run scripts that read its keys":   func() error { return readScript.Run(ctx, db.client, []string{key}).Err() },
		"run scripts that list its keys":   func() error { return listScript.Run(ctx, db.client, []string{rows}, "none").Err() },
		"run scripts that write its keys":  func() error { return applyScript.Run(ctx, db.client, names, args...).Err() },
		"read ranges of its keys":          func() error { return db.client.GetRange(ctx, key, 0, 15).Err() },
		"keep its index":                   func() error { return db.client.ZRem(ctx, db.keys.index(), "none").Err() },
		"publish on its channel":           func() error { return db.client.Publish(ctx, db.keys.events(), db.who).Err() },
		"use keys that begin with its own": func() error { return db.client.Get(ctx, db.keys.sweep()).Err() },
	} {
		if err := may(what, ask()); err != nil {
			return err
		}
	}
	if err := db.client.Scan(ctx, 0, db.keys.listedKeys(), 1).Err(); refusedBy(err, "NOPERM") {
		f.warn("Redis does not let this user look for its keys (SCAN): what a failover takes from the list of all credentials is not found again, and the store cannot be exported or wholly resumed, nor a key rewrapped, retired or destroyed: see docs/redis.md for its ACL")
	} else if err != nil {
		return err
	}
	sub := db.client.Subscribe(ctx, db.keys.events())
	defer func() { _ = sub.Close() }()
	if _, err := sub.Receive(ctx); err != nil {
		return may("subscribe to its channel", err)
	}
	if db.options.WaitReplicas > 0 {
		conn, err := db.conn(ctx, rows)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		return may("wait for replicas", conn.Wait(ctx, 0, db.options.Timeout/2).Err())
	}
	return nil
}
