package redis

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/tokenbroker/tokenbroker/store"
)

// Options say where Redis is and what is asked of it. Address is required; every other zero value is a default.
type Options struct {
	Address Address
	// Username and Password are those of the ACL user; empty: those of the address.
	Username, Password string
	// SentinelUsername and SentinelPassword are for the Sentinels; empty: none.
	SentinelUsername, SentinelPassword string
	// TLS is how TLS is spoken where the address asks for it; nil: the system's roots.
	TLS *tls.Config
	// Prefix is what every key and channel begins with; "": tokenbroker.
	Prefix string
	// WaitReplicas is how many replicas must have a grant before it is relied on; 0: none.
	WaitReplicas int
	// AcceptLoss says that a Redis which can lose acknowledged writes when it crashes is good enough.
	AcceptLoss bool
	// Connections bounds the connections to one Redis; 0: 64.
	Connections int
	// Timeout bounds what one command may take; 0: 1 s.
	Timeout time.Duration
}

const (
	defaultPrefix      = "tokenbroker"
	defaultConnections = 64
	defaultTimeout     = time.Second
	// retryPause is the delay before the single retry after a dead connection or a Redis that is loading or changes its master.
	retryPause = 20 * time.Millisecond
	// sweepEvery is how often the index is swept, by one of all brokers.
	sweepEvery = time.Hour
)

// A DB is a store.Backend that other brokers share. It is made by Open. Safe for concurrent use.
type DB struct {
	client  redis.UniversalClient
	cluster *redis.ClusterClient // nil: it is none
	keys    keys
	options Options
	// who tells this process's own events from others'.
	who string
	// turns bound how many ask a shard at a time (chan struct{} by its name): waiting for a connection must not count as Redis's being
	// slow, and who waits for one that is dead must not keep others from those that are well.
	turns    sync.Map
	stopping context.Context //nolint:containedctx // the life of the DB, not of a call
	stop     context.CancelFunc
	sweeping sync.WaitGroup
	closed   sync.Once
}

var _ store.Shared = (*DB)(nil)

// silent keeps go-redis from writing to standard error, in words of its own, what is returned as an error anyway.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

var silence = sync.OnceFunc(func() { redis.SetLogger(silent{}) })

