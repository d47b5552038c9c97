package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/devcerts"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
	"github.com/tokenbroker/tokenbroker/store/kek"
	"github.com/tokenbroker/tokenbroker/store/redis"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// A rotation is three brokers on one Redis, which follow the same files, and all whose turn it is to change.
type rotation struct {
	t   *testing.T
	dir string
	sim *upstreamsim.Sim
	// brokers are the processes, dirs their data; places are where they answer.
	brokers []*proc
	dirs    []string
	places  []place
	// serving signs what brokers show, ca what callers show; roots are all that sign what brokers show.
	serving, ca *devcerts.Authority
	roots       *x509.CertPool
	// web is an issuer that is asked for its keys, file one whose keys are in a file.
	web, file *signers
	// former is the key of which nothing is sealed any more, pending the one that is the next.
	former, pending string

	allowed, blocked []string

	mu      sync.Mutex
	shown   shown
	counts  map[string]*count
	latest  map[string]time.Duration
	resumed atomic.Int64
}

// A place is one listener of one broker.
type place struct {
	broker   int
	listener string
	address  string
}

func (p place) String() string { return fmt.Sprintf("%s of broker %d", p.listener, p.broker) }

// shown is the certificate that brokers have to show, since when.
type shown struct {
	serial string
	since  time.Time
}

// A signers is an issuer's keys, the newest last.
type signers struct {
	name, issuer string
	mu           sync.Mutex
	n            int
	keys         []jose.JSONWebKey
}

// add draws a key.
func (s *signers) add(t testing.TB) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	s.keys = append(s.keys, jose.JSONWebKey{Key: key, KeyID: fmt.Sprintf("%s-%d", s.name, s.n), Use: "sig", Algorithm: string(jose.ES256)})
}

// keep takes all away but the newest.
func (s *signers) keep(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = s.keys[len(s.keys)-n:]
}

func (s *signers) jwks(t testing.TB) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	var set jose.JSONWebKeySet
	for _, k := range s.keys {
		set.Keys = append(set.Keys, k.Public())
	}
	data, err := json.Marshal(set)
	if err != nil {
		t.Error(err)
	}
	return data
}

// token is of the newest key.
func (s *signers) token(t testing.TB, subject string) string {
	s.mu.Lock()
	k := s.keys[len(s.keys)-1]
	s.mu.Unlock()
	by, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: k}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	token, err := jwt.Signed(by).Claims(jwt.Claims{
		Issuer: s.issuer, Subject: subject, Audience: jwt.Audience{"tokenbroker"}, IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(time.Hour)),
	}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// newRotation starts everything. The store has three keys already: one of which nothing is sealed any more, the one that seals, and one that every broker has.
func newRotation(t *testing.T) *rotation {
	t.Helper()
	r := &rotation{t: t, dir: shortDir(t), counts: map[string]*count{}, latest: map[string]time.Duration{}, roots: x509.NewCertPool()}
	var err error
	if r.sim, err = upstreamsim.New(upstreamsim.Options{}); err == nil {
		err = r.sim.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.sim.Close() })
	r.ca = r.authority("corp.example")
	r.newServing()
	r.put("serving-ca.pem", r.serving.PEM())
	r.put("ca.pem", r.ca.PEM())
	r.put("upstream-ca.pem", r.sim.CA())
	r.web, r.file = &signers{name: "web"}, &signers{name: "file", issuer: "https://file.example"}
	r.web.add(t)
	r.file.add(t)
	r.put("jwks.json", r.file.jwks(t))
	r.startIssuer()
	r.shows()
	r.allowed = []string{"stays"}
	r.policy()
	r.start()
	return r
}

