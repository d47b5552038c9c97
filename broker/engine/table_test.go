package engine_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// outages has a test for each row of the table in docs/redis.md, by its first three columns.
var outages = map[string]func(t *testing.T, w *replica, up *upstream) string{
	"GetToken | within the bound | any": func(_ *testing.T, w *replica, _ *upstream) string {
		w.mustGet("main")
		w.backend.Away()
		sleep(time.Second)
		return describe(w.get("main"))
	},
	"GetToken | within the grace | away": func(_ *testing.T, w *replica, _ *upstream) string {
		w.mustGet("main")
		w.backend.Away()
		sleep(time.Minute)
		return describe(w.get("main"))
	},
	"GetToken | within the grace | answers": func(_ *testing.T, w *replica, _ *upstream) string {
		id := w.mustGet("main").Token.ID
		sleep(time.Minute) // nobody asks: it is not confirmed either
		var read atomic.Bool
		w.backend.Set(storetest.Hooks{BeforeRead: func(context.Context) error { read.Store(true); return nil }})
		if r := w.mustGet("main"); !read.Load() || r.Degraded || r.Token.ID != id {
			return "something else"
		}
		return "what is stored"
	},
	"GetToken | longer ago or never | away": func(_ *testing.T, w *replica, _ *upstream) string {
		w.mustGet("main")
		w.backend.Away()
		sleep(6 * time.Minute)
		if got := describe(w.get("never")); got != "STORE_UNAVAILABLE" {
			return "never read: " + got
		}
		return describe(w.get("main"))
	},
	"GetToken, where the definition lets a broker obtain alone | longer ago or never, its credential within the grace | away, or takes no writes": func(t *testing.T, w *replica, up *upstream) string {
		up.facts.ObtainsAlone = true
		w.mustGet("main")
		full := storetest.Hooks{BeforeApply: func(context.Context, store.Batch) error { return store.Unavailable("full, for a test") }}
		for i, how := range []func(){w.backend.Away, func() { w.backend.Set(full) }} {
			before := len(up.exchanges())
			how()
			for range 10 {
				if got := describe(w.get("main", scopes(t, fmt.Sprint("of-its-own-", i)))); got != "the token, degraded" {
					return got
				}
				sleep(100 * time.Millisecond)
			}
			if n := len(up.exchanges()) - before; n > 1 {
				return "more than one exchange"
			}
			w.backend.Set(storetest.Hooks{})
			sleep(time.Second)
		}
		return "a token of this broker's own, degraded, obtained once"
	},
	"GetToken that rejects the token | any | away": func(_ *testing.T, w *replica, _ *upstream) string {
		id := w.mustGet("main").Token.ID
		w.backend.Away()
		sleep(time.Second)
		first, second := describe(w.get("main", rejected(id))), describe(w.get("main"))
		if first != second {
			return first + ", and then " + second
		}
		return first + ", and so does whoever asks for it next"
	},
	"GetToken that rejects another token | within the grace | away": func(_ *testing.T, w *replica, _ *upstream) string {
		w.mustGet("main")
		w.backend.Away()
		sleep(time.Minute)
		return describe(w.get("main", rejected(nobodys)))
	},
	"GetToken past the refresh time | within the grace | away": func(_ *testing.T, w *replica, up *upstream) string {
		w.mustGet("main")
		sleep(56 * time.Minute)
		before := len(up.exchanges())
		w.mustGet("main") // it is read again, and past its refresh time
		w.backend.Away()
		for range 40 {
			sleep(5 * time.Second)
			if got := describe(w.get("main")); got != "the token, degraded" {
				return got
			}
		}
		if len(up.exchanges()) > before {
			return "another one"
		}
		return "the token, degraded, and nobody is asked for another"
	},
	"GetToken whose exchange brought a refresh token | - | away when it is to be stored": func(_ *testing.T, w *replica, up *upstream) string {
		up.facts.Refreshes = true
		up.script(func(context.Context, broker.Exchange) (broker.Answer, error) {
			w.backend.Away()
			a := token("t", time.Hour)
			a.RefreshToken = broker.NewSecret("r")
			return a, nil
		})
		if got := describe(w.get("main")); got != "STORE_UNAVAILABLE" {
			return got
		}
		sleep(time.Minute)
		if got := describe(w.get("main")); got != "STORE_UNAVAILABLE" {
			return got
		}
		w.backend.Set(storetest.Hooks{})
		sleep(time.Second)
		if got := describe(w.get("main")); got != "the token" || len(up.exchanges()) != 1 {
			return got
		}
		return "STORE_UNAVAILABLE, or the former token, degraded, while that is valid; and the new one once it is stored"
	},
	"GetToken whose exchange brought none | its credential within the grace | away when it is to be stored": func(t *testing.T, w *replica, up *upstream) string {
		inner := up.answer
		up.script(func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			w.backend.Away()
			return inner(ctx, x)
		})
		got := describe(w.get("main"))
		sleep(10 * time.Second)
		w.backend.Set(storetest.Hooks{})
		sleep(time.Second)
		if st, err := storetest.Status(t.Context(), w.store, "main"); err != nil || len(st.Tokens) != 1 {
			return "it is not stored"
		}
		return got + "; it is stored if Redis is back before the lease ends"
	},
	"Invalidate | any | away": func(t *testing.T, w *replica, _ *upstream) string {
		id := w.mustGet("main").Token.ID
		w.mustGet("main", scopes(t, "other"))
		w.backend.Away()
		sleep(time.Second)
		_, err := w.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", TokenID: id})
		got := describe(engine.Result{}, err)
		if other := describe(w.get("main", scopes(t, "other"))); other != "the token" {
			return "another one is gone"
		}
		if describe(w.get("main")) != "STORE_UNAVAILABLE" {
			return "it is served"
		}
		return got + "; what it names is gone from this broker, and nothing else"
	},
	"Invalidate of a token of this broker's own | any | answers": func(t *testing.T, w *replica, up *upstream) string {
		up.facts.ObtainsAlone = true
		w.backend.Set(storetest.Hooks{BeforeApply: func(context.Context, store.Batch) error { return store.Unavailable("full, for a test") }})
		id := w.mustGet("main").Token.ID
		if done, err := w.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", TokenID: id}); err != nil || done.Count != 1 {
			return "not counted"
		}
		if w.served() == id {
			return "served"
		}
		return "OK, and it is counted"
	},
	"UpdateCredential or DeleteCredential whose answer is lost | within the grace | away": func(t *testing.T, w *replica, _ *upstream) string {
		w.mustGet("main")
		for _, write := range []func() error{
			func() error { return w.DeleteCredential(t.Context(), local, "main", broker.ID{}) },
			func() error {
				_, err := w.UpdateCredential(t.Context(), local, engine.Change{Name: "main", Edit: func(d *engine.Draft) error {
					d.Labels = map[string]string{"a": time.Now().String()}
					return nil
				}})
				return err
			},
		} {
			var reads atomic.Int32
			w.backend.Set(storetest.Hooks{
				BeforeRead:  func(context.Context) error { reads.Add(1); return nil },
				BeforeApply: func(context.Context, store.Batch) error { return store.Unavailable("lost, for a test") },
			})
			if got := describe(engine.Result{}, write()); got != "STORE_UNAVAILABLE" {
				return got
			}
			reads.Store(0)
			if got := describe(w.get("main")); got != "the token" || reads.Load() == 0 {
				return got + ", without asking"
			}
		}
		return "STORE_UNAVAILABLE; tokens are asked about before they are served again"
	},
	"WatchToken | longer ago or never | away": func(_ *testing.T, w *replica, _ *upstream) string {
		w.backend.Away()
		events, _, stop := watching(w.world, "")
		defer stop()
		sleep(time.Minute)
		if len(events) != 1 {
			return "something else"
		}
		if e := <-events; e.Supply == nil || e.Supply.Failure == nil || e.Supply.Failure.Kind != broker.StoreUnavailable {
			return "something else"
		}
		return "why there is no token, once"
	},
}

