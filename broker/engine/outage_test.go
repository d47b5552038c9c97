package engine_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// nobodys is the id of no token.
const nobodys = "0123456789abcdef0123456789abcdef"

// TestARejectionChangesWhatItNamesOnly: while the store is away, one caller who rejects a token that is long gone takes nobody's
// token away.
func TestARejectionChangesWhatItNamesOnly(t *testing.T) {
	for how, reject := range map[string]func(*replica){
		"GetToken": func(w *replica) { _, _ = w.get("main", rejected(nobodys)) },
		"Invalidate": func(w *replica) {
			_, err := w.Invalidate(w.t.Context(), local, engine.Invalidation{Credential: "main", TokenID: nobodys})
			wantKind(w.t, err, broker.StoreUnavailable)
		},
		"Invalidate of another selection": func(w *replica) {
			third := engine.Request{}
			scopes(w.t, "third")(&third)
			_, err := w.Invalidate(w.t.Context(), local, engine.Invalidation{Credential: "main", All: true, Selection: third.Selection})
			wantKind(w.t, err, broker.StoreUnavailable)
		},
	} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newReplicas(t, 1, &upstream{answer: issues(time.Hour)}, grace(5*time.Minute))[0]
				w.create("main", nil)
				one, other := w.mustGet("main").Token.ID, w.mustGet("main", scopes(t, "other")).Token.ID
				w.backend.Away()
				sleep(3 * time.Second)
				reject(w)
				if got := w.mustGet("main").Token.ID; got != one {
					t.Errorf("got %q, want the token that nobody rejected", got)
				}
				if got := w.mustGet("main", scopes(t, "other")).Token.ID; got != other {
					t.Errorf("got %q, want the other selection's", got)
				}
			})
		})
	}
}

// TestATokenThatOnlyThisProcessHasCanBeInvalidated: it is gone, and counted.
func TestATokenThatOnlyThisProcessHasCanBeInvalidated(t *testing.T) {
	for how, name := range map[string]func(engine.Result) engine.Invalidation{
		"by its id": func(r engine.Result) engine.Invalidation {
			return engine.Invalidation{Credential: "main", TokenID: r.Token.ID}
		},
		"by itself": func(r engine.Result) engine.Invalidation {
			return engine.Invalidation{Credential: "main", AccessToken: r.Token.AccessToken}
		},
	} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				up := &upstream{answer: issues(time.Hour), facts: broker.Facts{ObtainsAlone: true}}
				w := newReplicas(t, 1, up, grace(5*time.Minute))[0]
				w.create("main", nil)
				synctest.Wait()
				w.backend.Set(storetest.Hooks{BeforeApply: func(context.Context, store.Batch) error { return store.Unavailable("takes nothing") }})
				was := w.mustGet("main")
				done, err := w.Invalidate(t.Context(), local, name(was))
				if err != nil || done.Count != 1 {
					t.Errorf("got %+v, %v, want one", done, err)
				}
				for range 70 {
					if w.served() == was.Token.ID {
						t.Fatal("it is still served")
					}
					sleep(time.Minute)
				}
			})
		})
	}
}

// TestAFailedCommitBlocksNobody: it is made again at once, and the lease goes with it.
func TestAFailedCommitBlocksNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		all := newReplicas(t, 2, &upstream{answer: issues(time.Hour)}, grace(5*time.Minute))
		all[0].create("main", nil)
		synctest.Wait()
		failed := false
		all[0].backend.Set(storetest.Hooks{BeforeApply: func(_ context.Context, b store.Batch) error {
			if b.Finish && !failed {
				failed = true
				return store.Unavailable("one commit does not get through")
			}
			return nil
		}})
		first := all[0].mustGet("main")
		if !first.Degraded {
			t.Error("a token that is not stored yet is not marked")
		}
		began := time.Now()
		second := all[1].mustGet("main")
		if d := time.Since(began); d > time.Second {
			t.Errorf("another broker's caller waited %v", d)
		}
		if first.Token.ID != second.Token.ID {
			t.Error("the other broker has obtained another token")
		}
		all[0].wantExchanges(1)
	})
}

