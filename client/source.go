package client

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// A Source has one token of a credential, and its successors. Safe for concurrent use; made by Client.Source only.
type Source struct {
	c *Client
	// request is what is asked for, without a rejected token. Not changed.
	request *tokenbrokerv1.GetTokenRequest
	origin  string
	watches bool

	// held is the token that is answered from memory; nil: none is.
	held atomic.Pointer[Token]

	mu sync.Mutex
	// running is the call to the broker that is under way; nil: none is.
	running *call
	// refreshFrom is when the broker may be asked again in the background.
	refreshFrom time.Time
	// rejected is the id of a token that the API has refused, and the broker is still to be told of; empty: there is none.
	rejected string
	// moved counts what was dropped, and what a watch has brought; dropped are the last of the former.
	moved   int
	dropped []drop
	// watching: the broker is, or will be, heard.
	watching bool
}

// A drop is a token that must not be used any more, since then.
type drop struct {
	id string
	at int
}

// A call is a question to the broker, shared by all who wait for it.
type call struct {
	rejected string
	moved    int
	done     chan struct{}
	// token and err are there once done is closed.
	token *Token
	err   error
}

// A SourceOption says what a Source is to get.
type SourceOption func(*Source)

// WithScopes asks for these scopes. Without it: the credential's own.
func WithScopes(scopes ...string) SourceOption {
	return func(s *Source) { s.request.Scopes = slices.Clone(scopes) }
}

// WithAudience asks for an audience (RFC 8693 section 2.1), or what the vendor calls so.
func WithAudience(audience string) SourceOption {
	return func(s *Source) { s.request.Audience = audience }
}

// WithResources asks for resources (RFC 8707).
func WithResources(resources ...string) SourceOption {
	return func(s *Source) { s.request.Resources = slices.Clone(resources) }
}

// WithParameter gives a parameter that the credential's definition declares.
func WithParameter(name, value string) SourceOption {
	return func(s *Source) {
		if s.request.Parameters == nil {
			s.request.Parameters = map[string]string{}
		}
		s.request.Parameters[name] = value
	}
}

// WithMinTTL asks for tokens that live at least so long, as far as the upstream can give them.
func WithMinTTL(d time.Duration) SourceOption {
	return func(s *Source) { s.request.MinTtl = durationpb.New(d) }
}

// WithOrigin says where the API is, as "https://api.example.com", for a credential whose definition does not: requests elsewhere get no token. What the definition
// says wins.
func WithOrigin(origin string) SourceOption { return func(s *Source) { s.origin = origin } }

// WithWatch has the broker tell at once when a token must not be used any more, and what the next one is. It costs a stream for as long as the Client lives, from
// the first token on. Without it a token that somebody else has invalidated is used until the API refuses it, or it is refreshed.
func WithWatch() SourceOption { return func(s *Source) { s.watches = true } }

// Source returns the source of a credential's tokens, with these options. While one with the same ones is in use it is that one: whoever asks for the same shares a token, and a
// stream. Keep it, for what nobody has any more forgets its token. It asks for nothing until it is asked.
func (c *Client) Source(credential string, options ...SourceOption) *Source {
	s := &Source{c: c, request: &tokenbrokerv1.GetTokenRequest{Credential: credential}}
	for _, o := range options {
		o(s)
	}
	is := s.is()
	c.mu.Lock()
	defer c.mu.Unlock()
	if same := c.sources[is].Value(); same != nil {
		return same
	}
	if c.sources == nil {
		c.sources = map[kind]weak.Pointer[Source]{}
	}
	c.sources[is] = weak.Make(s)
	runtime.AddCleanup(s, c.forget, is)
	return s
}

// A kind is what Sources have in common that are one.
type kind struct {
	request, origin string
	watches         bool
}

func (s *Source) is() kind {
	request, err := proto.MarshalOptions{Deterministic: true}.Marshal(s.request)
	if err != nil { // a text is no UTF-8: the broker is not asked, whoever has it
		request = []byte(err.Error())
	}
	return kind{string(request), s.origin, s.watches}
}

// forget is called when nobody has a Source any more.
func (c *Client) forget(is kind) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sources[is].Value() == nil { // else there is another one since
		delete(c.sources, is)
	}
}

