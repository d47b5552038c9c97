package server

import (
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"google.golang.org/grpc/codes"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// Metrics counts what a broker does, for Prometheus; docs/metrics.md lists it. It implements engine.Observer. No label holds a credential's name, a
// scope or anything that callers choose: their number is bounded by the definitions. What happened is always called outcome: ok, or the
// failure's kind.
type Metrics struct {
	registry    *prometheus.Registry
	hits        *prometheus.CounterVec
	misses      *prometheus.CounterVec
	degraded    *prometheus.CounterVec
	waiters     prometheus.Gauge
	exchanges   *prometheus.CounterVec
	took        *prometheus.HistogramVec
	succeeded   *prometheus.GaugeVec
	failures    *prometheus.CounterVec
	calls       *prometheus.HistogramVec
	streams     *prometheus.GaugeVec
	away        prometheus.Gauge
	policyStale prometheus.Gauge
	trustStale  *prometheus.GaugeVec
	auditAway   prometheus.Gauge
	auditLost   prometheus.Gauge
	// began and certificate are of the same certificate: which part of its life is left is told by both.
	began       *prometheus.GaugeVec
	certificate *prometheus.GaugeVec
	// listed and lists are of the same revocation list.
	listed *prometheus.GaugeVec
	lists  *prometheus.GaugeVec
	// unconfirmed counts changes that a failover could undo.
	unconfirmed prometheus.Counter
	keysStale   prometheus.Gauge
	credentials *prometheus.GaugeVec
	// well are the calls that went well, by method: a hit looks up no labels.
	well sync.Map
	// from is asked when somebody looks; nil: nobody is there.
	from atomic.Pointer[sources]
}

// NewMetrics returns Metrics with a registry of its own.
func NewMetrics() *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tokenbroker_" + name, Help: help}, labels)
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "tokenbroker_" + name, Help: help}, labels)
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "tokenbroker_" + name, Help: help, Buckets: buckets}, labels)
	}
	m := &Metrics{
		registry:  prometheus.NewRegistry(),
		hits:      counter("token_hits_total", "Tokens served from the process.", "provider"),
		misses:    counter("token_misses_total", "Calls for a token for which the store or the upstream was asked.", "provider"),
		degraded:  counter("token_degraded_total", "Tokens served although something is not well with their supply.", "provider"),
		waiters:   prometheus.NewGauge(prometheus.GaugeOpts{Name: "tokenbroker_token_waiters", Help: "Callers that wait for a token."}),
		exchanges: counter("exchanges_total", "Exchanges with upstreams.", "provider", "run", "outcome"),
		took: histogram("exchange_seconds", "How long exchanges with upstreams took.",
			[]float64{0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20}, "provider"),
		succeeded: gauge("exchange_last_success_timestamp_seconds", "When an exchange last went well, since this process began.", "provider"),
		failures:  counter("failures_total", "Operations that failed.", "operation", "provider", "outcome"),
		calls: histogram("rpc_seconds", "How long calls took, by their code; watches are no calls.",
			[]float64{0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30}, "method", "code"),
		streams: gauge("rpc_streams", "Watches and other streams that run.", "method"),
		away: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tokenbroker_store_away", Help: "1 while the store cannot be asked, or takes no changes.",
		}),
		unconfirmed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tokenbroker_store_unconfirmed_total", Help: "Changes that fewer replicas than wait_replicas have confirmed in time.",
		}),
		keysStale: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tokenbroker_keys_stale", Help: "1 while the keys in the store are others than those that this broker can have.",
		}),
		auditAway: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tokenbroker_audit_away", Help: "1 while the audit log cannot be written, so that nothing can be changed.",
		}),
		auditLost: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tokenbroker_audit_lost", Help: "Lines of the audit log that were lost since this process began.",
		}),
		policyStale: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tokenbroker_policy_stale", Help: "1 while the policy's file as it is now is not used: a former one decides.",
		}),
		trustStale:  gauge("listener_stale", "1 while something of a listener's certificates as they are now is not used: the former is.", "listener"),
		began:       gauge("listener_certificate_start_timestamp_seconds", "When the life of the broker's own certificate of a listener began.", "listener"),
		certificate: gauge("listener_certificate_expiry_timestamp_seconds", "When the broker's own certificate of a listener ends.", "listener"),
		listed:      gauge("listener_revocation_list_start_timestamp_seconds", "When the life of that revocation list of a listener's began which is to be followed by another first. Not there without any.", "listener"),
		lists:       gauge("listener_revocation_list_expiry_timestamp_seconds", "When that revocation list ends. Not there without any.", "listener"),
		credentials: gauge("credentials", "Credentials, as they were when they were last counted, each minute.", "provider", "state"),
	}
	build := gauge("build_info", "1, and which version this is.", "version", "go")
	build.WithLabelValues(Version(), runtime.Version()).Set(1)
	m.registry.MustRegister(m.hits, m.misses, m.degraded, m.waiters, m.exchanges, m.took, m.succeeded, m.failures, m.calls, m.streams, m.away, m.unconfirmed, m.keysStale, m.policyStale, m.trustStale, m.began, m.certificate, m.listed, m.lists, m.auditAway, m.auditLost,
		m.credentials, build, &supply{m}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Version is that of the program: of a release, or the revision that it is built of.
func Version() string {
	version := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		if version = info.Main.Version; version == "" || version == "(devel)" {
			for _, s := range info.Settings {
				if s.Key == "vcs.revision" {
					version = s.Value
				}
			}
		}
	}
	return version
}

