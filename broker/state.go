package broker

import (
	"sync"
	"sync/atomic"
	"time"
)

// lookup is the key of the cache and of flights: what the caller said, before defaults. Comparable, so that a hit builds
// no string.
type lookup struct {
	name CredentialName
	sel  Selection
}

// A state is what this process knows of one credential beside its tokens.
type state struct {
	// moved counts changes of the credential or its tokens: what was read before a change is not served after it.
	moved atomic.Uint64
	// gone: this is no longer the state of any credential; nothing that was read under it is served.
	gone atomic.Bool
	// plan is the credential and its definition, as of a count of moved and a revision of the definitions.
	plan atomic.Pointer[plan]
	// rejected is the token that the store was last told of that it is rejected; nil: none.
	rejected atomic.Pointer[rejection]
	// watchers are how many watch its tokens.
	watchers atomic.Int32
	// turn lets one flight at a time go for the grant that all keys of a seeded credential share.
	turn chan struct{}

	mu      sync.Mutex
	changed chan struct{}
	// abandoned are the markers that were seen without a lease, by grant.
	abandoned map[[32]byte]abandoned
}

// A rejection is a token that the store knows to be rejected, since the telling began.
type rejection struct {
	id string
	at int64
}

// A plan is a credential with its definition.
type plan struct {
	moved, revision uint64
	credential      Credential
	definition      Definition
	facts           *Facts
	// confirmed is when the credential was last known to be what is stored; see trusted.
	confirmed atomic.Int64
}

func (b *Broker) state(name CredentialName) *state {
	if s, ok := b.states.Load(name); ok {
		return s.(*state)
	}
	s, _ := b.states.LoadOrStore(name, &state{turn: make(chan struct{}, 1), changed: make(chan struct{})})
	return s.(*state)
}

func (b *Broker) eachState(f func(CredentialName, *state)) {
	b.states.Range(func(k, v any) bool {
		f(k.(CredentialName), v.(*state))
		return true
	})
}

// forget drops the state of a name that has no credential, so that callers who ask for names that do not exist fill no
// memory. Nothing is served of what somebody who still holds the state may read.
func (b *Broker) forget(name CredentialName, s *state) {
	if b.states.CompareAndDelete(name, s) {
		s.gone.Store(true)
		s.move()
	}
}

// changes returns a channel that is closed at the next change. Take it before reading what may change.
func (s *state) changes() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// notify wakes whoever waits for a change.
func (s *state) notify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// move makes everything that was read before worthless, and says so.
func (s *state) move() {
	s.moved.Add(1)
	s.notify()
}

// An entry is a cached token. It is served only while nothing has moved since before it was read.
type entry struct {
	state           *state
	moved, revision uint64
	issued          *Issued
	token           *Token
	key             lookup
	plan            *plan
	// mark is what the store tells it by.
	mark Mark
	// confirmed is when it was last known to be what is stored; see trusted.
	confirmed atomic.Int64
	// hit: it was served since it was last confirmed. idle counts confirmations without that; the confirmer's own.
	hit  atomic.Bool
	idle int
	// unreached: when it was last to be confirmed, the store could not be asked.
	unreached atomic.Bool
	// alone: the store does not have it.
	alone bool
	// refreshFrom is when the next background refresh may start, in Unix nanoseconds.
	refreshFrom atomic.Int64
	// trouble is why the last refresh failed; nil: it did not.
	trouble atomic.Pointer[Failure]
}

// degraded reports whether something is not well with the supply, although the token is valid.
func (e *entry) degraded() bool { return e.alone || e.trouble.Load() != nil }

// current reports whether nothing has moved since before the entry was read.
func (e *entry) current(revision uint64) bool {
	return e.revision == revision && e.state.moved.Load() == e.moved && !e.state.gone.Load()
}

// claimRefresh reports whether the caller is to start a background refresh. One wins; the flight sets the next time.
func (e *entry) claimRefresh(now time.Time) bool {
	from := e.refreshFrom.Load()
	return now.UnixNano() >= from && e.refreshFrom.CompareAndSwap(from, now.Add(refreshClaim).UnixNano())
}

// refreshClaim is how long after a background refresh was started another may be, should the first have told nothing.
const refreshClaim = time.Minute
