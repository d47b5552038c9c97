package authn_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/internal/devcerts"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/server/authn"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/seal"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// rules is an authorizer whose rule a test sets.
type rules struct {
	mu         sync.Mutex
	may        func(broker.Access) bool
	generation uint64
	changes    chan struct{}
}

func newRules(may func(broker.Access) bool) *rules {
	return &rules{may: may, changes: make(chan struct{})}
}

func (r *rules) Decide(a broker.Access) broker.Decision {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.Caller != nil && r.may(a) {
		return broker.Decision{Effect: broker.Allowed}
	}
	return broker.Decision{}
}

func (r *rules) Generation() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.generation
}

func (r *rules) Changes() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changes
}

func (r *rules) set(may func(broker.Access) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.may = may
	r.generation++
	close(r.changes)
	r.changes = make(chan struct{})
}

// stub is an upstream whose every exchange brings a token of an hour; of the credential "slow" when it has to.
type stub struct{ broker.Definition }

var stubFacts = broker.Facts{Name: "stub", Digest: "1", Obtains: true, Requests: 1}

func (u stub) Facts() *broker.Facts                                                   { return &stubFacts }
func (stub) Host(broker.Credential, broker.Selection) string                          { return "stub.example:443" }
func (stub) Check(broker.Credential, []string) []broker.Violation                     { return nil }
func (stub) Destinations(broker.Credential) []broker.Destination                      { return []broker.Destination{} }
func (stub) Select(_ broker.Credential, x broker.Selection) (broker.Selection, error) { return x, nil }
func (stub) Exchange(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
	if x.Credential.Name == "slow" {
		<-ctx.Done()
	}
	life := time.Hour
	return broker.Answer{
		Values: map[string]broker.Secret{"token": broker.NewSecret("secret-" + broker.NewID().String())}, Expiry: broker.Expiry{In: &life, SentAt: time.Now()},
		Attempts: []broker.Attempt{{Start: time.Now(), Status: 200}},
	}, nil
}
func (stub) Present(broker.Credential, broker.Selection, broker.Issued) (broker.Presentation, error) {
	return broker.Presentation{}, nil
}

type upstreams struct{}

func (upstreams) Definition(string) (broker.Definition, error) { return stub{}, nil }
func (upstreams) Revision() uint64                             { return 0 }
func (upstreams) Providers() []server.Provider                 { return nil }
func (upstreams) Explain(string, map[string]string, broker.Selection) (requests, problems []string, err error) {
	return nil, nil, nil
}

// A rig is a broker with a door for services and one for operators, on real TLS sockets.
type rig struct {
	t      *testing.T
	dir    string
	rules  *rules
	broker *engine.Broker
	server *server.Server
	addr   map[string]string // of each door
	auth   map[string]*authn.Certificates
	tokens map[string]*authn.Tokens
	ca     *devcerts.Authority // of corp.example
	log    *lines
}

// lines are what the log has.
type lines struct {
	mu  sync.Mutex
	all []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, p...)
	return len(p), nil
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.all)
}

const trustDomain = "corp.example"

// meshes are the proxies of a rig's listeners.
var meshes = []authn.Proxy{
	{Name: "mesh", Callers: []string{"spiffe://corp.example/mesh/gateway", "spiffe://corp.example/mesh/spare"}, Forwards: []string{"corp.example/ns/web/**", "partner.example/ns/web/*"}},
	{Name: "chain", Callers: []string{"spiffe://corp.example/mesh/inner"}, Forwards: []string{"corp.example/ns/web/**"}, Through: []string{"spiffe://corp.example/mesh/gateway", "spiffe://corp.example/mesh/spare"}},
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// write puts a file where the broker reads it, as a rename does.
func (r *rig) write(name string, data []byte) string {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		r.t.Fatal(err)
	}
	return path
}

func newRig(t *testing.T, more ...authn.Trust) *rig {
	t.Helper()
	return newRigOf(t, func(s *authn.Settings) { s.Trust = append(s.Trust, more...) })
}

// newRigOf is newRig with other settings of its listeners.
func newRigOf(t *testing.T, edit func(*authn.Settings)) *rig { return newRigWith(t, edit, nil) }

