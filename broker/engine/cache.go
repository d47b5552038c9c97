package engine

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/maypok86/otter/v2"

	"github.com/tokenbroker/tokenbroker/broker"
)

// cache has the tokens that this process serves, and is the only judge of whether one may be.
//
// Where others share the store, each entry has two moments: confirmed, when the store last said that it is current, and tried,
// when it was last asked and could not say. It is served while confirmed is younger than the bound. It is served as degraded
// while confirmed is younger than bound and grace, and tried is younger than the bound: the store was asked just now, and is
// away. Otherwise somebody has to ask. This is compared on every hit, so nothing that gets lost or stuck can make a token live
// longer; and it is about this entry alone, so a part of the store that is away is no other part's concern.
type cache struct {
	clock        *broker.Clock
	shared       bool
	bound, grace time.Duration
	entries      *otter.Cache[lookup, *entry]
	hits         func(provider string) func()

	serials atomic.Uint64

	mu    sync.Mutex
	lines map[broker.CredentialName]*line
	// asked are the entries that the confirmer asks about, where the store is shared.
	asked map[*entry]struct{}
}

// An entry is an answer in the cache.
type entry struct {
	offer
	line             *line
	count            func()       // on each hit
	confirmed, tried atomic.Int64 // broker.Moment
	// dropped: it is never served again, and not stored.
	dropped atomic.Bool
	// made is when the entry was made: the token's times are by the wall clock of then, and it is as of no later.
	made broker.Instant
	// astray: it was on its way to the store, and nobody knows whether it has arrived. Once the store can be asked, it is served no more.
	astray atomic.Bool
	// serial tells it from every other entry of this process.
	serial uint64
	// hit: it was served since it was last looked at by the confirmer. idle counts its looks without that, and is its own.
	hit  atomic.Bool
	idle int
	// refreshFrom is when the next background refresh may start: a broker.Moment.
	refreshFrom atomic.Int64
	// trouble is why the last refresh failed; nil: it did not.
	trouble atomic.Pointer[broker.Failure]
}

func newCache(clock *broker.Clock, s Settings) (*cache, error) {
	c := &cache{
		clock: clock, shared: s.Store.Shared(), bound: s.CacheBound, grace: max(0, s.OutageGrace), hits: s.Observer.Hits,
		lines: map[broker.CredentialName]*line{}, asked: map[*entry]struct{}{},
	}
	if c.bound <= 0 {
		c.bound = DefaultCacheBound
	}
	size := s.CacheSize
	if size <= 0 {
		size = DefaultCacheSize
	}
	var err error
	c.entries, err = otter.New(&otter.Options[lookup, *entry]{
		MaximumSize: size,
		OnDeletion:  func(e otter.DeletionEvent[lookup, *entry]) { c.evicted(e.Value) },
	})
	return c, err
}

func (c *cache) close() { c.entries.StopAllGoroutines() }

// wall is the time of day that the token's times are held against.
func (e *entry) wall(now broker.Instant) time.Time { return e.made.Steady(now) }

// ended reports whether the token's life is over.
func (e *entry) ended(now broker.Instant) bool { return !e.wall(now).Before(e.issued.ExpireAt) }

// look returns the entry for a key, and what to do. revision is that of the definitions. nil: there is none.
func (c *cache) look(key lookup, n need, now broker.Instant, revision uint64) (*entry, verdict) {
	e, ok := c.entries.GetIfPresent(key)
	if !ok || e.dropped.Load() || e.revision != revision {
		return nil, fetch
	}
	v := decide(e.issued, e.wall(now), n)
	switch {
	case v == fetch && e.ended(now):
		return nil, fetch
	case c.shared && !c.trusts(e, now.At):
		return e, fetch
	}
	return e, v
}

// trusts reports whether an entry may be served by what is known of the store.
func (c *cache) trusts(e *entry, now broker.Moment) bool {
	if c.old(e, now) && (!c.graced(broker.Moment(e.confirmed.Load()), now) || now.Sub(broker.Moment(e.tried.Load())) >= c.bound) {
		return false
	}
	if !e.hit.Load() {
		e.hit.Store(true) // only when it changes: all callers' processors share this memory
	}
	return true
}

