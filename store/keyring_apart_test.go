package store_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/seal"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

var keyringRow = store.Key{Kind: "keyring"}

// row is the keyring's.
func (h *holder) row(t *testing.T) store.Row {
	t.Helper()
	return must[[]store.Reading](t)(h.at.Read(t.Context(), store.Ask{Group: "meta", Keys: []store.Key{keyringRow}}))[0].Rows[0]
}

// put is what somebody does who may write rows, and has no KEK.
func (h *holder) put(t *testing.T, value []byte) {
	t.Helper()
	wantNoError(t, "put", h.at.Apply(t.Context(), store.Batch{Group: "meta", Puts: []store.Put{{Key: keyringRow, Revision: store.Revision(broker.NewID()), Value: value}}}))
}

// next goes from one key to the next, and retires the former one.
func (h *holder) next(t *testing.T) (former, now string) {
	t.Helper()
	former = h.primary(t)
	now = must[string](t)(h.RotateKey(t.Context()))
	pass(40 * time.Second)
	must[string](t)(h.PromoteKey(t.Context()))
	pass(40 * time.Second)
	must[store.Rewrap](t)(h.Rewrap(t.Context(), 0, nil))
	pass(31 * time.Second)
	wantNoError(t, "retire", h.RetireKey(t.Context(), former))
	return former, now
}

func (h *holder) primary(t *testing.T) string {
	t.Helper()
	for _, info := range must[store.Keys](t)(h.Keys(t.Context())).Keys {
		if info.State == seal.Primary {
			return info.ID
		}
	}
	t.Fatal("no key seals")
	return ""
}

// sealedWith is the key that a credential is sealed with.
func (h *holder) sealedWith(t *testing.T, name broker.CredentialName) string {
	t.Helper()
	return seal.SealedWith(must[[]store.Reading](t)(h.at.Read(t.Context(), store.Ask{Group: h.GroupOf(name), Keys: []store.Key{store.CredentialKey}}))[0].Rows[0].Value)
}

// TestAFormerRowIsNotGoneOnFrom: whatever is written on a former row, brokers that run put theirs there again, and one that starts seals with the key that counts.
func TestAFormerRowIsNotGoneOnFrom(t *testing.T) {
	for _, label := range []string{"memory:kek", "memory:kez"} {
		synctest.Test(t, func(t *testing.T) {
			h := holders(t, 2)
			create(t, h[0].Store, newCredential("a"), "r")
			pass(2 * time.Minute)
			first := h[0].primary(t)
			must[string](t)(h[0].RotateKey(t.Context()))
			copied := h[0].row(t).Value
			pass(40 * time.Second)
			must[string](t)(h[0].PromoteKey(t.Context()))
			pass(40 * time.Second)
			must[store.Rewrap](t)(h[0].Rewrap(t.Context(), 0, nil))
			pass(31 * time.Second)
			wantNoError(t, "retire", h[0].RetireKey(t.Context(), first))
			pass(time.Hour)
			h[0].put(t, bytes.Replace(copied, []byte("memory:kek"), []byte(label), 1))
			pass(20 * time.Second)
			young := hold(t, h[1].at, h[1].kek, "young")
			create(t, young.Store, newCredential("secret"), "r")
			if with := young.sealedWith(t, "secret"); with == first {
				t.Errorf("%s: sealed with %s, which was retired", label, with)
			}
			for i, b := range append(h, young) {
				if info, ok := b.Key(t, first); !ok || info.State != seal.Retired {
					t.Errorf("%s, broker %d: got %+v, want it retired", label, i, info)
				}
			}
			if !strings.Contains(h[0].log.String()+h[1].log.String(), "lacks what this broker has seen") {
				t.Errorf("%s: nobody says so", label)
			}
		})
	}
}

