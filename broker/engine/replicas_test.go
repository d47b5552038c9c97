package engine_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

const bound = 2 * time.Second

// A replica is one of several brokers that share a store.
type replica struct {
	*world
	memory *storetest.Replica
}

// newReplicas makes n brokers on one store, for one scripted upstream.
func newReplicas(t testing.TB, n int, up *upstream, more ...func(*engine.Settings)) []*replica {
	t.Helper()
	keys := newKeys(t)
	up.complete()
	var all []*replica
	for _, m := range storetest.NewReplicas(n) {
		backend := storetest.NewFaults(m)
		s, err := store.New(backend.Whole(), keys, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		w := &world{t: t, up: up, store: s, backend: backend}
		w.start(more...)
		all = append(all, &replica{w, m})
	}
	return all
}

func grace(d time.Duration) func(*engine.Settings) {
	return func(s *engine.Settings) { s.OutageGrace = d }
}

// served reports the id of the token that a replica serves now; empty: none.
func (r *replica) served() string {
	res, err := r.get("main")
	if err != nil {
		return ""
	}
	return res.Token.ID
}

func TestManyReplicasCostOneExchange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{}
		next := issues(time.Hour)
		up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			sleep(3 * time.Second)
			return next(ctx, x)
		}
		all := newReplicas(t, 4, up)
		all[0].create("main", nil)
		var wg sync.WaitGroup
		ids := make([]string, 400)
		for i := range ids {
			wg.Go(func() { ids[i] = all[i%4].mustGet("main").Token.ID })
		}
		wg.Wait()
		all[0].wantExchanges(1)
		for _, id := range ids {
			if id == "" || id != ids[0] {
				t.Fatalf("got tokens %q and %q, want one", id, ids[0])
			}
		}
	})
}

// TestARejectedTokenIsGoneFromEveryReplica: at once where the replica hears of it, and within the bound where it hears nothing.
func TestARejectedTokenIsGoneFromEveryReplica(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		t.Run(fmt.Sprintf("deaf=%v", deaf), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				all := newReplicas(t, 3, &upstream{answer: issues(time.Hour)})
				all[0].create("main", nil)
				for round := range 20 {
					var id string
					for _, r := range all {
						id = r.mustGet("main").Token.ID
						r.memory.Deafen(deaf)
					}
					// It has been good for a while, and it is wherever in the confirmer's rounds.
					sleep(time.Minute + time.Duration(round)*173*time.Millisecond)
					for _, r := range all {
						r.mustGet("main")
					}
					if _, err := all[0].Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", TokenID: id}); err != nil {
						t.Fatal(err)
					}
					if all[0].served() == id {
						t.Fatal("served by the replica that was told")
					}
					if deaf {
						for waited := time.Duration(0); waited < bound; waited += 50 * time.Millisecond {
							all[1].served() // it stays hot
							sleep(50 * time.Millisecond)
						}
					} else {
						synctest.Wait()
					}
					for i, r := range all {
						if r.served() == id {
							t.Fatalf("round %d: served by replica %d", round, i)
						}
					}
				}
				all[0].wantExchanges(21)
			})
		})
	}
}

// TestAHotTokenIsConfirmedInTheBackground: whoever asks all the time never waits for the store.
func TestAHotTokenIsConfirmedInTheBackground(t *testing.T) {
	bubble(t, func(t *testing.T) {
		all := newReplicas(t, 1, &upstream{answer: issues(time.Hour)})
		all[0].create("main", nil)
		all[0].mustGet("main")
		all[0].backend.Set(storetest.Hooks{BeforeRead: func(context.Context) error {
			sleep(200 * time.Millisecond) // a slow store
			return nil
		}})
		for range 600 {
			started := time.Now()
			all[0].mustGet("main")
			if d := time.Since(started); d > 0 {
				t.Fatalf("a hit took %v", d)
			}
			sleep(100 * time.Millisecond)
		}
	})
}

