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
func (d *DB) sweep() (int, error) {
	n := 0
	err := guard(func() error {
		return d.db.Update(func(tx *bbolt.Tx) error {
			n = 0
			w := writer{rows: tx.Bucket(rowsBucket), ends: tx.Bucket(endsBucket)}
			now := d.options.Now().UnixNano()
			var over [][]byte
			c := w.ends.Cursor()
			for k, _ := c.First(); len(k) >= endSize && len(over) < sweepAtOnce; k, _ = c.Next() {
				if endOf(k) > now {
					break
				}
				over = append(over, bytes.Clone(k))
			}
			if len(over) == 0 {
				return errUnchanged
			}
			for _, k := range over {
				w.note(w.ends.Delete(k))
				row := k[endSize:]
				if h, ok := headOf(w.rows.Get(row)); ok && h.over(d.options.Now()) {
					w.note(w.rows.Delete(row))
				}
			}
			n = len(over)
			return w.err
		})
	})
	if errors.Is(err, errUnchanged) {
		return 0, nil
	}
	return n, failed(err)
}

// ClearAll implements store.Exclusive.
func (d *DB) ClearAll(ctx context.Context, kind store.Kind) (int, error) {
	if err := store.Ended(ctx); err != nil {
		return 0, err
	}
	n := 0
	err := guard(func() error {
		return d.db.Update(func(tx *bbolt.Tx) error {
			n = 0
			w := writer{rows: tx.Bucket(rowsBucket), ends: tx.Bucket(endsBucket)}
			var found [][]byte
			c := w.rows.Cursor()
			for k, _ := c.First(); k != nil; k, _ = c.Next() {
				if kindOf(k) == string(kind) {
					found = append(found, bytes.Clone(k))
				}
			}
			if len(found) == 0 {
				return errUnchanged
			}
			for _, k := range found {
				w.delete(k)
			}
			n = len(found)
			return w.err
		})
	})
	if errors.Is(err, errUnchanged) {
		return 0, nil
	}
	return n, failed(err)
}
