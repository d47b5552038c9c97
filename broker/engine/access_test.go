package engine_test

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// A ruler is an authorizer whose rule a test sets. It lets local do everything.
type ruler struct {
	mu         sync.Mutex
	rule       func(broker.Access) broker.Effect
	rate       broker.Rate
	asked      []broker.Access
	generation atomic.Uint64
	changed    chan struct{}
}

func newRuler(rule func(broker.Access) broker.Effect) *ruler {
	return &ruler{rule: rule, changed: make(chan struct{})}
}

func (r *ruler) Decide(a broker.Access) broker.Decision {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.Caller == local {
		return broker.Decision{Effect: broker.Allowed}
	}
	r.asked = append(r.asked, a)
	return broker.Decision{Effect: r.rule(a), Rule: "r", Rate: r.rate}
}

func (r *ruler) Generation() uint64 { return r.generation.Load() }

func (r *ruler) Changes() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// set changes the rule, as a new policy file does.
func (r *ruler) set(rule func(broker.Access) broker.Effect) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rule = rule
	r.generation.Add(1)
	close(r.changed)
	r.changed = make(chan struct{})
}

// decisions is how often it was asked.
func (r *ruler) decisions() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.asked)
}

// byLabel allows what has this label, and everything once it is known.
func byLabel(key, value string) func(broker.Access) broker.Effect {
	return func(a broker.Access) broker.Effect {
		switch {
		case a.Known == broker.Unread:
			return broker.Depends
		case a.Known == broker.Stored && a.Labels[key] == value:
			return broker.Allowed
		}
		return broker.Denied
	}
}

func always(e broker.Effect) func(broker.Access) broker.Effect {
	return func(broker.Access) broker.Effect { return e }
}

var shop = broker.NewCaller(broker.SPIFFE, "corp.example", "ns/shop/sa/cart", broker.ProofX509, "services")

// byScope allows what selects this scope alone, once that is known.
func byScope(scope string) func(broker.Access) broker.Effect {
	return func(a broker.Access) broker.Effect {
		switch {
		case a.Known == broker.Unread:
			return broker.Depends
		case a.Selection.Scopes.String() == scope:
			return broker.Allowed
		}
		return broker.Denied
	}
}

func authorizedBy(r *ruler) func(*engine.Settings) {
	return func(s *engine.Settings) { s.Authorizer = r }
}

// label changes the labels of a credential, as local.
func (w *world) label(name string, labels map[string]string) {
	w.t.Helper()
	if _, err := w.UpdateCredential(w.t.Context(), local, engine.Change{Name: broker.CredentialName(name), Edit: func(d *engine.Draft) error {
		d.Labels = labels
		return nil
	}}); err != nil {
		w.t.Fatal(err)
	}
}