func TestAChangedCredentialIsSeenByEveryReplica(t *testing.T) {
	for name, deaf := range map[string]bool{"told": false, "not told": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				all := newReplicas(t, 2, &upstream{answer: issues(time.Hour)})
				all[0].create("main", map[string]string{"client_secret": "one"})
				old := all[1].mustGet("main").Token.ID
				all[1].memory.Deafen(deaf)
				change := func(edit func(*engine.Draft)) {
					if _, err := all[0].UpdateCredential(t.Context(), local, engine.Change{Name: "main", Edit: func(d *engine.Draft) error {
						edit(d)
						return nil
					}}); err != nil {
						t.Fatal(err)
					}
					if deaf {
						sleep(bound)
					}
					synctest.Wait()
				}
				change(func(d *engine.Draft) { d.Secrets = secretMap(map[string]string{"client_secret": "two"}) })
				if all[1].mustGet("main").Token.ID == old {
					t.Error("the token of the old version is served")
				}
				x := all[1].up.exchanges()
				if got := x[len(x)-1].Credential.Secrets["client_secret"].Value.Reveal(); got != "two" {
					t.Errorf("asked with secret %q, want two", got)
				}
				change(func(d *engine.Draft) { d.Disabled = true })
				_, err := all[1].get("main")
				wantKind(t, err, broker.CredentialDisabled)
				change(func(d *engine.Draft) { d.Disabled = false })
				all[1].mustGet("main")
				if err := all[0].DeleteCredential(t.Context(), local, "main", broker.ID{}); err != nil {
					t.Fatal(err)
				}
				if deaf {
					sleep(bound)
				}
				_, err = all[1].get("main")
				wantKind(t, err, broker.NotFound)
			})
		})
	}
}

// TestWhileTheStoreIsAwayValidTokensAreServed for the grace, marked degraded, without waiting; and not a moment longer.
func TestWhileTheStoreIsAwayValidTokensAreServed(t *testing.T) {
	for _, g := range []time.Duration{0, time.Minute} {
		t.Run(g.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				up := &upstream{answer: issues(time.Hour)}
				all := newReplicas(t, 1, up, grace(g))
				w := all[0]
				w.create("main", nil)
				w.mustGet("main")
				hang(w.backend)
				left := time.Now()
				var last time.Time
				for time.Since(left) < 2*time.Minute {
					started := time.Now()
					res, err := w.get("main")
					if err != nil {
						wantKind(t, err, broker.StoreUnavailable)
						break
					}
					if last = time.Now(); time.Since(left) > bound && (!res.Degraded || time.Since(started) > 0) {
						t.Fatalf("after %v: degraded %v, it took %v", time.Since(left), res.Degraded, time.Since(started))
					}
					sleep(50 * time.Millisecond)
				}
				if d := last.Sub(left); d > bound+g || d < g {
					t.Errorf("served for %v, want up to %v", d, bound+g)
				}
				w.backend.Set(storetest.Hooks{})
				sleep(time.Second)
				if res := w.mustGet("main"); res.Degraded {
					t.Error("degraded after the store came back")
				}
				w.wantExchanges(1)
			})
		})
	}
}

// hang makes every call of the store hang until its context ends, as behind a network that swallows everything.
func hang(f *storetest.Faults) {
	stuck := func(ctx context.Context) error {
		<-ctx.Done()
		return store.Ended(ctx)
	}
	bounded := func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		return stuck(ctx)
	}
	f.Set(storetest.Hooks{BeforeRead: bounded, BeforeApply: func(ctx context.Context, _ store.Batch) error { return bounded(ctx) }})
}

// TestAReplicaObtainsForItself while the store is away: once, and what is stored wins when it is back.
func TestAReplicaObtainsForItself(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(10 * time.Second)}
		up.facts.ObtainsAlone = true
		all := newReplicas(t, 2, up, grace(time.Minute))
		all[0].create("main", nil)
		for _, r := range all {
			r.mustGet("main")
		}
		all[0].wantExchanges(1)
		all[0].backend.Away()
		sleep(11 * time.Second) // the token has expired
		for range 50 {
			if res := all[0].mustGet("main"); !res.Degraded {
				t.Error("not degraded")
			}
			sleep(100 * time.Millisecond)
		}
		all[0].wantExchanges(2)
		stored := all[1].mustGet("main").Token.ID
		all[0].wantExchanges(3)
		all[0].backend.Set(storetest.Hooks{})
		sleep(time.Second)
		if got := all[0].mustGet("main"); got.Token.ID != stored || got.Degraded {
			t.Errorf("got %v, degraded %v; want what is stored, %v", got.Token.ID, got.Degraded, stored)
		}
		all[0].wantExchanges(3)
	})
}

