package store_test

import (
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/bolt"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// TestATokenOfAClockThatWasAheadIsNotThere: a broker's machine was a day ahead, and is corrected while the broker is restarted.
func TestATokenOfAClockThatWasAheadIsNotThere(t *testing.T) {
	keys, _ := seal.New()
	var ahead atomic.Int64
	ahead.Store(int64(24 * time.Hour))
	began := time.Now()
	wall := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	path := filepath.Join(t.TempDir(), "db")
	open := func() (*store.Store, func()) {
		clock := broker.NewClock(func() (time.Time, time.Duration) {
			w := wall()
			return w, w.Sub(began)
		})
		db, err := bolt.Open(path, bolt.Options{Now: wall})
		if err != nil {
			t.Fatal(err)
		}
		s, err := store.New(db, keys, store.Options{Clock: clock})
		if err != nil {
			t.Fatal(err)
		}
		return s, func() { _ = db.Close() }
	}
	s, shut := open()
	sh := &shared{Store: s, t: t}
	sh.create()
	sh.commit(sh.acquire(), 1, wall())
	shut()
	ahead.Store(0)
	s, shut = open()
	defer shut()
	for _, after := range []time.Duration{0, 50 * time.Minute, 2 * time.Hour, 12 * time.Hour, 23 * time.Hour} {
		ahead.Store(int64(after))
		v, err := s.Read(t.Context(), keptKey, "")
		if err != nil {
			t.Fatal(err)
		}
		if v.Token != nil && after > time.Hour {
			t.Errorf("%v after the restart a token of an hour is there, for another %v, to be refreshed in %v", after,
				v.Token.ExpireAt.Sub(wall()).Round(time.Second), v.Token.RefreshAt.Sub(wall()).Round(time.Second))
		}
	}
}

// TestWhatIsDroppedWhileTheClockIsBehindStaysDropped: a machine without a clock of its own starts twenty minutes behind, and is corrected later.
func TestWhatIsDroppedWhileTheClockIsBehindStaysDropped(t *testing.T) {
	for _, how := range []string{"id", "selection"} {
		t.Run(how, func(t *testing.T) {
			keys, _ := seal.New()
			var off atomic.Int64
			began := time.Now()
			wall := func() time.Time { return time.Now().Add(time.Duration(off.Load())) }
			path := filepath.Join(t.TempDir(), "db")
			open := func() (*store.Store, func()) {
				clock := broker.NewClock(func() (time.Time, time.Duration) { return wall(), time.Since(began) })
				db, err := bolt.Open(path, bolt.Options{Now: wall})
				if err != nil {
					t.Fatal(err)
				}
				s, err := store.New(db, keys, store.Options{Clock: clock})
				if err != nil {
					t.Fatal(err)
				}
				return s, func() { _ = db.Close() }
			}
			s, shut := open()
			sh := &shared{Store: s, t: t}
			sh.create()
			sh.commit(sh.acquire(), 1, wall())
			v, err := s.Read(t.Context(), keptKey, "")
			if err != nil || v.Token == nil {
				t.Fatal(v.Token, err)
			}
			id := v.Token.ID
			shut()
			off.Store(int64(-20 * time.Minute))
			s, shut = open()
			defer shut()
			m := broker.Match{TokenID: id}
			if how == "selection" {
				m = broker.Match{Selection: &keptKey.Selection}
			}
			if d, err := s.Drop(t.Context(), keptKey.Credential, m); err != nil || d.Count != 1 {
				t.Errorf("got %+v, %v, want one dropped", d, err)
			}
			off.Store(0)
			v, err = s.Read(t.Context(), keptKey, "")
			if err != nil {
				t.Fatal(err)
			}
			if v.Token != nil && !v.Token.Rejected {
				t.Errorf("the dropped token is there again: id %v, for %v", v.Token.ID == id, v.Token.ExpireAt.Sub(wall()))
			}
		})
	}
}
