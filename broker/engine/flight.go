package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/trace"
)

// flights are what is under way, one for each key: all who want the same share it. A flight is detached from whoever started it,
// and ends by its own bounds. The zero value is ready once all is set. Safe for concurrent use.
type flights[K comparable, V any] struct {
	// all counts those that are under way.
	all *sync.WaitGroup

	mu      sync.Mutex
	running map[K]*flight[V]
	closed  bool
}

// A flight brings one value, which is there once done is closed.
type flight[V any] struct {
	done  chan struct{}
	value V
	// step is its own, of the trace that it belongs to.
	step trace.Reference
}

// wait waits for the flight, or until ctx ends, and fails as that does.
func (f *flight[V]) wait(ctx context.Context) (err error) {
	ctx, step := trace.Await(ctx, "await flight", f.step)
	defer func() { step.End(err) }()
	select {
	case <-f.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// join returns the flight for a key, and whether it was started by this call: then run is called, with the context that begin gives. It fails with
// ShuttingDown, and as begin does, which is asked before one is started.
func (f *flights[K, V]) join(key K, begin func() (context.Context, error), run func(context.Context) V) (fl *flight[V], mine bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.running[key]; fl != nil {
		return fl, false, nil
	}
	if f.closed {
		return nil, false, broker.ShuttingDown
	}
	ctx, err := begin()
	if err != nil {
		return nil, false, err
	}
	if f.running == nil {
		f.running = map[K]*flight[V]{}
	}
	fl = &flight[V]{done: make(chan struct{}), step: trace.Referred(ctx)}
	f.running[key] = fl
	f.all.Go(func() {
		fl.value = run(ctx)
		f.mu.Lock()
		delete(f.running, key)
		f.mu.Unlock()
		close(fl.done)
	})
	return fl, true, nil
}

// close refuses new flights.
func (f *flights[K, V]) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
}

func (f *flights[K, V]) isClosed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}

// flightKey tells flights apart. A test of a credential is no flight that callers share.
type flightKey struct {
	lookup
	trial trial
}

// An outcome is what a flight brings. Both entry and failure are set when a valid token is there but a better one could not be
// had.
type outcome struct {
	// need is what the flight was started for.
	need    need
	entry   *entry
	failure *broker.Failure
	// attempts are the requests that it made. former: the last of them worked with former secrets.
	attempts []broker.Attempt
	former   bool
}

// err is the failure where it brings nothing else.
func (o outcome) err() error {
	if o.failure == nil {
		return nil
	}
	return o.failure
}

// join returns the flight for a key, and whether this call started it, for by. It fails with ShuttingDown, as shares.fly does, and as may does, which
// is asked before one is started; nil: nobody is. The flight belongs to the trace of ctx, and outlives it.
func (b *Broker) join(ctx context.Context, key flightKey, n need, by *broker.Caller, may func() error) (*flight[outcome], bool, error) {
	var land func()
	var step trace.Step
	begin := func() (_ context.Context, err error) {
		if land, err = b.shares.fly(by, key.name); err != nil {
			return nil, err
		}
		if may != nil {
			if err = may(); err != nil {
				land()
				return nil, err
			}
		}
		ctx, step = b.tracer.Begin(trace.Detach(ctx, b.stopping), "flight", trace.Credential(key.name))
		return ctx, nil
	}
	f, mine, err := b.flights.join(key, begin, func(ctx context.Context) outcome {
		defer land()
		out := b.fly(ctx, key, n)
		provider := b.providerOf(key.name, out.err())
		if out.entry != nil {
			provider = out.entry.facts.Name
		}
		step.Say(trace.Provider(provider))
		step.End(out.err())
		return out
	})
	if err != nil {
		return nil, false, asFailure(err, key.name)
	}
	return f, mine, nil
}

// refresh has a flight begin that nobody waits for. Where it may not begin yet, whoever asks soon tries again; a broker that is closing goes on
// serving what it has.
func (b *Broker) refresh(key lookup, n need) {
	_, _, err := b.join(b.stopping, flightKey{lookup: key}, n, itself, nil)
	if err == nil || broker.KindOf(err) == broker.ShuttingDown {
		return
	}
	f := asFailure(err, key.name)
	b.postpone(key, f)
	b.delayed.Do(func() { b.logFailure(b.stopping, slog.LevelWarn, "refresh not begun", outcome{failure: f}) })
}

