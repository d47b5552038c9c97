package engine_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// TestAnAnswerThatComesLateIsKept: once a refresh token that is spent by use is on the wire, its answer is waited for longer than
// the exchange may take, and nobody presents that token meanwhile.
func TestAnAnswerThatComesLateIsKept(t *testing.T) {
	for _, late := range []time.Duration{0, time.Second, 5 * time.Second, 9900 * time.Millisecond} {
		t.Run(late.String(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				up := newLines()
				inner := up.answer
				up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
					a, err := inner(ctx, x) // it is spent now
					select {
					case <-time.After(engine.DefaultExchangeTimeout + late):
						return a, err
					case <-ctx.Done():
						return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Lost: true}
					}
				}
				all := newReplicas(t, 2, up.upstream)
				synctest.Wait()
				all[0].create("main", map[string]string{"refresh_token": "a.0"})
				for _, w := range all {
					go func() {
						for range 200 {
							ctx, cancel := context.WithTimeout(context.Background(), time.Second)
							_, _ = w.Token(ctx, local, engine.Request{Credential: "main"})
							cancel()
						}
					}()
				}
				sleep(time.Minute)
				if len(up.reused) > 0 {
					t.Errorf("presented although spent: %v", up.reused)
				}
				st, err := storetest.Status(t.Context(), all[0].store, "main")
				if err != nil || st.Grants[0].RefreshToken.Reveal() != "a.1" {
					t.Errorf("stored is %q, want the successor", st.Grants[0].RefreshToken.Reveal())
				}
				sleep(200 * time.Second)
			})
		})
	}
}

// TestAStopCommitsWhatIsInHand: an answer that comes when the stop's patience has just ended is committed, if the store takes it.
func TestAStopCommitsWhatIsInHand(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := newLines()
		inner, release := up.answer, make(chan struct{})
		up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			<-release
			return inner(ctx, x)
		}
		w := newWorld(t, up.upstream)
		w.create("main", map[string]string{"refresh_token": "a.0"})
		go func() { _, _ = w.get("main") }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		closed := make(chan error, 1)
		go func() { closed <- w.Close(ctx) }()
		sleep(time.Second + time.Millisecond)
		close(release)
		if err := <-closed; err != nil {
			t.Error(err)
		}
		if st, err := storetest.Status(context.Background(), w.store, "main"); err != nil || st.Grants[0].RefreshToken.Reveal() != "a.1" {
			t.Errorf("stored is %q, %v, want the successor", st.Grants[0].RefreshToken.Reveal(), err)
		}
	})
}

// TestARowThatDoesNotMatterLosesNoRefreshToken: one that cannot be read, because it is damaged or a newer broker's.
func TestARowThatDoesNotMatterLosesNoRefreshToken(t *testing.T) {
	for _, kind := range []store.Kind{"health", "history", "failure", "grantlease", "token"} {
		t.Run(string(kind), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				up := newLines()
				w := newPartials(t, 1, up.upstream)[0]
				w.create("main", map[string]string{"refresh_token": "a.0"})
				group, inner := w.group("main"), up.answer
				damage := func() {
					all, err := w.parts.List(t.Context(), []store.Group{group}, kind)
					if err != nil {
						t.Error(err)
						return
					}
					keys := []store.Key{{Kind: kind}}
					for _, r := range all[0].Rows {
						keys = append(keys, r.Key)
					}
					for i, k := range keys {
						err := w.parts.Apply(t.Context(), store.Batch{Group: group, Puts: []store.Put{{Key: k, Revision: store.Revision{byte(i + 1)}, Value: []byte("damaged")}}})
						if err != nil {
							t.Error(err)
						}
					}
				}
				up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
					damage()
					return inner(ctx, x)
				}
				_, _ = w.get("main")
				if err := w.parts.Apply(t.Context(), store.Batch{Group: group, Clear: []store.Kind{kind}}); err != nil {
					t.Fatal(err)
				}
				if st, err := storetest.Status(t.Context(), w.store, "main"); err != nil || st.Grants[0].RefreshToken.Reveal() != "a.1" {
					t.Errorf("stored is %q, %v, want the successor", st.Grants[0].RefreshToken.Reveal(), err)
				}
			})
		})
	}
}

