package engine_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// lines is an upstream whose refresh tokens are named by their line, and spent by use: "a.3" brings "a.4".
type lines struct {
	*upstream
	mu     sync.Mutex
	newest map[string]int
	reused []string
}

func newLines() *lines {
	u := &lines{upstream: spentByUse(), newest: map[string]int{}}
	u.facts.Inputs["client_secret"] = broker.InputFacts{Secret: true, Optional: true}
	u.answer = func(_ context.Context, x broker.Exchange) (broker.Answer, error) {
		u.mu.Lock()
		defer u.mu.Unlock()
		line, n, _ := strings.Cut(x.RefreshToken.Reveal(), ".")
		if fmt.Sprint(u.newest[line]) != n {
			u.reused = append(u.reused, x.RefreshToken.Reveal())
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelGrant, Status: 400, Code: "invalid_grant"}
		}
		u.newest[line]++
		a := token(fmt.Sprintf("access-%s-%d", line, u.newest[line]), 3600e9)
		a.RefreshToken = broker.NewSecret(fmt.Sprintf("%s.%d", line, u.newest[line]))
		return a, nil
	}
	return u
}

// A stepper lets something happen at one step of what a broker does with its store, counted from 0: before each read, before
// and after each change.
type stepper struct {
	at, seen int
	happens  func()
}

func (s *stepper) step() {
	if s.seen++; s.seen == s.at+1 {
		s.happens()
	}
}

func (s *stepper) hooks() storetest.Hooks {
	return storetest.Hooks{
		BeforeRead:  func(context.Context) error { s.step(); return nil },
		BeforeApply: func(context.Context, store.Batch) error { s.step(); return nil },
		AfterApply:  func(context.Context, store.Batch) error { s.step(); return nil },
	}
}

// TestWhateverHappensAtWhicheverStep: a credential is deleted and created again, updated, rotated or invalidated by another
// broker at each step of a flight. Nothing comes back from the dead, no refresh token is lost, none is presented twice.
func TestWhateverHappensAtWhicheverStep(t *testing.T) {
	write := func(r *replica, secrets map[string]string) error {
		_, err := r.UpdateCredential(r.t.Context(), local, engine.Change{Name: "main", Edit: func(d *engine.Draft) error {
			d.Secrets = secretMap(secrets)
			return nil
		}})
		return err
	}
	for name, event := range map[string]struct {
		happens func(other *replica) error
		line    string // of the refresh token that is held in the end; empty: there is no credential
	}{
		"nothing":      {func(*replica) error { return nil }, "a"},
		"a new secret": {func(o *replica) error { return write(o, map[string]string{"client_secret": "two"}) }, "a"},
		"a rotated secret": {func(o *replica) error {
			_, err := o.RotateSecret(o.t.Context(), local, engine.Rotation{Name: "main", Secrets: secretMap(map[string]string{"client_secret": "two"})})
			return err
		}, "a"},
		"another seed": {func(o *replica) error { return write(o, map[string]string{"refresh_token": "b.0"}) }, "b"},
		"all are invalidated": {func(o *replica) error {
			_, err := o.Invalidate(o.t.Context(), local, engine.Invalidation{Credential: "main", All: true})
			return err
		}, "a"},
		"its deletion": {func(o *replica) error { return o.DeleteCredential(o.t.Context(), local, "main", broker.ID{}) }, ""},
		"its deletion and creation": {func(o *replica) error {
			if err := o.DeleteCredential(o.t.Context(), local, "main", broker.ID{}); err != nil {
				return err
			}
			o.create("main", map[string]string{"refresh_token": "b.0"})
			return nil
		}, "b"},
		"another broker's token": {func(o *replica) error {
			ctx, cancel := context.WithTimeout(o.t.Context(), 1)
			defer cancel()
			_, _ = o.Token(ctx, local, engine.Request{Credential: "main"}) // its flight goes on
			return nil
		}, "a"},
	} {
		t.Run(name, func(t *testing.T) {
			// As many as a flight has that nothing disturbs, and more where the disturbance makes it look again.
			for at, steps := 0, 6; at < steps; at++ {
				bubble(t, func(t *testing.T) {
					up := newLines()
					all := newReplicas(t, 2, up.upstream)
					synctest.Wait() // they listen
					all[0].create("main", map[string]string{"refresh_token": "a.0", "client_secret": "one"})
					s := &stepper{at: at, happens: func() {
						if err := event.happens(all[1]); err != nil {
							t.Errorf("step %d: %v", at, err)
						}
					}}
					all[0].backend.Set(s.hooks())
					_, err := all[0].get("main")
					all[0].backend.Set(storetest.Hooks{})
					steps = max(steps, s.seen)
					if s.seen <= at {
						return // there was no such step
					}
					if name == "nothing" && s.seen != 6 {
						t.Fatalf("a flight has %d steps, not 6: say so above", s.seen)
					}
					if err != nil && event.line != "" && broker.KindOf(err) != broker.NotFound {
						t.Errorf("step %d: %v", at, err)
					}
					st, err := storetest.Status(t.Context(), all[1].store, "main")
					if event.line == "" {
						wantKind(t, err, broker.NotFound)
						all[0].create("main", map[string]string{"refresh_token": "c.0"})
						event.line = "c"
						defer func() { event.line = "" }()
						st, err = storetest.Status(t.Context(), all[1].store, "main")
					}
					if err != nil {
						t.Fatal(err)
					}
					for _, r := range all {
						res, err := r.get("main")
						if err != nil || !strings.HasPrefix(res.Token.AccessToken.Reveal(), "access-"+event.line) {
							t.Errorf("step %d: %v, want a token of line %s", at, err, event.line)
						}
					}
					if st, err = storetest.Status(t.Context(), all[1].store, "main"); err != nil || len(st.Grants) != 1 {
						t.Fatalf("step %d: %d grants, %v; want one", at, len(st.Grants), err)
					}
					if got, want := st.Grants[0].RefreshToken.Reveal(), fmt.Sprintf("%s.%d", event.line, up.newest[event.line]); got != want {
						t.Errorf("step %d: %s is stored, want the newest, %s", at, got, want)
					}
					if len(up.reused) > 0 {
						t.Errorf("step %d: presented although spent: %v", at, up.reused)
					}
				})
			}
		})
	}
}
