package seal_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/store/seal"
)

// onward makes some changes of a keyring, and seals a text with each key that seals meanwhile.
func onward(t *testing.T, r *rand.Rand, k *seal.Keyring, at *int64, sealed *[][]byte) *seal.Keyring {
	t.Helper()
	for range r.IntN(6) {
		*at++
		now := time.Unix(*at, 0)
		all := k.Keys()
		info := all[r.IntN(len(all))]
		var next *seal.Keyring
		var err error
		switch {
		case info.State == seal.Pending:
			next, err = k.Promoted(info.ID, now)
		case info.State == seal.Former && r.IntN(2) == 0:
			next, err = k.Retired(info.ID, now)
		case info.State == seal.Retired && r.IntN(2) == 0:
			next, err = k.Restored(info.ID)
		case info.State == seal.Retired:
			next, err = k.Destroyed(info.ID)
		default:
			next, _, err = k.Rotated(now)
		}
		if err != nil {
			t.Fatal(err)
		}
		k = next
		one, err := k.Seal([]byte("text"), nil)
		if err != nil {
			t.Fatal(err)
		}
		*sealed = append(*sealed, one)
	}
	return k
}

func joined(t *testing.T, a, b *seal.Keyring) *seal.Keyring {
	t.Helper()
	k, err := a.Joined(b, time.Unix(1<<30, 0))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// shown is what is known of a keyring's keys.
func shown(k *seal.Keyring) string { return fmt.Sprintf("%+v", k.Keys()) }

// TestWhatIsJoinedLosesNothing: whatever two sides have done since they had the same keys, each key of either is there, what opens on a side that went on
// apart still opens, one key seals, and both sides come to the same. What came to be from the other counts as it is.
func TestWhatIsJoinedLosesNothing(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		at := int64(2000)
		var before, ours, theirs [][]byte
		root := onward(t, r, adopted(t), &at, &before)
		a, b := onward(t, r, root, &at, &ours), onward(t, r, root, &at, &theirs)
		m, n := joined(t, a, b), joined(t, b, a)
		apart := !a.Follows(b.Version()) && !b.Follows(a.Version())
		if apart && shown(m) != shown(n) {
			t.Fatalf("seed %d: one side has\n%s\nthe other\n%s", seed, shown(m), shown(n))
		}
		for _, side := range []*seal.Keyring{a, b} {
			for _, info := range side.Keys() {
				is, ok := m.Key(info.ID)
				if apart && (!ok || side.Opens(info.ID) && !m.Opens(info.ID)) {
					t.Fatalf("seed %d: key %+v is %+v (%t)", seed, info, is, ok)
				}
			}
		}
		if !slices.ContainsFunc(m.Keys(), func(i seal.KeyInfo) bool { return i.ID == m.ID() && i.State == seal.Primary }) {
			t.Fatalf("seed %d: nothing seals: %s", seed, shown(m))
		}
		switch {
		case b.Follows(a.Version()) && m != b:
			t.Fatalf("seed %d: the newer one is not taken as it is", seed)
		case a.Follows(b.Version()) && m.ID() != a.ID():
			t.Fatalf("seed %d: the newer one does not count", seed)
		}
		for _, side := range []*seal.Keyring{root, a, b} {
			if !m.Follows(side.Version()) && m != b {
				t.Fatalf("seed %d: it does not know what it came from", seed)
			}
			if k := joined(t, side, m); k != m {
				t.Fatalf("seed %d: joined again it is another one", seed)
			}
		}
		if k := joined(t, m, m); k != m {
			t.Fatalf("seed %d: with itself it is another one", seed)
		}
	}
}

// TestAFormerOneBringsItsKeysBackRetired: a backup below brokers that run may need what was destroyed since.
func TestAFormerOneBringsItsKeysBackRetired(t *testing.T) {
	root := adopted(t)
	first := root.ID()
	sealed, err := root.Seal([]byte("text"), nil)
	if err != nil {
		t.Fatal(err)
	}
	k, second, err := root.Rotated(time.Unix(2000, 0))
	for _, change := range []func() (*seal.Keyring, error){
		func() (*seal.Keyring, error) { return k.Promoted(second, time.Unix(2001, 0)) },
		func() (*seal.Keyring, error) { return k.Retired(first, time.Unix(2002, 0)) },
		func() (*seal.Keyring, error) { return k.Destroyed(first) },
	} {
		if err == nil {
			k, err = change()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	m := joined(t, k, root)
	info, _ := m.Key(first)
	if m.ID() != second || m.Opens(first) || info.State != seal.Retired || !info.Retired.Equal(time.Unix(1<<30, 0)) || !m.Follows(k.Version()) || !m.Follows(root.Version()) {
		t.Errorf("got %s", shown(m))
	}
	if _, err := m.Open(sealed, nil); err == nil {
		t.Error("what was destroyed opens again")
	}
	if plain, err := m.OpenRetired(sealed, nil); err != nil || string(plain) != "text" {
		t.Errorf("asked for: got %q, %v", plain, err)
	}
	restored, err := m.Restored(first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := restored.Open(sealed, nil); err != nil {
		t.Errorf("restored: %v", err)
	}
}

// TestWhatSharesNoState opens only with what opens on both sides, and with the key that was promoted last: nobody knows what either has destroyed.
func TestWhatSharesNoState(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		at := int64(2000)
		var sealed [][]byte
		root := onward(t, r, adopted(t), &at, &sealed)
		b := seal.Forgotten(onward(t, r, root, &at, &sealed))
		a := onward(t, r, root, &at, &sealed)
		m, n := joined(t, a, b), joined(t, b, a)
		if shown(m) != shown(n) {
			t.Fatalf("seed %d: one side has\n%s\nthe other\n%s", seed, shown(m), shown(n))
		}
		if k := joined(t, a, m); k != m || !m.Follows(b.Version()) {
			t.Fatalf("seed %d: it does not know what it came from", seed)
		}
		for _, side := range []*seal.Keyring{a, b} {
			for _, info := range side.Keys() {
				if is, ok := m.Key(info.ID); !ok || m.Opens(info.ID) != (is.State == seal.Primary || a.Opens(info.ID) && b.Opens(info.ID)) {
					t.Fatalf("seed %d: key %+v is %+v (%t)", seed, info, is, ok)
				}
			}
		}
		last := func(k *seal.Keyring) time.Time { info, _ := k.Key(k.ID()); return info.Promoted }
		if last(m).Before(last(a)) || last(m).Before(last(b)) {
			t.Fatalf("seed %d: another key seals than the one that was promoted last: %s", seed, shown(m))
		}
	}
}

// TestAHistoryThatWasWrittenAnewIsNone: it is in the clear, and bound to what is wrapped.
func TestAHistoryThatWasWrittenAnewIsNone(t *testing.T) {
	kek := &memoryKEK{k: newKeyring(t)}
	root := adopted(t)
	k, _, err := root.Rotated(time.Unix(2000, 0))
	if err != nil {
		t.Fatal(err)
	}
	w := wrapped(t, k, kek)
	if is, err := w.Unwrap(t.Context(), kek); err != nil || is.Version() != w.Version() || !is.Follows(root.Version()) {
		t.Errorf("got %v, %v", is, err)
	}
	for name, history := range map[string][]string{"shorter": w.History[:1], "without": nil, "longer": append(slices.Clone(w.History), "0011223344556677"), "another order": {w.History[1], w.History[0]}} {
		forged := *w
		forged.History = history
		if is, err := forged.Unwrap(t.Context(), kek); err == nil {
			t.Errorf("%s: got %v", name, is)
		}
	}
}
