package server

import (
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// tokens is TokenBrokerService.
type tokens struct {
	tokenbrokerv1.UnimplementedTokenBrokerServiceServer
	broker *engine.Broker
}

// desc is the service as it was generated, but for GetToken's way to its handler. The generated one takes nothing but a
// *GetTokenResponse from a handler, which would be encoded for every call, and makes two closures for each; this one passes on
// an answer, which has its bytes with it.
func (s *tokens) desc() *grpc.ServiceDesc {
	d := tokenbrokerv1.TokenBrokerService_ServiceDesc
	d.Methods = slices.Clone(d.Methods)
	info := &grpc.UnaryServerInfo{Server: s, FullMethod: tokenbrokerv1.TokenBrokerService_GetToken_FullMethodName}
	handle := func(ctx context.Context, req any) (any, error) {
		a, err := s.answer(ctx, req.(*tokenbrokerv1.GetTokenRequest)) // what is decoded below
		if err != nil {
			return nil, err
		}
		return a, nil
	}
	get := slices.IndexFunc(d.Methods, func(m grpc.MethodDesc) bool { return m.MethodName == "GetToken" })
	d.Methods[get].Handler = func(_ any, ctx context.Context, decode func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
		r := &tokenbrokerv1.GetTokenRequest{}
		if err := decode(r); err != nil {
			return nil, err
		}
		if interceptor == nil {
			return handle(ctx, r)
		}
		return interceptor(ctx, r, info, handle)
	}
	return &d
}

// GetToken is for callers in this process.
func (s *tokens) GetToken(ctx context.Context, r *tokenbrokerv1.GetTokenRequest) (*tokenbrokerv1.GetTokenResponse, error) {
	a, err := s.answer(ctx, r)
	if err != nil {
		return nil, err
	}
	return a.GetTokenResponse, nil
}

func (s *tokens) answer(ctx context.Context, r *tokenbrokerv1.GetTokenRequest) (*answer, error) {
	sel, err := selection(r)
	if err != nil {
		return nil, err
	}
	// The contract's pattern has been held against the name.
	res, err := s.broker.Token(ctx, callerOf(ctx), engine.Request{
		Credential: broker.CredentialName(r.GetCredential()), Selection: sel,
		MinTTL: r.GetMinTtl().AsDuration(), RejectedTokenID: r.GetRejectedTokenId(),
	})
	if err != nil {
		return nil, err
	}
	shown, err := renderingOf(res.Rendering)
	if err != nil {
		return nil, err
	}
	if res.Degraded {
		return shown.degraded, nil
	}
	return shown.well, nil
}

func (s *tokens) Invalidate(ctx context.Context, r *tokenbrokerv1.InvalidateRequest) (*tokenbrokerv1.InvalidateResponse, error) {
	sel, err := selection(r)
	if err != nil {
		return nil, err
	}
	done, err := s.broker.Invalidate(ctx, callerOf(ctx), engine.Invalidation{
		Credential: broker.CredentialName(r.GetCredential()), Selection: sel,
		TokenID: r.GetTokenId(), AccessToken: broker.NewSecret(r.GetAccessToken()), All: r.GetAll(),
	})
	if err != nil {
		return nil, err
	}
	return &tokenbrokerv1.InvalidateResponse{Invalidated: int32(done.Count), CurrentTokenId: done.CurrentID}, nil //nolint:gosec // bounded by the tokens of one credential
}

func (s *tokens) WatchToken(r *tokenbrokerv1.WatchTokenRequest, stream grpc.ServerStreamingServer[tokenbrokerv1.WatchTokenResponse]) error {
	return s.watch(stream.Context(), r, stream.Send)
}

func (s *tokens) watch(ctx context.Context, r *tokenbrokerv1.WatchTokenRequest, send func(*tokenbrokerv1.WatchTokenResponse) error) error {
	sel, err := selection(r)
	if err != nil {
		return err
	}
	return s.broker.Watch(ctx, callerOf(ctx), engine.Request{
		Credential: broker.CredentialName(r.GetCredential()), Selection: sel, MinTTL: r.GetMinTtl().AsDuration(),
	}, r.GetKnownTokenId(), func(e engine.Event) error {
		m, err := eventMessage(e)
		if err != nil {
			return err
		}
		if err := send(m); err != nil {
			if broker.KindOf(err) != broker.Internal {
				return err
			}
			return &broker.Failure{Kind: broker.Canceled}
		}
		return nil
	})
}

// current is what a watch has to know by now.
func (s *tokens) current(ctx context.Context, r *tokenbrokerv1.WatchTokenRequest) (*tokenbrokerv1.Token, time.Duration, error) {
	sel, err := selection(r)
	if err != nil {
		return nil, 0, err
	}
	res, left, err := s.broker.Current(ctx, callerOf(ctx), engine.Request{
		Credential: broker.CredentialName(r.GetCredential()), Selection: sel, MinTTL: r.GetMinTtl().AsDuration(),
	})
	if err != nil {
		return nil, 0, err
	}
	shown, err := renderingOf(res.Rendering)
	if err != nil {
		return nil, 0, err
	}
	return shown.token, left, nil
}

func eventMessage(e engine.Event) (*tokenbrokerv1.WatchTokenResponse, error) {
	m := &tokenbrokerv1.WatchTokenResponse{}
	switch {
	case e.Token != nil:
		shown, err := renderingOf(e.Rendering)
		if err != nil {
			return nil, err
		}
		m.Event = &tokenbrokerv1.WatchTokenResponse_Token{Token: shown.token}
	case e.InvalidatedID != "":
		m.Event = &tokenbrokerv1.WatchTokenResponse_InvalidatedTokenId{InvalidatedTokenId: e.InvalidatedID}
	case e.Supply != nil:
		state := &tokenbrokerv1.TokenState{Degraded: e.Supply.Degraded}
		if f := e.Supply.Failure; f != nil {
			state.Reason, state.RetryTime = reasonOf(f.Kind), stamp(f.RetryAt)
		}
		m.Event = &tokenbrokerv1.WatchTokenResponse_State{State: state}
	}
	return m, nil
}