// doors has everything that a caller can ask of a Broker for a credential, by method.
var doors = map[string]func(w *world, ctx context.Context, c *broker.Caller, name broker.CredentialName) error{
	"Token": func(w *world, ctx context.Context, c *broker.Caller, name broker.CredentialName) error {
		_, err := w.Token(ctx, c, engine.Request{Credential: name})
		return err
	},
	"Current": func(w *world, ctx context.Context, c *broker.Caller, name broker.CredentialName) error {
		_, _, err := w.Current(ctx, c, engine.Request{Credential: name})
		return err
	},
	"Watch": func(w *world, ctx context.Context, c *broker.Caller, name broker.CredentialName) error {
		return w.Watch(ctx, c, engine.Request{Credential: name}, "held", func(e engine.Event) error { return fmt.Errorf("told %+v", e) })
	},
	"Invalidate": func(w *world, ctx context.Context, c *broker.Caller, name broker.CredentialName) error {
		_, err := w.Invalidate(ctx, c, engine.Invalidation{Credential: name, All: true})
		return err
	},
	"Credential": func(w *world, ctx context.Context, c *broker.Caller, name broker.CredentialName) error {
		_, err := w.Credential(ctx, c, name)
		return err
	},
	"Credentials": func(w *world, ctx context.Context, c *broker.Caller, name broker.CredentialName) error {
		p, err := w.Credentials(ctx, c, "", 100)
		if err == nil && slices.ContainsFunc(p.Credentials, func(c broker.Credential) bool { return c.Name == name }) {
			return nil
		}
		return broker.CallerNotAllowed
	},
	"CredentialStatus": func(w *world, ctx context.Context, c *broker.Caller, name broker.CredentialName) error {
		_, err := w.CredentialStatus(ctx, c, name)
		return err
	},
	"CredentialStatuses": func(w *world, ctx context.Context, c *broker.Caller, name broker.CredentialName) error {
		all, err := w.CredentialStatuses(ctx, c, []broker.CredentialName{name})
		if err == nil {
			if err = all[0].Err; err != nil && all[0].Credential.Name != "" {
				return fmt.Errorf("it shows %+v", all[0])
			}
		}
		return err
	},
	"CreateCredential": func(w *world, ctx context.Context, c *broker.Caller, name broker.CredentialName) error {
		_, err := w.CreateCredential(ctx, c, engine.Change{Name: name, AllowExisting: true, Edit: func(d *engine.Draft) error {
			d.Provider = w.up.facts.Name
			return nil
		}})
		return err
	},
	"UpdateCredential": func(w *world, ctx context.Context, c *broker.Caller, name broker.CredentialName) error {
		_, err := w.UpdateCredential(ctx, c, engine.Change{Name: name, AllowMissing: true, Edit: func(d *engine.Draft) error {
			d.Provider, d.Disabled = w.up.facts.Name, true
			return nil
		}})
		return err
	},
	"DeleteCredential": func(w *world, ctx context.Context, c *broker.Caller, name broker.CredentialName) error {
		return w.DeleteCredential(ctx, c, name, broker.ID{})
	},
	"RotateSecret": func(w *world, ctx context.Context, c *broker.Caller, name broker.CredentialName) error {
		_, err := w.RotateSecret(ctx, c, engine.Rotation{Name: name, Secrets: secretMap(map[string]string{"client_secret": "x"})})
		return err
	},
	"RetireSecret": func(w *world, ctx context.Context, c *broker.Caller, name broker.CredentialName) error {
		_, err := w.RetireSecret(ctx, c, name, nil)
		return err
	},
	"AcceptCredential": func(w *world, ctx context.Context, c *broker.Caller, name broker.CredentialName) error {
		_, err := w.AcceptCredential(ctx, c, engine.Acceptance{Name: name, ForgetFormer: true})
		return err
	},
	"TestCredential": func(w *world, ctx context.Context, c *broker.Caller, name broker.CredentialName) error {
		_, err := w.TestCredential(ctx, c, name, broker.Selection{}, false)
		return err
	},
}

// TestEveryMethodHasADoor: whatever takes a caller is in the table, so that a new method has its row.
func TestEveryMethodHasADoor(t *testing.T) {
	caller := reflect.TypeFor[*broker.Caller]()
	b := reflect.TypeFor[*engine.Broker]()
	n := 0
	for m := range b.Methods() {
		for in := range m.Type.Ins() {
			if in != caller {
				continue
			}
			n++
			if doors[m.Name] == nil {
				t.Errorf("%s takes a caller and is not in the table", m.Name)
			}
		}
	}
	if n != len(doors) {
		t.Errorf("%d methods take a caller, and the table has %d", n, len(doors))
	}
}

