package server

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc/metadata"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A caller is believed by a proof: a certificate, for as long as its connection lasts, or a token, which each call brings. Either ends at a time, and
// counts no more once what the door trusts has changed so. It is looked at before a call is done, and before it is answered; of a stream, and of a call that
// waits, whenever something changes.

// A proof is who makes a call, as of a generation of what the door trusts. The zero value is nobody's.
type proof struct {
	who        *Authenticated
	of         *connections
	generation uint64
}

// caller is nil for nobody.
func (p proof) caller() *broker.Caller {
	if p.who == nil {
		return nil
	}
	return p.who.Caller
}

// holds fails with CallerUnauthenticated once the caller would not be believed any more.
func (p proof) holds(now time.Time) error {
	switch {
	case p.who == nil:
		return nil
	case p.who.over(now):
		return unproven(errProofOver)
	case p.generation == p.of.generation.Load():
		return nil
	}
	if err := p.who.still(); err != nil {
		return unproven(err)
	}
	return nil
}

var (
	errProofOver = errors.New("what proved who the caller is has ended")
	errTwoProofs = errors.New("a certificate and a token came together, and nobody has said which counts: bring one")
	errNoToken   = errors.New("there is neither a certificate nor a token: call with the header \"authorization: Bearer TOKEN\"")
	errNotBearer = errors.New("one header \"authorization: Bearer TOKEN\" is wanted")
)

// unproven is why somebody is not believed, or not any more. What it says is told to them: it quotes nothing.
func unproven(err error) error {
	if f, ok := errors.AsType[*broker.Failure](err); ok {
		return f
	}
	detail := "what is trusted here has changed" // why may be about what others have put into a certificate: the log has it
	if slices.ContainsFunc([]error{errProofOver, errTwoProofs, errNoToken, errNotBearer}, func(own error) bool { return errors.Is(err, own) }) {
		detail = err.Error()
	}
	return &broker.Failure{Kind: broker.CallerUnauthenticated, Detail: detail}
}

// proven is the proof of a connection's peer.
func (k *connection) proven(now time.Time) (proof, error) {
	is := k.of.generation.Load()
	p := proof{&k.peer.Authenticated, k.of, k.seen.Load()}
	if err := p.holds(now); err != nil {
		return proof{}, err
	}
	if p.generation != is {
		k.seen.Store(is)
		p.generation = is
	}
	return p, nil
}

// forwardedHeader is by which proxies say for whom they call (Envoy, "HTTP header manipulation").
const forwardedHeader = "x-forwarded-client-cert"

// shown says who makes a call on a connection with a certificate: its peer, or the one for whom that says it calls.
func (k *connection) shown(now time.Time, forwarded []string) (proof, error) {
	p, err := k.proven(now)
	if err != nil || len(forwarded) == 0 {
		return p, err
	}
	if was := k.last.Load(); was != nil && len(forwarded) == 1 && was.header == forwarded[0] && was.generation == p.generation {
		return was.proof, nil
	}
	caller, err := k.of.door.Forwarders.Forwarded(k.peer.Caller, forwarded)
	if err != nil {
		return proof{}, unproven(err)
	}
	is := &bearing{forwarded[0], proof{&Authenticated{Caller: caller, Until: k.peer.Until, Still: k.peer.Still}, k.of, p.generation}}
	k.last.Store(is)
	return is.proof, nil
}

// greetWithin bounds how long a stranger's connection is not read for a token: an issuer that has to be asked for its keys may take longer.
const greetWithin = 100 * time.Millisecond

// greet looks at the token of a stranger's call as soon as its headers are there: what a caller brings is not counted as what a stranger does. Whose call it is,
// and why nobody's, is said when it has come.
func (k *connection) greet(ctx context.Context) {
	if !k.strange() {
		return // each call asks: headers are looked at by strangers alone
	}
	headers := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(headers) != 1 || len(metadata.ValueFromIncomingContext(ctx, forwardedHeader)) > 0 { // what is wrong with the latter is not the token's
		return
	}
	bounded, cancel := context.WithTimeout(ctx, greetWithin)
	defer cancel()
	generation := k.of.generation.Load()
	if _, err := k.whose(bounded, time.Now()); broker.KindOf(err) == broker.CallerUnauthenticated || broker.KindOf(err) == broker.CallerLimited {
		k.unproven.Store(&refusal{headers[0], generation, err})
	}
}

// A refusal is why a token counted for nothing.
type refusal struct {
	header     string
	generation uint64
	err        error
}

// bearing is a token, or a proxy's word, that a call has brought, with whose it is.
type bearing struct {
	header string
	proof
}

// tokenWithin bounds how long it may take to say whose a token is: the issuer may be asked for its keys.
const tokenWithin = 10 * time.Second