func (r *rotation) authority(trustDomain string) *devcerts.Authority {
	r.t.Helper()
	a, err := devcerts.NewAuthority("rotation", trustDomain, time.Hour)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

// newServing has another authority sign what brokers show, which callers know already.
func (r *rotation) newServing() {
	r.serving = r.authority("")
	r.mu.Lock()
	defer r.mu.Unlock()
	roots := r.roots.Clone() // connections have the former
	roots.AddCert(r.serving.Certificate)
	r.roots = roots
}

// put replaces a file as a whole.
func (r *rotation) put(name string, data []byte) {
	r.t.Helper()
	path := filepath.Join(r.dir, name)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		r.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		r.t.Fatal(err)
	}
}

// issue signs a certificate of a workload, and gives when it ends.
func (r *rotation) issue(name string, life time.Duration) (*tls.Certificate, time.Time) {
	r.t.Helper()
	named, err := devcerts.SPIFFE("spiffe://corp.example/" + name)
	if err != nil {
		r.t.Fatal(err)
	}
	p, err := r.ca.Issue(life, named)
	if err != nil {
		r.t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(p.Certificate, p.Key)
	if err != nil {
		r.t.Fatal(err)
	}
	return &pair, pair.Leaf.NotAfter
}

// shows has the brokers show another certificate: the key first, as docs/security.md says.
func (r *rotation) shows() {
	r.t.Helper()
	p, err := r.serving.Issue(time.Hour, devcerts.Loopback)
	if err != nil {
		r.t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(p.Certificate, p.Key)
	if err != nil {
		r.t.Fatal(err)
	}
	r.put("tls.key", p.Key)
	r.mu.Lock()
	r.shown = shown{pair.Leaf.SerialNumber.String(), time.Now()}
	r.mu.Unlock()
	r.put("tls.crt", p.Certificate)
}

// policy writes who is allowed and who is blocked, by name: with a certificate, and with a token of either issuer.
func (r *rotation) policy() {
	r.t.Helper()
	entries := func(names []string) string {
		var all []string
		for _, n := range names {
			all = append(all, fmt.Sprintf(`{spiffe: "corp.example/%s"}, {jwt: web, sub: %q}, {jwt: file, sub: %q}`, n, n, n))
		}
		return "[" + strings.Join(all, ", ") + "]"
	}
	r.put("policy.yaml", fmt.Appendf(nil, `version: 1
callers: {allowed: %s}
blocked: %s
rules:
  - {name: everything, callers: [allowed], credentials: {names: ["*"]}, scopes: ["*"], audience: ["*"], resources: ["*"], parameters: {"*": ["*"]},
     operations: [get_token, watch, invalidate, invalidate.all, credential.read, credential.write]}
`, entries(r.allowed), entries(r.blocked)))
}

// startIssuer starts the one that is asked.
func (r *rotation) startIssuer() {
	r.t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch q.URL.Path {
		case "/.well-known/openid-configuration":
			_ = json.NewEncoder(w).Encode(map[string]string{"issuer": r.web.issuer, "jwks_uri": r.web.issuer + "/jwks"})
		case "/jwks":
			_, _ = w.Write(r.web.jwks(r.t))
		default:
			http.NotFound(w, q)
		}
	}))
	p, err := r.serving.Issue(time.Hour, devcerts.Loopback)
	if err != nil {
		r.t.Fatal(err)
	}
	pair, err := tls.X509KeyPair(p.Certificate, p.Key)
	if err != nil {
		r.t.Fatal(err)
	}
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	s.StartTLS()
	r.t.Cleanup(s.Close)
	_, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		r.t.Fatal(err)
	}
	r.web.issuer = "https://localhost:" + port
}

