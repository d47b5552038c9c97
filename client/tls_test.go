package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tokenbroker/tokenbroker/client"
	"github.com/tokenbroker/tokenbroker/client/clienttest"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// authority signs certificates for localhost.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	der, key := a.sign(t, &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, a.key = cert, key
	a.pool.AddCert(cert)
	return a
}

func (a *authority) sign(t *testing.T, c *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.SerialNumber, c.NotBefore, c.NotAfter = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	parent, by := c, key
	if a.cert != nil {
		parent, by = a.cert, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	if err != nil {
		t.Fatal(err)
	}
	return der, key
}

// pair is a certificate of somebody, which servers on localhost can show, too.
func (a *authority) pair(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	der, private := a.sign(t, &x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

// put writes files into a directory, and returns their paths.
func put(t *testing.T, dir string, files map[string][]byte) func(string) string {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, data := range files {
		if err := os.WriteFile(at(name+".new"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(at(name+".new"), at(name)); err != nil {
			t.Fatal(err)
		}
	}
	return at
}

// strict is a broker that says by the token's name who has called.
type strict struct {
	tokenbrokerv1.UnimplementedTokenBrokerServiceServer
}

func (strict) GetToken(ctx context.Context, _ *tokenbrokerv1.GetTokenRequest) (*tokenbrokerv1.GetTokenResponse, error) {
	p, _ := peer.FromContext(ctx)
	who := "nobody"
	if chain := p.AuthInfo.(credentials.TLSInfo).State.PeerCertificates; len(chain) > 0 {
		who = chain[0].Subject.CommonName
	}
	md, _ := metadata.FromIncomingContext(ctx)
	return &tokenbrokerv1.GetTokenResponse{Token: &tokenbrokerv1.Token{AccessToken: fmt.Sprint(who, md["authorization"]), TokenId: who, ExpireTime: timestamppb.Now()}}, nil
}

// serve serves on a loopback address until the test ends.
func serve(t *testing.T, register func(*grpc.Server), o ...grpc.ServerOption) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(o...)
	register(srv)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Stop()
		<-done
	})
	return l.Addr().String()
}

func overTLS(t *testing.T, a *authority, asks tls.ClientAuthType) grpc.ServerOption {
	t.Helper()
	cert, key := a.pair(t, "server")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: a.pool, ClientAuth: asks, MinVersion: tls.VersionTLS12}))
}

// TestCertificatesAreReadForEachConnection: what was replaced counts from the next one on, without a new Client.
func TestCertificatesAreReadForEachConnection(t *testing.T) {
	ca, dir := newAuthority(t), t.TempDir()
	addr := serve(t, func(s *grpc.Server) { tokenbrokerv1.RegisterTokenBrokerServiceServer(s, strict{}) }, overTLS(t, ca, tls.RequireAndVerifyClientCert),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionAge: 50 * time.Millisecond}))
	authorities := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
	cert, key := ca.pair(t, "first")
	at := put(t, dir, map[string][]byte{"ca.pem": authorities, "own.pem": cert, "own.key": key})
	c, err := client.New(addr, client.WithTLSFiles(at("ca.pem"), at("own.pem"), at("own.key")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	is := func(want string) func() bool {
		return func() bool {
			token, err := c.Source("main").Token(t.Context())
			return err == nil && token.AccessToken == want
		}
	}
	eventually(t, "the first certificate", is("first[]"))
	cert, key = ca.pair(t, "second")
	put(t, dir, map[string][]byte{"own.pem": cert, "own.key": key})
	eventually(t, "the second certificate", is("second[]"))

	other := newAuthority(t)
	wrong := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: other.cert.Raw})
	at = put(t, t.TempDir(), map[string][]byte{"ca.pem": wrong, "own.pem": cert, "own.key": key, "empty": nil})
	stranger, err := client.New(addr, client.WithTLSFiles(at("ca.pem"), at("own.pem"), at("own.key")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stranger.Close() })
	if _, err := stranger.Source("main").Token(t.Context()); status.Code(err) != codes.Unavailable {
		t.Errorf("a broker of another authority: got %v", err)
	}
	for _, o := range [][]client.Option{
		{client.WithTLSFiles(at("absent"), "", "")},
		{client.WithTLSFiles(at("empty"), "", "")},
		{client.WithTLSFiles(at("ca.pem"), at("own.pem"), "")},
		{client.WithTLSFiles(at("ca.pem"), at("own.key"), at("own.pem"))},
		{client.WithTLSFiles(at("ca.pem"), "", ""), client.WithTLS(&tls.Config{MinVersion: tls.VersionTLS12})},
		{client.WithBearerTokenFile(at("own.key"))},
		{client.WithTLSFiles(at("ca.pem"), "", ""), client.WithBearerTokenFile(at("absent"))},
		{client.WithTLSFiles(at("ca.pem"), "", ""), client.WithBearerTokenFile(at("empty"))},
	} {
		if c, err := client.New("127.0.0.1:1", o...); err == nil {
			_ = c.Close()
			t.Errorf("options that do not fit were taken: %d", len(o))
		}
	}
}

