package bolt

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
)

// A change is a batch on its way to the disk.
type change struct {
	batch store.Batch
	// taken is set by the writer, which then applies it, or by a caller that gave up before: whoever is first.
	taken atomic.Bool
	done  chan struct{}
	err   error // what becomes of it; set before done is closed
}

// together is how many changes share one transaction, and so one fsync, at most.
const together = 256

// maxValue is far below what bbolt refuses: a change that could fail halfway would take others with it.
const maxValue = 16 << 20

// Apply implements store.Backend. It returns when the change is on the disk. Once begun it is not interrupted, so that
// whoever gives up while waiting knows that nothing has changed.
//
// Changes that arrive while another is being written are written together. bbolt's own Batch waits some time for company
// first, also when nobody comes, and runs all of them again when one fails.
func (d *DB) Apply(ctx context.Context, b store.Batch) error {
	if err := store.Ended(ctx); err != nil {
		return err
	}
	for _, p := range b.Puts {
		if len(p.Value) > maxValue {
			return store.Unavailable("a row is too big")
		}
	}
	c := &change{batch: b, done: make(chan struct{})}
	select {
	case d.changes <- c:
	case <-d.closing:
		return errClosed
	case <-ctx.Done():
		return store.Ended(ctx)
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		if c.taken.CompareAndSwap(false, true) {
			return store.Ended(ctx)
		}
		<-c.done // at most one write away
	}
	return c.err
}

// write is the one writer.
func (d *DB) write() {
	for {
		select {
		case c := <-d.changes:
			d.writeAll(d.company(c))
		case <-d.closing:
			return
		}
	}
}

// company returns the change with all that are waiting.
func (d *DB) company(c *change) []*change {
	all := []*change{c}
	for len(all) < together {
		select {
		case c := <-d.changes:
			all = append(all, c)
		default:
			return all
		}
	}
	return all
}

func (d *DB) writeAll(all []*change) {
	var begun []*change
	err := d.update(func(w *writer) (changed bool) {
		now := d.options.Now()
		for _, c := range all {
			if !c.taken.CompareAndSwap(false, true) {
				continue
			}
			begun = append(begun, c)
			var wrote bool
			wrote, c.err = w.apply(c.batch, now)
			changed = changed || wrote
		}
		return changed
	})
	for _, c := range all {
		// Where the transaction did not come to it, it has failed as well.
		if err != nil && c.taken.CompareAndSwap(false, true) {
			begun = append(begun, c)
		}
	}
	for _, c := range begun {
		if err != nil {
			c.err = err
		}
		close(c.done)
	}
}

// apply makes the change and reports whether it wrote anything. All conditions are checked before the first write: it fails with ErrConflict,
// and then has written nothing. What the disk says is in w.err.
func (w *writer) apply(b store.Batch, now time.Time) (bool, error) {
	revision := func(k store.Key) store.Revision {
		h, ok := headOf(w.rows.Get(rowKey(b.Group, k)))
		if !ok || h.over(now) {
			return store.Revision{}
		}
		return h.revision
	}
	for _, p := range b.Puts {
		if revision(p.Key) == p.Revision {
			return false, nil // applied already
		}
	}
	for _, c := range b.Conditions {
		if revision(c.Key) != c.Revision {
			return false, broker.ErrConflict
		}
	}
	if b.DeleteGroup {
		w.deletePrefix(groupPrefix(b.Group))
	}
	for _, kind := range b.Clear {
		w.deletePrefix(kindPrefix(b.Group, kind))
	}
	for _, k := range b.Deletes {
		w.delete(rowKey(b.Group, k))
	}
	for _, r := range b.Rooms {
		w.makeRoom(b.Group, r, now)
	}
	for _, p := range b.Puts {
		w.put(rowKey(b.Group, p.Key), p, now)
	}
	if b.Unlist != nil {
		w.unlist(*b.Unlist)
	}
	if b.List != nil {
		w.note(w.index.Put(indexKey(*b.List), []byte(b.Group)))
	}
	return true, nil
}

// A writer writes rows along with the order in which they end. The first error stays; the transaction is then given up.
type writer struct {
	rows, ends, index *bbolt.Bucket
	err               error
}

func (w *writer) note(err error) {
	if w.err == nil {
		w.err = err
	}
}

func (w *writer) delete(row []byte) {
	if h, ok := headOf(w.rows.Get(row)); ok && h.end != 0 {
		w.note(w.ends.Delete(endKey(h.end, row)))
	}
	w.note(w.rows.Delete(row))
}

func (w *writer) put(row []byte, p store.Put, now time.Time) {
	w.delete(row)
	var end int64
	if p.TTL > 0 {
		end = now.Add(p.TTL).UnixNano()
	}
	if ends := max(p.Ends.UnixNano(), 1); !p.Ends.IsZero() && (end == 0 || ends < end) {
		end = ends
	}
	if end != 0 {
		w.note(w.ends.Put(endKey(end, row), nil))
	}
	w.note(w.rows.Put(row, rowValue(p, end)))
}

// deletePrefix collects first: a cursor does not survive a change.
func (w *writer) deletePrefix(prefix []byte) {
	for _, row := range keysWith(w.rows, prefix) {
		w.delete(row)
	}
}

// makeRoom deletes the rows that end first. A row that never ends is the last of them.
func (w *writer) makeRoom(group store.Group, r store.Room, now time.Time) {
	type row struct {
		key store.Key
		end uint64
	}
	var there []row
	each(w.rows, group, r.Kind, func(k store.Key, v []byte) {
		if h, ok := headOf(v); ok && !h.over(now) && k.ID != [idSize]byte{} {
			there = append(there, row{k, uint64(h.end) - 1}) //nolint:gosec // never is 0, and comes last
		}
	})
	if len(there) < r.Most {
		return
	}
	slices.SortFunc(there, func(a, b row) int { return cmp.Compare(a.end, b.end) })
	for _, goes := range there[:len(there)-r.Most+1] {
		w.delete(rowKey(group, goes.key))
	}
}

func (w *writer) unlist(l store.Listing) {
	if l.Incarnation != [16]byte{} {
		w.note(w.index.Delete(indexKey(l)))
		return
	}
	for _, k := range keysWith(w.index, append([]byte(l.Name), 0)) {
		w.note(w.index.Delete(k))
	}
}

func keysWith(b *bbolt.Bucket, prefix []byte) [][]byte {
	var keys [][]byte
	c := b.Cursor()
	for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, _ = c.Next() {
		keys = append(keys, bytes.Clone(k))
	}
	return keys
}
