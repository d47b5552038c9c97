package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"buf.build/go/protovalidate"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/broker/trace"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/server/mesh"
)

// Settings are what a Server is made of. Broker, Providers and Authorizer are required; every other zero value is a default.
type Settings struct {
	Broker     *engine.Broker
	Providers  Providers
	Authorizer broker.Authorizer
	// Auditor is told who could not prove who they are, and what is denied of providers. Default: nobody is.
	Auditor broker.Auditor
	// Doors are those beside the one of this machine.
	Doors []Door
	// Log gets refused calls, and with debug all calls. Default: discarded.
	Log *slog.Logger
	// Ready says why no call can be answered yet; nil: it can. Health and reflection are, whatever it says. It is asked for each call. Default: it always can.
	Ready func() error
	// Metrics is shown on /metrics where ServeMetrics is called. Default: none.
	Metrics *Metrics
	// Tracer begins the traces of calls. Default: there are none.
	Tracer *trace.Tracer
	// MaxConcurrentStreams bounds the calls that run at a time on one connection; default DefaultConcurrentStreams.
	MaxConcurrentStreams uint32
	// MaxMessageBytes bounds a request; default DefaultMessageBytes.
	MaxMessageBytes int
	// MaxConnectionAge is the age at which clients are asked to reconnect, so that balancing below gRPC finds new replicas;
	// default DefaultConnectionAge.
	MaxConnectionAge time.Duration

	// Capacity bounds what is kept for those who are connected.
	Capacity Capacity

	// messageWithin is another bound than usual, for tests; 0: the usual one.
	messageWithin time.Duration
}

// What a zero value of Settings stands for. Help and documents are made of these, or held against them.
const (
	DefaultConcurrentStreams = 1000
	DefaultMessageBytes      = 1 << 20
	DefaultConnectionAge     = 30 * time.Minute
)

const (
	ageGrace       = time.Minute
	pingAfter      = 2 * time.Minute
	pingTimeout    = 20 * time.Second
	pingsNotFaster = 10 * time.Second

	windowBytes = 64 << 10

	// workers are goroutines that go from call to call: a new one for each call would spend a fifth of the call's time on
	// growing its stack. Calls that find all of them busy, with watches or exchanges, get one of their own.
	workers = 256
)

// A Server answers RPCs. Make one with New; safe for concurrent use.
type Server struct {
	// grpc is behind each door, by its name; the one of this machine has none.
	grpc    map[string]*grpc.Server
	peers   []*connections
	health  *health.Server
	broker  *engine.Broker
	metrics *Metrics
	log     *slog.Logger
	stop    context.CancelFunc
}

// New makes a Server. It listens nowhere yet, and must be stopped even if it never does.
func New(s Settings) (*Server, error) { return newServer(s) }

// newServer makes one with more options, the last of a kind is taken.
func newServer(s Settings, more ...grpc.ServerOption) (*Server, error) {
	if s.Log == nil {
		s.Log = slog.New(slog.DiscardHandler)
	}
	if s.Auditor == nil {
		s.Auditor = broker.Unaudited{}
	}
	validator, err := protovalidate.New(
		protovalidate.WithMessages(requests()...), protovalidate.WithDisableLazy())
	if err != nil {
		return nil, fmt.Errorf("compile the contract's limits: %w", err)
	}
	if s.messageWithin <= 0 {
		s.messageWithin = messageWithin
	}
	stopping, stop := context.WithCancel(context.Background())
	if s.Ready == nil {
		s.Ready = func() error { return nil }
	}
	e := &edge{ready: s.Ready, log: s.Log, audit: s.Auditor, metrics: s.Metrics, tracer: s.Tracer, validator: validator, within: s.messageWithin, stopping: stopping, strangers: rate.NewLimiter(10, 100)}
	panicked := recovery.WithRecoveryHandlerContext(e.recovered)
	e.recovering, e.recoveringStream = recovery.UnaryServerInterceptor(panicked), recovery.StreamServerInterceptor(panicked)
	out := &Server{grpc: map[string]*grpc.Server{}, health: health.NewServer(), broker: s.Broker, metrics: s.Metrics, log: s.Log, stop: stop}
	if s.Metrics != nil {
		s.Metrics.from.Store(&sources{s.Broker, s.Providers})
	}
	crowd := newCrowd(s.Capacity)
	// Clients wait by themselves for a place on their connection; one of them must not have all there is.
	s.MaxConcurrentStreams = min(orDefault(s.MaxConcurrentStreams, DefaultConcurrentStreams), uint32(max(100, crowd.most[calls]/4))) //nolint:gosec // it is bounded
	for _, d := range append([]Door{{}}, s.Doors...) {
		out.open(stopping, d, s, e, crowd, more)
	}
	for name := range out.grpc[""].GetServiceInfo() {
		out.health.SetServingStatus(name, healthv1.HealthCheckResponse_SERVING)
	}
	return out, nil
}

