package engine_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// takesNoCommits is a store that can be read, and takes nothing of what an exchange brings.
func takesNoCommits(_ context.Context, b store.Batch) error {
	if b.Finish && b.Tell == 'n' {
		return store.Unavailable("READONLY, for a test")
	}
	return nil
}

// TestWhatIsInvalidatedIsNotStoredLater: a token was handed out while the store took no commit, and has left the cache since. Whoever invalidates it is
// told that it is gone, and so it is when the store takes commits again.
func TestWhatIsInvalidatedIsNotStoredLater(t *testing.T) {
	byID := func(r engine.Result) engine.Invalidation { return engine.Invalidation{TokenID: r.Token.ID} }
	replaced := func(t *testing.T, w *replica, former string) {
		for range 100 {
			if w.mustGet("main", scopes(t, "chosen")).Token.ID == former {
				return
			}
			sleep(100 * time.Millisecond)
		}
		t.Fatal("the former token, which is stored, does not take its place")
	}
	evicted := func(t *testing.T, w *replica, _ string) {
		for i := range 50 {
			w.mustGet("main", scopes(t, fmt.Sprint("s-", i)))
		}
	}
	for name, test := range map[string]struct {
		leaves func(t *testing.T, w *replica, former string)
		names  func(engine.Result) engine.Invalidation
		count  int
	}{
		"replaced, by its id": {replaced, byID, 1},
		"replaced, by itself": {replaced, func(r engine.Result) engine.Invalidation {
			return engine.Invalidation{AccessToken: r.Token.AccessToken}
		}, 1},
		"replaced, by its selection": {replaced, func(engine.Result) engine.Invalidation {
			r := engine.Request{}
			scopes(t, "chosen")(&r)
			return engine.Invalidation{All: true, Selection: r.Selection}
		}, 2},
		"evicted, by its id": {evicted, byID, 1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newReplicas(t, 1, &upstream{answer: issues(time.Hour)}, grace(time.Hour), func(s *engine.Settings) { s.CacheSize = 2 })[0]
				w.create("main", nil)
				get := func() engine.Result { t.Helper(); return w.mustGet("main", scopes(t, "chosen")) }
				former := get()
				sleep(time.Until(former.Token.RefreshTime) + time.Second)
				w.backend.Set(storetest.Hooks{BeforeApply: takesNoCommits})
				get() // it is read again
				get() // and refreshed in the background
				synctest.Wait()
				was := get()
				if was.Token.ID == former.Token.ID {
					t.Fatal("the new token is not handed out")
				}
				test.leaves(t, w, former.Token.ID)
				i := test.names(was)
				i.Credential = "main"
				done, err := w.Invalidate(t.Context(), local, i)
				if err != nil || done.Count != test.count {
					t.Errorf("got %+v, %v, want %d", done, err, test.count)
				}
				w.backend.Set(storetest.Hooks{})
				for range 20 {
					sleep(500 * time.Millisecond)
					if get().Token.ID == was.Token.ID {
						t.Fatal("it is served again")
					}
				}
			})
		})
	}
}

// TestAnInvalidationThatMeetsTheCommit: the token is on the wire to the store when it is invalidated, the commit's answer is lost, and then the store
// takes nothing for a moment. What arrived is dropped again.
func TestAnInvalidationThatMeetsTheCommit(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newReplicas(t, 1, &upstream{answer: issues(time.Hour)}, grace(time.Hour))[0]
		w.create("main", nil)
		w.mustGet("main", scopes(t, "another")) // what is known of the credential is confirmed
		var commits, drops atomic.Int32
		invalidated := make(chan struct{})
		w.backend.Set(storetest.Hooks{
			BeforeApply: func(_ context.Context, b store.Batch) error {
				switch {
				case b.Finish && b.Tell == 'n':
					switch commits.Add(1) {
					case 1:
						return store.Unavailable("for a test")
					case 2:
						<-invalidated
					}
				case b.Finish:
					if drops.Add(1) == 1 {
						return store.Unavailable("for a test")
					}
				}
				return nil
			},
			AfterApply: func(_ context.Context, b store.Batch) error {
				if b.Finish && b.Tell == 'n' && commits.Load() == 2 {
					return store.Unavailable("the answer was lost")
				}
				return nil
			},
		})
		id := w.mustGet("main").Token.ID
		sleep(600 * time.Millisecond) // the second commit is on its way
		done, err := w.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", TokenID: id})
		if err != nil || done.Count != 1 {
			t.Fatalf("got %+v, %v", done, err)
		}
		close(invalidated)
		sleep(5 * time.Second)
		if got := w.mustGet("main").Token.ID; got == id {
			t.Error("it is served again")
		}
		if st, err := storetest.Status(t.Context(), w.store, "main"); err != nil || len(st.Tokens) == 0 {
			t.Errorf("got %+v, %v", st, err)
		} else {
			for _, stored := range st.Tokens {
				if stored.ID == id && !stored.Rejected {
					t.Error("it is stored as one that can be served")
				}
			}
		}
	})
}

