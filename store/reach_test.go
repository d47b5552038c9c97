package store

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// parted is a Shared backend that says of each group which part has it, and whether that answers.
type parted struct {
	Shared
	part  func(Group) string
	fails func(part string) bool
	why   error         // nil: it does not answer
	takes time.Duration // to answer
}

func (p *parted) Shard(g Group) string { return p.part(g) }

func (p *parted) Read(_ context.Context, asks ...Ask) ([]Reading, error) {
	<-time.After(p.takes)
	all := make([]Reading, len(asks))
	for i, a := range asks {
		if p.fails(p.part(a.Group)) {
			all[i].Err = cmp.Or(p.why, Unavailable("it does not answer"))
		}
	}
	return all, all[0].Err
}

func (p *parted) List(ctx context.Context, groups []Group, _ ...Kind) ([]Reading, error) {
	asks := make([]Ask, len(groups))
	for i, g := range groups {
		asks[i].Group = g
	}
	return p.Read(ctx, asks...)
}

func (p *parted) Apply(context.Context, Batch) error {
	return cmp.Or(p.why, Unavailable("it takes no writes"))
}

func newParted(p *parted) (r *reach, away *bool) {
	away = new(bool)
	began := time.Now()
	clock := broker.NewClock(func() (time.Time, time.Duration) { return time.Now(), time.Since(began) })
	r = newReach(p, clock, Options{Log: slog.New(slog.DiscardHandler), Away: func(a bool) { *away = a }})
	r.ready.Store(true)
	return r, away
}

// TestAPartThatNobodyAsksIsNotAwayForEver: another broker has changed the group at the new master, of which this one hears before it knows it.
func TestAPartThatNobodyAsksIsNotAwayForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := "old:6379"
		r, away := newParted(&parted{part: func(Group) string { return at }, fails: func(part string) bool { return part == "old:6379" }})
		for range 50 {
			_, _ = r.Read(t.Context(), Ask{Group: "g"})
			<-time.After(100 * time.Millisecond)
		}
		if !*away {
			t.Fatal("five seconds of nothing but failure, and it is not away")
		}
		r.heard("g")
		at = "new:6379"
		for range 60 {
			if _, err := r.Read(t.Context(), Ask{Group: "g"}); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Second)
		}
		if *away {
			t.Error("away, a minute after everything answers")
		}
	})
}

// TestAPartThatIsSeldomAskedIsAwayUntilItAnswers: also where nobody has asked for so long that any other part would have been forgotten.
func TestAPartThatIsSeldomAskedIsAwayUntilItAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fails := true
		r, away := newParted(&parted{part: func(Group) string { return "one" }, fails: func(string) bool { return fails }})
		said := 0
		tell := r.tell
		r.tell = func(away bool) { said++; tell(away) }
		read := func() error {
			_, err := r.Read(t.Context(), Ask{Group: "g"})
			return err
		}
		for range 50 {
			_ = read()
			<-time.After(100 * time.Millisecond)
		}
		for range 10 {
			<-time.After(forgetAfter + time.Second)
			if err := read(); err == nil || errors.Is(err, errGivenUp) {
				t.Errorf("nobody has asked for a while: got %v, want what it says itself", err)
			}
		}
		if !*away || said != 1 {
			t.Errorf("it has never answered: away %v, which was told %d times", *away, said)
		}
		<-time.After(forgetAfter + time.Second)
		fails = false
		if err := read(); err != nil || *away || said != 2 {
			t.Errorf("it answers: got %v; away %v, which was told %d times", err, *away, said)
		}
	})
}

// TestWhatIsAskedBesideSaysNothingOfItsPart: it has little time, and must neither give a part up nor take its probes.
func TestWhatIsAskedBesideSaysNothingOfItsPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := true
		r, away := newParted(&parted{part: func(g Group) string { return string(g[:1]) }, fails: func(part string) bool { return part == "s" && slow }})
		beside := func() {
			if all, err := r.Read(t.Context(), Ask{Group: "well"}, Ask{Group: "slow"}); err != nil || (all[1].Err == nil) == slow {
				t.Errorf("got %v, beside it %v", err, all[1].Err)
			}
		}
		for range 100 {
			beside()
			<-time.After(50 * time.Millisecond)
		}
		if *away {
			t.Error("given up for what was asked beside")
		}
		for range 50 { // by its own questions it is
			_, _ = r.Read(t.Context(), Ask{Group: "slow"})
			<-time.After(100 * time.Millisecond)
		}
		if !*away {
			t.Error("not given up for its own questions")
		}
		for range 100 { // and what is asked beside leaves it its next try
			beside()
			<-time.After(5 * time.Millisecond)
		}
		slow = false
		if _, err := r.Read(t.Context(), Ask{Group: "slow"}); err != nil {
			t.Errorf("it answers again, and is not asked: %v", err)
		}
		if *away {
			t.Error("away although it answers")
		}
	})
}

