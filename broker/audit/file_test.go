package audit

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/installed"
	"github.com/tokenbroker/tokenbroker/internal/readfile"
)

// TestTheFileIsMadeForItsOwnerAlone, and what others could write is not used.
func TestTheFileIsMadeForItsOwnerAlone(t *testing.T) {
	l, path := inFile(t)
	intends(t, l)
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("got %v %v", info.Mode(), err)
	}
	l.Close()
	all := readFile(t, path)
	inOrder(t, all)
	if len(all) != 2 || all[0].Outcome != intent || all[1].Outcome != ok || all[1].Of != all[0].Seq {
		t.Errorf("got %+v", all)
	}
}

// TestNewSaysWhatIsToBeDone about what it cannot be made of.
func TestNewSaysWhatIsToBeDone(t *testing.T) {
	dir := t.TempDir()
	name := func(s string) string { return filepath.Join(dir, s) }
	if err := os.WriteFile(name("writable"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(name("writable"), 0o620), syscall.Mkfifo(name("pipe"), 0o600), os.Symlink(name("nowhere/x"), name("link"))); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		s    Settings
		want string
	}{
		{Settings{}, "nowhere to go: give it a file, standard output or a syslog"},
		{Settings{File: dir}, "not a regular file"},
		{Settings{File: name("pipe")}, "not a regular file"},
		{Settings{File: "/dev/full"}, "not a regular file"},
		{Settings{File: name("writable")}, "run chmod go-w on it"},
		{Settings{File: name("missing/audit.log")}, "no such file or directory"},
		{Settings{File: name("link")}, "no such file or directory"},
		{Settings{Stdout: io.Discard, Issuance: "often"}, "counted or required"},
		{Settings{Syslog: "udp://127.0.0.1:514"}, "say local, tcp://HOST:PORT or unix:///PATH"},
		{Settings{Syslog: "tcp://127.0.0.1"}, "say local"},
		{Settings{Syslog: "tcp://:514"}, "say local"},
		{Settings{Syslog: "tcp://127.0.0.1:514/x"}, "say local"},
		{Settings{Syslog: "tcp://u@127.0.0.1:514"}, "say local"},
		{Settings{Syslog: "unix://host/path"}, "say local"},
		{Settings{Syslog: "unix://"}, "say local"},
		{Settings{Syslog: "Local"}, "say local"},
	} {
		l, err := New(c.s)
		if err == nil {
			l.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v, want %q", c.s, err, c.want)
		}
	}
}

