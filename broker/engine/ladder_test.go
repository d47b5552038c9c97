package engine_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// answers scripts an upstream that always fails like this.
func answers(e broker.UpstreamError) func(context.Context, broker.Exchange) (broker.Answer, error) {
	return func(context.Context, broker.Exchange) (broker.Answer, error) {
		failure := e
		return broker.Answer{}, &failure
	}
}

// untilAsked asks once a second until the upstream is asked again, and returns how that ended.
func (w *world) untilAsked(more ...func(*engine.Request)) *broker.Failure {
	w.t.Helper()
	for n := len(w.up.exchanges()); ; sleep(time.Second) {
		_, err := w.get("main", more...)
		if len(w.up.exchanges()) > n {
			f, _ := err.(*broker.Failure) //nolint:errorlint // a Failure is never wrapped
			return f
		}
	}
}

// TestTheFirstRefusalIsTheFirst, however often something failed before that passes by itself: it is left alone for a minute.
func TestTheFirstRefusalIsTheFirst(t *testing.T) {
	refused := broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: "invalid_client"}
	for name, passes := range map[string]broker.UpstreamError{
		"an answer that is nonsense": {Level: broker.LevelResponse, Status: 200}, "an outage": {Level: broker.LevelUpstream, Status: 503},
	} {
		for _, alone := range []bool{false, true} {
			bubble(t, func(t *testing.T) {
				up := &upstream{answer: issues(5 * time.Hour), facts: broker.Facts{ObtainsAlone: true}}
				w := newReplicas(t, 1, up, grace(5*time.Hour))[0].world
				w.create("main", nil)
				w.mustGet("main")
				if alone {
					w.backend.Away()
				}
				up.script(answers(passes))
				for range 60 {
					_, _ = w.get("main", scopes(t, "x"))
					sleep(time.Second)
				}
				up.script(answers(refused))
				if f := w.untilAsked(scopes(t, "x")); f.Kind != broker.CredentialMisconfigured || time.Until(f.RetryAt) > 2*time.Minute {
					t.Errorf("after %s, alone %v: got %v for %v, want a minute", name, alone, f, time.Until(f.RetryAt))
				}
			})
		}
	}
}

// TestWhatNoCodeSaysIsAskedAgainSoon: a proxy's 404 or a firewall's 403 passes, and the credential was right all the time.
func TestWhatNoCodeSaysIsAskedAgainSoon(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Minute)}
		w := newWorld(t, up)
		w.create("main", nil)
		w.mustGet("main")
		up.script(answers(broker.UpstreamError{Level: broker.LevelCredential, Status: 404, Mute: true}))
		for range 3600 {
			_, _ = w.get("main")
			sleep(time.Second)
		}
		up.script(issues(time.Minute))
		began := time.Now()
		w.untilAsked()
		if d := time.Since(began); d > 16*time.Minute {
			t.Errorf("asked again %v after all was well", d)
		}
	})
}

// TestWhatIsNeverExplainedCostsAHandfulADay in the end, as any other refusal.
func TestWhatIsNeverExplainedCostsAHandfulADay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: answers(broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Mute: true})}
		w := newWorld(t, up)
		w.create("main", nil)
		for day, most := range []int{24, 6, 6} {
			before := len(up.exchanges())
			for range 24 * 60 {
				_, _ = w.get("main")
				sleep(time.Minute)
			}
			if n := len(up.exchanges()) - before; n > most {
				t.Errorf("day %d: %d exchanges, want %d at most", day, n, most)
			}
		}
	})
}

// TestARefusalIsOfOneVersion: what the broker was refused while it was alone says nothing of a credential that was mended since.
func TestARefusalIsOfOneVersion(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour), facts: broker.Facts{ObtainsAlone: true}}
		w := newReplicas(t, 1, up, grace(5*time.Hour))[0]
		w.create("main", map[string]string{"client_secret": "wrong"})
		w.mustGet("main", scopes(t, "known"))
		good := issues(time.Hour)
		up.script(func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			if x.Credential.Secrets["client_secret"].Value.Reveal() == "wrong" {
				return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: "invalid_client"}
			}
			return good(ctx, x)
		})
		w.backend.Away()
		for range 900 {
			_, _ = w.get("main")
			sleep(time.Second)
		}
		w.backend.Set(storetest.Hooks{})
		sleep(5 * time.Second)
		w.update("main", func(d *engine.Draft) { d.Secrets = secretMap(map[string]string{"client_secret": "right"}) })
		w.mustGet("main", scopes(t, "known"))
		w.backend.Away()
		sleep(3 * time.Second)
		w.mustGet("main")
	})
}

