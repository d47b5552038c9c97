package engine_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
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

var rude, polite = broker.NewCaller(broker.Local, "", "", broker.ProofNone, "rude"), broker.NewCaller(broker.Local, "", "", broker.ProofNone, "polite")

// away has each call to a store take so long, as far as its caller waits.
func away(d time.Duration) storetest.Hooks {
	far := func(ctx context.Context) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return broker.StoreUnavailable
		}
	}
	return storetest.Hooks{BeforeRead: far, BeforeApply: func(ctx context.Context, _ store.Batch) error { return far(ctx) }}
}

// TestWhoInvalidatesNothingStopsNobody: the store is well, and three milliseconds away. A caller drops what is not there 500 times a second, and another
// asks for the token that is.
func TestWhoInvalidatesNothingStopsNobody(t *testing.T) {
	for name, drop := range map[string]func(w *replica, i int){
		"ids that no token has": func(w *replica, i int) {
			_, _ = w.Invalidate(context.Background(), rude, engine.Invalidation{Credential: "main", TokenID: fmt.Sprint("made-up-", i)})
		},
		"ids, without waiting for an answer": func(w *replica, i int) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			defer cancel()
			_, _ = w.Invalidate(ctx, rude, engine.Invalidation{Credential: "main", TokenID: fmt.Sprint("made-up-", i)})
		},
		"selections": func(w *replica, i int) {
			r := engine.Request{}
			scopes(w.t, fmt.Sprint("made-up-", i))(&r)
			_, _ = w.Invalidate(context.Background(), rude, engine.Invalidation{Credential: "main", All: true, Selection: r.Selection})
		},
		"a credential as it is not": func(w *replica, _ int) {
			_ = w.DeleteCredential(context.Background(), rude, "main", broker.NewID())
		},
		"a credential, without waiting for an answer": func(w *replica, _ int) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
			defer cancel()
			_ = w.DeleteCredential(ctx, rude, "main", broker.NewID())
		},
	} {
		for _, hot := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, hot: %v", name, hot), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newReplicas(t, 1, &upstream{answer: issues(time.Hour)})[0]
					w.create("main", nil)
					w.mustGet("main")
					if !hot {
						sleep(time.Minute)
					}
					w.servesBeside(func(i int) { drop(w, i) })
				})
			})
		}
	}
}

// TestWhoRejectsATokenUnderOtherKeysTakesItFromNobody: the keys do not have it.
func TestWhoRejectsATokenUnderOtherKeysTakesItFromNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newReplicas(t, 1, &upstream{answer: issues(time.Hour)})[0]
		w.create("main", nil)
		id := w.mustGet("main").Token.ID
		const keys = 40
		for i := range keys {
			w.mustGet("main", scopes(t, fmt.Sprint("k", i)))
		}
		w.backend.Set(away(3 * time.Millisecond))
		var stopped atomic.Bool
		go func() {
			for i := 0; !stopped.Load(); i++ {
				go func() {
					r := engine.Request{Credential: "main", RejectedTokenID: id}
					scopes(w.t, fmt.Sprint("k", i%keys))(&r)
					ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
					defer cancel()
					_, _ = w.Token(ctx, rude, r)
				}()
				sleep(2 * time.Millisecond)
			}
		}()
		for range 10 {
			sleep(200 * time.Millisecond)
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			if _, err := w.Token(ctx, polite, engine.Request{Credential: "main"}); err != nil {
				t.Errorf("the token is stored, and good: %v", err)
			}
			cancel()
		}
		stopped.Store(true)
		w.backend.Set(hooksNone)
		sleep(2 * time.Minute)
	})
}

// TestWhileTheStoreIsAwayOthersChangeNothing: a token that this process has obtained for itself is obtained once, and handed out.
func TestWhileTheStoreIsAwayOthersChangeNothing(t *testing.T) {
	for name, call := range map[string]func(w *replica, i int){
		"invalidations of nothing": func(w *replica, i int) {
			_, _ = w.Invalidate(context.Background(), rude, engine.Invalidation{Credential: "main", TokenID: fmt.Sprint("made-up-", i)})
		},
		"changes that cannot be made": func(w *replica, _ int) {
			_ = w.DeleteCredential(context.Background(), rude, "main", broker.NewID())
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				good := issues(time.Hour)
				up := &upstream{answer: func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
					sleep(2500 * time.Millisecond)
					return good(ctx, x)
				}}
				up.facts.ObtainsAlone = true
				w := newReplicas(t, 1, up, grace(time.Hour))[0]
				w.create("main", nil)
				w.mustGet("main")
				w.backend.Away()
				sleep(5 * time.Second)
				var stopped atomic.Bool
				go func() {
					for i := 0; !stopped.Load(); i++ {
						go call(w, i)
						sleep(2 * time.Millisecond)
					}
				}()
				before := len(up.exchanges())
				for i := range 20 {
					w.mustGet("main", scopes(t, fmt.Sprint("s", i%2)))
					sleep(100 * time.Millisecond)
				}
				if n := len(up.exchanges()) - before; n != 2 {
					t.Errorf("two selections were obtained %d times", n)
				}
				stopped.Store(true)
				w.backend.Set(hooksNone)
				sleep(2 * time.Minute)
			})
		})
	}
}

