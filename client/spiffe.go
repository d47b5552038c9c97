package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// WithSPIFFE speaks mutual TLS with a broker that has this SPIFFE ID, such as "spiffe://corp.example/tokenbroker", by X.509-SVIDs and bundles of the SPIFFE Workload API. They
// are followed: what rotates counts for each connection that is made from then on. socket is where the API is, as "unix:///run/spire/agent.sock"; empty: where the
// environment says (SPIFFE_ENDPOINT_SOCKET). The API is asked when the first connection is made; while it does not answer, calls fail with codes.Unavailable, and say so.
func WithSPIFFE(broker, socket string) Option {
	return func(s *settings) error {
		id, err := spiffeid.FromString(broker)
		if err != nil {
			return fmt.Errorf("the broker's SPIFFE ID %q: %w", broker, err)
		}
		if socket == "" {
			if socket, _ = workloadapi.GetDefaultAddress(); socket == "" {
				return errors.New("where the SPIFFE Workload API is, nobody says: name its socket, or set " + workloadapi.SocketEnv)
			}
		}
		if err := workloadapi.ValidateAddress(socket); err != nil {
			return fmt.Errorf("the SPIFFE Workload API %q: %w", socket, err)
		}
		w := &workload{broker: id, socket: socket, turn: make(chan struct{}, 1)}
		s.closers = append(s.closers, w.Close)
		return s.speak(perConnection{w.config})
	}
}

// agentTimeout is how long an agent that is not there, or has no certificate for this service, is waited for before it is said.
const agentTimeout = 3 * time.Second

// A workload has an X509Source from the first connection on.
type workload struct {
	broker spiffeid.ID
	socket string
	// turn has a value while somebody has the two below.
	turn   chan struct{}
	source *workloadapi.X509Source
	closed bool
}

func (w *workload) config(ctx context.Context) (*tls.Config, error) {
	select {
	case w.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, w.silent(ctx.Err())
	}
	defer func() { <-w.turn }()
	if w.closed {
		return nil, ErrClosed
	}
	if w.source == nil {
		ctx, cancel := context.WithTimeout(ctx, agentTimeout)
		defer cancel()
		source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(w.socket)))
		if err != nil {
			return nil, w.silent(err)
		}
		w.source = source
	}
	return tlsconfig.MTLSClientConfig(w.source, w.source, tlsconfig.AuthorizeID(w.broker)), nil
}

func (w *workload) silent(err error) error {
	return fmt.Errorf("the SPIFFE Workload API at %s has given no certificate: %w", w.socket, err)
}

// Close comes after the connection's own: no handshake begins any more.
func (w *workload) Close() error {
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	if w.closed = true; w.source == nil {
		return nil
	}
	return w.source.Close()
}
