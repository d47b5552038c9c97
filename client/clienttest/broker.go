// Package clienttest has a broker for tests of those who use package client: it has the tokens that a test says, and counts who asks.
package clienttest

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/client"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// A Broker listens on a loopback address until its test ends. It has no policy, and asks no upstream. Safe for concurrent use.
type Broker struct {
	addr string
	srv  *grpc.Server

	mu  sync.Mutex
	all map[string]*credential
}

type credential struct {
	issue func(n int) client.Token
	// current is the token that it has; nil: the next question brings one. issued is how many it has had.
	current *tokenbrokerv1.Token
	issued  int
	failure error
	asked   int
	// rejected are the ids that callers have rejected, in order.
	rejected []string
	changed  chan struct{}
	// gone is the last token that was invalidated.
	gone string
}

// New starts a broker.
func New(t testing.TB) *Broker {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &Broker{addr: l.Addr().String(), srv: grpc.NewServer(), all: map[string]*credential{}}
	tokenbrokerv1.RegisterTokenBrokerServiceServer(b.srv, service{b: b})
	done := make(chan error, 1)
	go func() { done <- b.srv.Serve(l) }()
	t.Cleanup(func() {
		b.srv.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b
}

// Target is for client.New.
func (b *Broker) Target() string { return b.addr }

// Stop ends the broker as if its process were killed.
func (b *Broker) Stop() { b.srv.Stop() }

// Client is a client of this broker, which is closed when the test ends.
func (b *Broker) Client(t testing.TB, options ...client.Option) *client.Client {
	t.Helper()
	c, err := client.New(b.addr, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Bearer are tokens for an API, as most have them: the nth is "CREDENTIAL-n", in an Authorization header, and lives an hour.
func Bearer(credential, baseURL string) func(n int) client.Token {
	return func(n int) client.Token {
		value := fmt.Sprintf("%s-%d", credential, n)
		return client.Token{AccessToken: value, TokenType: "Bearer", BaseURL: baseURL, Headers: []client.Field{{Name: "Authorization", Value: "Bearer " + value}}}
	}
}

// Has lets there be a credential. issue makes its nth token, from 1 on, when it is asked for, and again when that has ended or was dropped; it is called by one
// goroutine at a time. Without an ID the token gets one; without an ExpireTime it lives an hour; without a RefreshTime it is to be refreshed after four fifths of its life.
// Who watches the credential hears of it.
func (b *Broker) Has(name string, issue func(n int) client.Token) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c := b.of(name)
	c.issue, c.failure, c.current = issue, nil, nil
	c.stir()
}

// Fails has the credential answer with a status whose reason is one of the contract's, such as UPSTREAM_UNAVAILABLE, until Has is called again. retry is after how long callers
// may ask again; 0: they are told nothing.
func (b *Broker) Fails(name string, code codes.Code, reason string, retry time.Duration) {
	s := status.New(code, "the test says so")
	if with, err := s.WithDetails(&errdetails.ErrorInfo{Domain: "tokenbroker", Reason: reason}); err == nil {
		s = with
	}
	if with, err := s.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(retry)}); err == nil && retry > 0 {
		s = with
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.of(name).failure = s.Err()
}

// Invalidate drops the current token as an operator does: who watches is told, and whoever asks gets the next.
func (b *Broker) Invalidate(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.of(name).drop()
}

// Asked is how often GetToken was called for a credential, and Rejected which tokens callers have rejected, in order.
func (b *Broker) Asked(name string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.of(name).asked
}

// Rejected are the ids of the tokens of a credential that callers have rejected, in order.
func (b *Broker) Rejected(name string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]string(nil), b.of(name).rejected...)
}

// of is a credential, which need not be there; the caller holds mu.
func (b *Broker) of(name string) *credential {
	c := b.all[name]
	if c == nil {
		c = &credential{changed: make(chan struct{})}
		b.all[name] = c
	}
	return c
}

func (c *credential) stir() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *credential) drop() {
	if c.current != nil {
		c.gone, c.current = c.current.GetTokenId(), nil
		c.stir()
	}
}

