package engine_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// TestWhatWasDroppedBeforeItsCommitIsRepeated: a token is handed out unstored, its commit arrives, and the answer is lost. Another broker invalidates its
// selection before the commit is repeated, or after it was given up. No row says that it is gone; whoever handed it out serves it no more.
func TestWhatWasDroppedBeforeItsCommitIsRepeated(t *testing.T) {
	for name, gone := range map[string]bool{"repeated": false, "given up": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				up := &upstream{answer: issues(time.Hour)}
				all := newReplicas(t, 2, up, grace(time.Hour))
				a, b := all[0], all[1]
				a.create("main", nil)
				a.mustGet("main", scopes(t, "another"))
				var commits atomic.Int32
				a.backend.Set(storetest.Hooks{AfterApply: func(_ context.Context, b store.Batch) error {
					if !b.Finish || b.Tell != 'n' || commits.Add(1) > 1 && !gone {
						return nil
					}
					if gone {
						a.backend.Away()
					}
					return store.Unavailable("the answer was lost")
				}})
				mine := func(r *engine.Request) { r.Selection = chosen }
				id := a.mustGet("main", mine).Token.ID
				up.script(down)
				if gone {
					sleep(40 * time.Second)
				}
				done, err := b.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", All: true, Selection: chosen})
				if err != nil || done.Count != 1 {
					t.Fatalf("got %+v, %v", done, err)
				}
				a.backend.Set(storetest.Hooks{})
				sleep(10 * time.Second)
				for range 60 {
					sleep(30 * time.Second)
					if res, err := a.get("main", mine); err == nil && res.Token.ID == id {
						t.Fatal("it is served although its invalidation was acknowledged")
					}
				}
			})
		})
	}
}

// TestWhatNobodyKnowsToBeStoredIsServedNoMoreOnceTheStoreAnswers: a broker is cut off when its exchange ends, and its commit is given up. Another invalidates
// the selection, and the upstream fails: however often somebody asks for the token, it is gone soon after the store is back.
func TestWhatNobodyKnowsToBeStoredIsServedNoMoreOnceTheStoreAnswers(t *testing.T) {
	for name, arrives := range map[string]bool{"it has arrived": true, "it has not": false} {
		for _, every := range []time.Duration{100 * time.Millisecond, time.Second, 3 * time.Second} {
			t.Run(fmt.Sprint(name, ", asked for every ", every), func(t *testing.T) {
				bubble(t, func(t *testing.T) {
					up := &upstream{answer: issues(time.Hour)}
					all := newReplicas(t, 2, up, grace(time.Hour))
					a, b := all[0], all[1]
					a.create("main", nil)
					a.mustGet("main", scopes(t, "another"))
					cut := func(_ context.Context, b store.Batch) error {
						if !b.Finish || b.Tell != 'n' {
							return nil
						}
						a.backend.Away()
						return store.Unavailable("it is cut off")
					}
					if arrives {
						a.backend.Set(storetest.Hooks{AfterApply: cut})
					} else {
						a.backend.Set(storetest.Hooks{BeforeApply: cut})
					}
					mine := func(r *engine.Request) { r.Selection = chosen }
					id := a.mustGet("main", mine).Token.ID
					up.script(down)
					for began := time.Now(); time.Since(began) < 40*time.Second; sleep(every) {
						_, _ = a.get("main", mine)
					}
					if _, err := b.Invalidate(t.Context(), local, engine.Invalidation{Credential: "main", All: true, Selection: chosen}); err != nil {
						t.Fatal(err)
					}
					a.backend.Set(storetest.Hooks{})
					sleep(bound + time.Second)
					for range 100 {
						sleep(every)
						if res, err := a.get("main", mine); err == nil && res.Token.ID == id {
							t.Fatal("it is served although the store could be asked for seconds")
						}
					}
				})
			})
		}
	}
}

// TestAnInvalidationOfManyUnstoredTokensHasItsBound: whoever waits for it has gone, and the store hangs.
func TestAnInvalidationOfManyUnstoredTokensHasItsBound(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newReplicas(t, 1, &upstream{answer: issues(time.Hour)}, grace(time.Hour))[0]
		w.create("main", nil)
		w.mustGet("main", scopes(t, "another"))
		w.backend.Set(storetest.Hooks{BeforeApply: takesNoCommits})
		var got sync.WaitGroup
		for i := range 100 {
			got.Go(func() { _, _ = w.get("main", scopes(t, fmt.Sprint("s", i))) })
		}
		got.Wait()
		w.backend.Set(storetest.Hooks{BeforeApply: func(ctx context.Context, _ store.Batch) error {
			<-ctx.Done()
			return store.Unavailable("it hangs")
		}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_, err := w.Invalidate(ctx, local, engine.Invalidation{Credential: "main", All: true})
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("a call with one second took %v: %v", took, err)
		}
		w.backend.Set(storetest.Hooks{})
	})
}