// TestWhatWaitsToBeWrittenKeepsNobodyFromReading: a part that was away answers again, and takes no writes yet. Commits that wait try every half second.
func TestWhatWaitsToBeWrittenKeepsNobodyFromReading(t *testing.T) {
	for _, waiting := range []int{0, 16, 300} {
		synctest.Test(t, func(t *testing.T) {
			gone := true
			r, away := newParted(&parted{part: func(Group) string { return "one" }, fails: func(string) bool { return gone }})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			wait := func(d time.Duration) {
				select {
				case <-time.After(d):
				case <-ctx.Done():
				}
			}
			for i := range waiting {
				go func() {
					wait(time.Duration(i) * 500 * time.Millisecond / time.Duration(waiting))
					for ctx.Err() == nil {
						_ = r.Apply(ctx, Batch{Group: "g"})
						wait(500 * time.Millisecond)
					}
				}()
			}
			read := func() error {
				_, err := r.Read(ctx, Ask{Group: "g"})
				return err
			}
			for range 20 {
				_ = read()
				wait(251 * time.Millisecond)
			}
			if !*away {
				t.Error("not given up: the test shows nothing")
			}
			gone = false
			wait(123 * time.Millisecond)
			for tries := 0; read() != nil; wait(251 * time.Millisecond) {
				if tries++; tries > 2 {
					t.Errorf("%d commits wait: it is read no sooner than half a second after it answers", waiting)
					break
				}
			}
			cancel()
			synctest.Wait()
		})
	}
}

// TestAGroupThatIsAwayTakesNoOther: while a slot is moved, its part says so whenever it is asked, and has the other groups as ever.
func TestAGroupThatIsAwayTakesNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &parted{
			part: func(Group) string { return "one" }, fails: func(string) bool { return true },
			why: GroupUnavailable("its slot is being moved"),
		}
		r, away := newParted(p)
		moving := Ask{Group: "moving"}
		for range 50 {
			for what, ask := range map[string]func() error{
				"read":  func() error { _, err := r.Read(t.Context(), moving); return err },
				"list":  func() error { _, err := r.List(t.Context(), []Group{moving.Group}); return err },
				"apply": func() error { return r.Apply(t.Context(), Batch{Group: moving.Group}) },
			} {
				if err := ask(); !errors.Is(err, ErrGroupAway) || broker.KindOf(err) != broker.StoreUnavailable {
					t.Fatalf("%s: got %v, want what its part says", what, err)
				}
			}
			<-time.After(100 * time.Millisecond)
		}
		p.fails = func(string) bool { return false }
		if _, err := r.Read(t.Context(), Ask{Group: "another"}); err != nil || *away {
			t.Errorf("another group: got %v; away: %v", err, *away)
		}
	})
}

// TestAFailureOfLongAgoSaysNothing: a part is given up for having failed whenever it was asked, for a while, and not for a failure that nobody has asked since.
func TestAFailureOfLongAgoSaysNothing(t *testing.T) {
	for _, tt := range []struct {
		name         string
		failed, then time.Duration // for how long it is asked, and then nobody asks
	}{
		{"once, and soon after", 0, 3 * time.Second},
		{"once, long ago", 0, time.Hour},
		{"given up, long ago", 5 * time.Second, time.Hour},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				fails := true
				p := &parted{part: func(Group) string { return "one" }, fails: func(string) bool { return fails }}
				r, away := newParted(p)
				for began := time.Now(); ; <-time.After(100 * time.Millisecond) {
					_, _ = r.Read(t.Context(), Ask{Group: "g"})
					if time.Since(began) >= tt.failed {
						break
					}
				}
				if *away != (tt.failed > 0) {
					t.Fatalf("away: %v", *away)
				}
				<-time.After(tt.then)
				fails, p.takes = false, 5*time.Millisecond
				var asking sync.WaitGroup
				for range 20 {
					asking.Go(func() {
						if _, err := r.Read(t.Context(), Ask{Group: "g"}); err != nil {
							t.Errorf("of many who ask at once: %v", err)
						}
					})
				}
				asking.Wait()
				if *away {
					t.Error("away although it answers")
				}
			})
		})
	}
	t.Run("two failures an hour apart", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r, away := newParted(&parted{part: func(Group) string { return "one" }, fails: func(string) bool { return true }})
			for range 2 {
				_, _ = r.Read(t.Context(), Ask{Group: "g"})
				<-time.After(time.Hour)
			}
			if *away {
				t.Error("given up")
			}
		})
	})
}
