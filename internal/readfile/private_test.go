package readfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/readfile"
)

// TestPrivate: a file with secrets is its owner's alone, whatever leads to it.
func TestPrivate(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, mode fs.FileMode) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	good, open := write("good", 0o600), write("open", 0o640)
	link := func(to string) string {
		t.Helper()
		p := to + " link"
		if err := os.Symlink(to, p); err != nil {
			t.Fatal(err)
		}
		return p
	}
	loose, large := &readfile.TooOpen{}, &readfile.TooLarge{}
	for _, test := range []struct {
		path  string
		most  int64
		wrong func(error) bool
	}{
		{good, 6, nil},
		{write("read only", 0o400), 6, nil},
		{link(good), 6, nil},
		{good, 5, func(err error) bool { return errors.As(err, &large) }},
		{open, 6, func(err error) bool { return errors.As(err, &loose) && loose.Mode == 0o640 }},
		{link(open), 6, func(err error) bool { return errors.As(err, &loose) }},
		{write("writable", 0o602), 6, func(err error) bool { return errors.As(err, &loose) }},
		{filepath.Join(dir, "missing"), 6, func(err error) bool { return errors.Is(err, fs.ErrNotExist) }},
		{dir, 6, func(err error) bool { return errors.Is(err, readfile.ErrNotRegular) }},
	} {
		got, err := readfile.Private(test.path, test.most)
		switch {
		case test.wrong == nil && (err != nil || string(got) != "secret"):
			t.Errorf("%s: got %q, %v", test.path, got, err)
		case test.wrong != nil && (err == nil || !test.wrong(err) || got != nil):
			t.Errorf("%s: got %q, %v", test.path, got, err)
		}
	}
	if os.Geteuid() != 0 {
		return // only root gives files away
	}
	foreign := write("foreign", 0o600)
	if err := os.Chown(foreign, 65532, 65532); err != nil {
		t.Fatal(err)
	}
	if got, err := readfile.Private(foreign, 6); !errors.Is(err, readfile.ErrForeign) || got != nil {
		t.Errorf("another user's: got %q, %v", got, err)
	}
}