// TestTwoDefinitionsDoNotTakeTurns at a refresh token that is refused, in a fleet that is just being changed.
func TestTwoDefinitionsDoNotTakeTurns(t *testing.T) {
	bubble(t, func(t *testing.T) {
		keys, n := newKeys(t), 0
		var all []*world
		for i, m := range storetest.NewReplicas(2) {
			up := &upstream{facts: broker.Facts{Digest: fmt.Sprint("digest-", i), Refreshes: true, Inputs: map[string]broker.InputFacts{"refresh_token": {Secret: true, Seed: true}}}}
			up.answer = func(context.Context, broker.Exchange) (broker.Answer, error) {
				n++
				return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelGrant, Status: 400, Code: "invalid_grant"}
			}
			up.complete()
			backend := storetest.NewFaults(m)
			s, err := store.New(backend.Whole(), keys, store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			w := &world{t: t, up: up, store: s, backend: backend}
			w.start()
			all = append(all, w)
		}
		all[0].create("main", map[string]string{"refresh_token": "revoked"})
		for range 3600 {
			for _, w := range all {
				_, err := w.get("main")
				wantKind(t, err, broker.ReauthorizationRequired)
			}
			sleep(time.Second)
		}
		if n > 62 { // at most once a minute
			t.Errorf("a refused refresh token was presented %d times in an hour", n)
		}
	})
}

// TestAReuseWindowIsOfTheFirstRequest: what comes after it has the successor in its hands.
func TestAReuseWindowIsOfTheFirstRequest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRotating(time.Minute)
		w := seeded(t, r, broker.Facts{Reuse: broker.Reuse{Within: 10 * time.Second}})
		w.mustGet("main")
		first := true
		w.up.script(func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			if first {
				first = false
				return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Lost: true}
			}
			a, err := r.answer(ctx, x)
			if err != nil {
				return a, err
			}
			sleep(3 * time.Second)
			if err := x.BeforeSend("the second request"); err != nil {
				return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Refused: true, Lost: true}
			}
			return a, nil
		})
		sleep(2 * time.Minute)
		_, _ = w.get("main")
		sleep(8 * time.Second)
		_, _ = w.get("main")
		sleep(time.Minute)
		if _, err := w.get("main"); err != nil || r.reused > 0 {
			t.Errorf("got %v, and %d reuses", err, r.reused)
		}
	})
}

// TestATestLeavesWhatIsRememberedAsItIs, also one that brings a token which nobody could use.
func TestATestLeavesWhatIsRememberedAsItIs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(-time.Hour)}
		w := newWorld(t, up)
		w.create("main", nil)
		for range 300 {
			_, _ = w.get("main")
			sleep(time.Second)
		}
		n := len(up.exchanges())
		if _, err := w.TestCredential(t.Context(), local, "main", broker.Selection{}, false); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			_, _ = w.get("main")
			sleep(time.Second)
		}
		if more := len(up.exchanges()) - n - 1; more > 1 {
			t.Errorf("%d exchanges in ten seconds after a test", more)
		}
	})
}

// TestWhatIsVoidIsNotServedWhereThereWasNoToken: all tokens are invalidated while the first is on its way, and the store goes away before it comes.
func TestWhatIsVoidIsNotServedWhereThereWasNoToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour)}
		w := newReplicas(t, 1, up, grace(5*time.Minute))[0]
		w.create("main", nil)
		comes := make(chan struct{})
		up.script(func(context.Context, broker.Exchange) (broker.Answer, error) {
			<-comes
			return token("void", time.Hour), nil
		})
		var asking sync.WaitGroup
		asking.Go(func() { _, _ = w.get("main") })
		sleep(time.Second)
		if _, err := w.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", All: true}); err != nil {
			t.Fatal(err)
		}
		w.backend.Away()
		close(comes)
		asking.Wait()
		for i := range 600 {
			if r, err := w.get("main"); err == nil && r.Token.AccessToken.Reveal() == "void" {
				t.Fatalf("served %d s after all was invalidated", i)
			}
			sleep(time.Second)
		}
	})
}

