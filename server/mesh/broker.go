package mesh

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	procv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// Whom an Envoy calls for.
type Whom struct {
	// Principal is whom the Envoy's own TLS has shown, mostly a SPIFFE ID; empty: nobody whom it can name, who gets no token where Envoys are believed.
	Principal string
	// Envoy is set where its configuration says that it asks for itself, whoever its clients are: its call has the caller that any other RPC of it would.
	Envoy bool
}

// A Broker gives tokens as the RPC GetToken does. Safe for concurrent use.
type Broker interface {
	// GetTokenFor is GetToken for whom the Envoy calls that has made this call. It holds the request against the contract, and fails as the RPC does.
	GetTokenFor(ctx context.Context, whom Whom, r *tokenbrokerv1.GetTokenRequest) (*tokenbrokerv1.GetTokenResponse, error)
	// WatchFor is WatchToken for the Envoy itself: send is called by one goroutine at a time, and ends it by failing.
	WatchFor(ctx context.Context, r *tokenbrokerv1.WatchTokenRequest, send func(*tokenbrokerv1.WatchTokenResponse) error) error
	// CurrentFor is the token that such a watch is about, and for how long it is valid still. It fails as GetToken does, with UpstreamSlow where ctx ends before there is one.
	CurrentFor(ctx context.Context, r *tokenbrokerv1.WatchTokenRequest) (*tokenbrokerv1.Token, time.Duration, error)
	// Refused is what a failure looks like from outside, which it notes as of a call that has failed.
	Refused(ctx context.Context, err error) *status.Status
}

// Register has a server answer Envoys.
func Register(srv grpc.ServiceRegistrar, b Broker) {
	authv3.RegisterAuthorizationServer(srv, &authorization{broker: b})
	procv3.RegisterExternalProcessorServer(srv, &processor{broker: b})
	secretv3.RegisterSecretDiscoveryServiceServer(srv, &secrets{broker: b, clock: broker.NewClock(nil)})
}
