package engine

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/trace"
)

// An Event is what a watch tells. Exactly one of Token, InvalidatedID and Supply is set.
type Event struct {
	// Token is the current token: the first, or a successor. Rendering is what Settings.Render made of it.
	Token     *broker.Token
	Rendering any
	// InvalidatedID is of a token that must not be used any more; a successor follows.
	InvalidatedID string
	// Supply says how the supply of tokens is doing; sent when it changes.
	Supply *Supply
}

// Supply is how the supply of tokens is doing.
type Supply struct {
	// Degraded: what is held is valid, but something is not well with its supply.
	Degraded bool
	// Failure is why there is no token, or no better one; nil: all is well.
	Failure *broker.Failure
}

// same reports whether two are the same to whoever watches: that the time of the next try has moved is no news.
func (s Supply) same(o Supply) bool {
	return s.Degraded == o.Degraded && (s.Failure == nil) == (o.Failure == nil) && (s.Failure == nil || s.Failure.Kind == o.Failure.Kind)
}

const (
	// watchLook is how long a watch waits at most for news of a refresh that it has set off.
	watchLook = 5 * time.Second
	// watchIdle bounds the wait for a refresh time that is far away, so that a change of the clock does no harm.
	watchIdle = 5 * time.Minute
)

// Watch sends the current token, then each successor before its predecessor expires, and what happens in between, until ctx
// ends, send fails, or no token can be had before somebody changes something. known is the id of the token that the watcher
// holds already: it is not sent again while it is the current one. Waiting costs a timer. r.RejectedTokenID is ignored. send
// is never called concurrently.
func (b *Broker) Watch(ctx context.Context, caller *broker.Caller, r Request, known string, send func(Event) error) error {
	r.RejectedTokenID = ""
	l := b.cache.hold(r.Credential)
	defer b.cache.release(l)
	l.watchers.Add(1)
	defer l.watchers.Add(-1)
	w := &watcher{b: b, l: l, caller: caller, r: r, held: known, send: send}
	failed := func(err error) error {
		return b.failed(ctx, broker.Access{Caller: caller, Operation: broker.Watch, Credential: r.Credential, Selection: r.Selection}, err)
	}
	for {
		changed, wanted := l.changes() // before looking: nothing is missed
		policy := b.authorize.Changes()
		in, err := w.look(ctx, changed)
		if ended := ctx.Err(); err != nil && ended != nil {
			err = watchEnded(r.Credential, ended)
		}
		if err != nil {
			return failed(err)
		}
		if w.held != "" && w.told.Failure == nil {
			wanted = nil
		}
		timer := time.NewTimer(in)
		select {
		case <-timer.C:
		case <-changed:
		case <-wanted:
		case <-policy:
		case <-ctx.Done():
		}
		timer.Stop()
		if err := ctx.Err(); err != nil {
			return failed(watchEnded(r.Credential, err))
		}
		if b.flights.isClosed() {
			return failed(&broker.Failure{Kind: broker.ShuttingDown, Credential: r.Credential})
		}
	}
}

// Current is what a watch has to know by now: the token, and for how long it is valid still. It waits for an exchange until ctx ends, and leaves it running. It fails
// as Token does, which is not counted: whoever asks is watching.
func (b *Broker) Current(ctx context.Context, caller *broker.Caller, r Request) (res Result, left time.Duration, err error) {
	r.RejectedTokenID = ""
	if res, err = b.token(ctx, caller, broker.Watch, r); err != nil {
		return Result{}, 0, err
	}
	return res, res.Token.ExpireTime.Sub(b.wall(r, res.Token, b.clock.Now())), nil
}

// wall is the time of day that the times of a token are held against.
func (b *Broker) wall(r Request, t *broker.Token, at broker.Instant) time.Time {
	if e := b.cache.peek(lookup{r.Credential, r.Selection}); e != nil && e.token == t {
		return e.wall(at)
	}
	return at.Wall
}

// watchEnded is why a watch ends whose context has.
func watchEnded(name broker.CredentialName, err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return &broker.Failure{Kind: broker.DeadlinePassed, Credential: name}
	}
	return &broker.Failure{Kind: broker.Canceled, Credential: name}
}

// A watcher is one watch: what it has told so far.
type watcher struct {
	b      *Broker
	l      *line
	caller *broker.Caller
	r      Request
	held   string
	told   Supply
	send   func(Event) error
}

func (w *watcher) access() broker.Access {
	return broker.Access{Caller: w.caller, Operation: broker.Watch, Credential: w.r.Credential, Selection: w.r.Selection}
}

