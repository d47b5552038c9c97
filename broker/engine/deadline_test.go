package engine_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// waitMost is how long a flight waits, whatever it waits for.
const waitMost = time.Minute

// brings is an upstream that gives a new refresh token with each token, after so long.
func brings(slow map[broker.CredentialName]time.Duration) *upstream {
	var n atomic.Int32
	up := &upstream{facts: broker.Facts{Refreshes: true, Inputs: map[string]broker.InputFacts{"refresh_token": {Secret: true, Seed: true}}}}
	up.answer = func(_ context.Context, x broker.Exchange) (broker.Answer, error) {
		sleep(slow[x.Credential.Name])
		i := n.Add(1)
		a := token(fmt.Sprint("access-", i), 24*time.Hour)
		a.RefreshToken = broker.NewSecret(fmt.Sprint("refresh-", i))
		return a, nil
	}
	return up
}

// impatient asks for a token of a scope, and gives up after a second.
func (w *world) impatient(name, scope string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	r := engine.Request{Credential: broker.CredentialName(name)}
	scopes(w.t, scope)(&r)
	_, _ = w.Token(ctx, local, r)
}

// TestAFlightWaitsForItsTurnAtAGrantForAMinute: sixty tokens hang on one refresh token, each exchange takes fifteen seconds, and whoever asks is gone
// after one. What is left behind ends, and takes no flight from another credential for ever.
func TestAFlightWaitsForItsTurnAtAGrantForAMinute(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := brings(map[broker.CredentialName]time.Duration{"slow": 15 * time.Second})
		w := newWorld(t, up)
		w.create("slow", map[string]string{"refresh_token": "seed"})
		for i := range 60 {
			go w.impatient("slow", fmt.Sprint("s-", i))
		}
		sleep(waitMost + 15*time.Second)
		begun := len(up.exchanges())
		if begun < 4 {
			t.Errorf("got %d exchanges in a minute, want one after the other", begun)
		}
		sleep(30 * time.Minute)
		synctest.Wait()
		w.wantExchanges(begun)
	})
}

// TestWhoeverWaitsForATurnIsTold that it takes long, and that it goes on.
func TestWhoeverWaitsForATurnIsTold(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, brings(map[broker.CredentialName]time.Duration{"slow": 19 * time.Second}))
		w.create("slow", map[string]string{"refresh_token": "seed"})
		for i := range 10 {
			go w.impatient("slow", fmt.Sprint("s-", i))
		}
		synctest.Wait()
		_, err := w.get("slow", scopes(t, "last"))
		if f := wantKind(t, err, broker.UpstreamSlow); f.RetryAt.IsZero() {
			t.Error("it does not say when to ask again")
		}
		sleep(10 * time.Minute)
	})
}

// TestNobodyReadsForNobody: a successor waits for a store that can be read and takes nothing. Two hundred flights wait for that, whose callers are gone.
func TestNobodyReadsForNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newReplicas(t, 1, brings(map[broker.CredentialName]time.Duration{"main": time.Second}))[0]
		w.create("main", map[string]string{"refresh_token": "seed"})
		go w.impatient("main", "first")
		sleep(500 * time.Millisecond)
		var reads atomic.Int32
		w.backend.Set(storetest.Hooks{BeforeApply: takesNoCommits, BeforeRead: func(context.Context) error { reads.Add(1); return nil }})
		sleep(5 * time.Second)
		for i := range 200 {
			go w.impatient("main", fmt.Sprint("s-", i))
		}
		sleep(time.Second)
		reads.Store(0)
		sleep(50 * time.Second)
		if n := reads.Load(); n > 200*10 {
			t.Errorf("got %d questions to the store for two hundred flights, want a few of each", n)
		}
		sleep(2 * waitMost)
		reads.Store(0)
		sleep(time.Minute)
		if n := reads.Load(); n > 60 {
			t.Errorf("got %d questions to the store in a minute, for nobody", n)
		}
		w.backend.Set(storetest.Hooks{})
		sleep(time.Second)
		w.mustGet("main", scopes(t, "s-7")) // the successor is stored
	})
}

// TestWhoWaitsAtAGateReadsForItself: hundreds wait for turns of one credential. Each looks when its turn has come, and not whenever another's exchange
// has ended, of this broker or of another.
func TestWhoWaitsAtAGateReadsForItself(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up, good := &upstream{}, issues(time.Hour)
		up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			sleep(4 * time.Second)
			return good(ctx, x)
		}
		all := newReplicas(t, 2, up)
		all[0].create("main", nil)
		synctest.Wait()
		var reads atomic.Int32
		all[0].backend.Set(storetest.Hooks{BeforeRead: func(context.Context) error { reads.Add(1); return nil }})
		for i := range 300 { // of some thousands of goroutines the race detector loses count
			for b, w := range all {
				go func() { _, _ = w.get("main", scopes(t, fmt.Sprint("s-", b, "-", i))) }()
			}
		}
		sleep(time.Second)
		reads.Store(0)
		began := len(up.exchanges())
		sleep(30 * time.Second)
		if n, exchanges := int(reads.Load()), len(up.exchanges())-began; n > 3*exchanges {
			t.Errorf("got %d questions to the store for %d exchanges", n, exchanges)
		}
		sleep(2 * time.Minute)
		synctest.Wait()
	})
}

// TestObtainingAloneEndsWithTheOutage: tokens are wanted of a slow upstream while the store is away for five seconds. Who waits for the upstream's turn
// when the store is back asks the store, and all brokers share what it brings.
func TestObtainingAloneEndsWithTheOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up, good := &upstream{facts: broker.Facts{ObtainsAlone: true}}, issues(time.Hour)
		up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			sleep(4 * time.Second)
			return good(ctx, x)
		}
		all := newReplicas(t, 2, up, grace(time.Hour))
		all[0].create("main", nil)
		for _, w := range all {
			w.mustGet("main")
			w.backend.Away()
		}
		before := len(up.exchanges())
		sleep(3 * time.Second)
		const tokens = 150
		for i := range tokens {
			for _, w := range all {
				go func() { _, _ = w.get("main", scopes(t, fmt.Sprint("s-", i))) }()
			}
		}
		sleep(5 * time.Second)
		alone := len(up.exchanges()) - before
		for _, w := range all {
			w.backend.Set(storetest.Hooks{})
		}
		sleep(5 * time.Minute)
		synctest.Wait()
		if n := len(up.exchanges()) - before; n > tokens+alone+alone/2 {
			t.Errorf("got %d exchanges for %d tokens, of which %d while the store was away", n, tokens, alone)
		}
	})
}

// TestOneWaitIsEnoughToObtainAlone: the store can be read and takes nothing, which is found out when the upstream's turn has come. It is not waited for
// again.
func TestOneWaitIsEnoughToObtainAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up, good := &upstream{facts: broker.Facts{ObtainsAlone: true}}, issues(time.Hour)
		up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			sleep(4 * time.Second)
			return good(ctx, x)
		}
		w := newReplicas(t, 1, up, grace(time.Hour))[0]
		w.create("main", nil)
		w.mustGet("main")
		w.backend.Set(storetest.Hooks{BeforeApply: func(context.Context, store.Batch) error { return store.Unavailable("READONLY, for a test") }})
		const tokens = 120 // ten turns of twelve
		for _, r := range together(tokens, func(i int) (string, error) { _, err := w.get("main", scopes(t, fmt.Sprint("s-", i))); return "", err }) {
			if r.err != nil {
				t.Fatal(r.err)
			}
		}
		w.wantExchanges(1 + tokens)
	})
}
