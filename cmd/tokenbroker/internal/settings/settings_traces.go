package settings

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/url"

	"github.com/tokenbroker/tokenbroker/internal/readfile"
)

// TracesSettings say where traces go.
type TracesSettings struct {
	TracesCollector string  `type:"given" name:"traces-collector" env:"TOKENBROKER_TRACES_COLLECTOR" help:"Collector that gets traces by OTLP over gRPC: https://HOST:PORT, or http://HOST:PORT without TLS. Without one there are none. See docs/traces.md."`
	TracesCAFile    string  `type:"place" name:"traces-ca-file" env:"TOKENBROKER_TRACES_CA_FILE" help:"Roots in PEM to trust instead of the system's."`
	TracesSample    float64 `name:"traces-sample" env:"TOKENBROKER_TRACES_SAMPLE" default:"0.01" help:"Share of the traces that begin here which is recorded, from 0 to 1. What a caller records is recorded here, too."`
	TracesPropagate bool    `name:"traces-propagate" env:"TOKENBROKER_TRACES_PROPAGATE" help:"Tell upstreams, too, which trace a request belongs to (traceparent)."`
}

// Collected reports whether traces go anywhere.
func (s *TracesSettings) Collected() bool { return s.TracesCollector != "" }

// Collector is where the collector is, HOST:PORT, and the TLS with which it is spoken to; nil: none.
func (s *TracesSettings) Collector() (address string, tlsConfig *tls.Config, err error) {
	u, err := url.Parse(s.TracesCollector)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || !isPort(u.Port()) || u.User != nil ||
		u.Path != "" || u.RawQuery != "" || u.Fragment != "" {
		return "", nil, &wrongFile{"traces.collector", "must be https://HOST:PORT or http://HOST:PORT, and nothing else"}
	}
	if u.Scheme == "http" {
		if s.TracesCAFile != "" {
			return "", nil, &wrongFile{"traces.ca_file", "the collector's address says no TLS: write https:// instead of http://"}
		}
		return u.Host, nil, nil
	}
	tlsConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if s.TracesCAFile != "" {
		pem, err := readfile.Read(s.TracesCAFile, pemMost)
		if err != nil {
			return "", nil, unread("traces.ca_file", err)
		}
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM(pem) {
			return "", nil, &wrongFile{"traces.ca_file", "its file has no certificate in PEM"}
		}
	}
	return u.Host, tlsConfig, nil
}

func (s *TracesSettings) tracesProblems(bad func(setting, format string, args ...any)) {
	if !(s.TracesSample >= 0 && s.TracesSample <= 1) { // nor is it NaN
		bad("traces.sample", "must be a number from 0 to 1, such as 0.01")
	}
	if !s.Collected() {
		if s.TracesCAFile != "" || s.TracesPropagate {
			bad("traces.collector", "it is not set: no trace is recorded")
		}
		return
	}
	var wrong *wrongFile
	if _, _, err := s.Collector(); errors.As(err, &wrong) {
		bad(wrong.setting, "%s", wrong.why)
	}
}
