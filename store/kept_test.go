package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/seal"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// A shared is a store on a memory that others share, whose clock can be wrong.
type shared struct {
	*store.Store
	t   *testing.T
	log *strings.Builder
}

func newShared(t *testing.T, keys *seal.Keyring, view store.Backend, ahead time.Duration) *shared {
	t.Helper()
	s := &shared{t: t, log: &strings.Builder{}}
	var err error
	began := time.Now()
	s.Store, err = store.New(view, keys, store.Options{
		Log:   slog.New(slog.NewTextHandler(s.log, nil)),
		Clock: broker.NewClock(func() (time.Time, time.Duration) { return time.Now().Add(ahead), time.Since(began) }),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	go s.Watch(ctx, func(broker.Notice) {})
	synctest.Wait()
	return s
}

var keptKey = broker.TokenKey{Credential: "main", Token: [32]byte{1}, Selection: [32]byte{2}, Digest: "d", Spends: true}

func (s *shared) create() {
	s.t.Helper()
	err := s.CreateCredential(s.t.Context(), broker.Credential{
		Name: "main", Provider: "p", Incarnation: broker.NewID(), Version: broker.NewID(), Epoch: broker.NewID(), Etag: broker.NewID(),
	}, &broker.Grant{RefreshToken: broker.NewSecret("refresh-0")})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *shared) acquire() broker.Lease {
	s.t.Helper()
	v, err := s.Read(s.t.Context(), keptKey, "")
	if err != nil {
		s.t.Fatal(err)
	}
	l, err := v.Acquire(s.t.Context(), time.Minute, true)
	if err != nil {
		s.t.Fatal(err)
	}
	return l
}

func (s *shared) commit(l broker.Lease, n int, now time.Time) {
	s.t.Helper()
	name := fmt.Sprint(n)
	_, err := l.Commit(s.t.Context(), broker.Outcome{
		RefreshToken: broker.NewSecret("refresh-" + name), Now: now, Held: map[string]broker.HeldValue{"h": {Value: broker.NewSecret("held-" + name)}},
		Token: &broker.Issued{
			ID: name, Values: map[string]broker.Secret{"token": broker.NewSecret("access-" + name)}, SentAt: now, ExpireAt: now.Add(time.Hour),
			RefreshAt: now.Add(50 * time.Minute),
		},
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *shared) want(refresh, access string) {
	s.t.Helper()
	v, err := s.Read(s.t.Context(), keptKey, "")
	if err != nil {
		s.t.Fatal(err)
	}
	got := ""
	if v.Token != nil {
		got = v.Token.Values["token"].Reveal()
	}
	if v.Grant.RefreshToken.Reveal() != refresh || got != access {
		s.t.Errorf("got %q and %q, want %q and %q", v.Grant.RefreshToken.Reveal(), got, refresh, access)
	}
}

// TestWhatAFailoverUndidIsMadeAgain, with what came along, within a minute, and only where nothing else has been made instead.
func TestWhatAFailoverUndidIsMadeAgain(t *testing.T) {
	for name, test := range map[string]struct {
		// before is when the state that comes back was stored.
		before string
		// after is how long all was well, away how long the backend was away when it came back undone.
		after, away time.Duration
		between     func(s, other *shared)
		refresh     string
		access      string
	}{
		"before the commit":          {before: "commit", refresh: "refresh-2", access: "access-2"},
		"before lease and mark":      {before: "lease", refresh: "refresh-2", access: "access-2"},
		"before both commits":        {before: "first", refresh: "refresh-2", access: "access-2"},
		"nothing is undone":          {before: "", refresh: "refresh-2", access: "access-2"},
		"while it was away for long": {before: "lease", away: 3 * time.Minute, refresh: "refresh-2", access: "access-2"},
		"more than a minute ago":     {before: "lease", after: 62 * time.Second, refresh: "refresh-1", access: "access-1"},
		"another has refreshed": {before: "lease", between: func(_, other *shared) {
			other.commit(other.acquire(), 9, time.Now())
		}, refresh: "refresh-9", access: "access-9"},
		"it was deleted": {before: "lease", between: func(_, other *shared) {
			if err := other.DeleteCredential(other.t.Context(), "main", broker.ID{}); err != nil {
				other.t.Fatal(err)
			}
			other.create()
		}, refresh: "refresh-0"},
		"all were invalidated": {before: "lease", between: func(_, other *shared) {
			if _, err := other.Drop(other.t.Context(), "main", broker.Match{Epoch: broker.NewID()}); err != nil {
				other.t.Fatal(err)
			}
		}, refresh: "refresh-2"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				keys, err := seal.New()
				if err != nil {
					t.Fatal(err)
				}
				views := storetest.NewReplicas(2)
				faults := storetest.NewFaults(views[0])
				s, other := newShared(t, keys, faults.Whole(), 0), newShared(t, keys, views[1], 0)
				s.create()
				restore := func() {}
				step := func(what string) {
					if test.before == what {
						restore = views[0].Snapshot()
					}
				}
				step("first")
				s.commit(s.acquire(), 1, time.Now())
				step("lease")
				l := s.acquire()
				step("commit")
				s.commit(l, 2, time.Now())
				<-time.After(test.after)
				faults.Away()
				restore()
				<-time.After(test.away)
				faults.Set(storetest.Hooks{})
				if test.between != nil {
					test.between(s, other)
				}
				<-time.After(2 * time.Second)
				synctest.Wait()
				other.want(test.refresh, test.access)
				if strings.Contains(s.log.String(), "refresh-") || strings.Contains(s.log.String(), "access-") {
					t.Error("the log shows a token")
				}
				<-time.After(2 * time.Minute) // nothing more is to do
				synctest.Wait()
				other.want(test.refresh, test.access)
			})
		})
	}
}

// TestClocksThatDiffer: when a token ends is what the shared clock says, whatever the brokers' own say.
func TestClocksThatDiffer(t *testing.T) {
	for _, ahead := range []time.Duration{-10 * time.Minute, -5 * time.Second, 0, 5 * time.Second, 10 * time.Minute} {
		t.Run(ahead.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				keys, err := seal.New()
				if err != nil {
					t.Fatal(err)
				}
				views := storetest.NewReplicas(2)
				right, wrong := newShared(t, keys, views[0], 0), newShared(t, keys, views[1], ahead)
				right.create()
				right.commit(right.acquire(), 1, time.Now())
				v, err := wrong.Read(t.Context(), keptKey, "")
				if err != nil || v.Token == nil {
					t.Fatalf("got %v, %v", v.Token, err)
				}
				now := time.Now().Add(ahead) // as that broker sees it
				if left := v.Token.ExpireAt.Sub(now); left != time.Hour {
					t.Errorf("it has %v left, want an hour", left)
				}
				if left := v.Token.RefreshAt.Sub(now); left != 50*time.Minute {
					t.Errorf("it is refreshed in %v, want 50 minutes", left)
				}
				// What the wrong clock stores is right for the other one.
				wrong.commit(wrong.acquire(), 2, now)
				if v, err = right.Read(t.Context(), keptKey, ""); err != nil || v.Token == nil || time.Until(v.Token.ExpireAt) != time.Hour {
					t.Errorf("got %v, %v; want an hour", v.Token, err)
				}
				<-time.After(time.Hour)
				right.want("refresh-2", "")
				wrong.want("refresh-2", "")
			})
		})
	}
}

