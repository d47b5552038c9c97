package seal_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/leaktest"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// memoryKEK wraps by a keyring, and keeps what it was given.
type memoryKEK struct {
	k     *seal.Keyring
	mu    sync.Mutex
	plain [][]byte
}

func (m *memoryKEK) URI() string { return "memory:kek" }

func (m *memoryKEK) Wrap(_ context.Context, plaintext, associated []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.plain = append(m.plain, bytes.Clone(plaintext))
	return m.k.Seal(plaintext, associated)
}

func (m *memoryKEK) Unwrap(_ context.Context, wrapped, associated []byte) ([]byte, error) {
	return m.k.Open(wrapped, associated)
}

func adopted(t testing.TB) *seal.Keyring {
	t.Helper()
	k, err := newKeyring(t).Adopted(time.Unix(1000, 0))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func wrapped(t testing.TB, k *seal.Keyring, kek seal.KEK) *seal.Wrapped {
	t.Helper()
	data, err := k.Wrap(t.Context(), kek)
	if err != nil {
		t.Fatal(err)
	}
	w, err := seal.ParseWrapped(data)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// states are the keys in the order in which they were added.
func states(k *seal.Keyring, ids ...string) string {
	var out []string
	for _, id := range ids {
		info, ok := k.Key(id)
		if !ok {
			out = append(out, "none")
			continue
		}
		out = append(out, fmt.Sprintf("%s %d %d %d", info.State, unix(info.Added), unix(info.Promoted), unix(info.Retired)))
	}
	return strings.Join(out, ", ")
}

func unix(t time.Time) int64 { return max(0, t.Unix()) }

// TestWrappedKeys: what is wrapped is the same when it is unwrapped, at each step of its keys' lives.
func TestWrappedKeys(t *testing.T) {
	kek := &memoryKEK{k: newKeyring(t)}
	k := adopted(t)
	first, second := k.ID(), ""
	sealed, err := k.Seal([]byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	print := k.Fingerprint("p")
	at := func(s int64) time.Time { return time.Unix(s, 0) }
	for i, step := range []struct {
		change func() (*seal.Keyring, error)
		want   string
		opens  bool
	}{
		{func() (*seal.Keyring, error) { return k, nil }, "primary 1000 1000 0, none", true},
		{func() (next *seal.Keyring, err error) { next, second, err = k.Rotated(at(2000)); return }, "primary 1000 1000 0, pending 2000 0 0", true},
		{func() (*seal.Keyring, error) { return k.Promoted(second, at(3000)) }, "former 1000 1000 0, primary 2000 3000 0", true},
		{func() (*seal.Keyring, error) { return k.Retired(first, at(4000)) }, "retired 1000 1000 4000, primary 2000 3000 0", false},
		{func() (*seal.Keyring, error) { return k.Restored(first) }, "former 1000 1000 0, primary 2000 3000 0", true},
		{func() (*seal.Keyring, error) { return k.Retired(first, at(5000)) }, "retired 1000 1000 5000, primary 2000 3000 0", false},
		{func() (*seal.Keyring, error) { return k.Destroyed(first) }, "none, primary 2000 3000 0", false},
	} {
		next, err := step.change()
		if err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		w := wrapped(t, next, kek)
		if k, err = w.Unwrap(t.Context(), kek); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		if got := states(k, first, second); got != step.want || k.Generation() != uint64(i+1) || k.StoreID() != next.StoreID() {
			t.Errorf("step %d: got %s of generation %d, want %s", i, got, k.Generation(), step.want)
		}
		_, err = k.Open(sealed, nil)
		if opens := err == nil; opens != step.opens || k.Fingerprint("p") != print || k.Opens(first) != step.opens {
			t.Errorf("step %d: opens %v, want %v; %v", i, opens, step.opens, err)
		}
	}
	if _, err := k.Retired(k.ID(), at(1)); err == nil {
		t.Error("the primary was retired")
	}
	if _, err := k.Destroyed(k.ID()); err == nil {
		t.Error("the primary was destroyed")
	}
	if _, _, err := newKeyring(t).Rotated(at(1)); err == nil || !strings.Contains(err.Error(), "keys wrap") {
		t.Errorf("a key file was rotated: %v", err)
	}
	if _, err := newKeyring(t).Wrap(t.Context(), kek); err == nil {
		t.Error("a key file's keyring was wrapped")
	}
	for _, plain := range kek.plain {
		if !json.Valid(plain) {
			t.Errorf("%d bytes were wrapped that are no keyset", len(plain))
		}
	}
	for _, v := range []any{k, *k, wrapped(t, k, kek)} {
		text := fmt.Sprintf("%v %+v %#v %s", v, v, v, v)
		for _, found := range leaktest.Find([]byte(text), wrappedMaterial(t, kek)) {
			t.Errorf("%T prints %v", v, found)
		}
	}
}

// wrappedMaterial are the values of the keys that were wrapped.
func wrappedMaterial(t *testing.T, kek *memoryKEK) []string {
	t.Helper()
	var out []string
	for _, plain := range kek.plain {
		for _, part := range strings.Split(string(plain), `"value":"`)[1:] {
			value, _, _ := strings.Cut(part, `"`)
			out = append(out, value)
		}
	}
	if len(out) < 8 {
		t.Fatalf("found %d keys in what was wrapped", len(out))
	}
	return out
}

// TestWrappedIsBound: nothing that is wrapped counts in another place than its own.
func TestWrappedIsBound(t *testing.T) {
	kek := &memoryKEK{k: newKeyring(t)}
	k := adopted(t)
	next, _, err := k.Rotated(time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	is, later, other := wrapped(t, k, kek), wrapped(t, next, kek), wrapped(t, adopted(t), kek)
	for name, edit := range map[string]func(w *seal.Wrapped){
		"a former sealing keyset as a newer one":  func(w *seal.Wrapped) { w.Generation = 2 },
		"a newer one as a former":                 func(w *seal.Wrapped) { w.Sealing = later.Sealing },
		"the sealing keyset of another store":     func(w *seal.Wrapped) { w.Sealing = other.Sealing },
		"the fingerprint keyset of another store": func(w *seal.Wrapped) { w.Fingerprints = other.Fingerprints },
		"fingerprints as sealing":                 func(w *seal.Wrapped) { w.Sealing = w.Fingerprints },
		"sealing as fingerprints":                 func(w *seal.Wrapped) { w.Fingerprints = w.Sealing },
		"another store's id":                      func(w *seal.Wrapped) { w.StoreID = other.StoreID },
	} {
		w := *is
		edit(&w)
		if _, err := w.Unwrap(t.Context(), kek); err == nil {
			t.Errorf("%s: it opens", name)
		}
	}
	w := *is
	w.Fingerprints, w.KEK = later.Fingerprints, "memory:moved" // of the same store, and a KEK's address is no part of it
	if _, err := w.Unwrap(t.Context(), kek); err != nil {
		t.Error(err)
	}
}

// FuzzWrapped: a row that anybody may have written is read, or is refused in words of ours.
func FuzzWrapped(f *testing.F) {
	kek := &memoryKEK{k: newKeyring(f)}
	k, err := newKeyring(f).Adopted(time.Unix(1000, 0))
	if err != nil {
		f.Fatal(err)
	}
	good, err := k.Wrap(context.Background(), kek)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte("{}"))
	f.Add([]byte(`{"format":3}`))
	f.Add(bytes.Replace(good, []byte(`"generation":1`), []byte(`"generation":-1`), 1))
	f.Add(bytes.Replace(good, []byte(`"generation":1`), []byte(`"generation":18446744073709551615`), 1))
	f.Add(bytes.Replace(good, []byte("memory:kek"), []byte(`\u001b[2J`), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		w, err := seal.ParseWrapped(data)
		if err != nil {
			if len(data) > 20 && strings.Contains(err.Error(), string(data)) {
				t.Errorf("%v quotes what it was given", err)
			}
			return
		}
		if w.Generation == 0 || strings.ContainsAny(w.KEK, "\x1b\n ") || w.KEK == "" {
			t.Errorf("got %+v", w)
		}
		got, err := w.Unwrap(t.Context(), kek)
		var o *seal.OpenError
		switch {
		case err == nil && (got.ID() != k.ID() || got.Generation() != 1 || got.StoreID() != k.StoreID()):
			t.Error("it opens, and is another")
		case err != nil && !errors.As(err, &o):
			t.Errorf("got %v", err)
		}
	})
}
