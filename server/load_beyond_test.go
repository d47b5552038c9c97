package server_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/audit"
	"github.com/tokenbroker/tokenbroker/broker/policy"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/devcerts"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/server/authn"
)

// What callers of other machines show.
const (
	showsCertificate = "certificate"
	showsToken       = "token"
)

const (
	certNoop = "no-op, mutual TLS"
	goTLS    = "no-op, mutual TLS, gRPC's and Go's own settings"
	certBare = "GetToken by certificate, nothing else"
	certFull = "GetToken by certificate, everything on"
	jwtNoop  = "no-op, TLS, with a token that nobody reads"
	jwtBare  = "GetToken by token, nothing else"
	jwtFull  = "GetToken by token, everything on"
)

// beyondLoopback are GetToken with a policy, an audit log in a file and a rate, the same without those, and methods that do nothing under the same TLS.
var beyondLoopback = []variant{
	{name: certNoop, method: noopMethod, child: asBeyond, shows: showsCertificate, start: noopOverTLS},
	{name: goTLS, method: noopMethod, child: asGoBeyond, shows: showsCertificate, start: defaultOverTLS},
	{name: certBare, method: tokenbrokerv1.TokenBrokerService_GetToken_FullMethodName, child: asBeyond, shows: showsCertificate, start: standDoor("certificates", false)},
	{name: certFull, method: tokenbrokerv1.TokenBrokerService_GetToken_FullMethodName, child: asBeyond, shows: showsCertificate, start: standDoor("certificates", true)},
	{name: jwtNoop, method: noopMethod, child: asBeyond, shows: showsToken, start: noopOverTLS},
	{name: jwtBare, method: tokenbrokerv1.TokenBrokerService_GetToken_FullMethodName, child: asBeyond, shows: showsToken, start: standDoor("tokens", false)},
	{name: jwtFull, method: tokenbrokerv1.TokenBrokerService_GetToken_FullMethodName, child: asBeyond, shows: showsToken, start: standDoor("tokens", true)},
}

var comparedBeyond = [][2]string{{certFull, certNoop}, {certFull, goTLS}, {certBare, certNoop}, {certFull, certBare}, {jwtFull, jwtNoop}, {jwtBare, jwtNoop}, {jwtFull, jwtBare}}

// TestLoadBeyondLoopback prints a table. It asserts nothing on time.
func TestLoadBeyondLoopback(t *testing.T) {
	load(t, beyondLoopback, comparedBeyond, asBeyond, asGoBeyond)
}

// proofs are what callers and servers show each other. Files has those for servers.
type proofs struct {
	CA, Certificate, Key []byte
	Token                string
	Files                string
}

func newProofs(t testing.TB) *proofs {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ca, err := devcerts.NewAuthority("load", "load.example", time.Hour)
	must(err)
	own, err := ca.Issue(time.Hour, devcerts.Loopback)
	must(err)
	named, err := devcerts.SPIFFE("spiffe://load.example/caller")
	must(err)
	caller, err := ca.Issue(time.Hour, named)
	must(err)
	issuer, err := devcerts.NewIssuer("https://load.example")
	must(err)
	jwks, err := issuer.JWKS()
	must(err)
	token, err := issuer.Token("caller", "tokenbroker", time.Hour)
	must(err)
	p := &proofs{CA: ca.PEM(), Certificate: caller.Certificate, Key: caller.Key, Token: token, Files: t.TempDir()}
	for name, data := range map[string][]byte{
		"ca.pem": ca.PEM(), "own.pem": own.Certificate, "own.key": own.Key, "jwks.json": jwks,
		"policy.yaml": []byte(`version: 1
callers:
  callers: [{spiffe: "load.example/caller"}, {jwt: load, sub: caller}]
  machine: [{local: machine}]
rules:
  - {name: callers, callers: [callers], credentials: {names: [main]}, operations: [get_token], scopes: ["example.items.*"], rate: 1000000/s}
  - {name: machine, callers: [machine], credentials: {names: [main]}, operations: [get_token, credential.write], scopes: ["*"]}
`),
	} {
		must(os.WriteFile(filepath.Join(p.Files, name), data, 0o600))
	}
	return p
}