// TestAStoreThatTakesNothing can be read, and is full: what a broker obtained for itself serves for its lifetime, and costs one
// exchange.
func TestAStoreThatTakesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Minute)}
		up.facts.ObtainsAlone = true
		all := newReplicas(t, 1, up, grace(5*time.Second))
		all[0].create("main", nil)
		all[0].mustGet("main")
		all[0].backend.Set(storetest.Hooks{BeforeApply: func(context.Context, store.Batch) error {
			return store.Unavailable("it has no room, for a test")
		}})
		for range 1800 { // three lifetimes
			all[0].mustGet("main")
			sleep(100 * time.Millisecond)
		}
		if n := len(up.exchanges()); n < 3 || n > 5 {
			t.Errorf("%d exchanges in three lifetimes", n)
		}
	})
}

func TestAReplicaDoesNotHammerForItself(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(10 * time.Second)}
		up.facts.ObtainsAlone = true
		all := newReplicas(t, 1, up, grace(time.Hour))
		all[0].create("main", nil)
		all[0].mustGet("main")
		all[0].backend.Away()
		sleep(11 * time.Second)
		up.script(func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: "invalid_client"}
		})
		for range 100 {
			_, err := all[0].get("main")
			wantKind(t, err, broker.CredentialMisconfigured)
			sleep(100 * time.Millisecond)
		}
		all[0].wantExchanges(2)
	})
}

// TestNobodyObtainsAlone where the definition forbids it, where nothing was known, or where the grace is over.
func TestNobodyObtainsAlone(t *testing.T) {
	for name, test := range map[string]struct {
		alone bool
		known bool
		grace time.Duration
	}{
		"the definition says fail": {alone: false, known: true, grace: time.Hour},
		"nothing is known":         {alone: true, known: false, grace: time.Hour},
		"no grace":                 {alone: true, known: true, grace: 0},
		"the grace is over":        {alone: true, known: true, grace: 5 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				up := &upstream{answer: issues(10 * time.Second)}
				up.facts.ObtainsAlone = test.alone
				all := newReplicas(t, 1, up, grace(test.grace))
				all[0].create("main", nil)
				exchanges := 0
				if test.known {
					all[0].mustGet("main")
					exchanges = 1
				}
				all[0].backend.Away()
				sleep(11 * time.Second)
				_, err := all[0].get("main")
				if f := wantKind(t, err, broker.StoreUnavailable); f.RetryAt.IsZero() {
					t.Error("it does not say when to ask again")
				}
				all[0].wantExchanges(exchanges)
			})
		})
	}
}

// TestInvalidateDropsWhatTheProcessHas, also while the store is away.
func TestInvalidateDropsWhatTheProcessHas(t *testing.T) {
	bubble(t, func(t *testing.T) {
		all := newReplicas(t, 1, &upstream{answer: issues(time.Hour)}, grace(time.Hour))
		all[0].create("main", nil)
		id := all[0].mustGet("main").Token.ID
		all[0].backend.Away()
		_, err := all[0].Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", TokenID: id})
		wantKind(t, err, broker.StoreUnavailable)
		for range 5 {
			_, err := all[0].get("main")
			wantKind(t, err, broker.StoreUnavailable)
			sleep(time.Second)
		}
	})
}

// TestNoStampedeWhenTheStoreIsBack: a thousand keys on three replicas cost no exchange.
func TestNoStampedeWhenTheStoreIsBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		all := newReplicas(t, 3, &upstream{answer: issues(time.Hour)}, grace(time.Minute))
		const keys = 50
		ask := func() {
			var wg sync.WaitGroup
			for _, r := range all {
				for k := range keys {
					for range 3 {
						wg.Go(func() { r.mustGet("main", scopes(t, fmt.Sprint("s", k))) })
					}
				}
			}
			wg.Wait()
		}
		all[0].create("main", nil)
		ask()
		all[0].wantExchanges(keys)
		for _, r := range all {
			r.backend.Away()
		}
		for range 20 {
			sleep(time.Second)
			ask()
		}
		for _, r := range all {
			r.backend.Set(storetest.Hooks{})
		}
		for range 20 {
			sleep(500 * time.Millisecond)
			ask()
		}
		all[0].wantExchanges(keys)
	})
}

