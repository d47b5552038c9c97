package heapfloor

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestPercentFor(t *testing.T) {
	const mib = 1 << 20
	for _, test := range []struct {
		floor, live, roots int64
		want               int
	}{
		{64 * mib, 0, 0, 1600},
		{64 * mib, 2 * mib, mib, 1600},    // more would raise Go's own smallest heap above the floor
		{64 * mib, 8 * mib, 0, 700},       // 8 + 7 * 8
		{64 * mib, 8 * mib, 6 * mib, 400}, // 8 + 4 * (8 + 6)
		{64 * mib, 32 * mib, 0, 100},
		{64 * mib, 31 * mib, 0, 106},
		{64 * mib, 64 * mib, 0, 100},
		{64 * mib, 1 << 40, 0, 100},
		{mib, 0, 0, 100}, // below Go's own
		{0, mib, mib, 100},
	} {
		if got := percentFor(test.floor, test.live, test.roots); got != test.want {
			t.Errorf("percentFor(%d, %d, %d): got %d, want %d", test.floor, test.live, test.roots, got, test.want)
		}
	}
}

// percent is what is set now.
func percent() int {
	p := debug.SetGCPercent(usual)
	debug.SetGCPercent(p)
	return p
}

// collected waits until collections have led to what is wanted, and fails the test if they never do.
func collected(t *testing.T, what string, want func(percent int) bool) {
	t.Helper()
	for range 1000 {
		runtime.GC()
		runtime.Gosched()
		if want(percent()) {
			return
		}
	}
	t.Errorf("%s: the percentage is %d", what, percent())
}

// TestKeep: the percentage follows what is live, down and up again, and is what it was in the end.
func TestKeep(t *testing.T) {
	before := debug.SetGCPercent(123)
	defer debug.SetGCPercent(before)
	const floor = 64 << 20
	stop := Keep(floor)
	if got := percent(); got != most(floor) {
		t.Errorf("at first: got %d, want %d", got, most(floor))
	}
	big := make([]byte, floor)
	collected(t, "with a big heap", func(p int) bool { return p == usual })
	runtime.KeepAlive(big)
	collected(t, "with a small one again", func(p int) bool { return p > 2*usual })
	stop()
	stop()
	for range 3 {
		runtime.GC()
	}
	if got := percent(); got != 123 {
		t.Errorf("afterwards: got %d, want 123", got)
	}
}

// TestNextCollection: Go itself says that the next collection is at the floor.
func TestNextCollection(t *testing.T) {
	const floor = 64 << 20
	stop := Keep(floor)
	defer stop()
	kept := make([]byte, 10<<20)
	within := func(goal uint64) bool { return goal > floor*3/4 && goal < floor*5/4 }
	var m runtime.MemStats
	for range 1000 {
		runtime.GC()
		runtime.Gosched()
		if runtime.ReadMemStats(&m); within(m.NextGC) {
			break
		}
	}
	if !within(m.NextGC) {
		t.Errorf("the next collection is at %d bytes, want about %d", m.NextGC, floor)
	}
	runtime.KeepAlive(kept)
}
