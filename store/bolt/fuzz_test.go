package bolt

import (
	"bytes"
	"encoding/binary"
	"hash/fnv"
	"os"
	"path/filepath"
	"testing"

	"github.com/tokenbroker/tokenbroker/store"
)

// FuzzInspect: no file makes inspect panic, and what it lets through does not kill bbolt. Checksums are mended after each
// change, so that changes get behind them.
func FuzzInspect(f *testing.F) {
	path := filepath.Join(f.TempDir(), "tokenbroker.db")
	d, err := Open(path, Options{})
	if err != nil {
		f.Fatal(err)
	}
	for n := range 40 {
		p := store.Put{Key: store.Key{Kind: "token", ID: [32]byte{byte(n)}}, Revision: store.Revision{1}, Value: bytes.Repeat([]byte{byte(n)}, 300)}
		if err := d.Apply(f.Context(), store.Batch{Group: "c:a", Puts: []store.Put{p}, List: &store.Listing{Name: "a"}}); err != nil {
			f.Fatal(err)
		}
	}
	if err := d.Close(); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	m, err := lastMeta(bytes.NewReader(good))
	if err != nil {
		f.Fatal(err)
	}
	good = good[:m.pages*m.size]
	if err := inspectData(bytes.NewReader(good), int64(len(good))); err != nil {
		f.Fatalf("a file that is good: %v", err)
	}
	page := int(m.size)
	f.Add(0, []byte{}, len(good))
	f.Add(0, []byte{}, 0)
	f.Add(8, []byte{0}, len(good))
	for _, at := range []int{16 + 16, 16 + 32, 16 + 40, 16 + 48} { // root, freelist, pages, transaction
		f.Add(at, []byte{7}, len(good))
		f.Add(page+at, []byte{7}, len(good))
	}
	for n := 2; n < len(good)/page; n++ {
		for _, at := range []int{0, 8, 10, 12, 16, 20, 24, 28} { // number, flags, count, overflow, the first element
			f.Add(n*page+at, []byte{0xff, 0xff}, len(good))
			f.Add(n*page+at, []byte{1, 0}, len(good))
		}
	}
	f.Fuzz(func(t *testing.T, at int, change []byte, size int) {
		data := bytes.Clone(good)
		if at >= 0 && at < len(data) {
			copy(data[at:], change)
		}
		for _, meta := range [][]byte{data[16:], data[page+16:]} {
			sum := fnv.New64a()
			_, _ = sum.Write(meta[:metaSumAt])
			binary.NativeEndian.PutUint64(meta[metaSumAt:], sum.Sum64())
		}
		if size >= 0 && size < len(data) {
			data = data[:size]
		}
		if inspectData(bytes.NewReader(data), int64(len(data))) != nil {
			return
		}
		path := filepath.Join(t.TempDir(), "tokenbroker.db")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := Open(path, Options{})
		if err != nil {
			return
		}
		for _, group := range []store.Group{"c:a", "c:b"} {
			_, _ = d.List(t.Context(), []store.Group{group}, "token")
			_, _ = d.Scan(t.Context(), store.Key{}, store.Listing{}, 10)
			_ = d.Apply(t.Context(), store.Batch{Group: group, DeleteGroup: true, Puts: []store.Put{{Revision: store.Revision{2}}}})
		}
		_ = d.Close()
	})
}
