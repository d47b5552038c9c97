package engine

import (
	"crypto/sha256"
	"strings"
	"sync"

	"github.com/tokenbroker/tokenbroker/broker"
)

// moves are what was dropped of a credential while something is being read: whoever has read it before does not put it in place again. They count what
// the store has confirmed, and that alone: whoever invalidates nothing, or does not wait for the answer, holds up nobody. The zero value is ready. Safe
// for concurrent use.
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

// A dropped is what was dropped: the digest of a token's id or of a selection; zero: everything. It holds nothing of what a caller wrote.
type dropped [sha256.Size]byte

func droppedID(id string) dropped { return sha256.Sum256([]byte("id " + id)) }

func droppedSelection(s broker.Selection) dropped {
	return sha256.Sum256([]byte("selection " + strings.Join(s.Canonical(), "\x00")))
}

// are the drops that an entry would have gone by: one that is rejected already, and served for that its upstream has no other, by none of its id.
func (e *entry) are() [2]dropped {
	are := [2]dropped{{}, droppedSelection(e.chosen)}
	if !e.issued.Rejected {
		are[0] = droppedID(e.issued.ID)
	}
	return are
}

// dropsKept is how many drops are known by what they dropped, 32 KiB: more than the store confirms while anything is read. Of those before, whatever
// it was.
const dropsKept = 1 << 10

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