// TestWhoeverReadsFirstPutsBack: there is no moment at which the process that has the successor reads the spent one, and none at which it gets a
// lease for what it read before it had that.
func TestWhoeverReadsFirstPutsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys, err := seal.New()
		if err != nil {
			t.Fatal(err)
		}
		views := storetest.NewReplicas(2)
		s := newShared(t, keys, views[0], 0)
		s.create()
		s.commit(s.acquire(), 1, time.Now())
		before, err := s.Read(t.Context(), keptKey, "")
		if err != nil {
			t.Fatal(err)
		}
		restore := views[0].Snapshot()
		s.commit(s.acquire(), 2, time.Now())
		restore()
		if _, err := before.Acquire(t.Context(), time.Minute, true); !errors.Is(err, broker.ErrConflict) {
			t.Errorf("got %v, want that it looks again", err)
		}
		s.want("refresh-2", "access-2") // at once
	})
}

// TestASuccessorThatWasNotStoredIsKept: while a refresh token was presented, an operator gave the credential another, or replaced it, so that the
// successor was not stored. A failover brings back the one that is spent: nobody but this process has what comes after it.
func TestASuccessorThatWasNotStoredIsKept(t *testing.T) {
	for name, operate := range map[string]func(*shared){
		"another seed": func(other *shared) {
			c, err := other.Credential(other.t.Context(), "main")
			if err != nil {
				other.t.Fatal(err)
			}
			etag := c.Etag
			c.Etag = broker.NewID()
			if err := other.SaveCredential(other.t.Context(), etag, c, &broker.Grant{RefreshToken: broker.NewSecret("seed-2")}); err != nil {
				other.t.Fatal(err)
			}
		},
		"deleted": func(other *shared) {
			if err := other.DeleteCredential(other.t.Context(), "main", broker.ID{}); err != nil {
				other.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				keys, err := seal.New()
				if err != nil {
					t.Fatal(err)
				}
				views := storetest.NewReplicas(2)
				s, other := newShared(t, keys, views[0], 0), newShared(t, keys, views[1], 0)
				s.create()
				before, restore := s.acquire(), views[0].Snapshot()
				operate(other)
				s.commit(before, 1, time.Now())
				restore()
				s.want("refresh-1", "access-1") // at once
			})
		})
	}
}