// TestKeysThatWereChangedApart: two halves have both gone on. What either has sealed can be read by all, and by who starts afterwards.
func TestKeysThatWereChangedApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := holders(t, 2)
		a, b := h[0], h[1]
		create(t, a.Store, newCredential("old"), "r")
		pass(2 * time.Minute)
		b.stop()
		pass(time.Minute)
		undo := a.at.Snapshot()
		former, _ := a.next(t)
		a.stop()
		pass(time.Minute)
		undo() // a backup, below a broker that is cut off
		b = hold(t, b.at, b.kek, "again")
		pass(2 * time.Minute)
		second := must[string](t)(b.RotateKey(t.Context()))
		pass(40 * time.Second)
		must[string](t)(b.PromoteKey(t.Context()))
		create(t, b.Store, newCredential("only"), "r")
		pass(time.Minute)
		a.follow()
		pass(time.Minute)
		create(t, a.Store, newCredential("late"), "r")
		for i, of := range []*holder{a, b, hold(t, b.at, b.kek, "young")} {
			for _, name := range []broker.CredentialName{"old", "only", "late"} {
				if _, err := of.Credential(t.Context(), name); err != nil {
					t.Errorf("broker %d, %s: %v", i, name, err)
				}
			}
			if info, _ := of.Key(t, former); info.State != seal.Former {
				t.Errorf("broker %d: got %+v, want one that opens: what b has may need it", i, info)
			}
			if of.primary(t) != second {
				t.Errorf("broker %d: %s seals, want %s, which was promoted last", i, of.primary(t), second)
			}
		}
	})
}

// TestAFailoverThatUndoesAWrap is put right by whoever has the KEK that counts. A broker with the former one changes nothing.
func TestAFailoverThatUndoesAWrap(t *testing.T) {
	for _, rotated := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			h := holders(t, 2)
			create(t, h[0].Store, newCredential("a"), "r")
			pass(2 * time.Minute)
			undo := h[0].at.Snapshot()
			fresh := storetest.NewKEK("fresh")
			wantNoError(t, "wrap", store.WrapKeyring(t.Context(), h[0].at, nil, h[0].kek, fresh))
			h[1].stop()
			b := hold(t, h[1].at, fresh, "fresh")
			pass(35 * time.Second)
			if rotated {
				must[string](t)(b.RotateKey(t.Context()))
			}
			undo()
			pass(time.Minute)
			if k := must[store.Keys](t)(b.Keys(t.Context())); k.KEK != fresh.URI() {
				t.Errorf("the row is wrapped by %s, want %s", k.KEK, fresh.URI())
			}
			_, err := h[0].RotateKey(t.Context())
			wantRefused(t, "rotate with the former KEK", err, "start it again with keys.kek set to that")
			create(t, h[0].Store, newCredential("goes-on"), "r")
			if n := len(h[0].stale); n == 0 || !h[0].stale[n-1] || !strings.Contains(h[0].log.String(), "cannot be opened: the former keys go on") {
				t.Errorf("with the former KEK: stale %v, log %s", h[0].stale, h[0].log)
			}
			hold(t, h[1].at, fresh, "young")
			h[0].stop()
			pass(35 * time.Second)
			if _, err := b.RotateKey(t.Context()); err != nil && !rotated {
				t.Errorf("rotate: %v", err)
			}
			pass(40 * time.Second)
			must[string](t)(b.PromoteKey(t.Context()))
		})
	}
}

