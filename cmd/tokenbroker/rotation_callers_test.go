package main

import (
	"context"
	"crypto/tls"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

const (
	// bound is how long after a change of a file what was before may count, by docs/security.md and docs/policy.md.
	bound = time.Second
	// busy is what a machine may add that does much else. The figures that are logged have it in them.
	busy = 3 * time.Second
)

// A persona is somebody who asks, at all places, by a certificate or by a token.
type persona struct {
	// kind is under which its calls are counted.
	kind string

	mu     sync.Mutex
	pair   *tls.Certificate // nil: it brings tokens
	bearer string
	cache  tls.ClientSessionCache
	// generation counts what it was given to show. Callers that have noticed say so in seen.
	generation int
	seen       map[int]int
	callers    int
	turns      []turn
}

// A turn is what calls are to be answered from some time on.
type turn struct {
	what string
	at   time.Time
	may  bool
	// codes are what a refused call, and a watch that ends, may say; of calls on a connection that was not there before also UNAVAILABLE.
	codes []codes.Code
}

// on is the context of its calls.
func (p *persona) on(ctx context.Context) context.Context {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bearer == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+p.bearer)
}

// gives has it show something else from now on.
func (p *persona) gives(pair *tls.Certificate, bearer string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.pair, p.bearer = pair, bearer
	p.generation++
}

// moved reports whether all its callers show what it was given last.
func (p *persona) moved() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, of := range p.seen {
		if of == p.generation {
			n++
		}
	}
	return n == p.callers
}

// refuses reports whether an error is what a caller is to be told.
func (t *turn) refuses(err error) bool { return slices.Contains(t.codes, status.Code(err)) }

// becomes begins another turn.
func (p *persona) becomes(t turn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turns = append(p.turns, t)
}

// turnsAt are the turn as of a time, the one before it, and the one after it, if that has begun before another time.
func (p *persona) turnsAt(sent, got time.Time) (before, is, next *turn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	is = &p.turns[0]
	for i := 1; i < len(p.turns); i++ {
		switch t := &p.turns[i]; {
		case !t.at.After(sent):
			before, is = is, t
		case next == nil && !t.at.After(got):
			next = t
		}
	}
	return before, is, next
}

// A count is of calls of one kind.
type count struct{ calls, refused, watches int }

// judge holds an answer against what its caller's turn is.
func (r *rotation) judge(p *persona, at place, sent, got time.Time, err error) {
	before, is, next := p.turnsAt(sent, got)
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.counts[p.kind]
	if c == nil {
		c = &count{}
		r.counts[p.kind] = c
	}
	c.calls++
	if err != nil {
		c.refused++
	}
	refuses := func(t *turn) bool { // whose certificate counts no more connects again, and is not let in
		return t != nil && !t.may && (t.refuses(err) || status.Code(err) == codes.Unavailable && slices.Contains(t.codes, codes.Unauthenticated))
	}
	switch {
	case err == nil && next != nil && !next.may:
		r.wasLate(next.what, got.Sub(next.at))
	case err == nil && !is.may:
		if next == nil {
			r.wasLate(is.what, got.Sub(is.at))
		}
	case err == nil, refuses(is), refuses(next):
	case is.may && refuses(before) && sent.Sub(is.at) < bound+busy:
		r.wasLate(is.what, got.Sub(is.at))
	default:
		r.t.Errorf("%s at %s, sent %v after %q: %v", p.kind, at, sent.Sub(is.at), is.what, err)
	}
}

// A worker is a caller at one place.
type worker struct {
	p     *persona
	at    place
	every time.Duration
	// fresh: each call has a connection of its own.
	fresh bool
}

// asks calls again and again, until ctx ends.
func (r *rotation) asks(ctx context.Context, number int, w worker) {
	pace := time.NewTicker(w.every)
	defer pace.Stop()
	var conn *grpc.ClientConn
	defer func() {
		if conn != nil {
			_ = conn.Close()
		}
	}()
	shows := -1
	for n := number; ; n++ {
		select {
		case <-pace.C:
		case <-ctx.Done():
			return
		}
		w.p.mu.Lock()
		generation := w.p.generation
		w.p.mu.Unlock()
		if conn == nil || w.fresh || generation != shows {
			if conn != nil {
				_ = conn.Close()
			}
			conn = r.dial(w.p, w.at)
			shows = generation
		}
		call, done := context.WithTimeout(w.p.on(context.Background()), 20*time.Second)
		sent := time.Now()
		_, err := tokenbrokerv1.NewTokenBrokerServiceClient(conn).GetToken(call, &tokenbrokerv1.GetTokenRequest{Credential: mains[n%len(mains)]})
		got := time.Now()
		done()
		r.judge(w.p, w.at, sent, got, err)
		w.p.mu.Lock()
		w.p.seen[number] = generation
		w.p.mu.Unlock()
	}
}

