package engine_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// defaulting gives a selection without scopes those of the credential's defaults.
type defaulting struct{ *upstream }

func (d defaulting) Definition(name string) (broker.Definition, error) {
	_, err := d.upstream.Definition(name)
	return d, err
}

func (d defaulting) Select(_ broker.Credential, s broker.Selection) (broker.Selection, error) {
	if s.Scopes.Empty() {
		s.Scopes, _ = broker.ParseSet("scopes", []string{"default"})
	}
	return s, nil
}

// TestNoTokenEndsLaterForAClockThatIsSetBack: it is served for as long as it was given for, whatever of it the process has still: by the words that it was asked for by, by other words for the same, or after a change that keeps it.
func TestNoTokenEndsLaterForAClockThatIsSetBack(t *testing.T) {
	for name, then := range map[string]func(t *testing.T, w *world, ask func(*engine.Request)){
		"it is there":         func(*testing.T, *world, func(*engine.Request)) {},
		"by another spelling": func(t *testing.T, w *world, _ func(*engine.Request)) { w.mustGet("main", scopes(t, "default")) },
		"after an edit": func(_ *testing.T, w *world, _ func(*engine.Request)) {
			w.update("main", func(d *engine.Draft) { d.Labels = map[string]string{"team": "a"} })
		},
	} {
		for _, spelled := range []string{"", "default"} {
			t.Run(name+", asked for as "+spelled, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s, n := &sleeper{}, 0
					up := &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
						n++
						a := token(fmt.Sprint("token-", n), time.Hour)
						a.Expiry.SentAt = s.now()
						return a, nil
					}}
					w := newEmbedded(t, s, up, func(x *engine.Settings) { x.Upstream = defaulting{up} })
					w.create("main", nil)
					first := w.mustGet("main").Token.ID
					sleep(30 * time.Minute)
					s.slept.Add(int64(-time.Hour))
					ask := func(*engine.Request) {}
					if spelled != "" {
						ask = scopes(t, spelled)
					}
					then(t, w, ask)
					reread := spelled != "" || name == "after an edit"
					if got := w.mustGet("main", ask).Token; got.ID != first || reread && got.ExpireTime.Sub(s.now()) > 30*time.Minute {
						t.Errorf("got %s that ends in %v, want one that lives for another half an hour", got.ID, got.ExpireTime.Sub(s.now()))
					}
					for _, late := range []time.Duration{31 * time.Minute, 30 * time.Minute} {
						sleep(late)
						if again := w.mustGet("main", ask).Token; again.ID == first {
							t.Errorf("served past its hour, until in %v", again.ExpireTime.Sub(s.now()))
						}
					}
				})
			})
		}
	}
}

// TestNoTokenEndsLaterForAClockThatIsSetBackOnItsWay: between the upstream's answer and the store's, a token's end is a time of a day that is no more. Neither who serves it then nor who reads it
// later gives it more than it was given for.
func TestNoTokenEndsLaterForAClockThatIsSetBackOnItsWay(t *testing.T) {
	const life = time.Minute
	for when, hooks := range map[string]func(once func() bool) storetest.Hooks{
		"before it is stored": func(once func() bool) storetest.Hooks {
			return storetest.Hooks{BeforeApply: func(_ context.Context, b store.Batch) error {
				_ = b.Finish && once()
				return nil
			}}
		},
		"when it is stored": func(once func() bool) storetest.Hooks {
			return storetest.Hooks{AfterApply: func(_ context.Context, b store.Batch) error {
				_ = b.Finish && once()
				return nil
			}}
		},
		"before it is stored at the second try": func(once func() bool) storetest.Hooks {
			return storetest.Hooks{BeforeApply: func(_ context.Context, b store.Batch) error {
				if b.Finish && once() {
					return store.Unavailable("it takes nothing, once")
				}
				return nil
			}}
		},
	} {
		for where, backend := range map[string]func() store.Backend{
			"alone":  func() store.Backend { return storetest.NewMemory() },
			"shared": func() store.Backend { return storetest.NewReplicas(1)[0] },
		} {
			t.Run(when+", "+where, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					s, up := &sleeper{}, &upstream{answer: issues(life)}
					up.complete()
					faults := storetest.NewFaults(backend())
					kept, err := store.New(faults.Whole(), newKeys(t), store.Options{Clock: s.clock()})
					if err != nil {
						t.Fatal(err)
					}
					clocked := func(x *engine.Settings) { x.Clock = s.clock() }
					w, later := &world{t: t, up: up, store: kept}, &world{t: t, up: up, store: kept}
					w.start(clocked, grace(5*time.Minute))
					w.create("main", nil)
					synctest.Wait()
					var set atomic.Bool
					faults.Set(hooks(func() bool {
						if set.Swap(true) {
							return false
						}
						s.slept.Store(int64(-time.Hour))
						return true
					}))
					began := time.Now()
					_, _ = w.get("main")
					if !set.Load() {
						t.Fatal("nothing was stored")
					}
					sleep(life / 2)
					later.start(clocked, grace(5*time.Minute))
					for range 12 {
						for who, is := range map[string]*world{"who got it": w, "who reads it": later} {
							if token := is.mustGet("main").Token; token.AccessToken.Reveal() == "token-1" && time.Since(began) >= life {
								t.Errorf("%s serves it after %v", who, time.Since(began))
							}
						}
						sleep(life / 4)
					}
				})
			})
		}
	}
}

// TestATokenIsRefreshedAheadOfItsEndByAClockThatIsSetBack: nobody waits for it.
func TestATokenIsRefreshedAheadOfItsEndByAClockThatIsSetBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sleeper{}
		w := newEmbedded(t, s, &upstream{answer: issues(time.Hour)})
		w.create("main", nil)
		w.mustGet("main")
		sleep(30 * time.Minute)
		s.slept.Add(int64(-time.Hour))
		sleep(29 * time.Minute)
		w.mustGet("main")
		synctest.Wait()
		w.wantExchanges(2)
	})
}