// TestWhoeverWasHeldUpReplacesNothing: a token whose exchange began earlier than that of the one that is there is not stored.
func TestWhoeverWasHeldUpReplacesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		release, n := make(chan struct{}), atomic.Int32{}
		up := &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
			i, sent := n.Add(1), time.Now()
			if i == 1 {
				<-release // the process is stopped after the answer has come
			}
			a := token(fmt.Sprint("token-", i), time.Hour)
			a.Expiry.SentAt = sent
			return a, nil
		}}
		all := newReplicas(t, 2, up)
		all[0].create("main", nil)
		go func() { _, _ = all[0].get("main") }()
		synctest.Wait()
		sleep(23 * time.Second) // its lease is over
		newer := all[1].mustGet("main").Token.ID
		sleep(30 * time.Minute)
		close(release)
		synctest.Wait()
		sleep(3 * time.Second)
		for i, w := range all {
			if got := w.mustGet("main").Token.ID; got != newer {
				t.Errorf("broker %d: got %q, want the newer one", i, got)
			}
		}
	})
}

// TestAPanicGivesItsLeaseBack: others need not wait until it ends.
func TestAPanicGivesItsLeaseBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		first := true
		next := issues(time.Hour)
		up := &upstream{answer: func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			if first {
				first = false
				panic("for a test")
			}
			return next(ctx, x)
		}}
		all := newReplicas(t, 2, up)
		all[0].create("main", nil)
		_, err := all[0].get("main")
		wantKind(t, err, broker.Internal)
		began := time.Now()
		all[1].mustGet("main")
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("another broker waited %v", d)
		}
	})
}

// TestAnInvalidationIsConfirmedByReplicas: like whatever must not get lost.
func TestAnInvalidationIsConfirmedByReplicas(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newReplicas(t, 1, &upstream{answer: issues(time.Hour)})[0]
		w.create("main", nil)
		id, batches := w.mustGet("main").Token.ID, 0
		synctest.Wait()
		w.backend.Set(storetest.Hooks{BeforeApply: func(_ context.Context, b store.Batch) error {
			if batches++; !b.Keep {
				t.Error("a batch of an Invalidate that need not be confirmed")
			}
			return nil
		}})
		for _, i := range []engine.Invalidation{{Credential: "main", TokenID: id}, {Credential: "main", All: true}} {
			if _, err := w.Invalidate(t.Context(), local, i); err != nil {
				t.Fatal(err)
			}
		}
		if batches != 2 {
			t.Errorf("%d batches, want 2", batches)
		}
	})
}

// TestAClockThatIsAheadStopsNobody: for how long an upstream is left alone is what the store's clock says.
func TestAClockThatIsAheadStopsNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		bad, next := true, issues(time.Hour)
		up := &upstream{}
		up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			if bad {
				bad = false
				return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Status: 503}
			}
			return next(ctx, x)
		}
		ahead := skewed(10 * time.Minute)
		all := newClocked(t, up, ahead, nil)
		all[0].create("main", nil)
		_, err := all[0].get("main")
		wantKind(t, err, broker.UpstreamUnavailable)
		began := time.Now()
		for {
			_, err := all[1].get("main")
			if err == nil {
				break
			}
			wantKind(t, err, broker.UpstreamUnavailable)
			sleep(250 * time.Millisecond)
		}
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("the upstream was left alone for %v", d)
		}
	})
}

// skewed is a clock that is off by so much.
func skewed(d time.Duration) *broker.Clock {
	began := time.Now()
	return broker.NewClock(func() (time.Time, time.Duration) { return time.Now().Add(d), time.Since(began) })
}

// newClocked makes a broker for each clock; nil: the machine's.
func newClocked(t testing.TB, up *upstream, clocks ...*broker.Clock) []*replica {
	t.Helper()
	keys := newKeys(t)
	up.complete()
	var all []*replica
	for i, m := range storetest.NewReplicas(len(clocks)) {
		backend := storetest.NewFaults(m)
		s, err := store.New(backend.Whole(), keys, store.Options{Clock: clocks[i]})
		if err != nil {
			t.Fatal(err)
		}
		w := &world{t: t, up: up, store: s, backend: backend}
		w.start(func(x *engine.Settings) { x.Clock = clocks[i] })
		all = append(all, &replica{w, m})
	}
	return all
}

// A sleeper is a machine whose monotonic clock stands while it sleeps. One whose wall clock is set back has slept for less than nothing.
type sleeper struct{ slept atomic.Int64 }

func (s *sleeper) now() time.Time { return time.Now().Add(time.Duration(s.slept.Load())) }

func (s *sleeper) clock() *broker.Clock {
	began := time.Now()
	return broker.NewClock(func() (time.Time, time.Duration) { return s.now(), time.Since(began) })
}

// newEmbedded makes a broker on such a machine, with a store of its own.
func newEmbedded(t *testing.T, s *sleeper, up *upstream, more ...func(*engine.Settings)) *world {
	t.Helper()
	up.complete()
	kept, err := store.New(storetest.NewMemory(), newKeys(t), store.Options{Clock: s.clock()})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, up: up, store: kept}
	w.start(append(more, func(x *engine.Settings) { x.Clock = s.clock() })...)
	return w
}

