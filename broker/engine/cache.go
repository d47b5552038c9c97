package engine

import (
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
	names        *otter.Cache[lookup, lead]
	hits         func(provider string) func()

	mu    sync.Mutex
	lines map[broker.CredentialName]*line
	// asked are the entries that the confirmer asks about, where the store is shared.
	asked map[*entry]struct{}
}

// serials are of all entries of the process: what a caller was allowed of one Broker is nothing at another.
var serials atomic.Uint64

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
	// OnDeletion takes mu, which whoever changes the cache may hold: the library calls it on another goroutine, which its default Executor starts. Whoever
	// sets an Executor keeps that so.
	var err error
	c.names, err = otter.New(&otter.Options[lookup, lead]{
		MaximumWeight: uint64(size),
		Weigher:       weigh,
		OnDeletion:    func(e otter.DeletionEvent[lookup, lead]) { c.misled(e.Value.slot) },
	})
	return c, err
}

func (c *cache) close() { c.names.StopAllGoroutines() }

// look returns the entry for a key, and what to do. revision is that of the definitions. nil: there is none.
func (c *cache) look(key lookup, n need, now broker.Instant, revision uint64) (*entry, verdict) {
	to, ok := c.names.GetIfPresent(key)
	if !ok {
		return nil, fetch
	}
	e := to.current()
	if e == nil || e.dropped.Load() || e.defined.Load() != revision {
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

// put caches an answer for all names of its token, and returns its entry. asOf is when it was asked for, and moved what the line had moved to before
// that: errAgain if the answer was dropped since, or another came after it. Where something else may have changed, whoever waits gets it, and the next asks
// again.
func (c *cache) put(l *line, a offer, asOf broker.Moment, moved movedTo) (*entry, error) {
	return c.place(c.entryOf(l, a, asOf, moved), true)
}

// found is put of what was read. Unless better, what only this process has stays where the store has no other than before.
func (c *cache) found(l *line, a offer, s seen, better bool) (*entry, error) {
	return c.place(c.entryOf(l, a, s.at, s.moved), better)
}

func (c *cache) place(e *entry, better bool) (*entry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l, key := e.line, e.target.token.Token
	gone, doubtful := l.moves.since(e.moved, e)
	if gone || l.outdates(e) {
		return nil, errAgain
	}
	s, was := l.slots[key], l.has(key)
	follows := was == nil || e.follows(was, better)
	switch {
	case !follows && !was.local && was.mark != e.mark:
		return nil, errAgain
	case doubtful && !e.local && (was == nil || !was.astray.Load()):
		return e, nil
	case doubtful: // there is no other
		c.age(e)
	}
	if s == nil {
		s = &slot{}
		l.slots[key] = s
	}
	if follows {
		c.fill(s, e)
	}
	if c.lead(e.target, s); e.pending != nil {
		l.pending[e] = struct{}{}
	}
	return e, nil
}

// fill has an entry served by all names that lead to a slot; the caller holds mu.
func (c *cache) fill(s *slot, e *entry) {
	l, was := e.line, s.entry.Swap(e)
	delete(c.asked, was)
	c.ask(e)
	switch {
	case was == nil && e.over == (broker.Mark{}): // it may have been here before, and had to make room: no news to those who have it
		l.wake(&l.wanted)
		return
	case was == nil || !was.same(e):
		l.wake(&l.changed)
		return
	}
	e.confirmed.Store(max(e.confirmed.Load(), was.confirmed.Load()))
	e.trouble.Store(was.trouble.Load()) // how its refresh does
	e.refreshFrom.Store(max(e.refreshFrom.Load(), was.refreshFrom.Load()))
	if now := c.clock.Now().At; c.old(was, now) && !c.old(e, now) {
		l.wake(&l.changed)
	}
}

// entryOf makes an entry without caching it.
func (c *cache) entryOf(l *line, a offer, asOf broker.Moment, moved movedTo) *entry {
	now := c.clock.Now()
	e := &entry{offer: a, line: l, count: c.hits(a.facts.Name), asOf: asOf, moved: moved, made: now.At, serial: serials.Add(1)}
	e.bytes = bytesOf(a)
	e.defined.Store(a.revision)
	e.confirmed.Store(int64(asOf))
	e.tried.Store(int64(broker.Never))
	e.refreshFrom.Store(int64(now.At.Add(a.issued.RefreshAt.Sub(e.wall(now)))))
	if a.local { // it is there because the store could not be asked, and another takes its place as soon as it can
		if k := l.known.Load(); k != nil { // it is relied on for as long as the credential is
			e.confirmed.Store(k.confirmed.Load())
		}
		e.tried.Store(int64(now.At))
		e.refreshFrom.Store(int64(now.At.Add(retryFirst)))
	}
	return e
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

// any reports whether there is an entry of a credential that matches and could be served, or is on its way to the store.
func (c *cache) any(name broker.CredentialName, match func(*entry) bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lines[name]
	if l == nil {
		return false
	}
	for e := range l.pending {
		if !e.dropped.Load() && match(e) {
			return true
		}
	}
	for _, s := range l.slots {
		if e := s.entry.Load(); !e.dropped.Load() && match(e) {
			return true
		}
	}
	return false
}

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
	for _, s := range l.slots {
		e := s.entry.Load()
		if !match(e) {
			continue
		}
		if e.local && !e.dropped.Load() {
			ids[e.issued.ID] = true
		}
		if e.solo != nil {
			e.solo.dropped.Store(true)
		}
		c.remove(e)
		changed = true
	}
	if changed || len(ids) > 0 {
		l.stir()
	}
	c.tidy(l)
	return len(ids)
}

// lapsed reports whether nothing that was read of a token can be served, and has this process have nothing of it then. Whoever reads asks that before all
// else: what is rejected stays so, however old the reading is and whatever fails after it.
func (c *cache) lapsed(key broker.TokenKey, s seen) bool {
	if decide(s.view.Token, s.wall(c.clock.Now()), need{}) != fetch {
		return false
	}
	c.outdate(key, s)
	return true
}

// outdate drops what this process has of a token of which was read that there is none any more that could be served: it is not served for a store that
// goes away then, and whoever has read it before does not put it in place again where it is rejected. What only this process has is none of it, unless it
// has arrived there.
func (c *cache) outdate(key broker.TokenKey, s seen) {
	there := s.view.Token
	c.drop(key.Credential, func(e *entry) bool {
		switch {
		case e.target.token.Token != key.Token:
			return false
		case e.astray.Load():
			return true
		case e.asOf > s.at:
			return false
		case e.local:
			return there != nil && there.Rejected && there.ID == e.issued.ID
		case e.succeeds(s.view.Mark) && s.at <= e.made, e.mark.TokenRevision == s.view.Mark.TokenRevision:
			return false
		}
		if there != nil && there.Rejected {
			e.line.moves.drop(droppedID(e.issued.ID))
		}
		return true
	}, false)
}

// learn notes a credential that was read at a moment at which its line had moved so far, and drops what is none of its tokens. Of one that was written, or
// deleted, by this process since nothing is learned.
func (c *cache) learn(l *line, read broker.Credential, at broker.Moment, moved movedTo) {
	if l.moves.now().all != moved.all {
		return
	}
	if l.learn(read, at) {
		c.drop(l.name, l.outdates, false)
	}
}

// recent is a credential as it was not longer ago than what is served is confirmed; false: nobody knows.
func (c *cache) recent(name broker.CredentialName) (broker.Credential, bool) {
	l := c.line(name)
	if l == nil {
		return broker.Credential{}, false
	}
	k := l.known.Load()
	if k == nil || c.shared && c.clock.Now().At.Sub(broker.Moment(k.confirmed.Load())) >= c.bound {
		return broker.Credential{}, false
	}
	return k.credential, true
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
	case e.line.has(e.target.token.Token) != e:
	case !done.Token, done.Mark.CredentialRevision != e.credential.Revision: // else it would be another credential's
		c.remove(e)
		e.line.wake(&e.line.changed)
	default:
		a := e.offer
		a.mark, a.local, a.pending = done.Mark, false, nil
		there := c.entryOf(e.line, a, at, moved)
		if _, doubtful := e.line.moves.since(moved, there); doubtful {
			c.age(there)
		}
		c.fill(e.line.slots[e.target.token.Token], there)
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
	for _, s := range l.slots {
		e := s.entry.Load()
		if c.age(e); !c.shared {
			c.remove(e)
		}
	}
	l.moves.doubt()
	l.stir()
	c.tidy(l)
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

// remove takes an entry out; the caller holds mu, and tidies its line. Its other names lead nowhere, until they are asked for.
func (c *cache) remove(e *entry) {
	e.dropped.Store(true)
	delete(c.asked, e)
	if e.line.has(e.target.token.Token) != e {
		return
	}
	s := e.line.slots[e.target.token.Token]
	c.leave(e)
	if there, ok := c.names.GetEntryQuietly(e.lookup); ok && there.Value.slot == s { // it may lead elsewhere by now
		c.names.Invalidate(e.lookup)
	}
}

// leave takes an entry out of its slot, if it is in, and that out of the line; the caller holds mu.
func (c *cache) leave(e *entry) {
	delete(c.asked, e)
	key := e.target.token.Token
	if e.line.has(key) == e {
		e.line.slots[key].entry.Store(nil)
		delete(e.line.slots, key)
	}
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
	if e.line.has(e.target.token.Token) == e {
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
