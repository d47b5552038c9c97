package engine_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// lists counts what is read of the store from now on, and how often that was a listing.
func (w *world) lists() (reads, lists *atomic.Int64) {
	reads, lists = &atomic.Int64{}, &atomic.Int64{}
	w.backend.Set(storetest.Hooks{
		BeforeRead: func(context.Context) error { reads.Add(1); lists.Add(1); return nil },
		AfterRead:  func(context.Context) { lists.Add(-1) }, // it was no listing
	})
	return reads, lists
}

// TestAnIDThatNobodyHasListsNothing: a caller may say of a token what it likes, and as often. One row is read for it, however many tokens the
// credential has, and nothing is forgotten of what callers have rejected.
func TestAnIDThatNobodyHasListsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour)}
		for name, w := range map[string]*world{"embedded": newWorld(t, up), "shared": newReplicas(t, 1, up)[0].world} {
			w.create("main", nil)
			bad := w.mustGet("main").Token.ID
			good := w.mustGet("main", rejected(bad)).Token.ID
			synctest.Wait() // whatever goes on behind the calls
			reads, lists := w.lists()
			for i := range 50 {
				if got := w.mustGet("main", rejected(fmt.Sprint("made-up-", i))).Token.ID; got != good {
					t.Errorf("%s: got %s, want %s", name, got, good)
				}
			}
			if r, l := reads.Load(), lists.Load(); l != 0 || r > 100 {
				t.Errorf("%s: got %d reads and %d listings for 50 ids, want two reads each at most", name, r, l)
			}
			before := reads.Load()
			if got := w.mustGet("main", rejected(bad)).Token.ID; got != good || name == "shared" && reads.Load() != before {
				t.Errorf("%s: got %s after %d reads, want %s, and that it is known still that the first was rejected", name, got, reads.Load()-before, good)
			}
			if w.mustGet("main", rejected(good)).Token.ID == good || lists.Load() == 0 {
				t.Errorf("%s: %d listings for a token that is there: the test shows nothing", name, lists.Load())
			}
		}
	})
}

// TestARejectionIsOfWhatWasAskedFor: that a token is not the one of a selection says nothing of the selection whose it is.
func TestARejectionIsOfWhatWasAskedFor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newReplicas(t, 1, &upstream{answer: issues(time.Hour)})[0]
		w.create("main", nil)
		other, id := w.mustGet("main", scopes(t, "a")).Token.ID, w.mustGet("main", scopes(t, "b")).Token.ID
		for i := range 3 {
			if w.mustGet("main", scopes(t, "a"), rejected(id)).Token.ID != other {
				t.Error("another token was replaced")
			}
			next, err := w.get("main", scopes(t, "b"), rejected(id))
			if err != nil || next.Token.ID == id {
				t.Fatalf("rejection %d: %v, want another", i, err)
			}
			id = next.Token.ID
		}
		_, _ = w.get("main", scopes(t, "a"), rejected(id))
		_, err := w.get("main", scopes(t, "b"), rejected(id))
		wantKind(t, err, broker.FreshTokensRejected) // each was counted
	})
}

// TestOneTokenOfTwoSelectionsIsSparedForBoth, or dropped for both: what the store has as rejected is not served.
func TestOneTokenOfTwoSelectionsIsSparedForBoth(t *testing.T) {
	bubble(t, func(t *testing.T) {
		n := 0
		w := newWorld(t, &upstream{answer: func(_ context.Context, x broker.Exchange) (broker.Answer, error) {
			if x.Selection.Scopes.Empty() {
				n++
			}
			return token(fmt.Sprint("token-", n), time.Hour), nil
		}})
		w.create("main", nil)
		id := w.mustGet("main").Token.ID
		for range 3 {
			id = w.mustGet("main", rejected(id)).Token.ID
		}
		if w.mustGet("main", scopes(t, "b")).Token.ID != id {
			t.Fatal("the test wants one token")
		}
		_, err := w.get("main", scopes(t, "b"), rejected(id))
		until := wantKind(t, err, broker.FreshTokensRejected).RetryAt
		status, err := w.CredentialStatus(t.Context(), local, "main")
		if err != nil {
			t.Fatal(err)
		}
		for _, there := range status.Tokens {
			if there.Rejected {
				t.Error("it is rejected under one key and not under the other")
			}
		}
		sleep(time.Until(until))
		n++
		if w.mustGet("main", scopes(t, "b"), rejected(id)).Token.ID == id || w.mustGet("main").Token.ID == id {
			t.Error("served after it was rejected")
		}
	})
}
