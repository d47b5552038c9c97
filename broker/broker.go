package broker

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"
)

// Settings are what a Broker is made of. Upstream, Store and Authorizer are required; every other zero value is a default.
type Settings struct {
	Upstream   Upstream
	Store      Store
	Authorizer Authorizer
	// Log gets what nobody is told otherwise: background refreshes, commits that wait for the store. Default: discarded.
	Log *slog.Logger
	// Observer counts. Default: nobody.
	Observer Observer
	// ExchangeTimeout bounds one exchange, all its requests together; default 20 s. The lease is leaseSpare longer.
	ExchangeTimeout time.Duration
	// UpstreamConcurrency is how many exchanges one upstream may have at a time; default 16.
	UpstreamConcurrency int
	// CacheSize is how many tokens are kept in process; default 100,000.
	CacheSize int
	// CacheBound is how long what was read from a store that others share is relied on; default 2 s.
	CacheBound time.Duration
	// OutageGrace is for how long beyond that a valid token is served while the store cannot be asked; 0: not at all.
	OutageGrace time.Duration
}

const (
	defaultExchangeTimeout = 20 * time.Second
	defaultConcurrency     = 16
	defaultCacheSize       = 100_000
	defaultCacheBound      = 2 * time.Second
	// leaseSpare is what a lease outlives the exchange's deadline by, so that a commit finds it held.
	leaseSpare = 2 * time.Second
)

// An Observer counts what the broker does. Safe for concurrent use; Hit is called on every hit and must cost nothing worth
// naming.
type Observer interface {
	// Hit: a token was served from the process.
	Hit()
	// Miss: it was not.
	Miss()
	// Waiting: so many more callers wait for a flight (fewer, if negative).
	Waiting(delta int)
	// Exchanged: a run of a provider's definition ended; failure is nil when it went well.
	Exchanged(provider string, run Run, failure *Kind, took time.Duration)
	// Failed: an operation of the broker failed.
	Failed(op Operation, kind Kind)
	// StoreAway: the store cannot be asked any more, or can again.
	StoreAway(away bool)
}

type unobserved struct{}

func (unobserved) Hit()                                        {}
func (unobserved) Miss()                                       {}
func (unobserved) Waiting(int)                                 {}
func (unobserved) Exchanged(string, Run, *Kind, time.Duration) {}
func (unobserved) Failed(Operation, Kind)                      {}
func (unobserved) StoreAway(bool)                              {}

// A Broker answers for tokens and credentials. Make one with New; safe for concurrent use.
type Broker struct {
	upstream  Upstream
	store     Store
	authorize Authorizer
	log       *slog.Logger
	observe   Observer
	timeout   time.Duration
	perHost   int

	cache  *otter.Cache[lookup, *entry]
	states sync.Map // CredentialName to *state
	gates  sync.Map // upstream to *gate
	// rejections are the rejected tokens that are being dropped.
	rejections singleflight.Group
	// trusted is what the cache may rely on where others share the store.
	trusted trusted

	mu      sync.Mutex
	flights map[lookup]*flight
	closing bool
	running sync.WaitGroup
	// stopping ends waits that no caller bounds: for the store to come back, for an upstream's turn.
	stopping context.Context //nolint:containedctx // the life of all flights, not of a call
	stop     context.CancelFunc
	lost     atomic.Int64
}

// New makes a Broker. It fails when a required setting is missing.
func New(s Settings) (*Broker, error) {
	if s.Upstream == nil || s.Store == nil || s.Authorizer == nil {
		return nil, errors.New("broker: upstream, store and authorizer are required")
	}
	b := &Broker{
		upstream: s.Upstream, store: s.Store, authorize: s.Authorizer, log: s.Log, observe: s.Observer,
		timeout: s.ExchangeTimeout, perHost: s.UpstreamConcurrency, flights: map[lookup]*flight{},
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	if b.observe == nil {
		b.observe = unobserved{}
	}
	if b.timeout <= 0 {
		b.timeout = defaultExchangeTimeout
	}
	if b.perHost <= 0 {
		b.perHost = defaultConcurrency
	}
	size := s.CacheSize
	if size <= 0 {
		size = defaultCacheSize
	}
	cache, err := otter.New(&otter.Options[lookup, *entry]{MaximumSize: size})
	if err != nil {
		return nil, err
	}
	b.cache = cache
	b.stopping, b.stop = context.WithCancel(context.Background())
	b.trusted.begin(b, s)
	return b, nil
}

// Close lets flights finish and commit until ctx ends, then gives up those that are left. New flights are refused at once
// with ShuttingDown; hits go on being answered. It fails when a commit that held a new refresh token was given up.
func (b *Broker) Close(ctx context.Context) error {
	b.mu.Lock()
	b.closing = true
	b.mu.Unlock()
	b.eachState(func(_ CredentialName, s *state) { s.notify() }) // watches look again, and see that it is over
	done := make(chan struct{})
	go func() {
		b.running.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		b.stop()
		<-done // whatever still runs ends with stopping
	}
	b.stop()
	b.trusted.background.Wait()
	b.cache.StopAllGoroutines()
	if n := b.lost.Load(); n > 0 {
		return &Failure{Kind: StoreUnavailable, Detail: "commits with a new refresh token were given up; the log names them"}
	}
	return nil
}

func (b *Broker) isClosing() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.closing
}
