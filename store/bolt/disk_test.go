//go:build unix

package bolt_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/bolt"
)

// fullDiskEnv makes the test binary a process whose files cannot grow; its value is the data directory.
const fullDiskEnv = "TOKENBROKER_TEST_FULL_DISK"

func init() { roles[fullDiskEnv] = fullDisk }

// TestFullDisk lets the system refuse to write, in a process of its own because the limit is the whole process's.
func TestFullDisk(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), fullDiskEnv+"="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}

func fullDisk() {
	check := func(ok bool, what string, args ...any) {
		if !ok {
			fmt.Printf(what+"\n", args...)
			os.Exit(1)
		}
	}
	ctx := context.Background()
	signal.Ignore(syscall.SIGXFSZ)
	path := filepath.Join(os.Getenv(fullDiskEnv), "tokenbroker.db")
	d, err := bolt.Open(path, bolt.Options{})
	check(err == nil, "open: %v", err)
	write := func(n int) error {
		p := put(n, 0)
		p.Value = make([]byte, 10_000)
		return d.Apply(ctx, store.Batch{Group: "c:a", Puts: []store.Put{p}})
	}
	rows := func() int {
		all, err := d.List(ctx, []store.Group{"c:a"}, "token")
		check(err == nil, "list: %v", err)
		return len(all[0].Rows)
	}
	check(write(0) == nil, "write: %v", err)
	info, err := os.Stat(path)
	check(err == nil, "stat: %v", err)
	var before unix.Rlimit
	check(unix.Getrlimit(unix.RLIMIT_FSIZE, &before) == nil, "getrlimit")
	check(unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: uint64(info.Size()), Max: before.Max}) == nil, "setrlimit")
	little := uint64(info.Size()) / 100
	check(unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: little, Max: before.Max}) == nil, "setrlimit")
	err = d.Backup(ctx, io.Discard)
	check(errors.Is(err, broker.StoreUnavailable) && strings.Contains(err.Error(), "the disk is full: file too large"), "a backup on a full disk: %v", err)
	check(unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: uint64(info.Size()), Max: before.Max}) == nil, "setrlimit")
	made := 1
	for ; made < 1000; made++ {
		if err = write(made); err != nil {
			break
		}
	}
	check(errors.Is(err, broker.StoreUnavailable) && strings.Contains(err.Error(), "the disk is full: file too large"), "a full disk: %v", err)
	check(rows() == made, "%d rows are there, %d were acknowledged", rows(), made)
	check(unix.Setrlimit(unix.RLIMIT_FSIZE, &before) == nil, "setrlimit")
	err = write(made)
	check(err == nil && rows() == made+1, "when there is room again: %v", err)
	err = d.Close()
	check(err == nil, "close: %v", err)
	d, err = bolt.Open(path, bolt.Options{})
	check(err == nil && rows() == made+1, "open again: %v", err)
	check(d.Close() == nil, "close")
}

// TestNoMoreRoom is the same without the system: bbolt's own limit.
func TestNoMoreRoom(t *testing.T) {
	d := open(t, newPath(t))
	apply(t, d, put(0, 0))
	d.Limit(1 << 16)
	big := put(1, 0)
	big.Value = make([]byte, 1<<20)
	if err := d.Apply(t.Context(), store.Batch{Group: "c:a", Puts: []store.Put{big}}); !errors.Is(err, broker.StoreUnavailable) {
		t.Errorf("got %v", err)
	}
	if n := count(t, d); n != 1 {
		t.Errorf("%d rows are there, want 1", n)
	}
	d.Limit(0)
	apply(t, d, big)
}
