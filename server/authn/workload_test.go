package authn_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/client"
	"github.com/tokenbroker/tokenbroker/internal/devcerts"
	"github.com/tokenbroker/tokenbroker/server/authn"
)

// An agent is a SPIFFE Workload API by the published server stub: strict about the header that the specification wants, and it pushes what it is given.
type agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	mu     sync.Mutex
	now    *workload.X509SVIDResponse
	change chan struct{}
}

func (a *agent) FetchX509SVID(_ *workload.X509SVIDRequest, s grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	if md, _ := metadata.FromIncomingContext(s.Context()); len(md.Get("workload.spiffe.io")) != 1 || md.Get("workload.spiffe.io")[0] != "true" {
		return status.Error(codes.InvalidArgument, "security header missing from request")
	}
	for {
		a.mu.Lock()
		now, change := a.now, a.change
		a.mu.Unlock()
		if err := s.Send(now); err != nil {
			return err
		}
		select {
		case <-change:
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

func der(t testing.TB, data []byte) (out []byte) {
	t.Helper()
	for {
		var b *pem.Block
		if b, data = pem.Decode(data); b == nil {
			return out
		}
		out = append(out, b.Bytes...)
	}
}

// give pushes a certificate for the broker, and the bundles of its own trust domain and of others.
func (a *agent) give(t testing.TB, p devcerts.Pair, own []byte, federated map[string][]byte) {
	t.Helper()
	out := &workload.X509SVIDResponse{
		Svids:            []*workload.X509SVID{{SpiffeId: "spiffe://corp.example/tokenbroker", X509Svid: der(t, p.Certificate), X509SvidKey: der(t, p.Key), Bundle: der(t, own)}},
		FederatedBundles: map[string][]byte{},
	}
	for domain, b := range federated {
		out.FederatedBundles["spiffe://"+domain] = der(t, b)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.now = out
	if a.change != nil {
		close(a.change)
	}
	a.change = make(chan struct{})
}

// TestTheWorkloadAPI gives the broker its certificate and the authorities of its own trust domain and of a federated one that is named. Those of others, it
// may have as many as it likes, are believed nothing. What it takes back ends.
func TestTheWorkloadAPI(t *testing.T) {
	authority := func(domain string) *devcerts.Authority {
		return must[*devcerts.Authority](t)(devcerts.NewAuthority(domain, domain, time.Hour))
	}
	corp, partner, stranger := authority("corp.example"), authority("partner.example"), authority("stranger.example")
	own := issue(t, corp, time.Hour, uris("spiffe://corp.example/tokenbroker"), devcerts.Loopback)
	a := &agent{}
	federated := map[string][]byte{"partner.example": partner.PEM(), "stranger.example": stranger.PEM()}
	a.give(t, own, corp.PEM(), federated)
	at := a.speaks(t)
	r := newRigOf(t, func(s *authn.Settings) {
		s.CertFile, s.KeyFile, s.WorkloadAPI = "", "", at
		s.Trust = []authn.Trust{{Name: "corp", TrustDomain: "corp.example"}, {Name: "partner", TrustDomain: "partner.example"}}
	})
	r.write("serving.pem", corp.PEM())
	client := func(ca *devcerts.Authority, id string) *grpc.ClientConn {
		p := issue(t, ca, time.Hour, uris(id))
		return r.once("services", r.config(&p))
	}
	cartOf, partnerOf := client(corp, cart), client(partner, "spiffe://partner.example/billing")
	for name, conn := range map[string]*grpc.ClientConn{"its own": cartOf, "a federated one": partnerOf} {
		if err := getToken(t, conn); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, conn := range map[string]*grpc.ClientConn{
		"one that is not named": client(stranger, "spiffe://stranger.example/x"), "a federated authority in another's name": client(partner, cart),
		"the own authority in a federated one's name": client(corp, "spiffe://partner.example/billing"),
	} {
		if err := getToken(t, conn); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}

	watched, watchedToo := watch(t, partnerOf), watch(t, cartOf)
	another := authority("partner.example")
	a.give(t, own, corp.PEM(), map[string][]byte{"partner.example": another.PEM()})
	if err := within(t, watched, "a watch goes on whose authority was taken back"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("got %v", err)
	}
	open(t, watchedToo)
	if err := getToken(t, client(another, "spiffe://partner.example/billing")); err != nil {
		t.Errorf("its new authority: %v", err)
	}

	next := issue(t, corp, 2*time.Hour, uris("spiffe://corp.example/tokenbroker"), devcerts.Loopback)
	changed := r.auth["services"].Changes()
	a.give(t, next, corp.PEM(), map[string][]byte{"partner.example": another.PEM()})
	within(t, changed, "the new certificate is not taken")
	open(t, watchedToo)
	want := must[*x509.Certificate](t)(x509.ParseCertificate(der(t, next.Certificate)))
	if got := r.shown("services"); !got.Equal(want) {
		t.Error("the former certificate is shown")
	}

	// A federation that is ended is believed no more, and what comes with it is taken all the same.
	last := issue(t, corp, 3*time.Hour, uris("spiffe://corp.example/tokenbroker"), devcerts.Loopback)
	watchedLast := watch(t, client(another, "spiffe://partner.example/billing"))
	a.give(t, last, corp.PEM(), nil)
	within(t, watchedLast, "a watch goes on whose federation was ended")
	if err := getToken(t, client(another, "spiffe://partner.example/billing")); status.Code(err) != codes.Unavailable {
		t.Errorf("after the federation was ended: %v", err)
	}
	open(t, watchedToo)
	if want := must[*x509.Certificate](t)(x509.ParseCertificate(der(t, last.Certificate))); !r.shown("services").Equal(want) {
		t.Error("its certificate of the same moment is not taken")
	}
}

// TestAPartnerWithMoreAuthoritiesOfANameThanCount: by a file and by federation, what was believed before stays, and others notice nothing. A broker that begins then has none of the
// federated ones, and begins; a file is its own, and has to be right.
func TestAPartnerWithMoreAuthoritiesOfANameThanCount(t *testing.T) {
	authority := func(domain string) *devcerts.Authority {
		return must[*devcerts.Authority](t)(devcerts.NewAuthority("root", domain, time.Hour)) // all of one name
	}
	corp, partner := authority("corp.example"), authority("partner.example")
	own := issue(t, corp, time.Hour, uris("spiffe://corp.example/tokenbroker"), devcerts.Loopback)
	var few, many []byte
	for n := range 17 {
		if n < 15 {
			few = append(few, authority("partner.example").PEM()...)
		}
		many = append(many, authority("partner.example").PEM()...)
	}
	few = append(few, partner.PEM()...)
	const says = `more than 16 authorities of the name \"CN=root\"`
	a := &agent{}
	a.give(t, own, corp.PEM(), map[string][]byte{"partner.example": many})
	at := a.speaks(t)
	file := ""
	r := newRigOf(t, func(s *authn.Settings) {
		file = writeTo(t, filepath.Dir(s.CertFile), "filed.pem", few)
		s.CertFile, s.KeyFile, s.WorkloadAPI = "", "", at
		s.Trust = []authn.Trust{{Name: "corp", TrustDomain: "corp.example"}, {Name: "partner", TrustDomain: "partner.example"}, {Name: "filed", CAFile: file, TrustDomain: "filed.example"}}
	})
	r.write("serving.pem", corp.PEM())
	client := func(ca *devcerts.Authority, id string) *grpc.ClientConn {
		p := issue(t, ca, time.Hour, uris(id))
		return r.once("services", r.config(&p))
	}
	const billing, filed = "spiffe://partner.example/billing", "spiffe://filed.example/billing"
	if err := getToken(t, client(corp, cart)); err != nil {
		t.Errorf("ours, where it has begun so: %v", err)
	}
	if err := getToken(t, client(partner, billing)); status.Code(err) != codes.Unavailable {
		t.Errorf("the partner, where it has begun so: %v", err)
	}
	if s := r.auth["services"].Status(); !s.Stale || !strings.Contains(r.log.String(), says) {
		t.Errorf("it is not said: %+v", s)
	}
	changed := r.auth["services"].Changes()
	a.give(t, own, corp.PEM(), map[string][]byte{"partner.example": few})
	within(t, changed, "as many as count are not taken")
	if s := r.auth["services"].Status(); s.Stale {
		t.Error("it is stale still")
	}
	all := map[string]<-chan error{"ours": watch(t, client(corp, cart)), "federated": watch(t, client(partner, billing)), "of the file": watch(t, client(partner, filed))}
	stale := func(what string) {
		eventually(t, what+" is not read again", func() bool { return r.auth["services"].Status().Stale })
		for name, watched := range all {
			select {
			case err := <-watched:
				t.Errorf("%s: the watch of %s has ended: %v", what, name, err)
			default:
			}
		}
		for id, ca := range map[string]*devcerts.Authority{cart: corp, billing: partner, filed: partner} {
			if err := getToken(t, client(ca, id)); err != nil {
				t.Errorf("%s: %s: %v", what, id, err)
			}
		}
	}
	a.give(t, own, corp.PEM(), map[string][]byte{"partner.example": many})
	stale("the bundle")
	a.give(t, own, corp.PEM(), map[string][]byte{"partner.example": few})
	eventually(t, "the bundle is not read again", func() bool { return !r.auth["services"].Status().Stale })
	r.write("filed.pem", many)
	stale("the file")
	_, err := authn.New(t.Context(), authn.Settings{Listener: "services", WorkloadAPI: at, Trust: []authn.Trust{{Name: "filed", CAFile: file, TrustDomain: "filed.example"}}})
	if err == nil || !strings.Contains(err.Error(), `filed.pem has more than 16 authorities of the name "CN=root"`) {
		t.Errorf("a broker that begins with the file: got %v", err)
	}
}

// speaks serves an agent on a socket, and returns its address.
func (a *agent) speaks(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent.sock")
	l := must[net.Listener](t)(net.Listen("unix", path))
	srv := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(srv, a)
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	return "unix://" + path
}

// TestTheGoClientBySPIFFE: a service has the certificate of its agent, and the broker is held to its ID. An agent that is not there is named.
func TestTheGoClientBySPIFFE(t *testing.T) {
	corp := must[*devcerts.Authority](t)(devcerts.NewAuthority("corp", "corp.example", time.Hour))
	const broker = "spiffe://corp.example/tokenbroker"
	brokers, services := &agent{}, &agent{}
	brokers.give(t, issue(t, corp, time.Hour, uris(broker)), corp.PEM(), nil)
	at := brokers.speaks(t)
	r := newRigOf(t, func(s *authn.Settings) {
		s.CertFile, s.KeyFile, s.WorkloadAPI = "", "", at
		s.Trust = []authn.Trust{{Name: "corp", TrustDomain: "corp.example"}}
	})
	ask := func(id, socket string) error {
		c := must[*client.Client](t)(client.New(r.addr["services"], client.WithSPIFFE(id, socket)))
		defer c.Close()
		_, err := c.Source("main").Token(t.Context())
		return err
	}
	nobody := "unix://" + filepath.Join(t.TempDir(), "nobody.sock")
	if err := ask(broker, nobody); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), nobody) {
		t.Errorf("without an agent: %v", err)
	}
	services.give(t, issue(t, corp, time.Hour, uris(cart)), corp.PEM(), nil)
	socket := services.speaks(t)
	if err := ask(broker, socket); err != nil {
		t.Errorf("the service: %v", err)
	}
	if err := ask("spiffe://corp.example/another", socket); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), broker) {
		t.Errorf("a broker with another ID: %v", err)
	}
	t.Setenv("SPIFFE_ENDPOINT_SOCKET", socket)
	c := must[*client.Client](t)(client.New(r.addr["services"], client.WithSPIFFE(broker, "")))
	defer c.Close()
	if _, err := c.Source("main").Token(t.Context()); err != nil {
		t.Error(err)
	}
	for _, wrong := range [][2]string{{"corp.example/tokenbroker", socket}, {broker, "/run/agent.sock"}} {
		if _, err := client.New("127.0.0.1:1", client.WithSPIFFE(wrong[0], wrong[1])); err == nil {
			t.Errorf("%q is taken", wrong)
		}
	}
}

// TestNoWorkloadAPI: a broker that starts without one says where it looked.
func TestNoWorkloadAPI(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err := authn.New(ctx, authn.Settings{Listener: "services", WorkloadAPI: "unix://" + filepath.Join(t.TempDir(), "none"), Trust: []authn.Trust{{Name: "corp", TrustDomain: "corp.example"}}})
	if err == nil || !strings.Contains(err.Error(), "Workload API at unix://") {
		t.Errorf("got %v", err)
	}
}
