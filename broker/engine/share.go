package engine

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/gate"
)

// DefaultCallerRate is how many operations a second that cost something a caller may begin, as a rule.
const DefaultCallerRate = 1000

// rowsAtOnce is how many tokens of a credential are read for what another question to the store costs.
const rowsAtOnce = 4

// CallerRateMost bounds that: a limiter counts no further than to callerBurst times as many.
const CallerRateMost = 1_000_000

const (
	// callerBurst is how many seconds' worth of them may come at once: a caller that starts asks for all of its tokens.
	callerBurst = 10
	// callersMost bounds how many callers are told apart. Beyond it those are forgotten that have asked for little.
	callersMost = 10_000
)

// DefaultFlights is how many flights there are at a time, at most. One that waits for its upstream's turn takes some 70 KB.
const DefaultFlights = 4000

// shares are what each caller may have of what costs something: flights that it begins, changes, questions to the store. What is served from
// the process costs nothing, and whoever joins a flight asks for nothing new. Safe for concurrent use.
type shares struct {
	clock *broker.Clock
	rate  int
	most  int // flights

	mu     sync.Mutex
	all    map[string]*rate.Limiter // by identity
	flying int
	begun  map[portion]int // flights under way; none is zero
}

// itself is the broker as a caller, which refreshes what others ask for. It is authorized for nothing.
var itself = &broker.Caller{Identity: "the broker itself"}

// A portion is of one caller, and of one of its credentials; of all of them where name is empty.
type portion struct {
	caller string // its identity
	name   broker.CredentialName
}

// fly lets a caller begin a flight, which ends with land. A caller may hold as many as are free: half of all if it is alone. For one credential it may
// hold as many as are free beyond what it holds: a third of all. So a caller who has none finds room, and so does a credential that is well beside one
// whose upstream is slow. It fails with CallerLimited, or with UpstreamSlow where it is that credential alone. Whoever gives up leaves a flight behind.
func (s *shares) fly(caller *broker.Caller, name broker.CredentialName) (land func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all, one, free := portion{caller: caller.Identity}, portion{caller.Identity, name}, s.most-s.flying
	refused := func(kind broker.Kind, of portion, whose string) error {
		return &broker.Failure{
			Kind: kind, Credential: name, RetryAt: s.clock.Now().Wall.Add(retryFirst),
			Detail: fmt.Sprintf("%d different tokens are being fetched for %s, of %d at a time for all", s.begun[of], whose, s.most),
		}
	}
	switch {
	case s.begun[all] >= free:
		return nil, refused(broker.CallerLimited, all, "it")
	case s.begun[one] >= free-s.begun[all]:
		return nil, refused(broker.UpstreamSlow, one, "this credential")
	}
	if s.begun == nil {
		s.begun = map[portion]int{}
	}
	count := func(by int) {
		s.flying += by
		for _, of := range []portion{all, one} {
			if s.begun[of] += by; s.begun[of] == 0 {
				delete(s.begun, of)
			}
		}
	}
	count(1)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		count(-1)
	}, nil
}

// take takes one of a caller's, or fails with CallerLimited.
func (s *shares) take(caller *broker.Caller, name broker.CredentialName) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	l := s.all[caller.Identity]
	if l == nil {
		s.tidy()
		l = rate.NewLimiter(rate.Limit(s.rate), s.rate*callerBurst)
		s.all[caller.Identity] = l
	}
	wait := gate.Take(l, 1, now.At)
	if wait <= 0 {
		return nil
	}
	return &broker.Failure{
		Kind: broker.CallerLimited, Credential: name, RetryAt: now.Wall.Add(wait),
		Detail: fmt.Sprintf("more calls a second that the process alone cannot answer than %d (the setting limits.caller_rate)", s.rate),
	}
}

// owe takes what a call has cost beyond one, which is known when it is done: the caller may owe a second's worth.
func (s *shares) owe(caller *broker.Caller, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := time.Unix(0, int64(s.clock.Now().At))
	if l := s.all[caller.Identity]; l != nil && n > 0 && l.TokensAt(at) > -float64(s.rate) {
		l.ReserveN(at, min(n, s.rate))
	}
}

// tidy forgets callers that have their whole share; the caller holds mu.
func (s *shares) tidy() {
	if s.all == nil {
		s.all = map[string]*rate.Limiter{}
	}
	if len(s.all) < callersMost {
		return
	}
	now := time.Unix(0, int64(s.clock.Now().At))
	for caller, l := range s.all {
		if l.TokensAt(now) >= float64(l.Burst()) {
			delete(s.all, caller)
		}
	}
	if len(s.all) >= callersMost {
		clear(s.all)
	}
}