// TestNothingGoesPastTheDoor: who is denied by the name does not even have the store asked; who is denied by what is stored changes nothing, has
// nothing asked of the upstream, and learns nothing: not from what is answered, and not from how often the store was asked.
func TestNothingGoesPastTheDoor(t *testing.T) {
	for _, who := range []struct {
		name   string
		caller *broker.Caller
		rule   func(broker.Access) broker.Effect
		asks   bool
	}{
		{"nobody", nil, always(broker.Denied), false},
		{"by the name", shop, always(broker.Denied), false},
		{"by what is stored", shop, byLabel("env", "test"), true},
	} {
		for method, ask := range doors {
			t.Run(who.name+"/"+method, func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					w := newWorld(t, &upstream{answer: issues(time.Hour)}, authorizedBy(newRuler(who.rule)))
					w.create("prod", map[string]string{"client_secret": "s"})
					w.label("prod", map[string]string{"env": "prod"})
					first := w.mustGet("prod").Token.ID
					before, err := w.Credential(t.Context(), local, "prod")
					if err != nil {
						t.Fatal(err)
					}
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					var asked, wrote atomic.Int64
					w.backend.Set(storetest.Hooks{
						BeforeRead:  func(context.Context) error { asked.Add(1); return nil },
						BeforeApply: func(context.Context, store.Batch) error { wrote.Add(1); return nil },
					})
					var said, reads []string
					for _, name := range []broker.CredentialName{"prod", "nobody"} {
						asked.Store(0)
						err := ask(w, ctx, who.caller, name)
						if broker.KindOf(err) != broker.CallerNotAllowed {
							t.Errorf("%s: got %v", name, err)
							continue
						}
						said = append(said, strings.ReplaceAll(err.Error(), string(name), "NAME"))
						reads = append(reads, fmt.Sprint(asked.Load()))
						if !who.asks && asked.Load() > 0 && method != "Credentials" {
							t.Errorf("%s: the store was asked", name)
						}
					}
					if len(said) == 2 && (said[0] != said[1] || reads[0] != reads[1]) && method != "CreateCredential" && method != "UpdateCredential" {
						t.Errorf("what exists and what does not are told apart: %q, the store asked %v times", said, reads)
					}
					w.backend.Set(storetest.Hooks{})
					after, err := w.Credential(t.Context(), local, "prod")
					if err != nil || after.Etag != before.Etag || wrote.Load() > 0 {
						t.Errorf("something was written: %v, %d writes", err, wrote.Load())
					}
					if _, err := w.Credential(t.Context(), local, "nobody"); broker.KindOf(err) != broker.NotFound {
						t.Errorf("a credential was made: %v", err)
					}
					if w.mustGet("prod").Token.ID != first {
						t.Error("the token is gone")
					}
					w.wantExchanges(1)
				})
			})
		}
	}
}

// TestWhoMayByLabelDoes: the same callers do all of that where the label is theirs.
func TestWhoMayByLabelDoes(t *testing.T) {
	for method, ask := range doors {
		t.Run(method, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, &upstream{answer: issues(time.Hour)}, authorizedBy(newRuler(byLabel("env", "test"))))
				w.create("mine", map[string]string{"client_secret": "s"})
				w.label("mine", map[string]string{"env": "test"})
				if err := ask(w, t.Context(), shop, "mine"); broker.KindOf(err) == broker.CallerNotAllowed && method != "CreateCredential" {
					t.Errorf("got %v", err)
				}
			})
		})
	}
}

// TestLabelsAreRights: nobody labels a credential into what they may, or out of it.
func TestLabelsAreRights(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)}, authorizedBy(newRuler(byLabel("env", "test"))))
		w.create("mine", nil)
		w.label("mine", map[string]string{"env": "test"})
		w.create("other", nil)
		w.label("other", map[string]string{"env": "prod"})
		set := func(name broker.CredentialName, env string, more ...func(*engine.Change)) error {
			ch := engine.Change{Name: name, Edit: func(d *engine.Draft) error {
				d.Provider, d.Labels = w.up.facts.Name, map[string]string{"env": env}
				return nil
			}}
			for _, f := range more {
				f(&ch)
			}
			_, err := w.UpdateCredential(t.Context(), shop, ch)
			return err
		}
		wantKind(t, set("other", "test"), broker.CallerNotAllowed)
		wantKind(t, set("mine", "prod"), broker.CallerNotAllowed)
		_, err := w.CreateCredential(t.Context(), shop, engine.Change{Name: "other", Edit: func(d *engine.Draft) error {
			d.Provider, d.Labels = w.up.facts.Name, map[string]string{"env": "test"}
			return nil
		}})
		wantKind(t, err, broker.CallerNotAllowed) // and not that it is there
		wantKind(t, set("new", "prod", func(ch *engine.Change) { ch.AllowMissing = true }), broker.CallerNotAllowed)
		if err := set("new", "test", func(ch *engine.Change) { ch.AllowMissing = true }); err != nil {
			t.Errorf("got %v", err)
		}
		p, err := w.Credentials(t.Context(), shop, "", 10)
		if err != nil || len(p.Credentials) != 2 || p.Credentials[0].Name != "mine" || p.Credentials[1].Name != "new" {
			t.Errorf("got %+v, %v", p, err)
		}
	})
}

