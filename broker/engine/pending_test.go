package engine_test

import (
	"context"
	"fmt"
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
