package upstreamsim

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// FaultKind is what goes wrong with a request.
type FaultKind string

// Faults. Those before the first blank line cut the connection, or wait; the others answer something else.
const (
	FaultLost     FaultKind = "lost"      // the connection is closed without an answer; with HTTP/2, the stream
	FaultReset    FaultKind = "reset"     // the TCP connection is reset, with all that is on it
	FaultHang     FaultKind = "hang"      // nothing until the fault is cleared, then as usual; a client that left changed nothing
	FaultSlowBody FaultKind = "slow_body" // the answer comes byte by byte, one every Interval

	FaultTooMany     FaultKind = "too_many_requests"      // 429, Retry-After in seconds
	FaultTooManyDate FaultKind = "too_many_requests_date" // 429, Retry-After as an HTTP date
	FaultServerError FaultKind = "server_error"           // 500
	FaultBadGateway  FaultKind = "bad_gateway"            // 502 with HTML, as from a proxy
	FaultErrorIn200  FaultKind = "error_in_200"           // 200 with an OAuth error
	FaultEmpty       FaultKind = "empty_200"              // 200 with nothing
	FaultGarbage     FaultKind = "garbage"                // 200 with bytes that are not what they claim to be
	FaultHuge        FaultKind = "huge_body"              // 200 with Size bytes
	FaultRedirect    FaultKind = "redirect"               // 307 to another host, where it is recorded who follows
	FaultOAuthError  FaultKind = "oauth_error"            // the OAuth error Code, as the system words errors
)

// Oddities: the request is served, but the answer is strange. The expiry that is stated differs from the true one in the way
// named; several oddities may apply to one answer.
const (
	OddExpiresMissing      FaultKind = "expires_missing"
	OddExpiresText         FaultKind = "expires_text"         // a JSON string
	OddExpiresMilliseconds FaultKind = "expires_milliseconds" // where seconds are documented
	OddExpiresFractional   FaultKind = "expires_fractional"   // half a second more
	OddExpiresNegative     FaultKind = "expires_negative"
	OddExpiresZero         FaultKind = "expires_zero"
	OddExpiresHuge         FaultKind = "expires_huge"  // more than 64 bits
	OddExpiresValue        FaultKind = "expires_value" // the JSON of Value
	OddExpiresAt           FaultKind = "expires_at"    // expires_at (Occtoo: expiresAt), RFC 3339, instead, by the answer's clock
	OddSameToken           FaultKind = "same_token"    // the same access token again until its last minute
	OddSkewedDate          FaultKind = "skewed_date"   // the answer's clock is ahead by Skew, or behind if that is negative
)

var failures = []FaultKind{
	FaultLost, FaultReset, FaultHang, FaultSlowBody, FaultTooMany, FaultTooManyDate, FaultServerError, FaultBadGateway,
	FaultErrorIn200, FaultEmpty, FaultGarbage, FaultHuge, FaultRedirect, FaultOAuthError,
}

var oddities = []FaultKind{
	OddExpiresMissing, OddExpiresText, OddExpiresMilliseconds, OddExpiresFractional, OddExpiresNegative, OddExpiresZero,
	OddExpiresHuge, OddExpiresValue, OddExpiresAt, OddSameToken, OddSkewedDate,
}

// FaultKinds returns every kind, faults first, then oddities. The slice is the caller's.
func FaultKinds() []FaultKind { return slices.Concat(failures, oddities) }

// Fault says what happens to which requests. Of several faults that match a request, the one that was added first happens;
// of oddities, all.
type Fault struct {
	Kind     FaultKind
	System   System    // empty: any
	Account  AccountID // empty: any of System
	Endpoint Endpoint  // empty: the endpoints that hand out tokens
	Count    int       // so many requests; 0: until cleared

	// After lets the request take effect first: the refresh token is rotated, the login counted, and then the answer goes
	// wrong. It has no meaning for FaultSlowBody and for oddities, which are always so.
	After bool

	RetryAfter time.Duration // FaultTooMany, FaultTooManyDate; 0: 30 s, less than 0: no such header
	Code       string        // FaultOAuthError: needed; FaultErrorIn200: default server_error
	Interval   time.Duration // FaultSlowBody; 0: 100 ms
	Size       int64         // FaultHuge; 0: 100 MB
	Skew       time.Duration // OddSkewedDate: needed
	Value      string        // OddExpiresValue: needed
}

// fault is a Fault that was added; guarded by Sim.mu but for released.
type fault struct {
	Fault
	left     int // requests it still applies to; negative: no limit
	released chan struct{}
}

