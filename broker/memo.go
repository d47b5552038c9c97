package broker

import "sync"

// memoMost bounds what is remembered of one caller. Beyond it everything is forgotten, and found out again.
const memoMost = 512

// A Memo is which tokens a caller was allowed lately. The zero value is empty. Safe for concurrent use.
type Memo struct {
	mu  sync.RWMutex
	all map[memoKey]Admission
}

type memoKey struct {
	op  Operation
	of  CredentialName
	sel Selection
}

// An Admission is that a caller was allowed something.
type Admission struct {
	// Generation is the authorizer's, and Serial of what it was allowed, as whoever remembers it counts.
	Generation, Serial uint64
}

// Admitted reports whether that is what is remembered.
func (m *Memo) Admitted(op Operation, of CredentialName, sel Selection, is Admission) bool {
	m.mu.RLock()
	was, ok := m.all[memoKey{op, of, sel}]
	m.mu.RUnlock()
	return ok && was == is
}

// Admit remembers it.
func (m *Memo) Admit(op Operation, of CredentialName, sel Selection, is Admission) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all == nil || len(m.all) >= memoMost {
		m.all = map[memoKey]Admission{}
	}
	m.all[memoKey{op, of, sel}] = is
}