// start starts Redis and the brokers.
func (r *rotation) start() {
	r.t.Helper()
	db := redistest.Start(r.t, redistest.Options{TLS: true, Users: []string{"default off", documentedACL(r.t, "broker", "the-password")}})
	r.put("redis.password", []byte("the-password\n"))
	r.keys(db)
	var places strings.Builder
	for _, h := range r.sim.Hosts() {
		fmt.Fprintf(&places, "    %q: %q\n", h, r.sim.Addr())
	}
	for i := range 3 {
		data := filepath.Join(r.dir, strconv.Itoa(i))
		name := fmt.Sprintf("settings-%d.yaml", i)
		r.put(name, fmt.Appendf(nil, `data_dir: %[1]s/%[2]d
listen: []
metrics_listen: 127.0.0.1:0
store: %[3]s
redis: {username: broker, password_file: %[1]s/redis.password, ca_file: %[4]s, cert_file: %[5]s, key_file: %[6]s}
keys: {kek: "file://%[1]s/kek.json"}
policy_file: %[1]s/policy.yaml
audit: {file: %[1]s/%[2]d/audit.jsonl}
upstream:
  ca_file: %[1]s/upstream-ca.pem
  connect_to:
%[7]strust:
  corp: {ca_file: %[1]s/ca.pem, trust_domain: corp.example}
issuers:
  web: {issuer: %[8]q, audience: [tokenbroker], ca_file: %[1]s/serving-ca.pem}
  file: {issuer: %[9]q, audience: [tokenbroker], jwks_file: %[1]s/jwks.json}
services: {listen: ["127.0.0.1:0"], cert_file: %[1]s/tls.crt, key_file: %[1]s/tls.key, trust: [corp], issuers: [web, file]}
operators: {listen: ["127.0.0.1:0"], cert_file: %[1]s/tls.crt, key_file: %[1]s/tls.key, trust: [corp], issuers: [web, file]}
`, r.dir, i, db.URL(), db.CAFile, db.CertFile, db.KeyFile, places.String(), r.web.issuer, r.file.issuer))
		p := start(r.t, "serve", "--config", filepath.Join(r.dir, name))
		r.brokers, r.dirs = append(r.brokers, p), append(r.dirs, data)
	}
	for i, p := range r.brokers {
		for _, listener := range []string{"services", "operators"} {
			r.places = append(r.places, place{i, listener, "localhost:" + p.waitFor(listener+` on 127\.0\.0\.1:(\d+)`)})
		}
		p.waitFor(`metrics on http://(127\.0\.0\.1:\d+)`)
	}
}

// documentedACL is the rule of docs/redis.md for a user.
func documentedACL(t testing.TB, user, password string) string {
	t.Helper()
	doc, err := os.ReadFile("../../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(doc)) {
		if rule, ok := strings.CutPrefix(line, "user broker on >PASSWORD "); ok {
			return user + " on >" + password + " " + strings.TrimSpace(rule)
		}
	}
	t.Fatal("docs/redis.md has no ACL")
	return ""
}

// keys puts them into the store, as they are after two rotations of hours ago.
func (r *rotation) keys(db *redistest.Server) {
	r.t.Helper()
	must := func(err error) {
		r.t.Helper()
		if err != nil {
			r.t.Fatal(err)
		}
	}
	must(kek.CreateFile(filepath.Join(r.dir, "kek.json")))
	k, err := kek.Open(r.t.Context(), "file://"+filepath.Join(r.dir, "kek.json"), kek.Settings{})
	must(err)
	a, err := redis.ParseAddress(db.URL())
	must(err)
	backend, err := redis.Open(redis.Options{Address: a, Username: "broker", Password: "the-password", TLS: db.TLSConfig()})
	must(err)
	defer backend.Close()
	hours := func(n int) time.Time { return time.Now().Add(-time.Duration(n) * time.Hour) }
	keys, err := seal.New()
	must(err)
	keys, err = keys.Adopted(hours(5))
	must(err)
	r.former = keys.ID()
	keys, id, err := keys.Rotated(hours(4))
	must(err)
	keys, err = keys.Promoted(id, hours(3))
	must(err)
	keys, r.pending, err = keys.Rotated(hours(2))
	must(err)
	putKeys(r.t, backend, k, keys)
}

