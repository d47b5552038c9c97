package bolt_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/bolt"
)

// dataFile returns a data file with some rows.
func dataFile(t *testing.T) []byte {
	t.Helper()
	path := newPath(t)
	d := open(t, path)
	for n := range 300 {
		p := put(n, 0)
		p.Value = bytes.Repeat([]byte{byte(n)}, 200)
		apply(t, d, p)
	}
	if err := d.Apply(t.Context(), store.Batch{Group: "c:a", List: &store.Listing{Name: "a"}, Clear: []store.Kind{"grant"}}); err != nil {
		t.Fatal(err)
	}
	closeDB(t, d)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The file is longer than what it holds: without the rest, every byte that is cut off counts.
	page := os.Getpagesize()
	m := meta(data, page)
	return data[:page*(int(m[40])|int(m[41])<<8)]
}

// meta is the meta page in use, without its head.
func meta(data []byte, page int) []byte {
	if data[page+16+48] > data[16+48] {
		return data[page+16:]
	}
	return data[16:]
}

// TestDamagedFiles: what is no whole data file is refused with a reason, and left as it is.
func TestDamagedFiles(t *testing.T) {
	data := dataFile(t)
	page := os.Getpagesize()
	cut := func(n int) []byte { return data[:n] }
	with := func(at int, b ...byte) []byte {
		d := bytes.Clone(data)
		copy(d[at:], b)
		return d
	}
	// Where the first page of each kind is, and where in a branch the page below its first key stands.
	branch, leaf, free, below := pageOf(t, data, 1), pageOf(t, data, 2), freePage(data, page), 16+8
	number := func(n int) []byte { return binary.NativeEndian.AppendUint64(nil, uint64(n)) }
	for name, test := range map[string]struct {
		data []byte
		says string
	}{
		"empty":                {nil, "truncated"},
		"one byte":             {cut(1), "not a data file"},
		"half of a meta page":  {cut(40), "damaged"},
		"one page":             {cut(page), "truncated"},
		"two pages":            {cut(2 * page), "truncated"},
		"half":                 {cut(len(data) / 2), "truncated"},
		"all but a byte":       {cut(len(data) - 1), "truncated"},
		"text":                 {[]byte(strings.Repeat("name: value\n", 1000)), "not a data file"},
		"another database":     {append([]byte("SQLite format 3\x00"), make([]byte, 8192)...), "not a data file"},
		"zeros":                {make([]byte, len(data)), "not a data file"},
		"both metas damaged":   {withBoth(data, page), "damaged"},
		"the root page zeroed": {with(rootPage(data, page)*page, make([]byte, page)...), "damaged"},
		// bbolt follows the first until its stack is full, and the second out of the file: both end the process.
		"a branch of itself":         {with(branch+below, number(branch/page)...), "damaged"},
		"a branch behind the end":    {with(branch+below, number(len(data)/page+100)...), "damaged"},
		"two branches to one page":   {with(branch+below, data[branch+below+16:branch+below+24]...), "damaged"},
		"a key behind its page":      {with(leaf+16+4, 0xff, 0xff, 0xff, 0x7f), "damaged"},
		"a used page that is free":   {with(free+16, number(branch/page)...), "damaged"},
		"a free page that is unused": {with(free+10, 0), "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "tokenbroker.db")
			if err := os.WriteFile(path, test.data, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := bolt.Open(path, bolt.Options{})
			if !errors.Is(err, broker.StoreUnavailable) || !strings.Contains(err.Error(), test.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want it to say %q and the path", err, test.says)
			}
			if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, test.data) {
				t.Errorf("the file was changed (%v)", err)
			}
			// The lock is free again: the operator puts a backup in its place, and starts again.
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			if n := count(t, open(t, path)); n != 300 {
				t.Errorf("after the file was restored: %d rows, want 300", n)
			}
		})
	}
}

func withBoth(data []byte, page int) []byte {
	d := bytes.Clone(data)
	d[16+20]++
	d[page+16+20]++
	return d
}

// rootPage is the number of the page that the meta page in use calls the root.
func rootPage(data []byte, page int) int {
	m := meta(data, page)
	return int(m[16]) | int(m[17])<<8
}

// freePage is where the freelist of the meta page in use is.
func freePage(data []byte, page int) int {
	m := meta(data, page)
	return (int(m[32]) | int(m[33])<<8) * page
}

// pageOf is where the first page with these flags is that is in use: a free one keeps its head, and may hold anything.
func pageOf(t *testing.T, data []byte, flags byte) int {
	t.Helper()
	page := os.Getpagesize()
	list := data[freePage(data, page):]
	free := map[int]bool{}
	for i := range int(binary.NativeEndian.Uint16(list[10:])) {
		free[int(binary.NativeEndian.Uint64(list[16+8*i:]))] = true
	}
	for at := 0; at < len(data); at += page {
		if data[at+8] == flags && !free[at/page] {
			return at
		}
	}
	t.Fatalf("there is no page with flags %d", flags)
	return 0
}

// TestRandomDamage: whatever is changed, opening and reading neither panic nor crash; the file opens or is refused.
func TestRandomDamage(t *testing.T) {
	data := dataFile(t)
	r := rand.New(rand.NewPCG(1, 2))
	refused := 0
	for range 300 {
		d := bytes.Clone(data)
		for range 1 + r.IntN(20) {
			at := r.IntN(len(d))
			if r.IntN(2) == 0 {
				at = at / 4096 * 4096 // heads of pages matter most
				at += r.IntN(64)
			}
			d[at] = byte(r.Uint32())
		}
		path := filepath.Join(t.TempDir(), "tokenbroker.db")
		if err := os.WriteFile(path, d, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := bolt.Open(path, bolt.Options{})
		if err != nil {
			refused++
			if !errors.Is(err, broker.StoreUnavailable) {
				t.Errorf("got %v", err)
			}
			continue
		}
		_, _ = db.List(t.Context(), []store.Group{"c:a"}, "token") // reads, or fails
		closeDB(t, db)
	}
	if refused == 0 {
		t.Error("none of the damaged files was refused")
	}
}

func TestUnusablePaths(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, says := range map[string]string{
		dir:                          "not a regular file",
		filepath.Join(file, "db"):    "directory cannot be created",
		filepath.Join(dir, "\x00"):   "cannot be",
		filepath.Join(dir, "a/b/ok"): "",
	} {
		d, err := bolt.Open(path, bolt.Options{})
		if says == "" {
			if err != nil {
				t.Errorf("%q: %v", path, err)
				continue
			}
			closeDB(t, d)
			continue
		}
		if !errors.Is(err, broker.StoreUnavailable) || !strings.Contains(fmt.Sprint(err), says) {
			t.Errorf("%q: got %v, want it to say %q", path, err, says)
		}
	}
}
