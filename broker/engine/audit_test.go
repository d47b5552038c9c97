package engine_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// An auditor keeps what it is told as lines. away: nothing can be written.
type auditor struct {
	mu    sync.Mutex
	lines []string
	away  bool
	uses  []*broker.Uses
	// intended is called when somebody is about to change something, used when somebody is about to be given a token.
	intended, used func()
	// takes is how long a change takes to be written down.
	takes time.Duration
}

func (a *auditor) line(format string, r broker.AuditRecord, more ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lines = append(a.lines, fmt.Sprintf(format+" %s %s by %s", append(more, r.Event, r.Credential, r.Caller)...))
}

func (a *auditor) Intend(ctx context.Context, r broker.AuditRecord) (func(int, error), error) {
	if a.takes > 0 {
		select {
		case <-time.After(a.takes):
		case <-ctx.Done():
			return nil, &broker.Failure{Kind: broker.Canceled}
		}
	}
	if a.away {
		return nil, &broker.Failure{Kind: broker.AuditUnavailable}
	}
	a.line("intent", r)
	if a.intended != nil {
		a.intended()
	}
	return func(n int, err error) {
		done := "ok"
		if err != nil {
			done = broker.KindOf(err).Name()
		}
		a.line("done %s %d", r, done, n)
	}, nil
}

func (a *auditor) Note(_ context.Context, r broker.AuditRecord) { a.line("note", r) }

func (a *auditor) Use(_ context.Context, r broker.AuditRecord) (*broker.Uses, error) {
	if a.away {
		return nil, broker.AuditUnavailable
	}
	a.line("use", r)
	if a.used != nil {
		a.used()
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.uses = append(a.uses, &broker.Uses{})
	return a.uses[len(a.uses)-1], nil
}

// take returns the lines since the last time.
func (a *auditor) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer func() { a.lines = nil }()
	return a.lines
}

func auditedBy(a *auditor) func(*engine.Settings) {
	return func(s *engine.Settings) { s.Auditor = a }
}

// changes are all ways to change what is stored.
var changes = map[broker.AuditEvent]func(w *world, ctx context.Context, c *broker.Caller) error{
	broker.AuditUpdated: func(w *world, ctx context.Context, c *broker.Caller) error {
		_, err := w.UpdateCredential(ctx, c, engine.Change{Name: "main", Edit: func(d *engine.Draft) error {
			d.Labels = map[string]string{"env": "test", "n": broker.NewID().String()}
			return nil
		}})
		return err
	},
	broker.AuditCreated: func(w *world, ctx context.Context, c *broker.Caller) error {
		_, err := w.CreateCredential(ctx, c, engine.Change{Name: "new", Edit: func(d *engine.Draft) error {
			d.Provider, d.Labels = w.up.facts.Name, map[string]string{"env": "test"}
			return nil
		}})
		return err
	},
	broker.AuditRotated: func(w *world, ctx context.Context, c *broker.Caller) error {
		_, err := w.RotateSecret(ctx, c, engine.Rotation{Name: "main", Secrets: secretMap(map[string]string{"client_secret": broker.NewID().String()})})
		return err
	},
	broker.AuditRetired: func(w *world, ctx context.Context, c *broker.Caller) error {
		_, err := w.RetireSecret(ctx, c, "main", nil)
		return err
	},
	broker.AuditInvalidated: func(w *world, ctx context.Context, c *broker.Caller) error {
		_, err := w.Invalidate(ctx, c, engine.Invalidation{Credential: "main", All: true})
		return err
	},
	broker.AuditTested: func(w *world, ctx context.Context, c *broker.Caller) error {
		_, err := w.TestCredential(ctx, c, "main", broker.Selection{}, false)
		return err
	},
	broker.AuditDeleted: func(w *world, ctx context.Context, c *broker.Caller) error {
		return w.DeleteCredential(ctx, c, "main", broker.ID{})
	},
}

