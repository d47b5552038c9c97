package server

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/trace"
)

// DefaultDeadline is for calls that bring none; streams have none.
const DefaultDeadline = 30 * time.Second

// answerSpare is what a call is answered before its own deadline, at most: at the deadline itself gRPC resets the stream, and
// the caller would never learn that the exchange goes on.
const answerSpare = 100 * time.Millisecond

// edge is what stands between the wire and the handlers: caller, deadline, validation, statuses, log.
type edge struct {
	// ready says why no call can be answered yet.
	ready     func() error
	log       *slog.Logger
	validator protovalidate.Validator
	metrics   *Metrics // nil: nobody counts
	tracer    *trace.Tracer
	audit     broker.Auditor
	// recovering and recoveringStream turn a panic in a handler into a failure.
	recovering       grpc.UnaryServerInterceptor
	recoveringStream grpc.StreamServerInterceptor
	// strangers bounds how often it is said who did not prove who they are.
	strangers *rate.Limiter
	// within is how long the message of a stream may take.
	within time.Duration
	// stopping ends when the server does: streams of health and reflection last as long as their callers like.
	stopping context.Context //nolint:containedctx // the server's own, of no call
}

type callerKey struct{}

// callerOf is the caller that the edge found. Reached any other way, it is nobody: nil.
func callerOf(ctx context.Context) *broker.Caller {
	c, _ := ctx.Value(callerKey{}).(*broker.Caller)
	return c
}

// identify says who makes a call, and on which connection; reached any other way, nobody. Health asks nobody who they are.
func identify(ctx context.Context, method string, now time.Time) (p proof, k *connection, err error) {
	if k = connectionOf(ctx); k == nil {
		return p, nil, nil
	}
	k.begins(ctx)
	if !strings.HasPrefix(method, "/grpc.health.") {
		p, err = k.whose(ctx, now)
	}
	return p, k, err
}

// unary is the interceptor. There is one, which calls what else there is: each more in a chain costs every call two closures.
func (e *edge) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	started := time.Now()
	who, connection, err := identify(ctx, info.FullMethod, started)
	c := &call{Context: ctx, proof: who, connection: connection, started: started}
	if connection != nil {
		connection.running.Add(1)
	}
	defer c.end()
	var res any
	var step trace.Step
	if err == nil {
		c.Context, step = e.traced(ctx, info.FullMethod, who, started)
		res, err = e.answered(c, req, info, next)
	}
	now := time.Now()
	if err == nil {
		err = who.holds(now) // it may have waited
	} else if over := unprovenCause(c); over != nil {
		err = over
	}
	if err == nil {
		e.metrics.called(info.FullMethod, codes.OK, now.Sub(c.started), ends(step, info.FullMethod, codes.OK, nil))
		if e.log.Enabled(c, slog.LevelDebug) {
			e.log.LogAttrs(c, slog.LevelDebug, "call", slog.String("method", info.FullMethod), slog.String("code", "OK"),
				slog.Duration("took", time.Since(c.started)))
		}
		return res, nil
	}
	s, pushback := e.refuse(c, info.FullMethod, err, c.started)
	e.metrics.called(info.FullMethod, s.Code(), time.Since(c.started), ends(step, info.FullMethod, s.Code(), err))
	if d, ok := info.Server.(denier); ok {
		return d.Denied(s), nil
	}
	_ = grpc.SetTrailer(c, metadata.Pairs(retryPushback, pushback)) // fails only when the call is over
	return nil, s.Err()
}

func (e *edge) answered(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := e.may(info.FullMethod); err != nil {
		return nil, err
	}
	if err := e.validate(req); err != nil {
		return nil, err
	}
	return e.recovering(ctx, req, info, next)
}

// may says why a method cannot be called yet. Health and reflection ask nobody.
func (e *edge) may(method string) error {
	if strings.HasPrefix(method, "/grpc.") {
		return nil
	}
	return e.ready()
}

// healthNameMost bounds the name of a service whose health is asked for: it is kept for as long as the stream lasts, and no service has such a name.
const healthNameMost = 256