// old reports whether an entry is served, if at all, only because the store is away.
func (c *cache) old(e *entry, now broker.Moment) bool {
	return c.shared && now.Sub(broker.Moment(e.confirmed.Load())) >= c.bound
}

// heldUpMost is longer than a store takes to answer.
const heldUpMost = 2 * time.Second

// heldUp reports whether what a flight has read is too old by the time it is to be given: the process was stopped in between.
func (c *cache) heldUp(e *entry, now broker.Moment) bool {
	return c.shared && !e.local && now.Sub(broker.Moment(e.confirmed.Load())) >= max(c.bound, heldUpMost)
}

// graced reports whether what was confirmed then may be relied on while the store is away.
func (c *cache) graced(confirmed, now broker.Moment) bool {
	return c.grace > 0 && now.Sub(confirmed) < c.bound+c.grace
}

// degraded reports whether something is not well with the supply, although the token is valid.
func (c *cache) degraded(e *entry, now broker.Moment) bool {
	return e.local || e.trouble.Load() != nil || c.old(e, now)
}

// put caches an answer that the store confirmed at a moment, under every name that this process has the token by, and returns its entry. moved is what
// the line had moved to before that: errAgain if the answer was dropped since. Where something else may have changed, whoever waits gets it, and the next
// asks again.
func (c *cache) put(l *line, a offer, confirmed broker.Moment, moved movedTo) (*entry, error) {
	return c.putOver(l, a, confirmed, moved, c.clock.Now().At, func(*entry) bool { return true })
}

// found is put of what was read, which is returned also where what is in place may stay: what was read or stored after it, and unless better what only
// this process has, which came after it.
func (c *cache) found(l *line, a offer, s seen, better bool) (*entry, error) {
	return c.putOver(l, a, s.at, s.moved, s.at, func(was *entry) bool {
		if was.local {
			return better || was.mark != a.mark
		}
		return was.mark == a.mark || was.made.At <= s.at
	})
}

// putOver is put where what is in place is over, and under other names where it was made until a moment: what has been made since was read or stored after that.
func (c *cache) putOver(l *line, a offer, confirmed broker.Moment, moved movedTo, until broker.Moment, over func(was *entry) bool) (*entry, error) {
	e := c.entryOf(l, a, confirmed)
	c.mu.Lock()
	defer c.mu.Unlock()
	gone, doubtful := l.moves.since(moved, e)
	if gone || l.outdates(e) {
		return nil, errAgain
	}
	if e.pending != nil {
		l.pending[e] = struct{}{}
	}
	switch {
	case doubtful && !e.local:
		return e, nil
	case doubtful: // there is no other
		c.age(e)
	}
	if was := l.entries[a.lookup]; was == nil || over(was) {
		c.place(e)
	}
	for _, was := range slices.Clone(l.tokens[a.target.token.Token]) {
		if was.lookup == a.lookup || e.local || was.mark == a.mark || was.made.At > until {
			continue
		}
		named := a
		named.lookup = was.lookup
		c.place(c.entryOf(l, named, confirmed))
	}
	return e, nil
}

// namesMost is under how many names one token is kept: callers choose them.
const namesMost = 16

// place has an entry served under its name; the caller holds mu.
func (c *cache) place(e *entry) {
	l, was := e.line, e.line.entries[e.lookup]
	l.leave(was)
	l.entries[e.lookup] = e
	key := e.target.token.Token
	l.tokens[key] = append(l.tokens[key], e)
	if names := l.tokens[key]; len(names) > namesMost {
		first := names[0]
		l.leave(first)
		delete(c.asked, first)
		c.entries.Invalidate(first.lookup)
	}
	c.entries.Set(e.lookup, e)
	c.ask(e)
	if was == nil || !was.same(e) {
		l.wake(&l.changed)
		return
	}
	e.trouble.Store(was.trouble.Load()) // how its refresh does
	e.refreshFrom.Store(max(e.refreshFrom.Load(), was.refreshFrom.Load()))
	if c.old(was, c.clock.Now().At) {
		l.wake(&l.changed)
	}
}

