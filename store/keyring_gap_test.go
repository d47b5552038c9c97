package store_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/seal"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// wrapped are brokers with a KEK that wraps the keys no more, which do what they did before.
func wrapped(t *testing.T, n int) (h []*holder, kek *storetest.KEK) {
	t.Helper()
	h = holders(t, n)
	create(t, h[0].Store, newCredential("main"), "r1")
	pass(2 * time.Minute)
	kek = storetest.NewKEK("fresh")
	wantNoError(t, "wrap", store.WrapKeyring(t.Context(), h[0].at, nil, h[0].kek, kek))
	pass(time.Minute)
	create(t, h[0].Store, newCredential("before"), "r")
	return h, kek
}

// gap is a while in which these brokers cannot reach the store, or stand.
func gap(h []*holder, d time.Duration, meanwhile func()) {
	for _, b := range h {
		b.stop()
	}
	meanwhile()
	pass(d)
	for _, b := range h {
		b.follow()
	}
}

// TestAFormerKEKAndAGap: brokers that cannot open the row any more go on after a gap, however long, if the row is the one under which they were readers last. So an exchange
// that was under way then leaves its refresh token.
func TestAFormerKEKAndAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, fresh := wrapped(t, 2)
		l := must[broker.Lease](t)(must[broker.View](t)(h[0].Read(t.Context(), keptKey, "")).Acquire(t.Context(), 10*time.Minute, true))
		gap(h, time.Hour, func() {})
		pass(15 * time.Second)
		_, err := l.Commit(t.Context(), broker.Outcome{RefreshToken: broker.NewSecret("r2"), Now: time.Now()})
		wantNoError(t, "the commit", err)
		for i, b := range h {
			create(t, b.Store, newCredential(broker.CredentialName(fmt.Sprint("after-", i))), "r")
		}
		again := must[*store.Store](t)(store.New(h[0].at, nil, store.Options{KEK: fresh.Again(), Name: "again"}))
		if got := must[broker.View](t)(again.Read(t.Context(), keptKey, "")).Grant.RefreshToken.Reveal(); got != "r2" {
			t.Errorf("started with the other KEK there is %q", got)
		}
	})
}

// TestAFormerKEKAndAGapWhileAKeyIsPromoted: whoever goes on without having opened the row is seen by a broker that has read the readers before, however far that is. So no key
// is promoted over its head, and the others need no KEK for that.
func TestAFormerKEKAndAGapWhileAKeyIsPromoted(t *testing.T) {
	promoted := 0
	for _, after := range []time.Duration{0, 2, 5, 8, 9, 12} {
		synctest.Test(t, func(t *testing.T) {
			h, fresh := wrapped(t, 1)
			old, young := h[0], hold(t, h[0].at, fresh, "young")
			former := young.primary(t)
			must[string](t)(young.RotateKey(t.Context()))
			pass(31 * time.Second)
			old.stop()
			pass(31 * time.Second)
			old.follow() // it is a reader ten seconds later
			pass(after * time.Second)
			young.kek.Slow(9 * time.Second)
			_, err := young.PromoteKey(t.Context())
			young.kek.Slow(0)
			if err != nil {
				wantRefused(t, "promote", err, "host-0")
				create(t, old.Store, newCredential("after"), "r")
				return
			}
			promoted++ // before it was back
			pass(12 * time.Second)
			if err := old.CreateCredential(t.Context(), newCredential("after"), nil); broker.KindOf(err) != broker.StoreUnavailable {
				t.Errorf("%d s after it was followed again: it seals with %s, and another key was promoted over its head: %v", after, former, err)
			}
		})
	}
	if promoted == 0 || promoted == 6 {
		t.Errorf("%d of 6 were promoted", promoted)
	}
}

