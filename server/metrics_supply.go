package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// sources are asked whenever somebody looks at the metrics.
type sources struct {
	broker    *engine.Broker
	providers Providers
}

// supply shows how the supply of tokens is doing at the moment. It implements prometheus.Collector.
type supply struct{ m *Metrics }

var (
	heldDesc = prometheus.NewDesc("tokenbroker_tokens", "Tokens that the process holds.", []string{"provider"}, nil)
	failDesc = prometheus.NewDesc("tokenbroker_tokens_failing", "Tokens that the process holds and whose refresh is failing.", []string{"provider"}, nil)
	endsDesc = prometheus.NewDesc("tokenbroker_tokens_failing_expiry_timestamp_seconds",
		"When the first of the tokens ends whose refresh is failing.", []string{"provider"}, nil)
	downDesc = prometheus.NewDesc("tokenbroker_upstreams_failing", "Upstreams that are left alone because they fail.", []string{"provider"}, nil)
	badDesc  = prometheus.NewDesc("tokenbroker_definitions_invalid", "Definitions that do not load, or whose newer text is not used.", nil, nil)
)

// Describe implements prometheus.Collector.
func (*supply) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{heldDesc, failDesc, endsDesc, downDesc, badDesc} {
		c <- d
	}
}

// Collect implements prometheus.Collector.
func (s *supply) Collect(c chan<- prometheus.Metric) {
	from := s.m.from.Load()
	if from == nil {
		return
	}
	show := func(d *prometheus.Desc, v float64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for provider, g := range from.broker.Supplies() {
		show(heldDesc, float64(g.Tokens), provider)
		show(failDesc, float64(g.Failing), provider)
		show(downDesc, float64(g.UpstreamsFailing), provider)
		if !g.FailingUntil.IsZero() {
			show(endsDesc, float64(g.FailingUntil.Unix()), provider)
		}
	}
	invalid := 0
	for _, p := range from.providers.Providers() {
		if len(p.Problems) > 0 {
			invalid++
		}
	}
	show(badDesc, float64(invalid))
}
