package engine_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// failsAfter is an upstream that takes its time to fail.
func failsAfter(d time.Duration) func(context.Context, broker.Exchange) (broker.Answer, error) {
	return func(context.Context, broker.Exchange) (broker.Answer, error) {
		sleep(d)
		return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Status: 500}
	}
}

// TestAFlightThatFailsBringsNothingBack: a refresh is under way when its token is invalidated, or its credential deleted or disabled.
func TestAFlightThatFailsBringsNothingBack(t *testing.T) {
	changes := map[string]func(*world, string) error{
		"invalidated": func(w *world, id string) error {
			_, err := w.Invalidate(w.t.Context(), local, engine.Invalidation{Credential: "main", TokenID: id})
			return err
		},
		"all invalidated": func(w *world, _ string) error {
			_, err := w.Invalidate(w.t.Context(), local, engine.Invalidation{Credential: "main", All: true})
			return err
		},
		"deleted": func(w *world, _ string) error {
			return w.DeleteCredential(w.t.Context(), local, "main", broker.ID{})
		},
		"disabled": func(w *world, _ string) error {
			_, err := w.UpdateCredential(w.t.Context(), local, engine.Change{Name: "main", Edit: func(d *engine.Draft) error { d.Disabled = true; return nil }})
			return err
		},
	}
	for name, change := range changes {
		for _, by := range []string{"a broker alone", "this broker", "another broker"} {
			t.Run(name+" by "+by, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					up := &upstream{answer: issues(time.Hour)}
					var w, other *world
					if by == "a broker alone" {
						w = newWorld(t, up)
						other = w
					} else {
						all := newReplicas(t, 2, up, grace(5*time.Minute))
						w, other = all[0].world, all[1].world
						if by == "this broker" {
							other = w
						}
					}
					w.create("main", nil)
					id := w.mustGet("main").Token.ID
					sleep(56 * time.Minute)
					w.mustGet("main")
					up.script(failsAfter(10 * time.Second))
					w.mustGet("main") // the refresh begins
					sleep(time.Second)
					if err := change(other, id); err != nil {
						t.Fatal(err)
					}
					sleep(9*time.Second + time.Millisecond) // it has failed, and the bound is over
					for range 100 {
						ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
						if r, err := w.Token(ctx, local, engine.Request{Credential: "main"}); err == nil && r.Token.ID == id {
							t.Fatal("the token is served again")
						}
						cancel()
						sleep(100 * time.Millisecond)
					}
				})
			})
		}
	}
}

// TestAWatchThatWantsMoreThanThereIsIsQuiet: the upstream fails, and the token that there is lives too short for it.
func TestAWatchThatWantsMoreThanThereIsIsQuiet(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour)}
		w := newWorld(t, up)
		w.create("main", nil)
		w.mustGet("main")
		sleep(40 * time.Minute)
		up.script(failsAfter(0))
		var reads atomic.Int32
		w.backend.Set(storetest.Hooks{BeforeRead: func(context.Context) error {
			reads.Add(1)
			sleep(time.Millisecond)
			return nil
		}})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_ = w.Watch(ctx, local, engine.Request{Credential: "main", MinTTL: 30 * time.Minute}, "", func(engine.Event) error { return nil })
		if n := reads.Load(); n > 100 {
			t.Errorf("%d reads in ten seconds", n)
		}
	})
}

// TestWhatWasMadeVoidIsNotServedUnstored: all tokens are invalidated while an exchange runs, and then its commit fails.
func TestWhatWasMadeVoidIsNotServedUnstored(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour)}
		w := newReplicas(t, 1, up, grace(5*time.Minute))[0]
		w.create("main", nil)
		first, answers := w.mustGet("main").Token.ID, make(chan struct{})
		up.script(func(context.Context, broker.Exchange) (broker.Answer, error) {
			<-answers
			return token("void", time.Hour), nil
		})
		var asking sync.WaitGroup
		asking.Go(func() { _, _ = w.get("main", rejected(first)) })
		sleep(time.Second)
		if _, err := w.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", All: true}); err != nil {
			t.Fatal(err)
		}
		w.backend.Away()
		close(answers)
		asking.Wait()
		for range 600 {
			if r, err := w.get("main"); err == nil && r.Token.AccessToken.Reveal() == "void" {
				t.Fatal("it is served")
			}
			sleep(time.Second)
		}
	})
}

// TestATokenOfOnesOwnGivesWay: as soon as the store takes something again, what all brokers share takes its place; so it can be
// invalidated through any of them.
func TestATokenOfOnesOwnGivesWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour), facts: broker.Facts{ObtainsAlone: true}}
		all := newReplicas(t, 2, up, grace(5*time.Minute))
		all[0].create("main", nil)
		all[1].backend.Set(storetest.Hooks{BeforeApply: func(context.Context, store.Batch) error { return store.Unavailable("full, for a test") }})
		own := all[1].mustGet("main").Token.ID
		all[1].backend.Set(storetest.Hooks{})
		for range 40 {
			all[1].mustGet("main")
			sleep(100 * time.Millisecond)
		}
		if r := all[1].mustGet("main"); r.Degraded || r.Token.ID == own {
			t.Errorf("degraded %v, the same %v: four seconds later it still serves what only it has", r.Degraded, r.Token.ID == own)
		}
		all[0].wantExchanges(2)
	})
}

