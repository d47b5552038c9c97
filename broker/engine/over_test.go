package engine_test

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// down is an upstream that answers nobody.
func down(context.Context, broker.Exchange) (broker.Answer, error) {
	return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Status: 503}
}

func invalidate(t *testing.T, r *replica, i engine.Invalidation) {
	t.Helper()
	i.Credential = "main"
	if _, err := r.Invalidate(t.Context(), local, i); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

// wantNever has a broker whose store is away serve a token at no time.
func wantNever(t *testing.T, r *replica, id string, more ...func(*engine.Request)) {
	t.Helper()
	for _, d := range []time.Duration{0, time.Second, bound, time.Minute, 3 * time.Minute} {
		sleep(d)
		if res, err := r.get("main", more...); err == nil && res.Token.ID == id {
			t.Errorf("served, degraded %v", res.Degraded)
		}
	}
}

// TestWhatWasReadToBeOverIsNotServedWhileTheStoreIsAway: another broker ends a token, this one reads that, and the store goes away.
func TestWhatWasReadToBeOverIsNotServedWhileTheStoreIsAway(t *testing.T) {
	t.Run("its credential is disabled", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			all := newReplicas(t, 2, &upstream{answer: issues(time.Hour)}, grace(time.Hour))
			a, b := all[0], all[1]
			a.create("main", nil)
			id := a.mustGet("main").Token.ID
			if _, err := b.UpdateCredential(t.Context(), local, engine.Change{Name: "main", Edit: func(d *engine.Draft) error { d.Disabled = true; return nil }}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			_, err := a.get("main")
			wantKind(t, err, broker.CredentialDisabled)
			a.backend.Away()
			wantNever(t, a, id)
		})
	})
	t.Run("it is cached under another name too", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			up := &upstream{answer: issues(time.Hour)}
			all := newReplicas(t, 2, up, grace(time.Hour), func(s *engine.Settings) { s.Upstream = defaulting{up} })
			a, b := all[0], all[1]
			a.create("main", nil)
			id := a.mustGet("main").Token.ID
			if got := a.mustGet("main", scopes(t, "default")).Token.ID; got != id {
				t.Fatal("not one token")
			}
			invalidate(t, b, engine.Invalidation{TokenID: id})
			if a.mustGet("main").Token.ID == id {
				t.Fatal("not replaced")
			}
			a.backend.Away()
			wantNever(t, a, id, scopes(t, "default"))
		})
	})
	t.Run("all of the credential are, and nothing more could be read", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			all := newReplicas(t, 2, &upstream{answer: issues(time.Hour)}, grace(time.Hour))
			a, b := all[0], all[1]
			a.create("main", nil)
			id := a.mustGet("main").Token.ID
			a.backend.Set(storetest.Hooks{AfterRead: func(context.Context) { a.backend.Away() }})
			invalidate(t, b, engine.Invalidation{All: true})
			wantNever(t, a, id)
		})
	})
	for name, by := range map[string]func(id string) engine.Invalidation{
		"by its id":        func(id string) engine.Invalidation { return engine.Invalidation{TokenID: id} },
		"by its selection": func(string) engine.Invalidation { return engine.Invalidation{All: true, Selection: chosen} },
	} {
		t.Run("it was handed out before it was stored, "+name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				up := &upstream{answer: issues(time.Hour)}
				all := newReplicas(t, 2, up, grace(time.Hour))
				a, b := all[0], all[1]
				a.create("main", nil)
				a.mustGet("main", scopes(t, "another"))
				failed := false
				a.backend.Set(storetest.Hooks{BeforeApply: func(_ context.Context, b store.Batch) error {
					if b.Finish && !failed {
						failed = true
						return store.Unavailable("one commit does not get through")
					}
					return nil
				}})
				mine := func(r *engine.Request) { r.Selection = chosen }
				id := a.mustGet("main", mine).Token.ID
				sleep(600 * time.Millisecond) // it is stored by now
				up.script(down)
				invalidate(t, b, by(id))
				if _, err := a.get("main", mine); err == nil {
					t.Error("served after it was read to be over")
				}
				a.backend.Away()
				wantNever(t, a, id, mine)
			})
		})
	}
	t.Run("only this broker had it", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			up := &upstream{answer: issues(time.Hour), facts: broker.Facts{ObtainsAlone: true}}
			all := newReplicas(t, 2, up, grace(time.Hour))
			a, b := all[0], all[1]
			a.create("main", nil)
			a.mustGet("main", scopes(t, "another")) // the credential is known
			a.backend.Away()
			sleep(3 * time.Second)
			id := a.mustGet("main").Token.ID
			up.script(down)
			a.backend.Set(storetest.Hooks{})
			invalidate(t, b, engine.Invalidation{All: true})
			sleep(5 * time.Second)
			if a.served() == id {
				t.Error("served by a store that answers")
			}
			a.backend.Away()
			wantNever(t, a, id)
		})
	})
}

// chosen is a selection that a caller may make.
var chosen = func() broker.Selection {
	set, err := broker.ParseSet("scopes", []string{"chosen"})
	if err != nil {
		panic(err)
	}
	return broker.Selection{Scopes: set}
}()

// TestATokenThatWasReplacedIsNotMissed: another broker has refreshed. This one tests the credential, or asks for more than there is, and reads that; the
// store goes away, and it has one of two tokens that are good.
func TestATokenThatWasReplacedIsNotMissed(t *testing.T) {
	for name, reads := range map[string]func(*replica){
		"by a test": func(a *replica) {
			_, _ = a.TestCredential(context.Background(), local, "main", broker.Selection{}, false)
		},
		"by whoever wants what cannot be had": func(a *replica) {
			a.up.script(down)
			_, _ = a.get("main", func(r *engine.Request) { r.MinTTL = 59 * time.Minute })
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				all := newReplicas(t, 2, &upstream{answer: issues(time.Hour)}, grace(2*time.Hour))
				a, b := all[0], all[1]
				a.create("main", nil)
				first := a.mustGet("main").Token
				a.memory.Deafen(true)
				sleep(57 * time.Minute) // past its refresh time
				b.served()
				b.served() // refreshes in the background
				synctest.Wait()
				second := b.served()
				if second == first.ID {
					t.Fatal("not refreshed")
				}
				sleep(90 * time.Second)
				reads(a)
				a.backend.Away()
				sleep(2500 * time.Millisecond)
				if got := a.mustGet("main").Token.ID; got != second {
					t.Errorf("got %s, want the one that was read", got)
				}
			})
		})
	}
}

// TestWhatOnlyThisBrokerHasIsKeptWhileItIsGood: what another broker does to the credential says nothing of it.
func TestWhatOnlyThisBrokerHasIsKeptWhileItIsGood(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour), facts: broker.Facts{ObtainsAlone: true}}
		all := newReplicas(t, 2, up, grace(time.Hour))
		a, b := all[0], all[1]
		a.create("main", nil)
		a.mustGet("main", scopes(t, "another"))
		a.backend.Away()
		sleep(3 * time.Second)
		id := a.mustGet("main").Token.ID
		up.script(down)
		a.backend.Set(storetest.Hooks{})
		for i := range 3 {
			_, err := b.UpdateCredential(t.Context(), local, engine.Change{Name: "main", Edit: func(d *engine.Draft) error {
				d.Labels = map[string]string{"note": fmt.Sprint(i)}
				return nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			sleep(time.Second)
			a.served()
		}
		a.backend.Away()
		sleep(3 * time.Second)
		if got := a.served(); got != id {
			t.Errorf("got %q, want what it had", got)
		}
	})
}