// look tells what is new, and says in how long to look again.
func (w *watcher) look(ctx context.Context, changed <-chan struct{}) (time.Duration, error) {
	if _, err := w.b.permit(w.access()); err != nil { // what depends on more is decided when it is told
		return 0, err
	}
	if err := w.withdraw(ctx); err != nil {
		return 0, err
	}
	res, err := w.token(ctx, changed)
	at := w.b.clock.Now()
	if err != nil && w.held != "" && ctx.Err() == nil && broker.KindOf(err) == broker.Canceled {
		return watchLook, nil // something has changed: what is held may be no longer good
	}
	if err != nil {
		f := asFailure(err, w.r.Credential)
		if f.RetryAt.IsZero() || !f.Kind.Passes() || ctx.Err() != nil {
			return 0, f
		}
		return min(max(f.RetryAt.Sub(at.Wall), retryFirst), watchIdle), w.tell(Supply{Failure: f})
	}
	if res.Token.ID != w.held {
		if err := w.send(Event{Token: res.Token, Rendering: res.Rendering}); err != nil {
			return 0, err
		}
		w.held = res.Token.ID
	}
	supply := Supply{Degraded: res.Degraded}
	if res.Degraded {
		supply.Failure = w.trouble()
	}
	now := w.b.wall(w.r, res.Token, at)
	in := res.Token.RefreshTime.Sub(now)
	if in <= 0 {
		// A refresh is under way, or waits for its upstream; once the token has expired, whoever holds it must know.
		in = min(watchLook, max(res.Token.ExpireTime.Sub(now), 0))
	}
	return min(in, watchIdle), w.tell(supply)
}

// token is the current one. Whoever holds a token does not wait for another past a change: it may be that the one that is held
// is no longer good, and that is to be told first.
func (w *watcher) token(ctx context.Context, changed <-chan struct{}) (Result, error) {
	if w.held != "" {
		waiting, cancel := context.WithCancel(ctx)
		defer cancel()
		go func() {
			select {
			case <-changed:
				cancel()
			case <-waiting.Done():
			}
		}()
		ctx = waiting
	}
	return w.b.token(ctx, w.caller, broker.Watch, w.r)
}

// withdraw tells of a held token that was invalidated, before its successor is there.
func (w *watcher) withdraw(ctx context.Context) error {
	if w.held == "" {
		return nil
	}
	b, key, now := w.b, lookup{w.r.Credential, w.r.Selection}, w.b.clock.Now()
	if e, v := b.cache.look(key, need{}, now, b.upstream.Revision()); e != nil && (v != fetch || !b.cache.old(e, now.At)) {
		return nil
	}
	if err := b.mayAsk(ctx, w.access(), nil); err != nil {
		if broker.KindOf(err) == broker.CallerNotAllowed {
			return err
		}
		return nil // token says it better
	}
	there, ok := b.standing(ctx, w.caller, w.l, key)
	if !ok {
		return nil
	}
	if there != nil && there.ID == w.held && !(there.Rejected && decide(there, now.Wall, need{}) == fetch) {
		return nil
	}
	if there != nil && there.ID != w.held && !there.Rejected {
		return nil // its successor is there: that says enough
	}
	id := w.held
	w.held = ""
	return w.send(Event{InvalidatedID: id})
}

// A standing is what a watch wants to know of what is stored: the token, as of a moment at which its credential had moved so often.
type standing struct {
	lookup
	moved movedTo
}

// stored is what the store has; the zero value: nobody knows.
type stored struct {
	token *broker.Issued
	known bool
}

// standingMost bounds that question to the store.
const standingMost = 10 * time.Second

// standing asks the store for the token of a key, nil where there is none, and whether that is known. All who watch it and have heard of the same
// changes share one question, which begins after the last of these, and is of the share of whoever was first.
func (b *Broker) standing(ctx context.Context, by *broker.Caller, l *line, key lookup) (there *broker.Issued, known bool) {
	begin := func() (context.Context, error) {
		return trace.Detach(ctx, b.stopping), b.shares.take(by, key.name) // whoever began it may give up
	}
	f, _, err := b.standings.join(standing{key, l.moves.now()}, begin, func(ctx context.Context) (told stored) {
		defer func() {
			if p := recover(); p != nil {
				b.logPanic(ctx, key.name, p)
				told = stored{}
			}
		}()
		bounded, cancel := context.WithTimeout(ctx, standingMost)
		defer cancel()
		c, err := b.store.Credential(bounded, key.name)
		if err != nil {
			return stored{}
		}
		to, err := b.aim(key, c)
		if err != nil {
			return stored{}
		}
		now := b.clock.Now()
		s := seen{at: now.At, told: now}
		if s.view, err = b.store.Read(bounded, to.token, ""); err != nil {
			return stored{}
		}
		b.cache.lapsed(to.token, s) // else it would be served again, should the store go away now
		return stored{s.view.Token, true}
	})
	if err != nil || f.wait(ctx) != nil {
		return nil, false
	}
	return f.value.token, f.value.known
}

// tell sends the supply when it has changed.
func (w *watcher) tell(s Supply) error {
	if s.same(w.told) {
		return nil
	}
	w.told = s
	return w.send(Event{Supply: &s})
}

// trouble is why the last refresh of what is cached failed; nil: it did not.
func (w *watcher) trouble() *broker.Failure {
	if e := w.b.cache.peek(lookup{w.r.Credential, w.r.Selection}); e != nil {
		return e.trouble.Load()
	}
	return nil
}