// fly brings a token: from the store, or from the upstream. It ends by its own bounds: the store's, a minute of waiting, and the exchange's.
func (b *Broker) fly(ctx context.Context, key flightKey, n need) (out outcome) {
	l := b.cache.hold(key.name)
	defer b.cache.release(l)
	p := &pursuit{b: b, l: l, key: key.lookup, need: n, trial: key.trial, until: b.clock.Now().At.Add(waitMost)}
	defer p.unwant()
	defer p.leavePlace()
	defer func() {
		if r := recover(); r != nil {
			b.logPanic(ctx, key.name, r)
			out = outcome{need: n, failure: &broker.Failure{Kind: broker.Internal, Credential: key.name}}
		}
		out.need, out.attempts, out.former = n, p.attempts, p.former
		if key.trial.on {
			b.trials.end(b.clock.Now().At, key, out)
		}
		b.settle(ctx, key, out)
	}()
	var last *seen // what was last read; nil: nothing
	for {
		e, s, err := p.round(ctx)
		if s != nil {
			last = s
		}
		if err == nil {
			return outcome{entry: e}
		}
		if p.rounds++; errors.Is(err, errAgain) && p.rounds > roundsAtOnce {
			err = p.pause(ctx, "await changes", lookAgain/10, nil, nil) // others change the credential without end
		}
		if errors.Is(err, errAgain) {
			if ctx.Err() == nil {
				continue
			}
			err = &broker.Failure{Kind: broker.ShuttingDown, Credential: key.name}
		}
		f := asFailure(err, key.name)
		if f.Kind == broker.StoreUnavailable && ctx.Err() != nil { // the question was cut short: that says nothing of the store
			f = &broker.Failure{Kind: broker.ShuttingDown, Credential: key.name}
		}
		if f.Kind == broker.StoreUnavailable && b.cache.shared {
			l.failures.Add(1)
			p.leaveTurn()
			if !key.trial.on {
				out, again := p.withoutStore(ctx, last, f)
				if again {
					continue
				}
				return out
			}
		}
		return outcome{entry: p.served(), failure: f}
	}
}

// logPanic logs a panic that was recovered. Its value may hold anything: only its type is logged.
func (b *Broker) logPanic(ctx context.Context, name broker.CredentialName, p any) {
	b.log.ErrorContext(ctx, "flight panicked", "credential", string(name), "type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
}

// settle tells the entry that is being served how its refresh went. A test disturbs nobody.
func (b *Broker) settle(ctx context.Context, key flightKey, out outcome) {
	if out.failure == nil || key.trial.on {
		return // the flight has put its own entry in place
	}
	trouble := b.postpone(key.lookup, out.failure)
	switch {
	case !trouble:
	case out.need.fresh:
		b.logFailure(ctx, slog.LevelWarn, "refresh failed; the valid token goes on being served", out)
	case len(out.attempts) > 0:
		b.logFailure(ctx, slog.LevelWarn, "exchange failed", out)
	default: // what is remembered, or was asked for in vain: whoever asked is told
		b.logFailure(ctx, slog.LevelDebug, "no token", out)
	}
}

// postpone has the refresh of the entry that is being served wait for as long as its failure says, and reports whether that is a trouble of the
// token's.
func (b *Broker) postpone(key lookup, f *broker.Failure) (trouble bool) {
	now := b.clock.Now()
	trouble = f.Kind != broker.StoreUnavailable || !b.cache.shared // else it is the store's
	if e := b.cache.peek(key); e != nil {
		e.refreshFrom.Store(int64(now.At.Add(max(f.RetryAt.Sub(now.Wall), retryFirst))))
		if trouble {
			// Watches are told when it begins, and not each time that it goes on.
			if was := e.trouble.Swap(f); was == nil || was.Kind != f.Kind {
				e.line.wake(&e.line.changed)
			}
		}
	}
	return trouble
}

// logFailure logs why a flight failed: for whoever looks after the broker, where the upstream is and what it said.
func (b *Broker) logFailure(ctx context.Context, level slog.Level, what string, out outcome, more ...slog.Attr) {
	f := out.failure
	attrs := append([]slog.Attr{slog.String("credential", string(f.Credential)), slog.String("provider", f.Provider), slog.String("outcome", f.Kind.Name())}, more...)
	if n := len(out.attempts); n > 0 {
		attrs = append(attrs, slog.String("host", out.attempts[n-1].Host))
	}
	if f.UpstreamStatus != 0 {
		attrs = append(attrs, slog.Int("status", f.UpstreamStatus))
	}
	if f.UpstreamError != "" {
		attrs = append(attrs, slog.String("upstream_error", f.UpstreamError))
	}
	if f.Detail != "" {
		attrs = append(attrs, slog.String("cause", f.Detail))
	}
	if !f.RetryAt.IsZero() {
		attrs = append(attrs, slog.Time("retry_at", f.RetryAt))
	}
	b.log.LogAttrs(ctx, level, what, attrs...)
}

// storeFailure passes a store's kind on, and nothing else of it.
func (b *Broker) storeFailure(name broker.CredentialName, err error) *broker.Failure {
	var f *broker.Failure
	if errors.As(err, &f) && f.Credential != "" {
		return f
	}
	k := broker.KindOf(err)
	if k == broker.Internal && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)) {
		k = broker.Canceled
	}
	out := &broker.Failure{Kind: k, Credential: name}
	if f != nil {
		out.Detail = f.Detail
	}
	if k == broker.StoreUnavailable {
		out.RetryAt = b.clock.Now().Wall.Add(retryFirst)
	}
	return out
}

func asFailure(err error, name broker.CredentialName) *broker.Failure {
	var f *broker.Failure
	if errors.As(err, &f) {
		return f
	}
	return &broker.Failure{Kind: broker.KindOf(err), Credential: name}
}
