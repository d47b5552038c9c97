package product

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

var services = []string{
	tokenbrokerv1.TokenBrokerService_ServiceDesc.ServiceName, tokenbrokerv1.CredentialService_ServiceDesc.ServiceName,
	tokenbrokerv1.ProviderService_ServiceDesc.ServiceName,
}

func TestAPanicIsOneCallersInternalErrorAndNobodyElses(t *testing.T) {
	r, s := newSpiedRig(t, rigOptions{})
	a := r.account(upstreamsim.OfficeRnD)
	r.create("main", a)
	tok := r.mustGet("main")
	s.setPanics(func(string) { panic("for a test") })
	got := refuse(t, r.credentials.CreateCredential, &create{Credential: &cred{Name: "other", Provider: "officernd", Inputs: a.Inputs}, Secrets: a.Secrets})
	got.want(t, codes.Internal, "INTERNAL")
	if strings.Contains(got.text, "for a test") {
		t.Errorf("got %s, want nothing of the panic", got.text)
	}
	stream := r.watch(testContext(t), &tokenbrokerv1.WatchTokenRequest{Credential: "main", Scopes: []string{"officernd.api.write"}})
	r.ended(stream).want(t, codes.Internal, "INTERNAL")
	if r.mustGet("main").GetTokenId() != tok.GetTokenId() {
		t.Error("the panic cost another caller's token")
	}
	s.setPanics(nil)
	if n := strings.Count(string(r.log.Bytes()), "panicked"); n != 2 {
		t.Errorf("got %d lines about two panics:\n%s", n, r.log.Bytes())
	}
}

func TestHealthIsPerServiceAndEndsFirst(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.create("main", r.account(upstreamsim.OfficeRnD))
	health := healthv1.NewHealthClient(r.conn)
	for _, name := range append(slices.Clone(services), "") {
		res := do(t, health.Check, &healthv1.HealthCheckRequest{Service: name})
		if res.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("%q: got %v, want SERVING", name, res.GetStatus())
		}
	}
	if _, err := health.Check(testContext(t), &healthv1.HealthCheckRequest{Service: "nothing"}); status.Code(err) != codes.NotFound {
		t.Errorf("got %v, want NotFound for a service that is not there", err)
	}
	var watches []healthv1.Health_WatchClient
	for _, name := range services {
		w, err := health.Watch(testContext(t), &healthv1.HealthCheckRequest{Service: name})
		if err != nil {
			t.Fatal(err)
		}
		if res, err := w.Recv(); err != nil || res.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Fatalf("%s: got %v %v, want SERVING", name, res, err)
		}
		watches = append(watches, w)
	}
	stopping, cancel := context.WithCancel(testContext(t))
	stopped := make(chan error, 1)
	go func() { stopped <- r.server.Stop(stopping, time.Hour) }() // the time of grace ends with its context
	for i, w := range watches {
		if res, err := w.Recv(); err != nil || res.GetStatus() != healthv1.HealthCheckResponse_NOT_SERVING {
			t.Errorf("%s: got %v %v, want NOT_SERVING", services[i], res, err)
		}
	}
	r.mustGet("main") // in the time of grace calls are served
	cancel()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestReflectionListsTheServices(t *testing.T) {
	r := newRig(t, rigOptions{})
	s, err := reflectionv1.NewServerReflectionClient(r.conn).ServerReflectionInfo(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	res, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, x := range res.GetListServicesResponse().GetService() {
		names = append(names, x.GetName())
	}
	for _, want := range append(slices.Clone(services), "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection") {
		if !slices.Contains(names, want) {
			t.Errorf("got %q, want %s among them", names, want)
		}
	}
	for _, want := range services {
		if err := s.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: want}}); err != nil {
			t.Fatal(err)
		}
		if res, err := s.Recv(); err != nil || len(res.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
			t.Errorf("%s: got %v %v, want its file", want, res, err)
		}
	}
	// A stream that is left open does not hold up the stop of the server.
	if err := r.server.Stop(testContext(t), 0); err != nil {
		t.Error(err)
	}
	_, err = s.Recv()
	refusalOf(err, s.Trailer()).want(t, codes.Unavailable, "SHUTTING_DOWN")
}

