package bolt

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/tokenbroker/tokenbroker/internal/newfile"
	"github.com/tokenbroker/tokenbroker/store"
)

const (
	// copyMost bounds how long a backup holds its transaction: until that ends, no page that is written anew makes room, and
	// a file that outgrows its map waits, and all readers with it.
	copyMost = time.Minute
	// spareMost and spareLeast bound what a backup leaves on the disk, so that the broker's own writes find room: as much as the data have grown to.
	spareMost, spareLeast = 64 << 20, 1 << 20
)

// Backup writes the data file as of one moment to w, while the broker goes on, however slowly w takes it: what it writes
// was copied beside the data file first, and is on the disk until Backup returns. What it writes can be used as a data file,
// along with the key file, which it does not hold. It fails with StoreUnavailable, also when w fails, and before anything is
// written to w when another Backup is under way, when the disk has no room for the copy, or when copying takes more than a
// minute. When ctx ends, what was written so far is of no use; that is noticed between two writes to w.
func (d *DB) Backup(ctx context.Context, w io.Writer) error {
	if !d.backingUp.CompareAndSwap(false, true) {
		return store.Unavailable("another backup is under way: try again when it is done")
	}
	defer d.backingUp.Store(false)
	f, err := d.nameless()
	if err != nil {
		return store.Unavailable("the copy beside the data file: " + reason(err))
	}
	defer func() { _ = f.Close() }() // of no use any more
	bounded, cancel := context.WithTimeout(ctx, d.copyMost)
	defer cancel()
	if err := d.copyTo(bounded, f, d.room); err != nil {
		if bounded.Err() != nil && ctx.Err() == nil {
			return store.Unavailable("copying the data file took more than " + d.copyMost.String() + ": back it up while no broker runs")
		}
		return err
	}
	if _, err = f.Seek(0, io.SeekStart); err == nil {
		_, err = io.Copy(whileRunning(ctx, w), f)
	}
	if ended := store.Ended(ctx); ended != nil {
		return ended
	}
	return failed(err)
}

// nameless opens a new file beside the data file that is gone when it is closed, however the process ends. What a process
// left that ended before it took the name away is empty, and replaced.
func (d *DB) nameless() (*os.File, error) {
	name := d.path + ".copy"
	if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) //nolint:gosec // beside the data file
	if err != nil {
		return nil, err
	}
	if err := os.Remove(name); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// copyTo writes the file as of one moment to w. allowed is asked before, with its size.
func (d *DB) copyTo(ctx context.Context, w io.Writer, allowed func(size int64) error) error {
	return d.view(ctx, func(tx *bbolt.Tx, _ time.Time) error {
		if err := allowed(tx.Size()); err != nil {
			return err
		}
		_, err := tx.WriteTo(whileRunning(ctx, w))
		if ended := store.Ended(ctx); ended != nil {
			return ended
		}
		return err
	})
}

// room fails where the disk that the data file is on has no room for a copy of this size.
func (d *DB) room(size int64) error {
	free, known := d.free(filepath.Dir(d.path))
	if needed := uint64(size + min(max(size, spareLeast), spareMost)); known && free < needed { //nolint:gosec // sizes are not negative
		return store.Unavailable(fmt.Sprintf("the disk is full: a backup needs %.1f MiB beside the data file, and there are %.1f: make room, or back up while no broker runs",
			float64(needed)/(1<<20), float64(free)/(1<<20)))
	}
	return nil
}

// whileRunning is w until ctx ends.
func whileRunning(ctx context.Context, w io.Writer) io.Writer {
	return writerFunc(func(p []byte) (int, error) {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return w.Write(p)
	})
}

// A writerFunc is an io.Writer.
type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// BackupFile writes what Backup writes into a new file at path, with mode 0600. It appears whole or not at all, and a file
// that is there is not overwritten. It makes no copy on the way: while a broker is at work, path is to be on a disk that is
// as quick as the data file's.
func (d *DB) BackupFile(ctx context.Context, path string) error {
	if _, err := os.Lstat(path); err == nil {
		return unusable(path, "it is there already, and a backup never overwrites a file")
	}
	var failure error // of the copying, which says more than reason would
	err := newfile.Write(path, func(f *os.File) error {
		failure = d.copyTo(ctx, f, func(int64) error { return nil })
		return failure
	})
	if failure == nil && err != nil {
		return unusable(path, reason(err))
	}
	return failure
}
