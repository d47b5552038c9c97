package engine_test

import (
	"fmt"
	"math"
	"strings"
	"testing"
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
