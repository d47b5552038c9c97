package engine_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// TestCredentialsTakeTurnsAtARate: of one there are three hundred wishes, and another waits for one turn.
func TestCredentialsTakeTurnsAtARate(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour), facts: broker.Facts{RateRequests: 60, RatePeriod: time.Minute}})
		w.create("greedy", nil)
		w.create("other", nil)
		for i := range 300 {
			go func() { _, _ = w.get("greedy", scopes(t, fmt.Sprint("s-", i))) }()
		}
		synctest.Wait()
		for i := range 5 {
			began := time.Now()
			w.mustGet("other", scopes(t, fmt.Sprint("s-", i)))
			if d := time.Since(began); d > 4*time.Second {
				t.Errorf("it waited %v, want a turn or two of two seconds", d)
			}
		}
		sleep(2 * time.Minute)
		if n := len(w.up.exchanges()); n > 30+3*30 {
			t.Errorf("got %d exchanges, want no more than the rate allows", n)
		}
	})
}

// TestOneCredentialDoesNotTakeAllSlots: whatever is asked for of one is answered slowly, and another's exchange begins at once.
func TestOneCredentialDoesNotTakeAllSlots(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up, good := &upstream{}, issues(time.Hour)
		up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			if x.Credential.Name == "greedy" {
				sleep(15 * time.Second)
			}
			return good(ctx, x)
		}
		w := newWorld(t, up)
		w.create("greedy", nil)
		w.create("other", nil)
		for i := range 500 {
			go func() { _, _ = w.get("greedy", scopes(t, fmt.Sprint("s-", i))) }()
		}
		synctest.Wait()
		began := time.Now()
		w.mustGet("other")
		if d := time.Since(began); d > 0 {
			t.Errorf("it waited %v", d)
		}
		if most := up.atOnce(); most > 13 {
			t.Errorf("got %d exchanges at once, want 12 of one credential and one of another", most)
		}
		sleep(2 * time.Minute) // whoever is left is told
		synctest.Wait()
	})
}

// TestWhatIsKnownToWorkGoesFirst, before what the same credential's callers choose.
func TestWhatIsKnownToWorkGoesFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour), facts: broker.Facts{RateRequests: 60, RatePeriod: time.Minute}})
		w.create("main", nil)
		held := w.mustGet("main", scopes(t, "known"))
		for i := range 300 {
			go func() { _, _ = w.get("main", scopes(t, fmt.Sprint("s-", i))) }()
		}
		synctest.Wait()
		began := time.Now()
		w.mustGet("main", scopes(t, "known"), rejected(held.Token.ID))
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("it waited %v, want one turn", d)
		}
		sleep(2 * time.Minute)
		synctest.Wait()
	})
}

// TestATurnThatIsTooFarAwayIsRefusedAtOnce: nobody waits a minute in vain.
func TestATurnThatIsTooFarAwayIsRefusedAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour), facts: broker.Facts{RateRequests: 2, RatePeriod: time.Hour}})
		for _, name := range []string{"a", "b"} {
			w.create(name, nil)
		}
		w.mustGet("a")
		began := time.Now()
		_, err := w.get("b")
		f := wantKind(t, err, broker.UpstreamRateLimited)
		if d := time.Since(began); d > 0 || time.Until(f.RetryAt) < time.Minute {
			t.Errorf("got %v after %v, want when its turn comes, at once", f.RetryAt, d)
		}
	})
}

// TestManyWaitForTheOneThatTries: and all are told when it has failed, or go when it went well.
func TestManyWaitForTheOneThatTries(t *testing.T) {
	for how, well := range map[string]bool{"it is down still": false, "it is well again": true} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				up := &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
					return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Status: 503}
				}}
				w := newWorld(t, up)
				for i := range 50 {
					w.create(fmt.Sprint("c-", i), nil)
				}
				_, err := w.get("c-0")
				f := wantKind(t, err, broker.UpstreamUnavailable)
				good := issues(time.Hour)
				up.script(func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
					sleep(time.Second)
					if well {
						return good(ctx, x)
					}
					return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Status: 503}
				})
				sleep(time.Until(f.RetryAt))
				for _, r := range together(50, func(i int) (string, error) { _, err := w.get(fmt.Sprint("c-", i)); return "", err }) {
					if (r.err == nil) != well {
						t.Errorf("got %v", r.err)
					}
				}
				want := 2
				if well {
					want = 51
				}
				w.wantExchanges(want)
			})
		})
	}
}

// TestWhoWaitsForItsTurnSeesWhatAnotherBrokerHasStored, and its turn is another's.
func TestWhoWaitsForItsTurnSeesWhatAnotherBrokerHasStored(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: func(_ context.Context, x broker.Exchange) (broker.Answer, error) {
			if x.Credential.Name == "slow" {
				sleep(19 * time.Second)
			}
			return token("t-"+string(x.Credential.Name), time.Hour), nil
		}}
		all := newReplicas(t, 2, up, func(s *engine.Settings) { s.UpstreamConcurrency = 1 })
		all[0].create("main", nil)
		all[0].create("slow", nil)
		go func() { _, _ = all[1].get("slow") }()
		sleep(100 * time.Millisecond)
		began, waited := time.Now(), make(chan time.Duration, 1)
		go func() { _, _ = all[1].get("main"); waited <- time.Since(began) }()
		sleep(100 * time.Millisecond)
		all[0].mustGet("main")
		if d := <-waited; d > 3*time.Second {
			t.Errorf("got what was stored after a tenth of a second after %v", d)
		}
		all[0].wantExchanges(2)
	})
}

// TestNobodyPresentsWhatItHasTheSuccessorOf: it has looked, and waits for its turn. Meanwhile this process presents the refresh token, and a failover undoes
// the commit of the next one. When its turn comes, the stored one looks as it did.
func TestNobodyPresentsWhatItHasTheSuccessorOf(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up, n := &upstream{facts: broker.Facts{Refreshes: true, Obtains: true}}, 0
		up.answer = func(_ context.Context, x broker.Exchange) (broker.Answer, error) {
			switch x.Credential.Name {
			case "slow":
				sleep(10100 * time.Millisecond)
			case "other":
				sleep(500 * time.Millisecond)
			default:
			}
			n++
			a := token(fmt.Sprint("token-", n), time.Minute)
			a.RefreshToken = broker.NewSecret(fmt.Sprint("refresh-", n))
			return a, nil
		}
		w := newReplicas(t, 1, up, func(s *engine.Settings) { s.UpstreamConcurrency = 1 })[0]
		for _, name := range []string{"main", "slow", "other"} {
			w.create(name, nil)
		}
		w.mustGet("main")
		sleep(90*time.Second - time.Duration(time.Now().UnixNano())%time.Second)
		for _, ask := range []func(){
			func() { _, _ = w.get("slow") }, // until 10.1 s from now
			func() { _, _ = w.TestCredential(context.Background(), local, "main", broker.Selection{}, false) },
			func() { _, _ = w.get("main") },
			func() { _, _ = w.get("other") },
		} {
			go ask()
			synctest.Wait()
		}
		failover := w.memory.Snapshot()
		sleep(10200 * time.Millisecond) // the test has committed, and the other's exchange is under way
		failover()
		sleep(20 * time.Second)
		presented := map[string]int{}
		for _, x := range w.up.exchanges() {
			if s := x.RefreshToken.Reveal(); s != "" {
				if presented[s]++; presented[s] > 1 {
					t.Errorf("%s was presented by the process that has its successor", s)
				}
			}
		}
	})
}