// TestNothingIsChangedThatIsNotWrittenDownBefore: whoever may change something has it audited before, and not at all where that cannot be done. Who may
// not leaves a note, and writes down nothing.
func TestNothingIsChangedThatIsNotWrittenDownBefore(t *testing.T) {
	for event, change := range changes {
		t.Run(string(event), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				a := &auditor{}
				w := newWorld(t, &upstream{answer: issues(time.Hour)}, auditedBy(a), authorizedBy(newRuler(byLabel("env", "test"))))
				w.create("main", map[string]string{"client_secret": "one"})
				w.label("main", map[string]string{"env": "prod"})
				w.mustGet("main")
				if event == broker.AuditRetired {
					if err := changes[broker.AuditRotated](w, t.Context(), local); err != nil {
						t.Fatal(err)
					}
				}
				a.take()
				is := func() string {
					c, _ := w.Credential(t.Context(), local, "main")
					created, _ := w.Credential(t.Context(), local, "new")
					return fmt.Sprint(c.Etag, created.Etag, c.Epoch)
				}

				if event != broker.AuditCreated { // which nobody has labelled otherwise
					wantKind(t, change(w, t.Context(), shop), broker.CallerNotAllowed)
					if got := a.take(); len(got) != 1 || got[0] != "note access.denied main by "+shop.String() {
						t.Errorf("denied: got %q", got)
					}
				}
				a.away = true
				before := is()
				wantKind(t, change(w, t.Context(), local), broker.AuditUnavailable)
				if is() != before {
					t.Error("it is changed, and nowhere written down")
				}
				a.away = false
				a.intended = func() {
					if is() != before {
						t.Error("it is changed before it is written down")
					}
				}
				a.take()
				if err := change(w, t.Context(), local); err != nil {
					t.Fatal(err)
				}
				name := map[bool]string{true: "new", false: "main"}[event == broker.AuditCreated]
				want := []string{fmt.Sprintf("intent %s %s by %s", event, name, local), fmt.Sprintf("%s %s by %s", event, name, local)}
				got := slices.DeleteFunc(a.take(), func(l string) bool { return strings.HasPrefix(l, "note exchange ") })
				if len(got) != 2 || got[0] != want[0] || !strings.HasPrefix(got[1], "done ok ") || !strings.HasSuffix(got[1], want[1]) {
					t.Errorf("got %q", got)
				}
			})
		})
	}
}

// TestWhoIsGivenATokenIsWrittenDownOnce, and counted from then on: of each caller, by each way.
func TestWhoIsGivenATokenIsWrittenDownOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a := &auditor{}
		w := newWorld(t, &upstream{answer: issues(time.Hour)}, auditedBy(a))
		w.create("main", nil)
		a.take()
		for range 100 {
			w.mustGet("main")
		}
		if got := a.take(); !slices.Equal(got, []string{"note exchange main by ", "use token.issued main by " + local.String()}) {
			t.Errorf("got %q", got)
		}
		if n := a.uses[0].End(); n != 99 {
			t.Errorf("%d are counted", n)
		}
		w.mustGet("main") // what counted has ended
		w.mustGet("main")
		if got := a.take(); !slices.Equal(got, []string{"use token.issued main by " + local.String()}) || a.uses[1].Take() != 1 {
			t.Errorf("got %q", got)
		}
		rejected := engine.Request{Credential: "main", RejectedTokenID: w.mustGet("main").Token.ID}
		if _, err := w.Token(t.Context(), local, rejected); err != nil {
			t.Fatal(err)
		}
		if got := a.take(); !slices.Equal(got, []string{
			"intent token.invalidated main by " + local.String(), "done ok 1 token.invalidated main by " + local.String(),
			"note exchange main by ", "use token.issued main by " + local.String(),
		}) {
			t.Errorf("got %q", got)
		}
		if _, err := w.TestCredential(t.Context(), local, "main", broker.Selection{}, false); err != nil {
			t.Fatal(err)
		}
		tested := "credential.tested main by " + local.String()
		if got := a.take(); !slices.Equal(got, []string{"intent " + tested, "note exchange main by ", "done ok 0 " + tested}) {
			t.Errorf("got %q", got)
		}
		w.mustGet("main")
		a.away = true
		w.mustGet("main") // a use that was written down goes on
		_, err := w.Token(t.Context(), broker.NewCaller(broker.Unix, "", "7", broker.ProofPeer, broker.Machine), engine.Request{Credential: "main"})
		wantKind(t, err, broker.AuditUnavailable)
	})
}

