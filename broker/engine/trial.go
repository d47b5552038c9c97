package engine

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A Trial is what TestCredential found.
type Trial struct {
	Attempts []broker.Attempt
	// Failure is why it did not work; nil: it did.
	Failure *broker.Failure
	// ExpireTime of the token that was had. Former: with the former secrets, because the upstream refused the new ones.
	ExpireTime time.Time
	Former     bool
}

// A trial is a test of a credential; the zero value is none.
type trial struct {
	on bool
	// keep: the access token is kept.
	keep bool
	// of is what is tested.
	of tested
}

// TestCredential makes one real exchange, under the usual lease, whatever is remembered of the upstream. A rotated refresh token is always
// kept; the access token only with keep. Whoever asks for the same test while it is made shares it, and for five seconds where it failed, unless
// the credential or its definition has changed since. A failure of the exchange is a result; other failures are errors: UpstreamRateLimited where
// several other tests of the credential have just failed.
func (b *Broker) TestCredential(ctx context.Context, caller *broker.Caller, name broker.CredentialName, sel broker.Selection, keep bool) (Trial, error) {
	return allowed(ctx, b, caller, broker.TestCredential, name, func(may permit) (t Trial, err error) {
		c, err := b.stored(ctx, name)
		if err == nil {
			err = may.on(c)
		}
		if err != nil {
			return t, err
		}
		of := tested{etag: c.Etag}
		if d, err := b.upstream.Definition(c.Provider); err == nil {
			of.digest = d.Facts().Digest
		}
		key := flightKey{lookup{name, sel}, trial{on: true, keep: keep, of: of}}
		if found, ok := b.trials.last(b.clock.Now().At, key); ok {
			return found, nil
		}
		audited, err := may.intend(ctx, broker.AuditTested, c, nil)
		if err != nil {
			return t, err
		}
		defer func() {
			why := err
			if why == nil && t.Failure != nil {
				why = t.Failure
			}
			audited(0, why)
		}()
		f, mine, err := b.join(ctx, key, need{force: true}, caller, func() error { return b.trials.begin(b.clock.Now(), c, key) })
		if err != nil {
			return t, err
		}
		if err := f.wait(ctx); err != nil {
			return t, b.gaveUp(name, err)
		}
		if found := f.value; found.failure != nil && len(found.attempts) == 0 {
			return t, found.failure
		}
		if mine && f.value.failure != nil {
			b.logFailure(ctx, slog.LevelInfo, "the test of a credential failed", f.value, slog.String("caller", caller.String()))
		}
		return f.value.trial(), nil
	})
}

// trial is what a test has found.
func (o outcome) trial() Trial {
	t := Trial{Attempts: o.attempts, Failure: o.failure, Former: o.former && o.failure == nil}
	if o.entry != nil {
		t.ExpireTime = o.entry.issued.ExpireAt
	}
	return t
}

const (
	// failedFor is how long what a failed test has found is the answer to the same test.
	failedFor = 5 * time.Second
	// testsMost bounds the tests of what was chosen of one credential that run, or have failed within failedFor. The one of nothing chosen is
	// the operator's, and made whatever others test.
	testsMost = 5
	// testedMost bounds how many credentials are remembered.
	testedMost = 10_000
)

// trials are the tests that run or have just failed: a test asks whatever is remembered of an upstream, so this alone keeps callers who test again
// and again from asking one that fails without end. Safe for concurrent use.
type trials struct {
	mu  sync.Mutex
	all map[broker.CredentialName][]begun // of one credential, in the order in which they were begun
}

// tested is what a test is of, a credential and a definition as they are: when it changes, what was found says nothing.
type tested struct {
	etag   broker.ID
	digest string
}

// begun is a test that runs, or has failed.
type begun struct {
	key flightKey
	// found is what it has found, and until when that is the answer; nil: it runs.
	found *Trial
	until broker.Moment
}

// over reports whether a test is neither running nor remembered any more, for one that tests a thing as it is now.
func (t begun) over(now broker.Moment) bool { return t.found != nil && now >= t.until }

// last is what the same test has found just now, if it failed.
func (t *trials) last(now broker.Moment, key flightKey) (Trial, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, there := range t.all[key.name] {
		if there.key.sel == key.sel && there.key.trial.of == key.trial.of && there.found != nil && !there.over(now) {
			return *there.found, true
		}
	}
	return Trial{}, false
}

// begin counts a test that begins, until end. It fails with UpstreamRateLimited where too many have just failed.
func (t *trials) begin(now broker.Instant, c broker.Credential, key flightKey) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	there := slices.DeleteFunc(slices.Clone(t.all[c.Name]), func(b begun) bool {
		return b.over(now.At) || b.found != nil && b.key.trial.of != key.trial.of
	})
	chosen, again := 0, retryFirst
	for _, b := range there {
		if b.key.sel == (broker.Selection{}) {
			continue
		}
		if chosen++; chosen == 1 && b.found != nil {
			again = b.until.Sub(now.At)
		}
	}
	if key.sel != (broker.Selection{}) && chosen >= testsMost {
		return &broker.Failure{
			Kind: broker.UpstreamRateLimited, Credential: c.Name, Provider: c.Provider, RetryAt: now.Wall.Add(again),
			Detail: "other tests of this credential run, or have just failed",
		}
	}
	if t.all == nil {
		t.all = map[broker.CredentialName][]begun{}
	}
	t.tidy(now.At)
	t.all[c.Name] = append(there, begun{key: key})
	return nil
}

// end notes what a test has found.
func (t *trials) end(now broker.Moment, key flightKey, o outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	there := slices.Clone(t.all[key.name])
	i := slices.IndexFunc(there, func(b begun) bool { return b.key == key && b.found == nil })
	if i < 0 {
		return
	}
	if o.failure != nil && len(o.attempts) > 0 {
		found := o.trial()
		there[i].found, there[i].until = &found, now.Add(failedFor)
	} else {
		there = slices.Delete(there, i, i+1)
	}
	if t.all[key.name] = there; len(there) == 0 {
		delete(t.all, key.name)
	}
}

// tidy forgets credentials of which no test runs and none has just failed, where they are many; the caller holds mu.
func (t *trials) tidy(now broker.Moment) {
	if len(t.all) < testedMost {
		return
	}
	maps.DeleteFunc(t.all, func(_ broker.CredentialName, all []begun) bool {
		return !slices.ContainsFunc(all, func(b begun) bool { return !b.over(now) })
	})
}