// TestWhoGoesOnWritesTheRowAnew only where its reader is not there: once, and nobody asks the KEK for that.
func TestWhoGoesOnWritesTheRowAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, fresh := wrapped(t, 2)
		young := hold(t, h[0].at, fresh, "young")
		pass(time.Minute)
		was, asked := h[0].row(t), young.kek.Asked.Load()
		wantRow := func(when string, anew bool) {
			t.Helper()
			pass(time.Minute)
			is := h[0].row(t)
			if (is.Revision != was.Revision) != anew || !bytes.Equal(is.Value, was.Value) {
				t.Errorf("%s: written anew: %t, as it was: %t", when, is.Revision != was.Revision, bytes.Equal(is.Value, was.Value))
			}
			was = is
		}
		wantRow("all go on", false)
		gap(h, 40*time.Second, func() {})
		wantRow("after a gap", true)
		wantRow("later", false)
		readers := must[[]store.Reading](t)(h[0].at.List(t.Context(), []store.Group{store.MetaGroup}, "reader"))[0].Rows
		var gone []store.Key
		for _, row := range readers {
			gone = append(gone, row.Key)
		}
		wantNoError(t, "a failover takes the readers", h[0].at.Apply(t.Context(), store.Batch{Group: store.MetaGroup, Deletes: gone}))
		wantRow("after it", true)
		if n := len(must[store.Keys](t)(young.Keys(t.Context())).Readers); n != 3 || len(readers) != 3 {
			t.Errorf("there are %d readers, and were %d", n, len(readers))
		}
		wantRow("in the end", false)
		if n := young.kek.Asked.Load(); n != asked {
			t.Errorf("the KEK was asked %d times", n-asked)
		}
	})
}

// TestBrokersWhoseKEKHangsGoOn, however many there are: each writes the row anew as it is, and the others do not ask for that what they have just asked. Once their KEK answers
// they have what is in the row.
func TestBrokersWhoseKEKHangsGoOn(t *testing.T) {
	for _, what := range []string{"a gap", "a failover takes the readers"} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := holders(t, 7)
				first, h := h[0], h[1:]
				pass(2 * time.Minute)
				for _, b := range h {
					b.kek.Hang(true)
				}
				pending := must[string](t)(first.RotateKey(t.Context()))
				pass(time.Minute)
				if what == "a gap" {
					gap(h, 40*time.Second, func() {})
				} else {
					var gone []store.Key
					for _, row := range must[[]store.Reading](t)(first.at.List(t.Context(), []store.Group{store.MetaGroup}, "reader"))[0].Rows {
						gone = append(gone, row.Key)
					}
					wantNoError(t, what, first.at.Apply(t.Context(), store.Batch{Group: store.MetaGroup, Deletes: gone}))
				}
				for minute := range 5 {
					pass(time.Minute)
					for i, b := range h {
						if err := b.CreateCredential(t.Context(), newCredential(broker.CredentialName(fmt.Sprintf("n-%d-%d", minute, i))), nil); err != nil {
							t.Errorf("minute %d, broker %d: %v", minute, i, err)
						}
					}
				}
				for _, b := range h {
					b.kek.Hang(false)
				}
				pass(20 * time.Second)
				if got := must[string](t)(first.PromoteKey(t.Context())); got != pending {
					t.Errorf("promoted %s, want %s", got, pending)
				}
			})
		})
	}
}

// TestALostReaderAndAPromotion: a failover has taken the reader of a broker that cannot open the row, and others, who did not see it, have changed the keys before it wrote the
// next one.
func TestALostReaderAndAPromotion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := holders(t, 2)
		a, b := h[0], h[1]
		pass(2 * time.Minute)
		a.kek.Away(true)
		must[string](t)(b.RotateKey(t.Context()))
		pass(31 * time.Second)
		var gone []store.Key
		for _, row := range must[[]store.Reading](t)(a.at.List(t.Context(), []store.Group{store.MetaGroup}, "reader"))[0].Rows {
			gone = append(gone, row.Key)
		}
		wantNoError(t, "a failover takes the readers", a.at.Apply(t.Context(), store.Batch{Group: store.MetaGroup, Deletes: gone}))
		must[string](t)(b.PromoteKey(t.Context()))
		pass(11 * time.Second)
		if err := a.CreateCredential(t.Context(), newCredential("after"), nil); broker.KindOf(err) != broker.StoreUnavailable {
			t.Errorf("it goes on: %v", err)
		}
		a.kek.Away(false)
		pass(11 * time.Second)
		create(t, a.Store, newCredential("in-the-end"), "r")
	})
}