// TestCheckFileFindsWhatNewWouldFind, and makes nothing: as somebody whom modes concern and, where the test is root's, as root.
func TestCheckFileFindsWhatNewWouldFind(t *testing.T) {
	if os.Getuid() == 0 {
		asNobody(t)
	}
	for _, c := range []struct {
		what string
		// make makes what is there in an empty directory, which is the working one.
		make func() error
		path string
		// want is said of it; empty: nothing is wrong. Root may all the same: of what only others are refused.
		want    string
		rootMay bool
	}{
		{"none yet", nil, "log", "", false},
		{"a file", func() error { return os.WriteFile("log", []byte("{}\n"), 0o600) }, "log", "", false},
		{"a file that others read", func() error { return os.WriteFile("log", nil, 0o644) }, "log", "", false},
		{"a link to a file", func() error { return errors.Join(os.WriteFile("file", nil, 0o600), os.Symlink("file", "log")) }, "log", "", false},
		{"a link to a file that is to be made", func() error { return errors.Join(os.Mkdir("sub", 0o700), os.Symlink("sub/file", "log")) }, "log", "", false},
		{"links to nowhere", func() error { return errors.Join(os.Symlink("link", "log"), os.Symlink("missing/file", "link")) }, "log", "its directory is not there", false},
		{"a link to itself", func() error { return os.Symlink("log", "log") }, "log", "too many levels of symbolic links", false},
		{"what a link is before", func() error { return errors.Join(os.MkdirAll("a/b", 0o700), os.Symlink("a/b", "link")) }, "link/../log", "", false},
		{"no directory", nil, "missing/log", "its directory is not there: make that first", false},
		{"a directory", func() error { return os.Mkdir("log", 0o700) }, "log", "not a regular file", false},
		{"a directory's name", nil, "log/", "is a directory", false},
		{"a link to a directory's name", func() error { return os.Symlink("file/", "log") }, "log", "is a directory", false},
		{"below a file", func() error { return os.WriteFile("file", nil, 0o600) }, "file/log", "not a directory", false},
		{"a pipe", func() error { return syscall.Mkfifo("log", 0o600) }, "log", "not a regular file", false},
		{"a device", nil, os.DevNull, "not a regular file", false},
		{"a file that others write", func() error { return errors.Join(os.WriteFile("log", nil, 0o600), os.Chmod("log", 0o620)) }, "log", "run chmod go-w on it", false},
		{"no path", nil, "a\x00b", "invalid argument", false},
		{"a long name", nil, strings.Repeat("x", 1000), "file name too long", false},
		{"a file that may not be read", func() error { return os.WriteFile("log", nil, 0o200) }, "log", "permission denied", true},
		{"a file that may not be written", func() error { return os.WriteFile("log", nil, 0o400) }, "log", "permission denied", true},
		{"a directory that takes nothing", func() error { return os.Mkdir("sub", 0o500) }, "sub/log", "permission denied", true},
		{"a directory that takes nothing, with a file", func() error {
			return errors.Join(os.Mkdir("sub", 0o700), os.WriteFile("sub/log", nil, 0o600), os.Chmod("sub", 0o500))
		}, "sub/log", "", false},
		{"a directory that nobody may enter", func() error { return os.Mkdir("sub", 0o600) }, "sub/log", "permission denied", true},
		{"a directory that nobody may list", func() error { return os.Mkdir("sub", 0o300) }, "sub/log", "", false},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Chdir(t.TempDir())
			t.Cleanup(func() { os.Chmod("sub", 0o700) }) // it is to be removed
			if c.make != nil {
				if err := c.make(); err != nil {
					t.Fatal(err)
				}
			}
			want := c.want
			if c.rootMay && os.Getuid() == 0 {
				want = ""
			}
			before := listing(t)
			err := CheckFile(c.path)
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("got %v, want %q", err, want)
			}
			if err != nil && (c.path != "log" && strings.Contains(err.Error(), c.path) || len(err.Error()) > 200) {
				t.Errorf("the path is quoted: %v", err)
			}
			if after := listing(t); after != before {
				t.Errorf("got %s, where was %s", after, before)
			}
			l, opened := New(Settings{File: c.path})
			if opened == nil {
				l.Close()
			}
			if (opened == nil) != (err == nil) {
				t.Errorf("got %v, and it is opened with %v", err, opened)
			}
		})
	}
}

// listing is what is in the working directory, with modes, sizes and times.
func listing(t *testing.T) string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(".", func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrPermission) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		all = append(all, fs.FormatFileInfo(info)+info.ModTime().String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(all, "\n")
}

// TestAFileOfTheKernelsIsNone: it looks like a file, and keeps nothing.
func TestAFileOfTheKernelsIsNone(t *testing.T) {
	found := 0
	for _, path := range []string{"/proc/self/mem", "/proc/self/comm", "/proc/tokenbroker", "/sys/power/state", "/sys/tokenbroker"} {
		if _, err := os.Stat(filepath.Dir(path)); err != nil {
			continue
		}
		found++
		if err := CheckFile(path); err == nil || os.Getuid() == 0 && !strings.Contains(err.Error(), "keep nothing: name a file on a disk") {
			t.Errorf("%s: got %v", path, err)
		}
		if l, err := New(Settings{File: path}); err == nil {
			l.Close()
			t.Errorf("%s is opened", path)
		}
	}
	if found == 0 {
		installed.Without(t, "there is no /proc")
	}
}

// TestALineIsNotGluedToOneThatIsTorn, which a former process has left.
func TestALineIsNotGluedToOneThatIsTorn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	if err := os.WriteFile(path, []byte(`{"v":1,"ti`), 0o600); err != nil {
		t.Fatal(err)
	}
	l := an(t, Settings{File: path})
	intends(t, l)
	l.Close()
	text, err := os.ReadFile(path)
	rest, found := bytes.CutPrefix(text, []byte("{\"v\":1,\"ti\n"))
	if err != nil || !found || len(read(t, rest)) != 2 {
		t.Errorf("got %q", text)
	}
}