// TestARightThatIsTakenEndsWhatIsUnderWay: a watch ends at once, who waits for an exchange is not answered, and the exchange goes on for others.
func TestARightThatIsTakenEndsWhatIsUnderWay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		answers := issues(time.Hour)
		slow := func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			sleep(5 * time.Second)
			return answers(ctx, x)
		}
		r := newRuler(always(broker.Allowed))
		w := newWorld(t, &upstream{answer: slow}, authorizedBy(r))
		w.create("main", nil)
		waited := make(chan error, 2)
		go func() {
			_, err := w.Token(t.Context(), shop, engine.Request{Credential: "main"})
			waited <- err
		}()
		go func() {
			_, err := w.get("main")
			waited <- err
		}()
		sleep(time.Second)
		r.set(always(broker.Denied))
		wantKinds := map[broker.Kind]int{}
		for range 2 {
			if err := <-waited; err != nil {
				wantKinds[broker.KindOf(err)]++
			}
		}
		if len(wantKinds) != 1 || wantKinds[broker.CallerNotAllowed] != 1 {
			t.Errorf("got %v", wantKinds)
		}
		w.wantExchanges(1)

		r.set(always(broker.Allowed))
		told := make(chan error, 1)
		var events atomic.Int64
		go func() {
			told <- w.Watch(t.Context(), shop, engine.Request{Credential: "main"}, "", func(engine.Event) error { events.Add(1); return nil })
		}()
		synctest.Wait()
		seen, began := events.Load(), time.Now()
		if seen == 0 {
			t.Fatal("the watch was told nothing")
		}
		r.set(always(broker.Denied))
		wantKind(t, <-told, broker.CallerNotAllowed)
		if waited := time.Since(began); waited > 0 || events.Load() != seen {
			t.Errorf("the watch ended after %v, and was told %d things more", waited, events.Load()-seen)
		}
		_, err := w.Token(t.Context(), shop, engine.Request{Credential: "main"})
		wantKind(t, err, broker.CallerNotAllowed) // from the cache
	})
}

// TestATokenWithMoreThanIsAllowedIsNotHandedOut: one token of a human's grant serves all scopes that are asked for, and what was granted counts.
func TestATokenWithMoreThanIsAllowedIsNotHandedOut(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRuler(func(a broker.Access) broker.Effect {
			if slices.Contains(a.Granted, "write") || a.Selection.Scopes.String() == "write" {
				return broker.Denied
			}
			return broker.Allowed
		})
		up := &upstream{answer: func(_ context.Context, x broker.Exchange) (broker.Answer, error) {
			a := token("t-"+x.Selection.Scopes.String(), time.Hour)
			a.Scopes = []string{"read", "write"}
			return a, nil
		}}
		w := newWorld(t, up, authorizedBy(r))
		w.create("main", nil)
		ask := func() error {
			req := engine.Request{Credential: "main"}
			scopes(t, "read")(&req)
			_, err := w.Token(t.Context(), shop, req)
			return err
		}
		wantKind(t, ask(), broker.CallerNotAllowed)
		w.mustGet("main", scopes(t, "read"))
		wantKind(t, ask(), broker.CallerNotAllowed)
	})
}

// TestWhatIsNotChosenCountsAsWhatItBecomes: the scopes that a credential has by default are decided on before anything is asked for.
func TestWhatIsNotChosenCountsAsWhatItBecomes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)}, authorizedBy(newRuler(byScope("read"))))
		for _, name := range []string{"read", "write"} {
			w.create(name, nil)
			if _, err := w.UpdateCredential(t.Context(), local, engine.Change{Name: broker.CredentialName(name), Edit: func(d *engine.Draft) (err error) {
				d.DefaultScopes, err = broker.ParseSet("scopes", []string{name})
				return err
			}}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Token(t.Context(), shop, engine.Request{Credential: "read"}); err != nil {
			t.Error(err)
		}
		_, err := w.Token(t.Context(), shop, engine.Request{Credential: "write"})
		wantKind(t, err, broker.CallerNotAllowed)
		w.wantExchanges(1)
	})
}

