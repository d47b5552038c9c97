package engine_test

import (
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// TestTheKeyHoldsEverythingThatChangesTheAnswer: whatever a caller chooses has a token of its own, in the process and in the
// store, and so has each version of the credential, each epoch, and each revision of the definition.
func TestTheKeyHoldsEverythingThatChangesTheAnswer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(24 * time.Hour)}
		w := newWorld(t, up)
		w.create("main", nil)
		resources, err := broker.ParseSet("resources", []string{"https://r"})
		if err != nil {
			t.Fatal(err)
		}
		choices := map[string]func(*engine.Request){
			"nothing":           func(*engine.Request) {},
			"scopes":            scopes(t, "a"),
			"other scopes":      scopes(t, "b"),
			"both scopes":       scopes(t, "a", "b"),
			"audience":          func(r *engine.Request) { r.Selection.Audience = "a" },
			"another audience":  func(r *engine.Request) { r.Selection.Audience = "b" },
			"resources":         func(r *engine.Request) { r.Selection.Resources = resources },
			"parameters":        func(r *engine.Request) { r.Selection.Parameters = broker.NewPairs(map[string]string{"p": "1"}) },
			"another parameter": func(r *engine.Request) { r.Selection.Parameters = broker.NewPairs(map[string]string{"p": "2"}) },
		}
		all := func() map[string]string {
			t.Helper()
			ids, seen := map[string]string{}, map[string]string{}
			for name, choose := range choices {
				id := w.mustGet("main", choose).Token.ID
				if other, twice := seen[id]; twice {
					t.Errorf("%s and %s have one token", name, other)
				}
				ids[name], seen[id] = id, name
			}
			return ids
		}
		first := all()
		n := len(up.exchanges())
		w.start() // nothing is cached in the process any more
		for name, id := range all() {
			if id != first[name] {
				t.Errorf("%s: got another token from the store", name)
			}
		}
		w.wantExchanges(n)
		if got := w.mustGet("main", scopes(t, "b", "a", "b")).Token.ID; got != first["both scopes"] {
			t.Error("order and repeats of scopes made another token")
		}
		former := first
		renewed := func(what string) {
			t.Helper()
			now := all()
			for name, id := range now {
				if id == former[name] {
					t.Errorf("%s: %s kept its token", what, name)
				}
			}
			former = now
		}
		up.facts.Digest = "digest-2"
		up.revision.Add(1)
		renewed("a changed definition")
		w.update("main", func(d *engine.Draft) { d.Secrets = secretMap(map[string]string{"client_secret": "new"}) })
		renewed("a new version of the credential")
		if _, err := w.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", All: true}); err != nil {
			t.Fatal(err)
		}
		renewed("an invalidation of all")
		if err := w.DeleteCredential(t.Context(), local, "main", broker.ID{}); err != nil {
			t.Fatal(err)
		}
		w.create("main", nil)
		renewed("a credential that was deleted and created again")
	})
}
