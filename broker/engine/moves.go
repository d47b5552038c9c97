package engine

import "sync"

// moves are what has become of a credential's tokens while something is being read: what was dropped is not put in place by whoever read it before.
// That holds for what was dropped alone: invalidations of nothing hold up nobody. The zero value is ready. Safe for concurrent use.
type moves struct {
	mu   sync.Mutex
	last movedTo
	// dropped are the last drops, of which the newest is the one that last counts.
	dropped []func(*entry) bool
}

// movedTo is how far a line has moved. Comparable.
type movedTo struct {
	drops uint64
	// doubts counts that something may have changed, nobody knows what.
	doubts uint64
}

// dropsKept is how many drops are known by what they dropped. Of those before, whatever it was.
const dropsKept = 1024

// now is how far it has moved until now. Take it before reading.
func (m *moves) now() movedTo {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last
}

// drop notes that what matches was dropped.
func (m *moves) drop(match func(*entry) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last.drops++
	if len(m.dropped) >= dropsKept {
		m.dropped = append(m.dropped[:0], m.dropped[dropsKept/2:]...)
	}
	m.dropped = append(m.dropped, match)
}

// doubt notes that anything may have changed.
func (m *moves) doubt() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last.doubts++
}

// since reports whether an entry was dropped that was read at a time, and whether it may be no longer what is stored.
func (m *moves) since(then movedTo, e *entry) (dropped, doubtful bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.last.drops - then.drops
	if n > uint64(len(m.dropped)) {
		return true, true
	}
	for _, match := range m.dropped[uint64(len(m.dropped))-n:] {
		if match(e) {
			return true, true
		}
	}
	return false, m.last.doubts != then.doubts
}
