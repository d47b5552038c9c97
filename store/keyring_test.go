package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
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

// A holder is a broker that shares a store, and holds its keys.
type holder struct {
	*store.Store
	at     *storetest.Replica
	kek    *storetest.KEK
	log    *bytes.Buffer
	stale  []bool
	follow func()
	// stop has it follow the keys no more, as a process that is stopped.
	stop func()
}

// holders are n brokers that follow the keys.
func holders(t *testing.T, n int) []*holder {
	t.Helper()
	var out []*holder
	kek := storetest.NewKEK("kek")
	for i, b := range storetest.NewReplicas(n) {
		out = append(out, hold(t, b, kek, fmt.Sprint("host-", i)))
	}
	return out
}

// hold starts a broker.
func hold(t *testing.T, b *storetest.Replica, kek *storetest.KEK, name string) *holder {
	t.Helper()
	h := &holder{at: b, kek: kek.Again(), log: &bytes.Buffer{}}
	s, err := store.New(b, nil, store.Options{
		KEK: h.kek, Name: name, KeysStale: func(stale bool) { h.stale = append(h.stale, stale) },
		Log: slog.New(slog.NewTextHandler(h.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	h.Store = s
	h.follow = func() {
		ctx, cancel := context.WithCancel(context.Background())
		var done sync.WaitGroup
		done.Go(func() { s.FollowKeys(ctx) })
		h.stop = func() {
			cancel()
			done.Wait()
		}
	}
	h.follow()
	t.Cleanup(func() { h.stop() })
	return h
}

func wantRefused(t *testing.T, what string, err error, says string) {
	t.Helper()
	var r *store.Refused
	if !errors.As(err, &r) || !strings.Contains(r.Why, says) {
		t.Errorf("%s: got %v, want a refusal that says %q", what, err, says)
	}
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func wantNoError(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// pass lets time pass, in a bubble.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// TestALifeOfKeys: from one key to the next, with two brokers, until the first is no more.
func TestALifeOfKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := holders(t, 2)
		a, b := all[0], all[1]
		ctx := t.Context()
		create(t, a.Store, newCredential("a"), "r1")
		pass(time.Minute) // after which no broker with a key file can have overlooked that there is no such
		first := must[store.Keys](t)(a.Keys(ctx)).Keys[0].ID
		_, err := a.PromoteKey(ctx)
		wantRefused(t, "promote nothing", err, "no key is pending")
		second := must[string](t)(a.RotateKey(ctx))
		_, err = b.RotateKey(ctx)
		wantRefused(t, "a second pending key", err, second+" is pending already")
		_, err = b.PromoteKey(ctx)
		wantRefused(t, "promote at once", err, "try again in")
		pass(29 * time.Second)
		_, err = b.PromoteKey(ctx)
		wantRefused(t, "promote before a reader has ended", err, "try again in")
		pass(2 * time.Second)
		if got := must[string](t)(b.PromoteKey(ctx)); got != second {
			t.Errorf("promoted %s, want %s", got, second)
		}
		create(t, b.Store, newCredential("b"), "r2")
		if _, err := a.Credential(ctx, "b"); err != nil { // it has not looked yet
			t.Errorf("what is sealed with the new key: %v", err)
		}
		wantRefused(t, "retire at once", a.RetireKey(ctx, first), "may still seal")
		pass(31 * time.Second)
		wantRefused(t, "retire what is needed", a.RetireKey(ctx, first), "rewrap")
		if r := must[store.Rewrap](t)(b.Rewrap(ctx, 0, nil)); !r.Done || r.Rows != 3 {
			t.Errorf("rewrap: got %+v, want a credential, a grant and the check", r)
		}
		pass(31 * time.Second)
		wantNoError(t, "retire", a.RetireKey(ctx, first))
		pass(7*24*time.Hour - time.Minute)
		wantRefused(t, "destroy too early", b.DestroyKey(ctx, first), "can be destroyed from")
		pass(2 * time.Minute)
		wantNoError(t, "destroy", b.DestroyKey(ctx, first))
		pass(11 * time.Second)
		for i, h := range all {
			k := must[store.Keys](t)(h.Keys(ctx))
			if len(k.Keys) != 1 || k.Keys[0].ID != second || k.Generation != 5 || len(k.Readers) != 2 {
				t.Errorf("broker %d: got %+v, want the second key, the fifth generation, two readers", i, k)
			}
			for _, name := range []broker.CredentialName{"a", "b"} {
				if _, err := h.Credential(ctx, name); err != nil {
					t.Errorf("broker %d: %v", i, err)
				}
			}
		}
		if !all[0].names(t, "host-0", "host-1") {
			t.Error("the first reader is not this one")
		}
	})
}

func (h *holder) names(t *testing.T, want ...string) bool {
	t.Helper()
	var got []string
	for _, r := range must[store.Keys](t)(h.Keys(t.Context())).Readers {
		got = append(got, r.Name)
	}
	return fmt.Sprint(got) == fmt.Sprint(want)
}

// TestRotateAtOnce: of two brokers that rotate at once one adds a key.
func TestRotateAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := holders(t, 2)
		errs := make(chan error, 2)
		for _, h := range all {
			go func() {
				_, err := h.RotateKey(context.Background())
				errs <- err
			}()
		}
		refused := 0
		for range all {
			if err := <-errs; err != nil {
				wantRefused(t, "the slower one", err, "pending already")
				refused++
			}
		}
		if k := must[store.Keys](t)(all[0].Keys(t.Context())); refused != 1 || len(k.Keys) != 2 || k.Generation != 2 {
			t.Errorf("%d were refused, and there is %+v", refused, k)
		}
	})
}

