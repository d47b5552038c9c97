package bolt

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"io"
	"os"

	"go.etcd.io/bbolt"
)

// bbolt's file format, version 2, in the machine's byte order. A page begins with a head: its number (8), flags (2), number of
// elements (2), number of pages that it goes on over (4). The first two pages are metas, of which the valid one with the
// higher transaction id counts; after the head: magic (4), version (4), page size (4), flags (4), root bucket (16), page of the
// freelist (8), number of pages (8), transaction id (8), checksum of all that (8). walk.go has the others.
const (
	pageHead  = 16
	metaSize  = 64
	metaMagic = 0xED0CDAED
	metaSumAt = metaSize - 8
	version   = 2
)

// A meta is what a meta page says.
type meta struct {
	size                  uint64 // of a page
	root, freelist, pages uint64
	transaction           uint64
}

// inspect looks at a whole file before bbolt maps it into memory: there, a page that is not what it seems, or that the file
// is too short for, kills the process.
func inspect(path string) error {
	f, err := os.Open(path) //nolint:gosec // the operator says where the file lies
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read from
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return inspectData(f, info.Size())
}

// Inspect says what is wrong with data that are to be a data file, before they are opened: ErrForeign, ErrTruncated, ErrDamaged; nil: nothing is
// that can be seen from outside.
func Inspect(f io.ReaderAt, size int64) error { return inspectData(f, size) }

func inspectData(f io.ReaderAt, size int64) error {
	if size == 0 {
		return ErrTruncated // createFile leaves no empty file
	}
	m, err := lastMeta(f)
	switch {
	case err != nil:
		return err
	case m.pages > uint64(size)/m.size: //nolint:gosec // sizes are not negative
		return ErrTruncated
	}
	return walk(f, m)
}

// lastMeta returns the valid meta that counts.
func lastMeta(f io.ReaderAt) (meta, error) {
	var last meta
	ours := false
	// The second meta page is at the page size, which only the metas say: look at each.
	for at := int64(0); at <= 1<<16; at = max(2*at, 512) {
		b := make([]byte, metaSize)
		n, err := f.ReadAt(b, at+pageHead)
		if err != nil && !errors.Is(err, io.EOF) {
			return last, err
		}
		if n < 4 || binary.NativeEndian.Uint32(b) != metaMagic {
			continue
		}
		ours = true
		if m, ok := parseMeta(b[:n]); ok && m.transaction >= last.transaction {
			last = m
		}
	}
	switch {
	case !ours:
		return last, ErrForeign
	case last.size == 0:
		return last, ErrDamaged
	}
	return last, nil
}

func parseMeta(b []byte) (meta, bool) {
	if len(b) < metaSize {
		return meta{}, false
	}
	order, sum := binary.NativeEndian, fnv.New64a()
	_, _ = sum.Write(b[:metaSumAt]) // never fails
	m := meta{
		size: uint64(order.Uint32(b[8:])), root: order.Uint64(b[16:]), freelist: order.Uint64(b[32:]),
		pages: order.Uint64(b[40:]), transaction: order.Uint64(b[48:]),
	}
	return m, sum.Sum64() == order.Uint64(b[metaSumAt:]) && order.Uint32(b[4:]) == version && m.size >= 512
}

// check tells a data file of ours from other bbolt files.
func check(db *bbolt.DB) error {
	return db.View(func(tx *bbolt.Tx) error {
		meta := tx.Bucket(metaBucket)
		if meta == nil || string(meta.Get(formatKey)) != format {
			return ErrForeign
		}
		for _, name := range [][]byte{rowsBucket, endsBucket, indexBucket} {
			if tx.Bucket(name) == nil {
				return ErrDamaged
			}
		}
		return nil
	})
}
