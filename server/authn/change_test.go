package authn_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/devcerts"
	"github.com/tokenbroker/tokenbroker/internal/installed"
	"github.com/tokenbroker/tokenbroker/server/authn"
)

func getToken(t testing.TB, conn *grpc.ClientConn) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := tokenbrokerv1.NewTokenBrokerServiceClient(conn).GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: "main"})
	return err
}

// watch opens a watch, and returns what says how it has ended.
func watch(t *testing.T, conn *grpc.ClientConn) <-chan error {
	t.Helper()
	s, err := tokenbrokerv1.NewTokenBrokerServiceClient(conn).WatchToken(t.Context(), &tokenbrokerv1.WatchTokenRequest{Credential: "main"})
	if err == nil {
		_, err = s.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := s.Recv(); err != nil {
				ended <- err
				return
			}
		}
	}()
	return ended
}

// soon is how long what ends during a test counts, at least a second less where it is written in whole seconds: a busy machine has to use it first.
const soon = 5 * time.Second

// within waits for something that takes as long as files are looked at.
func within[T any](t testing.TB, c <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(30 * time.Second):
		t.Fatal(what)
	}
	return v
}

func open(t testing.TB, c <-chan error) {
	t.Helper()
	select {
	case err := <-c:
		t.Fatalf("the watch has ended: %v", err)
	default:
	}
}

// once is a client that does not connect again: what it says is of the one connection that it has.
func (r *rig) once(door string, c *tls.Config) *grpc.ClientConn {
	r.t.Helper()
	first := true
	conn := must[*grpc.ClientConn](r.t)(grpc.NewClient("passthrough:///"+r.addr[door], grpc.WithTransportCredentials(credentials.NewTLS(c)),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			if !first {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			first = false
			return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		})))
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestAnAuthorityThatIsReplaced: while the former one and the new one are trusted, nobody is disturbed. When the former one is not any more, the
// connections of its certificates end, and the others stay.
func TestAnAuthorityThatIsReplaced(t *testing.T) {
	r := newRig(t)
	former, next := r.ca, must[*devcerts.Authority](t)(devcerts.NewAuthority("next", trustDomain, time.Hour))
	byFormer, byNext := r.svid(cart), issue(t, next, time.Hour, uris(cart))
	old := r.once("services", r.config(&byFormer))
	watched := watch(t, old)
	if err := getToken(t, r.dial("services", r.config(&byNext))); status.Code(err) != codes.Unavailable {
		t.Errorf("before it is trusted: %v", err)
	}

	changed := r.auth["services"].Changes()
	r.write("ca.pem", slices.Concat(former.PEM(), next.PEM()))
	within(t, changed, "the file is not read again")
	young := r.once("services", r.config(&byNext))
	if err := getToken(t, young); err != nil {
		t.Errorf("both are trusted: %v", err)
	}
	if err := getToken(t, old); err != nil {
		t.Errorf("both are trusted: %v", err)
	}
	open(t, watched)
	watchedToo := watch(t, young)

	r.write("ca.pem", next.PEM())
	if err := within(t, watched, "a watch goes on whose authority is trusted no more"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("got %v", err)
	}
	if err := getToken(t, old); status.Code(err) != codes.Unauthenticated && status.Code(err) != codes.Unavailable {
		t.Errorf("on the connection, which ends: %v", err)
	}
	if err := getToken(t, r.dial("services", r.config(&byFormer))); status.Code(err) != codes.Unavailable {
		t.Errorf("after it is trusted no more: %v", err)
	}
	if err := getToken(t, young); err != nil {
		t.Errorf("the new one: %v", err)
	}
	open(t, watchedToo)
	if log := r.log.String(); !strings.Contains(log, "trusted no more") || !strings.Contains(log, cart) {
		t.Errorf("the log does not say whose connections were closed: %s", log)
	}
}