// TestPromoteWaitsForWhoCannotRead: a broker whose KEK is away keeps the former keys, and nobody seals with what it cannot open.
func TestPromoteWaitsForWhoCannotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := holders(t, 2)
		a, b := all[0], all[1]
		b.kek.Away(true)
		must[string](t)(a.RotateKey(t.Context()))
		pass(5 * time.Minute)
		_, err := a.PromoteKey(t.Context())
		wantRefused(t, "promote", err, "the broker host-1")
		create(t, b.Store, newCredential("b"), "r") // the former keys go on
		if n := strings.Count(b.log.String(), "cannot be opened"); n < 4 || n > 6 {
			t.Errorf("it was logged %d times in five minutes, want once a minute:\n%s", n, b.log)
		}
		if fmt.Sprint(b.stale) != "[true]" {
			t.Errorf("stale: got %v", b.stale)
		}
		b.kek.Away(false)
		pass(11 * time.Second)
		must[string](t)(a.PromoteKey(t.Context()))
		if fmt.Sprint(b.stale) != "[true false]" {
			t.Errorf("stale: got %v", b.stale)
		}
	})
}

// TestAKEKThatHangs: one that takes its time keeps nobody from going on with the former keys.
func TestAKEKThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := holders(t, 2)
		a, b := all[0], all[1]
		b.kek.Hang(true)
		must[string](t)(a.RotateKey(t.Context()))
		for i := range 10 {
			pass(17 * time.Second)
			create(t, b.Store, newCredential(broker.CredentialName(fmt.Sprint("n", i))), "r")
		}
		_, err := a.PromoteKey(t.Context())
		wantRefused(t, "promote", err, "the broker host-1")
		b.kek.Hang(false)
		pass(30 * time.Second)
		must[string](t)(a.PromoteKey(t.Context()))
	})
}

// TestWhoListsKeysAsksNoKEKThatHangs over and over: the reader could not be written beside them.
func TestWhoListsKeysAsksNoKEKThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := holders(t, 2)
		a, b := all[0], all[1]
		pass(15 * time.Second)
		b.kek.Hang(true)
		must[string](t)(a.RotateKey(t.Context()))
		pass(17 * time.Second) // it has looked
		b.stop()
		asked := b.kek.Asked.Load()
		for range 20 {
			if k := must[store.Keys](t)(b.Keys(t.Context())); k.Generation != 1 || len(k.Keys) != 1 {
				t.Errorf("got %+v", k)
			}
		}
		if _, err := b.RotateKey(t.Context()); broker.KindOf(err) != broker.StoreUnavailable {
			t.Errorf("rotate: got %v", err)
		}
		if n := b.kek.Asked.Load() - asked; n != 0 {
			t.Errorf("the KEK was asked %d times", n)
		}
		b.kek.Hang(false)
		b.follow()
		pass(15 * time.Second)
		if k := must[store.Keys](t)(b.Keys(t.Context())); k.Generation != 2 {
			t.Errorf("once it answers: got %+v", k)
		}
	})
}