// newRigWith is newRigOf with issuers whose tokens are believed; nil: no tokens are. They are made once the rig's directory is there.
func newRigWith(t *testing.T, edit func(*authn.Settings), issuers func(*rig) []authn.Issuer, more ...func(*server.Settings)) *rig {
	t.Helper()
	r := &rig{t: t, dir: t.TempDir(), rules: newRules(func(broker.Access) bool { return true }), addr: map[string]string{}, auth: map[string]*authn.Certificates{}, tokens: map[string]*authn.Tokens{}, log: &lines{}}
	log := slog.New(slog.NewJSONHandler(io.MultiWriter(r.log), nil))
	r.ca = must[*devcerts.Authority](t)(devcerts.NewAuthority("corp", trustDomain, time.Hour))
	serving := must[*devcerts.Authority](t)(devcerts.NewAuthority("serving", "", time.Hour))
	own := must[devcerts.Pair](t)(serving.Issue(time.Hour, devcerts.Loopback))
	r.write("serving.pem", serving.PEM())
	r.write(revocations, r.revoke(r.ca))
	cert, key, ca := r.write("tls.crt", own.Certificate), r.write("tls.key", own.Key), r.write("ca.pem", r.ca.PEM())
	keys := must[*seal.Keyring](t)(seal.New())
	st := must[*store.Store](t)(store.New(storetest.NewMemory(), keys, store.Options{}))
	r.broker = must[*engine.Broker](t)(engine.New(engine.Settings{Upstream: upstreams{}, Store: st, Authorizer: r.rules, Render: server.Render, Log: log}))
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	settings := server.Settings{Broker: r.broker, Providers: upstreams{}, Authorizer: r.rules, Log: log}
	for _, name := range []string{"services", "operators"} {
		of := authn.Settings{Listener: name, CertFile: cert, KeyFile: key, Log: log, Trust: []authn.Trust{{Name: "corp", CAFile: ca, TrustDomain: trustDomain}}}
		edit(&of)
		a := must[*authn.Certificates](t)(authn.New(ctx, of))
		t.Cleanup(a.Close)
		r.auth[name] = a
		following.Go(func() { a.Follow(ctx) })
		proxies := must[*authn.Proxies](t)(authn.NewProxies(name, meshes))
		d := server.Door{Name: name, TokensOnly: name == "services", Authenticate: a, Forwarders: proxies}
		if issuers != nil {
			all := must[*authn.Tokens](t)(authn.NewTokens(authn.TokenSettings{Listener: name, Issuers: issuers(r), Log: log}))
			following.Go(func() { all.Follow(ctx) })
			r.tokens[name], d.Tokens = all, all
		}
		settings.Doors = append(settings.Doors, d)
	}
	for _, f := range more {
		f(&settings)
	}
	r.server = must[*server.Server](t)(server.New(settings))
	var answering sync.WaitGroup
	for _, d := range settings.Doors {
		l := must[net.Listener](t)(net.Listen("tcp", "127.0.0.1:0"))
		r.addr[d.Name] = l.Addr().String()
		answering.Go(func() { _ = r.server.ServeDoor(d.Name, l) })
	}
	t.Cleanup(func() {
		stop, done := context.WithTimeout(context.Background(), 5*time.Second)
		defer done()
		_ = r.server.Stop(stop, 0)
		cancel()
		answering.Wait()
		following.Wait()
	})
	for _, name := range []broker.CredentialName{"main", "slow"} {
		if _, err := r.broker.CreateCredential(t.Context(), broker.NewCaller(broker.Local, "", "", broker.ProofNone, ""), engine.Change{
			Name: name, Edit: func(d *engine.Draft) error { d.Provider = "stub"; return nil },
		}); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// revocations is the file with the list of a rig's authority, which a test has its listeners look at by withLists.
const revocations = "crl.pem"

func withLists(s *authn.Settings) {
	s.Trust[0].CRLFile = filepath.Join(filepath.Dir(s.Trust[0].CAFile), revocations)
}

// revoke is the list of an authority that takes these certificates back.
func (r *rig) revoke(by *devcerts.Authority, pairs ...devcerts.Pair) []byte {
	r.t.Helper()
	var serials []*big.Int
	for _, p := range pairs {
		serials = append(serials, must[tls.Certificate](r.t)(tls.X509KeyPair(p.Certificate, p.Key)).Leaf.SerialNumber)
	}
	return must[[]byte](r.t)(by.Revoke(time.Hour, nil, serials...))
}

// svid issues an X.509-SVID.
func (r *rig) svid(id string, edit ...func(*x509.Certificate)) devcerts.Pair {
	r.t.Helper()
	return issue(r.t, r.ca, time.Hour, append([]func(*x509.Certificate){uris(id)}, edit...)...)
}

func issue(t testing.TB, ca *devcerts.Authority, life time.Duration, edit ...func(*x509.Certificate)) devcerts.Pair {
	t.Helper()
	return must[devcerts.Pair](t)(ca.Issue(life, func(c *x509.Certificate) {
		for _, f := range edit {
			f(c)
		}
	}))
}

func uris(all ...string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		for _, s := range all {
			u, err := url.Parse(s)
			if err != nil {
				panic(err)
			}
			c.URIs = append(c.URIs, u)
		}
	}
}

// config is how a client with a certificate connects; nil: it has none.
func (r *rig) config(p *devcerts.Pair) *tls.Config {
	r.t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(must[[]byte](r.t)(os.ReadFile(filepath.Join(r.dir, "serving.pem"))))
	c := &tls.Config{RootCAs: roots, ServerName: "localhost", NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}
	if p != nil {
		pair := must[tls.Certificate](r.t)(tls.X509KeyPair(p.Certificate, p.Key))
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
	}
	return c
}

// shown is the certificate that a door shows.
func (r *rig) shown(door string) *x509.Certificate {
	r.t.Helper()
	c := r.config(nil)
	conn, err := tls.Dial("tcp", r.addr[door], c)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	return conn.ConnectionState().PeerCertificates[0]
}

// dial is a client of a door.
func (r *rig) dial(door string, c *tls.Config) *grpc.ClientConn {
	r.t.Helper()
	conn := must[*grpc.ClientConn](r.t)(grpc.NewClient("passthrough:///"+r.addr[door], grpc.WithTransportCredentials(credentials.NewTLS(c))))
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func writeTo(t testing.TB, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func readAll(r *rig, name string) ([]byte, error) { return os.ReadFile(filepath.Join(r.dir, name)) }
