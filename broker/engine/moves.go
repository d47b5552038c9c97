package engine

import (
	"crypto/sha256"
	"strings"
	"sync"

	"github.com/tokenbroker/tokenbroker/broker"
)

// moves are what has become of a credential's tokens while something is being read: what was dropped is not put in place by whoever read it before.
// That holds for what was dropped alone: invalidations of nothing hold up nobody. The zero value is ready. Safe for concurrent use.
type moves struct {
	mu   sync.Mutex
	last movedTo
	// dropped are the last drops, of which the newest is the one that last counts.
	dropped []dropped
}

// movedTo is how far a line has moved. Comparable.
type movedTo struct {
	drops uint64
	// all counts drops of everything, and doubts that something may have changed, nobody knows what.
	all, doubts uint64
}

// A dropped is what was dropped: the digest of a token's id, of that under one key, of a token, or of a selection; zero: everything. It holds nothing of what a caller wrote.
type dropped [sha256.Size]byte

func droppedID(id string) dropped { return sha256.Sum256([]byte("id " + id)) }
func droppedToken(token broker.Secret) dropped {
	return sha256.Sum256([]byte("token " + token.Reveal()))
}
func droppedSelection(s broker.Selection) dropped {
	return sha256.Sum256([]byte("selection " + strings.Join(s.Canonical(), "\x00")))
}

// droppedUnder is of a token under one key alone.
func droppedUnder(key lookup, id string) dropped {
	return sha256.Sum256([]byte("id " + id + " under " + strings.Join(key.sel.Canonical(), "\x00")))
}

// are the drops that an entry would have gone by.
func (e *entry) are() [5]dropped {
	return [5]dropped{droppedUnder(e.lookup, e.issued.ID), droppedID(e.issued.ID), droppedToken(e.issued.Values["token"]), droppedSelection(e.sel), droppedSelection(e.chosen)}
}

// dropsKept is how many drops are known by what they dropped, 1 MiB: more than come while anything is read, or the upstream is asked. Of those before,
// whatever it was.
const dropsKept = 1 << 15

// now is how far it has moved until now. Take it before reading.
func (m *moves) now() movedTo {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last
}

// drop notes what was dropped.
func (m *moves) drop(what dropped) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if what == (dropped{}) {
		m.last.all++
		return
	}
	m.last.drops++
	if len(m.dropped) >= dropsKept {
		m.dropped = append(m.dropped[:0], m.dropped[dropsKept/2:]...)
	}
	m.dropped = append(m.dropped, what)
}

// doubt notes that anything may have changed.
func (m *moves) doubt() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last.doubts++
}

// since reports whether an entry was dropped that was read at a time, and whether it may be no longer what is stored.
func (m *moves) since(then movedTo, e *entry) (gone, doubtful bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.last.drops - then.drops
	if m.last.all != then.all || n > uint64(len(m.dropped)) {
		return true, true
	}
	if n > 0 {
		are := e.are()
		for _, what := range m.dropped[uint64(len(m.dropped))-n:] {
			for _, one := range are {
				if what == one {
					return true, true
				}
			}
		}
	}
	return false, m.last.doubts != then.doubts
}