// TestAKEKThatIsSlow: what it may take for one call is what it may take for a keyring, which is wrapped in two parts.
func TestAKEKThatIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := holders(t, 2)
		a, b := all[0], all[1]
		pass(time.Minute)
		b.kek.Slow(4900 * time.Millisecond)
		must[string](t)(a.RotateKey(t.Context()))
		pass(40 * time.Second)
		must[string](t)(a.PromoteKey(t.Context()))
		create(t, b.Store, newCredential("a"), "r")
	})
}

// TestWhoDiesIsNotWaitedFor: the reader of a broker that is gone ends. One that was stopped seals nothing until it has looked.
func TestWhoDiesIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := holders(t, 2)
		a, b := all[0], all[1]
		pass(time.Minute)
		b.stop()
		pass(19 * time.Second)
		create(t, b.Store, newCredential("in time"), "r")
		must[string](t)(a.RotateKey(t.Context()))
		pass(31 * time.Second)
		must[string](t)(a.PromoteKey(t.Context()))
		err := b.CreateCredential(t.Context(), newCredential("too late"), nil)
		if !errors.Is(err, broker.StoreUnavailable) || !strings.Contains(err.Error(), "could not confirm its keys") {
			t.Errorf("sealing with keys that nobody has confirmed: got %v", err)
		}
		if _, err := b.Credential(t.Context(), "in time"); err != nil {
			t.Errorf("reading: %v", err)
		}
		b.follow()
		pass(11 * time.Second)
		create(t, b.Store, newCredential("again"), "r")
		if k := must[store.Keys](t)(b.Keys(t.Context())); k.Generation != 3 {
			t.Errorf("generation: got %d", k.Generation)
		}
	})
}

// TestUnknownKey: what is sealed with a key that is not in the keyring has it read once, at most once a second.
func TestUnknownKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := storetest.NewReplicas(1)[0]
		read := 0
		f := storetest.NewFaults(m)
		s := must[*store.Store](t)(store.New(f.Whole(), nil, store.Options{KEK: storetest.NewKEK("kek")}))
		create(t, s, newCredential("a"), "r")
		foreign, err := newKeyring(t).Seal([]byte("x"), nil)
		if err != nil {
			t.Fatal(err)
		}
		p := store.Put{Key: store.CredentialKey, Revision: store.Revision(broker.NewID()), Value: foreign}
		if err := m.Apply(t.Context(), store.Batch{Group: s.GroupFor("a"), Puts: []store.Put{p}}); err != nil {
			t.Fatal(err)
		}
		f.Set(storetest.Hooks{BeforeRead: func(context.Context) error { read++; return nil }})
		for range 10 {
			_, err := s.Credential(t.Context(), "a")
			wantUnreadable(t, "a foreign row", err, seal.SealedWith(foreign))
		}
		if read != 11 {
			t.Errorf("%d reads for ten questions, want one more", read)
		}
		pass(time.Second)
		_, err = s.Credential(t.Context(), "a")
		if wantUnreadable(t, "a foreign row", err); read != 13 {
			t.Errorf("%d reads, want 13", read)
		}
		f.Set(storetest.Hooks{AfterRead: func(context.Context) {
			f.Set(storetest.Hooks{BeforeRead: func(context.Context) error { return store.Unavailable("away") }})
		}})
		pass(time.Second)
		if _, err = s.Credential(t.Context(), "a"); !errors.Is(err, broker.StoreUnavailable) {
			t.Errorf("where it cannot be found out: got %v", err)
		}
	})
}