// TestACommitThatCannotBeStored: an access token that hangs on nothing is handed out, one with a refresh token waits.
func TestACommitThatCannotBeStored(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{}
		var w *replica
		up.answer = func(context.Context, broker.Exchange) (broker.Answer, error) {
			w.backend.Away()
			return token("only", time.Hour), nil
		}
		w = newReplicas(t, 1, up, grace(time.Minute))[0]
		w.create("main", nil)
		if res := w.mustGet("main"); res.Token.AccessToken.Reveal() != "only" || !res.Degraded {
			t.Errorf("got %v, degraded %v", res.Token.AccessToken.Reveal(), res.Degraded)
		}
	})
	bubble(t, func(t *testing.T) {
		up := &upstream{facts: broker.Facts{Obtains: true, Refreshes: true}}
		var w *replica
		up.answer = func(context.Context, broker.Exchange) (broker.Answer, error) {
			w.backend.Away()
			a := token("first", time.Hour)
			a.RefreshToken = broker.NewSecret("refresh")
			return a, nil
		}
		w = newReplicas(t, 1, up, grace(time.Minute))[0]
		w.create("main", nil)
		for range 5 {
			_, err := w.get("main")
			wantKind(t, err, broker.StoreUnavailable)
			sleep(10 * time.Second)
		}
		w.backend.Set(storetest.Hooks{})
		sleep(time.Second)
		if r := w.mustGet("main"); r.Token.AccessToken.Reveal() != "first" || r.Degraded {
			t.Errorf("got %q, degraded %v, want what was brought", r.Token.AccessToken.Reveal(), r.Degraded)
		}
		w.wantExchanges(1)
		if st, err := storetest.Status(t.Context(), w.store, "main"); err != nil || len(st.Grants) != 1 {
			t.Errorf("got %d grants, %v; want the one that was brought", len(st.Grants), err)
		}
	})
}

// spentByUse is an upstream whose refresh tokens a human gave, and that are spent by use.
func spentByUse() *upstream {
	return &upstream{facts: broker.Facts{
		Refreshes: true, Inputs: map[string]broker.InputFacts{"refresh_token": {Secret: true, Seed: true}},
	}}
}

// TestAStoppedLeaderIsNotOvertaken: as long as whoever presented the refresh token may come back with its successor, nobody
// presents it again; and when it comes back, its successor is kept.
func TestAStoppedLeaderIsNotOvertaken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := spentByUse()
		release := make(chan struct{})
		n := 0
		up.answer = func(context.Context, broker.Exchange) (broker.Answer, error) {
			n++
			if n == 1 {
				<-release // the process is stopped: not even its deadline ends it
			}
			a := token(fmt.Sprint("token-", n), time.Hour)
			a.RefreshToken = broker.NewSecret(fmt.Sprint("refresh-", n))
			return a, nil
		}
		all := newReplicas(t, 2, up)
		all[0].create("main", map[string]string{"refresh_token": "refresh-0"})
		go func() { _, _ = all[0].get("main") }()
		synctest.Wait()
		got := make(chan string, 1)
		go func() { got <- all[1].mustGet("main").Token.AccessToken.Reveal() }()
		sleep(22*time.Second + 9*time.Second) // the lease is over, the grace is not
		all[0].wantExchanges(1)
		close(release)
		if tok := <-got; tok != "token-1" {
			t.Errorf("got %q, want what the leader brought", tok)
		}
		all[0].wantExchanges(1)
	})
}

// TestALeaderThatNeverComesBack is given up after the takeover grace, which every failure of the store begins anew.
func TestALeaderThatNeverComesBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := spentByUse()
		stop := make(chan struct{})
		n := 0
		up.answer = func(context.Context, broker.Exchange) (broker.Answer, error) {
			if n++; n == 1 {
				<-stop
				return broker.Answer{}, &broker.UpstreamError{Refused: true}
			}
			a := token("token", time.Hour)
			a.RefreshToken = broker.NewSecret("refresh-2")
			return a, nil
		}
		all := newReplicas(t, 2, up)
		all[0].create("main", map[string]string{"refresh_token": "refresh-0"})
		go func() { _, _ = all[0].get("main") }()
		synctest.Wait()
		began := time.Now()
		go func() {
			sleep(27 * time.Second) // five seconds into the grace
			all[1].backend.Away()
			sleep(400 * time.Millisecond) // longer than between two looks
			all[1].backend.Set(storetest.Hooks{})
		}()
		for {
			if _, err := all[1].get("main"); err == nil {
				break
			} else if !errors.Is(err, broker.StoreUnavailable) {
				t.Fatal(err)
			}
			sleep(100 * time.Millisecond)
		}
		if d := time.Since(began); d < 37*time.Second || d > 40*time.Second {
			t.Errorf("given up after %v, want the lease, five seconds, and the whole grace", d)
		}
		all[0].wantExchanges(2)
		close(stop)
	})
}