// holding is a part of the store whose answers can be held up once they are there.
type holding struct {
	*storetest.Replica
	mu   sync.Mutex
	once func()
}

func (h *holding) Read(ctx context.Context, asks ...store.Ask) ([]store.Reading, error) {
	all, err := h.Replica.Read(ctx, asks...)
	h.mu.Lock()
	once := h.once
	if len(asks) > 1 { // a flight's
		h.once = nil
	}
	h.mu.Unlock()
	if once != nil && len(asks) > 1 {
		once()
	}
	return all, err
}

// TestAnInvalidationThatComesSecondCounts: another broker's was first, of which this one has not heard; a flight here has read the token before.
func TestAnInvalidationThatComesSecondCounts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour), host: "host:443"}
		up.complete()
		keys := newKeys(t)
		var all []*world
		var parts []*holding
		for _, m := range storetest.NewReplicas(2) {
			p := &holding{Replica: m}
			s, err := store.New(p, keys, store.Options{})
			if err != nil {
				t.Fatal(err)
			}
			w := &world{t: t, up: up, store: s}
			w.start()
			all, parts = append(all, w), append(parts, p)
		}
		all[0].create("main", nil)
		id := all[1].mustGet("main").Token.ID
		parts[0].Deafen(true)
		reading, goes := make(chan struct{}), make(chan struct{})
		parts[0].mu.Lock()
		parts[0].once = func() { close(reading); <-goes }
		parts[0].mu.Unlock()
		var asking sync.WaitGroup
		asking.Go(func() { _, _ = all[0].get("main") })
		<-reading
		for _, w := range []*world{all[1], all[0]} {
			if _, err := w.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", TokenID: id}); err != nil {
				t.Fatal(err)
			}
		}
		close(goes)
		asking.Wait()
		if got := all[0].mustGet("main").Token.ID; got == id {
			t.Error("served by the broker that has just said that it is gone")
		}
	})
}

// TestAReuseWindowIsOfEachExchange: the one with the former secret presents the refresh token as well.
func TestAReuseWindowIsOfEachExchange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRotating(20 * time.Minute)
		w := seeded(t, r, broker.Facts{Reuse: broker.Reuse{Within: 10 * time.Second}})
		w.update("main", func(d *engine.Draft) { d.Secrets = secretMap(map[string]string{"client_secret": "secret-1"}) })
		w.mustGet("main")
		if _, err := w.RotateSecret(t.Context(), local, engine.Rotation{Name: "main", Secrets: secretMap(map[string]string{"client_secret": "secret-2"})}); err != nil {
			t.Fatal(err)
		}
		w.mustGet("main")
		var presented []time.Time
		w.up.script(func(_ context.Context, _ broker.Exchange) (broker.Answer, error) {
			presented = append(presented, time.Now())
			if len(presented) == 1 {
				return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Lost: true}
			}
			sleep(5 * time.Second)
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: "invalid_client", InvalidClient: true}
		})
		// The token that there is goes on being good, so nothing is gained by a risk.
		longer := func(r *engine.Request) { r.MinTTL = 15 * time.Minute }
		sleep(10 * time.Minute)
		_, _ = w.get("main", longer) // the answer is lost
		sleep(8 * time.Second)
		// May be presented again. The client is refused when the window is over, and that is what counts: the other secret was not tried.
		_, _ = w.get("main", longer)
		if st, err := storetest.Status(t.Context(), w.store, "main"); err != nil || st.Failure == nil || st.Failure.Kind != broker.CredentialMisconfigured {
			t.Errorf("got failure %v, %v, want the client's", st.Failure, err)
		}
		for _, at := range presented {
			if d := at.Sub(presented[0]); d > 10*time.Second {
				t.Errorf("presented %v after its first use", d)
			}
		}
		if len(presented) != 2 {
			t.Errorf("presented %d times, want twice", len(presented))
		}
	})
}
