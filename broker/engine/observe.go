package engine

import (
	"context"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// An Observer counts what the broker does. Safe for concurrent use. A provider is the name of a definition; empty: none is concerned, or it
// is not known.
type Observer interface {
	// Hits returns what is called on every hit of a provider's token, which was served from the process: it must cost no more than an
	// addition.
	Hits(provider string) func()
	// Miss: a token was not served from the process.
	Miss(provider string)
	// Degraded: a token was served although something is not well with its supply.
	Degraded(provider string)
	// Waiting: so many more callers wait for a flight (fewer, if negative).
	Waiting(delta int)
	// Exchanged: a run of a provider's definition ended; failure is nil when it went well.
	Exchanged(provider string, run broker.Run, failure *broker.Kind, took time.Duration)
	// Failed: an operation of the broker failed.
	Failed(op broker.Operation, provider string, kind broker.Kind)
}

type unobserved struct{}

func (unobserved) Hits(string) func()                                        { return func() {} }
func (unobserved) Miss(string)                                               {}
func (unobserved) Degraded(string)                                           {}
func (unobserved) Waiting(int)                                               {}
func (unobserved) Exchanged(string, broker.Run, *broker.Kind, time.Duration) {}
func (unobserved) Failed(broker.Operation, string, broker.Kind)              {}

// Supplied is the supply of a provider's tokens, as this process has it.
type Supplied struct {
	// Tokens are those that are held, Failing those of them whose refresh fails, of which the first ends at FailingUntil; zero: there is none.
	Tokens, Failing int
	FailingUntil    time.Time
	// UpstreamsFailing are the places that fail.
	UpstreamsFailing int
}

// Supplies are how the tokens of each provider are doing. It asks nobody.
func (b *Broker) Supplies() map[string]Supplied {
	all, now := map[string]Supplied{}, b.clock.Now()
	b.cache.each(func(l *line) {
		for _, at := range l.slots {
			e := at.entry.Load()
			if e.ended(now) || e.dropped.Load() {
				continue
			}
			s := all[e.facts.Name]
			s.Tokens++
			if e.trouble.Load() != nil {
				s.Failing++
				if s.FailingUntil.IsZero() || e.issued.ExpireAt.Before(s.FailingUntil) {
					s.FailingUntil = e.issued.ExpireAt
				}
			}
			all[e.facts.Name] = s
		}
	})
	b.gates.Failing(func(upstream string) {
		provider, _, _ := strings.Cut(upstream, "@")
		s := all[provider]
		s.UpstreamsFailing++
		all[provider] = s
	})
	return all
}

// Counted is what credentials are counted by.
type Counted struct {
	Provider string
	State    State
}

// countAtOnce is how many credentials are counted for one question to the store, which reads all their tokens: it keeps others waiting for as long.
const countAtOnce = 20

// Count counts the credentials. It fails with StoreUnavailable.
func (b *Broker) Count(ctx context.Context) (map[Counted]int, error) {
	all, after := map[Counted]int{}, broker.CredentialName("")
	for {
		page, err := b.store.Credentials(ctx, after, countAtOnce)
		if err != nil {
			return nil, b.storeFailure("", err)
		}
		if len(page) == 0 {
			return all, nil
		}
		names := make([]broker.CredentialName, len(page))
		for i, c := range page {
			names[i] = c.Name
		}
		statuses, err := b.store.Statuses(ctx, names)
		if err != nil {
			return nil, b.storeFailure("", err)
		}
		now := b.clock.Now().Wall
		for _, s := range statuses {
			if s.Err == nil {
				all[Counted{s.Credential.Provider, b.report(s, now).State}]++
			}
		}
		if len(page) < countAtOnce {
			return all, nil
		}
		after = names[len(names)-1]
	}
}
