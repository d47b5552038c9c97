package engine_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// TestAStoredTokenWaitsForNobody: all keys of a seeded credential spend one refresh token, one after the other; who needs none of that is served
// meanwhile.
func TestAStoredTokenWaitsForNobody(t *testing.T) {
	audience := func(s string) func(*engine.Request) { return func(r *engine.Request) { r.Selection.Audience = s } }
	bubble(t, func(t *testing.T) {
		n := 0
		up := &upstream{facts: broker.Facts{Refreshes: true, Inputs: map[string]broker.InputFacts{"refresh_token": {Secret: true, Seed: true}}}}
		up.answer = func(_ context.Context, x broker.Exchange) (broker.Answer, error) {
			n++
			nth := n
			if x.Selection.Audience == "slow" {
				sleep(10 * time.Second)
			}
			a := token(fmt.Sprint("access-", nth), time.Hour)
			a.RefreshToken = broker.NewSecret(fmt.Sprint("refresh-", nth))
			return a, nil
		}
		all := newReplicas(t, 2, up)
		all[0].create("main", map[string]string{"refresh_token": "refresh-0"})
		stored := all[0].mustGet("main", audience("b")).Token.ID
		slow := make(chan string, 1)
		go func() { slow <- all[1].mustGet("main", audience("slow")).Token.AccessToken.Reveal() }()
		sleep(time.Second)
		began := time.Now()
		if got := all[1].mustGet("main", audience("b")); got.Token.ID != stored || time.Since(began) > time.Second {
			t.Errorf("got %s after %v, want %s at once", got.Token.ID, time.Since(began), stored)
		}
		another := all[1].mustGet("main", audience("c")).Token.AccessToken.Reveal() // needs its turn
		if first := <-slow; first != "access-2" || another != "access-3" {
			t.Errorf("got %s and %s, want one after the other", first, another)
		}
		for i, x := range up.exchanges() {
			if want := fmt.Sprint("refresh-", i); x.RefreshToken.Reveal() != want {
				t.Errorf("exchange %d presented %s, want %s", i, x.RefreshToken.Reveal(), want)
			}
		}
	})
}

// TestARefreshTokenIsNotPresentedAfterItsReuseWindow, however long the upstream's turn was waited for since that was decided.
func TestARefreshTokenIsNotPresentedAfterItsReuseWindow(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRotating(time.Minute)
		up := &upstream{facts: broker.Facts{Obtains: true, Refreshes: true, Reuse: broker.Reuse{Within: 10 * time.Second}}}
		var presented []time.Time
		up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			switch {
			case x.Credential.Name == "slow":
				sleep(19 * time.Second)
			case x.Run == broker.Refresh:
				presented = append(presented, time.Now())
			}
			return r.answer(ctx, x)
		}
		w := newWorld(t, up)
		w.create("main", nil)
		w.create("slow", nil)
		w.mustGet("main")
		r.lose = func(x broker.Exchange) bool { return x.Run == broker.Refresh }
		sleep(2 * time.Minute)
		_, _ = w.get("main") // its answer is lost
		r.lose = nil
		sleep(4 * time.Second)
		go func() { _, _ = w.get("slow") }() // finds out whether the upstream is well again, and has the turn
		sleep(100 * time.Millisecond)
		w.mustGet("main")
		for _, at := range presented[1:] {
			if d := at.Sub(presented[0]); d > 10*time.Second {
				t.Errorf("a spent refresh token was presented again after %v", d)
			}
		}
	})
}

// TestAPanicWhereATokenIsShownLosesNoRefreshToken that came with it.
func TestAPanicWhereATokenIsShownLosesNoRefreshToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRotating(time.Minute)
		r.current[""] = "refresh-0"
		up := &upstream{answer: r.answer, facts: broker.Facts{Refreshes: true, Inputs: map[string]broker.InputFacts{"refresh_token": {Secret: true, Seed: true}}}}
		panics := true
		w := newReplicas(t, 1, up, func(s *engine.Settings) {
			s.Render = func(*broker.Token) (any, error) {
				if panics {
					panic("render")
				}
				return nil, nil
			}
		})[0]
		w.create("main", map[string]string{"refresh_token": "refresh-0"})
		_, err := w.get("main")
		wantKind(t, err, broker.UpstreamResponseInvalid)
		panics = false
		sleep(time.Minute)
		w.mustGet("main")
		if r.reused > 0 {
			t.Error("a spent refresh token was presented again, whose successor was in this process's hands")
		}
	})
}

// TestPastItsEndNothingIsServedWhileTheStoreIsAway, also where the wall clock was set back meanwhile.
func TestPastItsEndNothingIsServedWhileTheStoreIsAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		machine := &sleeper{}
		w := newReplicas(t, 1, &upstream{answer: issues(time.Minute)}, grace(5*time.Minute), func(s *engine.Settings) { s.Clock = machine.clock() })[0]
		w.create("main", nil)
		w.mustGet("main")
		w.backend.Away()
		sleep(10 * time.Second)
		if res := w.mustGet("main"); !res.Degraded {
			t.Error("not degraded although the store is away")
		}
		machine.slept.Store(int64(-time.Hour)) // NTP, a human
		sleep(3 * time.Minute)
		_, err := w.get("main")
		wantKind(t, err, broker.StoreUnavailable)
	})
}