// TestPromoteTellsStatesOfOneGenerationApart: a failover has undone one rotation, and there is another one, which a broker cannot open now.
func TestPromoteTellsStatesOfOneGenerationApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := holders(t, 2)
		a, b := h[0], h[1]
		create(t, a.Store, newCredential("a"), "r")
		pass(2*time.Minute + time.Second)
		undo := a.at.Snapshot()
		must[string](t)(a.RotateKey(t.Context()))
		undo()
		must[string](t)(b.RotateKey(t.Context()))
		a.kek.Away(true)
		pass(15 * time.Second)
		_, err := b.PromoteKey(t.Context())
		wantRefused(t, "promote", err, "a broker may not have noticed")
		pass(25 * time.Second)
		if err := a.CreateCredential(t.Context(), newCredential("late"), nil); broker.KindOf(err) != broker.StoreUnavailable || fmt.Sprint(a.stale) != "[true]" {
			t.Errorf("with keys that are in no row: got %v, stale %v", err, a.stale) // nobody waits for it any more
		}
		must[string](t)(b.PromoteKey(t.Context()))
		a.kek.Away(false)
		pass(15 * time.Second)
		create(t, a.Store, newCredential("goes-on"), "r")
		create(t, b.Store, newCredential("new"), "r")
		if _, err := a.Credential(t.Context(), "new"); err != nil {
			t.Errorf("what the other has sealed: %v", err)
		}
	})
}

// TestAKeyringThatIsDamaged is put right by whoever has the keys; one of a newer tokenbroker is left alone.
func TestAKeyringThatIsDamaged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := holders(t, 2)
		pass(time.Minute)
		sound := h[0].row(t).Value
		for _, value := range [][]byte{[]byte("{"), bytes.Replace(sound, []byte(`"sealing":"A`), []byte(`"sealing":"B`), 1)} {
			h[0].put(t, value)
			pass(5 * time.Minute)
			create(t, h[0].Store, newCredential(broker.CredentialName(fmt.Sprint("n", len(value)))), "r")
			hold(t, h[1].at, h[1].kek, "young").stop()
		}
		if said := h[0].log.String() + h[1].log.String(); !strings.Contains(said, "is damaged") || !strings.Contains(said, "cannot be opened: that of this broker takes its place") {
			t.Errorf("the log says\n%s", said)
		}
		h[0].put(t, bytes.Replace(sound, []byte(`"format":2`), []byte(`"format":3`), 1))
		pass(time.Minute)
		if err := h[0].CreateCredential(t.Context(), newCredential("late"), nil); broker.KindOf(err) != broker.StoreUnavailable {
			t.Errorf("beside a newer format: got %v", err)
		}
		if !bytes.Contains(h[0].row(t).Value, []byte(`"format":3`)) {
			t.Error("a keyring of a newer format was overwritten")
		}
	})
}

// TestWhileTheKEKWraps nobody waits for it.
func TestWhileTheKEKWraps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := holders(t, 2)
		pass(9 * time.Second)
		h[0].kek.Slow(9500 * time.Millisecond)
		done := make(chan error, 1)
		go func() {
			_, err := h[0].RotateKey(context.Background())
			done <- err
		}()
		for i := range 60 {
			create(t, h[0].Store, newCredential(broker.CredentialName(fmt.Sprint("n", i))), "r")
			pass(time.Second)
		}
		wantNoError(t, "rotate", <-done)
	})
}

// TestARewrapEndsWhereAnotherKeyIsPromoted, also within a credential of many rows.
func TestARewrapEndsWhereAnotherKeyIsPromoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := holders(t, 1)[0]
		create(t, a.Store, newCredential("a"), "r")
		for i := range 450 {
			a.token(t, "a", byte(i), byte(i>>8))
		}
		pass(2 * time.Minute)
		must[string](t)(a.RotateKey(t.Context()))
		pass(40 * time.Second)
		must[string](t)(a.PromoteKey(t.Context()))
		must[string](t)(a.RotateKey(t.Context()))
		pass(40 * time.Second)
		done := make(chan error, 1)
		go func() {
			_, err := a.Rewrap(context.Background(), 5, nil)
			done <- err
		}()
		pass(5 * time.Second) // it waits, after the first part of the credential's rows
		must[string](t)(a.PromoteKey(t.Context()))
		pass(10 * time.Minute)
		select {
		case err := <-done:
			wantRefused(t, "rewrap", err, "another key was promoted")
		default:
			t.Error("it goes on")
			<-done
		}
	})
}

