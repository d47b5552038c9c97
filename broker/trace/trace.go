// Package trace shows what an operation consisted of, to whoever collects traces (OpenTelemetry): its steps, how long each took, and how it ended.
//
// A step belongs to the one that its context carries. Where that one is not recorded, nothing is, and a step costs a look at the context: who begins steps
// need not know whether anybody collects. Only what may stand for itself, as a call and a flight, is begun by a Tracer.
//
// What a trace holds goes to others: names of credentials and definitions, hosts and outcomes; never a value that was given or obtained, nor a text of an
// upstream's. So attributes are made here and nowhere else.
package trace

import (
	"context"
	"errors"
	"net"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	otel "go.opentelemetry.io/otel/trace"

	"github.com/tokenbroker/tokenbroker/broker"
)

// scope is what the steps are made by, as OpenTelemetry calls it.
const scope = "github.com/tokenbroker/tokenbroker"

// A Tracer begins traces. nil: nobody collects any, and it begins none. Safe for concurrent use.
type Tracer struct{ tracer otel.Tracer }

// New makes a Tracer of where traces are collected.
func New(p otel.TracerProvider) *Tracer { return &Tracer{p.Tracer(scope)} }

// A Step is one of an operation's. The zero value is that of a trace which is not recorded. Safe for concurrent use, up to End.
type Step struct{ span otel.Span }

// An Attribute is something that a step says about itself.
type Attribute = attribute.KeyValue

// A Reference is to a step of this trace or another; the zero value is to none.
type Reference struct{ of otel.SpanContext }

// Begin begins a step of the one that ctx carries, and returns the context that carries it. Whoever has begun it ends it.
func Begin(ctx context.Context, name string, about ...Attribute) (context.Context, Step) {
	parent := otel.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, Step{}
	}
	return begin(ctx, parent.TracerProvider().Tracer(scope), name, otel.WithAttributes(about...))
}

// Ask begins a step in which another system is asked, such as a database or an upstream.
func Ask(ctx context.Context, name string, about ...Attribute) (context.Context, Step) {
	parent := otel.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, Step{}
	}
	return begin(ctx, parent.TracerProvider().Tracer(scope), name, otel.WithAttributes(about...), otel.WithSpanKind(otel.SpanKindClient))
}

// Await begins a step that waits for another one, be it of another trace, and names it.
func Await(ctx context.Context, name string, other Reference) (context.Context, Step) {
	parent := otel.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, Step{}
	}
	var links []otel.Link
	if other.of.IsValid() {
		links = []otel.Link{{SpanContext: other.of}}
	}
	return begin(ctx, parent.TracerProvider().Tracer(scope), name, otel.WithLinks(links...))
}

// Begin is as the function of that name; where ctx carries no step that is recorded, it begins a trace.
func (t *Tracer) Begin(ctx context.Context, name string, about ...Attribute) (context.Context, Step) {
	if t == nil {
		return ctx, Step{}
	}
	return begin(ctx, t.tracer, name, otel.WithAttributes(about...))
}

// Answer begins the step of a call that has come at a moment. Where the caller says which trace it belongs to (W3C Trace Context), it is that one, recorded if the
// caller's is.
func (t *Tracer) Answer(ctx context.Context, header propagation.TextMapCarrier, name string, at time.Time) (context.Context, Step) {
	if t == nil {
		return ctx, Step{}
	}
	ctx = propagation.TraceContext{}.Extract(ctx, header)
	return begin(ctx, t.tracer, name, otel.WithSpanKind(otel.SpanKindServer), otel.WithTimestamp(at))
}

func begin(ctx context.Context, t otel.Tracer, name string, how ...otel.SpanStartOption) (context.Context, Step) {
	ctx, span := t.Start(ctx, name, how...)
	if !span.IsRecording() {
		return ctx, Step{}
	}
	return ctx, Step{span}
}

