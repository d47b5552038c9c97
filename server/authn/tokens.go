package authn

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/server"
)

// TokenSettings are what Tokens are made of.
type TokenSettings struct {
	// Listener is the name of the listener, as its callers have it.
	Listener string
	// Issuers are whose tokens are believed. At least one; no two have a name, an iss or a trust domain in common.
	Issuers []Issuer
	// Log gets what becomes of the keys, and nothing of any token. Default: discarded.
	Log *slog.Logger
	// Now is the time of day. Default: time.Now.
	Now func() time.Time
}

// Tokens authenticate callers by the JWTs that they bring. The issuers' keys are fetched now and then; what is broken, or away, leaves what was fetched
// before, for a day. It implements server.TokenAuthenticator.
type Tokens struct {
	settings TokenSettings
	log      *slog.Logger
	now      func() time.Time
	dial     dialer // of tests

	issuers []*issuer
	byIss   map[string]*issuer
	// byDomain are those of JWT-SVIDs, by trust domain.
	byDomain map[string]*issuer
	seen     *remembered

	mu      sync.Mutex
	changes chan struct{}
}

var _ server.TokenAuthenticator = (*Tokens)(nil)

// An IssuerStatus is how an issuer is doing.
type IssuerStatus struct {
	Name string
	// Fetched is when its keys were fetched last; zero: never.
	Fetched time.Time
	// Stale: what is believed is not what should be there, for the last fetch failed, or is not there at all.
	Stale bool
	// Problem is what was wrong with the last fetch. Empty: nothing, or there was none yet.
	Problem string
}

// NewTokens checks the settings and reads the files. It asks no issuer: Follow does that at once, and the first token that comes. Whoever has made it runs
// Follow; without that nothing goes on in the background but a fetch that a token asked for, for ten seconds at most.
func NewTokens(s TokenSettings) (*Tokens, error) { return newTokens(s, nil) }

func newTokens(s TokenSettings, dial dialer) (*Tokens, error) {
	t := &Tokens{settings: s, log: s.Log, now: s.Now, dial: dial, byIss: map[string]*issuer{}, byDomain: map[string]*issuer{},
		seen: newRemembered(rememberedMost), changes: make(chan struct{})}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	if t.now == nil {
		t.now = time.Now
	}
	if len(s.Issuers) == 0 {
		return nil, errors.New("no issuer's tokens are believed: name an issuer")
	}
	for _, of := range s.Issuers {
		i, err := newIssuer(of)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(t.issuers, func(o *issuer) bool { return o.Name == i.Name }) {
			return nil, fmt.Errorf("issuer %s: there are two of this name", i.Name)
		}
		by, found := t.byIss, i.Issuer.Issuer
		if i.Kind == broker.SPIFFE {
			by, found = t.byDomain, i.TrustDomain
		}
		if other := by[found]; other != nil {
			return nil, fmt.Errorf("issuer %s: its tokens cannot be told from those of %s: both have the same issuer or trust_domain", i.Name, other.Name)
		}
		by[found] = i
		i.keys = newKeys(of, t)
		if err := i.keys.begin(); err != nil {
			return nil, fmt.Errorf("issuer %s: %w", i.Name, err)
		}
		t.issuers = append(t.issuers, i)
	}
	return t, nil
}

// begin reads the files of an issuer.
func (k *keys) begin() error {
	if _, err := k.of.client(nil); err != nil {
		return err
	}
	if k.of.TokenFile != "" {
		if _, err := k.of.bearer(); err != nil {
			return err
		}
	}
	if k.of.JWKSFile == "" {
		return nil
	}
	set, life, err := k.load(context.Background())
	switch {
	case err != nil:
		return err
	case len(set.keys) == 0: // later it is taken for what it says
		return errors.New("the key set has no key that can be used: what it has is private, too short, or for something else")
	}
	k.land(set, life, nil)
	return nil
}

// sweepEvery is how often tokens are forgotten that have ended. Nobody can come with them; they only take room.
const sweepEvery = time.Minute

// Follow fetches keys now and then, and when files change, until ctx ends.
func (t *Tokens) Follow(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	for _, i := range t.issuers { // apart: none waits for another
		all.Go(func() { i.keys.follow(ctx) })
	}
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.seen.sweep(t.now())
		}
	}
}

// Changes implements server.TokenAuthenticator: at the next change of the keys of any issuer.
func (t *Tokens) Changes() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changes
}

func (t *Tokens) change() {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.changes)
	t.changes = make(chan struct{})
}