func TestARequestOfMoreThanAMebibyteIsRefused(t *testing.T) {
	r := newRig(t, rigOptions{})
	big := &tokenbrokerv1.ExplainProviderRequest{Name: "officernd", Inputs: map[string]string{"client_id": strings.Repeat("x", 1<<20)}}
	if _, err := r.providers.ExplainProvider(testContext(t), big); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("got %v, want ResourceExhausted", status.Code(err))
	}
	header := metadata.AppendToOutgoingContext(testContext(t), "x-much", strings.Repeat("x", 64<<10))
	if _, err := r.tokens.GetToken(header, &get{Credential: "main"}); err == nil || status.Code(err) == codes.NotFound {
		t.Errorf("got %v, want headers of 64 KiB refused", err)
	}
}

func TestTheCallersRequestIDComesBack(t *testing.T) {
	r := newRig(t, rigOptions{})
	ask := func(ids ...string) refusal {
		ctx := testContext(t)
		for _, id := range ids {
			ctx = metadata.AppendToOutgoingContext(ctx, "x-request-id", id)
		}
		got := r.refused(ctx, &get{Credential: "nobody"})
		got.want(t, codes.NotFound, "NOT_FOUND")
		return got
	}
	if got := ask("req-4711/a").request.GetRequestId(); got != "req-4711/a" {
		t.Errorf("got %q, want the caller's own", got)
	}
	if !strings.Contains(string(r.log.Bytes()), "req-4711/a") {
		t.Error("the log does not have the request id")
	}
	drawn := map[string]bool{}
	for _, ids := range [][]string{{}, {""}, {strings.Repeat("x", 65)}, {"a b"}, {"one", "two"}} {
		got := ask(ids...).request.GetRequestId()
		if slices.Contains(ids, got) || len(got) != 16 || drawn[got] {
			t.Errorf("%q: got %q, want one that was drawn", ids, got)
		}
		drawn[got] = true
	}
}

// A farListener's connections come from another machine.
type farListener struct {
	net.Listener
	from net.Addr
}

type farConn struct {
	net.Conn
	from net.Addr
}

func (c farConn) RemoteAddr() net.Addr { return c.from }

func (l farListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return farConn{c, l.from}, nil
}