// TestAFormerKEKAndAGapInWhichTheKeysChange: nobody has waited for such a broker, so it seals nothing any more, and says why.
func TestAFormerKEKAndAGapInWhichTheKeysChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, fresh := wrapped(t, 1)
		gap(h, 40*time.Second, func() {
			young := hold(t, h[0].at, fresh, "young")
			pass(40 * time.Second)
			young.next(t)
		})
		pass(15 * time.Second)
		if err := h[0].CreateCredential(t.Context(), newCredential("after"), nil); broker.KindOf(err) != broker.StoreUnavailable {
			t.Errorf("got %v", err)
		}
		if _, after, told := bytes.Cut(h[0].log.Bytes(), []byte("nothing is sealed until it can be")); !told || bytes.Contains(after, []byte("the former keys go on")) {
			t.Errorf("the log: %s", h[0].log)
		}
	})
}

// TestWhatWasUnderWayBeforeAGap is left, though this broker may seal nothing else: no key is retired that its lease is sealed with.
func TestWhatWasUnderWayBeforeAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, fresh := wrapped(t, 1)
		young := hold(t, h[0].at, fresh, "young")
		l := must[broker.Lease](t)(must[broker.View](t)(h[0].Read(t.Context(), keptKey, "")).Acquire(t.Context(), 10*time.Minute, true))
		former := young.primary(t)
		gap(h, 40*time.Second, func() {
			pass(2 * time.Minute)
			must[string](t)(young.RotateKey(t.Context()))
			pass(40 * time.Second)
			must[string](t)(young.PromoteKey(t.Context()))
			pass(40 * time.Second)
			wantRefused(t, "retire", young.RetireKey(t.Context(), former), "record")
		})
		pass(15 * time.Second)
		if err := h[0].CreateCredential(t.Context(), newCredential("another"), nil); broker.KindOf(err) != broker.StoreUnavailable {
			t.Errorf("something else: got %v", err)
		}
		_, err := l.Commit(t.Context(), broker.Outcome{RefreshToken: broker.NewSecret("r2"), Now: time.Now()})
		wantNoError(t, "the commit", err)
		if got := must[broker.View](t)(young.Read(t.Context(), keptKey, "")).Grant.RefreshToken.Reveal(); got != "r2" {
			t.Errorf("there is %q", got)
		}
		must[store.Rewrap](t)(young.Rewrap(t.Context(), 0, nil))
		pass(time.Minute)
		wantNoError(t, "retire", young.RetireKey(t.Context(), former))
	})
}

// TestWhatWasUnderWayBeforeAGapBesideRecordsOfANewKey: no commit fails for a record that is only shown to people.
func TestWhatWasUnderWayBeforeAGapBesideRecordsOfANewKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, fresh := wrapped(t, 1)
		young := hold(t, h[0].at, fresh, "young")
		must[string](t)(young.RotateKey(t.Context()))
		l := must[broker.Lease](t)(must[broker.View](t)(h[0].Read(t.Context(), keptKey, "")).Acquire(t.Context(), 10*time.Minute, true))
		gap(h, 40*time.Second, func() {
			pass(40 * time.Second)
			must[string](t)(young.PromoteKey(t.Context()))
			another := broker.TokenKey{Credential: "main", Token: [32]byte{7}, Selection: [32]byte{8}, Digest: "d"}
			o := must[broker.Lease](t)(must[broker.View](t)(young.Read(t.Context(), another, "")).Acquire(t.Context(), time.Minute, false))
			must[broker.Committed](t)(o.Commit(t.Context(), broker.Outcome{Now: time.Now()}))
		})
		pass(15 * time.Second)
		_, err := l.Commit(t.Context(), broker.Outcome{RefreshToken: broker.NewSecret("r2"), Now: time.Now()})
		wantNoError(t, "the commit", err)
		if got := must[broker.View](t)(young.Read(t.Context(), keptKey, "")).Grant.RefreshToken.Reveal(); got != "r2" {
			t.Errorf("there is %q", got)
		}
	})
}

