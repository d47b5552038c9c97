package engine_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/seal"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// local is a caller on this machine.
var local = broker.NewCaller(broker.Local, "", "", broker.ProofNone, "")

// upstream is a scripted one: what it answers is a function of the exchange.
type upstream struct {
	facts        broker.Facts
	host         string
	revision     atomic.Uint64
	answer       func(ctx context.Context, x broker.Exchange) (broker.Answer, error)
	check        func(broker.Credential) []broker.Violation
	destinations func(broker.Credential) []broker.Destination
	silent       bool // answers without an attempt: nothing was asked

	mu      sync.Mutex
	seen    []broker.Exchange
	running int
	most    int
}

func (u *upstream) Definition(name string) (broker.Definition, error) {
	if name != u.facts.Name {
		return nil, &broker.Failure{Kind: broker.ProviderInvalid, Provider: name}
	}
	return u, nil
}
func (u *upstream) Revision() uint64                                { return u.revision.Load() }
func (u *upstream) Facts() *broker.Facts                            { return &u.facts }
func (u *upstream) Host(broker.Credential, broker.Selection) string { return u.host }
func (u *upstream) Destinations(c broker.Credential) []broker.Destination {
	if u.destinations != nil {
		return u.destinations(c)
	}
	return nil
}
func (u *upstream) Check(c broker.Credential, _ []string) []broker.Violation {
	if u.check != nil {
		return u.check(c)
	}
	return nil
}

func (u *upstream) Select(c broker.Credential, s broker.Selection) (broker.Selection, error) {
	if s.Scopes.Empty() {
		s.Scopes = c.DefaultScopes
	}
	return s, nil
}

func (u *upstream) Exchange(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
	if err := x.BeforeSend(u.host); err != nil {
		return broker.Answer{}, &broker.UpstreamError{Refused: true}
	}
	u.mu.Lock()
	u.seen = append(u.seen, x)
	u.running++
	u.most = max(u.most, u.running)
	answer := u.answer
	u.mu.Unlock()
	defer func() {
		u.mu.Lock()
		u.running--
		u.mu.Unlock()
	}()
	sent := time.Now()
	a, err := answer(ctx, x)
	if a.Expiry.SentAt.IsZero() {
		a.Expiry.SentAt = sent
	}
	attempt := broker.Attempt{Start: sent, Duration: time.Since(sent), Host: u.host, Status: 200}
	var e *broker.UpstreamError
	if errors.As(err, &e) {
		attempt.Status, attempt.Reason, attempt.UpstreamError = e.Status, e.Kind().Name(), e.Code
		e.Attempts = []broker.Attempt{attempt}
	}
	if !u.silent {
		a.Attempts = []broker.Attempt{attempt}
	}
	return a, err
}

func (u *upstream) Present(_ broker.Credential, _ broker.Selection, t broker.Issued) (broker.Presentation, error) {
	return broker.Presentation{Headers: []broker.Field{{Name: "Authorization", Value: t.Values["token"]}}}, nil
}

// script changes what it answers, while it may be asked.
func (u *upstream) script(f func(context.Context, broker.Exchange) (broker.Answer, error)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answer = f
}

// atOnce is how many exchanges ran together, at most.
func (u *upstream) atOnce() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.most
}

func (u *upstream) exchanges() []broker.Exchange {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]broker.Exchange(nil), u.seen...)
}

// issues answers with numbered tokens that live so long.
func issues(life time.Duration) func(context.Context, broker.Exchange) (broker.Answer, error) {
	var n atomic.Int64
	return func(context.Context, broker.Exchange) (broker.Answer, error) {
		return token(fmt.Sprintf("token-%d", n.Add(1)), life), nil
	}
}

func token(s string, life time.Duration) broker.Answer {
	return broker.Answer{Values: map[string]broker.Secret{"token": broker.NewSecret(s)}, Expiry: broker.Expiry{In: &life}}
}