// TestInvalidationsThatAFailoverUndidAreMadeAgain: a rejection, a selection's, and that of everything.
func TestInvalidationsThatAFailoverUndidAreMadeAgain(t *testing.T) {
	for name, m := range map[string]broker.Match{
		"one": {TokenID: "1"}, "a selection": {Selection: &keptKey.Selection}, "all": {Epoch: broker.NewID()},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				keys, err := seal.New()
				if err != nil {
					t.Fatal(err)
				}
				views := storetest.NewReplicas(2)
				s, other := newShared(t, keys, views[0], 0), newShared(t, keys, views[1], 0)
				s.create()
				l := s.acquire()
				_, err = l.Commit(t.Context(), broker.Outcome{RefreshToken: broker.NewSecret("refresh-1"), Now: time.Now(), Token: &broker.Issued{
					ID: "1", Values: map[string]broker.Secret{"token": broker.NewSecret("access-1")},
					SentAt: time.Now(), ExpireAt: time.Now().Add(time.Hour), RefreshAt: time.Now().Add(50 * time.Minute),
				}})
				if err != nil {
					t.Fatal(err)
				}
				restore := views[0].Snapshot()
				if done, err := s.Drop(t.Context(), "main", m); err != nil || done.Count != 1 {
					t.Fatalf("got %+v, %v", done, err)
				}
				restore()
				<-time.After(1100 * time.Millisecond)
				synctest.Wait()
				for i, x := range []*shared{s, other} {
					v, err := x.Read(t.Context(), keptKey, "")
					if err != nil || v.Token != nil && !v.Token.Rejected || v.Grant.RefreshToken.Reveal() != "refresh-1" {
						t.Errorf("store %d: the token is back (%v), or the grant is not as it was", i, err)
					}
				}
			})
		})
	}
}

// TestADropWhoseAnswerWasLostIsKept: it is repeated, said to be done, and a failover undoes it.
func TestADropWhoseAnswerWasLostIsKept(t *testing.T) {
	for name, m := range map[string]broker.Match{"one": {TokenID: "1"}, "a selection": {Selection: &keptKey.Selection}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				keys, err := seal.New()
				if err != nil {
					t.Fatal(err)
				}
				view := storetest.NewReplicas(1)[0]
				faults := storetest.NewFaults(view)
				s := newShared(t, keys, faults.Whole(), 0)
				s.create()
				s.commit(s.acquire(), 1, time.Now())
				restore := view.Snapshot()
				faults.Set(storetest.Hooks{AfterApply: func(context.Context, store.Batch) error { return store.Unavailable("the answer is lost") }})
				if _, err := s.Drop(t.Context(), "main", m); broker.KindOf(err) != broker.StoreUnavailable {
					t.Fatalf("got %v", err)
				}
				faults.Set(storetest.Hooks{})
				if done, err := s.Drop(t.Context(), "main", m); err != nil || !done.Matched {
					t.Fatalf("got %+v, %v", done, err)
				}
				restore()
				v, err := s.Read(t.Context(), keptKey, "")
				if err != nil || v.Token != nil && !v.Token.Rejected {
					t.Errorf("what was said to be dropped is there again, %v", err)
				}
			})
		})
	}
}

