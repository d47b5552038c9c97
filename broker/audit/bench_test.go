package audit

import (
	"io"
	"path/filepath"
	"testing"
)

// BenchmarkUse is of a pair that is known: what a caller costs whose decision is not remembered any more.
func BenchmarkUse(b *testing.B) {
	l := an(b, Settings{Stdout: io.Discard})
	r := issue(shop, "t0")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Use(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkNote is of one denial, again and again.
func BenchmarkNote(b *testing.B) {
	l := an(b, Settings{Stdout: io.Discard})
	r := denial(shop, "main")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l.Note(b.Context(), r)
		}
	})
}

// BenchmarkLine is of a line that is written, without the writing.
func BenchmarkLine(b *testing.B) {
	r := full(b)
	b.ReportAllocs()
	for b.Loop() {
		is := lineOf(r, "r1", "t1", "sha256:00")
		_ = is.tail()
	}
}

// BenchmarkIntend is of changes to a file, which share syncs.
func BenchmarkIntend(b *testing.B) {
	l := an(b, Settings{File: filepath.Join(b.TempDir(), "audit.log")})
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			intends(b, l)
		}
	})
}
