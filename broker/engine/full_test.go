package engine_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// TestAStoreThatTakesNoTokenSaysSo: a disk has room for a lease and none for the token that comes. Whoever asks is told at once what is wrong, and
// what came is stored when there is room, a refresh token however long that takes.
func TestAStoreThatTakesNoTokenSaysSo(t *testing.T) {
	for name, rotates := range map[string]bool{"with a refresh token": true, "without": false} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				good := issues(time.Hour)
				up := &upstream{answer: func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
					a, err := good(ctx, x)
					if rotates {
						a.RefreshToken = broker.NewSecret("next")
					}
					return a, err
				}}
				up.facts.Refreshes = rotates
				up.facts.Obtains = true
				w := newWorld(t, up)
				w.create("main", nil)
				answer := up.answer
				var answered, full atomic.Bool
				full.Store(true)
				w.up.script(func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
					answered.Store(true)
					return answer(ctx, x)
				})
				w.backend.Set(storetest.Hooks{BeforeApply: func(context.Context, store.Batch) error {
					if answered.Load() && full.Load() {
						return store.Unavailable("the disk is full")
					}
					return nil
				}})
				began := time.Now()
				for range 10 {
					_, err := w.get("main")
					f := wantKind(t, err, broker.StoreUnavailable)
					if f.Detail == "" || f.RetryAt.IsZero() {
						t.Errorf("got %+v, want the cause and when to ask again", f)
					}
				}
				if took := time.Since(began); took > time.Second {
					t.Errorf("they were told after %s", took)
				}
				full.Store(false)
				sleep(2 * time.Second)
				w.mustGet("main")
				w.wantExchanges(1)
			})
		})
	}
}

// TestWhatIsGivenUpStandsInNobodysWay: a commit fails otherwise at first, then for a full disk until its lease ends.
func TestWhatIsGivenUpStandsInNobodysWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour)}
		up.facts.Obtains = true
		w := newWorld(t, up)
		w.create("main", nil)
		answer := up.answer
		var answered, bad atomic.Bool
		var n atomic.Int32
		w.mustGet("main")
		// somebody holds the line
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() {
			_ = w.Watch(ctx, local, engine.Request{Credential: "main"}, "", func(engine.Event) error { return nil })
		}()
		sleep(time.Second)
		w.up.script(func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			answered.Store(true)
			return answer(ctx, x)
		})
		bad.Store(true)
		w.backend.Set(storetest.Hooks{BeforeApply: func(context.Context, store.Batch) error {
			if !answered.Load() || !bad.Load() {
				return nil
			}
			if n.Add(1) == 1 {
				return &broker.Failure{Kind: broker.RecordUnreadable}
			}
			return store.Unavailable("the disk is full")
		}})
		if _, err := w.get("main", scopes(t, "other")); err == nil {
			t.Fatal("a token was given that is not stored")
		}
		bad.Store(false)
		answered.Store(false)
		sleep(time.Minute)
		w.mustGet("main", scopes(t, "other"))
	})
}
