package bolt

import (
	"bytes"
	"encoding/binary"
	"time"

	"github.com/tokenbroker/tokenbroker/store"
)

// The file, format 1. Keys are built in this file and nowhere else.
//
//	bucket  key                               value
//	meta    "format"                          "tokenbroker 1"
//	rows    group 0 kind 0 id                 revision, end, sealed value
//	ends    end group 0 kind 0 id             nothing: rows that end, in order
//	index   name 0 incarnation                group
//
// id is 32 bytes, revision and incarnation 16; end is 8 bytes, big endian, in nanoseconds since 1970; 0: for ever. Groups,
// kinds and names hold no zero byte.
const format = "tokenbroker 1"

var (
	metaBucket  = []byte("meta")
	rowsBucket  = []byte("rows")
	endsBucket  = []byte("ends")
	indexBucket = []byte("index")
	formatKey   = []byte("format")
)

const (
	idSize       = len(store.Key{}.ID)
	revisionSize = len(store.Revision{})
	endSize      = 8
	headSize     = revisionSize + endSize
)

func groupPrefix(g store.Group) []byte { return append([]byte(g), 0) }

func kindPrefix(g store.Group, k store.Kind) []byte {
	return append(append(groupPrefix(g), k...), 0)
}

func rowKey(g store.Group, k store.Key) []byte { return append(kindPrefix(g, k.Kind), k.ID[:]...) }

func indexKey(l store.Listing) []byte {
	return append(append([]byte(l.Name), 0), l.Incarnation[:]...)
}

// listing is the inverse of indexKey.
func listing(key []byte) (store.Listing, bool) {
	at := len(key) - len(store.Listing{}.Incarnation) - 1
	if at < 0 || key[at] != 0 {
		return store.Listing{}, false
	}
	return store.Listing{Name: string(key[:at]), Incarnation: [16]byte(key[at+1:])}, true
}

func endKey(end int64, row []byte) []byte {
	return append(appendEnd(nil, end), row...)
}

// An end is never negative (1970), so that its order is that of its bytes.
func appendEnd(b []byte, end int64) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(end)) //nolint:gosec // the same 64 bits
}

func endOf(b []byte) int64 {
	return int64(binary.BigEndian.Uint64(b)) //nolint:gosec // the same 64 bits
}

// head is what stands before the sealed value.
type head struct {
	revision store.Revision
	end      int64 // 0: never
}

// headOf reads it; false for what is no row.
func headOf(value []byte) (head, bool) {
	if len(value) < headSize {
		return head{}, false
	}
	return head{
		revision: store.Revision(value[:revisionSize]),
		end:      endOf(value[revisionSize:]),
	}, true
}

// over reports whether the row's time is over at now.
func (h head) over(now time.Time) bool { return h.end != 0 && h.end <= now.UnixNano() }

func (h head) left(now time.Time) time.Duration {
	if h.end == 0 {
		return 0
	}
	return time.Duration(h.end - now.UnixNano())
}

func rowValue(p store.Put, end int64) []byte {
	b := make([]byte, 0, headSize+len(p.Value))
	b = append(b, p.Revision[:]...)
	b = appendEnd(b, end)
	return append(b, p.Value...)
}

// kindOf returns the kind in a row's key.
func kindOf(row []byte) string {
	_, rest, _ := bytes.Cut(row, []byte{0})
	kind, _, _ := bytes.Cut(rest, []byte{0})
	return string(kind)
}
