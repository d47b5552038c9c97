package engine_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// watching collects a watch's events until the test ends it.
func watching(w *world, known string) (events chan engine.Event, ended chan error, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	events, ended = make(chan engine.Event, 100), make(chan error, 1)
	go func() {
		ended <- w.Watch(ctx, local, engine.Request{Credential: "main"}, known, func(e engine.Event) error {
			events <- e
			return nil
		})
	}()
	return events, ended, cancel
}

func TestAWatchGetsEachSuccessorBeforeItsPredecessorExpires(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(10 * time.Minute)})
		w.create("main", nil)
		events, ended, stop := watching(w, "")
		before := (<-events).Token
		for range 20 {
			e := <-events
			if e.Token == nil || e.Token.ID == before.ID || !time.Now().Before(before.ExpireTime) {
				t.Fatalf("got %+v at %v, want a successor before %v", e, time.Now(), before.ExpireTime)
			}
			before = e.Token
		}
		stop()
		wantKind(t, <-ended, broker.Canceled)
		w.wantExchanges(21)
	})
}

// TestWhatAWatchHasToKnowByNow: the token, for as long as it is valid by a clock that nobody has set back, also where it is the same with a new life; and while there is none, that it is waited for.
func TestWhatAWatchHasToKnowByNow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sleeper{}
		up := &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
			a := token("the same", time.Hour)
			a.Expiry.SentAt = s.now()
			return a, nil
		}}
		w := newEmbedded(t, s, up)
		w.create("main", nil)
		current := func() (string, time.Duration, error) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			res, left, err := w.Current(ctx, local, engine.Request{Credential: "main"})
			if err != nil {
				return "", left, err
			}
			return res.Token.ID, left, nil
		}
		first, left, err := current()
		if err != nil || left != time.Hour {
			t.Fatalf("got %v for %v, %v", first, left, err)
		}
		sleep(30 * time.Minute)
		s.slept.Add(int64(-time.Hour))
		if id, left, err := current(); err != nil || id != first || left != 30*time.Minute {
			t.Errorf("got %v for %v, %v, want half an hour", id, left, err)
		}
		sleep(30 * time.Minute)
		if id, left, err := current(); err != nil || id != first || left != time.Hour {
			t.Errorf("got %v for %v, %v, want the same for another hour", id, left, err)
		}
		up.script(func(ctx context.Context, _ broker.Exchange) (broker.Answer, error) {
			<-ctx.Done()
			return broker.Answer{}, ctx.Err()
		})
		sleep(time.Hour)
		if id, _, err := current(); broker.KindOf(err) != broker.UpstreamSlow {
			t.Errorf("got %v, %v, want that it is waited for", id, err)
		}
	})
}

func TestAWatchTellsOfAnInvalidationAndThenOfTheSuccessor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour)}
		w := newWorld(t, up)
		w.create("main", nil)
		events, _, stop := watching(w, "")
		defer stop()
		first := (<-events).Token
		inner := up.answer
		up.script(func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			sleep(5 * time.Second)
			return inner(ctx, x)
		})
		if _, err := w.Invalidate(context.Background(), local, engine.Invalidation{Credential: "main", TokenID: first.ID}); err != nil {
			t.Fatal(err)
		}
		before := time.Now()
		if e := <-events; e.InvalidatedID != first.ID || time.Since(before) > time.Second {
			t.Fatalf("got %+v after %v, want the invalidation at once", e, time.Since(before))
		}
		if e := <-events; e.Token == nil || e.Token.ID == first.ID {
			t.Fatalf("got %+v, want the successor", e)
		}
	})
}

func TestAWatchTellsHowTheSupplyIsDoing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(10 * time.Minute)}
		w := newWorld(t, up)
		w.create("main", nil)
		events, _, stop := watching(w, "")
		defer stop()
		<-events
		good := up.answer
		up.script(func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream}
		})
		if e := <-events; e.Supply == nil || !e.Supply.Degraded || e.Supply.Failure == nil || e.Supply.Failure.Kind != broker.UpstreamUnavailable {
			t.Fatalf("got %+v, want degraded with its reason", e)
		}
		up.script(good)
		for e := range events {
			if e.Token != nil {
				break
			}
		}
		if e := <-events; e.Supply == nil || e.Supply.Degraded || e.Supply.Failure != nil {
			t.Fatalf("got %+v, want all well again", e)
		}
	})
}

func TestAWatchTellsAtTheExpiryThatThereIsNoToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(30 * time.Second)}
		w := newWorld(t, up)
		w.create("main", nil)
		events, _, stop := watching(w, "")
		defer stop()
		held := (<-events).Token
		up.script(func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream}
		})
		for e := range events {
			if e.Supply == nil || e.Supply.Degraded {
				continue
			}
			if late := time.Since(held.ExpireTime); late < 0 || late > 100*time.Millisecond {
				t.Errorf("told %v after the expiry, want at once", late)
			}
			break
		}
	})
}

// TestAWatchTakesBackWhatHasEnded, where there is no successor.
func TestAWatchTakesBackWhatHasEnded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(10 * time.Minute)}
		w := newWorld(t, up)
		w.create("main", nil)
		events, _, stop := watching(w, "")
		defer stop()
		first := (<-events).Token
		up.script(answers(broker.UpstreamError{Level: broker.LevelUpstream, Status: 503}))
		sleep(11 * time.Minute)
		synctest.Wait()
		for range len(events) {
			if (<-events).InvalidatedID == first.ID {
				return
			}
		}
		t.Error("whoever holds it was not told that it has ended")
	})
}

