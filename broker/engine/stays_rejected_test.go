package engine_test

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// betweenRounds is a while that does not end in the moment of a round of the confirmer.
const betweenRounds = time.Minute + 100*time.Millisecond

// awayAfterOne has the store answer one more question, which takes so long, and then none.
func (r *replica) awayAfterOne(takes time.Duration) {
	var away atomic.Bool
	r.backend.Set(storetest.Hooks{
		BeforeRead: func(context.Context) error {
			if away.Load() {
				return store.Unavailable("it is away")
			}
			return nil
		},
		AfterRead: func(context.Context) {
			away.Store(true)
			sleep(takes)
		},
	})
}

// wantNever asks for longer than the grace lasts whether a token is served.
func (r *replica) wantNever(id string) {
	r.t.Helper()
	for range 40 {
		if r.served() == id {
			r.t.Fatal("it is served")
		}
		sleep(10 * time.Second)
	}
}

// TestWhatWasReadAsRejectedIsNotServed: a broker that has read once that a token is rejected does not give it to anybody, although the store goes away before anything else is read.
func TestWhatWasReadAsRejectedIsNotServed(t *testing.T) {
	for how, c := range map[string]struct {
		takes  time.Duration
		edited bool
	}{
		"the answer is too old by the time that it comes": {takes: 2500 * time.Millisecond},
		"the credential has changed as well":              {edited: true},
	} {
		t.Run(how, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				all := newReplicas(t, 2, &upstream{answer: issues(time.Hour)}, grace(5*time.Minute))
				a, b := all[0], all[1]
				a.create("main", nil)
				id := a.mustGet("main").Token.ID
				b.mustGet("main")
				b.memory.Deafen(true)
				sleep(betweenRounds) // nobody asks, and b does not hear of what follows
				if c.edited {
					a.label("main", map[string]string{"env": "test"})
				}
				if _, err := a.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", TokenID: id}); err != nil {
					t.Fatal(err)
				}
				b.awayAfterOne(c.takes)
				b.wantNever(id)
			})
		})
	}
}

// TestWhatAWatchWasToldIsInvalidIsNotServed: the store goes away in the moment in which a watch hears that its token is invalidated.
func TestWhatAWatchWasToldIsInvalidIsNotServed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		all := newReplicas(t, 2, &upstream{answer: issues(time.Hour)}, grace(5*time.Minute))
		a, b := all[0], all[1]
		a.create("main", nil)
		id := a.mustGet("main").Token.ID
		var told []string
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			_ = b.Watch(ctx, local, engine.Request{Credential: "main"}, "", func(e engine.Event) error {
				switch {
				case e.InvalidatedID != "":
					told = append(told, "invalidated "+e.InvalidatedID)
					b.backend.Away()
				case e.Token != nil:
					told = append(told, "token "+e.Token.ID)
				}
				return nil
			})
		}()
		sleep(betweenRounds)
		if _, err := a.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", TokenID: id}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		b.wantNever(id)
		if want := []string{"token " + id, "invalidated " + id}; !slices.Equal(told, want) {
			t.Errorf("the watch was told %q, want %q", told, want)
		}
	})
}

// TestAReadingFromBeforeARejectionIsNotServed: of two flights for one token, by two names, the one that began before the token was rejected ends after the other has read that.
func TestAReadingFromBeforeARejectionIsNotServed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour)}
		all := newReplicas(t, 2, up, grace(5*time.Minute))
		a, b := all[0], all[1]
		a.create("main", nil)
		a.edit("main", func(d *engine.Draft) { d.DefaultScopes, _ = broker.ParseSet("scopes", []string{"read"}) })
		id := a.mustGet("main").Token.ID
		up.script(func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream}
		})
		b.mustGet("main")
		b.memory.Deafen(true)
		sleep(betweenRounds)
		var readings atomic.Int64
		b.backend.Set(storetest.Hooks{AfterRead: func(context.Context) {
			if readings.Add(1) == 1 {
				sleep(time.Second)
			}
		}})
		go b.served()
		synctest.Wait()
		if _, err := a.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", TokenID: id}); err != nil {
			t.Fatal(err)
		}
		if res, err := b.get("main", scopes(t, "read")); err == nil {
			t.Fatalf("got %q, want a failure", res.Token.ID)
		}
		b.backend.Away()
		sleep(2 * bound)
		b.wantNever(id)
	})
}
