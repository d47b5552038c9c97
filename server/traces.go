package server

import (
	"context"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/trace"
)

// incoming is the metadata of a call, of which what is not there, and what is there twice, is empty. It implements propagation.TextMapCarrier.
type incoming struct{ ctx context.Context } //nolint:containedctx // it is where the metadata are

// Get implements propagation.TextMapCarrier. There is the traceparent alone: a tracestate is a text of the caller's, of any length, which would be kept for each step, and go where the trace goes.
func (i incoming) Get(key string) string {
	if key != "traceparent" {
		return ""
	}
	if v := metadata.ValueFromIncomingContext(i.ctx, key); len(v) == 1 {
		return v[0]
	}
	return ""
}

// Set implements propagation.TextMapCarrier: nobody writes what has come.
func (incoming) Set(string, string) {}

// Keys implements propagation.TextMapCarrier.
func (incoming) Keys() []string { return nil }

// traced begins the step of a call whose caller is known: who did not prove who they are leave none, and may make nobody collect anything. Health and
// reflection leave none either.
func (e *edge) traced(ctx context.Context, method string, who proof, at time.Time) (context.Context, trace.Step) {
	if e.tracer == nil || strings.HasPrefix(method, "/grpc.") {
		return ctx, trace.Step{}
	}
	ctx, step := e.tracer.Answer(ctx, incoming{ctx}, strings.TrimPrefix(method, "/"), at)
	if step.Recorded() != "" {
		step.Say(trace.Caller(who.caller()))
		if id, _ := RequestIDs(ctx); id != "" {
			step.Say(trace.RequestID(id))
		}
	}
	return ctx, step
}

// ends ends the step of a call. What is the caller's failure is none of the step's, in the words of OpenTelemetry's semantic conventions.
// It returns the id of the trace; empty: it is not recorded.
func ends(step trace.Step, method string, code codes.Code, err error) (id string) {
	if id = step.Recorded(); id == "" {
		return ""
	}
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	step.Say(trace.RPC(service, name, int(code))...)
	if err == nil {
		step.End(nil)
		return id
	}
	switch code {
	case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
		step.End(err)
	default:
		step.Say(trace.Outcome(broker.KindOf(err)))
		step.End(nil)
	}
	return id
}
