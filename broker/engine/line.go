package engine

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/gate"
)

// A line is what this process knows of one credential beside its tokens. It lives while flights, watches or entries refer to it.
type line struct {
	name broker.CredentialName
	// holders, slots and pending are guarded by cache.mu. slots are by the token's key, and none is empty. pending are those that were handed out and are
	// on their way to the store, whatever is in the cache by now.
	holders int
	slots   map[[32]byte]*slot
	pending map[*entry]struct{}

	// known is the credential as it was last read.
	known atomic.Pointer[known]
	// listing has those who have all its tokens read.
	listing chan struct{}
	// watchers are how many watch its tokens.
	watchers atomic.Int32

	// moves are what was dropped, and how often something may have changed.
	moves moves
	// failures counts what the store could not do for this credential, and commits how many commits of refresh tokens wait for it:
	// nothing is to be presented before they are stored.
	failures atomic.Uint64
	commits  atomic.Int32
	// heard counts what other brokers have told, and looked is when somebody who waits last looked for that, a broker.Moment.
	heard  atomic.Uint64
	looked atomic.Int64
	// unstored is why the store has not taken what an exchange brought, and is still to take; nil: it has, or there is nothing.
	unstored atomic.Pointer[broker.Failure]

	mu sync.Mutex
	// changed is closed when there is a new answer, or when something has moved; ended when whoever held a lease has let go of
	// it. A failure wakes only waiters for a lease; others would retry at once. wanted is closed when something was read that was not here: it is news
	// to those alone that could not have it.
	changed, ended, wanted chan struct{}
	// turns are of the grants that flights go for just now.
	turns map[[32]byte]*turn
	// abandoned are the markers that were seen without a lease, by grant.
	abandoned map[[32]byte]abandoned
	// rejected are the tokens that the store was last told to be rejected, the newest last.
	rejected []rejection
}

// A turn lets one flight at a time go for a grant, whoever else may want it: all keys of a seeded credential, other names of the same selection, and tests.
type turn struct {
	grant [32]byte
	// taken has room for one.
	taken chan struct{}
	// wanted is by how many; guarded by line.mu.
	wanted int
}

// wants returns the turn at a grant, which is there until it is unwanted.
func (l *line) wants(grant [32]byte) *turn {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.turns[grant]
	if t == nil {
		if l.turns == nil {
			l.turns = map[[32]byte]*turn{}
		}
		t = &turn{grant: grant, taken: make(chan struct{}, 1)}
		l.turns[grant] = t
	}
	t.wanted++
	return t
}

func (l *line) unwanted(t *turn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.wanted--; t.wanted == 0 {
		delete(l.turns, t.grant)
	}
}

// known is a credential, and when the store last said that it is this one.
type known struct {
	credential broker.Credential
	confirmed  atomic.Int64 // broker.Moment
}

// A rejection is a token that the store knows to be rejected, since a moment, or that was not the one of a key; nil: it is rejected under all.
type rejection struct {
	id string
	of *lookup
	at broker.Moment
}

func newLine(name broker.CredentialName) *line {
	return &line{
		name: name, listing: make(chan struct{}, listsMost), slots: map[[32]byte]*slot{}, pending: map[*entry]struct{}{},
		changed: make(chan struct{}), ended: make(chan struct{}), wanted: make(chan struct{}),
	}
}

// has returns the entry of a token; the caller holds cache.mu. nil: there is none.
func (l *line) has(token [32]byte) *entry {
	if s := l.slots[token]; s != nil {
		return s.entry.Load()
	}
	return nil
}

// outdates reports whether an entry's token is none of the credential as it is known by now.
func (l *line) outdates(e *entry) bool {
	k, was := l.known.Load(), e.credential
	return k != nil && (k.credential.Disabled || k.credential.Incarnation != was.Incarnation || k.credential.Version != was.Version || k.credential.Epoch != was.Epoch)
}