// watches has a watch open, until ctx ends or its turn is over. Of those whose turn is not over it never ends.
func (r *rotation) watches(ctx context.Context, number int, w worker) {
	for ctx.Err() == nil {
		if !r.watch(ctx, number, w) {
			return
		}
	}
}

// watch reports whether another one is to be opened, because there is something else to show.
func (r *rotation) watch(ctx context.Context, number int, w worker) bool {
	w.p.mu.Lock()
	generation := w.p.generation
	w.p.mu.Unlock()
	conn := r.dial(w.p, w.at)
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := tokenbrokerv1.NewTokenBrokerServiceClient(conn).WatchToken(w.p.on(ctx), &tokenbrokerv1.WatchTokenRequest{Credential: mains[0]})
	if err == nil {
		_, err = s.Recv()
	}
	ended := make(chan error, 1)
	go func() {
		for err == nil {
			_, err = s.Recv()
		}
		ended <- err
	}()
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case err := <-ended:
			if ctx.Err() == nil {
				r.judgeWatch(w, err)
			}
			w.p.mu.Lock()
			w.p.callers--
			delete(w.p.seen, number)
			w.p.mu.Unlock()
			return false
		case <-look.C:
			w.p.mu.Lock()
			w.p.seen[number] = generation
			again := w.p.generation != generation
			last := w.p.turns[len(w.p.turns)-1]
			w.p.mu.Unlock()
			if again {
				cancel()
				<-ended
				return true
			}
			if !last.may && time.Since(last.at) > bound+busy {
				r.t.Errorf("%s: a watch at %s goes on %v after %q", w.p.kind, w.at, time.Since(last.at), last.what)
				cancel()
				<-ended
				return false
			}
		}
	}
}

// judgeWatch holds the end of a watch against its caller's turn.
func (r *rotation) judgeWatch(w worker, err error) {
	now := time.Now()
	w.p.mu.Lock()
	last := w.p.turns[len(w.p.turns)-1]
	w.p.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if last.may || !last.refuses(err) {
		r.t.Errorf("%s: a watch at %s ended after %q: %v", w.p.kind, w.at, last.what, err)
		return
	}
	if c := r.counts[w.p.kind]; c != nil {
		c.watches++
	}
	r.wasLate(last.what+", watches", now.Sub(last.at))
}

// A waiter waits for a token that the upstream does not give yet.
type waiter struct {
	p    *persona
	at   place
	done chan struct{}
	err  error
	got  time.Time
}

// wait has somebody wait at a place.
func (r *rotation) wait(p *persona, at place, credential string) *waiter {
	w := &waiter{p: p, at: at, done: make(chan struct{})}
	go func() {
		defer close(w.done)
		conn := r.dial(p, at)
		defer conn.Close()
		ctx, cancel := context.WithTimeout(p.on(context.Background()), patience)
		defer cancel()
		_, w.err = tokenbrokerv1.NewTokenBrokerServiceClient(conn).GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: credential})
		w.got = time.Now()
	}()
	return w
}

// drops has somebody drop what everybody asks for, once a second.
func (r *rotation) drops(ctx context.Context, all *sync.WaitGroup, p *persona, at place) {
	all.Go(func() {
		pace := time.NewTicker(time.Second)
		defer pace.Stop()
		for {
			select {
			case <-pace.C:
			case <-ctx.Done():
				return
			}
			conn := r.dial(p, at)
			for _, name := range mains {
				call, done := context.WithTimeout(p.on(context.Background()), 20*time.Second)
				_, err := tokenbrokerv1.NewTokenBrokerServiceClient(conn).Invalidate(call, &tokenbrokerv1.InvalidateRequest{Credential: name, Target: &tokenbrokerv1.InvalidateRequest_All{All: true}})
				done()
				if err != nil {
					r.t.Errorf("%s: invalidate %s: %v", at, name, err)
				}
			}
			_ = conn.Close()
		}
	})
}