const (
	// callTimeout is how long the broker is waited for: it gives an exchange as long.
	callTimeout = 30 * time.Second
	// refreshAgain is after how long the broker is asked again for a successor that it did not have.
	refreshAgain = 10 * time.Second
	// droppedMost is how many tokens are remembered that must not be used any more: more than are dropped while one call is under way.
	droppedMost = 16
)

// Token returns a token that is valid now: from memory, or from the broker. It fails with the status of the broker's answer, whose details Reason and RetryDelay
// read, with ctx's error where that ends first, and with ErrClosed. A call that nobody waits for any more goes on. It has the values of the context of whoever began
// it, so that it belongs to its trace, but none of its gRPC metadata.
func (s *Source) Token(ctx context.Context) (*Token, error) {
	if t := s.held.Load(); t != nil {
		now := time.Now()
		if now.Before(t.RefreshTime) {
			return t, nil
		}
		if now.Before(t.ExpireTime) {
			s.refresh(now)
			return t, nil
		}
	}
	return s.wait(ctx)
}

// Reject says that the API has refused a token: it is not answered again, and the broker is told when the next one is asked for. That needs the permission
// "invalidate". Of a token that was replaced since, nothing happens. An upstream that hands out the same token again can make it the answer again.
func (s *Source) Reject(t *Token) {
	if t == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.drop(t.ID) {
		s.rejected = t.ID
	}
}

// drop takes a token out of memory, and reports whether it was there; the caller holds mu.
func (s *Source) drop(id string) bool {
	t := s.held.Load()
	if t == nil || t.ID != id {
		return false
	}
	s.held.Store(nil)
	s.note(id)
	return true
}

// note remembers that a token must not be used any more; the caller holds mu.
func (s *Source) note(id string) {
	s.moved++
	if len(s.dropped) == droppedMost {
		s.dropped = s.dropped[1:]
	}
	s.dropped = append(s.dropped, drop{id, s.moved})
}

// isOver reports whether a token was dropped after the question to which it is the answer; the caller holds mu.
func (s *Source) isOver(id string, asked int) bool {
	return slices.ContainsFunc(s.dropped, func(d drop) bool { return d.id == id && d.at > asked })
}

// wait is Token where there is none in memory.
func (s *Source) wait(ctx context.Context) (*Token, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s.mu.Lock()
		if t := s.held.Load(); t != nil && time.Now().Before(t.ExpireTime) {
			s.mu.Unlock()
			return t, nil
		}
		c, err := s.join(ctx)
		s.mu.Unlock()
		if err != nil {
			return nil, err
		}
		select {
		case <-c.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if c.err != nil {
			return nil, c.err
		}
		s.mu.Lock()
		over := s.isOver(c.token.ID, c.moved)
		s.mu.Unlock()
		if !over {
			return c.token, nil
		}
	}
}

// refresh has the broker asked for the next token, and waits for nobody.
func (s *Source) refresh(now time.Time) {
	if !s.mu.TryLock() {
		return // somebody is at it
	}
	defer s.mu.Unlock()
	if s.running == nil && !now.Before(s.refreshFrom) {
		s.refreshFrom = later(now, refreshAgain)
		_, _ = s.join(s.c.ctx) // a Client that is closed answers from memory
	}
}

// later is in so long, or a quarter more: sources of many processes do not all ask at the same time.
func later(now time.Time, d time.Duration) time.Time {
	return now.Add(d + time.Duration(rand.Float64()*float64(d)/4)) //nolint:gosec // jitter needs no secrecy
}

// join returns the call that is under way, or begins one, for whoever has ctx; the caller holds mu. ErrClosed.
func (s *Source) join(ctx context.Context) (*call, error) {
	if s.running != nil && s.running.rejected == s.rejected {
		return s.running, nil
	}
	c := &call{rejected: s.rejected, moved: s.moved, done: make(chan struct{})}
	if !s.c.goes(func() { s.run(ctx, c) }) {
		return nil, ErrClosed
	}
	s.running = c
	return c, nil
}

