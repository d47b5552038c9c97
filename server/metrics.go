package server

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/tokenbroker/tokenbroker/broker"
)

// Metrics counts what a broker does, for Prometheus. It implements engine.Observer. No label holds a credential's name, a
// scope or anything that callers choose: their number is bounded by the definitions.
type Metrics struct {
	registry  *prometheus.Registry
	hits      prometheus.Counter
	misses    prometheus.Counter
	waiters   prometheus.Gauge
	exchanges *prometheus.CounterVec
	took      *prometheus.HistogramVec
	failures  *prometheus.CounterVec
	away      prometheus.Gauge
	// unconfirmed counts changes that a failover could undo.
	unconfirmed prometheus.Counter
}

// NewMetrics returns Metrics with a registry of its own.
func NewMetrics() *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		hits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tokenbroker_token_hits_total", Help: "Tokens served from the process.",
		}),
		misses: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tokenbroker_token_misses_total", Help: "Tokens for which the store or the upstream was asked.",
		}),
		waiters: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tokenbroker_token_waiters", Help: "Callers waiting for a flight.",
		}),
		exchanges: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tokenbroker_exchanges_total", Help: "Exchanges with upstreams, by provider, run and outcome (ok, or the failure's kind).",
		}, []string{"provider", "run", "outcome"}),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "tokenbroker_exchange_seconds", Help: "How long exchanges with upstreams took.",
			Buckets: []float64{0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20},
		}, []string{"provider"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "tokenbroker_failures_total", Help: "Operations that failed, by operation and kind.",
		}, []string{"operation", "kind"}),
		away: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "tokenbroker_store_away", Help: "1 while the store cannot be asked.",
		}),
		unconfirmed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "tokenbroker_store_unconfirmed_total", Help: "Changes that fewer replicas than wait_replicas have confirmed in time.",
		}),
	}
	m.registry.MustRegister(m.hits, m.misses, m.waiters, m.exchanges, m.took, m.failures, m.away, m.unconfirmed,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// Registry is where further collectors may be registered, and what /metrics shows.
func (m *Metrics) Registry() *prometheus.Registry { return m.registry }

// Hit implements engine.Observer.
func (m *Metrics) Hit() { m.hits.Inc() }

// Miss implements engine.Observer.
func (m *Metrics) Miss() { m.misses.Inc() }

// Waiting implements engine.Observer.
func (m *Metrics) Waiting(delta int) { m.waiters.Add(float64(delta)) }

// Exchanged implements engine.Observer.
func (m *Metrics) Exchanged(provider string, run broker.Run, failure *broker.Kind, took time.Duration) {
	outcome := "ok"
	if failure != nil {
		outcome = failure.Name()
	}
	m.exchanges.WithLabelValues(provider, run.String(), outcome).Inc()
	m.took.WithLabelValues(provider).Observe(took.Seconds())
}

// Failed implements engine.Observer.
func (m *Metrics) Failed(op broker.Operation, kind broker.Kind) {
	m.failures.WithLabelValues(string(op), kind.Name()).Inc()
}

// StoreAway is store.Options.Away.
func (m *Metrics) StoreAway(away bool) {
	if away {
		m.away.Set(1)
		return
	}
	m.away.Set(0)
}

// Unconfirmed counts a change of the store that too few replicas have confirmed.
func (m *Metrics) Unconfirmed() { m.unconfirmed.Inc() }