// TestAWaitIsNoLongerForAClockThatIsSetBack: neither for a failing upstream, nor for what a test has found.
func TestAWaitIsNoLongerForAClockThatIsSetBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sleeper{}
		w := newEmbedded(t, s, &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Status: 503}
		}})
		w.create("main", nil)
		trial, err := w.test("")
		wantFailed(t, trial, err)
		s.slept.Add(int64(-time.Hour))
		sleep(time.Minute)
		trial, err = w.test("")
		wantFailed(t, trial, err)
		w.wantExchanges(2)
		s.slept.Add(int64(-time.Hour))
		sleep(time.Minute)
		_, err = w.get("main")
		wantKind(t, err, broker.UpstreamUnavailable)
		w.wantExchanges(3)
	})
}

// TestAShareIsNoLargerForAClockThatGoesToAndFro: time that is set back does not pass twice.
func TestAShareIsNoLargerForAClockThatGoesToAndFro(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sleeper{}
		w := newEmbedded(t, s, &upstream{answer: issues(time.Hour)}, func(x *engine.Settings) { x.CallerRate = 5 })
		w.create("main", nil)
		given := 0
		for range 1000 {
			for _, by := range []time.Duration{-50 * time.Millisecond, 50 * time.Millisecond} { // less is no step, but how clocks are corrected
				s.slept.Add(int64(by))
				if _, err := w.Credential(t.Context(), local, "main"); err == nil {
					given++
				}
			}
		}
		if given > 50 {
			t.Errorf("got %d of a share of 50, and no time has passed", given)
		}
	})
}

// TestWhatIsRememberedIsNoLongerForAClockThatIsSetBack: a refusal that is stored.
func TestWhatIsRememberedIsNoLongerForAClockThatIsSetBack(t *testing.T) {
	for name, refusal := range map[string]broker.UpstreamError{
		"the credential": {Level: broker.LevelCredential, Status: 401, Code: "invalid_client", InvalidClient: true},
		"the answer":     {Level: broker.LevelResponse, Status: 200},
		"the upstream":   {Level: broker.LevelUpstream, Status: 503},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s, good, fine := &sleeper{}, issues(2*time.Hour), false
				w := newEmbedded(t, s, &upstream{answer: func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
					if fine {
						return good(ctx, x)
					}
					e := refusal
					return broker.Answer{}, &e
				}})
				w.create("main", nil)
				_, err := w.get("main")
				f := broker.Failure{}
				if there := new(broker.Failure); errors.As(err, &there) {
					f = *there
				}
				wait := f.RetryAt.Sub(s.now())
				s.slept.Add(int64(-time.Hour))
				w.start(func(x *engine.Settings) { x.Clock = s.clock() }) // another that knows only what is stored
				_, err = w.get("main")
				if again := wantKind(t, err, f.Kind); again.RetryAt.Sub(s.now()) > wait+time.Second {
					t.Errorf("to be tried again in %v, which was %v", again.RetryAt.Sub(s.now()), wait)
				}
				fine = true
				sleep(wait + time.Second)
				w.mustGet("main")
			})
		})
	}
}

// TestALifetimeCountsFromWhenTheClockWasRight: the clock is set back while the upstream answers.
func TestALifetimeCountsFromWhenTheClockWasRight(t *testing.T) {
	for name, shared := range map[string]bool{"embedded": false, "shared": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s, n := &sleeper{}, 0
				up := &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
					n++
					a := token(fmt.Sprint("token-", n), time.Hour)
					a.Expiry.SentAt = s.now()
					sleep(time.Second)
					if n == 1 {
						s.slept.Add(int64(-time.Hour)) // before the answer is here
					}
					return a, nil
				}}
				var w *world
				if shared {
					w = newReplicas(t, 1, up, func(x *engine.Settings) { x.Clock = s.clock() })[0].world
				} else {
					w = newEmbedded(t, s, up)
				}
				w.create("main", nil)
				first := w.mustGet("main").Token
				sleep(61 * time.Minute)
				if again := w.mustGet("main").Token; again.ID == first.ID {
					t.Errorf("served after 61 minutes, until in %v, though it was given for an hour", again.ExpireTime.Sub(s.now()))
				}
			})
		})
	}
}

// TestAWatchTellsInTimeThoughTheClockIsSetBack: the successor comes before its predecessor has ended.
func TestAWatchTellsInTimeThoughTheClockIsSetBack(t *testing.T) {
	for name, back := range map[string]time.Duration{"as it is": 0, "set back": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				s, fails := &sleeper{}, atomic.Bool{}
				n := 0
				up := &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
					if fails.Load() {
						return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Status: 503}
					}
					n++
					a := token([]string{"", "one", "two", "three", "four"}[n], 10*time.Minute)
					a.Expiry.SentAt = s.now()
					return a, nil
				}}
				w := newEmbedded(t, s, up)
				w.create("main", nil)
				events, _, stop := watching(w, "")
				defer stop()
				first := (<-events).Token
				began := time.Now()
				sleep(time.Minute)
				s.slept.Add(int64(back))
				fails.Store(true)
				sleep(7*time.Minute + 30*time.Second) // it would have been refreshed by now
				fails.Store(false)
				for e := range events {
					if e.Token != nil && e.Token.ID != first.ID || e.InvalidatedID != "" {
						break
					}
				}
				if late := time.Since(began); late > 10*time.Minute+time.Second { // in the bubble's time
					t.Errorf("the successor of a token of ten minutes is told after %v", late)
				}
			})
		})
	}
}