func TestAWatchKeepsQuietAboutTheTokenThatIsKnown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)})
		w.create("main", nil)
		id := w.mustGet("main").Token.ID
		events, _, stop := watching(w, id)
		defer stop()
		synctest.Wait()
		if len(events) != 0 {
			t.Fatalf("got %+v, want nothing", <-events)
		}
		if e := <-events; e.Token == nil || e.Token.ID == id {
			t.Fatalf("got %+v, want the successor", e)
		}
	})
}

func TestAWatchEndsWhenSomebodyHasToChangeSomething(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)})
		w.create("main", nil)
		events, ended, stop := watching(w, "")
		defer stop()
		<-events
		if err := w.DeleteCredential(context.Background(), local, "main", broker.ID{}); err != nil {
			t.Fatal(err)
		}
		wantKind(t, <-ended, broker.NotFound)
	})
}

func TestAWatchEndsWhenTheUpstreamRefusesTheCredential(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: "invalid_client"}
		}})
		w.create("main", nil)
		_, ended, stop := watching(w, "")
		defer stop()
		wantKind(t, <-ended, broker.CredentialMisconfigured)
	})
}

func TestClosingEndsWatches(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)})
		w.create("main", nil)
		events, ended, stop := watching(w, "")
		defer stop()
		<-events
		synctest.Wait()
		if err := w.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		wantKind(t, <-ended, broker.ShuttingDown)
	})
}

// TestAWatchThatGetsNothingIsQuiet: while there is no token to be had, a watch asks as often as it may help, and says once why.
func TestAWatchThatGetsNothingIsQuiet(t *testing.T) {
	away := func(context.Context) error { return store.Unavailable("away, for a test") }
	for name, test := range map[string]struct {
		held   bool // it has a token when it begins, which expires, or is no longer confirmed
		away   bool // it is the store that is broken
		breaks func(*replica)
	}{
		"the upstream is down": {breaks: func(w *replica) {
			w.up.script(func(context.Context, broker.Exchange) (broker.Answer, error) {
				return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream}
			})
		}},
		"the upstream is down, and the token has expired": {held: true, breaks: func(w *replica) {
			w.up.script(func(context.Context, broker.Exchange) (broker.Answer, error) {
				return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream}
			})
		}},
		"the store is away":                        {away: true, breaks: func(w *replica) { w.backend.Set(storetest.Hooks{BeforeRead: away}) }},
		"the store is away, and the grace is over": {held: true, away: true, breaks: func(w *replica) { w.backend.Set(storetest.Hooks{BeforeRead: away}) }},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newReplicas(t, 1, &upstream{answer: issues(30 * time.Second)})[0]
				w.create("main", nil)
				synctest.Wait()
				if !test.held {
					test.breaks(w)
				}
				events, _, stop := watching(w.world, "")
				defer stop()
				if test.held {
					<-events
					test.breaks(w)
					sleep(time.Minute)
				} else {
					sleep(5 * time.Second)
				}
				told := len(events)
				for len(events) > 0 {
					<-events
				}
				if told > 4 {
					t.Errorf("%d events to say that there is no token", told)
				}
				var asked atomic.Int32
				w.backend.Set(storetest.Hooks{BeforeRead: func(ctx context.Context) error {
					asked.Add(1)
					if test.away {
						return away(ctx)
					}
					return nil
				}})
				const seconds = 60
				sleep(seconds * time.Second)
				if asked.Load() > 8*seconds || len(events) > 0 {
					t.Errorf("in %d seconds: asked the store %d times, told %d events", seconds, asked.Load(), len(events))
				}
			})
		})
	}
}

// TestManyWatchersAskTheStoreOnce when a token is dropped, and each of them is told, by the broker that dropped it and by another.
func TestManyWatchersAskTheStoreOnce(t *testing.T) {
	for _, by := range []int{0, 1} {
		bubble(t, func(t *testing.T) {
			all := newReplicas(t, 2, &upstream{answer: issues(time.Hour)})
			w := all[0]
			w.create("main", nil)
			held := w.mustGet("main").Token.ID
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			const watchers = 1000
			var watching sync.WaitGroup
			var told, served atomic.Int64
			for range watchers {
				watching.Go(func() {
					err := w.Watch(ctx, local, engine.Request{Credential: "main"}, "", func(e engine.Event) error {
						switch {
						case e.InvalidatedID == held:
							told.Add(1)
						case e.Token != nil && e.Token.ID != held:
							served.Add(1)
						}
						return nil
					})
					wantKind(t, err, broker.Canceled)
				})
			}
			sleep(90 * time.Second)
			var reads, running, most atomic.Int64
			w.backend.Set(storetest.Hooks{BeforeRead: func(context.Context) error {
				reads.Add(1)
				most.Store(max(most.Load(), running.Add(1)))
				sleep(5 * time.Millisecond)
				running.Add(-1)
				return nil
			}})
			if _, err := all[by].Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", All: true}); err != nil {
				t.Fatal(err)
			}
			sleep(3 * time.Second)
			if reads.Load() > 50 || most.Load() > 5 {
				t.Errorf("%d questions to the store, %d at once", reads.Load(), most.Load())
			}
			if told.Load() != watchers || served.Load() != watchers {
				t.Errorf("%d of %d were told, and %d got the successor", told.Load(), watchers, served.Load())
			}
			cancel()
			watching.Wait()
		})
	}
}