// TestWatchesHearOfOtherReplicas: of an invalidation and of the successor.
func TestWatchesHearOfOtherReplicas(t *testing.T) {
	bubble(t, func(t *testing.T) {
		all := newReplicas(t, 2, &upstream{answer: issues(time.Hour)})
		all[0].create("main", nil)
		id := all[0].mustGet("main").Token.ID
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		events := make(chan engine.Event, 10)
		go func() {
			_ = all[1].Watch(ctx, local, engine.Request{Credential: "main"}, "", func(e engine.Event) error {
				events <- e
				return nil
			})
		}()
		if e := <-events; e.Token == nil || e.Token.ID != id {
			t.Fatalf("got %+v, want the token", e)
		}
		for _, deaf := range []bool{false, true} {
			all[1].memory.Deafen(deaf)
			sleep(time.Minute) // whatever was hot is no more, but for the watch
			if _, err := all[0].Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", TokenID: id}); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			for {
				e := <-events
				if e.Token != nil && e.Token.ID != id {
					id = e.Token.ID
					break
				}
			}
			if d := time.Since(began); d > bound {
				t.Errorf("deaf %v: told after %v", deaf, d)
			}
		}
	})
}

// TestTheBackoffIsAdvisory: where only it cannot be read, exchanges go on.
func TestTheBackoffIsAdvisory(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newPartials(t, 1, &upstream{answer: issues(time.Hour)})[0]
		w.create("main", nil)
		main := w.group("main")
		var asked atomic.Bool
		w.parts.lose(func(g store.Group) bool {
			if g != main {
				asked.Store(true)
			}
			return g != main
		})
		w.mustGet("main")
		if !asked.Load() {
			t.Error("nothing but the credential was read")
		}
	})
}

// TestManyHotTokens are all confirmed in the background, in parts.
func TestManyHotTokens(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newReplicas(t, 1, &upstream{answer: issues(time.Hour)})[0]
		w.create("main", nil)
		const keys = 990 // the store takes a thousand for a credential
		var wanted []func(*engine.Request)
		for k := range keys {
			wanted = append(wanted, scopes(t, fmt.Sprint("s", k)))
			w.mustGet("main", wanted[k])
		}
		w.backend.Set(storetest.Hooks{BeforeRead: func(context.Context) error {
			sleep(100 * time.Millisecond)
			return nil
		}})
		for range 20 {
			sleep(500 * time.Millisecond)
			began := time.Now()
			for k := range keys {
				if w.mustGet("main", wanted[k]).Degraded {
					t.Fatal("degraded")
				}
			}
			if d := time.Since(began); d > 0 {
				t.Fatalf("hits took %v", d)
			}
		}
		w.wantExchanges(keys)
	})
}

// TestARejectionReachesTheStore, also where the broker that is told has another token in its cache, an older one.
func TestARejectionReachesTheStore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		all := newReplicas(t, 2, &upstream{answer: issues(time.Hour)})
		synctest.Wait() // they listen
		all[0].create("main", nil)
		first := all[1].mustGet("main").Token.ID
		all[1].memory.Deafen(true)
		second := all[0].mustGet("main", rejected(first)).Token.ID
		third := all[1].mustGet("main", rejected(second)).Token.ID
		if third == first || third == second {
			t.Errorf("got %q after %q and %q were rejected", third, first, second)
		}
		if got := all[0].mustGet("main").Token.ID; got != third {
			t.Errorf("the other broker has %q, want %q", got, third)
		}
		all[0].wantExchanges(3)
	})
}

// TestWhatAStopHasHeldUpIsLookedAtAgain: a broker is stopped between an answer of the store and the one that it gives. The token was
// invalidated meanwhile, and nobody has told it.
func TestWhatAStopHasHeldUpIsLookedAtAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		all := newReplicas(t, 2, &upstream{answer: issues(time.Hour)})
		all[0].create("main", nil)
		first := all[0].mustGet("main").Token.ID
		all[1].memory.Deafen(true)
		var reads atomic.Int32
		all[1].backend.Set(storetest.Hooks{AfterRead: func(context.Context) {
			if reads.Add(1) == 2 { // of the token; the first is of the credential
				sleep(20 * time.Second)
			}
		}})
		began := make(chan string)
		go func() { began <- all[1].mustGet("main").Token.ID }()
		sleep(5 * time.Second)
		if _, err := all[0].Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", All: true}); err != nil {
			t.Fatal(err)
		}
		if second := <-began; second == first {
			t.Error("it has given a token that was invalidated a quarter of a minute ago")
		}
	})
}
