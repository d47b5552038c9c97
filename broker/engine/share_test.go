package engine_test

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// TestACallerHasItsShareAndTheOthersHaveTheirs: of what costs something. What is held is served to it all the same.
func TestACallerHasItsShareAndTheOthersHaveTheirs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)}, func(s *engine.Settings) { s.CallerRate = 5 })
		w.create("main", nil)
		w.mustGet("main")
		greedy, other := broker.Caller{Identity: "uid:1", Local: true}, broker.Caller{Identity: "uid:2", Local: true}
		ask := func(c broker.Caller, name string) error {
			_, err := w.Token(t.Context(), c, engine.Request{Credential: broker.CredentialName(name)})
			return err
		}
		for i := range 50 {
			wantKind(t, ask(greedy, fmt.Sprint("nobody-", i)), broker.NotFound)
		}
		f := wantKind(t, ask(greedy, "nobody"), broker.CallerLimited)
		if d := time.Until(f.RetryAt); d <= 0 || d > time.Second || !strings.Contains(f.Error(), "limits.caller_rate") {
			t.Errorf("got %v in %v, want which setting it is, and when to ask again", f, d)
		}
		_, err := w.Credential(t.Context(), greedy, "main")
		wantKind(t, err, broker.CallerLimited)
		for range 1000 {
			if err := ask(greedy, "main"); err != nil {
				t.Fatal(err)
			}
		}
		wantKind(t, ask(other, "nobody"), broker.NotFound)
		sleep(time.Until(f.RetryAt))
		wantKind(t, ask(greedy, "nobody"), broker.NotFound)
	})
}

// TestARateThatCannotBeCounted is as much as can be.
func TestARateThatCannotBeCounted(t *testing.T) {
	w := newWorld(t, &upstream{answer: issues(time.Hour)}, func(s *engine.Settings) { s.CallerRate = math.MaxInt })
	w.create("main", nil)
	w.mustGet("main")
}

// TestWhoGivesUpLeavesABoundedNumberOfFlightsBehind: one caller asks for something else each time, of an upstream that hangs. Others find room, and
// itself when those are over.
func TestWhoGivesUpLeavesABoundedNumberOfFlightsBehind(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up, good := &upstream{}, issues(time.Hour)
		up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			if x.Credential.Name == "main" {
				sleep(19 * time.Second)
			}
			return good(ctx, x)
		}
		w := newWorld(t, up, func(s *engine.Settings) { s.Flights = 100 })
		w.create("main", nil)
		w.create("other", nil)
		greedy, other := broker.Caller{Identity: "uid:1", Local: true}, broker.Caller{Identity: "uid:2", Local: true}
		begun, refused := 0, 0
		for i := range 1000 {
			var r engine.Request
			scopes(t, fmt.Sprint("s-", i))(&r)
			r.Credential = "main"
			short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			_, err := w.Token(short, greedy, r)
			cancel()
			if broker.KindOf(err) == broker.UpstreamSlow {
				begun++
				continue
			}
			if f := wantKind(t, err, broker.CallerLimited); !strings.Contains(f.Error(), "being fetched") || f.RetryAt.IsZero() {
				t.Fatalf("got %v, want why, and when to ask again", f)
			}
			refused++
		}
		if begun != 50 || refused != 950 {
			t.Errorf("got %d flights and %d refusals, want half of the hundred", begun, refused)
		}
		for i := range 30 {
			var r engine.Request
			scopes(t, fmt.Sprint("s-", i))(&r)
			r.Credential = "other"
			if _, err := w.Token(t.Context(), other, r); err != nil {
				t.Fatal(err)
			}
		}
		sleep(2 * time.Minute)
		synctest.Wait()
		if _, err := w.Token(t.Context(), greedy, engine.Request{Credential: "main"}); err != nil {
			t.Error(err)
		}
	})
}
