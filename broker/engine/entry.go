package engine

import (
	"sync/atomic"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// An entry is an answer in the cache.
type entry struct {
	offer
	line             *line
	count            func()       // on each hit
	confirmed, tried atomic.Int64 // broker.Moment
	// dropped: it is never served again, and not stored.
	dropped atomic.Bool
	// asOf orders entries of one token: when it was asked for what was read, or for the commit of what was stored.
	asOf broker.Moment
	// moved is what its line had moved to before that.
	moved movedTo
	// made is when the entry was made.
	made broker.Moment
	// astray: it was on its way to the store, and nobody knows whether it has arrived. What the store first says ends it.
	astray atomic.Bool
	// defined is the revision of the definitions as of which it is what its own says.
	defined atomic.Uint64
	// serial tells it from every other entry of this process (serials). Who may have it is the same by all its names: they are of one selection.
	serial uint64
	// bytes is about what the token takes, wherever it is there.
	bytes int
	// hit: it was served since it was last looked at by the confirmer. idle counts its looks without that, and is its own.
	hit  atomic.Bool
	idle int
	// refreshFrom is when the next background refresh may start: a broker.Moment.
	refreshFrom atomic.Int64
	// trouble is why the last refresh failed; nil: it did not.
	trouble atomic.Pointer[broker.Failure]
}

// wall is the time of day that the token's times are held against.
func (e *entry) wall(now broker.Instant) time.Time { return e.told.Steady(now) }

// ended reports whether the token's life is over.
func (e *entry) ended(now broker.Instant) bool { return !e.wall(now).Before(e.issued.ExpireAt) }

// follows reports whether an entry came after another of its token: by what either was stored over, which is known also where both were asked for at
// the same time, else by when they were asked for. What another was stored over, and is read again after that, is what is stored: it was undone. better as
// for found.
func (e *entry) follows(was *entry, better bool) bool {
	switch {
	case was.astray.Load(), e.succeeds(was.mark):
		return true
	case was.succeeds(e.mark):
		return was.local && better || !was.local && e.asOf > was.made
	}
	return e.asOf >= was.asOf
}

// succeeds reports whether what was stored was there before an entry. That there was no token says nothing: so it may be again.
func (e *entry) succeeds(m broker.Mark) bool { return e.over == m && m.TokenRevision != broker.ID{} }

// same reports whether another entry is of the same stored token, shown in the same way.
func (e *entry) same(o *entry) bool {
	return !e.dropped.Load() && !e.local && !o.local && e.mark == o.mark && e.issued.ID == o.issued.ID && e.defined.Load() == o.defined.Load()
}

// claim reports whether the caller is to start a background refresh. One wins; how the flight ends sets the next time.
func (e *entry) claim(now broker.Moment) bool {
	from := e.refreshFrom.Load()
	return int64(now) >= from && e.refreshFrom.CompareAndSwap(from, int64(now.Add(refreshClaim)))
}

// refreshClaim is how long after a background refresh was started another may be, should the first have told nothing.
const refreshClaim = time.Minute
