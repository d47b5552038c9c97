package audit

import (
	"sync/atomic"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// An entry is a line on its way to the sinks.
type entry struct {
	data  []byte // with its end
	at    time.Time
	event broker.AuditEvent
	// grave lines are of what was denied, or failed.
	grave bool
	seq   uint64
	// first: it may take the room that others may not, and is synced at once.
	first bool

	// open is how many sinks have yet to write or lose it. lost is called where none has written it.
	open    atomic.Int32
	refused atomic.Int32
	sinks   int32
	written atomic.Bool
	lost    func()
	// acked is closed when a sink has it for good, hopeless when all of them have tried in vain, for so long that nobody should wait. Nil: nobody waits.
	acked, hopeless chan struct{}
}

func (e *entry) ack() {
	if e.written.CompareAndSwap(false, true) && e.acked != nil {
		close(e.acked)
	}
	e.open.Add(-1)
}

func (e *entry) drop() {
	if e.open.Add(-1) == 0 && !e.written.Load() && e.lost != nil {
		e.lost()
	}
}

// refuse is called once by each sink at most.
func (e *entry) refuse() {
	if e.refused.Add(1) == e.sinks && e.hopeless != nil {
		close(e.hopeless)
	}
}

// gone reports whether no sink has it, nor will have it.
func (e *entry) gone() bool { return e.open.Load() == 0 && !e.written.Load() }