// TestNothingBeforeKeys: until the KEK has opened the keys nothing is made of names, and nothing is stored.
func TestNothingBeforeKeys(t *testing.T) {
	m, kek := storetest.NewReplicas(1)[0], storetest.NewKEK("kek")
	kek.Away(true)
	s := must[*store.Store](t)(store.New(m, nil, store.Options{KEK: kek, Later: true}))
	ctx := t.Context()
	for range 2 {
		if _, err := s.Begin(ctx); !errors.Is(err, broker.StoreUnavailable) || !strings.Contains(err.Error(), "KEK") {
			t.Errorf("begin: got %v", err)
		}
	}
	early := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, broker.StoreUnavailable) {
			t.Errorf("%s: got %v", what, err)
		}
	}
	early("ready", s.Ready())
	early("create", s.CreateCredential(ctx, newCredential("a"), nil))
	early("save", s.SaveCredential(ctx, broker.NewID(), newCredential("a"), nil))
	early("delete", s.DeleteCredential(ctx, "a", broker.ID{}))
	early("backoff", s.SaveBackoff(ctx, "u", broker.Backoff{Failures: 1}))
	_, err := s.Credential(ctx, "a")
	early("credential", err)
	_, err = s.Credentials(ctx, "", 1)
	early("credentials", err)
	_, err = s.Read(ctx, broker.TokenKey{Credential: "a"}, "u")
	early("read", err)
	_, err = s.Statuses(ctx, []broker.CredentialName{"a"})
	early("statuses", err)
	_, err = s.Unchanged(ctx, []broker.Mark{{Credential: "a"}})
	early("unchanged", err)
	_, err = s.Drop(ctx, "a", broker.Match{TokenID: "t"})
	early("drop", err)
	func() {
		defer func() {
			if recover() == nil {
				t.Error("a fingerprint without keys")
			}
		}()
		s.Fingerprint("p", "x")
	}()
	kek.Away(false)
	if _, err := s.Begin(ctx); err != nil {
		t.Fatal(err)
	}
	wantNoError(t, "ready", s.Ready())
	create(t, s, newCredential("a"), "r")
	s.Fingerprint("p", "x")
}

// TestAKeyFilesBrokerIsWaitedFor: one that was not started again since the keys were wrapped does not get the new ones.
func TestAKeyFilesBrokerIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		replicas, file, kek := storetest.NewReplicas(2), newKeyring(t), storetest.NewKEK("kek")
		old := newStore(t, replicas[0], file)
		ctx, end := context.WithCancel(t.Context())
		var following sync.WaitGroup
		following.Go(func() { old.FollowKeys(ctx) })
		wantNoError(t, "wrap", store.WrapKeyring(ctx, replicas[1], file, nil, kek))
		wrapped := must[*store.Store](t)(store.New(replicas[1], nil, store.Options{KEK: kek}))
		following.Go(func() { wrapped.FollowKeys(ctx) })
		if _, err := old.RotateKey(ctx); err == nil {
			t.Error("a broker with a key file has rotated")
		} else {
			wantRefused(t, "rotate", err, "keys wrap")
		}
		must[string](t)(wrapped.RotateKey(ctx))
		pass(time.Minute)
		_, err := wrapped.PromoteKey(ctx)
		wantRefused(t, "promote before the other one has looked", err, "may not have noticed")
		pass(time.Minute)
		_, err = wrapped.PromoteKey(ctx)
		wantRefused(t, "promote", err, "key file")
		end()
		following.Wait()
	})
}

// A fullBackend has no room for anything new.
type fullBackend struct {
	store.Shared
	full atomic.Bool
}

func (b *fullBackend) Apply(ctx context.Context, batch store.Batch) error {
	if b.full.Load() && !batch.Finish {
		return store.Unavailable("there is no room")
	}
	return b.Shared.Apply(ctx, batch)
}

// TestAFullStoreKeepsItsReaders: what was begun is to be sealed also where there is no room for anything new.
func TestAFullStoreKeepsItsReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fullBackend{Shared: storetest.NewReplicas(1)[0]}
		s := must[*store.Store](t)(store.New(b, nil, store.Options{KEK: storetest.NewKEK("kek"), Name: "host"}))
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() { s.FollowKeys(ctx) })
		pass(15 * time.Second)
		b.full.Store(true)
		pass(5 * time.Minute)
		if keys := must[store.Keys](t)(s.Keys(t.Context())); len(keys.Readers) != 1 {
			t.Errorf("got readers %+v", keys.Readers)
		}
		cancel()
		done.Wait()
	})
}