// token stores one of a credential.
func (h *holder) token(t *testing.T, name broker.CredentialName, id ...byte) {
	t.Helper()
	k := broker.TokenKey{Credential: name, Selection: [32]byte{2}, Digest: "d"}
	copy(k.Token[:], id)
	l := must[broker.Lease](t)(must[broker.View](t)(h.Read(t.Context(), k, "")).Acquire(t.Context(), time.Minute, false))
	now := time.Now()
	must[broker.Committed](t)(l.Commit(t.Context(), broker.Outcome{Now: now, Token: &broker.Issued{
		ID: fmt.Sprintf("%x", id), Values: map[string]broker.Secret{"token": broker.NewSecret("v")}, SentAt: now, ReplaceAt: now.Add(40 * time.Hour), ExpireAt: now.Add(48 * time.Hour),
	}}))
}

// TestARewrapGoesPastADamagedCredential, whose rows belong to nobody.
func TestARewrapGoesPastADamagedCredential(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := holders(t, 1)[0]
		for _, name := range []broker.CredentialName{"a", "b", "c"} {
			create(t, a.Store, newCredential(name), "r")
		}
		pass(2 * time.Minute)
		first := a.primary(t)
		must[string](t)(a.RotateKey(t.Context()))
		pass(40 * time.Second)
		must[string](t)(a.PromoteKey(t.Context()))
		moved := must[[]store.Reading](t)(a.at.Read(t.Context(), store.Ask{Group: a.GroupOf("b"), Keys: []store.Key{store.CredentialKey}}))[0].Rows[0]
		wantNoError(t, "put", a.at.Apply(t.Context(), store.Batch{Group: a.GroupOf("a"), Puts: []store.Put{{Key: store.CredentialKey, Revision: store.Revision(broker.NewID()), Value: moved.Value}}}))
		r := must[store.Rewrap](t)(a.Rewrap(t.Context(), 0, nil))
		if !r.Done || r.Unreadable != 1 || !strings.Contains(r.Why, "credential a") || a.sealedWith(t, "b") == first || a.sealedWith(t, "c") == first {
			t.Errorf("got %+v", r)
		}
	})
}

// TestAnExportBesideABrokerThatLags can be used: such a broker writes the keyring's row anew, as it is.
func TestAnExportBesideABrokerThatLags(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, fresh := wrapped(t, 1)
		young := hold(t, h[0].at, fresh, "young")
		must[broker.Lease](t)(must[broker.View](t)(young.Read(t.Context(), keptKey, "")).Acquire(t.Context(), 2*time.Minute, true)) // which is waited for
		var out bytes.Buffer
		done := make(chan error, 1)
		go func() { done <- young.Export(t.Context(), &out, nil) }()
		was := young.row(t)
		gap(h, 40*time.Second, func() {})
		pass(15 * time.Second)
		if is := young.row(t); is.Revision == was.Revision || !bytes.Equal(is.Value, was.Value) {
			t.Error("the row was not written anew as it was")
		}
		wantNoError(t, "export", <-done)
		if e := must[*store.Exported](t)(young.ReadExport(bytes.NewReader(out.Bytes()))); e.Credentials != 2 {
			t.Errorf("it has %d credentials", e.Credentials)
		}
	})
}

