package engine_test

import (
	"context"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// BenchmarkHit is what every caller pays: a token that is served from the process.
func BenchmarkHit(b *testing.B) {
	w := newWorld(b, &upstream{answer: issues(time.Hour)})
	w.create("main", nil)
	w.mustGet("main")
	r := engine.Request{Credential: "main"}
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Token(ctx, local, r); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHitShared is the same where other brokers share the store: what was read has an age.
func BenchmarkHitShared(b *testing.B) {
	w := newReplicas(b, 1, &upstream{answer: issues(time.Hour)})[0]
	w.create("main", nil)
	w.mustGet("main")
	r := engine.Request{Credential: "main"}
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.Token(ctx, local, r); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkHitParallel is the same from all processors at once.
func BenchmarkHitParallel(b *testing.B) {
	w := newWorld(b, &upstream{answer: issues(time.Hour)})
	w.create("main", nil)
	w.mustGet("main")
	r := engine.Request{Credential: "main"}
	ctx := context.Background()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := w.Token(ctx, local, r); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