// TestAnOperationIsNotAnother: who may have tokens may not watch them for that, nor reject them, also where the token is in the cache.
func TestAnOperationIsNotAnother(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)}, authorizedBy(newRuler(func(a broker.Access) broker.Effect {
			if a.Operation == broker.GetToken {
				return broker.Allowed
			}
			return broker.Denied
		})))
		w.create("main", nil)
		got, err := w.Token(t.Context(), shop, engine.Request{Credential: "main"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Token(t.Context(), shop, engine.Request{Credential: "main", RejectedTokenID: got.Token.ID})
		wantKind(t, err, broker.CallerNotAllowed)
		for _, known := range []string{"", "another"} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			err := w.Watch(ctx, shop, engine.Request{Credential: "main"}, known, func(e engine.Event) error { return fmt.Errorf("told %+v", e) })
			cancel()
			wantKind(t, err, broker.CallerNotAllowed)
		}
		if again := w.mustGet("main"); again.Token.ID != got.Token.ID {
			t.Error("the token is another")
		}
	})
}

// TestAFailureIsToldToThoseWhoMayKnowIt: the right is taken while an exchange fails.
func TestAFailureIsToldToThoseWhoMayKnowIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRuler(always(broker.Allowed))
		w := newWorld(t, &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
			sleep(5 * time.Second)
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelCredential, Status: 401}
		}}, authorizedBy(r))
		w.create("main", nil)
		failed := make(chan error, 1)
		go func() {
			_, err := w.Token(t.Context(), shop, engine.Request{Credential: "main"})
			failed <- err
		}()
		sleep(time.Second)
		r.set(always(broker.Denied))
		wantKind(t, <-failed, broker.CallerNotAllowed)
	})
}

// TestWhatIsDisabledIsDecidedAsWhatItIs: its defaults count as those of others.
func TestWhatIsDisabledIsDecidedAsWhatItIs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)}, authorizedBy(newRuler(byScope("read"))))
		for name, want := range map[broker.CredentialName]broker.Kind{"read": broker.CredentialDisabled, "write": broker.CallerNotAllowed} {
			w.create(string(name), nil)
			if _, err := w.UpdateCredential(t.Context(), local, engine.Change{Name: name, Edit: func(d *engine.Draft) (err error) {
				d.Disabled = true
				d.DefaultScopes, err = broker.ParseSet("scopes", []string{string(name)})
				return err
			}}); err != nil {
				t.Fatal(err)
			}
			_, err := w.Token(t.Context(), shop, engine.Request{Credential: name})
			wantKind(t, err, want)
		}
	})
}

// TestWhileTheStoreIsAwayWhoMayIsServed: what cannot be read is decided by what this process knows. A watch goes on also when the rules change meanwhile.
func TestWhileTheStoreIsAwayWhoMayIsServed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRuler(byLabel("env", "test"))
		w := newReplicas(t, 1, &upstream{answer: issues(time.Hour)}, grace(time.Hour), authorizedBy(r))[0]
		for name, env := range map[string]string{"mine": "test", "other": "prod"} {
			w.create(name, nil)
			w.label(name, map[string]string{"env": env})
			w.mustGet(name)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- w.Watch(ctx, shop, engine.Request{Credential: "mine"}, "", func(engine.Event) error { return nil })
		}()
		synctest.Wait()
		w.backend.Set(storetest.Hooks{BeforeRead: func(context.Context) error { return broker.StoreUnavailable }})
		sleep(time.Minute)
		if got, err := w.Token(t.Context(), shop, engine.Request{Credential: "mine"}); err != nil || !got.Degraded {
			t.Errorf("got %+v, %v", got, err)
		}
		r.set(byLabel("env", "test"))
		sleep(time.Minute)
		if got, err := w.Token(t.Context(), shop, engine.Request{Credential: "mine"}); err != nil || !got.Degraded {
			t.Errorf("after the rules were read again: %+v, %v", got, err)
		}
		if _, err := w.Token(t.Context(), shop, engine.Request{Credential: "other"}); err == nil {
			t.Error("a token was handed out that is not the caller's")
		}
		select {
		case err := <-ended:
			t.Errorf("the watch has ended: %v", err)
		default:
		}
		cancel()
		<-ended
	})
}