// TestWhatIsHandedOutIsLookedAtAgain: to write down the first use of a token may take as long as the log takes. Meanwhile it may end, be invalidated here or
// elsewhere, and who may what may change.
func TestWhatIsHandedOutIsLookedAtAgain(t *testing.T) {
	other := broker.NewCaller(broker.Unix, "", "7", broker.ProofPeer, broker.Machine)
	for name, meanwhile := range map[string]func(w *replica, id string, r *ruler){
		"it ends": func(w *replica, _ string, _ *ruler) { sleep(time.Until(w.mustGet("main").Token.ExpireTime)) },
		"it is invalidated": func(w *replica, id string, _ *ruler) {
			if _, err := w.Invalidate(w.t.Context(), local, engine.Invalidation{Credential: "main", TokenID: id}); err != nil {
				w.t.Error(err)
			}
		},
		"nobody is asked":    func(w *replica, _ string, _ *ruler) { w.backend.Away(); sleep(3 * time.Second) },
		"others may have it": func(_ *replica, _ string, r *ruler) { r.set(byLabel("env", "prod")) },
		"nothing":            nil,
	} {
		for _, cached := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, cached %t", name, cached), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					a, r := &auditor{}, newRuler(always(broker.Allowed))
					up := &upstream{answer: issues(time.Minute)}
					all := newReplicas(t, 2, up, auditedBy(a), authorizedBy(r))
					w := all[0]
					w.create("main", nil)
					id := w.mustGet("main").Token.ID
					if !cached {
						w = all[1]
					}
					up.script(func(context.Context, broker.Exchange) (broker.Answer, error) {
						return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Status: 503}
					})
					once := true
					a.used = func() {
						if once && meanwhile != nil {
							once = false
							meanwhile(w, id, r)
						}
					}
					res, err := w.Token(t.Context(), other, engine.Request{Credential: "main"})
					if meanwhile == nil {
						if err != nil || res.Token.ID != id {
							t.Errorf("got %v", err)
						}
						return
					}
					if err == nil {
						t.Errorf("it was handed out: %+v", res.Token)
					}
				})
			})
		}
	}
}

// TestWhoGivesUpARejectionFailsNobodyElse: those who reject the same token share what is written down and done.
func TestWhoGivesUpARejectionFailsNobodyElse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a := &auditor{}
		w := newWorld(t, &upstream{answer: issues(time.Hour)}, auditedBy(a))
		w.create("main", nil)
		rejected := engine.Request{Credential: "main", RejectedTokenID: w.mustGet("main").Token.ID}
		a.takes = time.Second
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			_, err := w.Token(ctx, local, rejected)
			wantKind(t, err, broker.Canceled)
		})
		synctest.Wait()
		for range 5 {
			all.Go(func() {
				if _, err := w.Token(t.Context(), local, rejected); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		cancel()
		all.Wait()
	})
}

// TestATestIsWrittenDownBeforeItIsMade, and by whom, also where nobody waits for it.
func TestATestIsWrittenDownBeforeItIsMade(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a := &auditor{}
		next := issues(time.Hour)
		w := newWorld(t, &upstream{answer: func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			sleep(time.Second)
			return next(ctx, x)
		}}, auditedBy(a))
		w.create("main", nil)
		a.take()
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			sleep(100 * time.Millisecond)
			cancel()
		}()
		_, err := w.TestCredential(ctx, local, "main", broker.Selection{}, false)
		wantKind(t, err, broker.Canceled)
		sleep(5 * time.Second)
		w.wantExchanges(1)
		tested := "credential.tested main by " + local.String()
		if got := a.take(); !slices.Equal(got, []string{"intent " + tested, "done canceled 0 " + tested, "note exchange main by "}) {
			t.Errorf("got %q", got)
		}
	})
}

// TestAnInvalidationInAnOutageIsWrittenDown, before anything is dropped, and nothing is where that cannot be.
func TestAnInvalidationInAnOutageIsWrittenDown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a := &auditor{}
		up := &upstream{answer: issues(time.Hour)}
		up.facts.ObtainsAlone = true
		w := newReplicas(t, 1, up, grace(time.Hour), auditedBy(a))[0]
		w.create("main", nil)
		w.mustGet("main")
		w.backend.Away()
		sleep(5 * time.Second)
		sel := scopes(t, "mine")
		id := w.mustGet("main", sel).Token.ID // this broker's own
		has := func() bool {
			res, err := w.get("main", sel)
			return err == nil && res.Token.ID == id
		}
		invalidate := func() error {
			_, err := w.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", TokenID: id})
			return err
		}
		a.away = true
		if wantKind(t, invalidate(), broker.AuditUnavailable); !has() {
			t.Error("it was dropped, and nowhere written down")
		}
		a.away = false
		a.take()
		wantKind(t, invalidate(), broker.StoreUnavailable)
		invalidated := "token.invalidated main by " + local.String()
		if got := a.take(); !slices.Equal(got, []string{"intent " + invalidated, "done store_unavailable 1 " + invalidated}) {
			t.Errorf("got %q", got)
		}
		if has() {
			t.Error("it was not dropped")
		}
	})
}