// same reports whether another entry is of the same stored token, shown in the same way.
func (e *entry) same(o *entry) bool {
	return !e.dropped.Load() && !e.local && !o.local && e.mark == o.mark && e.issued.ID == o.issued.ID && e.revision == o.revision
}

// entryOf makes an entry without caching it.
func (c *cache) entryOf(l *line, a offer, confirmed broker.Moment) *entry {
	now := c.clock.Now()
	e := &entry{offer: a, line: l, count: c.hits(a.facts.Name), made: now, serial: c.serials.Add(1)}
	e.confirmed.Store(int64(confirmed))
	e.tried.Store(int64(broker.Never))
	e.refreshFrom.Store(int64(now.At.Add(a.issued.RefreshAt.Sub(now.Wall))))
	if a.local { // it is there because the store could not be asked, and another takes its place as soon as it can
		e.tried.Store(int64(now.At))
		e.refreshFrom.Store(int64(now.At.Add(retryFirst)))
	}
	return e
}

// peek returns the entry for a key as it is, however long ago it was confirmed; nil: there is none, or it has ended.
func (c *cache) peek(key lookup) *entry {
	there, _ := c.entries.GetEntryQuietly(key)
	if there.Value == nil || there.Value.dropped.Load() || there.Value.ended(c.clock.Now()) {
		return nil
	}
	return there.Value
}

// confirm notes that the store said, when it was asked at a moment, that an entry is current. Watches hear that what was served because the store is away
// is well again.
func (c *cache) confirm(e *entry, asked broker.Moment) {
	now := c.clock.Now().At
	old := c.old(e, now)
	if e.confirmed.Store(int64(asked)); old && !c.old(e, now) {
		e.line.wake(&e.line.changed)
	}
}

// try notes that the store could not say, when it was asked at a moment.
func (c *cache) try(e *entry, asked broker.Moment) { e.tried.Store(int64(asked)) }

// drop takes the entries of a credential that match out of service for good, also those that are on their way to the store, and returns how many
// tokens of those only this process had. If there are any, or the store has changed, everybody looks again.
func (c *cache) drop(name broker.CredentialName, match func(*entry) bool, changed bool) (local int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lines[name]
	if l == nil {
		return 0
	}
	ids := map[string]bool{}
	for e := range l.pending {
		if match(e) && !e.dropped.Swap(true) {
			ids[e.issued.ID] = true
		}
	}
	for key, e := range l.entries {
		if !match(e) {
			continue
		}
		if e.local && !e.dropped.Load() {
			ids[e.issued.ID] = true
		}
		c.remove(key, e)
		changed = true
	}
	if changed || len(ids) > 0 {
		l.stir()
	}
	return len(ids)
}

// outdate drops what this process has of a token of which was read that there is none any more that could be served: it is not served for a store that
// goes away then. What only this process has is none of it, unless it has arrived there.
func (c *cache) outdate(key broker.TokenKey, s seen) {
	there := s.view.Token
	c.drop(key.Credential, func(e *entry) bool {
		switch {
		case e.target.token.Token != key.Token, e.made.At > s.at:
			return false
		case e.local:
			return there != nil && there.Rejected && there.ID == e.issued.ID
		}
		return e.mark.TokenRevision != s.view.Mark.TokenRevision
	}, false)
}

// learn notes a credential that was read at a moment, and drops what is none of its tokens.
func (c *cache) learn(l *line, read broker.Credential, at broker.Moment) {
	l.learn(read, at)
	c.drop(l.name, l.outdates, false)
}

// undelivered reports whether a token was dropped on its way to the store, and may have arrived there, where nobody knows that yet.
func (c *cache) undelivered(l *line, t *broker.Issued) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := range l.pending {
		if t != nil && e.dropped.Load() && e.issued.ID == t.ID {
			return true
		}
	}
	return false
}

// arrived is for an entry that is on its way to the store no more: one that is there is served as any other, as of a moment at which the line had moved so
// far, and one that the store did not take, or has dropped since, is not. Where nobody knows, it is served for as long as the store cannot be asked.
func (c *cache) arrived(e *entry, done broker.Committed, err error, at broker.Moment, moved movedTo) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(e.line.pending, e)
	switch {
	case err != nil:
		e.astray.Store(true)
	case e.line.entries[e.lookup] != e:
	case !done.Token:
		c.remove(e.lookup, e)
		e.line.wake(&e.line.changed)
	default:
		a := e.offer
		a.mark, a.local, a.pending = done.Mark, false, nil
		there := c.entryOf(e.line, a, at)
		if _, doubtful := e.line.moves.since(moved, there); doubtful {
			c.age(there)
		}
		c.place(there)
	}
	c.tidy(e.line)
}