// TestALostAcquireIsTakenBack: nothing was sent, and the broker that knows it says so as soon as the store is back.
func TestALostAcquireIsTakenBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := newLines()
		w := newReplicas(t, 1, up.upstream, grace(5*time.Minute))[0]
		w.create("main", map[string]string{"refresh_token": "a.0"})
		synctest.Wait()
		w.backend.Set(storetest.Hooks{AfterApply: func(context.Context, store.Batch) error {
			w.backend.Away()
			return store.Unavailable("the answer was lost")
		}})
		_, err := w.get("main")
		wantKind(t, err, broker.StoreUnavailable)
		sleep(3 * time.Second)
		w.backend.Set(storetest.Hooks{})
		began := time.Now()
		for {
			if _, err := w.get("main"); err == nil {
				break
			}
			sleep(100 * time.Millisecond)
		}
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("there was no token for %v after the store was back", d)
		}
		w.wantExchanges(1)
	})
}

// TestAnIdleEntryIsNotServedForTheGrace: one whose part of the store was away for a moment, and that nobody asked for then, is
// asked about before it is served again.
func TestAnIdleEntryIsNotServedForTheGrace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		all := newPartials(t, 2, &upstream{answer: issues(time.Hour)}, grace(5*time.Minute))
		a, b := all[0], all[1]
		a.create("main", nil)
		a.create("other", nil)
		main := b.group("main")
		synctest.Wait()
		id := a.mustGet("main").Token.ID
		b.mustGet("main")
		b.mustGet("other")
		b.parts.Deafen(true) // it hears nothing of what others do
		b.parts.lose(only(main))
		other := func(d time.Duration) { // something else is hot
			for end := time.Now().Add(d); time.Now().Before(end); sleep(100 * time.Millisecond) {
				b.mustGet("other")
			}
		}
		other(6 * time.Second)
		b.parts.lose(nil)
		other(5 * time.Second)
		if _, err := a.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", TokenID: id}); err != nil {
			t.Fatal(err)
		}
		other(bound)
		for range 300 {
			if r, err := b.get("main"); err == nil && r.Token.ID == id {
				t.Fatal("an invalidated token is served although the store can be reached")
			}
			other(time.Second)
		}
	})
}

// TestAPartThatIsAwayIsNoOtherPartsConcern, however long it is.
func TestAPartThatIsAwayIsNoOtherPartsConcern(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newPartials(t, 1, &upstream{answer: issues(time.Hour)}, grace(5*time.Minute))[0]
		for _, name := range []string{"hot", "cold", "warm"} {
			w.create(name, nil)
		}
		hot := w.group("hot")
		w.mustGet("hot")
		w.parts.lose(only(hot))
		for range 100 {
			sleep(100 * time.Millisecond)
			if r := w.mustGet("hot"); time.Since(r.Token.ExpireTime) > 0 {
				t.Fatal("expired")
			}
		}
		if w.mustGet("cold").Degraded {
			t.Error("a credential of another part is degraded")
		}
		sleep(10 * time.Minute)
		if w.mustGet("warm").Degraded {
			t.Error("ten minutes later, a credential of another part is degraded")
		}
		_, err := w.get("hot")
		wantKind(t, err, broker.StoreUnavailable)
	})
}

// TestATakeoverWaitsForItsOwnCredentialOnly: what the store could not do for another one does not begin the grace anew.
func TestATakeoverWaitsForItsOwnCredentialOnly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := newLines()
		all := newPartials(t, 2, up.upstream, grace(5*time.Minute))
		a, b := all[0], all[1]
		a.create("main", map[string]string{"refresh_token": "a.0"})
		a.create("other", map[string]string{"refresh_token": "b.0"})
		other := b.group("other")
		synctest.Wait()
		key := broker.TokenKey{Credential: "main", Token: [32]byte{9}, Selection: [32]byte{9}, Digest: "digest-1", Spends: true}
		v, err := a.store.Read(t.Context(), key, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Acquire(t.Context(), 22*time.Second, true); err != nil {
			t.Fatal(err)
		} // and it is killed
		b.parts.lose(only(other))
		began, done := time.Now(), make(chan time.Duration, 1)
		go func() {
			if _, err := b.get("main"); err == nil {
				done <- time.Since(began)
			}
		}()
		for range 60 {
			sleep(time.Second)
			_, _ = b.get("other")
			select {
			case d := <-done:
				if d > 35*time.Second {
					t.Errorf("given up after %v, want the lease and the grace", d)
				}
				b.parts.lose(nil)
				return
			default:
			}
		}
		t.Error("no token within a minute, although its part of the store is well")
	})
}

