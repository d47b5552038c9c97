package engine

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/gate"
	"github.com/tokenbroker/tokenbroker/broker/trace"
)

// Settings are what a Broker is made of. Upstream, Store and Authorizer are required; every other zero value is a default.
type Settings struct {
	Upstream   broker.Upstream
	Store      broker.Store
	Authorizer broker.Authorizer
	// Auditor keeps the audit log. Default: none is kept.
	Auditor broker.Auditor
	// Render makes of a token what a transport carries to callers: once, for all of them. It fails for a token that cannot be
	// carried, which is then the upstream's failure. Default: nothing is made.
	Render func(*broker.Token) (any, error)
	// Log gets what nobody is told otherwise: background refreshes, commits that wait for the store. Default: discarded.
	Log *slog.Logger
	// Observer counts. Default: nobody.
	Observer Observer
	// Tracer begins the traces of what belongs to no call, as the refresh of a token before it is asked for. Default: there are none.
	Tracer *trace.Tracer
	// Clock is the process's; default: the machine's.
	Clock *broker.Clock
	// ExchangeTimeout bounds one exchange, all its requests together; default DefaultExchangeTimeout. The lease is leaseSpare
	// longer.
	ExchangeTimeout time.Duration
	// UpstreamConcurrency is how many exchanges one upstream may have at a time; default DefaultUpstreamConcurrency.
	UpstreamConcurrency int
	// CallerRate is how many operations a second that cost something a caller may begin, ten times as many at once; default
	// DefaultCallerRate, at most CallerRateMost.
	CallerRate int
	// Flights is how many tokens may be fetched at a time, for all callers together; default DefaultFlights. One caller gets half of them at most,
	// and a third for one credential.
	Flights int
	// CacheSize is how many tokens are kept in process, each counted for as many names as callers have for it, and a large one for as many as take as much;
	// default DefaultCacheSize.
	CacheSize int
	// CacheBound is how long what was read from a store that others share is relied on; default DefaultCacheBound.
	CacheBound time.Duration
	// OutageGrace is for how long beyond that a valid token is served while the store cannot be asked; 0: not at all.
	OutageGrace time.Duration
}

// The defaults.
const (
	DefaultExchangeTimeout     = 20 * time.Second
	DefaultUpstreamConcurrency = gate.DefaultAtOnce
	DefaultCacheSize           = 100_000
	DefaultCacheBound          = 2 * time.Second
)

// A Broker answers for tokens and credentials. Make one with New; safe for concurrent use.
type Broker struct {
	upstream  broker.Upstream
	store     broker.Store
	authorize broker.Authorizer
	audit     broker.Auditor
	render    func(*broker.Token) (any, error)
	log       *slog.Logger
	observe   Observer
	tracer    *trace.Tracer
	clock     *broker.Clock
	timeout   time.Duration

	cache   *cache
	flights flights[flightKey, outcome]
	gates   *gate.Gates
	heldFor sync.Map // broker.CredentialName to what was said of its being held
	// rejections are the rejected tokens that the store is being told of.
	rejections flights[rejected, error]
	// standings are the questions of watches to the store.
	standings flights[standing, stored]
	// readings are credentials that are read to decide who may what.
	readings flights[broker.CredentialName, reading]
	solos    solos
	shares   shares
	meters   meters
	trials   trials
	// delayed bounds how often it is said that refreshes are not begun.
	delayed rate.Sometimes

	// running are flights, and commits that go on without one; background is what runs for the broker's life.
	running, background sync.WaitGroup
	// stopping ends waits that no caller bounds: for the store to come back, for an upstream's turn.
	stopping context.Context //nolint:containedctx // the life of all flights, not of a call
	stop     context.CancelFunc
	lost     atomic.Int64
}

// New makes a Broker. It fails when a required setting is missing.
func New(s Settings) (*Broker, error) {
	if s.Upstream == nil || s.Store == nil || s.Authorizer == nil {
		return nil, errors.New("engine: upstream, store and authorizer are required")
	}
	b := &Broker{
		upstream: s.Upstream, store: s.Store, authorize: s.Authorizer, audit: s.Auditor, render: s.Render, log: s.Log, observe: s.Observer, tracer: s.Tracer, clock: s.Clock,
		timeout: s.ExchangeTimeout,
	}
	if b.render == nil {
		b.render = func(*broker.Token) (any, error) { return nil, nil }
	}
	if b.audit == nil {
		b.audit = broker.Unaudited{}
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	if b.observe == nil {
		b.observe = unobserved{}
	}
	if b.clock == nil {
		b.clock = broker.NewClock(nil)
	}
	if b.timeout <= 0 {
		b.timeout = DefaultExchangeTimeout
	}
	s.Observer = b.observe
	var err error
	if b.cache, err = newCache(b.clock, s); err != nil {
		return nil, err
	}
	b.shares.clock, b.shares.rate, b.meters.clock = b.clock, s.CallerRate, b.clock
	if b.shares.rate <= 0 {
		b.shares.rate = DefaultCallerRate
	}
	b.shares.rate = min(b.shares.rate, CallerRateMost)
	if b.shares.most = s.Flights; b.shares.most <= 0 {
		b.shares.most = DefaultFlights
	}
	b.gates = gate.New(b.clock, s.UpstreamConcurrency)
	b.delayed.Interval = time.Minute
	b.flights.all, b.rejections.all, b.standings.all, b.readings.all = &b.running, &b.running, &b.running, &b.running
	b.stopping, b.stop = context.WithCancel(context.Background())
	if s.Store.Shared() {
		c := newConfirmer(b)
		b.background.Go(c.run)
		b.background.Go(func() { s.Store.Watch(b.stopping, c.hear) })
	}
	return b, nil
}

// Close lets flights finish and commit until ctx ends, then gives up those that are left; an answer that is in hand then is
// committed all the same, if the store takes it at once. New flights are refused at once with ShuttingDown; hits go on being
// answered. It fails when a commit that held a new refresh token was given up.
func (b *Broker) Close(ctx context.Context) error {
	b.flights.close()
	b.rejections.close()
	b.standings.close()
	b.readings.close()
	b.cache.each(func(l *line) { l.wake(&l.changed) }) // watches look again, and see that it is over
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
	b.background.Wait()
	b.cache.close()
	if n := b.lost.Load(); n > 0 {
		return &broker.Failure{Kind: broker.StoreUnavailable, Detail: "commits with a new refresh token were given up; the log names them"}
	}
	return nil
}