// TestTheBrokersOwnCertificateIsReplaced: who is connected stays, and who connects is shown the new one. A pair that does not fit, or a file that is half
// there, leaves the former one, and the log says so once.
func TestTheBrokersOwnCertificateIsReplaced(t *testing.T) {
	r := newRig(t)
	p := r.svid(cart)
	conn := r.once("services", r.config(&p))
	watched := watch(t, conn)
	own := must[*devcerts.Authority](t)(devcerts.NewAuthority("serving too", "", time.Hour))
	pair := must[devcerts.Pair](t)(own.Issue(time.Hour, devcerts.Loopback))

	for _, broken := range [][]byte{pair.Certificate, []byte("-----BEGIN CERTIFICATE-----\nAAAA")} {
		r.write("tls.crt", broken)
		before := strings.Count(r.log.String(), "certificates not reloaded")
		for patience := time.After(20 * time.Second); strings.Count(r.log.String(), "certificates not reloaded") == before; {
			select {
			case <-time.After(20 * time.Millisecond):
			case <-patience:
				t.Fatal("what is broken is not said")
			}
		}
		if err := getToken(t, r.dial("services", r.config(&p))); err != nil {
			t.Errorf("with %.30q in its place: %v", broken, err)
		}
	}
	changed := r.auth["services"].Changes()
	r.write("tls.key", pair.Key)
	r.write("tls.crt", pair.Certificate)
	within(t, changed, "the file is not read again")
	open(t, watched)
	if err := getToken(t, conn); err != nil {
		t.Error(err)
	}
	if err := getToken(t, r.dial("services", r.config(&p))); status.Code(err) != codes.Unavailable {
		t.Errorf("it still shows the former one: %v", err)
	}
	r.write("serving.pem", own.PEM())
	if err := getToken(t, r.dial("services", r.config(&p))); err != nil {
		t.Error(err)
	}
}

// TestWhatIsTakenAwayIsGoneWhateverElseIsBroken: an authority that is trusted no more is not trusted on because another file is broken.
func TestWhatIsTakenAwayIsGoneWhateverElseIsBroken(t *testing.T) {
	next := must[*devcerts.Authority](t)(devcerts.NewAuthority("next", trustDomain, time.Hour))
	company := must[*devcerts.Authority](t)(devcerts.NewAuthority("company", "", time.Hour))
	damaged := bytes.Replace(company.PEM(), []byte("MII"), []byte("M*I"), 1)
	for name, broken := range map[string]func(r *rig){
		"its own certificate":              func(r *rig) { r.write("tls.crt", []byte("-----BEGIN CERTIFICATE-----\nAAAA")) },
		"another authority":                func(r *rig) { r.write("company.pem", nil) },
		"another authority, in one of two": func(r *rig) { r.write("company.pem", slices.Concat(next.PEM(), damaged)) },
		"another authority, cut off":       func(r *rig) { r.write("company.pem", slices.Concat(next.PEM(), company.PEM()[:12])) },
		"a key in another authority's file": func(r *rig) {
			r.write("company.pem", slices.Concat(company.PEM(), []byte("-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRigOf(t, func(s *authn.Settings) {
				s.Trust = append(s.Trust, authn.Trust{Name: "company", CAFile: filepath.Join(filepath.Dir(s.CertFile), "company.pem"), Kind: broker.DNS, Names: []string{"*.example"}})
				writeTo(t, filepath.Dir(s.CertFile), "company.pem", company.PEM())
			})
			p := r.svid(cart)
			of := issue(t, company, time.Hour, func(c *x509.Certificate) { c.DNSNames = []string{"a.example"} })
			other := r.once("services", r.config(&of))
			watched, watchedToo := watch(t, r.once("services", r.config(&p))), watch(t, other)
			broken(r)
			r.write("ca.pem", next.PEM())
			within(t, watched, "a watch goes on whose authority is trusted no more")
			if err := getToken(t, r.dial("services", r.config(&p))); status.Code(err) != codes.Unavailable {
				t.Errorf("got %v", err)
			}
			open(t, watchedToo)
			if err := getToken(t, other); err != nil {
				t.Errorf("what is broken is not as it was: %v", err)
			}
		})
	}
}

// TestACertificateThatEnds takes its connection along, with the watch on it.
func TestACertificateThatEnds(t *testing.T) {
	r := newRig(t)
	p := issue(t, r.ca, soon, uris(cart))
	conn := r.once("services", r.config(&p))
	watched := watch(t, conn)
	began := time.Now()
	if err := within(t, watched, "a watch goes on whose certificate has ended"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("got %v", err)
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("it took %v", d)
	}
	if err := getToken(t, r.dial("services", r.config(&p))); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}

