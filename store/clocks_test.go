package store_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/seal"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// setBack is a backend whose clock was set back: what was written before has as much more left.
type setBack struct {
	*storetest.Replica
	by atomic.Int64 // nanoseconds, a day at most
}

const day = 24 * time.Hour

func (b *setBack) Read(ctx context.Context, asks ...store.Ask) ([]store.Reading, error) {
	all, err := b.Replica.Read(ctx, asks...)
	by := time.Duration(b.by.Load())
	for i := range all {
		all[i].Now = all[i].Now.Add(-by)
		all[i].Rows = slices.DeleteFunc(all[i].Rows, func(r store.Row) bool { return r.Left > 0 && r.Left <= day-by })
		for j := range all[i].Rows {
			if r := &all[i].Rows[j]; r.Left > 0 {
				r.Left -= day - by
			}
		}
	}
	return all, err
}

// Apply has rows last a day longer than they may, so that they are there when the clock is set back.
func (b *setBack) Apply(ctx context.Context, batch store.Batch) error {
	by := time.Duration(b.by.Load())
	return b.Replica.Apply(ctx, ended(batch, day-by, day))
}

// ended is the batch with other ends.
func ended(b store.Batch, ttl, ends time.Duration) store.Batch {
	b.Puts = slices.Clone(b.Puts)
	for i := range b.Puts {
		p := &b.Puts[i]
		if p.TTL > 0 {
			p.TTL += ttl
		}
		if !p.Ends.IsZero() {
			p.Ends = p.Ends.Add(ends)
		}
	}
	return b
}

// TestATokenLivesOnceMoreAtMost, however often it is read, and whatever the shared clock says; and never has it more left than it was given for.
func TestATokenLivesOnceMoreAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys, err := seal.New()
		if err != nil {
			t.Fatal(err)
		}
		view := &setBack{Replica: storetest.NewReplicas(1)[0]}
		s := newShared(t, keys, view, 0)
		s.create()
		began := time.Now()
		s.commit(s.acquire(), 1, began)
		<-time.After(30 * time.Minute)
		view.by.Store(int64(day))
		for time.Since(began) < 6*time.Hour {
			v, err := s.Read(t.Context(), keptKey, "")
			if err != nil || v.Token == nil && time.Since(began) < time.Hour {
				t.Fatalf("after %v: got %v, %v", time.Since(began), v.Token, err)
			}
			if v.Token != nil && (time.Until(v.Token.ExpireAt) > time.Hour || time.Since(began) >= 2*time.Hour) {
				t.Errorf("after %v a token of an hour has %v left", time.Since(began), time.Until(v.Token.ExpireAt))
			}
			<-time.After(15 * time.Minute)
		}
	})
}

// moved is a backend that has been moved to another master, whose clock is off: rows have as much left as they had.
type moved struct {
	*storetest.Replica
	off atomic.Int64 // nanoseconds
}

func (b *moved) Read(ctx context.Context, asks ...store.Ask) ([]store.Reading, error) {
	all, err := b.Replica.Read(ctx, asks...)
	for i := range all {
		all[i].Now = all[i].Now.Add(time.Duration(b.off.Load()))
	}
	return all, err
}

func (b *moved) Apply(ctx context.Context, batch store.Batch) error {
	return b.Replica.Apply(ctx, ended(batch, 0, -time.Duration(b.off.Load())))
}

// whileMoved has a store move to a master whose clock is off by so much, when a lease has been taken.
func whileMoved(t *testing.T, off time.Duration, then func(s *shared, l broker.Lease, move func())) {
	synctest.Test(t, func(t *testing.T) {
		keys, err := seal.New()
		if err != nil {
			t.Fatal(err)
		}
		view := &moved{Replica: storetest.NewReplicas(1)[0]}
		s := newShared(t, keys, view, 0)
		s.create()
		then(s, s.acquire(), func() { view.off.Store(int64(off)) })
	})
}

// TestWhatIsStoredAtAnotherMasterEndsInTime: its end was told from the clock of the one before.
func TestWhatIsStoredAtAnotherMasterEndsInTime(t *testing.T) {
	for _, off := range []time.Duration{-10 * time.Minute, 0, 10 * time.Minute} {
		t.Run(off.String(), func(t *testing.T) {
			whileMoved(t, off, func(s *shared, l broker.Lease, move func()) {
				move()
				s.commit(l, 1, time.Now())
				<-time.After(time.Hour - 15*time.Minute)
				s.want("refresh-1", "access-1")
				<-time.After(15 * time.Minute)
				s.want("refresh-1", "")
			})
		})
	}
}

