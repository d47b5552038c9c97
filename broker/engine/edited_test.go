package engine_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// edit changes a credential, as local.
func (w *world) edit(name string, f func(*engine.Draft)) {
	w.t.Helper()
	if _, err := w.UpdateCredential(w.t.Context(), local, engine.Change{Name: broker.CredentialName(name), Edit: func(d *engine.Draft) error {
		f(d)
		return nil
	}}); err != nil {
		w.t.Fatal(err)
	}
}

// TestWhatIsEditedDuringAnExchange counts for what it brings: nobody gets a token by the credential as it was before, whichever broker was told.
func TestWhatIsEditedDuringAnExchange(t *testing.T) {
	for how, f := range map[string]func(*engine.Draft){
		"a label is taken away": func(d *engine.Draft) { d.Labels = map[string]string{"env": "prod"} },
		"it is disabled":        func(d *engine.Draft) { d.Disabled = true },
	} {
		for where, brokers := range map[string]int{"alone": 0, "this broker of two": 1, "another broker": 2} {
			t.Run(how+", "+where, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					next := issues(24 * time.Hour)
					up := &upstream{answer: func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
						sleep(2 * time.Second)
						return next(ctx, x)
					}}
					rule := authorizedBy(newRuler(byLabel("env", "test")))
					var w, editor *world
					if brokers == 0 {
						w = newWorld(t, up, rule)
						editor = w
					} else {
						all := newReplicas(t, 2, up, rule)
						w, editor = all[0].world, all[brokers-1].world
					}
					w.create("main", nil)
					w.label("main", map[string]string{"env": "test"})
					sleep(3 * time.Second)
					ask := func() error {
						_, err := w.Token(t.Context(), shop, engine.Request{Credential: "main"})
						return err
					}
					waited := make(chan error, 1)
					go func() { waited <- ask() }()
					sleep(time.Second)
					editor.edit("main", f)
					if err := <-waited; err == nil {
						t.Error("who waited got what it brought")
					}
					sleep(engine.DefaultCacheBound)
					for range 10 {
						if ask() == nil {
							t.Fatal("it is served")
						}
						sleep(time.Minute)
					}
				})
			})
		}
	}
}

// TestASuccessorThatAFailoverHasUndone hangs on no refresh token, so that nobody keeps it: what is stored again is served, and is not asked for in a loop.
func TestASuccessorThatAFailoverHasUndone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newReplicas(t, 1, &upstream{answer: issues(24 * time.Hour)})[0]
		w.create("main", nil)
		first := w.mustGet("main").Token
		sleep(6 * time.Hour)
		restore := w.memory.Snapshot()
		if w.mustGet("main", func(r *engine.Request) { r.MinTTL = 20 * time.Hour }).Token.ID == first.ID {
			t.Fatal("there is no successor")
		}
		restore()
		w.memory.Resubscribe()
		sleep(3 * time.Second)
		var reads atomic.Int64
		w.backend.Set(storetest.Hooks{BeforeRead: func(context.Context) error { reads.Add(1); return nil }})
		for range 10 {
			if id := w.mustGet("main").Token.ID; id != first.ID {
				t.Errorf("got %s, and %s is stored", id, first.ID)
			}
			sleep(time.Minute)
		}
		if n := reads.Load(); n > 100 {
			t.Errorf("the store was asked %d times in ten minutes", n)
		}
	})
}

// TestAFormerDefaultIsNobodysWhoNamesNothing, also while somebody names what the default was.
func TestAFormerDefaultIsNobodysWhoNamesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		all := newReplicas(t, 2, &upstream{answer: issues(time.Hour)})
		here, there := all[0], all[1]
		here.create("main", nil)
		is := func(scope string) func(*engine.Draft) {
			return func(d *engine.Draft) { d.DefaultScopes, _ = broker.ParseSet("scopes", []string{scope}) }
		}
		there.edit("main", is("write"))
		sleep(3 * time.Second)
		if here.mustGet("main").Token.ID != here.mustGet("main", scopes(t, "write")).Token.ID {
			t.Fatal("they are two")
		}
		there.edit("main", is("read"))
		for began := time.Now(); time.Since(began) < time.Minute; sleep(time.Second) {
			here.mustGet("main", scopes(t, "write"))
			if got := here.mustGet("main").Token.Scopes; got[0] != "read" && time.Since(began) > engine.DefaultCacheBound {
				t.Fatalf("%v after the default became read, %v", time.Since(began), got)
			}
		}
	})
}

// TestAPolicyThatChangesNothingEndsNoWatch, however many a caller has.
func TestAPolicyThatChangesNothingEndsNoWatch(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRuler(byLabel("env", "test"))
		w := newWorld(t, &upstream{answer: issues(24 * time.Hour)}, authorizedBy(r), func(s *engine.Settings) { s.CallerRate = 1 })
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var ended atomic.Int64
		for i := range 40 {
			name := "c" + string(rune('a'+i%26)) + string(rune('a'+i/26))
			w.create(name, nil)
			w.label(name, map[string]string{"env": "test"})
			go func() {
				if _ = w.Watch(ctx, shop, engine.Request{Credential: broker.CredentialName(name)}, "", func(engine.Event) error { return nil }); ctx.Err() == nil {
					ended.Add(1)
				}
			}()
			sleep(10 * time.Second)
		}
		r.set(byLabel("env", "test"))
		sleep(time.Minute)
		if n := ended.Load(); n > 0 {
			t.Errorf("%d watches have ended", n)
		}
	})
}

// TestAWatchThatComesBackInAnOutage is told why there is no token, and stays, whatever it holds.
func TestAWatchThatComesBackInAnOutage(t *testing.T) {
	for _, known := range []string{"", "held"} {
		bubble(t, func(t *testing.T) {
			w := newReplicas(t, 1, &upstream{answer: issues(24 * time.Hour)}, authorizedBy(newRuler(byLabel("env", "test"))))[0]
			w.create("main", nil)
			w.label("main", map[string]string{"env": "test"})
			w.backend.Away()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			told := 0
			err := w.Watch(ctx, shop, engine.Request{Credential: "main"}, known, func(e engine.Event) error {
				told++
				wantKind(t, e.Supply.Failure, broker.StoreUnavailable)
				return nil
			})
			if wantKind(t, err, broker.DeadlinePassed); told != 1 {
				t.Errorf("who holds %q was told %d times", known, told)
			}
		})
	}
}
