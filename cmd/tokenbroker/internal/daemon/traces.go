package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/trace"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/internal/tame"
	"github.com/tokenbroker/tokenbroker/server"
)

const (
	// exportMost bounds one try to bring traces to the collector.
	exportMost = 5 * time.Second
	// lastExport bounds the last one, when the broker stops.
	lastExport = 2 * time.Second
	// answerMost bounds what a collector answers, in bytes.
	answerMost = 16 << 10
	// exportToldEvery is how often it is said that they do not get there.
	exportToldEvery = time.Minute
)

// tracer begins traces where they are collected; else it is nil. Whatever the collector does, nobody waits for it: steps wait in a queue of a bounded length, and those that find it full
// are lost.
func (r *Running) tracer(ctx context.Context) (*trace.Tracer, error) {
	s := &r.settings
	if !s.Collected() {
		return nil, nil //nolint:nilnil // a Tracer that is nil begins no traces
	}
	address, tls, err := s.Collector()
	if err != nil {
		return nil, console.WrongInput(err)
	}
	by := insecure.NewCredentials()
	if tls != nil {
		by = credentials.NewTLS(tls)
	}
	conn, err := grpc.NewClient("dns:///"+address, grpc.WithTransportCredentials(by), grpc.WithDefaultServiceConfig(exportConfig), grpc.WithMaxHeaderListSize(answerMost),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(answerMost)))
	if err != nil {
		return nil, console.WrongInput(err)
	}
	r.cleanup = append(r.cleanup, func() { _ = conn.Close() })
	exporter, err := otlptrace.New(ctx, uploads{collectorv1.NewTraceServiceClient(conn)})
	if err != nil {
		return nil, err
	}
	// What OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME say counts more.
	here, err := resource.New(ctx, resource.WithHost(), resource.WithAttributes(
		attribute.String("service.name", "tokenbroker"), attribute.String("service.version", server.Version()), attribute.String("service.instance.id", broker.NewID().String()),
	), resource.WithFromEnv())
	if err != nil {
		return nil, console.BadInput("OTEL_RESOURCE_ATTRIBUTES cannot be read: write KEY=VALUE,KEY=VALUE")
	}
	told := &rate.Sometimes{Interval: exportToldEvery}
	// The libraries tell one place for the whole process.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		told.Do(func() {
			r.log.LogAttrs(ctx, slog.LevelWarn, "traces do not get to the collector", slog.String("collector", address), slog.String("error", tame.Line(fmt.Sprintf("%.300s", err))))
		})
	}))
	provider := sdk.NewTracerProvider(sdk.WithBatcher(exporter, sdk.WithExportTimeout(exportMost)), sdk.WithResource(here), sdk.WithSampler(sdk.ParentBased(sdk.TraceIDRatioBased(s.TracesSample))))
	r.cleanup = append(r.cleanup, func() {
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastExport)
		defer cancel()
		_ = provider.Shutdown(bounded) // what does not get there in that time is lost
	})
	return trace.New(provider), nil
}

// exportConfig has calls made again that the protocol calls temporary (OTLP 1.5.0, "Failures").
const exportConfig = `{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.5s", "maxBackoff": "2s", "backoffMultiplier": 2,
	"retryableStatusCodes": ["CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS"]}}]}`

// uploads bring traces to a collector. OpenTelemetry's own client over gRPC, and the one over HTTP, have gRPC know gzip in the whole process: then the broker would unpack what strangers send.
type uploads struct {
	collector collectorv1.TraceServiceClient
}

// Start implements otlptrace.Client.
func (uploads) Start(context.Context) error { return nil }

// Stop implements otlptrace.Client.
func (uploads) Stop(context.Context) error { return nil }

// UploadTraces implements otlptrace.Client.
func (u uploads) UploadTraces(ctx context.Context, spans []*tracev1.ResourceSpans) error {
	ctx, cancel := context.WithTimeout(ctx, exportMost)
	defer cancel()
	res, err := u.collector.Export(ctx, &collectorv1.ExportTraceServiceRequest{ResourceSpans: spans})
	if n := res.GetPartialSuccess().GetRejectedSpans(); err == nil && n > 0 {
		err = fmt.Errorf("%d of a batch were refused: %.200s", n, res.GetPartialSuccess().GetErrorMessage())
	}
	return err
}
