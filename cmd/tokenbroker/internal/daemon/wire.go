package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tokenbroker/tokenbroker/broker/audit"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/broker/policy"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
	"github.com/tokenbroker/tokenbroker/internal/catalogview"
	"github.com/tokenbroker/tokenbroker/provider"
	"github.com/tokenbroker/tokenbroker/provider/transport"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/server/authn"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/bolt"
	"github.com/tokenbroker/tokenbroker/store/redis"
)

// A Running broker, with everything that it is made of.
type Running struct {
	settings  settings.Settings
	log       *slog.Logger
	catalog   *provider.Catalog
	transport *transport.Transport
	// db is the embedded store; nil: it is Redis.
	db *bolt.DB
	// disk is db as the broker uses it; nil: there is none.
	disk *disk
	// redis is the store's other backend; nil: it is db.
	redis  *redis.DB
	store  *store.Store
	broker *engine.Broker
	server *server.Server
	// policy is who may do what; nil: whoever is on this machine may everything.
	policy *policy.File
	// audit is the audit log; nil: there is none.
	audit *audit.Log
	// doors are for callers who prove who they are, certificates what authenticates those of each, and tokens, by its name, what authenticates their calls.
	doors        []server.Door
	certificates []*authn.Certificates
	tokens       map[string]*authn.Tokens
	// Addresses are those on which it answers gRPC, the Unix socket last; Metrics is where /metrics is, and
	// Probes where other machines find it with /livez and /readyz; empty: nowhere.
	Addresses []string
	Metrics   string
	Probes    string
	// Doors are the addresses of those, by purpose.
	Doors     map[string][]string
	Registry  *prometheus.Registry
	listeners []listener
	firstRun  bool
	// madeKey: the key was made without knowing whether the store has data already.
	madeKey bool
	// notReady is why the store could not be used when it was last tried, and toldAt when that was last logged; empty: it could.
	notReady string
	toldAt   time.Time
	metrics  *server.Metrics

	background sync.WaitGroup
	end        context.CancelFunc
	failed     chan error
	cleanup    []func()
}

// Start starts a broker and answers on all its addresses. Whatever it has begun is undone when it fails.
func Start(ctx context.Context, s settings.Settings, log *slog.Logger) (_ *Running, err error) {
	if err := s.Check(); err != nil {
		return nil, err
	}
	r := &Running{settings: s, log: log, failed: make(chan error, 8)}
	bg, end := context.WithCancel(context.WithoutCancel(ctx))
	r.end = end
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if err := ownDirectory(s.DataDir, log); err != nil {
		return nil, err
	}
	r.transport, err = transport.New(transport.Settings{
		Propagate: s.TracesPropagate,
		ConnectTo: s.UpstreamConnectTo, CAFile: s.UpstreamCAFile, AllowHTTP: s.UpstreamAllowHTTP, AllowPrivate: s.UpstreamAllowPrivate,
	})
	if err != nil {
		return nil, console.WrongInput(err)
	}
	r.cleanup = append(r.cleanup, r.transport.Close)
	if r.catalog, err = provider.Load(r.transport, s.ProvidersDir); err != nil {
		return nil, fmt.Errorf("load definitions: %w", err)
	}
	r.catalog.SetLog(log)
	recount := make(chan struct{}, 1)
	r.catalog.OnReload(func() {
		select {
		case recount <- struct{}{}:
		default: // it is counted anyway
		}
	})
	for _, e := range r.catalog.List() {
		for _, p := range e.Problems {
			log.Warn("definition not used", "provider", e.Name, "problem", p.String())
		}
		for _, p := range e.Warnings {
			log.Warn("definition used, with a warning", "provider", e.Name, "problem", p.String())
		}
	}
	metrics := server.NewMetrics()
	r.Registry = metrics.Registry()
	db, err := r.openBackend()
	if err != nil {
		return nil, err
	}
	if err := r.openDoors(ctx, bg); err != nil {
		return nil, err
	}
	// What can fail comes before a key is made, which a start that fails would leave behind.
	if err := r.listen(bg); err != nil {
		return nil, err
	}
	authorizer, err := r.authorizer(bg)
	if err != nil {
		return nil, err
	}
	auditor, err := r.auditor(bg)
	if err != nil {
		return nil, err
	}
	tracer, err := r.tracer(bg)
	if err != nil {
		return nil, err
	}
	st, err := r.openStore(ctx, db, metrics)
	if err != nil {
		return nil, err
	}
	r.store = st
	r.broker, err = engine.New(engine.Settings{
		Upstream: r.catalog, Store: st, Authorizer: authorizer, Auditor: auditor, Render: server.Render, Log: log, Observer: metrics, Tracer: tracer,
		ExchangeTimeout: s.ExchangeTimeout, UpstreamConcurrency: s.UpstreamConcurrency, CallerRate: s.LimitsCallerRate,
		CacheSize: s.TokensInCache, Flights: s.Flights, CacheBound: s.CacheBound, OutageGrace: s.OutageGrace,
	})
	if err != nil {
		return nil, err
	}
	r.cleanup = append(r.cleanup, func() { _ = r.broker.Close(bg) }) // at once, if it has not been closed before
	r.server, err = server.New(server.Settings{
		Broker: r.broker, Providers: catalogview.New(r.catalog), Authorizer: authorizer, Auditor: auditor, Doors: r.doors, Log: log, Metrics: metrics, Tracer: tracer,
		MaxConcurrentStreams: s.LimitsConcurrentStreams, MaxMessageBytes: s.LimitsMessageBytes, MaxConnectionAge: s.LimitsConnectionAge,
		Capacity: s.Capacity, Ready: st.Ready,
	})
	if err != nil {
		return nil, err
	}
	r.cleanup = append(r.cleanup, func() { _ = r.server.Stop(bg, 0) }) // at once, if it has not been stopped before
	r.metrics = metrics
	ready, err := r.begin(bg, st)
	if err != nil {
		return nil, err
	}
	r.server.SetServing(ready)
	r.answer(bg)
	if !ready {
		r.background.Go(func() { r.beginLater(bg, st) })
	}
	r.background.Go(func() { r.count(bg, recount, metrics) })
	r.background.Go(func() { r.tell(bg) })
	if r.disk != nil {
		r.background.Go(func() { r.disk.follow(bg) })
	}
	return r, nil
}

// Stop lets exchanges finish and commit, bounded by the shutdown timeout. It fails when a new refresh token was lost.
func (r *Running) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.settings.ShutdownTimeout)
	defer cancel()
	err := r.server.Stop(ctx, r.settings.ShutdownGrace)
	r.close()
	return err
}

// lastWait bounds the wait for what runs beside the server.
const lastWait = 5 * time.Second

func (r *Running) close() {
	r.end()
	done := make(chan struct{})
	go func() {
		r.background.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(lastWait): // a file system that hangs keeps nobody from stopping
		r.log.Warn("stopped without waiting for what reads definitions")
	}
	for i := len(r.cleanup) - 1; i >= 0; i-- {
		r.cleanup[i]()
	}
	r.cleanup = nil
}