// TestWhoHasTheFormerKEKChangesNothing: what such a broker wraps would be open to whoever has that KEK, which may have leaked.
func TestWhoHasTheFormerKEKChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := holders(t, 2)
		pass(2 * time.Minute)
		fresh := storetest.NewKEK("fresh")
		wantNoError(t, "wrap", store.WrapKeyring(t.Context(), h[0].at, nil, h[0].kek, fresh))
		pass(time.Minute)
		_, err := h[0].RotateKey(t.Context())
		wantRefused(t, "rotate", err, "start it again with keys.kek set to that")
		create(t, h[1].Store, newCredential("goes-on"), "r")
	})
}

// TestAFailoverThatUndoesARewrapAndARetirement leaves nothing that cannot be opened, or started.
func TestAFailoverThatUndoesARewrapAndARetirement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := holders(t, 3)
		create(t, h[0].Store, newCredential("a"), "r")
		first := must[store.Keys](t)(h[0].Keys(t.Context())).Keys[0].ID
		pass(2 * time.Minute)
		must[string](t)(h[0].RotateKey(t.Context()))
		pass(40 * time.Second)
		must[string](t)(h[0].PromoteKey(t.Context()))
		pass(40 * time.Second)
		all := h[0].at.Snapshot()
		must[store.Rewrap](t)(h[0].Rewrap(t.Context(), 0, nil))
		wantRefused(t, "retire at once", h[0].RetireKey(t.Context(), first), "a failover may still undo")
		pass(31 * time.Second)
		retirement := h[0].at.Snapshot()
		wantNoError(t, "retire", h[0].RetireKey(t.Context(), first))
		retirement()
		pass(20 * time.Second)
		readable := func(when string) {
			t.Helper()
			for i, b := range h {
				if _, err := b.Credential(t.Context(), "a"); err != nil {
					t.Errorf("%s, broker %d: %v", when, i, err)
				}
				if info, _ := b.Key(t, first); info.State != seal.Retired {
					t.Errorf("%s, broker %d: got %+v, want it retired still", when, i, info)
				}
			}
		}
		readable("the retirement is undone")
		all() // also what was sealed anew long before
		pass(20 * time.Second)
		if _, err := h[1].Credential(t.Context(), "a"); broker.KindOf(err) != broker.RecordUnreadable || !strings.Contains(err.Error(), "keys restore "+first) {
			t.Errorf("the rewrap is undone: got %v, want what to do", err)
		}
		create(t, h[0].Store, newCredential("meanwhile"), "r")
		must[*store.Store](t)(store.New(h[2].at, nil, store.Options{KEK: h[0].kek.Again()})) // it starts all the same
		wantNoError(t, "restore", h[1].RestoreKey(t.Context(), first))
		must[store.Rewrap](t)(h[1].Rewrap(t.Context(), 0, nil))
		pass(40 * time.Second)
		wantNoError(t, "retire again", h[1].RetireKey(t.Context(), first))
		pass(20 * time.Second)
		readable("in the end")
	})
}

