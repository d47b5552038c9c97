package upstreamsim

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Kind says what an [Event] reports.
type Kind string

// The kinds of events. The ones from KindIssued to KindLost are about refresh tokens, and make up the ledger.
const (
	KindArrived  Kind = "arrived"  // a request to a system arrived
	KindRefused  Kind = "refused"  // and was refused; Reason says why
	KindFault    Kind = "fault"    // and met an injected fault; Detail is its kind
	KindFollowed Kind = "followed" // an injected redirect was followed
	KindAccess   Kind = "access"   // an access token or cookie was issued
	KindAccepted Kind = "accepted" // the API endpoint accepted one
	KindEnded    Kind = "ended"    // access tokens were ended: Detail says by what
	KindLocked   Kind = "locked"   // a user was locked out
	KindChanged  Kind = "changed"  // an account was changed: Detail says how
	KindDown     Kind = "down"
	KindUp       Kind = "up"

	KindIssued    Kind = "issued"    // a refresh token was made
	KindPresented Kind = "presented" // one came in; without Family: an unknown one
	KindSpent     Kind = "spent"     // it was used up by that
	KindReused    Kind = "reused"    // a spent one came in again, and no grace interval excuses it
	KindRevoked   Kind = "revoked"   // it ended without being spent
	KindDelivered Kind = "delivered" // the answer that bore it was handed to the connection
	KindLost      Kind = "lost"      // the answer that bore it went nowhere
)

func (k Kind) aboutRefreshToken() bool {
	switch k {
	case KindIssued, KindPresented, KindSpent, KindReused, KindRevoked, KindDelivered, KindLost:
		return true
	}
	return false
}

// Event is something that happened. It holds no secret and no token: a refresh token is named by its family, counted from 1
// in each account, and its number, counted from 1 in each family. Zero values mean that a field does not apply.
type Event struct {
	Sequence int64     `json:"sequence"` // the order of events in this Sim, from 1
	Time     time.Time `json:"time"`     // by Options.Now
	Kind     Kind      `json:"kind"`
	System   System    `json:"system,omitempty"`
	Account  AccountID `json:"account,omitempty"`
	Endpoint Endpoint  `json:"endpoint,omitempty"`
	Request  int64     `json:"request,omitempty"` // counted from 1 in this Sim
	Family   int       `json:"family,omitempty"`
	Token    int       `json:"token,omitempty"`
	Scope    string    `json:"scope,omitempty"` // KindIssued, KindAccess: sorted, joined by spaces
	Reason   Reason    `json:"reason,omitempty"`
	Detail   string    `json:"detail,omitempty"`
}

// String is one line for people: kind, account or system, and what else applies.
func (e Event) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-9s", e.Kind)
	add := func(format string, value any) { fmt.Fprintf(&b, " "+format, value) }
	if e.Account != "" {
		add("%s", e.Account)
	} else if e.System != "" {
		add("%s", e.System)
	}
	if e.Endpoint != "" {
		add("%s", e.Endpoint)
	}
	if e.Request != 0 {
		add("request=%d", e.Request)
	}
	if e.Family != 0 {
		add("family=%d", e.Family)
	}
	if e.Token != 0 {
		add("token=%d", e.Token)
	}
	if e.Scope != "" {
		add("scope=%q", e.Scope)
	}
	if e.Reason != "" {
		add("reason=%s", e.Reason)
	}
	if e.Detail != "" {
		add("(%s)", e.Detail)
	}
	return b.String()
}

// record numbers an event, files it in its account's ledger and queues it for OnEvent; s.mu is held. emit must follow once
// it is not.
func (s *Sim) record(e Event) {
	s.sequence++
	e.Sequence, e.Time = s.sequence, s.now()
	if a := s.byID[e.Account]; a != nil && e.Kind.aboutRefreshToken() {
		a.ledger = append(a.ledger, e)
	}
	if s.opts.OnEvent != nil {
		s.queue = append(s.queue, e)
	}
}

// emit gives the queued events to OnEvent; s.mu is not held. If another goroutine is at it, that one takes ours along, so
// that a callback that causes events does not wait for itself.
func (s *Sim) emit() {
	if s.opts.OnEvent == nil {
		return
	}
	for s.emitting.TryLock() {
		s.mu.Lock()
		batch := s.queue
		s.queue = nil
		s.mu.Unlock()
		for _, e := range batch {
			s.opts.OnEvent(e)
		}
		s.emitting.Unlock()

		// Look again: an event may have been queued while the lock was held by us, its emit having found it taken.
		s.mu.Lock()
		empty := len(s.queue) == 0
		s.mu.Unlock()
		if empty {
			return
		}
	}
}

// Ledger returns what happened to the refresh tokens of an account, in order; nothing for an unknown account. The slice is
// the caller's and does not change.
func (s *Sim) Ledger(id AccountID) []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.byID[id]; a != nil {
		return slices.Clone(a.ledger)
	}
	return nil
}

// systemLedger is the ledgers of all accounts of a system (empty: of all systems) as one, in order.
func (s *Sim) systemLedger(system System) []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	events := []Event{}
	for _, a := range s.accounts {
		if system == "" || a.system == system {
			events = append(events, a.ledger...)
		}
	}
	slices.SortFunc(events, func(a, b Event) int { return int(a.Sequence - b.Sequence) })
	return events
}
