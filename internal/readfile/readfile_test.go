package readfile_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/installed"
	"github.com/tokenbroker/tokenbroker/internal/readfile"
)

// TestRead: what could wait, or fill the memory, is refused at once.
func TestRead(t *testing.T) {
	dir := t.TempDir()
	name := func(s string) string { return filepath.Join(dir, s) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(name("small"), []byte("content"), 0o600))
	must(os.WriteFile(name("exact"), make([]byte, 10), 0o600))
	must(os.WriteFile(name("large"), make([]byte, 11), 0o600))
	must(os.WriteFile(name("hole"), nil, 0o600))
	must(os.Truncate(name("hole"), 1<<40)) // takes no room on the disk
	must(os.Symlink("small", name("link")))
	must(os.Symlink("nowhere", name("dangling")))
	must(os.Symlink("/dev/zero", name("endless")))
	must(os.Symlink("pipe", name("link to a pipe")))
	must(syscall.Mkfifo(name("pipe"), 0o600))
	large := &readfile.TooLarge{}
	for file, test := range map[string]struct {
		content string
		wrong   func(error) bool
	}{
		"small":          {content: "content"},
		"link":           {content: "content"},
		"exact":          {content: string(make([]byte, 10))},
		"large":          {wrong: func(err error) bool { return errors.As(err, &large) && large.Most == 10 }},
		"hole":           {wrong: func(err error) bool { return errors.As(err, &large) }},
		"dangling":       {wrong: func(err error) bool { return errors.Is(err, fs.ErrNotExist) }},
		"missing":        {wrong: func(err error) bool { return errors.Is(err, fs.ErrNotExist) }},
		".":              {wrong: func(err error) bool { return errors.Is(err, readfile.ErrNotRegular) }},
		"pipe":           {wrong: func(err error) bool { return errors.Is(err, readfile.ErrNotRegular) }},
		"link to a pipe": {wrong: func(err error) bool { return errors.Is(err, readfile.ErrNotRegular) }},
		"endless":        {wrong: func(err error) bool { return errors.Is(err, readfile.ErrNotRegular) }},
	} {
		got, err := readfile.Read(name(file), 10)
		switch {
		case test.wrong != nil && (err == nil || !test.wrong(err) || got != nil):
			t.Errorf("%s: got %q, %v", file, got, err)
		case test.wrong == nil && (err != nil || string(got) != test.content):
			t.Errorf("%s: got %q, %v, want %q", file, got, err, test.content)
		}
	}
}

// TestReadWhatSaysNothingOfItsSize: the bound is on what is read, not on what the system says.
func TestReadWhatSaysNothingOfItsSize(t *testing.T) {
	const status = "/proc/self/status"
	if _, err := os.Stat(status); err != nil {
		installed.Without(t, "there is no /proc")
	}
	large := &readfile.TooLarge{}
	if _, err := readfile.Read(status, 10); !errors.As(err, &large) {
		t.Errorf("got %v, want that it is too large", err)
	}
	if got, err := readfile.Read(status, 1<<20); err != nil || len(got) == 0 {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

// FuzzRead: what is in a file comes out of it, all or nothing.
func FuzzRead(f *testing.F) {
	for _, n := range []int{0, 1, 9, 10, 11, 4096} {
		f.Add(make([]byte, n), int64(10))
	}
	f.Add([]byte("a\r\nb\x00\xff"), int64(1<<20))
	name := filepath.Join(f.TempDir(), "file")
	f.Fuzz(func(t *testing.T, content []byte, most int64) {
		if most < 0 || most == 1<<63-1 {
			return // no caller's bound
		}
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readfile.Read(name, most)
		large := &readfile.TooLarge{}
		switch fits := int64(len(content)) <= most; {
		case fits && (err != nil || !bytes.Equal(got, content)):
			t.Fatalf("got %q, %v, want %q", got, err, content)
		case !fits && (!errors.As(err, &large) || got != nil):
			t.Fatalf("got %d bytes, %v, of %d where %d are allowed", len(got), err, len(content), most)
		}
	})
}
