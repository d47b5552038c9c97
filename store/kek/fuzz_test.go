package kek_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/store/kek"
)

// FuzzUnwrap: nothing opens but what was wrapped, and whatever is refused says whose failure it is.
func FuzzUnwrap(f *testing.F) {
	path := filepath.Join(f.TempDir(), "kek.json")
	if err := kek.CreateFile(path); err != nil {
		f.Fatal(err)
	}
	k := open(f, "file://"+path, kek.Settings{})
	good := wrap(f, k, planted, "its place")
	f.Add(good)
	f.Add([]byte{})
	f.Add([]byte{1})
	f.Add([]byte{1, 0, 4, 'f', 'i', 'l', 'e', 0, 1, 0})
	f.Add([]byte{1, 0xff, 0xff})
	f.Add([]byte{2, 0, 4})
	f.Add([]byte("\x01\x00\x0dvault:transit\x00\x01x"))
	f.Fuzz(func(t *testing.T, wrapped []byte) {
		by, err := kek.WrappedBy(wrapped)
		if (err == nil) != (by != "") || err != nil && !errors.Is(err, kek.Damaged) {
			t.Fatalf("wrapped by %q, %v", by, err)
		}
		for _, r := range by {
			if r <= ' ' || r >= 0x7f {
				t.Fatalf("wrapped by %q", by)
			}
		}
		got, err := k.Unwrap(t.Context(), wrapped, []byte("its place"))
		switch {
		case bytes.Equal(wrapped, good):
			if err != nil || string(got) != planted {
				t.Fatalf("got %v", err)
			}
		case err == nil:
			t.Fatalf("%x opens", wrapped)
		case !errors.Is(err, kek.Damaged) && !errors.Is(err, kek.Another):
			t.Fatalf("got %v", err)
		case strings.Contains(err.Error(), planted):
			t.Fatal("the error has what was wrapped")
		}
	})
}