// run asks the broker.
func (s *Source) run(ctx context.Context, c *call) {
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(context.WithoutCancel(ctx), nil), callTimeout)
	defer cancel()
	defer context.AfterFunc(s.c.ctx, cancel)()
	r := proto.CloneOf(s.request)
	r.RejectedTokenId = c.rejected
	answer, err := s.c.tokens.GetToken(ctx, r)
	if c.rejected != "" && status.Code(err) == codes.PermissionDenied { // it may not invalidate: then it gets what there is
		r.RejectedTokenId = ""
		answer, err = s.c.tokens.GetToken(ctx, r)
	}
	if c.err = err; err != nil && s.c.ctx.Err() != nil {
		c.err = ErrClosed
	} else if status.Code(err) == codes.Unavailable && Reason(err) == "" { // what a broker says has a reason
		c.err = fmt.Errorf("tokenbroker: no broker answers at %s: %w", s.c.target, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(c.done)
	if s.running == c {
		s.running = nil
	}
	if err != nil {
		if wait := RetryDelay(err); wait > refreshAgain {
			s.refreshFrom = later(time.Now(), wait)
		}
		return
	}
	c.token = newToken(answer.GetToken(), answer.GetDegraded())
	if s.rejected == c.rejected {
		s.rejected = ""
	}
	s.put(c.token, c.moved)
	if s.watches && !s.watching {
		s.watching = s.c.goes(s.watch)
	}
}

// put has a token answered from memory, unless it was dropped since it was asked for, or the broker has told of another one since; the caller holds mu.
func (s *Source) put(t *Token, asked int) {
	if !s.isOver(t.ID, asked) && (asked == s.moved || s.held.Load() == nil) {
		s.held.Store(t)
	}
}

// watch hears what the broker says of the token, until the Client is closed.
func (s *Source) watch() {
	for pause := watchAgain; s.c.ctx.Err() == nil; {
		if s.hear() {
			pause = watchAgain
		}
		select {
		case <-time.After(time.Until(later(time.Now(), pause))):
		case <-s.c.ctx.Done():
		}
		pause = min(2*pause, watchMost)
	}
}

// watchAgain is after how long a stream that ended is opened again, and watchMost that of one that ends again and again.
const watchAgain, watchMost = 500 * time.Millisecond, 30 * time.Second

// hear hears one stream to its end, and reports whether it said anything.
func (s *Source) hear() (heard bool) {
	r := &tokenbrokerv1.WatchTokenRequest{
		Credential: s.request.Credential, Scopes: s.request.Scopes, Audience: s.request.Audience, Parameters: s.request.Parameters,
		Resources: s.request.Resources, MinTtl: s.request.MinTtl,
	}
	if t := s.held.Load(); t != nil {
		r.KnownTokenId = t.ID
	}
	stream, err := s.c.tokens.WatchToken(s.c.ctx, r)
	if err != nil {
		return false
	}
	for {
		e, err := stream.Recv()
		if err != nil {
			return heard
		}
		heard = true
		s.mu.Lock()
		switch {
		case e.GetToken() != nil:
			if t := newToken(e.GetToken(), false); !s.isOver(t.ID, 0) { // else this broker does not know yet
				s.moved++
				s.rejected = "" // it knows by now
				s.held.Store(t)
			}
		case e.GetInvalidatedTokenId() != "":
			if id := e.GetInvalidatedTokenId(); !s.drop(id) {
				s.note(id) // a call may be about to bring it
			}
		}
		s.mu.Unlock()
	}
}

// Reason is why the broker gave no token: an ErrorReason of the contract without its prefix, such as UPSTREAM_UNAVAILABLE or CREDENTIAL_MISCONFIGURED; empty: the
// error is none of the broker's.
func Reason(err error) string {
	for _, d := range status.Convert(err).Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok && i.GetDomain() == "tokenbroker" {
			return i.GetReason()
		}
	}
	return ""
}

// RetryDelay is after how long it may help to ask again; 0: the broker does not say, or it does not help.
func RetryDelay(err error) time.Duration {
	for _, d := range status.Convert(err).Details() {
		if i, ok := d.(*errdetails.RetryInfo); ok {
			return i.GetRetryDelay().AsDuration()
		}
	}
	return 0
}
