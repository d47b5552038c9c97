package server

import (
	"context"

	"google.golang.org/grpc"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// tokens is TokenBrokerService.
type tokens struct {
	tokenbrokerv1.UnimplementedTokenBrokerServiceServer
	broker *broker.Broker
}

func (s *tokens) GetToken(ctx context.Context, r *tokenbrokerv1.GetTokenRequest) (*tokenbrokerv1.GetTokenResponse, error) {
	sel, err := selection(r)
	if err != nil {
		return nil, err
	}
	// The contract's pattern has been held against the name.
	res, err := s.broker.Token(ctx, callerOf(ctx), broker.Request{
		Credential: broker.CredentialName(r.GetCredential()), Selection: sel,
		MinTTL: r.GetMinTtl().AsDuration(), RejectedTokenID: r.GetRejectedTokenId(),
	})
	if err != nil {
		return nil, err
	}
	return &tokenbrokerv1.GetTokenResponse{Token: tokenMessage(res.Token), Degraded: res.Degraded}, nil
}

func (s *tokens) Invalidate(ctx context.Context, r *tokenbrokerv1.InvalidateRequest) (*tokenbrokerv1.InvalidateResponse, error) {
	sel, err := selection(r)
	if err != nil {
		return nil, err
	}
	done, err := s.broker.Invalidate(ctx, callerOf(ctx), broker.Invalidation{
		Credential: broker.CredentialName(r.GetCredential()), Selection: sel,
		TokenID: r.GetTokenId(), AccessToken: broker.NewSecret(r.GetAccessToken()), All: r.GetAll(),
	})
	if err != nil {
		return nil, err
	}
	return &tokenbrokerv1.InvalidateResponse{Invalidated: int32(done.Count), CurrentTokenId: done.CurrentID}, nil //nolint:gosec // bounded by the tokens of one credential
}

func (s *tokens) WatchToken(r *tokenbrokerv1.WatchTokenRequest, stream grpc.ServerStreamingServer[tokenbrokerv1.WatchTokenResponse]) error {
	sel, err := selection(r)
	if err != nil {
		return err
	}
	ctx := stream.Context()
	return s.broker.Watch(ctx, callerOf(ctx), broker.Request{
		Credential: broker.CredentialName(r.GetCredential()), Selection: sel, MinTTL: r.GetMinTtl().AsDuration(),
	}, r.GetKnownTokenId(), func(e broker.Event) error {
		if err := stream.Send(eventMessage(e)); err != nil {
			return &broker.Failure{Kind: broker.Canceled}
		}
		return nil
	})
}

func eventMessage(e broker.Event) *tokenbrokerv1.WatchTokenResponse {
	m := &tokenbrokerv1.WatchTokenResponse{}
	switch {
	case e.Token != nil:
		m.Event = &tokenbrokerv1.WatchTokenResponse_Token{Token: tokenMessage(e.Token)}
	case e.InvalidatedID != "":
		m.Event = &tokenbrokerv1.WatchTokenResponse_InvalidatedTokenId{InvalidatedTokenId: e.InvalidatedID}
	case e.Supply != nil:
		state := &tokenbrokerv1.TokenState{Degraded: e.Supply.Degraded}
		if f := e.Supply.Failure; f != nil {
			state.Reason, state.RetryTime = reasonOf(f.Kind), stamp(f.RetryAt)
		}
		m.Event = &tokenbrokerv1.WatchTokenResponse_State{State: state}
	}
	return m
}
