package broker

import (
	"sync/atomic"
	"time"
)

// memoSlots is a power of two: what is remembered of one caller. Two things in one slot displace each other, and are decided again.
const memoSlots = 256

// A Memo is what a caller was allowed lately. The zero value is empty. It takes memory once something is remembered, 2 KiB. Safe for concurrent use,
// without a lock: all calls of a connection look here.
type Memo struct {
	slots atomic.Pointer[[memoSlots]atomic.Pointer[Admission]]
}

// An Admission is that a caller was allowed something. Immutable.
type Admission struct {
	Operation Operation
	// Serial is of what was allowed, as whoever remembers it counts, and Generation the authorizer's.
	Serial, Generation uint64
	// Uses counts how often it is used, and Meter bounds that; nil: nothing does.
	Uses  *Uses
	Meter Meter
}

// A Meter bounds how often a caller is given something. Safe for concurrent use.
type Meter interface {
	// Take counts one, or says in how long there is one again.
	Take(now Moment) (wait time.Duration)
	// Wait is what Take would say, and counts nothing.
	Wait(now Moment) time.Duration
	// String says how often.
	String() string
}

func (a Admission) slot() uint64 { return a.Serial % memoSlots }

// Admitted is what is remembered, if it is that; nil: it is not. Whoever relies on it counts it.
func (m *Memo) Admitted(a Admission) *Admission {
	slots := m.slots.Load()
	if slots == nil {
		return nil
	}
	was := slots[a.slot()].Load()
	if was == nil || was.Serial != a.Serial || was.Generation != a.Generation || was.Operation != a.Operation {
		return nil
	}
	return was
}

// Admit remembers it.
func (m *Memo) Admit(a Admission) {
	slots := m.slots.Load()
	if slots == nil {
		slots = &[memoSlots]atomic.Pointer[Admission]{}
		if !m.slots.CompareAndSwap(nil, slots) {
			slots = m.slots.Load()
		}
	}
	slots[a.slot()].Store(&a)
}
