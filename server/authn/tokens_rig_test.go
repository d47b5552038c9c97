package authn

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tokenbroker/tokenbroker/broker"
)

// The keys of the tests: one of each kind, and another RSA key.
var (
	rsaKey      = sync.OnceValue(func() *rsa.PrivateKey { return made(rsa.GenerateKey(rand.Reader, 2048)) })
	rsaOther    = sync.OnceValue(func() *rsa.PrivateKey { return made(rsa.GenerateKey(rand.Reader, 2048)) })
	ecKey       = sync.OnceValue(func() *ecdsa.PrivateKey { return made(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	edKey       = sync.OnceValue(func() ed25519.PrivateKey { _, k, err := ed25519.GenerateKey(rand.Reader); return made(k, err) })
	pipesListen = "http://127.0.0.1:8080"
)

func made[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// pass lets virtual time pass.
func pass(d time.Duration) { <-time.After(d) }

// mint makes a token by hand, of a header and claims as they are written. The key decides how it is signed.
func mint(key any, header, claims string) string {
	enc := base64.RawURLEncoding.EncodeToString
	signed := enc([]byte(header)) + "." + enc([]byte(claims))
	sum := sha256.Sum256([]byte(signed))
	var sig []byte
	switch k := key.(type) {
	case nil:
	case *rsa.PrivateKey:
		if strings.Contains(header, "PS256") {
			sig = made(rsa.SignPSS(rand.Reader, k, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}))
		} else {
			sig = made(rsa.SignPKCS1v15(nil, k, crypto.SHA256, sum[:]))
		}
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, k, sum[:])
		if err != nil {
			panic(err)
		}
		sig = make([]byte, 64)
		r.FillBytes(sig[:32])
		s.FillBytes(sig[32:])
	case ed25519.PrivateKey:
		sig = ed25519.Sign(k, []byte(signed))
	case []byte:
		mac := hmac.New(sha256.New, k)
		mac.Write([]byte(signed))
		sig = mac.Sum(nil)
	default:
		panic(fmt.Sprintf("%T", key))
	}
	return signed + "." + enc(sig)
}

// jwk is a public key as an issuer shows it.
func jwk(kid string, public any, edit ...func(map[string]any)) map[string]any {
	m := map[string]any{}
	text := made(jose.JSONWebKey{Key: public, KeyID: kid, Use: "sig"}.MarshalJSON())
	if err := json.Unmarshal(text, &m); err != nil {
		panic(err)
	}
	for _, f := range edit {
		f(m)
	}
	return m
}

func set(keys ...map[string]any) string {
	if keys == nil {
		keys = []map[string]any{}
	}
	return string(made(json.Marshal(map[string]any{"keys": keys})))
}

// A house is an issuer that answers what a test says, and is strict about what it is asked. It is reached through pipes, so that time can be virtual.
type house struct {
	t    testing.TB
	keys string
	// answer, if it is set, answers instead of it.
	answer func(w http.ResponseWriter, r *http.Request) bool
	cache  string // Cache-Control
	bearer string // that is wanted; empty: none

	mu    sync.Mutex
	asked map[string]int // by path
	more  chan net.Conn
}

// newHouse opens one, that closes with the test.
func newHouse(t testing.TB, keys string) *house {
	h := &house{t: t, keys: keys, asked: map[string]int{}, more: make(chan net.Conn)}
	l := &pipes{more: h.more, closed: make(chan struct{})}
	srv := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() {
		_ = srv.Close()
		serving.Wait()
	})
	return h
}

// dial connects to it, whatever the address.
func (h *house) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case h.more <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// show changes its keys.
func (h *house) show(keys string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.keys = keys
}

// answers has it answer otherwise; nil: as it should.
func (h *house) answers(f func(w http.ResponseWriter, r *http.Request) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer = f
}

// count is how often it was asked for something.
func (h *house) count(path string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.asked[path]
}

func (h *house) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.asked[r.URL.Path]++
	keys, answer, cache, bearer := h.keys, h.answer, h.cache, h.bearer
	h.mu.Unlock()
	want := ""
	if bearer != "" {
		want = "Bearer " + bearer
	}
	if r.Method != http.MethodGet || r.ContentLength != 0 || r.Header.Get("Cookie") != "" || r.Header.Get("Referer") != "" || r.URL.RawQuery != "" || r.Header.Get("Authorization") != want {
		h.t.Errorf("it was asked as nobody should: %s %s with %d headers", r.Method, r.URL, len(r.Header))
	}
	if answer != nil && answer(w, r) {
		return
	}
	if cache != "" {
		w.Header().Set("Cache-Control", cache)
	}
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/.well-known/openid-configuration":
		fmt.Fprintf(w, `{"issuer": %q, "jwks_uri": %q}`, pipesListen, pipesListen+"/keys")
	case "/keys":
		fmt.Fprint(w, keys)
	default:
		http.NotFound(w, r)
	}
}

// pipes is a listener of connections within the process.
type pipes struct {
	more   chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.more:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// noon is when the tests take place that have a clock of their own.
var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func atNoon() time.Time { return noon }

// ci is an issuer that is a house.
func ci(edit ...func(*Issuer)) Issuer {
	i := Issuer{Name: "ci", Kind: broker.JWT, Issuer: pipesListen, Audience: []string{"tokenbroker"}}
	for _, f := range edit {
		f(&i)
	}
	return i
}

// claims are those of a token that counts, at noon; more is what else it has, and comes first.
func claims(more string) string {
	return claimsAt(noon, more)
}

func claimsAt(now time.Time, more string) string {
	out := map[string]any{"iss": pipesListen, "sub": "worker", "aud": "tokenbroker", "exp": now.Add(time.Hour).Unix(), "iat": now.Unix()}
	d := json.NewDecoder(strings.NewReader("{" + more + "}"))
	d.UseNumber()
	other := map[string]any{}
	if err := d.Decode(&other); err != nil {
		panic(err)
	}
	for name, v := range other {
		if out[name] = v; v == nil {
			delete(out, name)
		}
	}
	return string(made(json.Marshal(out)))
}

// log is what was logged.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *log) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(l, nil)) }

// tokensOf are Tokens of one listener, whose issuers are all behind one house.
func tokensOf(t testing.TB, h *house, now func() time.Time, issuers ...Issuer) *Tokens {
	t.Helper()
	all, err := newTokens(TokenSettings{Listener: "services", Issuers: issuers, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: now}, h.dial)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// follow runs Follow until the test ends, or the function is called.
func follow(t testing.TB, all *Tokens) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var following sync.WaitGroup
	following.Go(func() { all.Follow(ctx) })
	stop = func() {
		cancel()
		following.Wait()
	}
	t.Cleanup(stop)
	return stop
}

// shows is what a token's caller is called, or why there is none.
func shows(t testing.TB, all *Tokens, token string) string {
	t.Helper()
	a, err := all.AuthenticateToken(t.Context(), token)
	if err != nil {
		f, ok := err.(*broker.Failure) //nolint:errorlint // nothing else may come
		if !ok || a != nil {
			t.Fatalf("got %v, %v", a, err)
		}
		if f.Kind == broker.CallerUnauthenticated {
			return f.Detail
		}
		return f.Kind.Name()
	}
	return a.Caller.Identity
}