// Status is how each issuer is doing, in the order of the settings.
func (t *Tokens) Status() []IssuerStatus {
	all := make([]IssuerStatus, 0, len(t.issuers))
	for _, i := range t.issuers {
		s := IssuerStatus{Name: i.Name, Stale: i.keys.believed() == nil}
		if is := i.keys.is.Load(); is != nil {
			s.Fetched = is.fetched
		}
		i.keys.mu.Lock()
		s.Problem = i.keys.problem
		i.keys.mu.Unlock()
		s.Stale = s.Stale || s.Problem != ""
		all = append(all, s)
	}
	return all
}

// errGone is what Still says of a token whose key its issuer has taken away.
var errGone = errors.New("the key that signed its token is not believed any more")

// AuthenticateToken implements server.TokenAuthenticator.
func (t *Tokens) AuthenticateToken(ctx context.Context, token string) (*server.Authenticated, error) {
	if len(token) > tokenMost {
		return nil, errLong
	}
	d := sha256.Sum256([]byte(token))
	if a := t.seen.get(d); a != nil {
		if t.now().Before(a.Until) && a.Still() == nil {
			return a, nil
		}
		t.seen.drop(d, a)
	}
	a, err := t.verify(ctx, token)
	if err != nil {
		return nil, err
	}
	return t.seen.put(d, a), nil
}

// Remembers implements server.TokenAuthenticator.
func (t *Tokens) Remembers(token string) bool {
	return len(token) <= tokenMost && t.seen.get(sha256.Sum256([]byte(token))) != nil
}

// verify says whose token it is. What costs little is looked at before a signature, and what is sure before keys are asked for.
func (t *Tokens) verify(ctx context.Context, token string) (*server.Authenticated, error) {
	p, wrong := parse(token)
	if wrong != nil {
		return nil, wrong
	}
	i := t.issuerOf(p)
	if i == nil {
		return nil, errIssuer
	}
	alg, ok := i.algorithms[p.alg]
	if !ok {
		return nil, errAlgorithm
	}
	until, wrong := p.ends(t.now())
	if wrong != nil {
		return nil, wrong
	}
	if wrong := p.isFor(i.Audience); wrong != nil {
		return nil, wrong
	}
	name, wrong := i.name(p)
	if wrong != nil {
		return nil, wrong
	}
	by, wrong := i.keys.signer(ctx, func(s *keySet) (*key, bool, *broker.Failure) { return s.find(token, p, alg) })
	if wrong != nil {
		return nil, wrong
	}
	authority := i.Name
	if i.Kind == broker.SPIFFE {
		authority = i.TrustDomain
	}
	caller := broker.NewCaller(i.Kind, authority, name, broker.ProofJWT, t.settings.Listener)
	caller.Attributes = i.attributes(p, name)
	return &server.Authenticated{Caller: caller, Until: until, Still: func() error {
		if !i.keys.has(by.id) {
			return errGone
		}
		return nil
	}}, nil
}

// issuerOf says by whom a token would be believed: by the trust domain of its subject where there is such an issuer, or else by its iss. Nothing else of a token,
// and no key that it names or brings, says so. Nil: by nobody.
func (t *Tokens) issuerOf(p *presented) *issuer {
	if sub, _ := p.claims["sub"].(string); len(t.byDomain) > 0 {
		if rest, ok := strings.CutPrefix(sub, "spiffe://"); ok {
			domain, _, _ := strings.Cut(rest, "/")
			if i := t.byDomain[domain]; i != nil {
				return i
			}
		}
	}
	iss, _ := p.claims["iss"].(string)
	return t.byIss[iss]
}

// signer finds the key that has signed a token, and asks the issuer for its keys where it may have others by now.
func (k *keys) signer(ctx context.Context, find func(*keySet) (by *key, unknown bool, why *broker.Failure)) (*key, *broker.Failure) {
	for again := true; ; {
		by, unknown, wrong := find(k.believed())
		if wrong == nil || !unknown {
			return by, wrong
		}
		if !again {
			return nil, k.unknown(wrong)
		}
		f, joined := k.fetch(false)
		if f == nil {
			return nil, k.unknown(wrong)
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, k.unavailable()
		}
		again = joined && !k.failing() // it may have been on its way before the key was there
	}
}

// unknown is what is said of a token whose key is not there. Where the keys are not what they should be, nobody can say whether it is the issuer's.
func (k *keys) unknown(wrong *broker.Failure) *broker.Failure {
	if k.believed() == nil || k.failing() {
		return k.unavailable()
	}
	return wrong
}

func (k *keys) unavailable() *broker.Failure {
	return &broker.Failure{Kind: broker.IssuerUnavailable, RetryAt: k.retry()}
}
