package bolt

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"io"
	"os"
	"sync/atomic"

	"go.etcd.io/bbolt"
)

// bbolt's file format, version 2: two meta pages at the start, of which the valid one with the higher transaction id counts.
// A page begins with a head of 16 bytes; then comes, in the machine's byte order: magic (4), version (4), page size (4), flags
// (4), root (16), freelist (8), number of pages (8), transaction id (8), checksum of all that (8).
const (
	pageHead  = 16
	metaSize  = 64
	metaMagic = 0xED0CDAED
	sumAt     = metaSize - 8
)

// inspect looks at a file before bbolt maps it into memory: reading a mapped page that the file is too short for kills the
// process.
func inspect(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return errors.New(reason(err))
	}
	defer func() { _ = f.Close() }() // only read from
	info, err := f.Stat()
	if err != nil {
		return errors.New(reason(err))
	}
	if info.Size() == 0 {
		return errTruncated // createFile leaves no empty file
	}
	pages, size, found, err := lastMeta(f)
	switch {
	case err != nil:
		return errors.New(reason(err))
	case !found && looksLikeOurs(f):
		return errDamaged
	case !found:
		return errForeign
	case pages > uint64(info.Size())/size:
		return errTruncated
	}
	return nil
}

// lastMeta returns the number of pages and the page size that the valid meta page says.
func lastMeta(f io.ReaderAt) (pages, size uint64, found bool, err error) {
	var transaction uint64
	// The second meta page is at the page size, which only the metas say: look at each.
	for at := int64(0); at <= 1<<16; at = max(2*at, 512) {
		b := make([]byte, metaSize)
		n, err := f.ReadAt(b, at+pageHead)
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, false, err
		}
		if n < metaSize || !validMeta(b) {
			continue
		}
		order := binary.NativeEndian
		if t := order.Uint64(b[48:]); !found || t > transaction {
			found, transaction = true, t
			size, pages = uint64(order.Uint32(b[8:])), order.Uint64(b[40:])
		}
	}
	return pages, size, found && size > 0, nil
}

func validMeta(b []byte) bool {
	if binary.NativeEndian.Uint32(b) != metaMagic {
		return false
	}
	sum := fnv.New64a()
	_, _ = sum.Write(b[:sumAt]) // never fails
	return sum.Sum64() == binary.NativeEndian.Uint64(b[sumAt:])
}

// looksLikeOurs tells a damaged file from one that was never ours.
func looksLikeOurs(f io.ReaderAt) bool {
	b := make([]byte, 4)
	_, err := f.ReadAt(b, pageHead)
	return err == nil && binary.NativeEndian.Uint32(b) == metaMagic
}

// check walks over everything once.
func check(db *bbolt.DB) error {
	return db.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(metaBucket)
		if meta == nil {
			return errForeign
		}
		if got := string(meta.Get(formatKey)); got != format {
			return errForeign
		}
		for _, name := range [][]byte{rowsBucket, endsBucket, indexBucket} {
			b := tx.Bucket(name)
			if b == nil {
				return errDamaged
			}
			if err := touch(b); err != nil {
				return err
			}
		}
		// After touch, because bbolt checks in a goroutine of its own, whose faults cannot be caught here.
		damaged := false
		for range tx.Check() {
			damaged = true
		}
		if damaged {
			return errDamaged
		}
		return nil
	})
}

// touch reads every key, in order, and both ends of every value.
func touch(b *bbolt.Bucket) error {
	var last string
	var ends byte
	err := b.ForEach(func(k, v []byte) error {
		key := string(k)
		if key <= last || len(v) > maxValue+headSize {
			return errDamaged
		}
		last = key
		if len(v) > 0 {
			ends ^= v[0] ^ v[len(v)-1]
		}
		return nil
	})
	touched.Store(uint32(ends))
	return err
}

// touched keeps the compiler from leaving the reads out.
var touched atomic.Uint32