// TestPendingCommitsHoldNoTurn: sixteen refreshes that wait with their successors for the store keep nobody else from the upstream.
func TestPendingCommitsHoldNoTurn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var n atomic.Int32
		up := spentByUse()
		up.facts.Obtains, up.facts.ObtainsAlone = true, true
		up.facts.Inputs["refresh_token"] = broker.InputFacts{Secret: true, Seed: true, Optional: true}
		up.answer = func(_ context.Context, x broker.Exchange) (broker.Answer, error) {
			a := token(fmt.Sprint("t", n.Add(1)), time.Hour)
			if x.Run == broker.Refresh {
				a.RefreshToken = broker.NewSecret(fmt.Sprint("r", n.Load()))
			}
			return a, nil
		}
		w := newReplicas(t, 1, up, grace(time.Hour))[0]
		for i := range 16 {
			w.create(fmt.Sprint("seeded-", i), map[string]string{"refresh_token": "refresh-0"})
		}
		w.create("own", nil)
		w.backend.Set(storetest.Hooks{BeforeApply: func(_ context.Context, b store.Batch) error {
			if b.Finish {
				return store.Unavailable("no commit gets through")
			}
			return nil
		}})
		for i := range 16 {
			go func() { _, _ = w.get(fmt.Sprint("seeded-", i)) }()
		}
		sleep(time.Second)
		began := time.Now()
		w.mustGet("own")
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("it waited %v for turns that nobody uses", d)
		}
		w.backend.Set(storetest.Hooks{})
	})
}

// TestTestsOfACredentialAreShared: whoever asks again and again, and gives up, has one exchange made at a time.
func TestTestsOfACredentialAreShared(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
			sleep(time.Second)
			return token("t", time.Hour), nil
		}}
		w := newWorld(t, up)
		w.create("main", nil)
		for range 500 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			_, err := w.TestCredential(ctx, local, "main", broker.Selection{}, false)
			cancel()
			wantKind(t, err, broker.UpstreamSlow)
		}
		sleep(10 * time.Minute)
		if n := len(up.exchanges()); n > 2 {
			t.Errorf("%d exchanges in half a second of tests", n)
		}
	})
}

// TestNamesFillNoMemory: names that nobody has, asked for, watched, invalidated and deleted, with and without the store.
func TestNamesFillNoMemory(t *testing.T) {
	for how, away := range map[string]bool{"the store is well": false, "the store is away": true} {
		t.Run(how, func(t *testing.T) {
			w := newReplicas(t, 1, &upstream{answer: issues(time.Hour)}, grace(5*time.Minute))[0]
			w.create("main", nil)
			w.mustGet("main")
			if away {
				w.backend.Away()
			}
			ask := func(n int) {
				for i := range n {
					name := broker.CredentialName(fmt.Sprintf("no-such-credential-%032d", i))
					_, err := w.Token(t.Context(), local, engine.Request{Credential: name})
					err = errors.Join(err, w.DeleteCredential(t.Context(), local, name, broker.ID{}))
					_, inv := w.Invalidate(t.Context(), local, engine.Invalidation{Credential: name, All: true})
					if err == nil || inv == nil {
						t.Fatal("no failure")
					}
				}
			}
			ask(1000) // whatever is allocated once
			before := heap()
			const n = 20_000
			ask(n)
			if grown := heap() - before; grown > n*20 {
				t.Errorf("%d names have left %d bytes each", n, grown/n)
			}
			runtime.KeepAlive(w)
		})
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestADefinitionThatIsReadAgainChangesNothingInAnOutage, unless it says something else: the revision is of all definitions together.
func TestADefinitionThatIsReadAgainChangesNothingInAnOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newReplicas(t, 1, &upstream{answer: issues(24 * time.Hour)}, grace(time.Hour))[0]
		w.create("main", nil)
		id := w.mustGet("main").Token.ID
		w.backend.Away()
		for range 5 {
			w.up.revision.Add(1)
			sleep(10 * time.Second)
			if res, err := w.get("main"); err != nil || res.Token.ID != id || !res.Degraded {
				t.Errorf("got %+v, %v", res, err)
			}
		}
		w.up.facts.Digest = "another"
		w.up.revision.Add(1)
		_, err := w.get("main")
		wantKind(t, err, broker.StoreUnavailable)
	})
}
