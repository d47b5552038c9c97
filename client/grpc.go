package client

import (
	"context"
	"net/url"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
)

// PerRPC puts a Source's headers on calls of an API that speaks gRPC: grpc.WithPerRPCCredentials(source.PerRPC()). It wants TLS, and goes to the API's
// host alone, which the definition or WithOrigin names.
func (s *Source) PerRPC() credentials.PerRPCCredentials { return perRPC{s} }

type perRPC struct{ s *Source }

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (p perRPC) GetRequestMetadata(ctx context.Context, uri ...string) (map[string]string, error) {
	if i, ok := credentials.RequestInfoFromContext(ctx); ok {
		if err := credentials.CheckSecurityLevel(i.AuthInfo, credentials.PrivacyAndIntegrity); err != nil {
			return nil, status.Error(codes.Unauthenticated, errPlain.Error())
		}
	}
	t, err := p.s.Token(ctx)
	if err != nil {
		return nil, err
	}
	where := t.BaseURL
	if where == "" {
		where = p.s.origin
	}
	if !slices.ContainsFunc(uri, func(to string) bool { return sameOrigin(to, where) }) {
		return nil, status.Errorf(codes.Unauthenticated, "tokenbroker: %s has no tokens for this place: WithOrigin says where its API is", p.s.request.Credential)
	}
	if took, ok := ctx.Value(tookKey{}).(*Token); ok && took != nil {
		*took = *t
	}
	m := map[string]string{}
	for _, h := range t.Headers {
		m[strings.ToLower(h.Name)] = h.Value
	}
	return m, nil
}

func sameOrigin(a, b string) bool {
	x, err := url.Parse(a)
	y, wrong := url.Parse(b)
	return err == nil && wrong == nil && x.Host != "" && originOf(x) == originOf(y)
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (perRPC) RequireTransportSecurity() bool { return true }

type tookKey struct{}

// UnaryInterceptor makes a call once more, with another token, where the API answers UNAUTHENTICATED: grpc.WithUnaryInterceptor(source.UnaryInterceptor()), beside PerRPC.
func (s *Source) UnaryInterceptor() grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		took := &Token{}
		err := invoke(context.WithValue(ctx, tookKey{}, took), method, req, reply, cc, opts...)
		if status.Code(err) != codes.Unauthenticated || took.ID == "" {
			return err
		}
		s.Reject(took)
		if next, failed := s.Token(ctx); failed != nil || next.ID == took.ID {
			return err
		}
		return invoke(ctx, method, req, reply, cc, opts...)
	}
}
