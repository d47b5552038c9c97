package jsondoc

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// shapes are documents of so many values, or a few less, that take more memory than others of their length.
func shapes(values int) map[string][]byte {
	deep := strings.Repeat(`{"":`, deepest-1) + "1" + strings.Repeat("}", deepest-1)
	out := map[string][]byte{}
	for name, unit := range map[string]string{
		"numbers": "1", "lists": "[]", "objects": "{}", "objects of one": `{"":1}`, "objects of objects": `{"a":{}}`, "lists of one": "[1]", "texts": `""`, "escapes": `"\u0000"`, "nested": deep,
	} {
		n := (values - 1) / Values([]byte(unit))
		out[name] = []byte("[" + strings.Repeat(unit+",", n-1) + unit + "]")
	}
	var names strings.Builder
	for i := range values - 2 {
		fmt.Fprintf(&names, `"%x":1,`, i)
	}
	out["names"] = []byte("{" + names.String() + `"":1}`)
	return out
}

// took is how many bytes were allocated, and how many of them are kept.
func took(read func() any) (allocated, kept uint64) {
	var before, after, later runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	x := read()
	runtime.ReadMemStats(&after)
	runtime.GC()
	runtime.ReadMemStats(&later)
	runtime.KeepAlive(x)
	return after.TotalAlloc - before.TotalAlloc, max(later.HeapAlloc, before.HeapAlloc) - before.HeapAlloc
}

func TestADocumentOfTooManyValuesCostsNothing(t *testing.T) {
	for name, text := range shapes(300_000) {
		var err error
		allocated, _ := took(func() any { _, err = Read(text); return nil })
		if !errors.Is(err, ErrTooMany) || allocated > 256<<10 {
			t.Errorf("%s: got %v, and %d bytes were allocated", name, err, allocated)
		}
	}
}

func TestWhatTheLargestDocumentTakesIsBounded(t *testing.T) {
	for name, text := range shapes(MostValues) {
		var err error
		allocated, kept := took(func() any { var doc any; doc, err = Read(text); return doc })
		if err != nil || kept > 9<<20 || allocated > 24<<20 {
			t.Errorf("%s: got %v; %d values in %d bytes took %d bytes, of which %d are kept", name, err, Values(text), len(text), allocated, kept)
		}
	}
}

// counted is how many values there are.
func counted(v any) int {
	n := 1
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			n += counted(x)
		}
	case map[string]any:
		for _, x := range v {
			n += counted(x)
		}
	}
	return n
}

// FuzzValues: they are counted as they are read, and what is no document has no more of them than were counted.
func FuzzValues(f *testing.F) {
	for _, s := range []string{`{}`, `[]`, `"a\"b"`, ` 1 `, `{"a": [1, -2.5e3, "x", null, true], "b:": {"c,": "{"}}`, `[1 2]`, `{"a":1,"a":2}`, `[[[`, `"\\"`, `[1,2]:::::`, `nulltrue`, `["\u005c"]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n := Values(b)
		doc, err := ReadUpTo(b, n)
		if errors.Is(err, ErrTooMany) {
			t.Errorf("%d were counted, and they are too many", n)
		}
		if err == nil && counted(doc) != n {
			t.Errorf("got %d of %d", n, counted(doc))
		}
		if _, fewer := ReadUpTo(b, n-1); n > 0 && !errors.Is(fewer, ErrTooMany) {
			t.Errorf("got %v", fewer)
		}
	})
}