// TestWhatIsDroppedHoldsNoMemory: what callers name is not kept.
func TestWhatIsDroppedHoldsNoMemory(t *testing.T) {
	w := newReplicas(t, 1, &upstream{answer: issues(time.Hour)})[0]
	w.create("main", nil)
	w.mustGet("main")
	heap := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	for i := range 1000 {
		token := broker.NewSecret(fmt.Sprint(i) + strings.Repeat("x", 64_000))
		if _, err := w.Invalidate(t.Context(), rude, engine.Invalidation{Credential: "main", AccessToken: token}); err != nil {
			t.Fatal(err)
		}
	}
	if grown := heap() - before; grown > 8<<20 {
		t.Errorf("1000 tokens that nobody has hold %d MiB", grown>>20)
	}
	w.mustGet("main")
}

// TestWhoWaitsForItsTurnKeepsItsPlace although another broker does something else with the same credential all the time.
func TestWhoWaitsForItsTurnKeepsItsPlace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour)}
		up.facts.RateRequests, up.facts.RatePeriod = 6, time.Minute // three at once, and one each 20 s
		all := newReplicas(t, 2, up)
		for _, name := range []string{"x", "first", "main", "later"} {
			all[0].create(name, nil)
		}
		for i := range 3 {
			all[0].mustGet("x", scopes(t, fmt.Sprint("s", i)))
		}
		var waiting sync.WaitGroup
		began, order := time.Now(), make(chan string, 3)
		for _, name := range []string{"first", "main", "later"} {
			waiting.Go(func() {
				all[0].mustGet(name)
				order <- fmt.Sprint(name, " after ", time.Since(began).Round(20*time.Second))
			})
			sleep(10 * time.Millisecond)
		}
		var stopped atomic.Bool
		go func() {
			for i := byte(0); !stopped.Load(); i++ {
				key := broker.TokenKey{Credential: "main", Token: [32]byte{1, i}, Selection: [32]byte{1, i}, Grant: [32]byte{1, i}, Digest: "other"}
				if v, err := all[1].store.Read(t.Context(), key, ""); err == nil {
					if l, err := v.Acquire(t.Context(), 10*time.Second, false); err == nil {
						_ = l.Release(t.Context())
					}
				}
				sleep(500 * time.Millisecond)
			}
		}()
		waiting.Wait()
		stopped.Store(true)
		for _, want := range []string{"first after 20s", "main after 40s", "later after 1m0s"} {
			if got := <-order; got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
		sleep(time.Minute)
	})
}

// TestWhoInvalidatesNothingWakesNoWatches, whatever is wrong.
func TestWhoInvalidatesNothingWakesNoWatches(t *testing.T) {
	for name, c := range map[string]struct {
		trouble func(w *replica, down *atomic.Bool)
		call    func(w *replica, i int)
	}{
		"the refresh fails": {
			func(_ *replica, down *atomic.Bool) {
				down.Store(true)
				sleep(57 * time.Minute)
			},
			func(w *replica, i int) { w.mustGet("main", rejected(fmt.Sprint("made-up-", i))) },
		},
		"the store is away": {
			func(w *replica, _ *atomic.Bool) { w.backend.Away() },
			func(w *replica, i int) {
				_, _ = w.Invalidate(context.Background(), rude, engine.Invalidation{Credential: "main", TokenID: fmt.Sprint("made-up-", i)})
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				looks, down := &atomic.Int64{}, &atomic.Bool{}
				good := issues(time.Hour)
				up := &upstream{answer: func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
					if down.Load() {
						return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Status: 503}
					}
					return good(ctx, x)
				}}
				w := newReplicas(t, 1, up, grace(time.Hour), func(s *engine.Settings) { s.Authorizer = counting{looks: looks} })[0]
				w.create("main", nil)
				ctx, cancel := context.WithCancel(t.Context())
				var told atomic.Int64
				for range 200 {
					go func() {
						_ = w.Watch(ctx, polite, engine.Request{Credential: "main"}, "", func(engine.Event) error {
							told.Add(1)
							return nil
						})
					}()
				}
				synctest.Wait()
				c.trouble(w, down)
				sleep(30 * time.Second)
				looked, events := looks.Load(), told.Load()
				for i := range 1000 {
					c.call(w, i)
					sleep(10 * time.Millisecond)
				}
				if n, e := looks.Load()-looked, told.Load()-events; n > 5000 || e > 200 {
					t.Errorf("1000 calls of one caller had 200 watches look %d times, and told them %d times", n, e)
				}
				cancel()
				synctest.Wait()
				w.backend.Set(hooksNone)
			})
		})
	}
}