func TestAPeerFromElsewhereIsDeniedEverything(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.create("main", r.account(upstreamsim.OfficeRnD))
	for _, from := range []net.Addr{
		&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}, &net.TCPAddr{IP: net.ParseIP("2001:db8::1"), Port: 1},
		&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1},
	} {
		l := bufconn.Listen(1 << 16)
		r.serving.Go(func() { _ = r.server.Serve(farListener{l, from}) })
		conn, err := grpc.NewClient("passthrough:///far", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
		if err != nil {
			t.Fatal(err)
		}
		tokens, credentials, providers := tokenbrokerv1.NewTokenBrokerServiceClient(conn), tokenbrokerv1.NewCredentialServiceClient(conn), tokenbrokerv1.NewProviderServiceClient(conn)
		stream, err := tokens.WatchToken(testContext(t), &tokenbrokerv1.WatchTokenRequest{Credential: "main"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		for i, got := range []refusal{
			refusalOf(err, stream.Trailer()),
			refuse(t, tokens.GetToken, &get{Credential: "main"}),
			refuse(t, tokens.GetToken, &get{Credential: "nobody"}), // the same: it does not tell what is there
			refuse(t, tokens.Invalidate, &tokenbrokerv1.InvalidateRequest{Credential: "main", Target: &tokenbrokerv1.InvalidateRequest_All{All: true}}),
			refuse(t, credentials.CreateCredential, &create{Credential: &cred{Name: "other"}}),
			refuse(t, credentials.GetCredential, &tokenbrokerv1.GetCredentialRequest{Name: "main"}),
			refuse(t, credentials.ListCredentials, &tokenbrokerv1.ListCredentialsRequest{}),
			refuse(t, credentials.UpdateCredential, &update{Credential: &cred{Name: "main"}}),
			refuse(t, credentials.DeleteCredential, &tokenbrokerv1.DeleteCredentialRequest{Name: "main"}),
			refuse(t, credentials.RotateSecret, &tokenbrokerv1.RotateSecretRequest{Name: "main", Secrets: map[string]string{"client_secret": "x"}}),
			refuse(t, credentials.RetireSecret, &tokenbrokerv1.RetireSecretRequest{Name: "main"}),
			refuse(t, credentials.TestCredential, &tokenbrokerv1.TestCredentialRequest{Name: "main"}),
			refuse(t, credentials.GetCredentialStatus, &tokenbrokerv1.GetCredentialStatusRequest{Name: "main"}),
			refuse(t, providers.ListProviders, &tokenbrokerv1.ListProvidersRequest{}),
			refuse(t, providers.GetProvider, &tokenbrokerv1.GetProviderRequest{Name: "officernd"}),
			refuse(t, providers.ExplainProvider, &tokenbrokerv1.ExplainProviderRequest{Name: "officernd"}),
		} {
			if got.code != codes.PermissionDenied {
				t.Fatalf("%v, call %d: %s", from, i, got.text)
			}
			got.want(t, codes.PermissionDenied, "CALLER_NOT_ALLOWED")
		}
		listing, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := listing.Recv(); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%v: reflection answers %v, want PermissionDenied", from, err)
		}
		_ = conn.Close()
	}
	r.mustGet("main")
}

func TestAStopLetsARunningExchangeCommit(t *testing.T) {
	o := rigOptions{}
	r := newRig(t, o)
	a := r.account(upstreamsim.RefreshToken)
	r.create("main", a)
	gate := r.sim.HoldAnswers(upstreamsim.RefreshToken) // the refresh token is spent, and its successor is on the way
	ctx, cancel := context.WithCancel(testContext(t))
	gone := make(chan error, 1)
	go func() {
		_, err := r.tokens.GetToken(ctx, &get{Credential: "main"})
		gone <- err
	}()
	if err := gate.WaitArrived(testContext(t), 1); err != nil {
		t.Fatal(err)
	}
	health, err := healthv1.NewHealthClient(r.conn).Watch(testContext(t), &healthv1.HealthCheckRequest{Service: services[0]})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := health.Recv(); err != nil {
		t.Fatal(err)
	}
	cancel() // and nobody waits for it any more
	if err := <-gone; status.Code(err) != codes.Canceled {
		t.Errorf("got %v, want Canceled", err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- r.server.Stop(testContext(t), 0) }()
	for { // whoever watches health does not hold up the stop
		if _, err := health.Recv(); err != nil {
			refusalOf(err, health.Trailer()).want(t, codes.Unavailable, "SHUTTING_DOWN")
			break
		}
	}
	gate.Release()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	r.stop()
	r.start(o)
	asked := r.sim.Stats(a.ID).Total()
	tok := r.mustGet("main")
	if n := r.sim.Stats(a.ID).Total(); n != asked || !r.sim.Valid(a.System, tok.GetAccessToken()) {
		t.Errorf("got %d requests after the restart, want none: the exchange was committed", n-asked)
	}
	r.invalidate("main", tok.GetTokenId())
	r.mustGet("main")
	if n := r.wantNewestPresented(a); n != 2 {
		t.Errorf("got %d refreshes, want 2", n)
	}
}

func TestAStopThatRunsOutOfTimeLetsEveryCallerGo(t *testing.T) {
	r := newRig(t, rigOptions{})
	r.create("main", r.account(upstreamsim.OfficeRnD))
	gate := r.sim.Hold(upstreamsim.OfficeRnD)
	defer gate.Release()
	gone := make(chan error, 1)
	go func() {
		_, err := r.tokens.GetToken(testContext(t), &get{Credential: "main"})
		gone <- err
	}()
	if err := gate.WaitArrived(testContext(t), 1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(testContext(t))
	cancel()
	if err := r.server.Stop(ctx, 0); err != nil {
		t.Errorf("got %v, want nothing lost: no refresh token was on the way", err)
	}
	if err := <-gone; status.Code(err) != codes.Unavailable {
		t.Errorf("got %v, want Unavailable", err)
	}
}