// TestAFailingUpstreamIsLeftAloneWhereTheStoreCannotBeTold: it is read, takes no writes, and has never heard of it.
func TestAFailingUpstreamIsLeftAloneWhereTheStoreCannotBeTold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour), host: "host:443", facts: broker.Facts{ObtainsAlone: true}}
		w := newReplicas(t, 1, up, grace(5*time.Minute))[0]
		w.create("main", nil)
		w.mustGet("main")
		up.script(failsAfter(0))
		w.backend.Set(storetest.Hooks{BeforeApply: func(context.Context, store.Batch) error { return store.Unavailable("it takes no writes") }})
		before := len(up.exchanges())
		for range 60 {
			for k := range 50 {
				_, _ = w.get("main", scopes(t, fmt.Sprint("s", k)))
			}
			sleep(time.Second)
		}
		if n := len(up.exchanges()) - before; n > 10 {
			t.Errorf("an upstream that fails was asked %d times in a minute, want it to be left alone for longer each time", n)
		}
	})
}

// TestARejectionOfNothingDisturbsNobody: what others of the credential have just read is not read again for it.
func TestARejectionOfNothingDisturbsNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour)}
		w := newReplicas(t, 1, up)[0]
		w.create("main", nil)
		w.mustGet("main")
		var told atomic.Int32
		ctx, cancel := context.WithCancel(t.Context())
		watching := make(chan struct{})
		go func() {
			defer close(watching)
			_ = w.Watch(ctx, local, engine.Request{Credential: "main"}, "", func(engine.Event) error { told.Add(1); return nil })
		}()
		sleep(time.Second)
		up.script(failsAfter(0))
		dead := w.served()
		if _, err := w.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", TokenID: dead}); err != nil {
			t.Fatal(err)
		}
		sleep(time.Second)
		before := told.Load()
		var reads atomic.Int32
		w.backend.Set(storetest.Hooks{BeforeRead: func(context.Context) error { reads.Add(1); return nil }})
		for i := range 100 {
			for _, id := range []string{fmt.Sprintf("%032x", i), dead} { // what nobody has, and what is known to be rejected
				if _, err := w.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", TokenID: id}); err != nil {
					t.Fatal(err)
				}
			}
		}
		cancel()
		<-watching
		if n := reads.Load(); n > 420 || told.Load() != before {
			t.Errorf("%d reads for two hundred invalidations of nothing, and the watch was told %d times more; want two each, and nothing", n, told.Load()-before)
		}
	})
}

// TestAnotherDefinitionPresentsARefusedRefreshTokenAgain: what was refused may have been the request.
func TestAnotherDefinitionPresentsARefusedRefreshTokenAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRotating(time.Minute)
		w := seeded(t, r, broker.Facts{})
		w.mustGet("main")
		r.mu.Lock()
		r.revoked[""] = true
		r.mu.Unlock()
		sleep(2 * time.Minute)
		_, err := w.get("main")
		wantKind(t, err, broker.ReauthorizationRequired)
		r.mu.Lock()
		delete(r.revoked, "")
		r.mu.Unlock()
		_, err = w.get("main")
		wantKind(t, err, broker.ReauthorizationRequired)
		w.up.facts.Digest += " mended"
		w.up.revision.Add(1)
		sleep(time.Minute) // but not at once: see TestTwoDefinitionsDoNotTakeTurns
		if st, err := w.CredentialStatus(t.Context(), local, "main"); err != nil || st.State == engine.Reauthorize {
			t.Errorf("got state %v, %v: another definition has not been refused anything", st.State, err)
		}
		w.mustGet("main")
	})
}

// TestTheStateAfterATestThatFailed: a test leaves no failure behind, and its attempts say all the same what is wrong; until somebody mends it.
func TestTheStateAfterATestThatFailed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fails := &broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: "invalid_client"}
		up := &upstream{facts: broker.Facts{Inputs: map[string]broker.InputFacts{"client_secret": {Secret: true, Optional: true}}}}
		up.answer = func(context.Context, broker.Exchange) (broker.Answer, error) {
			e := *fails
			e.Attempts = []broker.Attempt{{Start: time.Now(), Host: "host:443", Status: e.Status, Reason: e.Kind().Name()}}
			return broker.Answer{}, &e
		}
		w := newWorld(t, up)
		w.create("main", nil)
		var chosen broker.Selection
		want := func(state engine.State, advice string) {
			t.Helper()
			trial, err := w.TestCredential(t.Context(), local, "main", chosen, false)
			if err != nil || broker.KindOf(trial.Failure) != fails.Kind() {
				t.Fatalf("got %v, %v", trial.Failure, err)
			}
			rep, err := w.CredentialStatus(t.Context(), local, "main")
			if err != nil || rep.State != state || !strings.Contains(rep.Advice, advice) || broker.KindOf(rep.Failure) != fails.Kind() {
				t.Errorf("got state %v, advice %q, %v, %v; want %v, %q", rep.State, rep.Advice, rep.Failure, err, state, advice)
			}
		}
		for range 3 {
			want(engine.Misconfigured, "set the secret again")
		}
		sleep(time.Minute)
		w.update("main", func(d *engine.Draft) { d.Secrets = secretMap(map[string]string{"client_secret": "another"}) })
		if rep, err := w.CredentialStatus(t.Context(), local, "main"); err != nil || rep.State == engine.Misconfigured || !strings.Contains(rep.Advice, "changed since") {
			t.Errorf("after a change: got state %v, advice %q, %v", rep.State, rep.Advice, err)
		}
		sleep(time.Minute)
		fails = &broker.UpstreamError{Level: broker.LevelUpstream, Status: 503}
		want(engine.Degraded, "wait")
		sleep(5 * time.Second) // until then the same test is told the same
		fails = &broker.UpstreamError{Level: broker.LevelScope, Status: 400, Code: "invalid_scope"}
		asked, err := broker.ParseSet("scopes", []string{"admin"})
		if err != nil {
			t.Fatal(err)
		}
		chosen.Scopes = asked
		want(engine.Degraded, "other scopes")
	})
}