// Detach returns a context that lives as long as life, and carries the step that ctx does: for what goes on when ctx has ended.
func Detach(ctx, life context.Context) context.Context {
	span := otel.SpanFromContext(ctx)
	if !span.IsRecording() {
		return life
	}
	return otel.ContextWithSpan(life, span)
}

// Referred is a reference to the step that ctx carries.
func Referred(ctx context.Context) Reference { return Reference{otel.SpanContextFromContext(ctx)} }

// RecordedID is the id of the trace that ctx belongs to, as it is written; empty: none is recorded.
func RecordedID(ctx context.Context) string { return Step{otel.SpanFromContext(ctx)}.Recorded() }

// Inject writes into a header which step a request belongs to (W3C Trace Context).
func Inject(ctx context.Context, header propagation.TextMapCarrier) {
	propagation.TraceContext{}.Inject(ctx, header)
}

// Recorded is the trace's id, as it is written; empty: it is not recorded.
func (s Step) Recorded() string {
	if s.span == nil || !s.span.IsRecording() {
		return ""
	}
	return s.span.SpanContext().TraceID().String()
}

// Say adds what the step that ctx carries says about itself.
func Say(ctx context.Context, about ...Attribute) {
	if span := otel.SpanFromContext(ctx); span.IsRecording() {
		span.SetAttributes(about...)
	}
}

// Say adds what the step says about itself.
func (s Step) Say(about ...Attribute) {
	if s.span != nil {
		s.span.SetAttributes(about...)
	}
}

// End ends the step; nil: it went well. That something has changed meanwhile is nobody's failure.
func (s Step) End(err error) {
	if s.span == nil {
		return
	}
	switch {
	case err == nil:
	case errors.Is(err, broker.ErrConflict):
		s.span.SetAttributes(outcome("conflict"))
	default:
		s.span.SetAttributes(Outcome(broker.KindOf(err)))
		s.span.SetStatus(codes.Error, "")
	}
	s.span.End()
}

// EndSaying ends the step and says, in a sentence of ours, why it has failed; empty: it went well.
func (s Step) EndSaying(failed string) {
	if s.span == nil {
		return
	}
	if failed != "" {
		s.span.SetStatus(codes.Error, failed)
	}
	s.span.End()
}

func outcome(name string) Attribute { return attribute.String("tokenbroker.outcome", name) }

// Outcome is how something failed.
func Outcome(k broker.Kind) Attribute { return outcome(k.Name()) }

// Credential is whose token it is about.
func Credential(name broker.CredentialName) Attribute {
	return attribute.String("tokenbroker.credential", string(name))
}

// Provider is the definition that it is about.
func Provider(name string) Attribute { return attribute.String("tokenbroker.provider", name) }

// Caller is who has called.
func Caller(c *broker.Caller) Attribute { return attribute.String("tokenbroker.caller", c.String()) }

// RequestID is what the caller calls its request.
func RequestID(id string) Attribute { return attribute.String("tokenbroker.request_id", id) }

// Rows is how many rows, or groups of them, a question to the store is about.
func Rows(n int) Attribute { return attribute.Int("tokenbroker.rows", n) }

// RPC is which method of which service was called, and how that ended, in the words of OpenTelemetry's semantic conventions.
func RPC(service, method string, code int) []Attribute {
	return []Attribute{
		attribute.String("rpc.system", "grpc"), attribute.String("rpc.service", service), attribute.String("rpc.method", method),
		attribute.Int("rpc.grpc.status_code", code),
	}
}

// Request is which host is asked over HTTP, by name and port, and how, in the words of OpenTelemetry's semantic conventions. A path may hold what is secret,
// and is not said.
func Request(method, hostPort string) []Attribute {
	host, port, _ := net.SplitHostPort(hostPort)
	n, _ := strconv.Atoi(port)
	return []Attribute{
		attribute.String("http.request.method", method), attribute.String("server.address", host), attribute.Int("server.port", n),
	}
}

// Status is what was answered to that.
func Status(code int) Attribute { return attribute.Int("http.response.status_code", code) }
