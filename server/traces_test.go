package server_test

import (
	"context"
	"testing"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/tokenbroker/tokenbroker/broker/trace"
	"github.com/tokenbroker/tokenbroker/server"
)

// BenchmarkGetTokenTraced is a hit, one caller at a time, where traces are collected: of a call that is not recorded, as most are, and of one that is.
func BenchmarkGetTokenTraced(b *testing.B) {
	for name, share := range map[string]float64{"unrecorded": 0, "recorded": 1} {
		b.Run(name, func(b *testing.B) {
			provider := sdk.NewTracerProvider(sdk.WithBatcher(tracetest.NewNoopExporter()), sdk.WithSampler(sdk.ParentBased(sdk.TraceIDRatioBased(share))))
			defer func() { _ = provider.Shutdown(context.Background()) }()
			s := newStand(b, func(s server.Settings) server.Settings { s.Tracer = trace.New(provider); return s })
			s.get()
			req := &get{Credential: "main"}
			inParallel(b, 1, func() error {
				_, err := s.tokens.GetToken(context.Background(), req)
				return err
			})
		})
	}
}