// TestNoKeyIsRetiredWhileARewrapIsUnderWay, or was interrupted: what it has sealed anew a moment ago a failover may undo, however long its pages take.
func TestNoKeyIsRetiredWhileARewrapIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := holders(t, 1)[0]
		for i := range 40 {
			create(t, h.Store, newCredential(broker.CredentialName(fmt.Sprintf("c%02d", i))), "r")
		}
		pass(2 * time.Minute)
		first := h.primary(t)
		must[string](t)(h.RotateKey(t.Context()))
		pass(40 * time.Second)
		must[string](t)(h.PromoteKey(t.Context()))
		pass(40 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		var done sync.WaitGroup
		done.Go(func() { _, _ = h.Rewrap(ctx, 1, nil) })
		needed := func() bool {
			for i := range 40 {
				if h.sealedWith(t, broker.CredentialName(fmt.Sprintf("c%02d", i))) == first {
					return true
				}
			}
			return false
		}
		for needed() {
			pass(100 * time.Millisecond)
		}
		wantRefused(t, "retire beside a rewrap", h.RetireKey(t.Context(), first), "under way")
		cancel()
		done.Wait()
		pass(time.Hour)
		wantRefused(t, "retire after one that was interrupted", h.RetireKey(t.Context(), first), "goes on with it")
		r := must[store.Rewrap](t)(h.Rewrap(t.Context(), 0, nil))
		if since := must[store.Keys](t)(h.Keys(t.Context())).Now.Sub(r.At); since != 0 {
			t.Errorf("it says that it was written %v ago", since)
		}
		wantRefused(t, "retire at once", h.RetireKey(t.Context(), first), "a failover may still undo")
		pass(31 * time.Second)
		wantNoError(t, "retire", h.RetireKey(t.Context(), first))
	})
}

// Key is what a broker knows of one.
func (h *holder) Key(t *testing.T, id string) (seal.KeyInfo, bool) {
	t.Helper()
	for _, info := range must[store.Keys](t)(h.Keys(t.Context())).Keys {
		if info.ID == id {
			return info, true
		}
	}
	return seal.KeyInfo{}, false
}

// TestABackupBelowBrokersThatRun loses no key, of those that it needs and of those with which was sealed meanwhile.
func TestABackupBelowBrokersThatRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := holders(t, 1)
		create(t, h[0].Store, newCredential("a"), "r")
		first := must[store.Keys](t)(h[0].Keys(t.Context())).Keys[0].ID
		pass(2 * time.Minute)
		undo := h[0].at.Snapshot()
		must[string](t)(h[0].RotateKey(t.Context()))
		pass(40 * time.Second)
		must[string](t)(h[0].PromoteKey(t.Context()))
		pass(40 * time.Second)
		must[store.Rewrap](t)(h[0].Rewrap(t.Context(), 0, nil))
		pass(31 * time.Second)
		wantNoError(t, "retire", h[0].RetireKey(t.Context(), first))
		pass(8 * 24 * time.Hour)
		wantNoError(t, "destroy", h[0].DestroyKey(t.Context(), first))
		undo()
		pass(10 * time.Minute)
		create(t, h[0].Store, newCredential("meanwhile"), "r")
		h[0].stop()
		s := must[*store.Store](t)(store.New(h[0].at, nil, store.Options{KEK: h[0].kek.Again()}))
		if _, err := s.Credential(t.Context(), "a"); broker.KindOf(err) != broker.RecordUnreadable || !strings.Contains(err.Error(), "keys restore "+first) {
			t.Errorf("what the backup brought: got %v, want what to do", err)
		}
		wantNoError(t, "restore", s.RestoreKey(t.Context(), first))
		for _, name := range []broker.CredentialName{"a", "meanwhile"} {
			if _, err := s.Credential(t.Context(), name); err != nil {
				t.Errorf("%s, started again: %v", name, err)
			}
		}
	})
}

// TestAKeyFilesBrokerThatWasStoppedSealsNothing once another key than its own may have been promoted.
func TestAKeyFilesBrokerThatWasStoppedSealsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := storetest.NewReplicas(2)
		keys := must[*seal.Keyring](t)(seal.New())
		former := must[*store.Store](t)(store.New(b[0], keys, store.Options{}))
		create(t, former, newCredential("a"), "r")
		kek := storetest.NewKEK("kek")
		wantNoError(t, "wrap", store.WrapKeyring(t.Context(), b[1], keys, nil, kek))
		s := must[*store.Store](t)(store.New(b[1], nil, store.Options{KEK: kek}))
		follow := func(s *store.Store) (stop func()) {
			ctx, cancel := context.WithCancel(context.Background())
			var done sync.WaitGroup
			done.Go(func() { s.FollowKeys(ctx) })
			return func() { cancel(); done.Wait() }
		}
		defer follow(s)()
		pass(3 * time.Minute)
		must[string](t)(s.RotateKey(t.Context()))
		pass(time.Minute)
		must[string](t)(s.PromoteKey(t.Context()))
		defer follow(former)()
		pass(5 * time.Minute)
		err := former.CreateCredential(t.Context(), newCredential("late"), nil)
		if broker.KindOf(err) != broker.StoreUnavailable {
			t.Errorf("got %v", err)
		}
	})
}