// TestAUseWasNotLaterForAnotherMaster: how long ago a refresh token was presented is not less than it was.
func TestAUseWasNotLaterForAnotherMaster(t *testing.T) {
	for _, off := range []time.Duration{-11 * time.Second, -10 * time.Second, 0, 10 * time.Second} {
		t.Run(off.String(), func(t *testing.T) {
			whileMoved(t, off, func(s *shared, l broker.Lease, move func()) {
				lost := broker.FailureRecord{Level: broker.LevelUpstream, Presented: true, Uncertain: true, Now: time.Now()}
				if err := l.Fail(t.Context(), lost); err != nil {
					t.Fatal(err)
				}
				<-time.After(11 * time.Second)
				move()
				v, err := s.Read(t.Context(), keptKey, "")
				if err != nil {
					t.Fatal(err)
				}
				if want := 11*time.Second + max(off, 0); v.Grant.UsedFor != want {
					t.Errorf("it was presented %v ago, want %v", v.Grant.UsedFor, want)
				}
			})
		})
	}
}

// An aheadBackend is a backend whose clock is ahead.
type aheadBackend struct {
	*storetest.Replica
	by atomic.Int64 // nanoseconds
}

func (b *aheadBackend) ahead(all []store.Reading) []store.Reading {
	for i := range all {
		all[i].Now = all[i].Now.Add(time.Duration(b.by.Load()))
	}
	return all
}

func (b *aheadBackend) Read(ctx context.Context, asks ...store.Ask) ([]store.Reading, error) {
	all, err := b.Replica.Read(ctx, asks...)
	return b.ahead(all), err
}

func (b *aheadBackend) List(ctx context.Context, groups []store.Group, kinds ...store.Kind) ([]store.Reading, error) {
	all, err := b.Replica.List(ctx, groups, kinds...)
	return b.ahead(all), err
}

// TestTheClockWasAheadWhenTheKeysWereChanged: what was noted then is not waited for until that time comes, and who is refused is told what to do; that is of use.
func TestTheClockWasAheadWhenTheKeysWereChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &aheadBackend{Replica: storetest.NewReplicas(1)[0]}
		s := must[*store.Store](t)(store.New(b, nil, store.Options{KEK: storetest.NewKEK("kek"), Name: "host"}))
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() { s.FollowKeys(ctx) })
		defer func() { cancel(); done.Wait() }()
		create(t, s, newCredential("a"), "r")
		pass(2 * time.Minute)
		ahead := func(f func()) {
			b.by.Store(int64(365 * day))
			f()
			b.by.Store(0)
			pass(time.Minute)
		}
		rotate := func() (id string) { id = must[string](t)(s.RotateKey(ctx)); pass(time.Minute); return id }
		promote := func() { must[string](t)(s.PromoteKey(ctx)); pass(time.Minute) }
		rewrap := func() { must[store.Rewrap](t)(s.Rewrap(ctx, 0, nil)); pass(time.Minute) }
		retire := func(id string) func() {
			return func() { wantNoError(t, "retire", s.RetireKey(ctx, id)); pass(time.Minute) }
		}
		first := must[store.Keys](t)(s.Keys(ctx)).Keys[0].ID
		var second string
		ahead(func() { second = rotate() })
		_, err := s.PromoteKey(ctx)
		wantRefused(t, "promote", err, "retire it, and rotate again")
		retire(second)()
		third := rotate()
		ahead(promote)
		wantRefused(t, "retire", s.RetireKey(ctx, first), "rotate once more, promote that key, and rewrap")
		rotate()
		promote()
		ahead(rewrap)
		wantRefused(t, "retire", s.RetireKey(ctx, first), "rewrap again")
		rewrap()
		retire(third)()
		ahead(retire(first))
		wantRefused(t, "destroy", s.DestroyKey(ctx, first), "restore it, and retire it again")
		wantNoError(t, "restore", s.RestoreKey(ctx, first))
		retire(first)()
		wantRefused(t, "destroy", s.DestroyKey(ctx, first), "try again in 167h")
	})
}