// stream is the interceptor of streams.
func (e *edge) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if srv == nil { // there is no such method: unknownMethod says so
		if k := connectionOf(ss.Context()); k != nil {
			k.begins(ss.Context())
		}
		return next(srv, ss)
	}
	defer e.metrics.streaming(info.FullMethod)()
	started := time.Now()
	who, connection, err := identify(ss.Context(), info.FullMethod, started)
	ctx := context.WithValue(ss.Context(), callerKey{}, who.caller())
	envoy, passing := srv.(denier)
	if connection != nil && err == nil {
		var done, over func()
		if passing {
			done = connection.passes()
		} else {
			done, err = connection.lasts()
		}
		if err == nil {
			defer connection.ends(ss.Context())
			defer done()
			ctx, over = connection.of.proven.add(ctx, who, started)
			defer over()
			if who.caller() != nil {
				connection.vouched.Add(1)
				defer connection.vouched.Add(-1)
			}
		}
	}
	if err == nil {
		err = e.may(info.FullMethod)
	}
	if err != nil {
		s, pushback := e.refuse(ctx, info.FullMethod, err, started)
		if passing {
			return ss.SendMsg(envoy.Denied(s))
		}
		ss.SetTrailer(metadata.Pairs(retryPushback, pushback))
		return s.Err()
	}
	var step trace.Step
	if passing { // any other stream lasts, and what is done for it are traces of their own
		ctx, step = e.traced(ctx, info.FullMethod, who, started)
	}
	vs := &validatedStream{ServerStream: ss, ctx: ctx, edge: e, who: who, talks: info.IsClientStream}
	if strings.HasPrefix(info.FullMethod, "/grpc.") {
		var cancel context.CancelFunc
		vs.ctx, cancel = context.WithCancel(ctx)
		vs.endless = true
		defer cancel()
		defer context.AfterFunc(e.stopping, cancel)()
	}
	if strings.HasPrefix(info.FullMethod, "/grpc.reflection.") && who.caller() == nil {
		err = &broker.Failure{Kind: broker.CallerNotAllowed} // an unknown caller learns nothing, not even which services exist
	} else {
		err = e.recoveringStream(srv, vs, info, next)
	}
	if err != nil && vs.endless && e.stopping.Err() != nil {
		err = &broker.Failure{Kind: broker.ShuttingDown}
	}
	if err == nil {
		ends(step, info.FullMethod, codes.OK, nil)
		return nil
	}
	if over := cmp.Or(unprovenCause(ctx), who.holds(time.Now())); over != nil {
		err = over
	}
	if s, ok := status.FromError(err); ok {
		ends(step, info.FullMethod, s.Code(), err)
		return err // reflection and health speak statuses of their own; and of a message that is too large gRPC has said it already
	}
	s, pushback := e.refuse(ctx, info.FullMethod, err, started)
	ends(step, info.FullMethod, s.Code(), err)
	ss.SetTrailer(metadata.Pairs(retryPushback, pushback))
	return s.Err()
}

type validatedStream struct {
	grpc.ServerStream
	ctx  context.Context //nolint:containedctx // grpc.ServerStream is how a stream carries its context
	edge *edge
	// who is whose it is.
	who proof
	// endless: nothing but ctx ends the wait for the next message. talks: so it is from the second one on.
	endless, talks bool
}

// SendMsg implements grpc.ServerStream. Nobody is told anything who is believed no more, however long it takes until all streams have been looked at.
func (s *validatedStream) SendMsg(m any) error {
	if err := s.who.holds(time.Now()); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(m)
}

func (s *validatedStream) Context() context.Context { return s.ctx }

func (s *validatedStream) RecvMsg(m any) error {
	if s.endless {
		err := s.recvUntil(s.ctx, m)
		if h, ok := m.(*healthv1.HealthCheckRequest); err == nil && ok && len(h.GetService()) > healthNameMost {
			return status.Error(codes.InvalidArgument, "no service has so long a name")
		}
		if err != nil && s.ctx.Err() != nil { // whoever is done with it may reset it, as an Envoy does
			return streamEnded(s.ctx.Err())
		}
		return err
	}
	ctx, cancel := context.WithTimeout(s.ctx, s.edge.within)
	defer cancel()
	if err := s.recvUntil(ctx, m); err != nil {
		switch {
		case errors.Is(s.ctx.Err(), context.Canceled):
			return &broker.Failure{Kind: broker.Canceled}
		case ctx.Err() != nil: // by either timer, this one or that of the call's arrival
			return &broker.Failure{Kind: broker.DeadlinePassed, Detail: "its message has not come"}
		}
		if errors.Is(err, io.EOF) {
			return errUnreadable // there is none
		}
		return err
	}
	s.endless = s.talks
	return s.edge.validate(m)
}

// streamEnded is the failure of a stream whose context has ended.
func streamEnded(why error) error {
	if errors.Is(why, context.DeadlineExceeded) {
		return &broker.Failure{Kind: broker.DeadlinePassed}
	}
	return &broker.Failure{Kind: broker.Canceled}
}

