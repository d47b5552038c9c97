package engine_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
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
	// intended is called when somebody is about to change something.
	intended func()
}

func (a *auditor) line(format string, r broker.AuditRecord, more ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.lines = append(a.lines, fmt.Sprintf(format+" %s %s by %s", append(more, r.Event, r.Credential, r.Caller)...))
}

func (a *auditor) Intend(_ context.Context, r broker.AuditRecord) (func(int, error), error) {
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
				if got := a.take(); len(got) != 2 || got[0] != want[0] || !strings.HasPrefix(got[1], "done ok ") || !strings.HasSuffix(got[1], want[1]) {
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
		if got := a.take(); !slices.Equal(got, []string{"note exchange main by ", "note credential.tested main by " + local.String()}) {
			t.Errorf("got %q", got)
		}
		w.mustGet("main")
		a.away = true
		w.mustGet("main") // a use that was written down goes on
		_, err := w.Token(t.Context(), broker.NewCaller(broker.Unix, "", "7", broker.ProofPeer, broker.Machine), engine.Request{Credential: "main"})
		wantKind(t, err, broker.AuditUnavailable)
	})
}
