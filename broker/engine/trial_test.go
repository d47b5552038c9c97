package engine_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// test makes a test of "main" with such a scope; empty: without.
func (w *world) test(scope string) (engine.Trial, error) {
	w.t.Helper()
	var r engine.Request
	if scope != "" {
		scopes(w.t, scope)(&r)
	}
	return w.TestCredential(w.t.Context(), local, "main", r.Selection, false)
}

// failingTests is a world whose upstream is down.
func failingTests(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
		return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Status: 503}
	}})
	w.create("main", map[string]string{"client_secret": "wrong"})
	return w
}

func wantFailed(t *testing.T, trial engine.Trial, err error) {
	t.Helper()
	if err != nil || trial.Failure == nil || len(trial.Attempts) != 1 {
		t.Fatalf("got %+v, %v, want a failed test", trial, err)
	}
}

// TestAFailingUpstreamIsNotHammeredByTests: what failed just now is what the next test is told; it is asked again after a while.
func TestAFailingUpstreamIsNotHammeredByTests(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := failingTests(t)
		for range 1000 {
			trial, err := w.test("")
			wantFailed(t, trial, err)
			sleep(10 * time.Millisecond)
		}
		w.wantExchanges(2)
		sleep(5 * time.Second)
		w.up.script(issues(time.Hour))
		for i := range 10 { // what works is tested as often as one likes
			if trial, err := w.test(""); err != nil || trial.Failure != nil {
				t.Fatalf("test %d: got %+v, %v", i, trial, err)
			}
		}
	})
}

// TestATestIsFreeOnceWhatItTestsHasChanged: whoever mends a secret or a definition sees at once whether it works now.
func TestATestIsFreeOnceWhatItTestsHasChanged(t *testing.T) {
	for how, mend := range map[string]func(*world){
		"the secret": func(w *world) {
			w.update("main", func(d *engine.Draft) { d.Secrets = secretMap(map[string]string{"client_secret": "right"}) })
		},
		"the definition": func(w *world) {
			w.up.facts.Digest = "digest-2"
			w.up.revision.Add(1)
		},
	} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := failingTests(t)
				trial, err := w.test("")
				wantFailed(t, trial, err)
				mend(w)
				w.up.script(issues(time.Hour))
				if trial, err = w.test(""); err != nil || trial.Failure != nil {
					t.Errorf("got %+v, %v, want it tested", trial, err)
				}
			})
		})
	}
}

// TestTestsOfManySelectionsAreBoundedToo: a few may fail, and then the next is told when it may be made.
func TestTestsOfManySelectionsAreBoundedToo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := failingTests(t)
		for i := range 5 {
			trial, err := w.test(fmt.Sprint("s-", i))
			wantFailed(t, trial, err)
		}
		for i := range 100 {
			_, err := w.test(fmt.Sprint("t-", i))
			f := wantKind(t, err, broker.UpstreamRateLimited)
			if d := time.Until(f.RetryAt); d <= 0 || d > 5*time.Second {
				t.Errorf("got a retry in %v, want within five seconds", d)
			}
		}
		w.wantExchanges(5)
		sleep(5 * time.Second)
		trial, err := w.test("t-0")
		wantFailed(t, trial, err)
		for _, r := range together(100, func(i int) (string, error) { _, err := w.test(fmt.Sprint("u-", i)); return "", err }) {
			if r.err != nil {
				wantKind(t, r.err, broker.UpstreamRateLimited)
			}
		}
		w.wantExchanges(10)
	})
}

// TestATestOfTheFormerSecretSaysNothingOfTheNewOne: it was begun before, and ends after.
func TestATestOfTheFormerSecretSaysNothingOfTheNewOne(t *testing.T) {
	for how, ends := range map[string]time.Duration{"it runs still": 0, "it has ended": 3 * time.Second} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				up := &upstream{answer: func(_ context.Context, x broker.Exchange) (broker.Answer, error) {
					sleep(3 * time.Second)
					if x.Credential.Secrets["client_secret"].Value.Reveal() == "wrong" {
						return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelCredential, Code: "invalid_client", Status: 401}
					}
					return token("t", time.Hour), nil
				}}
				w := newWorld(t, up)
				w.create("main", map[string]string{"client_secret": "wrong"})
				go func() { _, _ = w.test("") }()
				sleep(time.Second)
				w.update("main", func(d *engine.Draft) { d.Secrets = secretMap(map[string]string{"client_secret": "right"}) })
				go func() { _, _ = w.test("x") }() // of what is there now
				sleep(ends)
				if trial, err := w.test(""); err != nil || trial.Failure != nil {
					t.Errorf("got %v, %v, want that it works", trial.Failure, err)
				}
				sleep(5 * time.Second)
			})
		})
	}
}

// TestTheOperatorsTestIsMadeWhateverOthersTest: the one of nothing chosen.
func TestTheOperatorsTestIsMadeWhateverOthersTest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := failingTests(t)
		for i := range 5 {
			trial, err := w.test(fmt.Sprint("s-", i))
			wantFailed(t, trial, err)
		}
		_, err := w.test("another")
		wantKind(t, err, broker.UpstreamRateLimited)
		trial, err := w.test("")
		wantFailed(t, trial, err)
	})
}
