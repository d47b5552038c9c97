package engine_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/broker/policy"
)

// TestARateIsOfEachCaller: what the policy lets a caller have is counted on hits and on misses, for each caller apart, and is the same after the policy was read
// again; another rate begins anew.
func TestARateIsOfEachCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRuler(always(broker.Allowed))
		r.rate = broker.Rate{Times: 4, Per: time.Minute}
		w := newWorld(t, &upstream{answer: issues(time.Hour)}, authorizedBy(r))
		w.create("a", nil)
		w.create("b", nil)
		ask := func(c *broker.Caller, name broker.CredentialName) error {
			_, err := w.Token(t.Context(), c, engine.Request{Credential: name})
			return err
		}
		limited := func(when string, want time.Duration) {
			t.Helper()
			var f *broker.Failure
			if err := ask(shop, "a"); !errors.As(err, &f) || f.Kind != broker.CallerLimited || time.Until(f.RetryAt).Round(time.Second) != want {
				t.Errorf("%s: got %v, want CallerLimited for %s", when, err, want)
			}
		}
		pass := func(when string, c *broker.Caller, name broker.CredentialName) {
			t.Helper()
			if err := ask(c, name); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
		pass("a miss", shop, "a")
		pass("a hit", shop, "a")
		pass("another credential", shop, "b")
		pass("the last", shop, "b")
		limited("the fifth", 15*time.Second)
		w.create("c", nil)
		if err := ask(shop, "c"); broker.KindOf(err) != broker.CallerLimited { // and nothing is asked of anybody for them
			t.Errorf("what nobody has asked for: got %v", err)
		}
		other := broker.NewCaller(broker.SPIFFE, "corp.example", "ns/shop/sa/other", broker.ProofX509, "services")
		pass("somebody else", other, "a")
		again := broker.NewCaller(broker.SPIFFE, "corp.example", "ns/shop/sa/cart", broker.ProofX509, "services")
		if err := ask(again, "a"); broker.KindOf(err) != broker.CallerLimited {
			t.Errorf("the same caller by another connection: got %v", err)
		}
		r.set(always(broker.Allowed))
		limited("the policy was read again", 15*time.Second)
		<-time.After(15 * time.Second)
		pass("a quarter of a minute later", shop, "a")
		limited("and no more", 15*time.Second)
		if err := w.Watch(t.Context(), shop, engine.Request{Credential: "a"}, "", func(engine.Event) error { return errors.New("told") }); err == nil || err.Error() != "told" {
			t.Errorf("a watch: got %v", err)
		}
		r.rate.Times = 5
		r.set(always(broker.Allowed))
		pass("another rate", shop, "a")
		w.wantExchanges(2)
	})
}

// TestACallTakesOne: the policy lets a caller have one token. Its first use has to be written down, which takes a while, and the token is no longer served after that,
// so that there is another: to be given that they need no second.
func TestACallTakesOne(t *testing.T) {
	for name, meanwhile := range map[string]func(w *world){
		"it is invalidated": func(w *world) {
			_, _ = w.Invalidate(w.t.Context(), local, engine.Invalidation{Credential: "main", All: true})
		},
		"it is refreshed": func(w *world) { w.mustGet("main") },
	} {
		for _, hit := range []bool{true, false} {
			bubble(t, func(t *testing.T) {
				r := newRuler(always(broker.Allowed))
				r.rate = broker.Rate{Times: 1, Per: 10 * time.Minute}
				w := newWorld(t, &upstream{answer: issues(time.Hour)}, authorizedBy(r), func(s *engine.Settings) { s.Auditor = &slowUse{takes: 500 * time.Millisecond} })
				w.create("main", nil)
				if hit {
					w.mustGet("main")
					sleep(57 * time.Minute)
				}
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					sleep(100 * time.Millisecond)
					meanwhile(w)
				}()
				if _, err := w.Token(t.Context(), shop, engine.Request{Credential: "main"}); err != nil {
					t.Errorf("%s, a hit: %v: %v", name, hit, err)
				}
				<-ended
				if _, err := w.Token(t.Context(), shop, engine.Request{Credential: "main"}); broker.KindOf(err) != broker.CallerLimited {
					t.Errorf("%s, a hit: %v: the next call: got %v", name, hit, err)
				}
			})
		}
	}
}

// TestTheHighestRateThatAllowsCounts: a rule with a rate allows by the name, and one without by the labels. What the former has let a caller have is no reason to
// refuse what the latter does, also where it has to be asked for; and for what only the former allows nobody is asked.
func TestTheHighestRateThatAllowsCounts(t *testing.T) {
	const both = `
version: 1
callers: {shop: [{spiffe: "corp.example/ns/shop/**"}]}
rules:
  - {name: slow, callers: [shop], credentials: {names: ["*"]}, operations: [get_token], scopes: ["*"], audience: ["*"], resources: ["*"], parameters: {"*": ["*"]}, rate: 1/h}
  - {name: free, callers: [shop], credentials: {names: ["*"], labels: {env: [prod]}}, operations: [get_token], scopes: ["*"], audience: ["*"], resources: ["*"], parameters: {"*": ["*"]}}
`
	synctest.Test(t, func(t *testing.T) {
		p, problems := policy.Parse("policy", []byte(both))
		if p == nil {
			t.Fatal(problems)
		}
		w := newWorld(t, &upstream{answer: issues(time.Hour)}, func(s *engine.Settings) { s.Authorizer = filed{p} })
		for _, name := range []broker.CredentialName{"dev", "other", "prod"} {
			if _, err := w.CreateCredential(t.Context(), local, engine.Change{Name: name, Edit: func(d *engine.Draft) error {
				if d.Provider = w.up.facts.Name; name == "prod" {
					d.Labels = map[string]string{"env": "prod"}
				}
				return nil
			}}); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []struct {
			name      broker.CredentialName
			want      error
			exchanges int
		}{{"dev", nil, 1}, {"dev", broker.CallerLimited, 1}, {"other", broker.CallerLimited, 1}, {"prod", nil, 2}, {"prod", nil, 2}, {"missing", broker.CallerLimited, 2}} {
			if _, err := w.Token(t.Context(), shop, engine.Request{Credential: c.name}); !errors.Is(err, c.want) {
				t.Errorf("%s: got %v, want %v", c.name, err, c.want)
			}
			w.wantExchanges(c.exchanges)
		}
	})
}

// filed is a policy that allows this machine everything.
type filed struct{ *policy.Policy }

func (f filed) Decide(a broker.Access) broker.Decision {
	if a.Caller == local {
		return broker.Decision{Effect: broker.Allowed}
	}
	return f.Policy.Decide(a)
}
func (filed) Generation() uint64       { return 0 }
func (filed) Changes() <-chan struct{} { return nil }

// TestWhatIsBeyondARateIsNoUse: the audit log counts what was handed out, and nothing else.
func TestWhatIsBeyondARateIsNoUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRuler(always(broker.Allowed))
		r.rate = broker.Rate{Times: 5, Per: time.Hour}
		log := &auditor{}
		w := newWorld(t, &upstream{answer: issues(2 * time.Hour)}, authorizedBy(r), func(s *engine.Settings) { s.Auditor = log })
		w.create("a", nil)
		given := 0
		for range 50 {
			if _, err := w.Token(t.Context(), shop, engine.Request{Credential: "a"}); err == nil {
				given++
			}
		}
		used := int64(len(log.uses)) // the first of each, and what is counted after it
		for _, u := range log.uses {
			used += u.Take()
		}
		if given != 5 || used != 5 {
			t.Errorf("given %d, and written down %d", given, used)
		}
	})
}
