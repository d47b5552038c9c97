package broker

import (
	"context"
	"errors"
	"time"
)

// An Event is what a watch tells. Exactly one of its fields is set.
type Event struct {
	// Token is the current token: the first, or a successor.
	Token *Token
	// InvalidatedID is of a token that must not be used any more; a successor follows.
	InvalidatedID string
	// Supply says how the supply of tokens is doing; sent when it changes.
	Supply *Supply
}

// Supply is how the supply of tokens is doing.
type Supply struct {
	// Degraded: what is held is valid, but its refresh is failing.
	Degraded bool
	// Failure is why there is no token, or no better one; nil: all is well.
	Failure *Failure
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
func (b *Broker) Watch(ctx context.Context, caller Caller, r Request, known string, send func(Event) error) error {
	r.RejectedTokenID = ""
	if err := b.authorize.Allow(caller, Watch, r.Credential, r.Selection.Scopes); err != nil {
		return b.failed(Watch, err)
	}
	watched := b.state(r.Credential)
	watched.watchers.Add(1)
	defer watched.watchers.Add(-1)
	w := &watcher{b: b, caller: caller, r: r, held: known, send: send}
	for {
		wake, err := w.look(ctx)
		if err != nil {
			return b.failed(Watch, err)
		}
		timer := time.NewTimer(max(wake.in, 0))
		select {
		case <-timer.C:
		case <-wake.changed:
		case <-ctx.Done():
		}
		timer.Stop()
		if err := ctx.Err(); err != nil {
			return b.failed(Watch, &Failure{Kind: Canceled, Credential: r.Credential})
		}
		if b.isClosing() {
			return b.failed(Watch, &Failure{Kind: ShuttingDown, Credential: r.Credential})
		}
	}
}

// A watcher is one watch: what it has told so far.
type watcher struct {
	b      *Broker
	caller Caller
	r      Request
	held   string
	told   Supply
	send   func(Event) error
}

type wake struct {
	in      time.Duration
	changed <-chan struct{}
}

// look tells what is new, and says when to look again.
func (w *watcher) look(ctx context.Context) (wake, error) {
	changed := w.b.state(w.r.Credential).changes() // before reading: nothing is missed
	if err := w.withdraw(ctx); err != nil {
		return wake{}, err
	}
	res, err := w.token(ctx, changed)
	now := time.Now()
	if err != nil && w.held != "" && ctx.Err() == nil && KindOf(err) == Canceled {
		return wake{watchLook, changed}, nil // something has changed: what is held may be no longer good
	}
	if err != nil {
		f := asFailure(err, w.r.Credential)
		if f.RetryAt.IsZero() || !f.Kind.passes() || ctx.Err() != nil {
			return wake{}, f
		}
		if err := w.tell(Supply{Failure: f}); err != nil {
			return wake{}, err
		}
		return wake{min(max(f.RetryAt.Sub(now), backoffFirst), watchIdle), changed}, nil
	}
	if res.Token.ID != w.held {
		if err := w.send(Event{Token: res.Token}); err != nil {
			return wake{}, err
		}
		w.held = res.Token.ID
	}
	supply := Supply{Degraded: res.Degraded}
	if res.Degraded {
		supply.Failure = w.b.trouble(lookup{w.r.Credential, w.r.Selection})
	}
	if err := w.tell(supply); err != nil {
		return wake{}, err
	}
	in := res.Token.RefreshTime.Sub(now)
	if in <= 0 {
		// A refresh is under way, or waits for its upstream; once the token has expired, whoever holds it must know.
		in = min(watchLook, max(res.Token.ExpireTime.Sub(now), 0))
	}
	return wake{min(in, watchIdle), changed}, nil
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
	return w.b.Token(ctx, w.caller, w.r)
}

// withdraw tells of a held token that was invalidated, before its successor is there.
func (w *watcher) withdraw(ctx context.Context) error {
	key := lookup{w.r.Credential, w.r.Selection}
	if w.held == "" {
		return nil
	}
	if e, ok := w.b.cache.GetIfPresent(key); ok && e.current(w.b.upstream.Revision()) {
		if relied, _ := w.b.trusted.relies(e, time.Now()); relied {
			return nil
		}
	}
	p := &pursuit{b: w.b, key: key, f: &flight{}, state: w.b.state(key.name)}
	if err := p.prepare(ctx); err != nil {
		return nil //nolint:nilerr // Token says it better
	}
	v, err := w.b.store.Read(ctx, p.token)
	if err != nil {
		return nil //nolint:nilerr // Token says it better
	}
	if t := v.Token; t != nil && t.ID == w.held && !(t.Rejected && t.decide(time.Now(), need{}) == fetch) {
		return nil
	}
	if t := v.Token; t != nil && t.ID != w.held && !t.Rejected {
		return nil // its successor is there: that says enough
	}
	id := w.held
	w.held = ""
	return w.send(Event{InvalidatedID: id})
}

// tell sends the supply when it has changed.
func (w *watcher) tell(s Supply) error {
	same := s.Degraded == w.told.Degraded && (s.Failure == nil) == (w.told.Failure == nil) &&
		(s.Failure == nil || s.Failure.Kind == w.told.Failure.Kind && s.Failure.RetryAt.Equal(w.told.Failure.RetryAt))
	if same {
		return nil
	}
	w.told = s
	return w.send(Event{Supply: &s})
}

// trouble is why the last refresh of what is cached failed; nil: it did not.
func (b *Broker) trouble(key lookup) *Failure {
	if e, ok := b.cache.GetIfPresent(key); ok {
		return e.trouble.Load()
	}
	return nil
}

func asFailure(err error, name CredentialName) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	return &Failure{Kind: KindOf(err), Credential: name}
}
