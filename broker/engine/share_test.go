package engine_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math"
	"strings"
	"sync/atomic"
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
		greedy, other := broker.NewCaller(broker.Local, "", "", broker.ProofNone, "uid:1"), broker.NewCaller(broker.Local, "", "", broker.ProofNone, "uid:2")
		ask := func(c *broker.Caller, name string) error {
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
			if x.Credential.Name != "other" {
				sleep(19 * time.Second)
			}
			return good(ctx, x)
		}
		w := newWorld(t, up, func(s *engine.Settings) { s.Flights = 100 })
		for _, name := range []string{"main", "second", "other"} {
			w.create(name, nil)
		}
		greedy, other := broker.NewCaller(broker.Local, "", "", broker.ProofNone, "uid:1"), broker.NewCaller(broker.Local, "", "", broker.ProofNone, "uid:2")
		begun, refused := 0, 0
		for i := range 1000 {
			var r engine.Request
			scopes(t, fmt.Sprint("s-", i))(&r)
			short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			r.Credential = broker.CredentialName([]string{"main", "second"}[i/500])
			_, err := w.Token(short, greedy, r)
			cancel()
			f := wantKind(t, err, broker.UpstreamSlow)
			if f.Detail == "" {
				begun++
				continue
			}
			if !strings.Contains(f.Error(), "being fetched") || f.RetryAt.IsZero() {
				t.Fatalf("got %v, want why, and when to ask again", f)
			}
			refused++
		}
		if begun != 34+11 || refused != 1000-begun {
			t.Errorf("got %d flights and %d refusals, want a third of the hundred, and a third of the third that is left to it", begun, refused)
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

// slowed is a broker with two credentials, of which one is answered slowly as soon as that is said.
func slowed(t *testing.T, life time.Duration, more ...func(*engine.Settings)) (w *world, slow *atomic.Bool) {
	t.Helper()
	slow = &atomic.Bool{}
	good := issues(life)
	w = newWorld(t, &upstream{answer: func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
		if slow.Load() && x.Credential.Name == "slow" {
			sleep(15 * time.Second)
		}
		return good(ctx, x)
	}}, append(more, func(s *engine.Settings) { s.Flights = 100 })...)
	w.create("slow", nil)
	w.create("well", nil)
	return w, slow
}

// TestASlowCredentialTakesNoOthersFlights: also where all who ask are one caller, as all are who come over TCP. What is said names the slow one.
func TestASlowCredentialTakesNoOthersFlights(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w, slow := slowed(t, time.Hour)
		slow.Store(true)
		named := make(chan error, 100)
		for i := range 100 {
			go func() {
				if _, err := w.get("slow", scopes(t, fmt.Sprint("s-", i))); err != nil {
					named <- err
				}
			}()
		}
		synctest.Wait()
		for i := range 30 {
			if _, err := w.get("well", scopes(t, fmt.Sprint("s-", i))); err != nil {
				t.Errorf("after %d s: %v", i, err)
			}
			sleep(time.Second)
		}
		if f := wantKind(t, <-named, broker.UpstreamSlow); f.Credential != "slow" || !strings.Contains(f.Error(), "being fetched") {
			t.Errorf("got %v, want which credential is slow", f)
		}
		sleep(2 * time.Minute)
	})
}

// TestASlowCredentialKeepsNoOthersTokensFromBeingRefreshed. What cannot be refreshed yet is said once, is counted, and is tried again soon.
func TestASlowCredentialKeepsNoOthersTokensFromBeingRefreshed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var log bytes.Buffer
		w, slow := slowed(t, 10*time.Minute, func(s *engine.Settings) { s.Log = slog.New(slog.NewTextHandler(&log, nil)) })
		const tokens = 80
		slows := func(do func(i int, r engine.Request)) {
			for i := range tokens {
				r := engine.Request{Credential: "slow"}
				scopes(t, fmt.Sprint("s-", i))(&r)
				do(i, r)
			}
		}
		slows(func(_ int, r engine.Request) { // some tens at a time
			if _, err := w.Token(t.Context(), local, r); err != nil {
				t.Fatal(err)
			}
		})
		first := w.mustGet("well").Token
		slow.Store(true)
		sleep(time.Until(first.ExpireTime.Add(-2 * time.Minute))) // all are past their refresh time
		slows(func(_ int, r engine.Request) { _, _ = w.Token(t.Context(), local, r) })
		w.mustGet("well")
		synctest.Wait()
		if w.mustGet("well").Token.ID == first.ID {
			t.Error("its refresh was not begun")
		}
		if n := w.Supplies()["scripted"].Failing; n < tokens/2 {
			t.Errorf("%d tokens are counted as failing, want those that cannot be refreshed yet", n)
		}
		slow.Store(false) // but for those that are under way
		sleep(20 * time.Second)
		for range 3 {
			slows(func(_ int, r engine.Request) { _, _ = w.Token(t.Context(), local, r) })
			sleep(2 * time.Second)
		}
		slows(func(i int, r engine.Request) {
			if res, err := w.Token(t.Context(), local, r); err != nil || res.Degraded || res.Token.ExpireTime.Equal(first.ExpireTime) {
				t.Errorf("%d was not refreshed: %v", i, err)
			}
		})
		if n := strings.Count(log.String(), "refresh not begun"); n != 1 {
			t.Errorf("it was said %d times, want once a minute:\n%s", n, log.String())
		}
	})
}
