// Package heapfloor lets a small heap grow before it is collected.
//
// It decides at which size the heap is collected next, and knows nothing of what is in it, nor of who may say otherwise.
//
// Go collects when the heap has grown by GOGC percent of what was live. A server that keeps little and makes much garbage,
// as every call over gRPC does, is then collected hundreds of times a second, which costs processors, and callers their wait.
// A heap that is collected at a size of its own makes that rare, and takes a fixed piece of memory for it, where a higher
// GOGC would take it of a big heap as well.
package heapfloor

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
)

// Full is a floor for where there is memory enough: under full load it leaves a collection or two a second for each processor.
const Full = 64 << 20

const (
	// usual is Go's own: what is live may double.
	usual = 100
	// smallest is the heap below which Go does not collect with the usual percentage; it goes up with that.
	smallest = 4 << 20
)

// Keep lets the heap grow to so many bytes before it is collected, and above that, as is usual, to twice of what is live.
// Package debug's memory limit goes on to count. stop undoes it. Nobody else may set the percentage meanwhile.
func Keep(floor int64) (stop func()) {
	k := &keeper{floor: floor}
	k.before = debug.SetGCPercent(usual)
	k.percent = usual
	k.set(most(floor))
	k.watch()
	return k.stop
}

// A keeper sets the percentage after each collection.
type keeper struct {
	floor int64

	mu              sync.Mutex
	percent, before int
	stopped         bool
}

// A sentinel is garbage from the beginning: that it is gone says that there was a collection. It holds a pointer, since tiny
// objects without share their memory with others.
type sentinel struct{ _ *keeper }

func (k *keeper) watch() {
	runtime.AddCleanup(&sentinel{}, (*keeper).collected, k)
}

func (k *keeper) collected() {
	live, roots := measure()
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stopped {
		return
	}
	k.set(percentFor(k.floor, live, roots))
	k.watch()
}

// set stops the world for a moment, and is spared where it would change little.
func (k *keeper) set(percent int) {
	if d := percent - k.percent; percent == usual && d != 0 || max(d, -d) > k.percent/20 {
		debug.SetGCPercent(percent)
		k.percent = percent
	}
}

func (k *keeper) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.stopped {
		k.stopped = true
		debug.SetGCPercent(k.before)
	}
}

// percentFor is the percentage with which a heap of which so much is live is collected at the floor. Go adds it of the
// roots, too: stacks and globals.
func percentFor(floor, live, roots int64) int {
	return max(usual, min(most(floor), int((floor-live)*100/max(1, live+roots))))
}

// most is the percentage with which Go collects nothing below the floor, and everything at it.
func most(floor int64) int { return max(usual, int(floor*usual/smallest)) }

func measure() (live, roots int64) {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	metrics.Read(s)
	value := func(i int) int64 {
		if s[i].Value.Kind() != metrics.KindUint64 {
			return 0 // a Go that does not know it
		}
		return int64(s[i].Value.Uint64()) //nolint:gosec // bytes of memory
	}
	return value(0), value(1) + value(2)
}