func (s *validatedStream) recvUntil(ctx context.Context, m any) error {
	received := make(chan error, 1)
	go func() { received <- s.ServerStream.RecvMsg(m) }() // ends with the stream, when the handler has returned
	select {
	case err := <-received:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// refuse turns a failure into a status and logs it once: the broker's own faults as errors, everything else at a level at
// which a busy broker does not drown in its callers' mistakes.
func (e *edge) refuse(ctx context.Context, method string, err error, started time.Time) (*status.Status, string) {
	if s, ok := status.FromError(err); ok && broker.KindOf(err) == broker.Internal && strings.HasPrefix(method, "/grpc.") {
		return s, "-1"
	}
	id := requestID(ctx)
	trace.Say(ctx, trace.RequestID(id))
	s, pushback := toStatus(err, id, time.Now())
	kind := broker.KindOf(err)
	level := slog.LevelInfo
	switch kind {
	case broker.Internal, broker.RecordUnreadable:
		level = slog.LevelError
	case broker.StoreUnavailable:
		level = slog.LevelWarn
	case broker.Canceled:
		level = slog.LevelDebug
	default:
		if asksForSecrets(err) {
			level = slog.LevelDebug
		}
	}
	if k := connectionOf(ctx); kind == broker.CallerUnauthenticated && k != nil {
		e.audit.Note(ctx, broker.AuditRecord{Event: broker.AuditUnauthenticated, Outcome: kind, Caller: callerOf(ctx), Listener: k.of.door.Name, Peer: hostOf(k.RemoteAddr()), Detail: detailOf(err)})
	}
	if kind == broker.CallerUnauthenticated && !e.strangers.Allow() { // whoever reaches the broker could fill its disk
		return s, pushback
	}
	if e.log.Enabled(ctx, level) {
		f, _ := err.(*broker.Failure) //nolint:errorlint // a Failure is never wrapped
		caller := callerOf(ctx)
		if f != nil && f.For != nil {
			caller = f.For
		}
		attrs := []slog.Attr{
			slog.String("method", method), slog.String("code", s.Code().String()), slog.String("reason", reasonOf(kind)),
			slog.String("request_id", id), slog.String("caller", caller.String()), slog.Duration("took", time.Since(started)),
		}
		if k := connectionOf(ctx); k != nil && callerOf(ctx) == nil {
			attrs = append(attrs, slog.String("listener", k.of.door.Name), slog.String("peer", k.RemoteAddr().String()))
		}
		if f != nil {
			for _, a := range [...]slog.Attr{
				slog.String("credential", string(f.Credential)), slog.String("provider", f.Provider), slog.String("cause", f.Detail),
			} {
				if a.Value.String() != "" {
					attrs = append(attrs, a)
				}
			}
		}
		e.log.LogAttrs(ctx, level, "call refused", attrs...)
	}
	return s, pushback
}

// detailOf is what a failure says beside its kind.
func detailOf(err error) string {
	if f, ok := err.(*broker.Failure); ok { //nolint:errorlint // a Failure is never wrapped
		return f.Detail
	}
	return ""
}

// RequestIDs are the caller's own x-request-id, and the trace of its traceparent (W3C Trace Context), else the one that is recorded of what is done; empty: there
// is none, or it is none.
func RequestIDs(ctx context.Context) (requestID, traceID string) {
	if v := metadata.ValueFromIncomingContext(ctx, "x-request-id"); isRequestID(v) {
		requestID = v[0]
	}
	const form = len("00-") + 32
	if v := metadata.ValueFromIncomingContext(ctx, "traceparent"); len(v) == 1 && len(v[0]) > form && v[0][2] == '-' && v[0][form] == '-' {
		if _, err := hex.DecodeString(v[0][3:form]); err == nil {
			traceID = v[0][3:form]
		}
	}
	if traceID == "" {
		traceID = trace.RecordedID(ctx)
	}
	return requestID, traceID
}

func isRequestID(v []string) bool {
	return len(v) == 1 && len(v[0]) <= 64 && v[0] != "" && !strings.ContainsFunc(v[0], notPrintable)
}

// asksForSecrets reports whether a refusal says that secrets are missing and nothing else: the command line has not asked for them yet.
func asksForSecrets(err error) bool {
	f, ok := err.(*broker.Failure) //nolint:errorlint // a Failure is never wrapped
	return ok && len(f.Violations) > 0 && !slices.ContainsFunc(f.Violations, func(v broker.Violation) bool {
		return v.Code != broker.CodeRequired || !strings.HasPrefix(v.Field, "secrets.")
	})
}

// requestID is the caller's own x-request-id where it is one, else drawn.
func requestID(ctx context.Context) string {
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		if v := md.Get("x-request-id"); isRequestID(v) {
			return v[0]
		}
	}
	var raw [8]byte
	_, _ = rand.Read(raw[:]) // never fails (crypto/rand)
	return hex.EncodeToString(raw[:])
}

func notPrintable(r rune) bool { return r <= 0x20 || r >= 0x7f }

// recovered is what a panic in a handler becomes. Its value may hold anything: only the stack is logged, whose arguments are
// addresses.
func (e *edge) recovered(ctx context.Context, _ any) error {
	e.log.ErrorContext(ctx, "handler panicked", "stack", string(debug.Stack()))
	return &broker.Failure{Kind: broker.Internal}
}
