package bolt

import (
	"bytes"
	"encoding/binary"
	"io"
)

// The pages that hold something. Elements follow the head, 16 bytes each; positions count from the element.
//
//	branch    position of the key (4), its length (4), page below (8)
//	leaf      flags (4; 1: the value is a bucket), position of the key (4), its length (4), length of the value behind it (4)
//	freelist  numbers of free pages (8 each), ascending; where there are 65,535 or more, their number (8) comes first
//
// A bucket is its root page (8) and a sequence (8); where the root page is 0, a leaf page follows in place.
const (
	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10
	elementSize  = 16
	bucketSize   = 16
	bucketFlag   = 1
	manyFree     = 0xFFFF
	noFreelist   = ^uint64(0)
	// deepest is far deeper than a tree of any size is.
	deepest = 64
)

// bbolt's own check does not do here: see docs/decisions/0009-reading-the-file-ourselves.md.

// A walker visits every page of a file once.
type walker struct {
	f     io.ReaderAt
	m     meta
	used  []bool // pages that hold something, or are free
	count uint64 // of them
}

// walk fails with ErrDamaged unless every page of the file is where it belongs, exactly once, and keys are in order.
func walk(f io.ReaderAt, m meta) error {
	w := &walker{f: f, m: m, used: make([]bool, m.pages), count: 2} // the metas
	if !w.tree(m.root, nil, nil, 0) || !w.free() || w.count != m.pages && m.freelist != noFreelist {
		return ErrDamaged
	}
	return nil
}

// A page is read whole, with the pages that it goes on over.
type page struct {
	flags, count uint16
	data         []byte
}

func parsePage(data []byte) (page, bool) {
	if len(data) < pageHead {
		return page{}, false
	}
	order := binary.NativeEndian
	return page{flags: order.Uint16(data[8:]), count: order.Uint16(data[10:]), data: data}, true
}

// read takes a page; false if it is not there, says it is another, or was taken already.
func (w *walker) read(number uint64) (page, bool) {
	head := make([]byte, pageHead)
	if number < 2 || number >= w.m.pages {
		return page{}, false
	}
	at := int64(number * w.m.size) //nolint:gosec // within the file, which inspect has measured
	if _, err := w.f.ReadAt(head, at); err != nil {
		return page{}, false
	}
	order := binary.NativeEndian
	more := uint64(order.Uint32(head[12:]))
	if order.Uint64(head) != number || more >= w.m.pages-number {
		return page{}, false
	}
	for n := number; n <= number+more; n++ {
		if !w.take(n) {
			return page{}, false
		}
	}
	data := make([]byte, (more+1)*w.m.size)
	if _, err := w.f.ReadAt(data, at); err != nil {
		return page{}, false
	}
	return parsePage(data)
}

func (w *walker) take(number uint64) bool {
	if number < 2 || number >= w.m.pages || w.used[number] {
		return false
	}
	w.used[number] = true
	w.count++
	return true
}

// tree visits what is below a page, whose keys are all at least from, and below to; nil: no bound.
func (w *walker) tree(number uint64, from, to []byte, depth int) bool {
	p, ok := w.read(number)
	return ok && depth < deepest && w.page(p, from, to, depth)
}

func (w *walker) page(p page, from, to []byte, depth int) bool {
	switch p.flags {
	case leafPage:
		return w.leaf(p, from, to, depth)
	case branchPage:
		return w.branch(p, from, to, depth)
	}
	return false
}

// element returns the nth element and what comes from it to the end of the page.
func (p page) element(n int) ([]byte, bool) {
	at := pageHead + n*elementSize
	if at+elementSize > len(p.data) {
		return nil, false
	}
	return p.data[at:], true
}

// part returns length bytes at a position.
func part(data []byte, at, length uint32) ([]byte, bool) {
	end := uint64(at) + uint64(length)
	if end > uint64(len(data)) {
		return nil, false
	}
	return data[at:end], true
}

// inOrder: key comes after the last one, where there is one, and is within bounds.
func inOrder(key, last, from, to []byte) bool {
	return (last == nil || bytes.Compare(key, last) > 0) && bytes.Compare(key, from) >= 0 && (to == nil || bytes.Compare(key, to) < 0)
}

func (w *walker) leaf(p page, from, to []byte, depth int) bool {
	var last []byte
	for n := range int(p.count) {
		e, ok := p.element(n)
		if !ok {
			return false
		}
		order := binary.NativeEndian
		keyAt, keySize, valueSize := order.Uint32(e[4:]), order.Uint32(e[8:]), order.Uint32(e[12:])
		key, ok := part(e, keyAt, keySize)
		if !ok || !inOrder(key, last, from, to) {
			return false
		}
		last = key
		value, ok := part(e[keyAt+keySize:], 0, valueSize)
		if !ok || order.Uint32(e)&bucketFlag != 0 && !w.bucket(value, depth+1) {
			return false
		}
	}
	return true
}

func (w *walker) bucket(value []byte, depth int) bool {
	if len(value) < bucketSize || depth >= deepest {
		return false
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return w.tree(root, nil, nil, depth)
	}
	p, ok := parsePage(value[bucketSize:])
	return ok && w.page(p, nil, nil, depth)
}

func (w *walker) branch(p page, from, to []byte, depth int) bool {
	var last []byte
	for n := range int(p.count) {
		key, below, ok := p.branchElement(n)
		if !ok || !inOrder(key, last, from, to) {
			return false
		}
		last = key
		end := to
		if n+1 < int(p.count) {
			if end, _, ok = p.branchElement(n + 1); !ok {
				return false
			}
		}
		if !w.tree(below, key, end, depth+1) {
			return false
		}
	}
	return p.count > 0
}

func (p page) branchElement(n int) (key []byte, below uint64, ok bool) {
	e, ok := p.element(n)
	if !ok {
		return nil, 0, false
	}
	order := binary.NativeEndian
	key, ok = part(e, order.Uint32(e), order.Uint32(e[4:]))
	return key, order.Uint64(e[8:]), ok
}

// free visits the freelist.
func (w *walker) free() bool {
	if w.m.freelist == noFreelist {
		return true
	}
	p, ok := w.read(w.m.freelist)
	if !ok || p.flags != freelistPage {
		return false
	}
	numbers, count := p.data[pageHead:], uint64(p.count)
	if count == manyFree {
		count, numbers = binary.NativeEndian.Uint64(numbers), numbers[8:]
	}
	if count > uint64(len(numbers))/8 {
		return false
	}
	for n := range count {
		if !w.take(binary.NativeEndian.Uint64(numbers[8*n:])) {
			return false
		}
	}
	return true
}