// Registry is where further collectors may be registered, and what /metrics shows.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

// Hits implements engine.Observer.
func (m *Metrics) Hits(provider string) func() { return m.hits.WithLabelValues(provider).Inc }

// Miss implements engine.Observer.
func (m *Metrics) Miss(provider string) { m.misses.WithLabelValues(provider).Inc() }

// Degraded implements engine.Observer.
func (m *Metrics) Degraded(provider string) { m.degraded.WithLabelValues(provider).Inc() }

// Waiting implements engine.Observer.
func (m *Metrics) Waiting(delta int) { m.waiters.Add(float64(delta)) }

// Exchanged implements engine.Observer.
func (m *Metrics) Exchanged(provider string, run broker.Run, failure *broker.Kind, took time.Duration) {
	outcome := "ok"
	if failure != nil {
		outcome = failure.Name()
	} else {
		m.succeeded.WithLabelValues(provider).SetToCurrentTime()
	}
	m.exchanges.WithLabelValues(provider, run.String(), outcome).Inc()
	m.took.WithLabelValues(provider).Observe(took.Seconds())
}

// Failed implements engine.Observer. Whoever looks whether a credential is there, as an apply does, and finds that it is not, has not failed.
func (m *Metrics) Failed(op broker.Operation, provider string, kind broker.Kind) {
	if op != broker.ReadCredential || kind != broker.NotFound {
		m.failures.WithLabelValues(string(op), provider, kind.Name()).Inc()
	}
}

// called counts a call, and keeps its trace as an example; empty: it has none. m may be nil.
func (m *Metrics) called(method string, code codes.Code, took time.Duration, traceID string) {
	if m == nil {
		return
	}
	if code == codes.OK {
		if o, ok := m.well.Load(method); ok {
			observe(o.(prometheus.Observer), took, traceID)
			return
		}
	}
	o := m.calls.WithLabelValues(methodLabel(method), code.String())
	observe(o, took, traceID)
	if code == codes.OK {
		m.well.Store(method, o)
	}
}

func observe(o prometheus.Observer, took time.Duration, traceID string) {
	if e, ok := o.(prometheus.ExemplarObserver); ok && traceID != "" {
		e.ObserveWithExemplar(took.Seconds(), prometheus.Labels{"trace_id": traceID})
		return
	}
	o.Observe(took.Seconds())
}

// streaming counts a stream until the function is called that it returns. m may be nil.
func (m *Metrics) streaming(method string) func() {
	if m == nil {
		return func() {}
	}
	g := m.streams.WithLabelValues(methodLabel(method))
	g.Inc()
	return g.Dec
}

// methodLabel is a method without its package, where it is one of ours.
func methodLabel(method string) string {
	return strings.TrimPrefix(strings.TrimPrefix(method, "/"), "tokenbroker.v1.")
}

// PolicyStale notes whether the policy's file as it is now is not used.
func (m *Metrics) PolicyStale(stale bool) { set(m.policyStale, stale) }

// Audit notes whether the audit log cannot be written, and how many of its lines were lost.
func (m *Metrics) Audit(away bool, lost int64) {
	set(m.auditAway, away)
	m.auditLost.Set(float64(lost))
}

// Certificates is how those of a listener are.
type Certificates struct {
	// Began and Ends are the life of the broker's own.
	Began, Ends time.Time
	// ListBegan and ListEnds are the life of the revocation list that is to be followed by another first: its issuer's newest, with the least share of its life left. Zero: there is none.
	ListBegan, ListEnds time.Time
	// Stale: something of what is there now is not used.
	Stale bool
}

// Certificates notes how those of a listener are.
func (m *Metrics) Certificates(listener string, c Certificates) {
	if !c.ListEnds.IsZero() {
		m.listed.WithLabelValues(listener).Set(float64(c.ListBegan.Unix()))
		m.lists.WithLabelValues(listener).Set(float64(c.ListEnds.Unix()))
	}
	m.began.WithLabelValues(listener).Set(float64(c.Began.Unix()))
	m.certificate.WithLabelValues(listener).Set(float64(c.Ends.Unix()))
	set(m.trustStale.WithLabelValues(listener), c.Stale)
}

func set(g prometheus.Gauge, is bool) {
	if is {
		g.Set(1)
		return
	}
	g.Set(0)
}

// StoreAway is store.Options.Away.
func (m *Metrics) StoreAway(away bool) {
	set(m.away, away)
}

// Unconfirmed counts a change of the store that too few replicas have confirmed.
func (m *Metrics) Unconfirmed() { m.unconfirmed.Inc() }

// KeysStale is store.Options.KeysStale.
func (m *Metrics) KeysStale(stale bool) { set(m.keysStale, stale) }

// Counted replaces the numbers of credentials.
func (m *Metrics) Counted(all map[engine.Counted]int) {
	m.credentials.Reset()
	for c, n := range all {
		m.credentials.WithLabelValues(c.Provider, strings.ToLower(strings.TrimPrefix(states[c.State].String(), "CREDENTIAL_STATE_"))).Set(float64(n))
	}
}
