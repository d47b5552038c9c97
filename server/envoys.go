package server

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/trace"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/mesh"
)

// A denier has an answer of its own for what has failed: an Envoy may take a call that fails for leave to go on.
type denier interface {
	Denied(*status.Status) any
}

// envoys gives tokens to those who call for others as RPCs do. It implements mesh.Broker.
type envoys struct {
	edge   *edge
	tokens *tokens
}

// GetTokenFor implements mesh.Broker. A principal counts as x-forwarded-client-cert does: of a proxy by its certificate, and of nobody who calls for another by that header already. Where a door has
// no proxies that are believed, as on this machine, it counts for nothing.
func (s *envoys) GetTokenFor(ctx context.Context, whom mesh.Whom, r *tokenbrokerv1.GetTokenRequest) (*tokenbrokerv1.GetTokenResponse, error) {
	var caller *broker.Caller
	if k := connectionOf(ctx); k != nil && k.of.door.Forwarders != nil && !whom.Envoy {
		by := k.peer.Caller
		if callerOf(ctx) != by {
			by = nil
		}
		var err error
		if caller, err = k.of.door.Forwarders.ForwardedBy(by, whom.Principal); err != nil {
			return nil, err
		}
		trace.Say(ctx, trace.Caller(caller))
		ctx = context.WithValue(ctx, callerKey{}, caller)
	}
	if err := s.edge.validate(r); err != nil {
		return nil, askedFor(caller, err)
	}
	res, err := s.tokens.GetToken(ctx, r)
	if err != nil {
		return nil, askedFor(caller, err)
	}
	return res, nil
}

// askedFor is a failure that says whom it was asked for; nil: whoever called.
func askedFor(caller *broker.Caller, err error) error {
	f, ok := err.(*broker.Failure) //nolint:errorlint // a Failure is never wrapped
	if !ok || caller == nil {
		return err
	}
	of := *f // others may have it too
	of.For = caller
	return &of
}

// WatchFor implements mesh.Broker.
func (s *envoys) WatchFor(ctx context.Context, r *tokenbrokerv1.WatchTokenRequest, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
	if err := s.edge.validate(r); err != nil {
		return err
	}
	return s.tokens.watch(ctx, r, send)
}

// CurrentFor implements mesh.Broker.
func (s *envoys) CurrentFor(ctx context.Context, r *tokenbrokerv1.WatchTokenRequest) (*tokenbrokerv1.Token, time.Duration, error) {
	if err := s.edge.validate(r); err != nil {
		return nil, 0, err
	}
	return s.tokens.current(ctx, r)
}

// Refused implements mesh.Broker.
func (s *envoys) Refused(ctx context.Context, err error) *status.Status {
	if f, ok := status.FromError(err); ok && broker.KindOf(err) == broker.Internal {
		return f
	}
	method, _ := grpc.Method(ctx)
	out, _ := s.edge.refuse(ctx, method, err, time.Now())
	return out
}
