package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
	"weak"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// A Client is a connection to one or many brokers that share a store. Safe for concurrent use; the zero value is not ready: see New.
type Client struct {
	conn    *grpc.ClientConn
	tokens  tokenbrokerv1.TokenBrokerServiceClient
	closers []func() error
	// target is where the brokers are, as its caller has named it.
	target string
	// ctx ends when the Client is closed, and with it what goes on in the background, which all counts.
	ctx    context.Context //nolint:containedctx // the Client's life
	cancel context.CancelFunc

	mu     sync.Mutex
	closed bool
	all    sync.WaitGroup
	// sources are those that somebody has.
	sources map[kind]weak.Pointer[Source]
}

// ErrClosed is what a Source of a closed Client says.
var ErrClosed = errors.New("tokenbroker: the client is closed")

// serviceConfig spreads calls over all addresses that the target's name has, and repeats a call that could not be made, or that the broker has told to come
// again, when the broker says so (grpc-retry-pushback-ms). Calls of the broker are safe to repeat.
const serviceConfig = `{
  "loadBalancingConfig": [{"round_robin": {}}],
  "methodConfig": [{
    "name": [{"service": "tokenbroker.v1.TokenBrokerService", "method": "GetToken"}, {"service": "tokenbroker.v1.TokenBrokerService", "method": "Invalidate"}],
    "retryPolicy": {"maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "2s", "backoffMultiplier": 3, "retryableStatusCodes": ["UNAVAILABLE"]}
  }]
}`

// pingAfter is after how long a quiet connection is asked whether it is there, while calls or watches are open on it. Brokers allow one ping in ten seconds.
const pingAfter, pingTimeout = 30 * time.Second, 10 * time.Second

// connects is how soon a broker that was away is tried again. gRPC's own begins with a second, in which all of three may be restarted.
var connects = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second},
	MinConnectTimeout: 10 * time.Second,
}

// New returns a Client of the brokers at a target: "unix:PATH", "HOST:PORT", several of those with commas, or any name of gRPC's, as
// "dns:///tokenbroker.infra:7430", which may have several addresses. Calls are spread over all that answer. It connects when it is first asked for something. Beyond this machine it needs TLS: see WithTLSFiles and WithTLS. It fails where the options do not fit each other.
func New(target string, options ...Option) (*Client, error) {
	var s settings
	for _, o := range options {
		if err := o(&s); err != nil {
			return nil, fmt.Errorf("tokenbroker: %w", err)
		}
	}
	several := strings.Split(target, ",")
	if slices.ContainsFunc(several, func(a string) bool { return strings.HasPrefix(a, "http://") || strings.HasPrefix(a, "https://") }) {
		return nil, fmt.Errorf("tokenbroker: %q is no target of gRPC: write HOST:PORT", target)
	}
	transport := s.transport
	switch {
	case slices.ContainsFunc(several, func(a string) bool { return a == "" }):
		return nil, fmt.Errorf("tokenbroker: %q has an address that is empty", target)
	case transport == nil && !slices.ContainsFunc(several, func(a string) bool { return !onThisMachine(a) }):
		transport = insecure.NewCredentials()
		if s.bearer != nil {
			return nil, errors.New("tokenbroker: a bearer token is sent over TLS only: use WithTLSFiles with the authority's file")
		}
	case transport == nil:
		return nil, fmt.Errorf("tokenbroker: %s is beyond this machine: name the certificates by WithTLSFiles or WithTLS", target)
	}
	dial := []grpc.DialOption{
		grpc.WithTransportCredentials(transport), grpc.WithDefaultServiceConfig(serviceConfig),
		grpc.WithConnectParams(connects),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: pingAfter, Timeout: pingTimeout}),
	}
	if s.bearer != nil {
		dial = append(dial, grpc.WithPerRPCCredentials(s.bearer))
	}
	named := target
	if len(several) > 1 {
		r := manual.NewBuilderWithScheme("tokenbrokers")
		r.InitialState(resolver.State{Endpoints: endpoints(several)})
		target, dial = r.Scheme()+":///all", append(dial, grpc.WithResolvers(r))
	}
	conn, err := grpc.NewClient(target, append(dial, s.dial...)...)
	if err != nil {
		return nil, fmt.Errorf("tokenbroker: %w", err)
	}
	c := &Client{conn: conn, target: named, tokens: tokenbrokerv1.NewTokenBrokerServiceClient(conn), closers: s.closers}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// endpoints are brokers that were named one by one. Each shows a certificate of its own.
func endpoints(addresses []string) (all []resolver.Endpoint) {
	for _, a := range addresses {
		host, _, err := net.SplitHostPort(a)
		if err != nil {
			host = a
		}
		all = append(all, resolver.Endpoint{Addresses: []resolver.Address{{Addr: a, ServerName: host}}})
	}
	return all
}

// Conn is the connection, for calls that a Source does not make.
func (c *Client) Conn() *grpc.ClientConn { return c.conn }

// Close ends what goes on in the background, and the connection. Sources answer from memory for as long as what they have is good, and get nothing new.
func (c *Client) Close() error {
	c.mu.Lock()
	again := c.closed
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	err := c.conn.Close()
	c.all.Wait()
	if again {
		return err
	}
	for _, f := range c.closers {
		err = errors.Join(err, f())
	}
	return err
}

// goes has f called on a goroutine that Close waits for; false: it is closed.
func (c *Client) goes(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	c.all.Go(f)
	return true
}

// onThisMachine reports whether a target is a Unix socket or a loopback address.
func onThisMachine(target string) bool {
	if strings.HasPrefix(target, "unix:") || strings.HasPrefix(target, "unix-abstract:") {
		return true
	}
	target = strings.TrimPrefix(strings.TrimPrefix(target, "dns:///"), "passthrough:///")
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		host = target
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// settings are what options say.
type settings struct {
	transport credentials.TransportCredentials
	bearer    credentials.PerRPCCredentials
	dial      []grpc.DialOption
	// closers are called when the Client is closed, after its connection.
	closers []func() error
}

// An Option is for New.
type Option func(*settings) error

// WithDialOptions hands options to gRPC, after the Client's own: a stats handler for traces and metrics (otelgrpc.NewClientHandler), interceptors, another
// service config.
func WithDialOptions(o ...grpc.DialOption) Option {
	return func(s *settings) error {
		s.dial = append(s.dial, o...)
		return nil
	}
}
