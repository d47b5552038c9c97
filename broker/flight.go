package broker

import (
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"
)

// A flight is the one exchange that all who want the same token share. It is detached from every caller: it ends by its own
// deadlines. entry and failure are written before done is closed. Both are set when a valid token is there but a better one
// could not be had.
type flight struct {
	need    need
	done    chan struct{}
	entry   *entry
	failure *Failure
	// attempts are the requests that it made.
	attempts []Attempt
}

// join returns the flight for key, and whether the caller started it. It fails with ShuttingDown.
func (b *Broker) join(key lookup, n need) (f *flight, mine bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.flights[key]; f != nil {
		return f, false, nil
	}
	if b.closing {
		return nil, false, &Failure{Kind: ShuttingDown, Credential: key.name}
	}
	f = &flight{need: n, done: make(chan struct{})}
	b.flights[key] = f
	b.running.Add(1)
	go b.fly(key, f, nil)
	return f, true, nil
}

// fly runs a flight and releases whoever waits for it, whatever happens.
func (b *Broker) fly(key lookup, f *flight, keep *bool) {
	defer b.running.Done()
	defer func() {
		if p := recover(); p != nil {
			b.logPanic(key.name, p)
			f.entry, f.failure = nil, &Failure{Kind: Internal, Credential: key.name}
		}
		b.mu.Lock()
		if b.flights[key] == f {
			delete(b.flights, key)
		}
		b.mu.Unlock()
		b.settle(key, f)
		close(f.done)
	}()
	f.entry, f.failure = b.fetch(key, f, keep)
}

// logPanic logs a panic that was recovered. Its value may hold anything: only its type is logged.
func (b *Broker) logPanic(name CredentialName, p any) {
	b.log.Error("flight panicked", "credential", string(name), "type", fmt.Sprintf("%T", p), "stack", string(debug.Stack()))
}

// settle tells the entry that is being served how its refresh went.
func (b *Broker) settle(key lookup, f *flight) {
	if f.failure == nil || f.need.force {
		return // the flight has put its own entry in place, or is a test, which disturbs nobody
	}
	if f.failure.Kind == StoreUnavailable && b.trusted.shared {
		b.state(key.name).notify()
		return // that is no trouble of the token's, and passes with the store's
	}
	if !f.need.fresh {
		b.log.Debug("exchange failed", "credential", string(key.name), "kind", f.failure.Kind.Name())
	} else {
		b.log.LogAttrs(b.stopping, slog.LevelWarn, "refresh failed; the valid token goes on being served",
			slog.String("credential", string(key.name)), slog.String("kind", f.failure.Kind.Name()),
			slog.Time("retry_at", f.failure.RetryAt))
	}
	next := f.failure.RetryAt
	if soon := time.Now().Add(backoffFirst); next.Before(soon) {
		next = soon
	}
	served, _ := b.cache.GetIfPresent(key)
	for _, e := range []*entry{served, f.entry} {
		if e != nil {
			e.trouble.Store(f.failure)
			e.refreshFrom.Store(next.UnixNano())
		}
	}
	b.state(key.name).notify()
}
