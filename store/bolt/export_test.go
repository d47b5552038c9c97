package bolt

import (
	"time"

	"go.etcd.io/bbolt"
)

// Sweep deletes up to SweepAtOnce rows whose time is over, and returns how many.
func (d *DB) Sweep() (int, error) { return d.sweep() }

// SweepAtOnce bounds a sweep.
const SweepAtOnce = sweepAtOnce

// Stored returns how many rows there are, those whose time is over included, and how many of them are noted to end.
func (d *DB) Stored() (rows, ends int) {
	err := d.db.View(func(tx *bbolt.Tx) error {
		rows, ends = tx.Bucket(rowsBucket).Stats().KeyN, tx.Bucket(endsBucket).Stats().KeyN
		return nil
	})
	if err != nil {
		panic(err)
	}
	return rows, ends
}

// Limit makes the file refuse to grow beyond so many bytes, as a full disk does; 0: no more.
func (d *DB) Limit(bytes int) { d.db.MaxSize = bytes }

// Free makes a backup believe that the disk has so many bytes left.
func (d *DB) Free(bytes uint64) { d.free = func(string) (uint64, bool) { return bytes, true } }

// SpareLeast is what a backup of few data leaves on the disk.
const SpareLeast = spareLeast

// CopyWithin bounds how long a backup may hold its transaction.
func (d *DB) CopyWithin(t time.Duration) { d.copyMost = t }
