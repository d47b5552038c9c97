package engine

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/gate"
)

// A meter bounds how often a caller is given tokens by one rule. It implements broker.Meter.
type meter struct {
	broker.Rate
	mu sync.Mutex
	l  *rate.Limiter
	// at is when it was last asked: a limiter counts the time between twice where it goes back.
	at broker.Moment
}

// Take implements broker.Meter.
func (m *meter) Take(now broker.Moment) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at = max(m.at, now)
	return gate.Take(m.l, 1, m.at)
}

// Wait implements broker.Meter.
func (m *meter) Wait(now broker.Moment) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	lacks := 1 - m.l.TokensAt(time.Unix(0, int64(now)))
	return max(0, time.Duration(lacks*float64(m.Per)/float64(m.Times)))
}

// full reports whether nothing was taken lately, so that a new one would be the same.
func (m *meter) full(now broker.Moment) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.l.TokensAt(time.Unix(0, int64(now))) >= float64(m.l.Burst())
}

// meters are those of all callers. The zero value has none. Safe for concurrent use.
type meters struct {
	clock *broker.Clock
	mu    sync.Mutex
	all   map[measured]*meter
}

// measured is what a meter is of: also of a policy that is read again, as long as the rule has its name and its rate.
type measured struct {
	caller, rule string
	broker.Rate
}

// of is the meter of a caller by a rule; nil: nothing bounds it.
func (m *meters) of(caller *broker.Caller, by broker.Decision) broker.Meter {
	if by.Rate == (broker.Rate{}) {
		return nil
	}
	of := measured{caller.Identity, by.Rule, by.Rate}
	m.mu.Lock()
	defer m.mu.Unlock()
	is := m.all[of]
	if is == nil {
		m.tidy()
		is = &meter{Rate: by.Rate, l: rate.NewLimiter(rate.Every(by.Rate.Per/time.Duration(by.Rate.Times)), by.Rate.Times)}
		m.all[of] = is
	}
	return is
}

// tidy forgets those of which nothing is taken; the caller holds mu.
func (m *meters) tidy() {
	if m.all == nil {
		m.all = map[measured]*meter{}
	}
	if len(m.all) < callersMost {
		return
	}
	now := m.clock.Now().At
	for of, is := range m.all {
		if is.full(now) {
			delete(m.all, of)
		}
	}
	if len(m.all) >= callersMost {
		clear(m.all)
	}
}

// metered counts what a caller is given, once for each call, or fails with CallerLimited. taken is of which meter the call has taken one, before and after.
func (b *Broker) metered(by, taken broker.Meter, name broker.CredentialName, now broker.Instant) (broker.Meter, error) {
	if by == nil || by == taken {
		return taken, nil
	}
	if err := beyond(by, by.Take(now.At), now, name); err != nil {
		return taken, err
	}
	return by, nil
}

// within fails with CallerLimited where a caller has had as many as a decision lets them have, but for the one that this call has taken. It counts nothing.
func (b *Broker) within(caller *broker.Caller, decided broker.Decision, name broker.CredentialName, taken broker.Meter) error {
	by := b.meters.of(caller, decided)
	if by == nil || by == taken {
		return nil
	}
	now := b.clock.Now()
	return beyond(by, by.Wait(now.At), now, name)
}

func beyond(by broker.Meter, wait time.Duration, now broker.Instant, name broker.CredentialName) error {
	if wait <= 0 {
		return nil
	}
	return &broker.Failure{
		Kind: broker.CallerLimited, Credential: name, RetryAt: now.Wall.Add(wait),
		Detail: fmt.Sprintf("more tokens than %s, which is what the policy lets this caller have", by),
	}
}
