package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/bolt"
	"github.com/tokenbroker/tokenbroker/store/redis"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// embedded is the store that needs no other process.
const embedded = "embedded"

// beginAgain is how long after a Redis could not be asked at the start it is asked again.
const beginAgain = time.Second

// beginMost bounds one such try.
const beginMost = 10 * time.Second

func (s *storeSettings) isEmbedded() bool { return s.Store == "" || s.Store == embedded }

func (s *settings) storeProblems(bad func(setting, format string, args ...any)) {
	if s.CacheBound < 0 {
		bad("cache_bound", "must not be negative")
	}
	if s.OutageGrace < 0 {
		bad("outage_grace", "must not be negative")
	}
	s.redisProblems(bad)
}

func (s *storeSettings) redisProblems(bad func(setting, format string, args ...any)) {
	if s.RedisWaitReplicas < 0 {
		bad("redis.wait_replicas", "must not be negative")
	}
	if s.isEmbedded() {
		return
	}
	a, err := redis.ParseAddress(s.Store)
	if err != nil {
		bad("store", "neither %s nor a Redis: %s", embedded, err)
		return
	}
	if strings.ContainsAny(s.RedisPrefix, "{} \t\n*?[]") || s.RedisPrefix == "" {
		bad("redis.prefix", "must not be empty, nor have blanks, braces or wildcards in it")
	}
	if (s.RedisCertFile == "") != (s.RedisKeyFile == "") {
		bad("redis.cert_file", "a certificate needs its key (redis.key_file), and the key its certificate")
	}
	if !a.TLS && (s.RedisCAFile != "" || s.RedisCertFile != "") {
		bad("redis.ca_file", "the address of the store says no TLS: write rediss:// instead of redis://")
	}
	if _, err := s.redisOptions(); err != nil {
		bad("store", "%s", err)
	}
}

// redisOptions are those of the Redis that the settings name.
func (s *storeSettings) redisOptions() (o redis.Options, err error) {
	if o.Address, err = redis.ParseAddress(s.Store); err != nil {
		return o, err
	}
	o.Username, o.SentinelUsername = s.RedisUsername, s.RedisSentinelUsername
	o.Prefix, o.WaitReplicas, o.AcceptLoss = s.RedisPrefix, s.RedisWaitReplicas, s.RedisAcceptLoss
	if o.Password, err = secretFile(s.RedisPasswordFile); err != nil {
		return o, err
	}
	if o.SentinelPassword, err = secretFile(s.RedisSentinelPasswordFile); err != nil {
		return o, err
	}
	if o.Address.TLS {
		o.TLS, err = s.redisTLS()
	}
	return o, err
}

func (s *storeSettings) redisTLS() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if s.RedisCAFile != "" {
		pem, err := os.ReadFile(s.RedisCAFile)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate in PEM", s.RedisCAFile)
		}
	}
	if s.RedisCertFile != "" {
		if _, err := tls.LoadX509KeyPair(s.RedisCertFile, s.RedisKeyFile); err != nil {
			return nil, fmt.Errorf("%s and %s: %w", s.RedisCertFile, s.RedisKeyFile, err)
		}
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(s.RedisCertFile, s.RedisKeyFile) // it may have been renewed
			return &pair, err
		}
	}
	return c, nil
}

// secretFile is the first line of a file; empty: none is named.
func secretFile(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	data, err := os.ReadFile(name) //nolint:gosec // the operator names it
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(data), "\n")
	if line = strings.TrimSuffix(line, "\r"); line == "" {
		return "", fmt.Errorf("%s is empty", name)
	}
	return line, nil
}

// openStore opens the store with its key, which is made at the first start. A Redis need not be there yet.
func (r *running) openStore(ctx context.Context, metrics *server.Metrics) (*store.Store, error) {
	key := r.settings.keyFile()
	_, missing := os.Stat(key)
	r.firstRun = errors.Is(missing, fs.ErrNotExist)
	if !r.settings.isEmbedded() {
		return r.openRedis(ctx, metrics, key)
	}
	var err error
	if r.db, err = bolt.Open(filepath.Join(r.settings.DataDir, dataFile), bolt.Options{}); err != nil {
		return nil, err
	}
	r.cleanup = append(r.cleanup, func() { _ = r.db.Close() })
	keys, err := store.LoadKeyring(ctx, r.db, key)
	if err != nil {
		return nil, err
	}
	return store.New(r.db, keys, store.Options{})
}

func (r *running) openRedis(ctx context.Context, metrics *server.Metrics, key string) (*store.Store, error) {
	o, err := r.settings.redisOptions()
	if err != nil {
		return nil, &inputError{err}
	}
	db, err := redis.Open(o)
	if err != nil {
		return nil, err
	}
	r.cleanup = append(r.cleanup, func() { _ = db.Close() })
	bounded, cancel := context.WithTimeout(ctx, beginAgain)
	defer cancel()
	keys, err := store.LoadKeyring(bounded, db, key)
	if errors.Is(err, broker.StoreUnavailable) && r.firstRun {
		// Whether this key is the right one is found out when Redis can be asked.
		keys, err = seal.Create(key)
		if errors.Is(err, fs.ErrExist) { // another broker was quicker
			keys, err = seal.Load(key)
		}
		r.madeKey = err == nil
	}
	if err != nil {
		return nil, err
	}
	return store.New(db, keys, store.Options{Later: true, Unconfirmed: metrics.Unconfirmed, Away: metrics.StoreAway, Log: r.log})
}

// begin makes the store usable, and reports whether it is: a store that cannot be asked yet may be later. One that must not be
// used fails it.
func (r *running) begin(ctx context.Context, st *store.Store) (ready bool, err error) {
	bounded, cancel := context.WithTimeout(ctx, beginMost)
	defer cancel()
	warnings, err := st.Begin(bounded)
	for _, w := range warnings {
		r.log.Warn(w)
	}
	switch {
	case err == nil:
		r.warnSuspended(bounded, st)
		return true, nil
	case errors.Is(err, broker.StoreUnavailable):
		if why := err.Error(); why != r.notReady {
			r.log.Warn("the store cannot be asked yet: trying again until it can", "error", why)
			r.notReady = why
		}
		return false, nil
	}
	return false, r.unfit(err)
}

// warnSuspended warns that refreshing is suspended, if it is.
func (r *running) warnSuspended(ctx context.Context, st *store.Store) {
	since, err := st.Suspended(ctx)
	if err != nil {
		r.log.Warn("whether refreshing is suspended cannot be found out", "error", err.Error())
	} else if !since.IsZero() {
		r.log.Warn("refreshing is suspended since this store was exported: no refresh token is presented, until `tokenbroker store export --resume` undoes it",
			"since", since.Format(time.RFC3339))
	}
}

// beginLater tries until the store can be used. Until then health says NOT_SERVING. A store that must not be used ends the
// broker.
func (r *running) beginLater(ctx context.Context, st *store.Store) {
	for {
		select {
		case <-time.After(beginAgain):
		case <-ctx.Done():
			return
		}
		switch ready, err := r.begin(ctx, st); {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.failed <- err
			return
		case ready:
			r.log.Info("the store can be asked now")
			r.server.SetServing(true)
			return
		}
	}
}

// unfit passes the failure on. A key that was made for a store which turns out to be sealed with another is of no use.
func (r *running) unfit(err error) error {
	if r.madeKey && errors.Is(err, broker.RecordUnreadable) {
		_ = os.Remove(r.settings.keyFile())
	}
	return err
}