// TestNothingIsSaidOfWhatMayNotBeAskedFor: what is wrong with a request tells of the definition.
func TestNothingIsSaidOfWhatMayNotBeAskedFor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)}, authorizedBy(newRuler(byLabel("env", "test"))))
		_, err := w.CreateCredential(t.Context(), shop, engine.Change{Name: "new", Edit: func(d *engine.Draft) error {
			d.Provider, d.Inputs, d.Labels = w.up.facts.Name, map[string]string{"nothing": "x"}, map[string]string{"env": "prod"}
			return nil
		}})
		wantKind(t, err, broker.CallerNotAllowed)
	})
}

// TestAFailureIsNotToldAfterItsLabelIsTaken: while an exchange fails, the credential becomes another's.
func TestAFailureIsNotToldAfterItsLabelIsTaken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
			sleep(5 * time.Second)
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelCredential, Status: 401}
		}}, authorizedBy(newRuler(byLabel("env", "test"))))
		w.create("main", nil)
		w.label("main", map[string]string{"env": "test"})
		failed := make(chan error, 1)
		go func() {
			_, err := w.Token(t.Context(), shop, engine.Request{Credential: "main"})
			failed <- err
		}()
		sleep(time.Second)
		w.label("main", map[string]string{"env": "prod"})
		wantKind(t, <-failed, broker.CallerNotAllowed)
	})
}

// TestAHitDecidesNothing: what was decided of a token is remembered with its caller, until the rules or the token change.
func TestAHitDecidesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRuler(byLabel("env", "test"))
		w := newWorld(t, &upstream{answer: issues(time.Hour)}, authorizedBy(r))
		w.create("main", nil)
		w.label("main", map[string]string{"env": "test"})
		ask := func() {
			t.Helper()
			if _, err := w.Token(t.Context(), shop, engine.Request{Credential: "main"}); err != nil {
				t.Fatal(err)
			}
		}
		ask()
		n := r.decisions()
		for range 1000 {
			ask()
		}
		if got := r.decisions() - n; got != 0 {
			t.Errorf("a thousand hits were decided %d times", got)
		}
		r.set(byLabel("env", "test"))
		ask()
		if got := r.decisions() - n; got != 1 {
			t.Errorf("after a change of the rules it was decided %d times", got)
		}
		other := broker.NewCaller(broker.SPIFFE, "corp.example", "ns/shop/sa/other", broker.ProofX509, "services")
		if _, err := w.Token(t.Context(), other, engine.Request{Credential: "main"}); err != nil || r.decisions()-n != 2 {
			t.Errorf("another caller: %v, decided %d times", err, r.decisions()-n)
		}
	})
}

// TestManyWhoseRightDependsShareAQuestion: to decide about a thousand callers the store is asked no more often than for one.
func TestManyWhoseRightDependsShareAQuestion(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)}, authorizedBy(newRuler(byLabel("env", "test"))))
		w.create("main", nil)
		w.label("main", map[string]string{"env": "test"})
		var asked atomic.Int64
		w.backend.Set(storetest.Hooks{BeforeRead: func(context.Context) error {
			asked.Add(1)
			sleep(10 * time.Millisecond)
			return nil
		}})
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				if _, err := w.Token(t.Context(), shop, engine.Request{Credential: "main"}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if n := asked.Load(); n > 10 {
			t.Errorf("the store was asked %d times", n)
		}
		w.wantExchanges(1)
	})
}