// TestWhatIsInvalidatedIsDecidedOnLast: a credential may be another one by the time that it is written down.
func TestWhatIsInvalidatedIsDecidedOnLast(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a := &auditor{}
		w := newWorld(t, &upstream{answer: issues(time.Hour)}, auditedBy(a), authorizedBy(newRuler(byLabel("env", "test"))))
		w.create("main", nil)
		w.label("main", map[string]string{"env": "test"})
		id := w.mustGet("main").Token.ID
		for _, i := range []engine.Invalidation{{Credential: "main", All: true}, {Credential: "main", TokenID: id}} {
			a.intended = func() {
				a.intended = nil
				w.label("main", map[string]string{"env": "prod"})
			}
			_, err := w.Invalidate(t.Context(), shop, i)
			wantKind(t, err, broker.CallerNotAllowed)
			if w.mustGet("main").Token.ID != id {
				t.Error("the tokens of a credential were invalidated by who may not")
			}
			w.label("main", map[string]string{"env": "test"})
		}
		a.intended = func() {
			a.intended = nil
			w.label("main", map[string]string{"env": "prod"})
		}
		if _, err := w.Token(t.Context(), shop, engine.Request{Credential: "main", RejectedTokenID: id}); broker.KindOf(err) != broker.CallerNotAllowed || w.mustGet("main").Token.ID != id {
			t.Errorf("got %v", err)
		}
	})
}

// TestWhoMakesUpTokensLeavesNoLines: of what matches nothing, nothing is changed. What matches is written down before, wherever it is.
func TestWhoMakesUpTokensLeavesNoLines(t *testing.T) {
	bubble(t, func(t *testing.T) {
		a := &auditor{}
		all := newReplicas(t, 2, &upstream{answer: issues(time.Hour)}, auditedBy(a))
		w, other := all[0], all[1]
		w.create("main", nil)
		invalidate := func(w *replica, i engine.Invalidation) int {
			t.Helper()
			i.Credential = "main"
			done, err := w.Invalidate(t.Context(), local, i)
			if err != nil {
				t.Fatal(err)
			}
			return done.Count
		}
		w.mustGet("main")
		a.take()
		var madeUp engine.Request
		scopes(t, "made-up")(&madeUp)
		for _, i := range []engine.Invalidation{
			{TokenID: "made-up"}, {AccessToken: broker.NewSecret("made-up")}, {All: true, Selection: madeUp.Selection},
		} {
			if n := invalidate(w, i) + invalidate(other, i); n != 0 {
				t.Errorf("%d are dropped", n)
			}
		}
		if got := a.take(); len(got) != 0 {
			t.Errorf("got %q", got)
		}
		invalidated := "token.invalidated main by " + local.String()
		want := []string{"intent " + invalidated, "done ok 1 " + invalidated}
		for _, by := range []func(engine.Result) engine.Invalidation{
			func(r engine.Result) engine.Invalidation { return engine.Invalidation{TokenID: r.Token.ID} },
			func(r engine.Result) engine.Invalidation {
				return engine.Invalidation{AccessToken: r.Token.AccessToken}
			},
			func(engine.Result) engine.Invalidation { return engine.Invalidation{All: true} },
		} {
			for _, at := range all {
				sleep(2 * time.Hour) // else it is one fresh token after the other
				i := by(w.mustGet("main"))
				a.take()
				if invalidate(at, i) != 1 || !slices.Equal(a.take(), want) {
					t.Errorf("%+v", i)
				}
			}
		}
	})
}

// TestWhatIsReadOfManyTokensIsOfTheShare: a question of which the store reads a thousand rows is no question as others are.
func TestWhatIsReadOfManyTokensIsOfTheShare(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)}, func(s *engine.Settings) { s.CallerRate = 100 })
		w.create("main", nil)
		for i := range 80 {
			w.mustGet("main", scopes(t, fmt.Sprint("s", i)))
		}
		sleep(time.Hour / 2)
		limited := 0
		for i := range 100 {
			_, err := w.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", TokenID: fmt.Sprint("made-up-", i)})
			if broker.KindOf(err) == broker.CallerLimited {
				limited++
			} else if err != nil {
				t.Error(err)
			}
		}
		if limited < 40 || limited > 60 { // 1,000 at once, 21 each
			t.Errorf("%d of 100 are refused", limited)
		}
		sleep(time.Second)
		w.mustGet("main", scopes(t, "s1"))
		sleep(time.Second)
		if _, err := w.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", TokenID: "made-up"}); err != nil {
			t.Error(err)
		}
	})
}
