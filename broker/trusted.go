package broker

import (
	"context"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// trusted decides what the cache may rely on where other brokers share the store.
//
// Whatever was read carries the moment at which that reading began, or at which a later question began to which the store
// answered that nothing has changed. It is relied on while that moment is younger than the bound: this is compared on every
// hit, so that nothing that got lost, and nothing that got stuck, can make a dropped token live longer. What is asked for
// often is confirmed in the background before it is too old. What other brokers tell makes it faster, not right.
//
// While the store cannot be asked, what is valid is relied on for the grace beyond the bound.
//
// Moments are nanoseconds since the broker began, by the monotonic clock.
type trusted struct {
	b            *Broker
	shared       bool
	bound, grace time.Duration
	began        time.Time
	// away: the store cannot be asked. Set and unset by the confirmer only.
	away atomic.Bool
	// awaySince is when that was set.
	awaySince atomic.Int64
	// misses counts failures of the store.
	misses atomic.Uint64
	// look wakes the confirmer: all is to be confirmed now.
	look       chan struct{}
	background sync.WaitGroup

	mu      sync.Mutex
	entries map[*entry]struct{}
	// refused are the failures of exchanges that this broker made for itself while the store was away.
	refused map[lookup]*Failure
}

const (
	// idleMost is after how many confirmations without a hit an entry is left to become too old.
	idleMost = 4
	// never is before every other moment.
	never = math.MinInt64 / 2
)

func (t *trusted) begin(b *Broker, s Settings) {
	t.b, t.shared, t.bound, t.grace, t.began = b, s.Store.Shared(), s.CacheBound, max(0, s.OutageGrace), time.Now()
	if t.bound <= 0 {
		t.bound = defaultCacheBound
	}
	if !t.shared {
		return
	}
	t.entries, t.refused, t.look = map[*entry]struct{}{}, map[lookup]*Failure{}, make(chan struct{}, 1)
	t.background.Go(t.confirmUntilStopped)
	t.background.Go(func() { s.Store.Watch(b.stopping, t.hear) })
}

// now is the current moment.
func (t *trusted) now() int64 { return int64(time.Since(t.began)) }

// within reports whether what was known at a moment may still be relied on.
func (t *trusted) within(moment int64) bool {
	return !t.shared || t.now()-moment < int64(t.bound)
}

// withinGrace reports whether it may while the store is away.
func (t *trusted) withinGrace(moment int64) bool {
	return t.grace > 0 && t.now()-moment < int64(t.bound+t.grace)
}

// relies reports whether an entry may be relied on, and whether only because the store is away.
func (t *trusted) relies(e *entry, now time.Time) (relies, away bool) {
	if !t.shared {
		return true, false
	}
	age := int64(now.Sub(t.began)) - e.confirmed.Load()
	if age >= int64(t.bound) {
		if age >= int64(t.bound+t.grace) || !t.away.Load() && !e.unreached.Load() {
			return false, false
		}
		away = true
	}
	if !e.hit.Load() {
		e.hit.Store(true) // only when it changes: all callers share this line
	}
	return true, away
}

// add has an entry confirmed for as long as it is asked for.
func (t *trusted) add(e *entry) {
	if !t.shared {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.entries[e] = struct{}{}
}

// awayMost is for how long a store that does not answer is tried all the same: it may be slow for a moment.
const awayMost = 2 * time.Second

// given reports whether the store has been away for so long that nobody need wait to find that out.
func (t *trusted) given() bool {
	return t.away.Load() && t.now()-t.awaySince.Load() >= int64(awayMost)
}

// missed notes that the store could not do something.
func (t *trusted) missed() { t.misses.Add(1) }

// failure is what whoever needs the store is told while it is away.
func (t *trusted) failure(name CredentialName) *Failure {
	return &Failure{Kind: StoreUnavailable, Credential: name, RetryAt: time.Now().Add(backoffFirst)}
}

// hear handles what other brokers have done.
func (t *trusted) hear(n Notice) {
	if n.Credential == "" {
		select {
		case t.look <- struct{}{}:
		default: // it will look anyway
		}
		t.b.eachState(func(_ CredentialName, s *state) { s.notify() })
		return
	}
	s, ok := t.b.states.Load(n.Credential)
	switch {
	case !ok:
	case n.Moved:
		s.(*state).move()
	default:
		s.(*state).notify()
	}
}

// confirmUntilStopped confirms in the background. It looks often enough that an entry is asked about between half the bound
// and five eighths of it, and waits a quarter for the answer: there is time to know that the store is away before the entry
// is too old.
func (t *trusted) confirmUntilStopped() {
	every := max(t.bound/8, time.Millisecond)
	timer := time.NewTimer(every)
	defer timer.Stop()
	for {
		all := false
		select {
		case <-timer.C:
		case <-t.look:
			all = true
		case <-t.b.stopping.Done():
			return
		}
		t.confirm(all)
		timer.Reset(every)
	}
}

func (t *trusted) confirm(all bool) {
	if t.away.Load() && !t.probe() {
		return
	}
	due := t.due(all)
	if len(due) == 0 {
		return
	}
	due = slices.DeleteFunc(due, func(e *entry) bool {
		if e.alone {
			// The store does not have it. A flight finds out what it has, and comes back to this one if it takes nothing.
			t.forget(e)
			_, _, _ = t.b.join(e.key, need{})
		}
		return e.alone
	})
	// Many are asked about in parts, each of which has its own time: a long list must not look like a store that is away.
	var asking sync.WaitGroup
	parts := make(chan []*entry)
	for range min(asksAtOnce, (len(due)+askMost-1)/askMost) {
		asking.Go(func() {
			for part := range parts {
				t.confirmPart(part)
			}
		})
	}
	for part := range slices.Chunk(due, askMost) {
		parts <- part
	}
	close(parts)
	asking.Wait()
}

const (
	askMost    = 500
	asksAtOnce = 4
)

func (t *trusted) confirmPart(due []*entry) {
	marks := make([]Mark, len(due))
	for i, e := range due {
		marks[i] = e.mark
	}
	started := t.now()
	verdicts, err := t.ask(marks)
	if err != nil {
		return
	}
	for i, e := range due {
		switch verdicts[i] {
		case Same:
			e.confirmed.Store(started)
			e.unreached.Store(false)
			e.plan.confirmed.Store(started)
		case Changed:
			e.confirmed.Store(never)
			e.unreached.Store(false)
			t.forget(e)
			// Whoever asks next need not wait for it, and watches hear of it.
			_, _, _ = t.b.join(e.key, need{})
		case Unknown:
			e.unreached.Store(true)
		}
	}
}

// due are the entries to ask about. Those that nobody asks for any more are left to become too old.
func (t *trusted) due(all bool) []*entry {
	now := t.now()
	t.mu.Lock()
	defer t.mu.Unlock()
	var due []*entry
	for e := range t.entries {
		if !all && now-e.confirmed.Load() < int64(t.bound/2) {
			continue
		}
		current, ok := t.b.cache.GetEntryQuietly(e.key)
		if !ok || current.Value != e || !e.current(t.b.upstream.Revision()) || time.Now().After(e.issued.ExpireAt) {
			delete(t.entries, e)
			continue
		}
		if e.hit.Swap(false) || e.state.watchers.Load() > 0 {
			e.idle = 0
		} else if e.idle++; e.idle > idleMost {
			delete(t.entries, e)
			continue
		}
		due = append(due, e)
	}
	return due
}

func (t *trusted) forget(e *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.entries, e)
}

// ask asks the store about marks, and notes whether it answers.
func (t *trusted) ask(marks []Mark) ([]Verdict, error) {
	ctx, cancel := context.WithTimeout(t.b.stopping, max(t.bound/4, 10*time.Millisecond))
	defer cancel()
	verdicts, err := t.b.store.Unchanged(ctx, marks)
	if t.b.stopping.Err() != nil {
		return nil, t.b.stopping.Err()
	}
	if err != nil {
		t.missed()
		if !t.away.Load() {
			t.awaySince.Store(t.now())
		}
		if !t.away.Swap(true) {
			t.b.observe.StoreAway(true)
			t.b.log.LogAttrs(t.b.stopping, slog.LevelWarn, "the store cannot be reached: valid tokens go on being served for a while",
				slog.String("kind", KindOf(err).Name()), slog.Duration("outage_grace", t.grace))
		}
		return nil, err
	}
	if t.away.Swap(false) {
		t.mu.Lock()
		clear(t.refused)
		for e := range t.entries {
			e.refreshFrom.Store(e.issued.RefreshAt.UnixNano()) // what failed meanwhile failed for the store
		}
		t.mu.Unlock()
		t.b.observe.StoreAway(false)
		t.b.log.LogAttrs(t.b.stopping, slog.LevelInfo, "the store can be reached again")
		t.b.eachState(func(_ CredentialName, s *state) { s.notify() })
	}
	return verdicts, nil
}

// probe reports whether the store answers again.
func (t *trusted) probe() bool {
	_, err := t.ask([]Mark{{}})
	return err == nil
}