// open makes what is behind a door.
func (s *Server) open(stopping context.Context, d Door, from Settings, e *edge, all *crowd, more []grpc.ServerOption) {
	peers := newConnections(orDefault(from.MaxConcurrentStreams, DefaultConcurrentStreams))
	peers.audit = from.Auditor
	peers.door, peers.log, peers.within, peers.crowd = d, from.Log, from.messageWithin, all
	peers.room.most = int64(from.Capacity.orDefault().Connections)
	if d.Authenticate != nil || d.Tokens != nil {
		from.MaxConnectionAge = min(orDefault(from.MaxConnectionAge, DefaultConnectionAge), authenticatedAge)
		go peers.follow(stopping)
	}
	options := append(transportOptions(from), grpc.Creds(peers), grpc.InTapHandle(peers.opened), grpc.UnaryInterceptor(e.unary), grpc.StreamInterceptor(e.stream), grpc.ForceServerCodecV2(newCodec()))
	var srv *grpc.Server
	options = append(options, grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error { return unknownMethod(srv, stream) }))
	srv = grpc.NewServer(append(options, more...)...)
	t := &tokens{broker: s.broker}
	srv.RegisterService(t.desc(), t)
	mesh.Register(srv, &envoys{e, t})
	healthv1.RegisterHealthServer(srv, s.health)
	if !d.TokensOnly {
		tokenbrokerv1.RegisterCredentialServiceServer(srv, &credentials{broker: s.broker})
		tokenbrokerv1.RegisterProviderServiceServer(srv, &providers{from: from.Providers, authorize: from.Authorizer, audit: from.Auditor, key: s.broker.PageKey})
		reflection.RegisterV1(srv)
	}
	s.grpc[d.Name] = srv
	s.peers = append(s.peers, peers)
}

// unknownMethod answers for what there is not, as gRPC does by itself, but past the interceptors, which count the call.
func unknownMethod(of *grpc.Server, stream grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(stream)
	service, method, _ := strings.Cut(strings.TrimPrefix(full, "/"), "/")
	if _, there := of.GetServiceInfo()[service]; there {
		return status.Errorf(codes.Unimplemented, "unknown method %.100s for service %s", method, service)
	}
	return status.Errorf(codes.Unimplemented, "unknown service %.100s", service)
}

// transportOptions are of connections, messages and goroutines, whatever is served.
func transportOptions(s Settings) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxConcurrentStreams(orDefault(s.MaxConcurrentStreams, DefaultConcurrentStreams)),
		grpc.MaxRecvMsgSize(orDefault(s.MaxMessageBytes, DefaultMessageBytes)),
		grpc.MaxHeaderListSize(16 << 10),
		// As much of a message as crowd.go counts with, and no more for a connection that is fast.
		grpc.StaticStreamWindowSize(windowBytes), grpc.StaticConnWindowSize(16 * windowBytes),
		grpc.ConnectionTimeout(pingTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingsNotFaster, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: orDefault(s.MaxConnectionAge, DefaultConnectionAge), MaxConnectionAgeGrace: ageGrace, Time: pingAfter, Timeout: pingTimeout,
		}),
		grpc.WaitForHandlers(true),
		grpc.NumStreamWorkers(workers),
	}
}