// A joining is an upstream whose definition joins scopes: a,b is a and b.
type joining struct{ *upstream }

func (d joining) Definition(name string) (broker.Definition, error) {
	_, err := d.upstream.Definition(name)
	return d, err
}

func (d joining) Select(_ broker.Credential, s broker.Selection) (broker.Selection, error) {
	var err error
	if !s.Scopes.Empty() {
		s.Scopes, err = broker.ParseSet("scopes", strings.Split(strings.Join(s.Scopes.List(), ","), ","))
	}
	return s, err
}

// spelled is one of 256 names that a joining upstream has for one selection.
func spelled(t *testing.T, k int) func(*engine.Request) {
	t.Helper()
	all := []string{"s00"}
	for i := range 8 {
		if x := fmt.Sprintf("s%02d", i+1); k>>i&1 == 1 {
			all = append(all, x)
		} else {
			all[len(all)-1] += "," + x
		}
	}
	return scopes(t, all...)
}

// TestATokenOfManyNames: callers may call one selection by any number of names. Each is served that token, and its successor under each when it is replaced.
func TestATokenOfManyNames(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour)}
		w := newWorld(t, up, func(s *engine.Settings) { s.Upstream = joining{up} })
		w.create("main", nil)
		named := func(k int) func(*engine.Request) { return spelled(t, k) }
		first := w.mustGet("main", named(0)).Token.ID
		for range 2 {
			for k := range 200 {
				if got := w.mustGet("main", named(k)).Token.ID; got != first {
					t.Fatalf("name %d: another token", k)
				}
			}
		}
		w.wantExchanges(1)
		second := w.mustGet("main", named(7), rejected(first)).Token.ID
		for k := range 200 {
			if got := w.mustGet("main", named(k)).Token.ID; got != second || got == first {
				t.Errorf("name %d: got %s, want the new token", k, got)
			}
		}
		w.wantExchanges(2)
	})
}

// TestTheSecretThatIsSetIsTriedBeforeItIsBlamed: the former one worked last, and its upstream takes so long to say that it does no more that it is too late
// to ask with the new one.
func TestTheSecretThatIsSetIsTriedBeforeItIsBlamed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		good, accepted, slow := issues(time.Minute), "old", time.Duration(0)
		up := &upstream{answer: func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			if x.Credential.Secrets["client_secret"].Value.Reveal() == accepted {
				return good(ctx, x)
			}
			sleep(slow)
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: "invalid_client", InvalidClient: true}
		}}
		w := newWorld(t, up)
		w.create("main", map[string]string{"client_secret": "old"})
		w.rotate("new")
		w.mustGet("main")
		accepted, slow = "new", 21*time.Second
		sleep(2 * time.Minute)
		_, _ = w.get("main")
		slow = 0
		sleep(time.Second)
		if _, err := w.get("main"); err != nil {
			t.Errorf("got %v, although nobody has tried the secret that is set", err)
		}
	})
}

// TestAReadingThatBeganBeforeACommitEnded, under another name of the token, tells of the former one. It does not take the place of the new one.
func TestAReadingThatBeganBeforeACommitEnded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour)}
		w := newWorld(t, up, func(s *engine.Settings) { s.Upstream = defaulting{up} })
		w.create("main", nil)
		former := w.mustGet("main").Token.ID
		var committing, hold atomic.Bool
		release := make(chan struct{})
		w.backend.Set(storetest.Hooks{
			BeforeApply: func(_ context.Context, b store.Batch) error {
				if b.Finish {
					committing.Store(true)
					sleep(50 * time.Millisecond) // a disk
				}
				return nil
			},
			AfterRead: func(context.Context) {
				if hold.Swap(false) {
					<-release
				}
			},
		})
		sleep(time.Minute)
		replaced, read := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(replaced)
			_, _ = w.get("main", func(r *engine.Request) { r.MinTTL = 59*time.Minute + 15*time.Second }) // more than the former one has
		}()
		for !committing.Load() {
			sleep(time.Millisecond)
		}
		hold.Store(true)
		go func() {
			defer close(read)
			_, _ = w.get("main", scopes(t, "default"))
		}()
		<-replaced
		if w.mustGet("main").Token.ID == former {
			t.Fatal("it is not replaced")
		}
		close(release)
		<-read
		for range 10 {
			if w.mustGet("main").Token.ID == former {
				t.Fatal("the token that was replaced is served again")
			}
			if w.mustGet("main", scopes(t, "default")).Token.ID == former {
				t.Fatal("the token that was replaced is served again by the name that it was read by")
			}
			sleep(time.Minute)
		}
	})
}