// forget drops everything of a credential that has changed, or is gone.
func (c *cache) forget(name broker.CredentialName) {
	c.mu.Lock()
	l := c.lines[name]
	c.mu.Unlock()
	if l == nil {
		return
	}
	l.moves.drop(dropped{})
	l.known.Store(nil)
	c.drop(name, func(*entry) bool { return true }, true)
}

// doubt has the store asked before anything of a credential is served again: something may have changed. The grace counts from
// what was confirmed all the same.
func (c *cache) doubt(name broker.CredentialName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lines[name]
	if l == nil {
		return
	}
	if !c.shared {
		for key, e := range l.entries {
			c.remove(key, e)
		}
	}
	for _, e := range l.entries {
		c.age(e)
	}
	l.moves.doubt()
	l.stir()
}

// age has the store asked before an entry is served again.
func (c *cache) age(e *entry) {
	e.confirmed.Store(min(e.confirmed.Load(), int64(c.clock.Now().At.Add(-c.bound))))
	e.tried.Store(int64(broker.Never))
}

// doubtEntry is doubt of one entry, whose token is no longer the one that is stored.
func (c *cache) doubtEntry(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.age(e)
	delete(c.asked, e)
	e.line.wake(&e.line.changed)
}

// remove takes an entry out; the caller holds mu. Its line stays as long as somebody holds it.
func (c *cache) remove(key lookup, e *entry) {
	e.dropped.Store(true)
	e.line.leave(e)
	delete(c.asked, e)
	c.entries.Invalidate(key)
}

// evicted is called when an entry has left the cache, for whatever reason.
func (c *cache) evicted(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.asked, e)
	e.line.leave(e)
	c.tidy(e.line)
}

// ask has an entry confirmed for as long as it is asked for; the caller holds mu.
func (c *cache) ask(e *entry) {
	if c.shared {
		c.asked[e] = struct{}{}
	}
}

// warm is ask of an entry that may have been left to become too old.
func (c *cache) warm(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.line.entries[e.lookup] == e {
		c.ask(e)
	}
}

// cool leaves an entry to become too old.
func (c *cache) cool(e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.asked, e)
}

// hot are the entries that are asked about. Those that have expired are left out for good.
func (c *cache) hot(now broker.Instant) []*entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	hot := make([]*entry, 0, len(c.asked))
	for e := range c.asked {
		if e.ended(now) {
			delete(c.asked, e)
			continue
		}
		hot = append(hot, e)
	}
	return hot
}

// hold returns a credential's line, which stays until it is released.
func (c *cache) hold(name broker.CredentialName) *line {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lines[name]
	if l == nil {
		l = newLine(name)
		c.lines[name] = l
	}
	l.holders++
	return l
}

func (c *cache) release(l *line) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l.holders--
	c.tidy(l)
}

// tidy drops a line that nobody holds and that has no entries: callers who ask for names that do not exist fill no memory.
func (c *cache) tidy(l *line) {
	if l.holders == 0 && len(l.entries) == 0 && len(l.pending) == 0 && c.lines[l.name] == l {
		delete(c.lines, l.name)
	}
}

// each calls f with every line.
func (c *cache) each(f func(*line)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.lines {
		f(l)
	}
}

// line returns a credential's line if there is one, without holding it.
func (c *cache) line(name broker.CredentialName) *line {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lines[name]
}

// claim reports whether the caller is to start a background refresh. One wins; how the flight ends sets the next time.
func (e *entry) claim(now broker.Moment) bool {
	from := e.refreshFrom.Load()
	return int64(now) >= from && e.refreshFrom.CompareAndSwap(from, int64(now.Add(refreshClaim)))
}

// refreshClaim is how long after a background refresh was started another may be, should the first have told nothing.
const refreshClaim = time.Minute