// world is a broker with everything that it needs.
type world struct {
	*engine.Broker
	t       testing.TB
	up      *upstream
	store   *store.Store
	backend *storetest.Faults
}

// newWorld makes a broker for one scripted upstream, and the credential "main". In a synctest bubble time passes as soon as
// nothing else is to be done.
func newWorld(t testing.TB, up *upstream, more ...func(*engine.Settings)) *world {
	t.Helper()
	up.complete()
	keys := newKeys(t)
	backend := storetest.NewFaults(storetest.NewMemory())
	s, err := store.New(backend, keys, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, up: up, store: s, backend: backend}
	w.start(more...)
	return w
}

func newKeys(t testing.TB) *seal.Keyring {
	t.Helper()
	keys, err := seal.New()
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

// complete gives the facts that a test does not care for.
func (u *upstream) complete() {
	if u.facts.Name == "" {
		u.facts.Name = "scripted"
	}
	if u.facts.Digest == "" {
		u.facts.Digest = "digest-1"
	}
	if u.facts.Inputs == nil {
		u.facts.Inputs = map[string]broker.InputFacts{"client_secret": {Secret: true, Optional: true}}
	}
	if u.host == "" {
		u.host = "upstream.example:443"
	}
	if !u.facts.Refreshes {
		u.facts.Obtains = true
	}
	u.facts.Requests = 1
}

// start makes a broker above the store that is there: as after a restart.
func (w *world) start(more ...func(*engine.Settings)) {
	w.t.Helper()
	settings := engine.Settings{Upstream: w.up, Store: w.store, Authorizer: broker.LocalOnly{}}
	for _, f := range more {
		f(&settings)
	}
	b, err := engine.New(settings)
	if err != nil {
		w.t.Fatal(err)
	}
	w.Broker = b
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = b.Close(ctx)
	})
}

// create stores a credential.
func (w *world) create(name string, secrets map[string]string) broker.Credential {
	w.t.Helper()
	c, err := w.CreateCredential(context.Background(), local, engine.Change{
		Name: broker.CredentialName(name), Edit: func(d *engine.Draft) error {
			d.Provider, d.Secrets = w.up.facts.Name, secretMap(secrets)
			return nil
		},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func secretMap(m map[string]string) map[string]broker.Secret {
	out := map[string]broker.Secret{}
	for k, v := range m {
		out[k] = broker.NewSecret(v)
	}
	return out
}

// get asks for the token of a credential.
func (w *world) get(name string, more ...func(*engine.Request)) (engine.Result, error) {
	r := engine.Request{Credential: broker.CredentialName(name)}
	for _, f := range more {
		f(&r)
	}
	return w.Token(context.Background(), local, r)
}

func (w *world) mustGet(name string, more ...func(*engine.Request)) engine.Result {
	w.t.Helper()
	r, err := w.get(name, more...)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) wantExchanges(n int) {
	w.t.Helper()
	if got := len(w.up.exchanges()); got != n {
		w.t.Errorf("got %d exchanges, want %d", got, n)
	}
}

func rejected(id string) func(*engine.Request) {
	return func(r *engine.Request) { r.RejectedTokenID = id }
}

func scopes(t testing.TB, s ...string) func(*engine.Request) {
	t.Helper()
	set, err := broker.ParseSet("scopes", s)
	if err != nil {
		t.Fatal(err)
	}
	return func(r *engine.Request) { r.Selection.Scopes = set }
}

func wantKind(t testing.TB, err error, want broker.Kind) *broker.Failure {
	t.Helper()
	if err == nil || !errors.Is(err, want) {
		t.Fatalf("got %v, want %s", err, want.Name())
	}
	var f *broker.Failure
	if !errors.As(err, &f) {
		t.Fatalf("got %T, want a Failure", err)
	}
	return f
}

// bubble runs a test in which time passes by itself.
func bubble(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, f)
}

// sleep lets time pass, in a bubble.
func sleep(d time.Duration) { <-time.After(d) }
