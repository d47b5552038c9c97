package filewatch_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/filewatch"
)

// TestEachDirectoryOnTheWayIsWatched: a file is found by a link to a link, each in another directory. Whatever is changed there is noticed before the next
// tick, also in directories that were not on the way when the watch began.
func TestEachDirectoryOnTheWayIsWatched(t *testing.T) {
	dir := t.TempDir()
	at := func(parts ...string) string { return filepath.Join(append([]string{dir}, parts...)...) }
	for _, d := range []string{"settings", "shared", "one", "two", "three"} {
		if err := os.Mkdir(at(d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(name+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
	}
	turn := func(name, to string) {
		t.Helper()
		if err := os.Symlink(to, name+".new"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
	}
	write(at("one", "file"), "first")
	turn(at("shared", "current"), "../one")
	turn(at("settings", "file"), at("shared", "current", "file"))
	seen := make(chan string, 100)
	go filewatch.Watch(t.Context(), []string{at("settings", "file")}, time.Hour, func() {
		text, err := os.ReadFile(at("settings", "file"))
		if err != nil {
			text = []byte("nothing")
		}
		seen <- string(text)
	})
	want := func(text string) {
		t.Helper()
		for timeout := time.After(20 * time.Second); ; {
			select {
			case got := <-seen:
				if got == text {
					return
				}
			case <-timeout:
				t.Fatalf("%q was not noticed", text)
			}
		}
	}
	want("first")
	write(at("one", "file"), "where it is")
	want("where it is")
	write(at("two", "file"), "by a link in the middle")
	turn(at("shared", "current"), "../two")
	want("by a link in the middle")
	write(at("two", "file"), "where it is now")
	want("where it is now")
	write(at("three", "file"), "by the first link")
	turn(at("settings", "file"), "../three/file")
	want("by the first link")
	if err := os.Remove(at("three", "file")); err != nil {
		t.Fatal(err)
	}
	want("nothing")
	write(at("three", "file"), "again")
	want("again")
	if err := os.RemoveAll(at("three")); err != nil {
		t.Fatal(err)
	}
	want("nothing")
	write(at("two", "file"), "elsewhere")
	turn(at("settings", "file"), "../two/file")
	want("elsewhere")

	// Directories further up are moved, and others come in their place.
	if err := os.MkdirAll(at("new", "four"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(at("new", "four", "file"), "in a directory that was moved")
	turn(at("settings", "file"), "../up/four/file")
	want("nothing")
	if err := os.Rename(at("new"), at("up")); err != nil {
		t.Fatal(err)
	}
	want("in a directory that was moved")
	if err := os.Rename(at("up"), at("old")); err != nil {
		t.Fatal(err)
	}
	want("nothing")
	if err := os.Rename(at("old"), at("up")); err != nil {
		t.Fatal(err)
	}
	want("in a directory that was moved")
	turn(at("settings", "file"), "../two/file")
	want("elsewhere")

	// What is no longer on the way disturbs nobody.
	for looked := true; looked; {
		select {
		case <-seen:
		case <-time.After(3 * filewatch.Settle):
			looked = false
		}
	}
	write(at("one", "file"), "nobody's")
	turn(at("shared", "current"), "../one")
	write(at("beside"), "in a directory further up, and not on the way")
	select {
	case got := <-seen:
		t.Errorf("looked for what is no longer on the way, and got %q", got)
	case <-time.After(3 * filewatch.Settle):
	}
}
