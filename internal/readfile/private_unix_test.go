//go:build unix

package readfile_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/readfile"
)

// TestAFileThatRootGives is read where root has given it to a group of ours, as Kubernetes and systemd do, and nobody else may write it.
func TestAFileThatRootGives(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	path := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(path, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	ours, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		mode     os.FileMode
		uid, gid int
		as       int
		open     bool
	}{
		{0o440, 0, 0, 4711, false}, {0o640, 0, 0, 4711, false}, {0o440, 0, 0, 0, true}, {0o444, 0, 0, 4711, true}, {0o660, 0, 0, 4711, true},
		{0o440, 0, 4712, 4711, true}, {0o440, 4711, 0, 4711, true}, {0o400, 0, 4712, 4711, false},
	} {
		if slices.Contains(ours, x.gid) && x.gid != 0 {
			continue
		}
		if err := errors.Join(os.Chown(path, x.uid, x.gid), os.Chmod(path, x.mode)); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := seteuid(x.as); err != nil {
			t.Fatal(err)
		}
		got := readfile.OthersRead(info)
		if err := seteuid(0); err != nil {
			t.Fatal(err)
		}
		if got != x.open {
			t.Errorf("mode %o, %d:%d, read by %d: got open %v", x.mode, x.uid, x.gid, x.as, got)
		}
	}
}

func seteuid(uid int) error { return syscall.Setreuid(-1, uid) }