func orDefault[T int | uint32 | time.Duration](v, d T) T {
	if v <= 0 {
		return d
	}
	return v
}

// Serve answers on the listener until Stop, at the door of this machine. Several may run at once.
func (s *Server) Serve(l net.Listener) error { return s.ServeDoor("", l) }

// ServeDoor is Serve at the door of a name.
func (s *Server) ServeDoor(name string, l net.Listener) error {
	srv, ok := s.grpc[name]
	if !ok {
		return fmt.Errorf("there is no door of the name %q", name)
	}
	return srv.Serve(l)
}

// SetServing says by health whether the broker can do its work. It can, unless this says otherwise.
func (s *Server) SetServing(serving bool) {
	status := healthv1.HealthCheckResponse_NOT_SERVING
	if serving {
		status = healthv1.HealthCheckResponse_SERVING
	}
	for name := range s.grpc[""].GetServiceInfo() {
		s.health.SetServingStatus(name, status)
	}
	s.health.SetServingStatus("", status)
}

// SetChanging says by health whether credentials can be changed: of a broker that serves what it has and can store nothing, this service alone is
// NOT_SERVING.
func (s *Server) SetChanging(changing bool) {
	status := healthv1.HealthCheckResponse_NOT_SERVING
	if changing {
		status = healthv1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus(tokenbrokerv1.CredentialService_ServiceDesc.ServiceName, status)
}

// Stop ends the server: health says NOT_SERVING, after grace new calls are refused, calls and exchanges that are under way
// finish, all bounded by ctx. Answers that nobody takes are not waited for. It fails when a new refresh token was lost.
func (s *Server) Stop(ctx context.Context, grace time.Duration) error {
	s.health.Shutdown()
	select {
	case <-time.After(grace):
	case <-ctx.Done():
	}
	s.stop() // whoever watches health or reflects has no end of their own
	done := make(chan struct{})
	go func() {
		var all sync.WaitGroup
		for _, srv := range s.grpc {
			all.Go(srv.GracefulStop)
		}
		all.Wait()
		close(done)
	}()
	err := s.broker.Close(ctx)
	for _, of := range s.peers {
		go of.finish(done)
	}
	select {
	case <-done:
	case <-ctx.Done():
		for _, srv := range s.grpc {
			srv.Stop()
		}
		<-done
	}
	return err
}

// ServeMetrics answers GET /metrics on the listener until ctx ends, to whoever asks this machine by its own name.
func (s *Server) ServeMetrics(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", ownHost(s.shown()))
	return ServeHTTP(ctx, l, mux, s.log)
}

// ServeProbes answers on the listener until ctx ends, whoever asks, by whichever name: GET /livez while the process answers, GET /readyz with 503 while
// health says that it is not serving, and GET /metrics. None of these is about a credential, or does anything.
func (s *Server) ServeProbes(ctx context.Context, l net.Listener) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", s.shown())
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		is, err := s.health.Check(r.Context(), &healthv1.HealthCheckRequest{})
		if err != nil || is.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			http.Error(w, healthv1.HealthCheckResponse_NOT_SERVING.String(), http.StatusServiceUnavailable)
			return
		}
		_, _ = io.WriteString(w, is.GetStatus().String()+"\n")
	})
	return ServeHTTP(ctx, l, mux, s.log)
}

// shown are the metrics, in Prometheus' format.
func (s *Server) shown() http.Handler {
	return promhttp.HandlerFor(s.metrics.Registry(), promhttp.HandlerOpts{EnableOpenMetrics: true})
}
