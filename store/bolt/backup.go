package bolt

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"github.com/tokenbroker/tokenbroker/store"
)

// Backup writes the data file as of one moment to w, while the broker goes on. What it writes can be used as a data file,
// along with the key file, which it does not hold. It fails with StoreUnavailable, also when w fails; when ctx ends, what
// was written so far is of no use.
func (d *DB) Backup(ctx context.Context, w io.Writer) error {
	return d.view(ctx, func(tx *bbolt.Tx, _ time.Time) error {
		_, err := tx.WriteTo(writerFunc(func(p []byte) (int, error) {
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			return w.Write(p)
		}))
		if ended := store.Ended(ctx); ended != nil {
			return ended
		}
		return err
	})
}

// A writerFunc is an io.Writer.
type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// BackupFile is Backup into a new file at path, with mode 0600. It appears whole or not at all, and a file that is there is
// not overwritten.
func (d *DB) BackupFile(ctx context.Context, path string) error {
	if _, err := os.Lstat(path); err == nil {
		return unusable(path, "it is there already, and a backup overwrites nothing")
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".backup-*") // 0600
	if err != nil {
		return unusable(path, reason(err))
	}
	defer func() { _ = os.Remove(f.Name()) }()
	if err := d.Backup(ctx, f); err != nil {
		_ = f.Close()
		return err
	}
	err = f.Sync()
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Link(f.Name(), path) // fails where something is by now
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return unusable(path, reason(err))
	}
	return nil
}