// TestAnImportBesideARetirement leaves nothing below it that needs the key: what the export has is sealed anew, and what cannot be any more is not there.
func TestAnImportBesideARetirement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := holders(t, 2)
		names := []broker.CredentialName{"a", "b", "c", "d"}
		for _, name := range names {
			create(t, h[0].Store, newCredential(name), "refresh token of "+string(name))
		}
		damaged := store.Ask{Group: h[0].GroupOf("a"), Keys: []store.Key{store.OwnGrantKey}}
		row := must[[]store.Reading](t)(h[0].at.Read(t.Context(), damaged))[0].Rows[0]
		wantNoError(t, "damage", h[0].at.Apply(t.Context(), store.Batch{
			Group: damaged.Group, Puts: []store.Put{{Key: row.Key, Revision: store.Revision(broker.NewID()), Value: row.Value[:len(row.Value)-1]}},
		}))
		var out bytes.Buffer
		wantNoError(t, "export", h[0].Export(t.Context(), &out, nil))
		must[bool](t)(h[0].Resume(t.Context()))
		for _, name := range names {
			wantNoError(t, "delete", h[0].DeleteCredential(t.Context(), name, broker.ID{}))
		}
		pass(2 * time.Minute)
		former := h[1].primary(t)
		now := must[string](t)(h[1].RotateKey(t.Context()))
		pass(40 * time.Second)
		must[string](t)(h[1].PromoteKey(t.Context()))
		must[store.Rewrap](t)(h[1].Rewrap(t.Context(), 0, nil))
		pass(40 * time.Second)
		e := must[*store.Exported](t)(h[0].ReadExport(bytes.NewReader(out.Bytes())))
		done, err := h[0].Import(t.Context(), e, func(done, _ int) {
			if done == 2 {
				gone := store.Batch{Group: damaged.Group, Deletes: damaged.Keys}
				wantRefused(t, "retire beside what nothing opens", h[1].RetireKey(t.Context(), former), "the grant record of credential a")
				wantNoError(t, "delete it", h[1].at.Apply(t.Context(), gone))
				wantNoError(t, "retire", h[1].RetireKey(t.Context(), former))
				pass(11 * time.Second)
			}
		})
		wantUnreadable(t, "import", err, "credential c", "keys restore "+former)
		if done.Made != 2 {
			t.Errorf("%d were made before the key was retired, and said to be", done.Made)
		}
		wantNoError(t, "restore", h[1].RestoreKey(t.Context(), former))
		pass(11 * time.Second)
		if done, err = h[0].Import(t.Context(), e, nil); err != nil || done.There != 2 || done.Made != 2 {
			t.Errorf("again: got %+v, %v", done, err)
		}
		wantNoError(t, "retire it again", h[1].RetireKey(t.Context(), former))
		pass(11 * time.Second)
		for _, name := range names {
			if with := h[0].sealedWith(t, name); with != now {
				t.Errorf("%s is sealed with %s, want %s", name, with, now)
			}
			if name == "a" {
				continue
			}
			v := must[broker.View](t)(h[1].Read(t.Context(), broker.TokenKey{Credential: name}, ""))
			if got := v.Grant.RefreshToken.Reveal(); got != "refresh token of "+string(name) {
				t.Errorf("%s has %q", name, got)
			}
		}
	})
}

// TestAnExportOfWhichTheKeysWereChanged is none.
func TestAnExportOfWhichTheKeysWereChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := holders(t, 1)[0]
		create(t, a.Store, newCredential("a"), "r")
		pass(2 * time.Minute)
		k := broker.TokenKey{Credential: "a", Token: [32]byte{1}, Selection: [32]byte{2}, Digest: "d", Spends: true}
		l := must[broker.Lease](t)(must[broker.View](t)(a.Read(t.Context(), k, "")).Acquire(t.Context(), 2*time.Minute, true)) // which the export waits for
		done := make(chan error, 1)
		go func() { done <- a.Export(context.Background(), &bytes.Buffer{}, nil) }()
		pass(10 * time.Second)
		must[string](t)(a.RotateKey(t.Context()))
		pass(40 * time.Second)
		must[string](t)(a.PromoteKey(t.Context()))
		must[broker.Committed](t)(l.Commit(t.Context(), broker.Outcome{RefreshToken: broker.NewSecret("r2"), Now: time.Now()}))
		if err := <-done; err == nil || !strings.Contains(err.Error(), "the keys were changed") {
			t.Errorf("got %v", err)
		}
	})
}