// learn notes a credential that was read at a moment, and reports whether it is another than was known.
func (l *line) learn(c broker.Credential, read broker.Moment) bool {
	switch k := l.known.Load(); {
	case k != nil && k.credential.Revision == c.Revision:
		l.confirm(c.Revision, read)
	case k == nil || k.confirmed.Load() <= int64(read):
		k = &known{credential: c}
		k.confirmed.Store(int64(read))
		l.known.Store(k)
		return true
	}
	return false
}

// confirm notes that the credential is still the one with this revision.
func (l *line) confirm(revision broker.ID, read broker.Moment) {
	if k := l.known.Load(); k != nil && k.credential.Revision == revision && k.confirmed.Load() < int64(read) {
		k.confirmed.Store(int64(read))
	}
}

// changes and ends return the channels that are closed at the next change, or when what is wanted may be there, and at the next end of a lease. Take them
// before reading what they are about.
func (l *line) changes() (changed, wanted <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.changed, l.wanted
}

func (l *line) ends() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended
}

// wake wakes whoever waits for a channel.
func (l *line) wake(c *chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(*c)
	*c = make(chan struct{})
}

// stir wakes everybody: something has changed.
func (l *line) stir() {
	l.wake(&l.changed)
	l.wake(&l.ended)
}

// hears notes that another broker has told of something, or may have.
func (l *line) hears() {
	l.heard.Add(1)
	l.wake(&l.ended)
}

// look reports whether the caller is to look what another broker has told of: one of all who wait, now and then. What is told is of some token of the
// credential, and a thousand may wait for others.
func (l *line) look(now broker.Moment) bool {
	was := l.looked.Load()
	return now.Sub(broker.Moment(was)) >= gate.LookInQueue && l.looked.CompareAndSwap(was, int64(now))
}

// rejectionsKept is how many rejections are remembered, and as many ids that a key did not have: what callers make up forgets nothing else.
const rejectionsKept = 16

// tell notes a rejection.
func (l *line) tell(r rejection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	kept := 0
	for _, there := range l.rejected {
		if there.covers(r.id, r.of) {
			return
		}
		if (there.of == nil) == (r.of == nil) {
			kept++
		}
	}
	if kept >= rejectionsKept {
		oldest := slices.IndexFunc(l.rejected, func(there rejection) bool { return (there.of == nil) == (r.of == nil) })
		l.rejected = slices.Delete(l.rejected, oldest, oldest+1)
	}
	l.rejected = append(l.rejected, r)
}

// covers reports whether it says of a token that it is rejected under a key; nil: under all.
func (r rejection) covers(id string, of *lookup) bool {
	return r.id == id && (r.of == nil || of != nil && *r.of == *of)
}

// told reports whether the store knows that a token is rejected under a key, nil: under all, and knew it before a moment at which something was read;
// Never: whenever that was.
func (l *line) told(id string, of *lookup, read broker.Moment) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.rejected, func(r rejection) bool { return r.covers(id, of) && (read == broker.Never || read >= r.at) })
}

// takeoverGrace is how long a broker itself has to see a marker without a lease before it presents that refresh token again.
// Whoever set it may be stopped, or hold the successor while the store is away; pending commits are tried more often than
// this, and an answer is waited for no longer.
const takeoverGrace = 10 * time.Second

// abandoned is a marker without a lease, since when, and how often the store had failed then.
type abandoned struct {
	marker   broker.ID
	since    time.Duration // broker.Instant.Ran
	failures uint64
}

// watched has this process look at a marker, and reports whether it has seen it, leaseless, for the takeover grace without a failure of the store
// in between.
func (l *line) watched(grant [32]byte, marker broker.ID, now time.Duration) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen, ok := l.abandoned[grant]
	if !ok || seen.marker != marker || seen.failures != l.failures.Load() {
		if l.abandoned == nil {
			l.abandoned = map[[32]byte]abandoned{}
		}
		l.abandoned[grant] = abandoned{marker, now, l.failures.Load()}
		return false
	}
	return now-seen.since >= takeoverGrace
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
	if l.holders == 0 && len(l.slots) == 0 && len(l.pending) == 0 && c.lines[l.name] == l {
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