// TestASelectionsDropThatABackendRepeatsIsKept: a backend asks again where the answer was lost, and conflicts with what it has deleted.
func TestASelectionsDropThatABackendRepeatsIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys, err := seal.New()
		if err != nil {
			t.Fatal(err)
		}
		view := storetest.NewReplicas(1)[0]
		faults := storetest.NewFaults(view)
		s := newShared(t, keys, faults.Whole(), 0)
		s.create()
		s.commit(s.acquire(), 1, time.Now())
		<-time.After(2 * time.Minute) // the commit is kept no more
		restore := view.Snapshot()
		conflicts := 1
		faults.Set(storetest.Hooks{AfterApply: func(context.Context, store.Batch) error {
			if conflicts--; conflicts >= 0 {
				return broker.ErrConflict
			}
			return nil
		}})
		done, err := s.Drop(t.Context(), "main", broker.Match{Selection: &keptKey.Selection})
		if err != nil || !done.Matched || done.Count != 1 {
			t.Errorf("got %+v, %v, want the one token that it has deleted", done, err)
		}
		restore()
		s.want("refresh-1", "")
	})
}

// TestALongChainIsPutBack: a failover undoes one commit after the other, and the rejection of what the last has brought.
func TestALongChainIsPutBack(t *testing.T) {
	for n := 1; n <= 6; n++ {
		synctest.Test(t, func(t *testing.T) {
			keys, err := seal.New()
			if err != nil {
				t.Fatal(err)
			}
			view := storetest.NewReplicas(1)[0]
			s := newShared(t, keys, view, 0)
			s.create()
			restore := view.Snapshot()
			for i := range n {
				s.commit(s.acquire(), i+1, time.Now())
			}
			last := fmt.Sprint(n)
			if done, err := s.Drop(t.Context(), "main", broker.Match{TokenID: last}); err != nil || done.Count != 1 {
				t.Fatalf("got %+v, %v", done, err)
			}
			restore()
			v, err := s.Read(t.Context(), keptKey, "")
			if err != nil {
				t.Fatal(err)
			}
			if got := v.Grant.RefreshToken.Reveal(); got != "refresh-"+last || v.Token != nil && !v.Token.Rejected {
				t.Errorf("after %d commits: got the grant %s, and the token %+v", n, got, v.Token)
			}
		})
	}
}

// TestOneThatCannotBePutBackKeepsNoOther from being.
func TestOneThatCannotBePutBackKeepsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys, err := seal.New()
		if err != nil {
			t.Fatal(err)
		}
		views := storetest.NewReplicas(2)
		s := newShared(t, keys, views[0], 0)
		s.create()
		create(t, s.Store, newCredential("bad"), "refresh-0")
		key := keptKey
		key.Credential = "bad"
		v, err := s.Read(t.Context(), key, "")
		if err != nil {
			t.Fatal(err)
		}
		l, err := v.Acquire(t.Context(), time.Minute, true)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Commit(t.Context(), broker.Outcome{RefreshToken: broker.NewSecret("x"), Now: time.Now()}); err != nil {
			t.Fatal(err)
		}
		restore := views[0].Snapshot()
		s.commit(s.acquire(), 1, time.Now())
		restore()
		err = views[0].Memory.Apply(t.Context(), store.Batch{Group: s.GroupFor("bad"), Puts: []store.Put{{
			Key: store.CredentialKey, Revision: store.Revision{1}, Value: []byte("damaged"),
		}}})
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(1100 * time.Millisecond)
		synctest.Wait()
		s.want("refresh-1", "access-1")
		<-time.After(5 * time.Minute)
		if n := s.Kept(); n != 0 {
			t.Errorf("%d changes are kept for ever", n)
		}
	})
}

