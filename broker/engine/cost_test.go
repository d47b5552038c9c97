package engine_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// confirms marks what is asked beside the calls, to confirm what was given: nobody waits for that.
type confirms struct{ broker.Store }

type confirming struct{}

func (c confirms) Unchanged(ctx context.Context, marks []broker.Mark) ([]broker.Verdict, error) {
	return c.Store.Unchanged(context.WithValue(ctx, confirming{}, true), marks)
}

// TestWhatAMissAsksTheStore: with a refresh token that rotates, a cold miss reads the credential and what is known of the token,
// takes the lease with its mark, and commits: four calls, one after the other. Where the credential is known it is three, and
// it is never more because others share the store, or because the policy has to know the credential to decide.
func TestWhatAMissAsksTheStore(t *testing.T) {
	backends := map[string]func() store.Backend{
		"alone":  func() store.Backend { return storetest.NewMemory() },
		"shared": func() store.Backend { return storetest.NewReplicas(2)[0] },
	}
	for name, rule := range map[string]func(broker.Access) broker.Effect{
		"by name": always(broker.Allowed), "by what is stored": func(a broker.Access) broker.Effect {
			if a.Known == broker.Unread {
				return broker.Depends
			}
			return broker.Allowed
		},
	} {
		for of, open := range backends {
			t.Run(of+" "+name, func(t *testing.T) { whatAMissAsks(t, open, newRuler(rule)) })
		}
	}
}

func whatAMissAsks(t *testing.T, open func() store.Backend, rules *ruler) {
	bubble(t, func(t *testing.T) {
		up := newLines()
		up.complete()
		backend := storetest.NewFaults(open())
		s, err := store.New(backend.Whole(), newKeys(t), store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		w := &world{t: t, up: up.upstream, store: s, backend: backend}
		w.start()
		for _, name := range []string{"main", "other"} {
			w.create(name, map[string]string{"refresh_token": name + ".0"})
		}
		w.start(authorizedBy(rules), func(s *engine.Settings) { s.Store = confirms{s.Store} }) // another broker, which knows nothing
		var calls atomic.Int64
		backend.Set(storetest.Hooks{
			BeforeRead: func(ctx context.Context) error {
				if ctx.Value(confirming{}) == nil {
					calls.Add(1)
				}
				return nil
			},
			BeforeApply: func(context.Context, store.Batch) error { calls.Add(1); return nil },
		})
		want := func(what string, exactly int64, more ...func(*engine.Request)) {
			t.Helper()
			calls.Store(0)
			r := engine.Request{Credential: "main"}
			for _, f := range more {
				f(&r)
			}
			if _, err := w.Token(t.Context(), shop, r); err != nil {
				t.Fatal(err)
			}
			if got := calls.Load(); got != exactly {
				t.Errorf("%s: %d calls of the backend, want %d", what, got, exactly)
			}
		}
		want("nothing is known", 4)
		want("the credential is known", 3, scopes(t, "of-another-token"))
		want("a hit", 0)
		w.wantExchanges(2)
		calls.Store(0)
		if _, err := w.CredentialStatuses(t.Context(), local, []broker.CredentialName{"main", "nobody", "other"}); err != nil || calls.Load() != 1 {
			t.Errorf("statuses of three: %d calls, %v, want one", calls.Load(), err)
		}
	})
}
