package newfile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/newfile"
)

// TestWrite: the file is there whole, or nothing is, and what was there stays.
func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	says := func(text string, err error) func(*os.File) error {
		return func(f *os.File) error {
			if _, there := os.Stat(path); text == "first" && there == nil {
				t.Error("it is there before it is written")
			}
			_, _ = f.WriteString(text)
			return err
		}
	}
	mine := errors.New("mine")
	for _, test := range []struct {
		text     string
		err      error
		want     error
		contents string
	}{
		{"broken off", mine, mine, ""},
		{"first", nil, nil, "first"},
		{"second", nil, fs.ErrExist, "first"},
	} {
		if err := newfile.Write(path, says(test.text, test.err)); !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, want %v", test.text, err, test.want)
		}
		if got, _ := os.ReadFile(path); string(got) != test.contents {
			t.Errorf("%s: got %q, want %q", test.text, got, test.contents)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("got %v, %v, want mode 0600", info.Mode(), err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("got %v, %v, want the file alone", left, err)
	}
	if err := newfile.Write(filepath.Join(dir, "missing", "file"), says("x", nil)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want that there is no such directory", err)
	}
}