// TestWhatIsInvalidatedAndArrivesIsDroppedAfterTheLease: an invalidation was acknowledged before the commit of the token arrived; the commit's answer is lost, and the store takes no writes until the lease
// is over.
func TestWhatIsInvalidatedAndArrivesIsDroppedAfterTheLease(t *testing.T) {
	bubble(t, func(t *testing.T) {
		all := newReplicas(t, 2, &upstream{answer: issues(time.Hour)}, grace(time.Hour))
		w, other := all[0], all[1]
		w.create("main", nil)
		w.mustGet("main", scopes(t, "another"))
		var commits atomic.Int32
		invalidated := make(chan struct{})
		w.backend.Set(storetest.Hooks{
			BeforeApply: func(_ context.Context, b store.Batch) error {
				if b.Finish && b.Tell == 'n' {
					if commits.Add(1) != 2 {
						return store.Unavailable("for a test")
					}
					<-invalidated
				}
				return nil
			},
			AfterApply: func(_ context.Context, b store.Batch) error {
				if b.Finish && b.Tell == 'n' && commits.Load() == 2 {
					return store.Unavailable("the answer was lost")
				}
				return nil
			},
		})
		id := w.mustGet("main").Token.ID
		sleep(600 * time.Millisecond)
		done, err := w.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", TokenID: id})
		if err != nil || done.Count != 1 {
			t.Fatalf("got %+v, %v", done, err)
		}
		close(invalidated)
		sleep(30 * time.Second)
		w.backend.Set(storetest.Hooks{})
		sleep(30 * time.Second)
		for i, x := range []*replica{w, other} {
			if got := x.mustGet("main").Token.ID; got == id {
				t.Errorf("broker %d serves it", i)
			}
		}
	})
}

// TestWhatIsInvalidatedIsNotServedWhileTheStoreTakesNothing: the token is on the wire to the store when its invalidation is acknowledged; then the store
// answers what is read, and takes no writes for a while.
func TestWhatIsInvalidatedIsNotServedWhileTheStoreTakesNothing(t *testing.T) {
	for name, tells := range map[string]bool{"from then on": true, "before, but for what is on the wire": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				all := newReplicas(t, 2, &upstream{answer: issues(time.Hour)}, grace(time.Hour))
				w, other := all[0], all[1]
				w.create("main", nil)
				w.mustGet("main", scopes(t, "another"))
				var commits atomic.Int32
				var takes atomic.Bool
				takes.Store(true)
				invalidated := make(chan struct{})
				refused := store.Unavailable("NOREPLICAS, for a test")
				w.backend.Set(storetest.Hooks{
					BeforeApply: func(_ context.Context, b store.Batch) error {
						nth := int32(0)
						if b.Finish && b.Tell == 'n' {
							nth = commits.Add(1)
						}
						switch {
						case nth == 1, !takes.Load():
							return refused
						case nth == 2:
							takes.Store(tells)
							<-invalidated
						}
						return nil
					},
					AfterApply: func(_ context.Context, b store.Batch) error {
						if b.Finish && b.Tell == 'n' && commits.Load() == 2 {
							return store.Unavailable("the answer was lost")
						}
						return nil
					},
				})
				id := w.mustGet("main").Token.ID
				sleep(600 * time.Millisecond) // the second commit is on its way
				done, err := w.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", TokenID: id})
				if err != nil || done.Count != 1 {
					t.Fatalf("got %+v, %v", done, err)
				}
				takes.Store(false)
				close(invalidated)
				for range 25 {
					sleep(time.Second)
					if w.served() == id {
						t.Error("served by the broker that has said that it is gone")
					}
					if tells && other.served() == id {
						t.Error("served by another")
					}
				}
				takes.Store(true)
				sleep(5 * time.Second)
				for i, x := range all {
					if x.served() == id {
						t.Errorf("broker %d serves it", i)
					}
				}
			})
		})
	}
}

// TestAnInvalidatedTokenIsCountedOnce: it was handed out unstored, and has arrived at the store all the same.
func TestAnInvalidatedTokenIsCountedOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newReplicas(t, 1, &upstream{answer: issues(time.Hour)}, grace(time.Hour))[0]
		w.create("main", nil)
		w.mustGet("main", scopes(t, "another"))
		w.backend.Set(storetest.Hooks{AfterApply: func(_ context.Context, b store.Batch) error {
			if b.Finish && b.Tell == 'n' {
				return store.Unavailable("the answer was lost")
			}
			return nil
		}})
		id := w.mustGet("main").Token.ID
		done, err := w.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", TokenID: id})
		if err != nil || done.Count != 1 {
			t.Errorf("got %+v, %v, want one", done, err)
		}
	})
}
