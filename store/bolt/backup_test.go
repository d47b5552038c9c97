package bolt_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/bolt"
)

func TestBackupWhileWriting(t *testing.T) {
	d := open(t, newPath(t))
	apply(t, d, put(0, 0))
	stop := make(chan struct{})
	var writing sync.WaitGroup
	writing.Go(func() {
		for n := 1; ; n += 2 {
			select {
			case <-stop:
				return
			default:
				apply(t, d, put(n, 0), put(n+1, 0))
			}
		}
	})
	dir := t.TempDir()
	for _, name := range []string{"one", "two", "three"} {
		path := filepath.Join(dir, name)
		if err := d.BackupFile(t.Context(), path); err != nil {
			t.Errorf("backup: %v", err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode: got %v, %v", info.Mode(), err)
		}
		if n := count(t, open(t, path)); n%2 != 1 {
			t.Errorf("the backup has %d rows: half of a change", n)
		}
	}
	close(stop)
	writing.Wait()
	var b bytes.Buffer
	if err := d.Backup(t.Context(), &b); err != nil {
		t.Fatalf("backup: %v", err)
	}
	path := filepath.Join(dir, "four")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := count(t, open(t, path)), count(t, d); got != want {
		t.Errorf("the backup has %d rows, want %d", got, want)
	}
}

// A stuckWriter takes nothing until it is released: a reader that was stopped, or whose disk hangs.
type stuckWriter struct {
	bytes.Buffer
	reached, released chan struct{}
	once              sync.Once
}

func (w *stuckWriter) Write(p []byte) (int, error) {
	w.once.Do(func() { close(w.reached) })
	<-w.released
	return w.Buffer.Write(p)
}

// TestBackupThatNobodyReads: with a reader that is stuck, pages that are written anew make room as ever: the file does not
// grow, and so never has to wait for the reader. What the reader gets in the end is the moment at which it began.
func TestBackupThatNobodyReads(t *testing.T) {
	path := newPath(t)
	d := open(t, path)
	apply(t, d, put(0, 0))
	size := func() int64 {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return info.Size()
	}
	rewrite := func(times int) {
		for range times {
			p := put(1, 0)
			p.Value = make([]byte, 256<<10)
			apply(t, d, p)
		}
	}
	rewrite(3)
	// The name of the copy is taken by what a broker left that was killed.
	if err := os.WriteFile(path+".copy", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w := &stuckWriter{reached: make(chan struct{}), released: make(chan struct{})}
	done := make(chan error)
	go func() { done <- d.Backup(context.Background(), w) }()
	<-w.reached
	before := size()
	rewrite(40) // 10 MiB
	apply(t, d, put(2, 0))
	if after := size(); after > before+1<<20 {
		t.Errorf("the file grew from %d to %d bytes while nobody read the backup", before, after)
	}
	if n := count(t, d); n != 3 {
		t.Errorf("got %d rows, want 3", n)
	}
	if files, err := os.ReadDir(filepath.Dir(path)); err != nil || len(files) != 2 {
		t.Errorf("files: got %v, %v, want the data and the lock", files, err)
	}
	if err := d.Backup(t.Context(), io.Discard); !errors.Is(err, broker.StoreUnavailable) || !strings.Contains(err.Error(), "another backup is under way") {
		t.Errorf("a second backup: got %v", err)
	}
	close(w.released)
	if err := <-done; err != nil {
		t.Fatalf("backup: %v", err)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(copied, w.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := count(t, open(t, copied)); n != 2 {
		t.Errorf("the backup has %d rows, want the 2 of when it began", n)
	}
	if err := d.Backup(t.Context(), io.Discard); err != nil {
		t.Errorf("another one afterwards: %v", err)
	}
}

// TestBackupWithoutRoom: the copy must leave the broker's own writes some room.
func TestBackupWithoutRoom(t *testing.T) {
	d := open(t, newPath(t))
	apply(t, d, put(0, 0))
	var b bytes.Buffer
	d.Free(bolt.SpareLeast)
	err := d.Backup(t.Context(), &b)
	if !errors.Is(err, broker.StoreUnavailable) || !strings.Contains(err.Error(), "the disk is full: a backup needs 1.") || b.Len() > 0 {
		t.Errorf("got %v, %d bytes", err, b.Len())
	}
	d.Free(bolt.SpareLeast + 1<<20)
	if err := d.Backup(t.Context(), &b); err != nil || b.Len() == 0 {
		t.Errorf("with room: got %v, %d bytes", err, b.Len())
	}
}

func TestBackupOfASlowDisk(t *testing.T) {
	d := open(t, newPath(t))
	d.CopyWithin(-1)
	var b bytes.Buffer
	err := d.Backup(t.Context(), &b)
	if !errors.Is(err, broker.StoreUnavailable) || !strings.Contains(err.Error(), "took more than") || b.Len() > 0 {
		t.Errorf("got %v, %d bytes", err, b.Len())
	}
}

// TestBackupRestores: a backup and the key file are all that is needed.
func TestBackupRestores(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	d := open(t, newPath(t))
	keys, err := store.LoadKeyring(ctx, d, filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	s := newStore(t, d, keys)
	c := broker.Credential{Name: "a", Incarnation: broker.NewID(), Etag: broker.NewID()}
	if err := s.CreateCredential(ctx, c, &broker.Grant{RefreshToken: broker.NewSecret("r1")}); err != nil {
		t.Fatal(err)
	}
	if err := d.BackupFile(ctx, filepath.Join(dir, "backup")); err != nil {
		t.Fatal(err)
	}
	restored := open(t, filepath.Join(dir, "backup"))
	keys, err = store.LoadKeyring(ctx, restored, filepath.Join(dir, "key"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := newStore(t, restored, keys).Read(ctx, broker.TokenKey{Credential: "a"}, "")
	if err != nil || v.Grant.RefreshToken.Reveal() != "r1" {
		t.Errorf("restored: %+v, %v", v.Grant, err)
	}
}

func TestBackupRefuses(t *testing.T) {
	data := newPath(t)
	d := open(t, data)
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	if err := os.WriteFile(there, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "nowhere"), link); err != nil {
		t.Fatal(err)
	}
	for path, says := range map[string]string{
		there: "never overwrites a file", link: "never overwrites a file", data: "never overwrites a file",
		filepath.Join(dir, "missing", "b"): "no such file",
	} {
		if err := d.BackupFile(t.Context(), path); !errors.Is(err, broker.StoreUnavailable) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: got %v, want it to say %q", path, err, says)
		}
	}
	if data, err := os.ReadFile(there); err != nil || string(data) != "precious" {
		t.Errorf("a file was overwritten: %q, %v", data, err)
	}

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	path := filepath.Join(dir, "ended")
	if err := d.BackupFile(ended, path); !errors.Is(err, context.Canceled) || !errors.Is(err, broker.StoreUnavailable) {
		t.Errorf("with an ended context: got %v", err)
	}
	amid, cancel := context.WithCancel(t.Context())
	w := cancelingWriter{cancel: cancel}
	if err := d.Backup(amid, &w); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that ends amid: got %v", err)
	}
	if err := d.Backup(t.Context(), failingWriter{}); !errors.Is(err, broker.StoreUnavailable) || strings.Contains(err.Error(), "foreign") {
		t.Errorf("with a writer that fails: got %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 2 {
		t.Errorf("left behind: %v", left)
	}
}

type cancelingWriter struct{ cancel context.CancelFunc }

func (w *cancelingWriter) Write(p []byte) (int, error) {
	w.cancel()
	return len(p), nil
}

type failingWriter struct{}

func (failingWriter) Write([]byte) (int, error) { return 0, errors.New("foreign text") }