// Open returns a DB. It asks nothing of Redis yet: see Check.
func Open(o Options) (*DB, error) {
	silence()
	if len(o.Address.Hosts) == 0 {
		return nil, errors.New("redis: an address is required")
	}
	if o.Prefix == "" {
		o.Prefix = defaultPrefix
	}
	if o.Connections <= 0 {
		o.Connections = defaultConnections
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	var who [8]byte
	_, _ = rand.Read(who[:]) // never fails (crypto/rand)
	db := &DB{
		client: connect(o.universal()), keys: newKeys(o.Prefix), options: o, who: hex.EncodeToString(who[:]),
	}
	db.cluster, _ = db.client.(*redis.ClusterClient)
	db.stopping, db.stop = context.WithCancel(context.Background())
	db.sweeping.Go(db.sweepUntilStopped)
	return db, nil
}

// universal are the options as go-redis has them.
func (o Options) universal() *redis.UniversalOptions {
	u := &redis.UniversalOptions{
		Addrs: o.Address.Hosts, DB: o.Address.Database, MasterName: o.Address.Master, IsClusterMode: o.Address.Cluster,
		Username: cmp.Or(o.Username, o.Address.username), Password: cmp.Or(o.Password, o.Address.password),
		SentinelUsername: o.SentinelUsername, SentinelPassword: o.SentinelPassword,
		ClientName: "tokenbroker", DisableIdentity: true,
		ContextTimeoutEnabled: true, DialTimeout: o.Timeout, ReadTimeout: o.Timeout, WriteTimeout: o.Timeout,
		// What is asked again is decided here, where times to live are counted anew: go-redis only goes where it is told to, which may be twice, without a pause.
		DialerRetries: 1, MaxRetries: -1, MaxRedirects: 2, MinRetryBackoff: -1, MaxRetryBackoff: -1,
		PoolSize: o.Connections, PoolTimeout: 2 * o.Timeout, MinIdleConns: 2,
		FailingTimeoutSeconds:    1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
	if o.Address.TLS {
		u.TLSConfig = o.TLS
		if u.TLSConfig == nil {
			u.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
		}
	}
	return u
}

// at are the options of a client for one connection to this address, which a Redis has named as host:port: an IPv6 host may have no brackets.
func (o Options) at(address string) *redis.Options {
	host, port := address, ""
	if i := strings.LastIndexByte(address, ':'); i >= 0 {
		host, port = address[:i], address[i+1:]
	}
	u := o.universal()
	u.Addrs, u.PoolSize, u.MinIdleConns = []string{net.JoinHostPort(strings.Trim(host, "[]"), port)}, 1, 0
	return u.Simple()
}

// clusterEvery is how often a Cluster is asked who its masters are: one that cannot be dialled tells nobody that it has been
// replaced.
const clusterEvery = time.Second

func connect(u *redis.UniversalOptions) redis.UniversalClient {
	switch {
	case u.IsClusterMode:
		o := u.Cluster()
		o.ClusterStateReloadInterval = clusterEvery
		return redis.NewClusterClient(o)
	case u.MasterName != "":
		return redis.NewFailoverClient(u.Failover())
	}
	return redis.NewClient(u.Simple())
}

// Shard implements store.Shared: the address of the master that has the group.
func (db *DB) Shard(g store.Group) string {
	if db.cluster == nil {
		return ""
	}
	master, err := db.cluster.MasterForKey(db.stopping, db.keys.rows(g))
	if err != nil {
		return ""
	}
	return master.Options().Addr
}

// turn waits for a turn at a shard, no longer than a question may take; call give afterwards.
func (db *DB) turn(ctx context.Context, shard string) (give func(), err error) {
	v, ok := db.turns.Load(shard)
	if !ok {
		v, _ = db.turns.LoadOrStore(shard, make(chan struct{}, db.options.Connections))
	}
	turns := v.(chan struct{})
	give = func() { <-turns }
	select {
	case turns <- struct{}{}:
		return give, nil
	default:
	}
	timer := time.NewTimer(db.options.Timeout)
	defer timer.Stop()
	select {
	case turns <- struct{}{}:
		return give, nil
	case <-timer.C:
		return nil, store.Unavailable("too many wait for Redis")
	case <-ctx.Done():
		return nil, store.Ended(ctx)
	case <-db.stopping.Done():
		return nil, errClosed
	}
}

// Close implements store.Backend.
func (db *DB) Close() error {
	db.closed.Do(func() {
		db.stop()
		db.sweeping.Wait()
		_ = db.client.Close()
	})
	return nil
}

// many is where what is asked of several shards at once has its turn.
const many = "many"

// do asks a shard: when it is the caller's turn, bounded, and once more where that may help at once. since is how long ago do
// was called.
func (db *DB) do(ctx context.Context, shard string, ask func(ctx context.Context, since time.Duration) error) error {
	if err := store.Ended(ctx); err != nil {
		return err
	}
	started := time.Now()
	bounded, cancel := context.WithTimeout(ctx, 2*db.options.Timeout)
	defer cancel()
	inTurn := func() (asked bool, err error) {
		if db.stopping.Err() != nil {
			return false, errClosed
		}
		give, err := db.turn(bounded, shard)
		if err != nil {
			return false, err
		}
		defer give()
		if err := store.Ended(bounded); err != nil {
			return false, err
		}
		return true, ask(bounded, time.Since(started))
	}
	_, err := inTurn()
	if passing(err) {
		select { // in nobody's turn: others may ask for what is there
		case <-time.After(retryPause):
		case <-bounded.Done():
		}
		if asked, again := inTurn(); asked { // else what it has answered counts, and not that others are asking
			err = again
		}
	}
	return failed(ctx, err)
}
