package engine_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
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