// TestAFormerRowIsNotWrapped by another KEK: those who have the keys that count could not open it, and would be started again without them.
func TestAFormerRowIsNotWrapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := holders(t, 2)
		create(t, h[0].Store, newCredential("a"), "r")
		pass(2 * time.Minute)
		first := h[0].row(t).Value
		must[string](t)(h[0].RotateKey(t.Context()))
		pass(15 * time.Second)
		fresh := storetest.NewKEK("fresh")
		wrap := func() error { return store.WrapKeyring(t.Context(), h[0].at, nil, h[0].kek, fresh) }
		h[0].put(t, first)
		wantRefused(t, "a row of before", wrap(), "has keys that are not in the store")
		pass(40 * time.Second)
		must[string](t)(h[0].PromoteKey(t.Context()))
		pass(40 * time.Second)
		must[store.Rewrap](t)(h[0].Rewrap(t.Context(), 0, nil))
		for _, b := range h {
			b.stop()
		}
		pass(time.Minute)
		h[0].put(t, first)
		if err := wrap(); broker.KindOf(err) != broker.RecordUnreadable || !strings.Contains(err.Error(), "sealed with key") {
			t.Errorf("a row of before the last key, and nobody is there: got %v", err)
		}
		h[0].follow()
		pass(15 * time.Second)
		wantNoError(t, "once it is put right", wrap())
	})
}

// TestAKEKThatRefusesOneBroker keeps that from changing keys, and from nothing else, as long as the row has its keys.
func TestAKEKThatRefusesOneBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := holders(t, 2)
		a, b := h[0], h[1]
		pass(2 * time.Minute)
		undo := a.at.Snapshot()
		must[string](t)(b.RotateKey(t.Context()))
		a.kek.Refuse(true, true)
		pass(15 * time.Second)
		create(t, a.Store, newCredential("newer"), "r")
		undo() // the row has just the keys of a
		for i := range 30 {
			pass(10 * time.Second)
			create(t, a.Store, newCredential(broker.CredentialName(fmt.Sprint("n", i))), "r")
		}
		a.kek.Refuse(false, true) // it wraps what it does not open
		asked := a.kek.Asked.Load()
		if _, err := a.RotateKey(t.Context()); err == nil {
			t.Error("keys were changed by who cannot open them")
		}
		for i := range 30 {
			pass(10 * time.Second)
			create(t, a.Store, newCredential(broker.CredentialName(fmt.Sprint("m", i))), "r")
		}
		if n := a.kek.Asked.Load() - asked; n > 150 {
			t.Errorf("the KEK was asked %d times in five minutes", n)
		}
	})
}

// TestAHistoryThatIsForged: keys that open, in a row that does not say truly where they come from, open nothing, and are not lost.
func TestAHistoryThatIsForged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := holders(t, 2)
		create(t, h[0].Store, newCredential("a"), "r")
		pass(2 * time.Minute)
		former := h[0].row(t).Value
		first, second := h[0].next(t)
		pass(20 * time.Second)
		var w struct{ History []string }
		if err := json.Unmarshal(former, &w); err != nil || len(w.History) != 1 {
			t.Fatalf("got %v, %v", w, err)
		}
		h[0].put(t, bytes.Replace(former, []byte(w.History[0]), []byte("00112233aabbccdd"), 1))
		pass(20 * time.Second)
		young := hold(t, h[1].at, h[1].kek, "young")
		create(t, young.Store, newCredential("secret"), "r")
		if info, ok := young.Key(t, first); !ok || info.State != seal.Retired || young.sealedWith(t, "secret") != second {
			t.Errorf("the former key is %+v, and %s seals", info, young.sealedWith(t, "secret"))
		}
	})
}