// A moody file is a real one that fails as it is told: a double of a disk.
type moody struct {
	*os.File
	of *moods
}

type moods struct {
	mu sync.Mutex
	// room is how many bytes fit; negative: as many as there are.
	room  int
	syncs int
	// syncFails is how many syncs fail.
	syncFails int
	// hangs is what a write waits for; nil: for nothing.
	hangs   chan struct{}
	unready bool // written since the last sync
	former  bool // no file is synced since that was set that has another name by now
}

func (m *moods) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

func (m *moody) Write(b []byte) (int, error) {
	m.of.mu.Lock()
	hangs, room := m.of.hangs, m.of.room
	m.of.mu.Unlock()
	if hangs != nil {
		<-hangs
	}
	fits := len(b)
	if room >= 0 {
		fits = min(fits, room)
	}
	n, err := m.File.Write(b[:fits])
	m.of.set(func() {
		m.of.unready = true
		if m.of.room >= 0 {
			m.of.room -= n
		}
	})
	if err == nil && fits < len(b) {
		err = &fs.PathError{Op: "write", Path: m.Name(), Err: syscall.ENOSPC}
	}
	return n, err
}

func (m *moody) Sync() error {
	m.of.mu.Lock()
	defer m.of.mu.Unlock()
	m.of.syncs++
	if m.of.syncFails > 0 {
		m.of.syncFails--
		return &fs.PathError{Op: "sync", Path: m.Name(), Err: syscall.EIO}
	}
	m.of.unready = false
	if is, err := m.Stat(); err == nil {
		if at, err := os.Stat(m.Name()); err != nil || !os.SameFile(is, at) {
			m.of.former = false
		}
	}
	return m.File.Sync()
}