// token is the current one, or the next; the caller holds the broker's mu.
func (c *credential) token(name string) (*tokenbrokerv1.Token, error) {
	if c.failure != nil {
		return nil, c.failure
	}
	if c.issue == nil {
		return nil, status.Errorf(codes.PermissionDenied, "there is no credential %s, or it is not yours", name)
	}
	now := time.Now()
	if c.current == nil || !now.Before(c.current.GetExpireTime().AsTime()) {
		c.issued++
		t := c.issue(c.issued)
		if t.ID == "" {
			t.ID = fmt.Sprintf("id-%d", c.issued)
		}
		if t.ExpireTime.IsZero() {
			t.ExpireTime = now.Add(time.Hour)
		}
		if t.RefreshTime.IsZero() {
			t.RefreshTime = now.Add(t.ExpireTime.Sub(now) * 4 / 5)
		}
		c.current = message(t)
		c.stir()
	}
	return c.current, nil
}

func message(t client.Token) *tokenbrokerv1.Token {
	m := &tokenbrokerv1.Token{
		AccessToken: t.AccessToken, TokenType: t.TokenType, ExpireTime: timestamppb.New(t.ExpireTime), RefreshTime: timestamppb.New(t.RefreshTime), TokenId: t.ID,
		Scopes: t.Scopes, BaseUrl: t.BaseURL, Attributes: t.Attributes, ExpirySource: tokenbrokerv1.ExpirySource_EXPIRY_SOURCE_UPSTREAM,
	}
	for _, f := range t.Headers {
		m.Headers = append(m.Headers, &tokenbrokerv1.Header{Name: f.Name, Value: f.Value})
	}
	for _, f := range t.Cookies {
		m.Cookies = append(m.Cookies, &tokenbrokerv1.Cookie{Name: f.Name, Value: f.Value})
	}
	for _, f := range t.Query {
		m.QueryParameters = append(m.QueryParameters, &tokenbrokerv1.QueryParameter{Name: f.Name, Value: f.Value})
	}
	return m
}

type service struct {
	tokenbrokerv1.UnimplementedTokenBrokerServiceServer
	b *Broker
}

// GetToken implements the contract.
func (s service) GetToken(_ context.Context, r *tokenbrokerv1.GetTokenRequest) (*tokenbrokerv1.GetTokenResponse, error) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	c := s.b.of(r.GetCredential())
	c.asked++
	if id := r.GetRejectedTokenId(); id != "" {
		c.rejected = append(c.rejected, id)
		if c.current.GetTokenId() == id {
			c.drop()
		}
	}
	t, err := c.token(r.GetCredential())
	if err != nil {
		return nil, err
	}
	return &tokenbrokerv1.GetTokenResponse{Token: t}, nil
}

// Invalidate implements the contract.
func (s service) Invalidate(_ context.Context, r *tokenbrokerv1.InvalidateRequest) (*tokenbrokerv1.InvalidateResponse, error) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	c := s.b.of(r.GetCredential())
	if t := c.current; t != nil && (r.GetAll() || r.GetTokenId() == t.GetTokenId() || r.GetAccessToken() != "" && r.GetAccessToken() == t.GetAccessToken()) {
		c.drop()
		return &tokenbrokerv1.InvalidateResponse{Invalidated: 1}, nil
	}
	return &tokenbrokerv1.InvalidateResponse{CurrentTokenId: c.current.GetTokenId()}, nil
}

// WatchToken implements the contract.
func (s service) WatchToken(r *tokenbrokerv1.WatchTokenRequest, stream grpc.ServerStreamingServer[tokenbrokerv1.WatchTokenResponse]) error {
	known := r.GetKnownTokenId()
	for {
		s.b.mu.Lock()
		c := s.b.of(r.GetCredential())
		gone := c.gone
		t, err := c.token(r.GetCredential())
		changed := c.changed
		s.b.mu.Unlock()
		if err != nil {
			return err
		}
		if known != "" && gone == known {
			if err := stream.Send(&tokenbrokerv1.WatchTokenResponse{Event: &tokenbrokerv1.WatchTokenResponse_InvalidatedTokenId{InvalidatedTokenId: known}}); err != nil {
				return err
			}
		}
		if t.GetTokenId() != known {
			known = t.GetTokenId()
			if err := stream.Send(&tokenbrokerv1.WatchTokenResponse{Event: &tokenbrokerv1.WatchTokenResponse_Token{Token: t}}); err != nil {
				return err
			}
		}
		select {
		case <-changed:
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		}
	}
}
