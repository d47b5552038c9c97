package bolt

import (
	"bytes"
	"context"
	"errors"
	"time"

	"go.etcd.io/bbolt"

	"github.com/tokenbroker/tokenbroker/store"
)

// sweepAtOnce bounds how long a sweep holds up writers.
const sweepAtOnce = 1000

func (d *DB) sweepUntilClosed() {
	t := time.NewTicker(d.options.SweepEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-d.closing:
			return
		}
		for {
			// A sweep that fails is not missed: readers see no row whose time is over, and the next one tries again.
			n, err := d.sweep()
			if err != nil || n < sweepAtOnce {
				break
			}
			select {
			case <-d.closing:
				return
			default:
			}
		}
	}
}

// sweep deletes up to sweepAtOnce rows whose time is over, and returns how many.
func (d *DB) sweep() (n int, err error) {
	err = d.update(func(w *writer) bool {
		now := d.options.Now()
		var over [][]byte
		c := w.ends.Cursor()
		for k, _ := c.First(); len(k) >= endSize && len(over) < sweepAtOnce && endOf(k) <= now.UnixNano(); k, _ = c.Next() {
			over = append(over, bytes.Clone(k))
		}
		for _, k := range over {
			w.note(w.ends.Delete(k))
			row := k[endSize:]
			if h, ok := headOf(w.rows.Get(row)); ok && h.over(now) {
				w.note(w.rows.Delete(row))
			}
		}
		n = len(over)
		return n > 0
	})
	return n, err
}

// ClearAll implements store.Exclusive.
func (d *DB) ClearAll(ctx context.Context, kind store.Kind) (n int, err error) {
	if err := store.Ended(ctx); err != nil {
		return 0, err
	}
	err = d.update(func(w *writer) bool {
		var found [][]byte
		c := w.rows.Cursor()
		for k, _ := c.First(); k != nil; k, _ = c.Next() {
			if kindOf(k) == string(kind) {
				found = append(found, bytes.Clone(k))
			}
		}
		for _, k := range found {
			w.delete(k)
		}
		n = len(found)
		return n > 0
	})
	return n, err
}

// update writes what f writes, in one transaction. f says whether it wrote anything: where it did not, the fsync is spared.
func (d *DB) update(f func(*writer) (changed bool)) error {
	err := guard(func() error {
		return d.db.Update(func(tx *bbolt.Tx) error {
			w := &writer{rows: tx.Bucket(rowsBucket), ends: tx.Bucket(endsBucket), index: tx.Bucket(indexBucket)}
			if changed := f(w); !changed && w.err == nil {
				return errUnchanged
			}
			return w.err
		})
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	return failed(err)
}
