package kek_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/tokenbroker/tokenbroker/store/kek"
)

func TestWrapAndUnwrap(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		k := l.open(t)
		if k.URI() != l.uri || fmt.Sprintf("%v|%+v|%#v|%s", k, k, k, k) != strings.Join([]string{l.uri, l.uri, l.uri, l.uri}, "|") {
			t.Errorf("it prints as %v", k)
		}
		l.silent(t, "the KEK and its settings", k, l.settings)
		for _, size := range []int{0, 1, 32, 4096, 4097, 10_000, kek.MaxPlaintext} {
			plaintext := strings.Repeat("x", size)
			w := wrap(t, k, plaintext, "its place")
			unwraps(t, k, w, plaintext, "its place")
			if size > 8 && bytes.Contains(w, []byte(plaintext)) {
				t.Error("it is not encrypted")
			}
		}
		_, err := k.Wrap(t.Context(), make([]byte, kek.MaxPlaintext+1), nil)
		l.refuses(t, "too much", err, kek.Invalid)
		w := wrap(t, k, planted, "its place")
		if again := wrap(t, k, planted, "its place"); bytes.Equal(w, again) {
			t.Error("two wraps are equal")
		}
		unwraps(t, open(t, l.uri, l.settings), w, planted, "its place")
		for _, associated := range []string{"", "its plac", "its place ", "another"} {
			got, err := k.Unwrap(t.Context(), w, []byte(associated))
			l.refuses(t, "associated data "+associated, err, kek.Damaged)
			if got != nil {
				t.Error("it gives something all the same")
			}
		}
		unwraps(t, k, wrap(t, k, planted, ""), planted, "")
	})
}

func TestDamageIsRefusedAtEachPosition(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		k := l.open(t)
		w := wrap(t, k, planted, "its place")
		for i := range w {
			for _, bit := range []byte{1, 0x80} {
				changed := bytes.Clone(w)
				changed[i] ^= bit
				got, err := k.Unwrap(t.Context(), changed, []byte("its place"))
				// Where the name of a key or of its version is changed, it is that of another; moto does not let us use the one that it reads.
				l.refuses(t, fmt.Sprintf("byte %d", i), err, kek.Damaged, kek.Another, kek.KeyUnavailable, kek.Refused)
				if got != nil {
					t.Error("it gives something all the same")
				}
			}
		}
		for n := range w {
			_, err := k.Unwrap(t.Context(), w[:n], []byte("its place"))
			l.refuses(t, fmt.Sprintf("cut at %d", n), err, kek.Damaged, kek.Another, kek.KeyUnavailable, kek.Refused)
		}
		_, err := k.Unwrap(t.Context(), append(bytes.Clone(w), 0), []byte("its place"))
		l.refuses(t, "a byte more", err, kek.Damaged)
		_, err = k.Unwrap(t.Context(), make([]byte, 3<<20), nil)
		l.refuses(t, "too much", err, kek.Damaged)
		_, err = k.Unwrap(t.Context(), []byte(`{"encryptedKeyset": ""}`), nil)
		l.refuses(t, "JSON", err, kek.Damaged)
	})
}

// What was sealed with one data key does not open with another's, which the KMS would unwrap.
func TestHalvesAreNotExchanged(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		k := l.open(t)
		a, b := wrap(t, k, planted, "its place"), wrap(t, k, planted, "its place")
		n := 3 + int(binary.BigEndian.Uint16(a[1:]))
		n += 2 + int(binary.BigEndian.Uint16(a[n:]))
		_, err := k.Unwrap(t.Context(), append(bytes.Clone(a[:n]), b[n:]...), []byte("its place"))
		l.refuses(t, "exchanged", err, kek.Damaged)
	})
}

func TestWhatAnotherKeyHasWrapped(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		k, other := l.open(t), open(t, l.other, l.settings)
		w := wrap(t, k, planted, "its place")
		_, err := other.Unwrap(t.Context(), w, []byte("its place"))
		l.refuses(t, "another key", err, kek.Another)
		by, err := kek.WrappedBy(w)
		if err != nil || !strings.HasPrefix(l.uri, strings.SplitN(by, ":", 2)[0]) {
			t.Errorf("wrapped by: got %q, %v", by, err)
		}
		if l.at == nil {
			return
		}
		// Whoever writes the other's name over it gains nothing.
		theirs := wrap(t, other, planted, "its place")
		n := 3 + int(binary.BigEndian.Uint16(theirs[1:]))
		m := 3 + int(binary.BigEndian.Uint16(w[1:]))
		_, err = other.Unwrap(t.Context(), append(bytes.Clone(theirs[:n]), w[m:]...), []byte("its place"))
		l.refuses(t, "renamed", err, kek.Damaged, kek.Another, kek.Refused)
	})
}

func TestAFormerVersionUnwraps(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		k := l.open(t)
		w := wrap(t, k, planted, "its place")
		l.rotate(t)
		for _, k := range []kek.KEK{k, l.open(t)} {
			unwraps(t, k, w, planted, "its place")
			unwraps(t, l.open(t), wrap(t, k, planted, "its place"), planted, "its place")
		}
	})
}

func TestManyAtOnce(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		k := l.open(t)
		w := wrap(t, k, planted, "its place")
		var all sync.WaitGroup
		for i := range 64 {
			all.Go(func() {
				if i%2 == 0 {
					if got, err := k.Unwrap(t.Context(), w, []byte("its place")); err != nil || string(got) != planted {
						t.Errorf("unwrap: %v", err)
					}
					return
				}
				own := fmt.Sprint(i)
				mine, err := k.Wrap(t.Context(), []byte(own), []byte(own))
				if err != nil {
					t.Errorf("wrap: %v", err)
					return
				}
				if got, err := k.Unwrap(t.Context(), mine, []byte(own)); err != nil || string(got) != own {
					t.Errorf("unwrap: got %q, %v", got, err)
				}
			})
		}
		all.Wait()
	})
}

func TestWhoGaveUpIsToldSo(t *testing.T) {
	each(t, func(t *testing.T, l *lab) {
		k := l.open(t)
		w := wrap(t, k, planted, "its place")
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := k.Unwrap(ctx, w, []byte("its place"))
		l.refuses(t, "unwrap", err, kek.Away)
		_, err2 := k.Wrap(ctx, []byte(planted), nil)
		l.refuses(t, "wrap", err2, kek.Away)
		if !errors.Is(err, context.Canceled) || !errors.Is(err2, context.Canceled) {
			t.Errorf("got %v, %v, want context.Canceled", err, err2)
		}
	})
}

func TestKinds(t *testing.T) {
	names := map[string]bool{}
	for _, k := range kek.Kinds() {
		if k.Name() == "" || k.Error() == "" || names[k.Name()] {
			t.Errorf("kind %d: %q, %q", k, k.Name(), k.Error())
		}
		names[k.Name()] = true
	}
	if kek.Kind(-1).Name() != kek.Invalid.Name() || kek.Kind(100).Error() != kek.Invalid.Error() {
		t.Error("a kind that is none has another name than the zero value")
	}
}