// TestACommitOfABrokerThatCannotHaveTheNewKey is tried until it works: what the others have sealed anew while it stood is not unreadable for that.
func TestACommitOfABrokerThatCannotHaveTheNewKey(t *testing.T) {
	for _, why := range []string{"the KEK refuses", "the KEK is away", "nobody knows that it runs"} {
		t.Run(why, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := holders(t, 2)
				a, b := h[0], h[1]
				create(t, b.Store, newCredential("main"), "r1")
				pass(2 * time.Minute)
				l := must[broker.Lease](t)(must[broker.View](t)(a.Read(t.Context(), keptKey, "")).Acquire(t.Context(), 32*time.Second, true))
				old := a.row(t)
				gap(h[:1], 0, func() {
					must[string](t)(b.RotateKey(t.Context()))
					pass(40 * time.Second)
					must[string](t)(b.PromoteKey(t.Context()))
					must[store.Rewrap](t)(b.Rewrap(t.Context(), 0, nil))
					pass(40 * time.Second)
					a.kek.Refuse(false, why == "the KEK refuses")
					a.kek.Away(why == "the KEK is away")
				})
				if why == "nobody knows that it runs" { // it reads a part of the store that has not heard of the keys
					a.stop()
					b.stop()
					a.put(t, old.Value)
				}
				o := broker.Outcome{RefreshToken: broker.NewSecret("r2"), Now: time.Now()}
				for range 5 {
					if _, err := l.Commit(t.Context(), o); broker.KindOf(err) != broker.StoreUnavailable {
						t.Errorf("got %v", err)
					}
					pass(time.Second)
				}
				a.kek.Refuse(false, false)
				a.kek.Away(false)
				if why == "nobody knows that it runs" {
					b.follow()
					pass(11 * time.Second)
					a.follow()
				}
				pass(11 * time.Second)
				_, err := l.Commit(t.Context(), o)
				wantNoError(t, "the commit", err)
				if got := must[broker.View](t)(b.Read(t.Context(), keptKey, "")).Grant.RefreshToken.Reveal(); got != "r2" {
					t.Errorf("there is %q", got)
				}
			})
		})
	}
}

// TestACommitBesideARecordWhoseKeyIsRetired waits for who restores that key, however long the lease is over: what it brings is nowhere else. Whoever reads is told what to do, and
// so is the log.
func TestACommitBesideARecordWhoseKeyIsRetired(t *testing.T) {
	for _, kind := range []store.Kind{"credential", "grant"} {
		t.Run(string(kind), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := holders(t, 2)
				a, b := h[0], h[1]
				create(t, a.Store, newCredential("main"), "r1")
				pass(2 * time.Minute)
				group := a.GroupOf("main")
				old := must[[]store.Reading](t)(a.at.List(t.Context(), []store.Group{group}, kind))[0].Rows
				former, _ := b.next(t)
				pass(11 * time.Second)
				l := must[broker.Lease](t)(must[broker.View](t)(a.Read(t.Context(), keptKey, "")).Acquire(t.Context(), time.Minute, true))
				back := store.Batch{Group: group, Deletes: []store.Key{store.LeaseKey(keptKey)}}
				for _, row := range old {
					back.Puts = append(back.Puts, store.Put{Key: row.Key, Revision: row.Revision, Value: row.Value})
				}
				wantNoError(t, "the part is as it was", a.at.Apply(t.Context(), back))
				o := broker.Outcome{RefreshToken: broker.NewSecret("r2"), Now: time.Now()}
				for range 5 {
					if _, err := l.Commit(t.Context(), o); broker.KindOf(err) != broker.StoreUnavailable || !strings.Contains(err.Error(), "keys restore "+former) {
						t.Errorf("the commit: got %v", err)
					}
					_, err := b.Read(t.Context(), keptKey, "")
					wantUnreadable(t, "read", err, "keys restore "+former)
					pass(time.Minute)
				}
				if n := bytes.Count(a.log.Bytes(), []byte("keys restore "+former)); n != 5 {
					t.Errorf("the log names the key %d times in five minutes: %s", n, a.log)
				}
				wantNoError(t, "restore", b.RestoreKey(t.Context(), former))
				pass(11 * time.Second)
				done, err := l.Commit(t.Context(), o)
				if wantNoError(t, "the commit", err); !done.Grant {
					t.Error("the refresh token is not stored")
				}
				if got := must[broker.View](t)(b.Read(t.Context(), keptKey, "")).Grant.RefreshToken.Reveal(); got != "r2" {
					t.Errorf("there is %q", got)
				}
			})
		})
	}
}

