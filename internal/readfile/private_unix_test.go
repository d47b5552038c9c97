//go:build unix

package readfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/installed"
	"github.com/tokenbroker/tokenbroker/internal/readfile"
)

// A reader is whom a process of a test becomes for a moment.
type reader struct {
	uid, gid int
	groups   []int
}

// is runs do as that user.
func (r reader) is(t *testing.T, do func()) {
	t.Helper()
	groups, err := syscall.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(syscall.Setgroups(r.groups), syscall.Setregid(-1, r.gid), syscall.Setreuid(-1, r.uid)); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(syscall.Setreuid(-1, 0), syscall.Setregid(-1, 0), syscall.Setgroups(groups)); err != nil {
			panic(err) // what follows would be done by somebody else
		}
	}()
	do()
}

// rootsFile is a file that everybody can reach. Nobody but root can make one that is another user's.
func rootsFile(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		installed.Without(t, "only root can give a file away")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "secret")
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o755), os.WriteFile(path, []byte("secret"), 0o600)); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestAFileThatRootGives is read where root has given it to a group of ours, as Kubernetes does, and nobody else may write it.
func TestAFileThatRootGives(t *testing.T) {
	path := rootsFile(t)
	broker := reader{4711, 4712, []int{4712, 4713}}
	for _, x := range []struct {
		mode     os.FileMode
		uid, gid int
		as       reader
		open     bool
	}{
		{0o440, 0, 4712, broker, false}, {0o440, 0, 4713, broker, false}, {0o640, 0, 4713, broker, false}, {0o400, 0, 4714, broker, false},
		{0o440, 0, 4714, broker, true}, {0o444, 0, 4712, broker, true}, {0o660, 0, 4712, broker, true}, {0o450, 0, 4712, broker, true}, {0o440, 4711, 4712, broker, true},
		{0o440, 0, 0, reader{4711, 0, nil}, false}, {0o440, 0, 0, reader{4711, 4712, []int{0}}, false}, // whose group root's is
		{0o440, 0, 0, broker, true}, {0o640, 0, 0, broker, true}, // who could not read it by that
		{0o440, 0, 0, reader{0, 0, []int{0}}, true},
	} {
		if err := errors.Join(os.Chown(path, x.uid, x.gid), os.Chmod(path, x.mode)); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		x.as.is(t, func() {
			if got := readfile.OthersRead(path, info); got != x.open {
				t.Errorf("mode %o, %d:%d, read by %+v: got open %v", x.mode, x.uid, x.gid, x.as, got)
			}
			if got, err := readfile.Private(path, 10); (err == nil) == x.open && x.mode != 0o400 {
				t.Errorf("mode %o, %d:%d, read by %+v: got %q, %v", x.mode, x.uid, x.gid, x.as, got, err)
			}
		})
	}
}

// TestWhoElseWrites: root's group is no other.
func TestWhoElseWrites(t *testing.T) {
	path := rootsFile(t)
	for _, x := range []struct {
		mode os.FileMode
		gid  int
		want bool
	}{{0o664, 0, false}, {0o644, 4712, false}, {0o664, 4712, true}, {0o666, 0, true}, {0o646, 0, true}} {
		if err := errors.Join(os.Chown(path, 0, x.gid), os.Chmod(path, x.mode)); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := readfile.OthersWrite(path, info); got != x.want {
			t.Errorf("mode %o, group %d: got %v", x.mode, x.gid, got)
		}
	}
}