// TestAKeyFilesBrokerGoesOn as long as no other key than its own seals, however often the keys are wrapped.
func TestAKeyFilesBrokerGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := storetest.NewReplicas(2)
		keys := must[*seal.Keyring](t)(seal.New())
		former := must[*store.Store](t)(store.New(b[0], keys, store.Options{}))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { former.FollowKeys(ctx); close(done) }()
		kek := storetest.NewKEK("kek")
		wantNoError(t, "wrap", store.WrapKeyring(t.Context(), b[1], keys, nil, kek))
		h := hold(t, b[1], kek, "host")
		pass(2 * time.Minute)
		must[string](t)(h.RotateKey(t.Context()))
		for i := range 3 {
			fresh := storetest.NewKEK(fmt.Sprint("fresh-", i))
			wantNoError(t, "wrap anew", store.WrapKeyring(t.Context(), b[1], nil, kek, fresh))
			kek = fresh
			pass(2 * time.Minute)
			create(t, former, newCredential(broker.CredentialName(fmt.Sprint("n", i))), "r")
		}
		cancel()
		<-done
	})
}

// TestKeysWhileTheStoreIsAway: a broker that lags, and cannot read the row, says so.
func TestKeysWhileTheStoreIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := holders(t, 2)
		pass(2 * time.Minute)
		h[1].kek.Away(true)
		must[string](t)(h[0].RotateKey(t.Context()))
		pass(15 * time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := h[1].RotateKey(ctx); err == nil {
			t.Error("rotated, though nobody waits for it")
		}
		h[1].put(t, []byte("{"))
		if _, err := h[1].RotateKey(t.Context()); err == nil {
			t.Error("rotated a row that is damaged, while the KEK is away")
		}
	})
}

// altered is a row of which somebody has altered where it says that it comes from.
func altered(t *testing.T, row []byte) []byte {
	t.Helper()
	var w struct{ History []string }
	if err := json.Unmarshal(row, &w); err != nil {
		t.Fatal(err)
	}
	return bytes.Replace(row, []byte(w.History[0]), []byte("00112233aabbccdd"), 1)
}

// TestAStartWithAFormerRowWaits for the brokers that run: they put theirs in its place. Nothing is sealed with a key that they have retired, and nothing written meanwhile.
func TestAStartWithAFormerRowWaits(t *testing.T) {
	for _, forge := range []func(*testing.T, []byte) []byte{
		func(_ *testing.T, row []byte) []byte { return row }, altered,
	} {
		synctest.Test(t, func(t *testing.T) {
			h := holders(t, 2)
			create(t, h[0].Store, newCredential("main"), "r1")
			pass(2 * time.Minute)
			check := must[[]store.Reading](t)(h[0].at.Read(t.Context(), store.Ask{Group: store.MetaGroup, Keys: []store.Key{store.CheckKey}}))[0].Rows[0]
			old := forge(t, h[0].row(t).Value)
			former, now := h[0].next(t)
			pass(time.Minute)
			h[0].put(t, old)
			wantNoError(t, "put", h[0].at.Apply(t.Context(), store.Batch{Group: store.MetaGroup, Puts: []store.Put{{Key: store.CheckKey, Revision: store.Revision(broker.NewID()), Value: check.Value}}}))
			young := must[*store.Store](t)(store.New(h[0].at, nil, store.Options{KEK: h[0].kek.Again(), Later: true}))
			if _, err := young.Begin(t.Context()); broker.KindOf(err) != broker.StoreUnavailable || !strings.Contains(err.Error(), "host-") {
				t.Errorf("got %v", err)
			}
			if !bytes.Equal(h[0].row(t).Value, old) {
				t.Error("the start has written the keyring")
			}
			pass(11 * time.Second)
			must[[]string](t)(young.Begin(t.Context()))
			create(t, young, newCredential("after"), "r")
			if with := h[0].sealedWith(t, "after"); with != now {
				t.Errorf("it seals with %s, want %s; %s is retired", with, now, former)
			}
		})
	}
}

