package engine_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// watches has somebody watch tokens, until ctx ends, and returns how often the store is read from then on.
func (w *world) watches(ctx context.Context, n int, name func(int) func(*engine.Request)) (reads *atomic.Int64) {
	w.t.Helper()
	reads = &atomic.Int64{}
	w.backend.Set(storetest.Hooks{BeforeRead: func(context.Context) error {
		if reads.Add(1) > endless {
			<-ctx.Done()
		}
		sleep(time.Millisecond)
		return nil
	}})
	for i := range n {
		r := engine.Request{Credential: "main"}
		name(i)(&r)
		go func() { _ = w.Watch(ctx, observer, r, "", func(engine.Event) error { return nil }) }()
	}
	sleep(5 * time.Second)
	return reads
}

// endless is how often watches read at most, so that a test ends.
const endless = 10_000

// observer is who watches.
var observer = broker.NewCaller(broker.Local, "", "", broker.ProofNone, "watches")

// TestWatchesThatHaveWhatTheyWantAskNobody: many of one token, by names of their own, and more tokens than there is room for.
func TestWatchesThatHaveWhatTheyWantAskNobody(t *testing.T) {
	for name, test := range map[string]struct {
		watches, room int
		name          func(int) func(*engine.Request)
	}{
		"names of one token":               {200, 0, func(i int) func(*engine.Request) { return spelled(t, i) }},
		"more tokens than there is room":   {120, 100, func(i int) func(*engine.Request) { return scopes(t, fmt.Sprint("s", i)) }},
		"more names than there is room":    {120, 100, func(i int) func(*engine.Request) { return spelled(t, i) }},
		"as many tokens as there are room": {90, 100, func(i int) func(*engine.Request) { return scopes(t, fmt.Sprint("s", i)) }},
	} {
		for how, start := range map[string]func(*testing.T, *upstream, func(*engine.Settings)) *world{
			"alone": func(t *testing.T, up *upstream, s func(*engine.Settings)) *world { return newWorld(t, up, s) },
			"shared": func(t *testing.T, up *upstream, s func(*engine.Settings)) *world {
				return newReplicas(t, 1, up, s)[0].world
			},
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					up := &upstream{answer: issues(time.Hour)}
					w := start(t, up, func(s *engine.Settings) { s.Upstream, s.CacheSize = joining{up}, test.room })
					w.create("main", nil)
					ctx, cancel := context.WithCancel(t.Context())
					reads := w.watches(ctx, test.watches, test.name)
					before := reads.Load()
					sleep(10 * time.Second)
					if n := reads.Load() - before; n > 100 || reads.Load() > endless { // those of the confirmer
						t.Errorf("%d watches had the store read %d times in 10 s in which nothing happened", test.watches, n)
					}
					cancel()
					synctest.Wait()
				})
			})
		}
	}
}

// TestAWatchThatHasNoneHearsWhatWasRead: the upstream fails, for long, and another broker that this one does not hear has a token. Somebody reads it.
func TestAWatchThatHasNoneHearsWhatWasRead(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelRateLimited, Status: 429, RetryAfter: 4 * time.Minute}
		}}
		all := newReplicas(t, 2, up, func(s *engine.Settings) { s.Upstream = joining{up} })
		a, b := all[0], all[1]
		a.create("main", nil)
		a.memory.Deafen(true)
		var told atomic.Pointer[string]
		r := engine.Request{Credential: "main"}
		spelled(t, 1)(&r)
		go func() {
			_ = a.Watch(t.Context(), observer, r, "", func(e engine.Event) error {
				if e.Token != nil {
					told.Store(&e.Token.ID)
				}
				return nil
			})
		}()
		sleep(10 * time.Second)
		up.script(issues(time.Hour))
		if _, err := b.TestCredential(t.Context(), local, "main", selected(spelled(t, 0)), true); err != nil {
			t.Fatal(err)
		}
		id := b.mustGet("main", spelled(t, 0)).Token.ID
		if got := a.mustGet("main", spelled(t, 2)).Token.ID; got != id {
			t.Fatal("not one token")
		}
		sleep(time.Second)
		if got := told.Load(); got == nil || *got != id {
			t.Error("a watch that has no token is not told of the one that is there")
		}
	})
}

func selected(f func(*engine.Request)) broker.Selection {
	var r engine.Request
	f(&r)
	return r.Selection
}

// TestWhatAWatchAsksIsOfItsCallersShare: a credential is invalidated again and again, and each watch asks what became of its token.
func TestWhatAWatchAsksIsOfItsCallersShare(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour)}
		w := newWorld(t, up, func(s *engine.Settings) { s.CallerRate = 5 })
		w.create("main", nil)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		reads := w.watches(ctx, 50, func(i int) func(*engine.Request) { return scopes(t, fmt.Sprint("s", i)) })
		sleep(time.Minute)
		up.script(down)
		before := reads.Load()
		for range 20 {
			if _, err := w.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", All: true}); err != nil {
				t.Fatal(err)
			}
			sleep(time.Second)
			up.script(issues(time.Hour))
		}
		if n := reads.Load() - before; n > 450 { // a share is some readings
			t.Errorf("the watches of a caller who may ask 5 times a second had the store read %d times in 20 s", n)
		}
		cancel()
		synctest.Wait()
	})
}

// TestATokenIsThereByEachOfItsNamesWhileTheStoreIsAway: also by one that nobody has said before, and one that others had to make room for.
func TestATokenIsThereByEachOfItsNamesWhileTheStoreIsAway(t *testing.T) {
	for name, room := range map[string]int{"there is room": 0, "others had to make room": 20} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				up := &upstream{answer: issues(time.Hour)}
				up.facts.ObtainsAlone = true
				w := newReplicas(t, 1, up, func(s *engine.Settings) { s.Upstream, s.CacheSize = joining{up}, room }, grace(time.Hour))[0]
				w.create("main", nil)
				wantObtained := func(n int) {
					t.Helper()
					got := 0
					for _, x := range up.exchanges() {
						if !x.Selection.Scopes.Empty() {
							got++
						}
					}
					if got != n {
						t.Errorf("got %d exchanges, want %d", got, n)
					}
				}
				hold, cancel := context.WithCancel(t.Context())
				defer cancel()
				go func() { // so that the credential is known for as long as that
					_ = w.Watch(hold, observer, engine.Request{Credential: "main"}, "", func(engine.Event) error { return nil })
				}()
				synctest.Wait()
				id := w.mustGet("main", spelled(t, 0)).Token.ID
				for k := range 30 {
					w.mustGet("main", spelled(t, k))
				}
				w.backend.Away()
				for range 3 {
					for k := range 50 {
						if got := w.mustGet("main", spelled(t, k)).Token.ID; got != id {
							t.Fatalf("name %d: got %s, want the token that is there", k, got)
						}
					}
					sleep(10 * time.Second)
				}
				wantObtained(1)
				// By which name it is invalidated makes no difference either, and there is one for all of them then.
				if _, err := w.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", All: true, Selection: selected(spelled(t, 99))}); broker.KindOf(err) != broker.StoreUnavailable {
					t.Fatal(err)
				}
				for range 3 {
					for k := range 50 {
						if got := w.mustGet("main", spelled(t, k)).Token.ID; got == id {
							t.Fatalf("name %d: served although it was invalidated", k)
						}
					}
					sleep(time.Second)
				}
				if room == 0 { // else what was there keeps some of it
					wantObtained(2)
				}
				cancel()
				synctest.Wait()
			})
		})
	}
}
