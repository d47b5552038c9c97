package engine

import (
	"context"
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
	// ExpireTime of the token that was had.
	ExpireTime time.Time
}

// TestCredential makes one real exchange, under the usual lease, whatever is remembered of the upstream. A rotated refresh token is always
// kept; the access token only with keep. Whoever asks for the same test while it is made shares it, and for five seconds where it failed, unless
// the credential or its definition has changed since. A failure of the exchange is a result; other failures are errors: UpstreamRateLimited where
// several other tests of the credential have just failed.
func (b *Broker) TestCredential(ctx context.Context, caller broker.Caller, name broker.CredentialName, sel broker.Selection, keep bool) (Trial, error) {
	return allowed(b, caller, broker.TestCredential, name, func() (t Trial, err error) {
		c, err := b.stored(ctx, name)
		if err != nil {
			return t, err
		}
		of := tested{etag: c.Etag}
		if d, err := b.upstream.Definition(c.Provider); err == nil {
			of.digest = d.Facts().Digest
		}
		if found, ok := b.trials.last(b.clock.Now().Wall, name, of, sel); ok {
			return found, nil
		}
		may := func() error { return b.trials.begin(b.clock.Now().Wall, c, of) }
		f, _, err := b.join(flightKey{lookup{name, sel}, trial{on: true, keep: keep}}, need{force: true}, may)
		if err != nil {
			return t, err
		}
		select {
		case <-f.done:
		case <-ctx.Done():
			return t, b.gaveUp(name, ctx.Err())
		}
		if found := f.value; found.failure != nil && len(found.attempts) == 0 {
			return t, found.failure
		}
		return f.value.trial(), nil
	}, sel.Scopes)
}

// trial is what a test has found.
func (o outcome) trial() Trial {
	t := Trial{Attempts: o.attempts, Failure: o.failure}
	if o.entry != nil {
		t.ExpireTime = o.entry.issued.ExpireAt
	}
	return t
}

const (
	// failedFor is how long what a failed test has found is the answer to the same test.
	failedFor = 5 * time.Second
	// testsMost bounds the tests of one credential that run, or have failed within failedFor.
	testsMost = 5
	// testedMost bounds how many credentials are remembered.
	testedMost = 10_000
)

// trials are the tests that run or have just failed: a test asks whatever is remembered of an upstream, so this alone keeps callers who test again
// and again from asking one that fails without end. Safe for concurrent use.
type trials struct {
	mu  sync.Mutex
	all map[broker.CredentialName]tests
}

// tested is what a test is of, a credential and a definition as they are: when it changes, what was found says nothing.
type tested struct {
	etag   broker.ID
	digest string
}

// tests are those of one credential.
type tests struct {
	of      tested
	running int
	failed  []failedTest // the newest last
}

// A failedTest is what one has found, and until when that is the answer.
type failedTest struct {
	sel   broker.Selection
	found Trial
	until time.Time
}

// last is what the same test has found just now, if it failed.
func (t *trials) last(now time.Time, name broker.CredentialName, of tested, sel broker.Selection) (Trial, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if there := t.all[name]; there.of == of {
		for _, f := range there.failed {
			if f.sel == sel && now.Before(f.until) {
				return f.found, true
			}
		}
	}
	return Trial{}, false
}

// begin counts a test that begins, until end. It fails with UpstreamRateLimited where too many have just failed.
func (t *trials) begin(now time.Time, c broker.Credential, of tested) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	there := t.all[c.Name]
	if there.of != of { // those of what was there before that still run find what nobody asks for
		there = tests{of: of, running: there.running}
	}
	there.failed = slices.DeleteFunc(slices.Clone(there.failed), func(f failedTest) bool { return !now.Before(f.until) })
	if there.running+len(there.failed) >= testsMost {
		again := now.Add(backoffFirst)
		if len(there.failed) > 0 {
			again = there.failed[0].until
		}
		return &broker.Failure{
			Kind: broker.UpstreamRateLimited, Credential: c.Name, Provider: c.Provider, RetryAt: again,
			Detail: "other tests of this credential run, or have just failed",
		}
	}
	there.running++
	if t.all == nil {
		t.all = map[broker.CredentialName]tests{}
	}
	t.tidy(now)
	t.all[c.Name] = there
	return nil
}

// end notes what a test has found.
func (t *trials) end(now time.Time, key lookup, o outcome) {
	t.mu.Lock()
	defer t.mu.Unlock()
	there, ok := t.all[key.name]
	if !ok {
		return
	}
	there.running = max(there.running-1, 0)
	if o.failure != nil && len(o.attempts) > 0 {
		there.failed = append(there.failed, failedTest{key.sel, o.trial(), now.Add(failedFor)})
	}
	if t.all[key.name] = there; there.running == 0 && len(there.failed) == 0 {
		delete(t.all, key.name)
	}
}

// tidy forgets credentials of which no test runs and none has just failed, where they are many; the caller holds mu.
func (t *trials) tidy(now time.Time) {
	if len(t.all) < testedMost {
		return
	}
	for name, of := range t.all {
		if of.running == 0 && !now.Before(of.failed[len(of.failed)-1].until) {
			delete(t.all, name)
		}
	}
}