// TestACommitThatIsRepeatedUndoesNothing, however many others came since.
func TestACommitThatIsRepeatedUndoesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys, err := seal.New()
		if err != nil {
			t.Fatal(err)
		}
		s := newShared(t, keys, storetest.NewReplicas(1)[0], 0)
		s.create()
		key := keptKey
		key.Spends = false
		do := func(k broker.TokenKey, name string) (broker.Lease, broker.Outcome) {
			v, err := s.Read(t.Context(), k, "")
			if err != nil {
				t.Fatal(err)
			}
			l, err := v.Acquire(t.Context(), time.Minute, false)
			if err != nil {
				t.Fatal(err)
			}
			now := time.Now()
			o := broker.Outcome{Now: now, Token: &broker.Issued{
				ID: name, Values: map[string]broker.Secret{"token": broker.NewSecret(name)}, SentAt: now, ExpireAt: now.Add(time.Hour), RefreshAt: now.Add(time.Hour),
			}}
			if _, err := l.Commit(t.Context(), o); err != nil {
				t.Fatal(err)
			}
			return l, o
		}
		l, o := do(key, "first")
		if _, err := s.Drop(t.Context(), "main", broker.Match{TokenID: "first"}); err != nil {
			t.Fatal(err)
		}
		for i := range 100 { // of other selections
			k := key
			k.Token[5], k.Selection[5] = byte(i+1), byte(i+1)
			do(k, fmt.Sprint("other-", i))
		}
		if _, err := l.Commit(t.Context(), o); err != nil { // the first one's answer was lost
			t.Fatal(err)
		}
		if v, err := s.Read(t.Context(), key, ""); err != nil || v.Token == nil || !v.Token.Rejected {
			t.Errorf("got %+v, %v, want the token as it was rejected", v.Token, err)
		}
	})
}

// TestACommitThatIsHeldUpMakesNothingLiveLonger: its row ends when the token does, whenever it is written.
func TestACommitThatIsHeldUpMakesNothingLiveLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys, err := seal.New()
		if err != nil {
			t.Fatal(err)
		}
		views := storetest.NewReplicas(2)
		faults := storetest.NewFaults(views[0])
		a, b := newShared(t, keys, faults.Whole(), 0), newShared(t, keys, views[1], 0)
		a.create()
		l := a.acquire()
		faults.Set(storetest.Hooks{BeforeApply: func(context.Context, store.Batch) error {
			<-time.After(5 * time.Second) // the network holds it back
			return nil
		}})
		end := time.Now().Add(time.Hour)
		a.commit(l, 1, time.Now())
		v, err := b.Read(t.Context(), keptKey, "")
		if err != nil || v.Token == nil || v.Token.ExpireAt.After(end) {
			t.Errorf("another broker believes that it ends at %v, %v; it ends at %v", v.Token.ExpireAt, err, end)
		}
		<-time.After(time.Until(end))
		if v, err := b.Read(t.Context(), keptKey, ""); err != nil || v.Token != nil {
			t.Errorf("it is there at its end: %v", err)
		}
	})
}

// TestALateCommitTakesNoNewerOnesPlace: two exchanges of one process present one refresh token, because its upstream takes it again for a while. The second is stored; the first one's
// answer comes late. After a failover the late one, which is older, takes the place of the newer.
func TestALateCommitTakesNoNewerOnesPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys, _ := seal.New()
		views := storetest.NewReplicas(2)
		faults := storetest.NewFaults(views[0])
		s, other := newShared(t, keys, faults.Whole(), 0), newShared(t, keys, views[1], 0)
		s.create()
		restore := views[0].Snapshot()
		late := s.acquire()
		<-time.After(61 * time.Second) // its lease is over
		s.commit(s.acquire(), 2, time.Now())
		s.commit(late, 1, time.Now())
		s.want("refresh-2", "access-2")
		faults.Away()
		restore()
		faults.Set(storetest.Hooks{})
		<-time.After(3 * time.Second)
		synctest.Wait()
		other.want("refresh-2", "access-2")
	})
}
