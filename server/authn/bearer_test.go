package authn_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/devcerts"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/server/authn"
)

// A minter signs tokens of the issuers of a rig, whose keys are files.
type minter struct {
	t    *testing.T
	r    *rig
	keys map[string]crypto.Signer // by kid
}

const iss = "https://ci.example"

// newBearers is a rig whose listeners take certificates of corp.example, and tokens of three issuers: ci, the cluster prod, and JWT-SVIDs of corp.example.
func newBearers(t *testing.T, more ...func(*server.Settings)) *minter {
	t.Helper()
	m := &minter{t: t, keys: map[string]crypto.Signer{
		"one": must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)), "two": must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048)),
	}}
	m.r = newRigWith(t, func(s *authn.Settings) { s.Optional = true }, func(r *rig) []authn.Issuer {
		m.r = r
		file := m.write("one", "two")
		return []authn.Issuer{
			{Name: "ci", Kind: broker.JWT, Issuer: iss, Audience: []string{"tokenbroker"}, JWKSFile: file},
			{Name: "prod", Kind: broker.Kubernetes, Issuer: "https://cluster.example", Audience: []string{"tokenbroker"}, JWKSFile: file},
			{Name: "corp-jwt", Kind: broker.SPIFFE, TrustDomain: trustDomain, Audience: []string{"tokenbroker"}, JWKSFile: file},
		}
	}, more...)
	return m
}

// write puts the public parts of keys where the broker reads them.
func (m *minter) write(kids ...string) string {
	m.t.Helper()
	var set jose.JSONWebKeySet
	for _, kid := range kids {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: m.keys[kid].Public(), KeyID: kid, Use: "sig"})
	}
	return m.r.write("jwks.json", must[[]byte](m.t)(json.Marshal(set)))
}