// describe is an answer in the words of the table.
func describe(r engine.Result, err error) string {
	switch {
	case err != nil:
		return strings.ToUpper(broker.KindOf(err).Name())
	case !time.Now().Before(r.Token.ExpireTime):
		return "a token that has ended"
	case r.Degraded:
		return "the token, degraded"
	}
	return "the token"
}

// TestTheTableOfOutages: docs/redis.md says what callers get while Redis is away, and that is what they get.
func TestTheTableOfOutages(t *testing.T) {
	page, err := os.ReadFile("../../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(page), "| a caller's | last confirmed | Redis | gets |\n|---|---|---|---|\n")
	if !ok {
		t.Fatal("there is no such table")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	rows := map[string]bool{}
	for line := range strings.Lines(table) {
		line = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(line), "| "), " |")
		i := strings.LastIndex(line, " | ")
		row, want := line[:i], line[i+3:]
		rows[row] = true
		test := outages[row]
		if test == nil {
			t.Errorf("no test for %q", row)
			continue
		}
		t.Run(row, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				up := &upstream{answer: issues(time.Hour)}
				w := newReplicas(t, 1, up, grace(5*time.Minute))[0]
				for _, name := range []string{"main", "never"} {
					w.create(name, nil)
				}
				synctest.Wait()
				got := test(t, w, up)
				w.backend.Set(storetest.Hooks{})
				if got != want {
					t.Errorf("got %s; the table says %s", got, want)
				}
			})
		})
	}
	for row := range outages {
		if !rows[row] {
			t.Errorf("the table does not have %q", row)
		}
	}
}