// TestWhileTheStoreIsAwayNobodyDropsWhatIsNotTheirs: what cannot be read is decided by what this process knows.
func TestWhileTheStoreIsAwayNobodyDropsWhatIsNotTheirs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRuler(byLabel("env", "test"))
		w := newReplicas(t, 1, &upstream{answer: issues(time.Hour)}, grace(time.Hour), authorizedBy(r))[0]
		for name, env := range map[string]string{"mine": "test", "other": "prod"} {
			w.create(name, nil)
			w.label(name, map[string]string{"env": env})
			w.mustGet(name)
		}
		w.backend.Set(storetest.Hooks{BeforeRead: func(context.Context) error { return broker.StoreUnavailable }})
		for name, want := range map[broker.CredentialName]broker.Kind{"mine": broker.StoreUnavailable, "other": broker.StoreUnavailable} {
			_, err := w.Invalidate(t.Context(), shop, engine.Invalidation{Credential: name, All: true})
			wantKind(t, err, want)
		}
		if _, err := w.get("other"); err != nil {
			t.Errorf("a token that is not the caller's was dropped: %v", err)
		}
		if _, err := w.get("mine"); err == nil {
			t.Error("its own is still there")
		}
	})
}

// TestLabelsThatAnotherBrokerChanges: who is allowed by a label is denied within the bound at all brokers, also what is in their caches, and a watch ends.
func TestLabelsThatAnotherBrokerChanges(t *testing.T) {
	bubble(t, func(t *testing.T) {
		all := newReplicas(t, 2, &upstream{answer: issues(time.Hour)}, authorizedBy(newRuler(byLabel("env", "test"))))
		here, there := all[0], all[1]
		there.create("main", nil)
		there.label("main", map[string]string{"env": "test"})
		ask := func() error {
			_, err := here.Token(t.Context(), shop, engine.Request{Credential: "main"})
			return err
		}
		if err := ask(); err != nil {
			t.Fatal(err)
		}
		watched := make(chan error, 1)
		go func() {
			watched <- here.Watch(t.Context(), shop, engine.Request{Credential: "main"}, "", func(engine.Event) error { return nil })
		}()
		sleep(5 * time.Second)
		there.label("main", map[string]string{"env": "prod"})
		sleep(engine.DefaultCacheBound)
		wantKind(t, ask(), broker.CallerNotAllowed)
		sleep(engine.DefaultCacheBound)
		wantKind(t, <-watched, broker.CallerNotAllowed)
	})
}

// TestWhatOneBrokerAllowsAnotherDoesNot: of two in a process, to whom the same caller comes.
func TestWhatOneBrokerAllowsAnotherDoesNot(t *testing.T) {
	bubble(t, func(t *testing.T) {
		caller := broker.NewCaller(broker.SPIFFE, "corp.example", "ns/shop/sa/two", broker.ProofX509, "services")
		ask := func(effect broker.Effect) error {
			w := newWorld(t, &upstream{answer: issues(time.Hour)}, authorizedBy(newRuler(always(effect))))
			w.create("main", nil)
			w.mustGet("main")
			_, err := w.Token(t.Context(), caller, engine.Request{Credential: "main"})
			return err
		}
		if err := ask(broker.Allowed); err != nil {
			t.Fatal(err)
		}
		wantKind(t, ask(broker.Denied), broker.CallerNotAllowed)
	})
}

// TestAListDoesNotTellHowManyAreHidden: its pages are as many as what may be read fills.
func TestAListDoesNotTellHowManyAreHidden(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)}, authorizedBy(newRuler(byLabel("env", "test"))))
		for i := range 150 {
			name := fmt.Sprintf("c%03d", i)
			if w.create(name, nil); i == 70 || i == 71 {
				w.label(name, map[string]string{"env": "test"})
			}
		}
		var got []broker.CredentialName
		for after := broker.CredentialName(""); len(got) < 3; {
			p, err := w.Credentials(t.Context(), shop, after, 1)
			if err != nil || len(p.Credentials) != 1 {
				t.Fatalf("got %+v, %v", p, err)
			}
			got = append(got, p.Credentials[0].Name)
			if after = p.Next; after == "" {
				break
			}
		}
		if !slices.Equal(got, []broker.CredentialName{"c070", "c071"}) {
			t.Errorf("got %q", got)
		}
	})
}