// claims are those of a token that counts, with others in their place; nil: without.
func claims(other map[string]any) map[string]any {
	all := map[string]any{"iss": iss, "sub": "repo:acme/web", "aud": "tokenbroker", "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(all, other)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	return all
}

// mint signs a token.
func (m *minter) mint(alg jose.SignatureAlgorithm, key any, kid string, of map[string]any) string {
	m.t.Helper()
	s := must[jose.Signer](m.t)(jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", kid)))
	signed := must[*jose.JSONWebSignature](m.t)(s.Sign(must[[]byte](m.t)(json.Marshal(of))))
	return must[string](m.t)(signed.CompactSerialize())
}

func (m *minter) good(other map[string]any) string {
	return m.mint(jose.ES256, m.keys["one"], "one", claims(other))
}

// bearing is a context whose calls bring headers.
func bearing(t testing.TB, headers ...string) context.Context {
	ctx := t.Context()
	for _, h := range headers {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", h)
	}
	return ctx
}

// TestWhoseTokensCount: every RPC of both doors, for every kind of token, beside certificates, on real sockets.
func TestWhoseTokensCount(t *testing.T) {
	m := newBearers(t)
	r := m.r
	stranger := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must[[]byte](t)(x509.MarshalPKIXPublicKey(m.keys["two"].Public()))})
	unsigned := func(header string) string {
		enc := base64.RawURLEncoding.EncodeToString
		return enc([]byte(header)) + "." + enc(must[[]byte](t)(json.Marshal(claims(nil)))) + "."
	}
	trusted, untrusted := r.svid(cart), issue(t, must[*devcerts.Authority](t)(devcerts.NewAuthority("other", trustDomain, time.Hour)), time.Hour, uris(cart))
	only := func(identity string) func(broker.Access) bool {
		return func(a broker.Access) bool { return a.Caller.Identity == identity }
	}
	ago := time.Now().Add(-time.Second).Unix()
	all := methods(t)
	for _, k := range []struct {
		name    string
		headers []string
		pair    *devcerts.Pair
		may     func(broker.Access) bool // nil: everybody may everything
		want    codes.Code
	}{
		{"allowed", []string{"Bearer " + m.good(nil)}, nil, only("jwt:ci/repo:acme/web"), codes.OK},
		{"in another case, of a list of audiences", []string{"bearer  " + m.good(map[string]any{"aud": []string{"other", "tokenbroker"}})}, nil, nil, codes.OK},
		{"by another key", []string{"Bearer " + m.mint(jose.RS256, m.keys["two"], "two", claims(nil))}, nil, only("jwt:ci/repo:acme/web"), codes.OK},
		{"a service account", []string{"Bearer " + m.good(map[string]any{"iss": "https://cluster.example", "sub": "system:serviceaccount:shop:cart"})}, nil, only("k8s:prod/shop/cart"), codes.OK},
		{"a JWT-SVID", []string{"Bearer " + m.good(map[string]any{"iss": nil, "sub": cart})}, nil, only(cart), codes.OK},
		{"a certificate alone", nil, &trusted, only(cart), codes.OK},
		{"denied by policy", []string{"Bearer " + m.good(nil)}, nil, only(cart), codes.PermissionDenied},

		{"no token", nil, nil, nil, codes.Unauthenticated},
		{"a certificate and a token", []string{"Bearer " + m.good(nil)}, &trusted, nil, codes.Unauthenticated},
		{"a certificate that is not trusted, and a token", []string{"Bearer " + m.good(nil)}, &untrusted, nil, codes.Unavailable},
		{"two tokens", []string{"Bearer " + m.good(nil), "Bearer " + m.good(nil)}, nil, nil, codes.Unauthenticated},
		{"a password", []string{"Basic YTpi"}, nil, nil, codes.Unauthenticated},
		{"no scheme", []string{m.good(nil)}, nil, nil, codes.Unauthenticated},
		{"nothing behind it", []string{"Bearer "}, nil, nil, codes.Unauthenticated},
		{"no JWT", []string{"Bearer x"}, nil, nil, codes.Unauthenticated},
		{"ended", []string{"Bearer " + m.good(map[string]any{"exp": ago})}, nil, nil, codes.Unauthenticated},
		{"without an end", []string{"Bearer " + m.good(map[string]any{"exp": nil})}, nil, nil, codes.Unauthenticated},
		{"not yet valid", []string{"Bearer " + m.good(map[string]any{"nbf": time.Now().Add(time.Hour).Unix()})}, nil, nil, codes.Unauthenticated},
		{"of another issuer", []string{"Bearer " + m.good(map[string]any{"iss": iss + "/"})}, nil, nil, codes.Unauthenticated},
		{"for another audience", []string{"Bearer " + m.good(map[string]any{"aud": "other"})}, nil, nil, codes.Unauthenticated},
		{"without an audience", []string{"Bearer " + m.good(map[string]any{"aud": nil})}, nil, nil, codes.Unauthenticated},
		{"of another trust domain", []string{"Bearer " + m.good(map[string]any{"iss": nil, "sub": "spiffe://other.example/a"})}, nil, nil, codes.Unauthenticated},
		{"none", []string{"Bearer " + unsigned(`{"alg":"none"}`)}, nil, nil, codes.Unauthenticated},
		{"HS256 by the public key", []string{"Bearer " + m.mint(jose.HS256, public, "two", claims(nil))}, nil, nil, codes.Unauthenticated},
		{"by a stranger, in its name", []string{"Bearer " + m.mint(jose.ES256, stranger, "one", claims(nil))}, nil, nil, codes.Unauthenticated},
		{"by a key that nobody knows", []string{"Bearer " + m.mint(jose.ES256, stranger, "../../one", claims(nil))}, nil, nil, codes.Unauthenticated},
	} {
		for _, door := range []string{"services", "operators"} {
			t.Run(k.name+"/"+door, func(t *testing.T) {
				if k.may == nil {
					k.may = func(broker.Access) bool { return true }
				}
				r.rules.set(k.may)
				conn := r.dial(door, r.config(k.pair))
				for _, of := range all {
					of.wants(bearing(t, k.headers...), t, conn, door, k.want)
				}
			})
		}
	}
	if said := r.log.String(); strings.Contains(said, "eyJ") || strings.Contains(said, "YTpi") {
		t.Errorf("a part of a token is in the log: %.2000s", said)
	}
}

// TestTwoCallersOnOneConnection, each with its token, are two, and one whose token the next call leaves out is nobody.
func TestTwoCallersOnOneConnection(t *testing.T) {
	m := newBearers(t)
	m.r.rules.set(func(a broker.Access) bool { return a.Caller.Name == "a" })
	tokens := tokenbrokerv1.NewTokenBrokerServiceClient(m.r.once("services", m.r.config(nil)))
	a, b := "Bearer "+m.good(map[string]any{"sub": "a"}), "Bearer "+m.good(map[string]any{"sub": "b"})
	for range 3 {
		for _, x := range []struct {
			headers []string
			want    codes.Code
		}{{[]string{a}, codes.OK}, {[]string{a}, codes.OK}, {[]string{b}, codes.PermissionDenied}, {nil, codes.Unauthenticated}} {
			if _, err := tokens.GetToken(bearing(t, x.headers...), &tokenbrokerv1.GetTokenRequest{Credential: "main"}); status.Code(err) != x.want {
				t.Errorf("got %v, want %v", err, x.want)
			}
		}
	}
}