// shown are the options of a client; of no proofs, in the clear.
func (p *proofs) shown(t testing.TB, what string) []grpc.DialOption {
	t.Helper()
	if what == "" {
		return []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(p.CA)
	c := &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS12}
	if what == showsCertificate {
		pair, err := tls.X509KeyPair(p.Certificate, p.Key)
		if err != nil {
			t.Fatal(err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return []grpc.DialOption{grpc.WithTransportCredentials(credentials.NewTLS(c))}
}

// noopOverTLS speaks TLS as the broker does.
func noopOverTLS(s *stand, answer *tokenbrokerv1.GetTokenResponse) answering {
	return noopServer(answer, s.beyond.shownByServers())
}

// defaultOverTLS is noopOverTLS with gRPC's own settings.
func defaultOverTLS(s *stand, answer *tokenbrokerv1.GetTokenResponse) answering {
	srv := grpc.NewServer(s.beyond.shownByServers())
	srv.RegisterService(noop(answer), struct{}{})
	return srv
}

func (p *proofs) shownByServers() grpc.ServerOption {
	pair, err := tls.LoadX509KeyPair(filepath.Join(p.Files, "own.pem"), filepath.Join(p.Files, "own.key"))
	if err != nil {
		panic(err)
	}
	return grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, SessionTicketsDisabled: true, ClientAuth: tls.RequestClientCert,
	}))
}

// anybody lets everybody do everything.
type anybody struct{}

func (anybody) Decide(broker.Access) broker.Decision { return broker.Decision{Effect: broker.Allowed} }
func (anybody) Generation() uint64                   { return 0 }
func (anybody) Changes() <-chan struct{}             { return nil }

// A door is one of a stand's server.
type door struct {
	*server.Server
	name string
}

func (d door) Serve(l net.Listener) error { return d.ServeDoor(d.name, l) }

func (d door) Stop() { _ = d.Server.Stop(context.Background(), 0) }

// standDoor is a broker of its own, with a door for certificates or one for tokens; everything: with a policy, which has a rate, and an audit log.
func standDoor(name string, everything bool) func(*stand, *tokenbrokerv1.GetTokenResponse) answering {
	return func(of *stand, _ *tokenbrokerv1.GetTokenResponse) answering {
		t, p := of.t, of.beyond
		must := func(err error) {
			if err != nil {
				panic(err)
			}
		}
		at := func(file string) string { return filepath.Join(p.Files, file) }
		log := slog.New(slog.NewJSONHandler(io.Discard, nil))
		ctx, cancel := context.WithCancel(context.Background())
		var following sync.WaitGroup
		t.Cleanup(func() {
			cancel()
			following.Wait()
		})
		d := server.Door{Name: name}
		trust := authn.Settings{Listener: name, CertFile: at("own.pem"), KeyFile: at("own.key"), Trust: []authn.Trust{{Name: "load", CAFile: at("ca.pem"), TrustDomain: "load.example"}}}
		if name == "tokens" {
			trust.Optional = true
			tokens, err := authn.NewTokens(authn.TokenSettings{Listener: name, Issuers: []authn.Issuer{{
				Name: "load", Kind: broker.JWT, Issuer: "https://load.example", Audience: []string{"tokenbroker"}, JWKSFile: at("jwks.json"),
			}}})
			must(err)
			following.Go(func() { tokens.Follow(ctx) })
			d.Tokens = tokens
		}
		certificates, err := authn.New(ctx, trust)
		must(err)
		t.Cleanup(certificates.Close)
		following.Go(func() { certificates.Follow(ctx) })
		d.Authenticate = certificates
		doors := func(s server.Settings) server.Settings {
			s.Doors = []server.Door{d}
			return s
		}
		if !everything {
			s := newStandBy(t, anybody{}, broker.Unaudited{}, doors)
			s.get()
			return door{s.server, name}
		}
		rules, err := policy.New(at("policy.yaml"), log)
		must(err)
		auditing, err := audit.New(audit.Settings{
			File: at(name + ".jsonl"), Log: log, Request: server.RequestIDs, Policy: func() string { return rules.Status().Digest },
		})
		must(err)
		t.Cleanup(auditing.Close)
		following.Go(func() { auditing.Run(ctx) })
		s := newStandBy(t, rules, auditing, doors)
		s.get()
		t.Cleanup(func() { // everybody was written down
			text, err := os.ReadFile(at(name + ".jsonl"))
			if err != nil || len(text) == 0 {
				t.Errorf("the audit log: %d bytes, %v", len(text), err)
			}
		})
		return door{s.server, name}
	}
}
