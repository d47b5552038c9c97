package engine_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// twoNames are two brokers, of which the first hears nothing of the other, and an upstream for which "default" is what a caller gets who names nothing.
func twoNames(t *testing.T) (a, b *replica, up *upstream) {
	t.Helper()
	up = &upstream{answer: issues(time.Hour)}
	all := newReplicas(t, 2, up, grace(time.Hour), func(s *engine.Settings) { s.Upstream = defaulting{up} })
	a, b = all[0], all[1]
	a.create("main", nil)
	a.mustGet("main", scopes(t, "another")) // it knows the credential
	b.mustGet("main", scopes(t, "another"))
	a.memory.Deafen(true)
	sleep(5*time.Second + 60*time.Millisecond) // the confirmer looks at another time
	return a, b, up
}

// TestASlowReadingDoesNotOutdoALaterOne: two readings of one token, by two names, are held up on their way. The token is invalidated between them, and what
// the second says of that stands, also while the store is away.
func TestASlowReadingDoesNotOutdoALaterOne(t *testing.T) {
	for name, successor := range map[string]bool{"there is none any more": false, "there is another": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				a, b, up := twoNames(t)
				gone := b.mustGet("main").Token.ID
				var readings atomic.Int32
				a.backend.Set(storetest.Hooks{AfterRead: func(context.Context) {
					switch readings.Add(1) {
					case 1:
						sleep(1500 * time.Millisecond)
					case 2:
						sleep(501 * time.Millisecond)
					}
				}})
				ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
				defer cancel()
				go func() { _, _ = a.Token(ctx, local, engine.Request{Credential: "main"}) }()
				sleep(500 * time.Millisecond)
				invalidate(t, b, engine.Invalidation{TokenID: gone})
				if successor {
					b.mustGet("main")
				}
				up.script(down)
				sleep(500 * time.Millisecond)
				second := engine.Request{Credential: "main"}
				scopes(t, "default")(&second)
				if res, err := a.Token(ctx, local, second); (err == nil) != successor || err == nil && res.Token.ID == gone {
					t.Fatalf("got %+v, %v", res, err)
				}
				a.backend.Away()
				wantNever(t, a, gone)
				wantNever(t, a, gone, scopes(t, "default"))
			})
		})
	}
}

// TestASlowCommitDoesNotOutdoALaterReading: the answer to a commit takes long. Meanwhile another broker replaces what it stored, and this one reads that.
func TestASlowCommitDoesNotOutdoALaterReading(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a, b, _ := twoNames(t)
		var slow atomic.Bool
		slow.Store(true)
		a.backend.Set(storetest.Hooks{AfterApply: func(_ context.Context, b store.Batch) error {
			if b.Finish && slow.Swap(false) {
				sleep(900 * time.Millisecond)
			}
			return nil
		}})
		first := make(chan string, 1)
		go func() { first <- a.mustGet("main").Token.ID }()
		sleep(200 * time.Millisecond)
		gone := b.mustGet("main").Token.ID
		invalidate(t, b, engine.Invalidation{TokenID: gone})
		next := b.mustGet("main").Token.ID
		sleep(200 * time.Millisecond)
		if got := a.mustGet("main", scopes(t, "default")).Token.ID; got != next {
			t.Fatalf("got %s, want what is stored, %s", got, next)
		}
		if got := <-first; got != next {
			t.Errorf("whoever waited for the commit got %s, want its successor, %s", got, next)
		}
		a.backend.Away()
		wantNever(t, a, gone)
		wantNever(t, a, gone, scopes(t, "default"))
	})
}

// TestWhatHadToMakeRoomWasNotRejected: the store is away, and brokers obtain for themselves more tokens than there is room for. Nobody is told that somebody
// rejects them, but where somebody does.
func TestWhatHadToMakeRoomWasNotRejected(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour)}
		up.facts.ObtainsAlone = true
		w := newReplicas(t, 1, up, grace(time.Hour), func(s *engine.Settings) { s.CacheSize = 10 })[0]
		w.create("main", nil)
		w.mustGet("main")
		w.backend.Away()
		others := func() {
			for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r", "s", "t"} {
				if _, err := w.get("main", scopes(t, name)); broker.KindOf(err) == broker.FreshTokensRejected {
					t.Fatal(err)
				}
			}
			sleep(time.Second)
		}
		for range 20 {
			others()
		}
		was := w.mustGet("main", scopes(t, "rejected")).Token.ID
		for range 3 {
			others()
			was = w.mustGet("main", scopes(t, "rejected"), rejected(was)).Token.ID
		}
		others()
		_, err := w.get("main", scopes(t, "rejected"), rejected(was))
		wantKind(t, err, broker.FreshTokensRejected)
	})
}