// inMoody is a log in a file whose disk is a double.
func inMoody(t *testing.T, s Settings) (*Log, string, *moods) {
	t.Helper()
	path, m := filepath.Join(t.TempDir(), "audit.log"), &moods{room: -1}
	sink, err := openFileSink(path, func(path string) (appendable, error) {
		f, err := openLog(path)
		if err != nil {
			return nil, err
		}
		return &moody{f.(*os.File), m}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Stdout = io.Discard
	l, err := prepare(s)
	if err != nil {
		t.Fatal(err)
	}
	l.queues = nil
	l.file = l.sink("file", sink, true)
	l.start()
	t.Cleanup(l.Close)
	return l, path, m
}

// TestAFullDiskRefusesChangesAndHeals: a disk of a double, with room for every number of bytes of a line. What was written whole is not written again,
// and no line is glued to a torn one.
func TestAFullDiskRefusesChangesAndHeals(t *testing.T) {
	for _, room := range []int{0, 40, -2, -1} { // negative: so many bytes fewer than the line with its end
		t.Run(strconv.Itoa(room), func(t *testing.T) {
			t.Parallel()
			var said page
			at := time.Date(2026, 3, 1, 12, 0, 0, 123456000, time.UTC) // lines of one length
			l, path, m := inMoody(t, Settings{Log: slog.New(slog.NewTextHandler(&said, nil)), Now: func() time.Time { return at }})
			if _, err := l.Intend(t.Context(), change()); err != nil {
				t.Fatal(err)
			}
			is := l.lineOf(t.Context(), change())
			is.Outcome = intent
			length := len(head(at, l.boot, 2)) + len(is.tail())
			m.set(func() {
				if m.room = room; room < 0 {
					m.room = length + room + 1
				}
			})
			_, err := l.Intend(t.Context(), change())
			switch fits := room == -1 || room == -2; { // all but its end is enough: the next line brings that
			case fits && err != nil:
				t.Errorf("got %v", err)
			case !fits && (broker.KindOf(err) != broker.AuditUnavailable || !strings.Contains(err.Error(), "file")):
				t.Errorf("got %v", err)
			}
			refuses(t, l)
			if s := l.Status(); !s.Away || s.Problem != "file: no space left on device" || s.Lost != 0 {
				t.Errorf("got %+v", s)
			}
			m.set(func() { m.room = -1 })
			heals(t, l)
			if s := l.Status(); s.Away || s.Problem != "" {
				t.Errorf("got %+v", s)
			}
			l.Close()
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var whole []told
			torn := 0
			for raw := range strings.Lines(string(text)) {
				if !strings.HasSuffix(raw, "}\n") {
					torn++
					continue
				}
				whole = append(whole, readLine(t, raw))
			}
			inOrder(t, whole)
			if torn > 2 {
				t.Errorf("%d: %d lines are torn: %s", room, torn, text)
			}
			undone := 0
			for _, w := range whole {
				if w.Outcome == failed && w.Reason == "audit_unavailable" {
					undone++
				}
			}
			if undone == 0 {
				t.Errorf("%d: what was refused looks as if it had been done: %s", room, text)
			}
			if n := strings.Count(said.text.String(), "cannot be written"); n != 1 {
				t.Errorf("it is said %d times: %s", n, said.text.String())
			}
			if n := strings.Count(said.text.String(), "written again"); n != 1 || strings.Contains(said.text.String(), "credential") {
				t.Errorf("got %s", said.text.String())
			}
		})
	}
}

// TestAnIntentIsSyncedBeforeAnythingIsDone, and what nobody waits for is not synced by itself.
func TestAnIntentIsSyncedBeforeAnythingIsDone(t *testing.T) {
	l, _, m := inMoody(t, Settings{})
	for range 20 {
		done, err := l.Intend(t.Context(), change())
		m.set(func() {
			if err != nil || m.unready {
				t.Errorf("%v, or it is not synced", err)
			}
		})
		done(0, nil)
	}
}

// TestIntentsShareASync.
func TestIntentsShareASync(t *testing.T) {
	l, path, m := inMoody(t, Settings{})
	intends(t, l)
	hold := make(chan struct{})
	m.set(func() { m.hangs, m.syncs = hold, 0 })
	var all sync.WaitGroup
	var had atomic.Int64
	for range 100 {
		all.Go(func() {
			if _, err := l.Intend(t.Context(), change()); err == nil {
				had.Add(1)
			}
		})
	}
	for { // until all of them are queued
		l.mu.Lock()
		n := l.seq
		l.mu.Unlock()
		if n == 102 {
			break
		}
	}
	m.set(func() { m.hangs = nil })
	close(hold)
	all.Wait()
	m.set(func() {
		if m.syncs > 4 || had.Load() != 100 {
			t.Errorf("%d syncs for %d intents", m.syncs, had.Load())
		}
	})
	l.Close()
	inOrder(t, readFile(t, path))
}

// TestWhatASyncHasFailedForIsWrittenAgain: the system may have forgotten it. Its number says that it is the same line.
func TestWhatASyncHasFailedForIsWrittenAgain(t *testing.T) {
	var said page
	l, path, m := inMoody(t, Settings{Log: slog.New(slog.NewTextHandler(&said, nil))})
	intends(t, l)
	m.set(func() { m.syncFails = 1 })
	intends(t, l)
	l.Close()
	if !strings.Contains(said.text.String(), "input/output error") {
		t.Errorf("got %q", said.text.String())
	}
	seen := map[uint64]bool{}
	for _, is := range readFile(t, path) {
		seen[is.Seq] = true
	}
	if len(seen) != 4 {
		t.Errorf("got %v", seen)
	}
}

// TestWhatHappensToTheFileIsMendedByItself: removed, moved away, its directory gone, and there again.
func TestWhatHappensToTheFileIsMendedByItself(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "log")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "audit.log")
	l := an(t, Settings{File: path})
	intends(t, l)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	intends(t, l) // in a file of the same name
	if all := readFile(t, path); len(all) < 1 || all[0].Seq > 3 || all[0].Outcome == ok && all[0].Seq == 3 {
		t.Errorf("got %+v", all)
	}
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	refuses(t, l)
	if s := l.Status(); !s.Away || s.Problem != "file: no such file or directory" {
		t.Errorf("got %+v", s)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	heals(t, l)
	// At no time in between may the file be made anew: it is looked for now and then.
	if err := errors.Join(os.MkdirAll(filepath.Join(dir+".next", "audit.log"), 0o700), os.Rename(dir, dir+".former"), os.Rename(dir+".next", dir)); err != nil {
		t.Fatal(err)
	}
	refuses(t, l)
	if s := l.Status(); !strings.Contains(s.Problem, readfile.ErrNotRegular.Error()) {
		t.Errorf("got %+v", s)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	heals(t, l)
	l.Close()
	var all []told
	for _, name := range []string{filepath.Join(dir+".former", "audit.log"), path} {
		all = append(all, readFile(t, name)...)
	}
	for i, is := range all[1:] {
		if is.Seq != all[i].Seq+1 {
			t.Errorf("%d follows %d", is.Seq, all[i].Seq)
		}
	}
}

// TestAFileThatOthersMayWriteByNowIsNotOpenedAnew, and what it is in the place of is not gone on with for ever.
func TestAFileThatOthersMayWriteByNowIsNotOpenedAnew(t *testing.T) {
	l, path := inFile(t)
	intends(t, l)
	// At once: a line may be on its way, for which a file is opened that is there.
	if err := errors.Join(os.WriteFile(path+".2", nil, 0o600), os.Chmod(path+".2", 0o622), os.Link(path, path+".1"), os.Rename(path+".2", path)); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err == nil || !strings.Contains(err.Error(), "chmod go-w") || !strings.Contains(err.Error(), "the former one goes on") {
		t.Errorf("got %v", err)
	}
	refuses(t, l)
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	heals(t, l)
}

// TestEachLineIsInOneOfTheFilesThatARotationLeaves: eight write while the file is moved away and opened anew, again and again.
func TestEachLineIsInOneOfTheFilesThatARotationLeaves(t *testing.T) {
	l, path := inFile(t)
	stop := make(chan struct{})
	var all sync.WaitGroup
	var made atomic.Int64
	for i := range 8 {
		all.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				if i%2 == 0 {
					intends(t, l)
					made.Add(2)
				} else {
					if _, err := l.Use(t.Context(), issue(shop, broker.NewID().String())); err != nil {
						t.Error(err)
					}
					made.Add(1)
				}
			}
		})
	}
	var files []string
	for i := range 20 {
		moved := path + "." + string(rune('a'+i))
		for made.Load() < int64(i+1)*200 {
			continue // until there is something in it
		}
		if err := os.Rename(path, moved); err != nil {
			t.Error(err)
		}
		if err := l.Reopen(); err != nil {
			t.Error(err)
		}
		files = append(files, moved)
		if i%2 == 0 { // nothing is written to the former any more
			before, _ := os.Stat(moved)
			intends(t, l)
			if after, _ := os.Stat(moved); after.Size() != before.Size() {
				t.Error("it goes on in the file that was moved away")
			}
		}
	}
	close(stop)
	all.Wait()
	l.Close()
	var lines []told
	for _, f := range append(files, path) {
		lines = append(lines, readFile(t, f)...)
	}
	inOrder(t, lines)
	if len(lines) < int(made.Load()) {
		t.Errorf("%d lines of %d", len(lines), made.Load())
	}
	if s := l.Status(); s.Lost != 0 {
		t.Errorf("got %+v", s)
	}
}

// TestTheFormerFileIsSyncedBeforeItIsClosed, with what nobody waited for.
func TestTheFormerFileIsSyncedBeforeItIsClosed(t *testing.T) {
	l, path, m := inMoody(t, Settings{})
	for _, again := range []func() error{l.Reopen, func() error { intends(t, l); return nil }} {
		l.Note(t.Context(), issueOf("x"))
		for text := ""; !strings.Contains(text, `"x"`); { // written, and not synced for a second
			text, _ = readText(path)
		}
		if err := os.Rename(path, path+".1"); err != nil {
			t.Fatal(err)
		}
		m.set(func() { m.former, m.unready = true, true })
		if err := again(); err != nil {
			t.Error(err)
		}
		m.set(func() {
			if m.former {
				t.Error("it is not synced")
			}
		})
	}
}

// TestReopenWithoutAFileDoesNothing.
func TestReopenWithoutAFileDoesNothing(t *testing.T) {
	if err := an(t, Settings{Stdout: io.Discard}).Reopen(); err != nil {
		t.Error(err)
	}
}