// TestACommitThatWaitsHidesNothing: a valid token is served while its successor waits for the store, and so are other keys' of the
// same refresh token.
func TestACommitThatWaitsHidesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := newLines()
		w := newReplicas(t, 1, up.upstream, grace(5*time.Minute))[0]
		w.create("main", map[string]string{"refresh_token": "a.0"})
		w.mustGet("main", scopes(t, "one"))
		w.mustGet("main", scopes(t, "two"))
		sleep(56 * time.Minute)
		for _, s := range []string{"one", "two"} {
			w.mustGet("main", scopes(t, s)) // read again
		}
		inner := up.answer
		up.script(func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			w.backend.Away()
			return inner(ctx, x)
		})
		w.mustGet("main", scopes(t, "one")) // the refresh begins
		for range 20 {
			sleep(5 * time.Second) // nobody keeps them hot
			for _, s := range []string{"one", "two"} {
				began := time.Now()
				if r := w.mustGet("main", scopes(t, s)); !r.Degraded || time.Since(began) > 5*time.Second {
					t.Errorf("%s: degraded %v, after %v", s, r.Degraded, time.Since(began))
				}
			}
		}
		w.backend.Set(storetest.Hooks{})
		sleep(3 * time.Second) // the try that finds the store back asks for the keys first, the next one stores
		if st, err := storetest.Status(t.Context(), w.store, "main"); err != nil || st.Grants[0].RefreshToken.Reveal() != fmt.Sprintf("a.%d", up.newest["a"]) || len(up.reused) > 0 {
			t.Errorf("stored is %q, %v; presented although spent: %v", st.Grants[0].RefreshToken.Reveal(), err, up.reused)
		}
	})
}

// TestWhatWasReadToBeRejectedIsNotServed, although the store takes nothing.
func TestWhatWasReadToBeRejectedIsNotServed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		all := newReplicas(t, 2, &upstream{answer: issues(time.Hour)}, grace(5*time.Minute))
		all[0].create("main", nil)
		id := all[1].mustGet("main").Token.ID
		all[1].memory.Deafen(true)
		sleep(20 * time.Second)
		if done, err := all[0].Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", TokenID: id}); err != nil || done.Count != 1 {
			t.Fatal(done, err)
		}
		sleep(20 * time.Second)
		all[1].backend.Set(storetest.Hooks{BeforeApply: func(context.Context, store.Batch) error { return store.Unavailable("full, for a test") }})
		if r, err := all[1].get("main"); err == nil && r.Token.ID == id {
			t.Error("served by a broker that has just read that it is rejected")
		}
	})
}

// TestATokenThatCannotBeShownIsTheUpstreamsFailure, which is remembered: no call costs another exchange.
func TestATokenThatCannotBeShownIsTheUpstreamsFailure(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour)}
		w := newWorld(t, up, func(s *engine.Settings) {
			s.Render = func(*broker.Token) (any, error) { return nil, errors.New("cannot be carried") }
		})
		w.create("main", nil)
		for range 50 {
			_, err := w.get("main")
			if f := wantKind(t, err, broker.UpstreamResponseInvalid); f.RetryAt.IsZero() {
				t.Error("it does not say when to ask again")
			}
			sleep(10 * time.Millisecond)
		}
		w.wantExchanges(1)
	})
}

// TestShortDeadlinesSayNothingAboutTheStore: callers who have less time than a round trip takes keep nobody else from it.
func TestShortDeadlinesSayNothingAboutTheStore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newReplicas(t, 1, &upstream{answer: issues(time.Hour)}, grace(5*time.Minute))[0]
		w.create("main", nil)
		for i := range 50 {
			w.create(fmt.Sprint("cold-", i), nil)
		}
		w.backend.Set(storetest.Hooks{BeforeRead: func(ctx context.Context) error {
			select {
			case <-time.After(5 * time.Millisecond):
				return nil
			case <-ctx.Done():
				return store.Ended(ctx)
			}
		}})
		ctx, stop := context.WithCancel(t.Context())
		var hasty sync.WaitGroup
		for range 4 {
			hasty.Go(func() {
				for ctx.Err() == nil {
					short, cancel := context.WithTimeout(ctx, 2*time.Millisecond)
					_, _ = w.CredentialStatus(short, local, "main")
					cancel()
					sleep(time.Millisecond)
				}
			})
		}
		sleep(3 * time.Second)
		for i := range 50 {
			w.mustGet(fmt.Sprint("cold-", i))
			sleep(50 * time.Millisecond)
		}
		stop()
		hasty.Wait()
	})
}

// TestSeveralRejectionsAreRemembered: clients that go on naming the tokens that were refused to them once cost the store nothing.
func TestSeveralRejectionsAreRemembered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newReplicas(t, 1, &upstream{answer: issues(time.Hour)})[0]
		w.create("main", nil)
		one := w.mustGet("main").Token.ID
		two := w.mustGet("main", rejected(one)).Token.ID
		w.mustGet("main", rejected(two))
		sleep(time.Second)
		var reads atomic.Int32
		w.backend.Set(storetest.Hooks{BeforeRead: func(context.Context) error { reads.Add(1); return nil }})
		for range 100 {
			w.mustGet("main", rejected(one))
			w.mustGet("main", rejected(two))
		}
		if n := reads.Load(); n > 20 {
			t.Errorf("%d questions for 200 hits", n)
		}
	})
}