// TestAMachineThatSleptServesNothingThatHasEnded: a laptop with the embedded store.
func TestAMachineThatSleptServesNothingThatHasEnded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sleeper{}
		w := newEmbedded(t, s, &upstream{answer: issues(time.Hour)})
		w.create("main", nil)
		w.mustGet("main")
		s.slept.Store(int64(2 * time.Hour))
		_, err := w.get("main") // the next one's hour is over too, by this clock
		wantKind(t, err, broker.UpstreamResponseInvalid)
		w.wantExchanges(2)
	})
}

// TestAMachineThatSleptAsksFirst: what was confirmed a moment before it slept is old.
func TestAMachineThatSleptAsksFirst(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s := &sleeper{}
		w := newClocked(t, &upstream{answer: issues(time.Hour)}, s.clock())[0]
		w.create("main", nil)
		w.mustGet("main")
		var reads atomic.Int32
		w.backend.Set(storetest.Hooks{BeforeRead: func(context.Context) error { reads.Add(1); return nil }})
		s.slept.Store(int64(10 * time.Second))
		w.mustGet("main")
		if reads.Load() == 0 {
			t.Error("what was confirmed before the machine slept is served without asking")
		}
	})
}

// sleeping is a definition whose machine sleeps between its taking the lease and its writing the request.
type sleeping struct {
	*upstream
	once  atomic.Bool
	sleep func()
}

func (s *sleeping) Definition(name string) (broker.Definition, error) {
	_, err := s.upstream.Definition(name)
	return s, err
}

func (s *sleeping) Exchange(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
	if s.once.CompareAndSwap(false, true) {
		s.sleep()
	}
	return s.upstream.Exchange(ctx, x)
}

// TestAMachineThatSleptPresentsNothing that somebody else may have presented meanwhile.
func TestAMachineThatSleptPresentsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up, machine := newLines(), &sleeper{}
		s := &sleeping{upstream: up.upstream}
		all := newClocked(t, up.upstream, machine.clock(), nil)
		all[0].start(func(x *engine.Settings) { x.Upstream, x.Clock = s, machine.clock() })
		s.sleep = func() {
			machine.slept.Add(int64(40 * time.Second))
			sleep(40 * time.Second) // for everybody else: the lease ends, and the other broker takes over
		}
		all[0].create("main", map[string]string{"refresh_token": "a.0"})
		go func() {
			sleep(time.Second)
			all[1].mustGet("main")
		}()
		if _, err := all[0].get("main"); err != nil && !errors.Is(err, broker.StoreUnavailable) {
			t.Error(err)
		}
		sleep(time.Minute)
		if len(up.reused) > 0 {
			t.Errorf("presented although spent: %v", up.reused)
		}
	})
}

// TestAStepOfTheClockEndsNoGrace: whoever waits for others to give up counts time in which they could have come back.
func TestAStepOfTheClockEndsNoGrace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up, step := newLines(), &sleeper{}
		inner := up.answer
		up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			sleep(engine.DefaultExchangeTimeout + 6*time.Second) // beyond the lease, and waited for
			return inner(ctx, x)
		}
		all := newClocked(t, up.upstream, nil, step.clock())
		all[0].create("main", map[string]string{"refresh_token": "a.0"})
		done := make(chan struct{}, 2)
		for _, w := range all {
			go func() { _, _ = w.get("main"); done <- struct{}{} }()
			sleep(time.Second)
		}
		sleep(21*time.Second + 500*time.Millisecond) // the lease has just ended
		step.slept.Store(int64(15 * time.Second))
		<-done
		<-done
		if len(up.reused) > 0 {
			t.Errorf("presented although spent: %v", up.reused)
		}
	})
}

// TestAClockThatIsSetBackMakesNothingLiveLonger: a token ends after its time, whatever the time of day is.
func TestAClockThatIsSetBackMakesNothingLiveLonger(t *testing.T) {
	bubble(t, func(t *testing.T) {
		s, up := &sleeper{}, &upstream{answer: issues(time.Hour)}
		up.complete()
		kept, err := store.New(storetest.NewMemory(), newKeys(t), store.Options{Clock: s.clock()})
		if err != nil {
			t.Fatal(err)
		}
		w := &world{t: t, up: up, store: kept}
		w.start(func(x *engine.Settings) { x.Clock = s.clock() })
		w.create("main", nil)
		first := w.mustGet("main").Token.ID
		sleep(50 * time.Minute)
		s.slept.Store(-int64(30 * time.Minute)) // it is 30 minutes earlier again
		sleep(11 * time.Minute)
		if w.mustGet("main").Token.ID == first {
			t.Error("served 61 minutes after it was issued for 60")
		}
	})
}