// AddFault injects a fault. The returned function clears it and lets go on what hangs by it; it may be called more than once.
// AddFault fails on a fault that could never happen, or that lacks a field its kind needs.
func (s *Sim) AddFault(f Fault) (clear func(), err error) {
	if err := f.normalize(); err != nil {
		return nil, err
	}
	added := &fault{Fault: f, left: f.Count, released: make(chan struct{})}
	if f.Count == 0 {
		added.left = -1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.Account != "" {
		a, err := s.find(f.Account)
		if err != nil {
			return nil, err
		}
		if f.System != "" && f.System != a.system {
			return nil, fmt.Errorf("account %q is not of system %q", f.Account, f.System)
		}
	}
	s.faults = append(s.faults, added)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.removeFault(added)
	}, nil
}

// ClearFaults clears every fault and oddity and lets go on what hangs. Gates and systems that are down stay as they are.
func (s *Sim) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.faults) > 0 {
		s.removeFault(s.faults[0])
	}
}

func (s *Sim) removeFault(f *fault) {
	if i := slices.Index(s.faults, f); i >= 0 {
		s.faults = slices.Delete(s.faults, i, i+1)
		close(f.released)
	}
}

// normalize checks the fault and fills in its defaults.
func (f *Fault) normalize() error {
	switch {
	case !slices.Contains(failures, f.Kind) && !slices.Contains(oddities, f.Kind):
		return fmt.Errorf("fault kind %q is unknown", f.Kind)
	case f.System != "" && !f.System.known():
		return fmt.Errorf("system %q is not simulated", f.System)
	case f.Count < 0 || f.Interval < 0 || f.Size < 0:
		return fmt.Errorf("fault %s: negative count, interval or size", f.Kind)
	case f.Kind == FaultOAuthError && f.Code == "":
		return fmt.Errorf("fault %s: no code", f.Kind)
	case f.Kind == OddSkewedDate && f.Skew == 0:
		return fmt.Errorf("fault %s: no skew", f.Kind)
	case f.Kind == OddExpiresValue && !json.Valid([]byte(f.Value)):
		return fmt.Errorf("fault %s: value is not JSON", f.Kind)
	case f.System == DocuWareCookie && slices.Contains(oddities, f.Kind) && f.Kind != OddSkewedDate && f.Kind != OddSameToken:
		return fmt.Errorf("fault %s: %s states no expiry", f.Kind, f.System)
	}
	if f.RetryAfter == 0 {
		f.RetryAfter = 30 * time.Second
	}
	if f.Code == "" {
		f.Code = "server_error"
	}
	if f.Interval == 0 {
		f.Interval = 100 * time.Millisecond
	}
	if f.Size == 0 {
		f.Size = 100 << 20
	}
	return nil
}

// applies reports whether the fault is for the request; s.mu is held.
func (f *fault) applies(x *exchange) bool {
	switch {
	case f.left == 0, f.System != "" && f.System != x.system, f.Account != "" && (x.account == nil || x.account.id != f.Account):
		return false
	case f.Endpoint == EndpointAny:
		return true
	case f.Endpoint == "":
		return x.endpoint.issues()
	}
	return f.Endpoint == x.endpoint
}

// takeFaults uses up the faults that apply to the request, and returns the one that fails it, if any; s.mu is held. Oddities
// are not used up by a request that gets no answer of its own.
func (s *Sim) takeFaults(x *exchange) *fault {
	var failure *fault
	take := func(f *fault) {
		f.left--
		x.count(func(c *counters) { c.faults[f.Kind]++ })
		x.record(Event{Kind: KindFault, Detail: string(f.Kind)})
	}
	for _, f := range s.faults {
		if failure == nil && slices.Contains(failures, f.Kind) && f.applies(x) {
			take(f)
			failure = f
		}
	}
	defer func() {
		// What hangs needs its fault until that is cleared; the others have nothing left to do.
		s.faults = slices.DeleteFunc(s.faults, func(f *fault) bool { return f.left == 0 && f.Kind != FaultHang })
	}()
	if failure != nil && !failure.After && failure.Kind != FaultHang && failure.Kind != FaultSlowBody {
		return failure
	}
	for _, f := range s.faults {
		if slices.Contains(oddities, f.Kind) && f.applies(x) {
			take(f)
			x.oddities = append(x.oddities, f)
		}
	}
	return failure
}

func (x *exchange) odd(kind FaultKind) bool {
	return slices.ContainsFunc(x.oddities, func(f *fault) bool { return f.Kind == kind })
}

func (x *exchange) oddValue(kind FaultKind) string {
	for _, f := range x.oddities {
		if f.Kind == kind {
			return f.Value
		}
	}
	return ""
}
