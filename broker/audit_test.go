package broker

import (
	"sync"
	"sync/atomic"
	"testing"
)

// TestEachUseIsCountedOnce, also while it is taken and ended.
func TestEachUseIsCountedOnce(t *testing.T) {
	u := &Uses{}
	var counted, taken atomic.Int64
	var callers, taker sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		callers.Go(func() {
			for range 20_000 {
				if u.Count() {
					counted.Add(1)
				}
			}
		})
	}
	taker.Go(func() {
		for {
			taken.Add(u.Take())
			select {
			case <-stop:
				taken.Add(u.End())
				return
			default:
			}
		}
	})
	ended := &Uses{}
	ended.Count()
	if n := ended.End(); n != 1 || ended.Count() || ended.Take() != 0 || ended.End() != 0 {
		t.Errorf("an ended one counts: %d", n)
	}
	callers.Wait()
	close(stop)
	taker.Wait()
	if counted.Load() != 80_000 || taken.Load() != 80_000 {
		t.Errorf("counted %d, taken %d", counted.Load(), taken.Load())
	}
	if !(*Uses)(nil).Count() {
		t.Error("nil is none")
	}
}