// TestWhoWaitsIsTold: a call that waits for an exchange ends when what proves its caller does, and is told so: the connection does not just break.
func TestWhoWaitsIsTold(t *testing.T) {
	m := newBearers(t)
	r := m.r
	next := must[*devcerts.Authority](t)(devcerts.NewAuthority("next", trustDomain, time.Hour))
	ends, replaced := issue(t, r.ca, soon, uris(cart)), r.svid("spiffe://corp.example/ns/shop/sa/other")
	waits := func(ctx context.Context, conn *grpc.ClientConn) <-chan error {
		ended := make(chan error, 1)
		go func() {
			ctx, cancel := context.WithTimeout(ctx, soon+10*time.Second)
			defer cancel()
			_, err := tokenbrokerv1.NewTokenBrokerServiceClient(conn).GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: "slow"})
			ended <- err
		}()
		return ended
	}
	bearer := bearing(t, "Bearer "+m.good(map[string]any{"exp": time.Now().Add(soon).Unix()}))
	all := map[string]<-chan error{
		"a certificate that ends": waits(t.Context(), r.once("services", r.config(&ends))),
		"an authority that goes":  waits(t.Context(), r.once("services", r.config(&replaced))),
		"a token that ends":       waits(bearer, r.once("services", r.config(nil))),
	}
	if err := within(t, all["a certificate that ends"], "who waits is not told"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a certificate that ends: got %v", err)
	}
	r.write("ca.pem", next.PEM())
	for _, name := range []string{"an authority that goes", "a token that ends"} {
		if err := within(t, all[name], "who waits is not told"); status.Code(err) != codes.Unauthenticated {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestNothingIsResumed: a session that is resumed would be let in by what was trusted before.
func TestNothingIsResumed(t *testing.T) {
	r := newRig(t)
	p := r.svid(cart)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		c := r.config(&p)
		c.ClientSessionCache, c.MaxVersion = tls.NewLRUClientSessionCache(8), version
		for range 3 {
			conn := must[*tls.Conn](t)(tls.Dial("tcp", r.addr["services"], c))
			_ = conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			_, _ = conn.Read(make([]byte, 1)) // tickets come after the handshake
			if conn.ConnectionState().DidResume {
				t.Errorf("version %x: a session was resumed", version)
			}
			_ = conn.Close()
		}
	}
}

// TestOnlyTLSIsSpoken: nothing older than 1.2, no other protocol in it, and nothing in the clear.
func TestOnlyTLSIsSpoken(t *testing.T) {
	r := newRig(t)
	p := r.svid(cart)
	for name, edit := range map[string]func(*tls.Config){
		"TLS 1.1":  func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS11, tls.VersionTLS11 },
		"HTTP/1.1": func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} },
		"no ALPN":  func(c *tls.Config) { c.NextProtos = nil },
	} {
		c := r.config(&p)
		edit(c)
		conn, err := tls.Dial("tcp", r.addr["services"], c)
		if err == nil {
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, _ = conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
			n, readErr := conn.Read(make([]byte, 100))
			if n > 0 || readErr == nil {
				t.Errorf("%s: answered", name)
			}
			_ = conn.Close()
		}
	}
	raw := must[net.Conn](t)(net.Dial("tcp", r.addr["services"]))
	defer func() { _ = raw.Close() }()
	_, _ = raw.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"))
	_ = raw.SetReadDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 100)
	if n, _ := raw.Read(buf); n > 7 {
		t.Errorf("what comes in the clear is answered: %q", buf[:n])
	}
}

// TestHandshakesThatAreLeftHalfDone keep nobody out but those of the same machine.
func TestHandshakesThatAreLeftHalfDone(t *testing.T) {
	r := newRig(t)
	from := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	for range 600 {
		c, err := from.Dial("tcp", r.addr["services"])
		if err != nil {
			installed.Without(t, "there is no second loopback address here: %v", err)
		}
		defer func() { _ = c.Close() }()
	}
	p := r.svid(cart)
	began := time.Now()
	if err := getToken(t, r.dial("services", r.config(&p))); err != nil {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}

// TestACallerIsWhoItWasAtItsOwnListener: the same certificate is another caller at each, for whoever decides.
func TestACallerIsWhoItWasAtItsOwnListener(t *testing.T) {
	r := newRig(t)
	p := r.svid(cart, func(c *x509.Certificate) { c.DNSNames = []string{"localhost"} })
	for _, door := range []string{"services", "operators"} {
		var got broker.Caller
		r.rules.set(func(a broker.Access) bool {
			got = broker.Caller{Identity: a.Caller.Identity, Kind: a.Caller.Kind, Authority: a.Caller.Authority, Name: a.Caller.Name, Proof: a.Caller.Proof, Listener: a.Caller.Listener}
			return true
		})
		if err := getToken(t, r.dial(door, r.config(&p))); err != nil {
			t.Fatal(err)
		}
		if got.Identity != cart || got.Kind != broker.SPIFFE || got.Authority != trustDomain || got.Name != "ns/shop/sa/cart" || got.Proof != broker.ProofX509 || got.Listener != door {
			t.Errorf("got %+v", &got)
		}
	}
}

// TestMoreCertificatesThanACallerNeeds are refused before anything is computed.
func TestMoreCertificatesThanACallerNeeds(t *testing.T) {
	r := newRig(t)
	for _, n := range []int{5, 6, 100} {
		p := r.svid(cart)
		for range n {
			p.Certificate = slices.Concat(p.Certificate, r.ca.PEM())
		}
		err := getToken(t, r.dial("services", r.config(&p)))
		if fits := n <= 5; fits != (err == nil) {
			t.Errorf("with %d more: %v", n, err)
		}
	}
}