// TestABearerTokenIsReadForEachCall, and is sent over TLS alone.
func TestABearerTokenIsReadForEachCall(t *testing.T) {
	ca, dir := newAuthority(t), t.TempDir()
	addr := serve(t, func(s *grpc.Server) { tokenbrokerv1.RegisterTokenBrokerServiceServer(s, strict{}) }, overTLS(t, ca, tls.NoClientCert))
	at := put(t, dir, map[string][]byte{"ca.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw}), "token": []byte("one.two.three\n")})
	c, err := client.New(addr, client.WithTLSFiles(at("ca.pem"), "", ""), client.WithBearerTokenFile(at("token")))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if token := mustToken(t, c.Source("main")); token.AccessToken != "nobody[Bearer one.two.three]" {
		t.Errorf("got %s", token.AccessToken)
	}
	put(t, dir, map[string][]byte{"token": []byte("four")})
	if token := mustToken(t, c.Source("main")); token.AccessToken != "nobody[Bearer four]" {
		t.Errorf("got %s", token.AccessToken)
	}
	if _, err := client.New("127.0.0.1:1", client.WithBearerTokenFile(at("token"))); err == nil {
		t.Error("a token would be sent in the clear")
	}
}

// picky is an API that speaks gRPC, and accepts one token.
type picky struct {
	healthv1.UnimplementedHealthServer
	accepts atomic.Value
}

func (p *picky) Check(ctx context.Context, _ *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	if md, _ := metadata.FromIncomingContext(ctx); fmt.Sprint(md["authorization"]) != p.accepts.Load() {
		return nil, status.Error(codes.Unauthenticated, "refused")
	}
	return &healthv1.HealthCheckResponse{}, nil
}

// TestCallsOfGRPCBringTheToken, and another where the API refuses it; over TLS alone, and to the API's host alone.
func TestCallsOfGRPCBringTheToken(t *testing.T) {
	ca, b, p := newAuthority(t), clienttest.New(t), &picky{}
	p.accepts.Store("[Bearer main-1]")
	addr := serve(t, func(s *grpc.Server) { healthv1.RegisterHealthServer(s, p) }, overTLS(t, ca, tls.NoClientCert))
	b.Has("main", clienttest.Bearer("main", "https://"+addr))
	b.Has("other", clienttest.Bearer("main", "https://api.example"))
	s := b.Client(t).Source("main")
	check := func(s *client.Source, transport credentials.TransportCredentials) error {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(transport), grpc.WithPerRPCCredentials(s.PerRPC()), grpc.WithUnaryInterceptor(s.UnaryInterceptor()))
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{})
		return err
	}
	over := credentials.NewTLS(&tls.Config{RootCAs: ca.pool, MinVersion: tls.VersionTLS12})
	for _, accepts := range []string{"[Bearer main-1]", "[Bearer main-2]"} {
		p.accepts.Store(accepts)
		if err := check(s, over); err != nil {
			t.Errorf("%s: %v", accepts, err)
		}
	}
	p.accepts.Store("nobody")
	if err := check(s, over); status.Code(err) != codes.Unauthenticated {
		t.Errorf("got %v", err)
	}
	if err := check(b.Client(t).Source("other"), over); status.Code(err) != codes.Unauthenticated {
		t.Errorf("another's token: got %v", err)
	}
	b.Has("nowhere", clienttest.Bearer("main", ""))
	if err := check(b.Client(t).Source("nowhere"), over); status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "WithOrigin") {
		t.Errorf("a token that is for nowhere: got %v", err)
	}
	if err := check(s, insecure.NewCredentials()); err == nil {
		t.Error("a token went out in the clear")
	}
}