// watchBy opens a watch with a token.
func (m *minter) watchBy(token string) <-chan error {
	m.t.Helper()
	s, err := tokenbrokerv1.NewTokenBrokerServiceClient(m.r.once("services", m.r.config(nil))).WatchToken(bearing(m.t, "Bearer "+token), &tokenbrokerv1.WatchTokenRequest{Credential: "main"})
	if err == nil {
		_, err = s.Recv()
	}
	if err != nil {
		m.t.Fatal(err)
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

// TestATokenThatCountsNoMore: its watch ends with it, with its key, and with its right, and no other does.
func TestATokenThatCountsNoMore(t *testing.T) {
	m := newBearers(t)
	stays := m.watchBy(m.mint(jose.RS256, m.keys["two"], "two", claims(map[string]any{"sub": "stays"})))
	ends := m.watchBy(m.good(map[string]any{"exp": time.Now().Add(soon).Unix()}))
	if err := within(t, ends, "a watch goes on whose token has ended"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("its end: got %v", err)
	}
	byKey := m.good(nil)
	keyed := m.watchBy(byKey)
	open(t, stays)
	m.write("two")
	if err := within(t, keyed, "a watch goes on whose token's key is gone"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("its key: got %v", err)
	}
	conn := m.r.dial("services", m.r.config(nil))
	if _, err := tokenbrokerv1.NewTokenBrokerServiceClient(conn).GetToken(bearing(t, "Bearer "+byKey), &tokenbrokerv1.GetTokenRequest{Credential: "main"}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a call by it: got %v", err)
	}
	open(t, stays)
	m.r.rules.set(func(a broker.Access) bool { return a.Caller.Name != "stays" })
	if err := within(t, stays, "a watch goes on whose right is gone"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("its right: got %v", err)
	}
}

// TestWhoWaitsIsLookedAtAgain: a call that waits for an exchange, and whose token ends meanwhile, is not answered with one.
func TestWhoWaitsIsLookedAtAgain(t *testing.T) {
	m := newBearers(t)
	began, ends := make(chan struct{}), time.Now().Add(soon)
	m.r.rules.set(func(broker.Access) bool {
		select {
		case <-began:
		default:
			close(began)
			<-time.After(time.Until(ends)) // the decision is what takes so long, in the place of an upstream
		}
		return true
	})
	token := m.good(map[string]any{"exp": ends.Unix()})
	_, err := tokenbrokerv1.NewTokenBrokerServiceClient(m.r.dial("services", m.r.config(nil))).GetToken(bearing(t, "Bearer "+token), &tokenbrokerv1.GetTokenRequest{Credential: "main"})
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("got %v", err)
	}
}

// TestStrangersKeepNobodyOut: from as many addresses as they like, idle or with calls that are open, in hundreds; neither those who have brought a token, on the
// connections that they have, nor those who bring their first one.
func TestStrangersKeepNobodyOut(t *testing.T) {
	m := newBearers(t, func(s *server.Settings) { s.Capacity = server.Capacity{Connections: 64, Calls: 1000} })
	tokens := func(conn *grpc.ClientConn) tokenbrokerv1.TokenBrokerServiceClient {
		return tokenbrokerv1.NewTokenBrokerServiceClient(conn)
	}
	ask := func(of tokenbrokerv1.TokenBrokerServiceClient, caller int) {
		t.Helper()
		ctx := bearing(t, "Bearer "+m.good(map[string]any{"sub": fmt.Sprint("caller-", caller)}))
		if _, err := of.GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: "main"}); err != nil {
			t.Errorf("caller %d: %v", caller, err)
		}
	}
	var known []tokenbrokerv1.TokenBrokerServiceClient
	for i := range 20 {
		known = append(known, tokens(m.r.once("services", m.r.config(nil))))
		ask(known[i], i)
	}
	for i := range 300 {
		from := net.Dialer{}
		if runtime.GOOS == "linux" { // elsewhere a loopback has one address
			from.LocalAddr = &net.TCPAddr{IP: net.IPv4(127, 0, byte(1+i%3), byte(1+i%100))}
		}
		conn := must[*grpc.ClientConn](t)(grpc.NewClient("passthrough:///"+m.r.addr["services"], grpc.WithTransportCredentials(credentials.NewTLS(m.r.config(nil))),
			grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return from.DialContext(ctx, "tcp", addr) })))
		defer func() { _ = conn.Close() }()
		health := healthv1.NewHealthClient(conn)
		calls := 1
		if i%10 == 0 {
			calls = 50
		}
		for range calls {
			w, err := health.Watch(t.Context(), &healthv1.HealthCheckRequest{})
			if err == nil {
				_, err = w.Recv()
			}
			if err != nil && status.Code(err) != codes.Unavailable && status.Code(err) != codes.ResourceExhausted {
				t.Fatal(err)
			}
		}
		if i%30 == 29 {
			ask(tokens(m.r.once("services", m.r.config(nil))), 100+i)
		}
	}
	for i, of := range known {
		ask(of, i)
	}
}
