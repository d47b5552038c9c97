package audit

import (
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// What is told apart: whoever is denied for names that they make up fills no disk.
const (
	deniersMost = 1_000 // for each event: whoever comes without a name takes no place of those who have one
	denialsMost = 100   // of each
)

// who is denied something: a caller or, where nobody knows who it is, a host.
type who struct {
	event                    broker.AuditEvent
	identity, listener, host string
}

// what is denied.
type what struct {
	operation                    broker.Operation
	credential, provider, reason string
	outcome                      string
}

// A tally is how often something happened since it was written last.
type tally struct {
	n           int64
	first, last time.Time
}

func (t tally) with(now time.Time) tally {
	if t.n == 0 {
		t.first = now
	}
	return tally{n: t.n + 1, first: t.first, last: now}
}

type denier struct {
	// line says who it is.
	line line
	what map[what]tally
	// more is what is not told apart.
	more tally
}

// denials counts what is denied. The first time is no part of the count: it is a line by itself.
type denials struct {
	mu sync.Mutex
	by map[who]*denier
	// are is how many these are.
	are map[broker.AuditEvent]int
	// beyond is of all whom there is no room for.
	beyond map[broker.AuditEvent]tally
}

// first reports whether a denial is to be written now. Else it is counted.
func (d *denials) first(r broker.AuditRecord, now time.Time) bool {
	w := who{event: r.Event}
	host := ""
	if c := r.Caller; c != nil {
		w.identity, w.listener = short(c.Identity), short(c.Listener)
	} else {
		host = hostOf(r.Peer)
		w.listener, w.host = short(r.Listener), short(host)
	}
	var ends line
	ends.ends(r.Outcome)
	x := what{operation: r.Operation, credential: short(string(r.Credential)), provider: short(r.Provider), reason: ends.Reason, outcome: ends.Outcome}
	d.mu.Lock()
	defer d.mu.Unlock()
	by := d.by[w]
	if by == nil {
		if d.are[r.Event] >= deniersMost {
			d.beyond[r.Event] = d.beyond[r.Event].with(now)
			return false
		}
		by = &denier{what: map[what]tally{}}
		by.line = lineOf(broker.AuditRecord{Event: r.Event, Caller: r.Caller, Listener: r.Listener, Peer: host}, "", "", "")
		d.by[w] = by
		d.are[r.Event]++
	}
	t, counted := by.what[x]
	switch {
	case counted:
		by.what[x] = t.with(now)
	case len(by.what) >= denialsMost:
		by.more = by.more.with(now)
	default:
		by.what[x] = tally{}
		return true
	}
	return false
}

// hostOf is an address without its port, which is another one each time.
func hostOf(peer string) string {
	if host, _, err := net.SplitHostPort(peer); err == nil {
		return host
	}
	return peer
}

// all are who has been denied something.
func (d *denials) all() []who {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Collect(maps.Keys(d.by))
}

// take returns the lines of what was counted of somebody, and forgets what did not happen again.
func (d *denials) take(w who) []line {
	d.mu.Lock()
	defer d.mu.Unlock()
	by := d.by[w]
	if by == nil {
		return nil
	}
	var lines []line
	for x, t := range by.what {
		if t.n == 0 {
			delete(by.what, x)
			continue
		}
		is := by.line
		c := clipper{left: textsMost}
		is.Operation, is.Credential, is.Provider = broker.Operation(c.text(string(x.operation), wordMost)), c.text(x.credential, textMost), c.text(x.provider, textMost)
		is.Clipped = is.Clipped || c.clipped
		if is.Reason = x.reason; x.outcome != "" {
			is.Outcome = x.outcome
		}
		is.counts(t.n, t.first, t.last)
		lines = append(lines, is)
		by.what[x] = tally{}
	}
	if by.more.n > 0 {
		is := by.line
		is.counts(by.more.n, by.more.first, by.more.last)
		lines = append(lines, is)
		by.more = tally{}
	}
	if len(lines) == 0 {
		delete(d.by, w)
		d.are[w.event]--
	}
	return lines
}

// others returns the lines of those for whom there was no room.
func (d *denials) others() []line {
	d.mu.Lock()
	defer d.mu.Unlock()
	var lines []line
	for event, t := range d.beyond {
		is := lineOf(broker.AuditRecord{Event: event}, "", "", "")
		is.counts(t.n, t.first, t.last)
		lines = append(lines, is)
	}
	clear(d.beyond)
	return lines
}