// waiters are how many calls wait for a token in all brokers.
func (r *rotation) waiters() (n int) {
	for _, p := range r.brokers {
		res, err := http.Get("http://" + p.waitFor(`metrics on http://(127\.0\.0\.1:\d+)`) + "/metrics")
		if err != nil {
			r.t.Fatal(err)
		}
		for lines := bufio.NewScanner(res.Body); lines.Scan(); {
			if text, ok := strings.CutPrefix(lines.Text(), "tokenbroker_token_waiters "); ok {
				v, _ := strconv.Atoi(text)
				n += v
			}
		}
		_ = res.Body.Close()
	}
	return n
}

// create stores a credential of a system, by an operator.
func (r *rotation) create(by *persona, name string, system upstreamsim.System) {
	r.t.Helper()
	a, err := r.sim.AddAccount(system)
	if err != nil {
		r.t.Fatal(err)
	}
	conn := r.dial(by, r.places[1])
	defer conn.Close()
	ctx, cancel := context.WithTimeout(by.on(r.t.Context()), patience)
	defer cancel()
	_, err = tokenbrokerv1.NewCredentialServiceClient(conn).CreateCredential(ctx, &tokenbrokerv1.CreateCredentialRequest{
		Credential: &tokenbrokerv1.Credential{Name: name, Provider: string(a.System), Inputs: a.Inputs, DefaultScopes: a.Scopes}, Secrets: a.Secrets,
	}, grpc.WaitForReady(true))
	if err != nil {
		r.t.Fatal(err)
	}
}

// dial makes a connection without retries, on which a broker shows what it has to show. A persona's session cache is used if it has one.
func (r *rotation) dial(p *persona, at place) *grpc.ClientConn {
	p.mu.Lock()
	pair, cache := p.pair, p.cache
	p.mu.Unlock()
	r.mu.Lock()
	roots := r.roots
	r.mu.Unlock()
	c := &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots, ServerName: "localhost", ClientSessionCache: cache, VerifyConnection: r.sees}
	if at.broker == 0 {
		c.MaxVersion = tls.VersionTLS12
	}
	if pair != nil {
		c.Certificates = []tls.Certificate{*pair}
	}
	conn, err := grpc.NewClient("passthrough:///127.0.0.1"+at.address[strings.LastIndexByte(at.address, ':'):], grpc.WithDisableRetry(), grpc.WithTransportCredentials(credentials.NewTLS(c)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.2, MaxDelay: 200 * time.Millisecond}, MinConnectTimeout: 20 * time.Second}))
	if err != nil {
		panic(err)
	}
	return conn
}

// sees looks at what a broker shows, and whether a session was resumed.
func (r *rotation) sees(s tls.ConnectionState) error {
	if s.DidResume {
		r.resumed.Add(1)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.PeerCertificates[0].SerialNumber.String() != r.shown.serial {
		r.wasLate("the broker's certificate", time.Since(r.shown.since))
	}
	return nil
}

// wasLate notes how long after a change something was as before; the caller holds mu.
func (r *rotation) wasLate(what string, late time.Duration) {
	r.latest[what] = max(r.latest[what], late)
	if late > bound+busy {
		r.t.Errorf("%s: something is as before %v after the change, want %v at most", what, late, bound)
	}
}

// audited reads a broker's audit log: no line is missing.
func (r *rotation) audited(dir string, events map[string]int) {
	r.t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "audit.jsonl"))
	if err != nil {
		r.t.Fatal(err)
	}
	seq := 0
	for line := range bytes.Lines(data) {
		var l struct {
			Seq   int    `json:"seq"`
			Event string `json:"event"`
		}
		if err := json.Unmarshal(line, &l); err != nil {
			r.t.Fatalf("%s: %v", line, err)
		}
		if seq++; l.Seq != seq {
			r.t.Errorf("after line %d comes %d", seq-1, l.Seq)
			seq = l.Seq
		}
		events[l.Event]++
	}
}

// without is a list without a name.
func without(names []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
}