// TestAWatchHearsThatAllIsWellAgain after an outage in which it looked.
func TestAWatchHearsThatAllIsWellAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newReplicas(t, 1, &upstream{answer: issues(10 * time.Hour)}, grace(time.Hour))[0]
		w.create("main", nil)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		told := make(chan bool, 10)
		go func() {
			_ = w.Watch(ctx, local, engine.Request{Credential: "main"}, "", func(e engine.Event) error {
				if e.Supply != nil {
					told <- e.Supply.Degraded
				}
				return nil
			})
		}()
		sleep(5*time.Minute - 5*time.Second) // just before it looks by itself
		w.backend.Away()
		sleep(12 * time.Second)
		if !<-told {
			t.Fatal("it heard nothing of the outage")
		}
		w.backend.Set(hooksNone)
		sleep(10 * time.Second)
		select {
		case degraded := <-told:
			if degraded {
				t.Error("it is told once more that the store is away")
			}
		default:
			t.Error("it is not told that the store is there")
		}
	})
}

// TestWhoWaitsForOneGrantAsksAsOne: another broker refreshes a human's grant slowly, and here many keys wait for it.
func TestWhoWaitsForOneGrantAsksAsOne(t *testing.T) {
	bubble(t, func(t *testing.T) {
		good := issues(time.Hour)
		var n atomic.Int64
		up := &upstream{answer: func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			if n.Add(1) == 1 {
				sleep(18 * time.Second)
			}
			a, err := good(ctx, x)
			a.RefreshToken = broker.NewSecret(fmt.Sprint("r", n.Load()))
			return a, err
		}}
		up.facts.Refreshes = true
		up.facts.Inputs = map[string]broker.InputFacts{"refresh_token": {Secret: true, Seed: true}}
		all := newReplicas(t, 2, up)
		all[0].create("main", map[string]string{"refresh_token": "r0"})
		var waiting sync.WaitGroup
		waiting.Go(func() { all[0].mustGet("main") })
		sleep(time.Second)
		var reads atomic.Int64
		all[1].backend.Set(storetest.Hooks{BeforeRead: func(context.Context) error {
			reads.Add(1)
			return nil
		}})
		for i := range 300 {
			waiting.Go(func() { all[1].mustGet("main", scopes(t, fmt.Sprint("s", i))) })
		}
		sleep(2 * time.Second)
		before := reads.Load()
		sleep(10 * time.Second)
		if n := reads.Load() - before; n > 100 {
			t.Errorf("300 keys that wait have read %d times in ten seconds", n)
		}
		waiting.Wait()
	})
}

// TestWhoInvalidatesARejectedTokenAgainTakesItFromNobody: the upstream hands out one token until it ends; it was rejected, and is served all the same. To
// reject it once more, by whichever call, changes nothing.
func TestWhoInvalidatesARejectedTokenAgainTakesItFromNobody(t *testing.T) {
	for name, again := range map[string]func(w *world, id string){
		"Invalidate, by its id": func(w *world, id string) {
			_, _ = w.Invalidate(context.Background(), rude, engine.Invalidation{Credential: "main", TokenID: id})
		},
		"Invalidate, by itself": func(w *world, _ string) {
			_, _ = w.Invalidate(context.Background(), rude, engine.Invalidation{Credential: "main", AccessToken: broker.NewSecret("the one")})
		},
		"GetToken": func(w *world, id string) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_, _ = w.Token(ctx, rude, engine.Request{Credential: "main", RejectedTokenID: id})
		},
	} {
		for _, shared := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, shared: %v", name, shared), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					ends := time.Now().Add(time.Hour)
					up := &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
						return token("the one", time.Until(ends)), nil
					}}
					var w *world
					if shared {
						w = newReplicas(t, 1, up)[0].world
					} else {
						w = newWorld(t, up)
					}
					w.create("main", nil)
					id := w.mustGet("main").Token.ID
					sleep(5 * time.Minute)
					drop := func() broker.Dropped {
						d, err := w.Invalidate(t.Context(), rude, engine.Invalidation{Credential: "main", TokenID: id})
						if err != nil {
							t.Fatal(err)
						}
						return d
					}
					for range 3 { // each time the upstream is asked, and has no other for longer
						drop()
						w.mustGet("main")
					}
					drop()
					if d := drop(); d.Count != 0 || !d.Matched {
						t.Fatalf("got %+v, want one that is rejected already", d)
					}
					w.mustGet("main")
					before := len(w.up.exchanges())
					w.servesBeside(func(int) { again(w, id) })
					w.wantExchanges(before)
				})
			})
		}
	}
}

// servesBeside: while somebody does something five hundred times a second, of a store that takes a while, another caller is served.
func (w *world) servesBeside(annoys func(i int)) {
	w.t.Helper()
	w.backend.Set(away(3 * time.Millisecond))
	stop := make(chan struct{})
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Millisecond):
				go annoys(i)
			}
		}
	}()
	for range 20 {
		sleep(500 * time.Millisecond)
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		if _, err := w.Token(ctx, polite, engine.Request{Credential: "main"}); err != nil {
			w.t.Error(err)
		}
		cancel()
	}
	close(stop)
	w.backend.Set(hooksNone)
	sleep(time.Second)
}