// TestAKeyFilesBrokerThatStood looks whether its keys were replaced meanwhile, before it seals with them.
func TestAKeyFilesBrokerThatStood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := storetest.NewReplicas(2)
		file := must[*seal.Keyring](t)(seal.New())
		s := must[*store.Store](t)(store.New(r[0], file, store.Options{Name: "file"}))
		create(t, s, newCredential("main"), "r1")
		var done sync.WaitGroup
		run := func(d time.Duration) {
			ctx, cancel := context.WithCancel(t.Context())
			done.Go(func() { s.FollowKeys(ctx) })
			pass(d)
			t.Cleanup(func() { cancel(); done.Wait() })
			if d > time.Second {
				cancel()
				done.Wait()
			}
		}
		run(59 * time.Second)
		kek := storetest.NewKEK("kek")
		wantNoError(t, "wrap", store.WrapKeyring(t.Context(), r[1], file, nil, kek))
		h := hold(t, r[1], kek, "host")
		pass(2 * time.Minute)
		h.next(t)
		run(0)
		for i := range 2 {
			if err := s.CreateCredential(t.Context(), newCredential(broker.CredentialName(fmt.Sprint("n", i))), nil); broker.KindOf(err) != broker.StoreUnavailable {
				t.Errorf("%d: sealed with a key that was retired meanwhile: %v", i, err)
			}
			pass(time.Second)
		}
	})
}

// TestBrokersWhoseKEKOnlyWraps do not write over each other's rows for ever.
func TestBrokersWhoseKEKOnlyWraps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := holders(t, 4)
		pass(2 * time.Minute)
		sound := h[0].row(t).Value
		for _, b := range h[1:] {
			b.kek.Refuse(false, true)
		}
		h[0].put(t, sound)
		pass(2 * time.Minute)
		is := h[0].row(t).Revision
		pass(10 * time.Minute)
		if h[0].row(t).Revision != is {
			t.Error("the row is being written on and on")
		}
		for i, b := range h {
			create(t, b.Store, newCredential(broker.CredentialName(fmt.Sprint("n", i))), "r")
		}
	})
}

// TestAStartWithARowWhoseHistoryWasAltered, where no broker runs that knows better: its keys are the store's.
func TestAStartWithARowWhoseHistoryWasAltered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := holders(t, 1)[0]
		create(t, h.Store, newCredential("main"), "r1")
		pass(2 * time.Minute)
		h.next(t)
		h.stop()
		pass(31 * time.Second)
		var w struct{ History []string }
		if err := json.Unmarshal(h.row(t).Value, &w); err != nil {
			t.Fatal(err)
		}
		h.put(t, bytes.Replace(h.row(t).Value, []byte(w.History[0]), []byte("00112233aabbccdd"), 1))
		young := hold(t, h.at, h.kek, "young")
		create(t, young.Store, newCredential("after"), "r")
		if _, err := young.Credential(t.Context(), "main"); err != nil {
			t.Error(err)
		}
		h.follow()
		pass(time.Minute)
		for _, b := range []*holder{h, young} {
			if _, err := b.Credential(t.Context(), "after"); err != nil {
				t.Error(err)
			}
			create(t, b.Store, newCredential(broker.CredentialName("of-"+fmt.Sprint(b == h))), "r")
		}
	})
}
