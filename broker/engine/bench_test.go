package engine_test

import (
	"context"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
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

// TestAHitAllocatesNothing counts what Token itself allocates: its benchmarks show the same, but nobody is told by them.
func TestAHitAllocatesNothing(t *testing.T) {
	alone, shared := newWorld(t, &upstream{answer: issues(time.Hour)}), newReplicas(t, 1, &upstream{answer: issues(time.Hour)})[0]
	alone.create("main", nil)
	alone.mustGet("main")
	shared.create("main", nil)
	shared.mustGet("main")
	r, ctx := engine.Request{Credential: "main"}, context.Background()
	for name, ask := range map[string]func(context.Context, *broker.Caller, engine.Request) (engine.Result, error){"alone": alone.Token, "shared": shared.Token} {
		if n := testing.AllocsPerRun(1000, func() {
			if _, err := ask(ctx, local, r); err != nil {
				t.Fatal(err)
			}
		}); n > 0 {
			t.Errorf("%s: a hit makes %v allocations", name, n)
		}
	}
}