// TestAKeyFilesBrokerAndAKEKsBeginAtOnce: one of them does, however long the KEK takes.
func TestAKeyFilesBrokerAndAKEKsBeginAtOnce(t *testing.T) {
	r := storetest.NewReplicas(3)
	kek, file := storetest.NewKEK("kek"), newKeyring(t)
	f := storetest.NewFaults(r[0])
	var once sync.Once
	f.Set(storetest.Hooks{BeforeApply: func(context.Context, store.Batch) error {
		once.Do(func() { create(t, newStore(t, r[1], file), newCredential("a"), "r") })
		return nil
	}})
	if _, err := store.New(f.Whole(), nil, store.Options{KEK: kek}); broker.KindOf(err) != broker.RecordUnreadable {
		t.Errorf("the broker with the KEK: got %v", err)
	}
	must[*store.Store](t)(store.New(r[2], file, store.Options{}))
	wantNoError(t, "wrap", store.WrapKeyring(t.Context(), r[2], file, nil, kek))
}

// TestWhoIsQuickerAtTheStart: who has found no keyring, and meets the check of one that was drawn since, takes that.
func TestWhoIsQuickerAtTheStart(t *testing.T) {
	r := storetest.NewReplicas(2)
	kek := storetest.NewKEK("kek")
	f := storetest.NewFaults(r[0])
	var once sync.Once
	f.Set(storetest.Hooks{AfterRead: func(context.Context) {
		once.Do(func() { must[*store.Store](t)(store.New(r[1], nil, store.Options{KEK: kek})) })
	}})
	must[*store.Store](t)(store.New(f.Whole(), nil, store.Options{KEK: kek.Again()}))
}

// TestAnUnknownKeyAsksNoKEK while the keyring is the one that is known: one that hangs would hold up whoever meets such a row, and the reader beside them.
func TestAnUnknownKeyAsksNoKEK(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := holders(t, 2)
		create(t, h[0].Store, newCredential("a"), "r")
		foreign, err := newKeyring(t).Seal([]byte("x"), nil)
		if err != nil {
			t.Fatal(err)
		}
		wantNoError(t, "put", h[1].at.Apply(t.Context(), store.Batch{
			Group: h[0].GroupOf("a"), Puts: []store.Put{{Key: store.CredentialKey, Revision: store.Revision(broker.NewID()), Value: foreign}},
		}))
		pass(15 * time.Second)
		h[0].kek.Hang(true)
		for range 100 {
			began := time.Now()
			if _, err := h[0].Credential(t.Context(), "a"); broker.KindOf(err) != broker.RecordUnreadable || time.Since(began) > 0 {
				t.Fatalf("got %v after %v", err, time.Since(began))
			}
			pass(500 * time.Millisecond)
		}
		create(t, h[0].Store, newCredential("another"), "r")
	})
}

// An unconfirmedBackend makes each change, and no replica says that it has it.
type unconfirmedBackend struct{ store.Shared }

func (b unconfirmedBackend) Apply(ctx context.Context, batch store.Batch) error {
	if err := b.Shared.Apply(ctx, batch); err != nil || !batch.Keep {
		return err
	}
	return store.ErrUnconfirmed
}

// TestAFirstStartThatNoReplicaConfirms is tried again: it ends no broker.
func TestAFirstStartThatNoReplicaConfirms(t *testing.T) {
	b := unconfirmedBackend{storetest.NewReplicas(1)[0]}
	s := must[*store.Store](t)(store.New(b, nil, store.Options{KEK: storetest.NewKEK("kek"), Later: true}))
	if _, err := s.Begin(t.Context()); broker.KindOf(err) != broker.StoreUnavailable {
		t.Errorf("got %v", err)
	}
	if _, err := s.Begin(t.Context()); err != nil {
		t.Errorf("again: %v", err)
	}
}