// whose says who makes a call: by the token that it brings, where the door takes tokens, else by the connection.
// CallerUnauthenticated, IssuerUnavailable.
func (k *connection) whose(ctx context.Context, now time.Time) (proof, error) {
	var forwarded []string
	if k.of.door.Forwarders != nil {
		forwarded = metadata.ValueFromIncomingContext(ctx, forwardedHeader)
	}
	if k.of.door.Tokens == nil {
		return k.shown(now, forwarded)
	}
	headers := metadata.ValueFromIncomingContext(ctx, "authorization")
	switch {
	case k.peer.Caller != nil && len(headers) > 0:
		return proof{}, unproven(errTwoProofs)
	case k.peer.Caller != nil:
		return k.shown(now, forwarded)
	case len(forwarded) > 0:
		_, err := k.of.door.Forwarders.Forwarded(nil, forwarded)
		return proof{}, unproven(err)
	case len(headers) == 0:
		return proof{}, unproven(errNoToken)
	case len(headers) > 1:
		return proof{}, unproven(errNotBearer)
	}
	if was := k.last.Load(); was != nil && was.header == headers[0] && was.generation == k.of.generation.Load() && !was.who.over(now) {
		return was.proof, nil
	}
	if was := k.unproven.Swap(nil); was != nil && was.header == headers[0] && was.generation == k.of.generation.Load() {
		return proof{}, was.err // it was looked at just now
	}
	scheme, token, _ := strings.Cut(headers[0], " ")
	if token = strings.TrimLeft(token, " "); !strings.EqualFold(scheme, "bearer") || token == "" { // RFC 9110 section 11.1: its case does not count
		return proof{}, unproven(errNotBearer)
	}
	if !k.of.door.Tokens.Remembers(token) {
		if at := k.of.newTokens.wait(k.party().name+" from "+hostOf(k.RemoteAddr()), now); at > 0 { // what others bring on one's connection to a proxy is not counted elsewhere
			return proof{}, &broker.Failure{Kind: broker.CallerLimited, RetryAt: now.Add(at), Detail: "more tokens that were not seen before come from this machine, or proxy, than can be looked at"}
		}
	}
	generation := k.of.generation.Load() // before: what changes meanwhile is looked at
	bounded, cancel := context.WithTimeout(ctx, tokenWithin)
	defer cancel()
	who, err := k.of.door.Tokens.AuthenticateToken(bounded, token)
	if err != nil {
		return proof{}, unproven(err)
	}
	k.introduce(who)
	is := &bearing{headers[0], proof{who, k.of, generation}}
	k.last.Store(is)
	return is.proof, nil
}

// To look at a token costs 20 to 130 µs, whether or not it counts. One party has five hundred a second looked at that were not seen before, from
// each machine.
const (
	newTokensEvery = 2 * time.Millisecond
	newTokensBurst = 2000
	// ratesMost bounds the names that are told apart.
	ratesMost = 4096
)

// A rates bounds something for each name. The zero value is ready. Safe for concurrent use.
type rates struct {
	mu sync.Mutex
	of map[string]*rate.Limiter
}

// wait is how long one of a name has to wait; 0: it need not, and that is counted.
func (r *rates) wait(name string, now time.Time) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.of[name]
	if l == nil {
		if len(r.of) >= ratesMost {
			maps.DeleteFunc(r.of, func(_ string, l *rate.Limiter) bool { return l.TokensAt(now) >= newTokensBurst })
		}
		if r.of == nil || len(r.of) >= ratesMost {
			r.of = map[string]*rate.Limiter{}
		}
		l = rate.NewLimiter(rate.Every(newTokensEvery), newTokensBurst)
		r.of[name] = l
	}
	if l.AllowN(now, 1) {
		return 0
	}
	return newTokensEvery * 100
}

// lasting are the streams, and the calls that wait, of a door whose callers' proofs may end. The zero value has none. Safe for concurrent use.
type lasting struct {
	mu  sync.Mutex
	all map[*streaming]struct{}
}

type streaming struct {
	proof
	end context.CancelCauseFunc
}

// add has a stream, or a call, end with its proof, until the function is called that it returns. The context's cause is CallerUnauthenticated then.
func (l *lasting) add(ctx context.Context, p proof, now time.Time) (context.Context, func()) {
	if p.who == nil || p.who.Until.IsZero() && p.who.Still == nil {
		return ctx, func() {}
	}
	ctx, end := context.WithCancelCause(ctx)
	s := &streaming{p, end}
	l.mu.Lock()
	if l.all == nil {
		l.all = map[*streaming]struct{}{}
	}
	l.all[s] = struct{}{}
	l.mu.Unlock()
	ended := func() bool { return true }
	if !p.who.Until.IsZero() {
		ended = time.AfterFunc(p.who.Until.Sub(now), func() { end(unproven(errProofOver)) }).Stop
	}
	s.look(now) // what is trusted may have changed before it was here
	return ctx, func() {
		ended()
		l.mu.Lock()
		delete(l.all, s)
		l.mu.Unlock()
		end(nil)
	}
}

// look ends the streams whose proofs hold no more.
func (l *lasting) look(now time.Time) {
	l.mu.Lock()
	all := make([]*streaming, 0, len(l.all))
	for s := range l.all {
		all = append(all, s)
	}
	l.mu.Unlock()
	for _, s := range all {
		s.look(now)
	}
}

func (s *streaming) look(now time.Time) {
	if err := s.holds(now); err != nil {
		s.end(err)
	}
}

// unprovenCause is why a context has ended, where its caller's proof has.
func unprovenCause(ctx context.Context) error {
	if f, ok := errors.AsType[*broker.Failure](context.Cause(ctx)); ok && f.Kind == broker.CallerUnauthenticated {
		return f
	}
	return nil
}