// TestAnAlteredRowAndAStartOpenNoKey that living brokers have retired, or destroyed: also where the start has not seen them, because somebody has deleted their readers.
func TestAnAlteredRowAndAStartOpenNoKey(t *testing.T) {
	for _, destroyed := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			h := holders(t, 2)
			create(t, h[0].Store, newCredential("main"), "r1")
			pass(2 * time.Minute)
			old := altered(t, h[0].row(t).Value)
			former, now := h[0].next(t)
			if destroyed {
				pass(8 * 24 * time.Hour)
				wantNoError(t, "destroy", h[0].DestroyKey(t.Context(), former))
			}
			pass(time.Minute)
			b := store.Batch{Group: store.MetaGroup, Puts: []store.Put{{Key: keyringRow, Revision: store.Revision(broker.NewID()), Value: old}}}
			for _, row := range must[[]store.Reading](t)(h[0].at.List(t.Context(), []store.Group{store.MetaGroup}, "reader", "check"))[0].Rows {
				b.Deletes = append(b.Deletes, row.Key)
			}
			group := h[0].GroupOf("main")
			wantNoError(t, "delete what would be looked at", h[0].at.Apply(t.Context(), store.Batch{Group: group, DeleteGroup: true}))
			wantNoError(t, "put", h[0].at.Apply(t.Context(), b))
			young := hold(t, h[0].at, h[0].kek, "young")
			pass(time.Minute)
			for _, b := range append(h, young) {
				if info, ok := b.Key(t, former); !ok || info.State != seal.Retired || b.primary(t) != now {
					t.Errorf("the former key is %q, and %s seals, want it retired, and %s", info.State, b.primary(t), now)
				}
			}
		})
	}
}

// TestACommitIsKeptWhileNobodyCanOpenWhatIsThere: a failover has brought back the grant that it replaced, sealed with a key that is retired. It is in place again once that is restored.
func TestACommitIsKeptWhileNobodyCanOpenWhatIsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := holders(t, 2)
		a, b := h[0], h[1]
		for _, of := range h {
			ctx, cancel := context.WithCancel(t.Context())
			t.Cleanup(cancel)
			go of.Watch(ctx, func(broker.Notice) {})
		}
		create(t, a.Store, newCredential("main"), "r1")
		pass(2 * time.Minute)
		first := a.primary(t)
		must[string](t)(a.RotateKey(t.Context()))
		pass(40 * time.Second)
		must[string](t)(a.PromoteKey(t.Context()))
		must[store.Rewrap](t)(a.Rewrap(t.Context(), 0, nil))
		exchange := func(of *holder, token string) {
			l := must[broker.Lease](t)(must[broker.View](t)(of.Read(t.Context(), keptKey, "")).Acquire(t.Context(), time.Minute, true))
			must[broker.Committed](t)(l.Commit(t.Context(), broker.Outcome{RefreshToken: broker.NewSecret(token), Now: time.Now()}))
		}
		exchange(b, "r2") // it has not noticed the promotion
		pass(12 * time.Second)
		batch := store.Batch{Group: a.GroupOf("main")}
		for _, row := range must[[]store.Reading](t)(a.at.List(t.Context(), []store.Group{batch.Group}, "grant"))[0].Rows {
			batch.Puts = append(batch.Puts, store.Put{Key: row.Key, Revision: row.Revision, Value: row.Value})
		}
		exchange(a, "r3")
		must[store.Rewrap](t)(a.Rewrap(t.Context(), 0, nil))
		pass(31 * time.Second)
		wantNoError(t, "retire", a.RetireKey(t.Context(), first))
		wantNoError(t, "the failover", a.at.Apply(t.Context(), batch))
		pass(5 * time.Minute)
		if _, err := a.Read(t.Context(), keptKey, ""); broker.KindOf(err) != broker.RecordUnreadable {
			t.Errorf("before the key is restored: got %v", err)
		}
		wantNoError(t, "restore", a.RestoreKey(t.Context(), first))
		pass(20 * time.Second)
		if got := must[broker.View](t)(a.Read(t.Context(), keptKey, "")).Grant.RefreshToken.Reveal(); got != "r3" {
			t.Errorf("there is %q, which is spent", got)
		}
		pass(2 * time.Minute)
		if n := a.Kept(); n != 0 {
			t.Errorf("%d changes are kept", n)
		}
	})
}
