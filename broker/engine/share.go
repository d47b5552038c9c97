package engine

import (
	"fmt"
	"sync"

	"golang.org/x/time/rate"

	"github.com/tokenbroker/tokenbroker/broker"
)

// DefaultCallerRate is how many operations a second that cost something a caller may begin, as a rule.
const DefaultCallerRate = 1000

// CallerRateMost bounds that: a limiter counts no further than to callerBurst times as many.
const CallerRateMost = 1_000_000

const (
	// callerBurst is how many seconds' worth of them may come at once: a caller that starts asks for all of its tokens.
	callerBurst = 10
	// callersMost bounds how many callers are told apart. Beyond it those are forgotten that have asked for little.
	callersMost = 10_000
)

// shares are what each caller may have of what costs something: flights that it begins, changes, questions to the store. What is served from
// the process costs nothing, and whoever joins a flight asks for nothing new. Safe for concurrent use.
type shares struct {
	clock *broker.Clock
	rate  int

	mu  sync.Mutex
	all map[broker.Caller]*rate.Limiter
}

// take takes one of a caller's, or fails with CallerLimited.
func (s *shares) take(caller broker.Caller, name broker.CredentialName) error {
	now := s.clock.Now().Wall
	s.mu.Lock()
	l := s.all[caller]
	if l == nil {
		s.tidy()
		l = rate.NewLimiter(rate.Limit(s.rate), s.rate*callerBurst)
		s.all[caller] = l
	}
	s.mu.Unlock()
	r := l.ReserveN(now, 1)
	wait := r.DelayFrom(now)
	if wait <= 0 {
		return nil
	}
	r.CancelAt(now)
	return &broker.Failure{
		Kind: broker.CallerLimited, Credential: name, RetryAt: now.Add(wait),
		Detail: fmt.Sprintf("more than %d calls a second that the process alone cannot answer (the setting limits.caller_rate)", s.rate),
	}
}

// tidy forgets callers that have their whole share; the caller holds mu.
func (s *shares) tidy() {
	if s.all == nil {
		s.all = map[broker.Caller]*rate.Limiter{}
	}
	if len(s.all) < callersMost {
		return
	}
	now := s.clock.Now().Wall
	for caller, l := range s.all {
		if l.TokensAt(now) >= float64(l.Burst()) {
			delete(s.all, caller)
		}
	}
	if len(s.all) >= callersMost {
		clear(s.all)
	}
}
