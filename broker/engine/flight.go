package engine

import (
	"sync"

	"github.com/tokenbroker/tokenbroker/broker"
)

// flights are what is under way, one for each key: all who want the same share it. A flight is detached from whoever started it,
// and ends by its own bounds. The zero value is ready once all is set. Safe for concurrent use.
type flights[K comparable, V any] struct {
	// all counts those that are under way.
	all *sync.WaitGroup

	mu      sync.Mutex
	running map[K]*flight[V]
	closed  bool
}

// A flight brings one value, which is there once done is closed.
type flight[V any] struct {
	done  chan struct{}
	value V
}

// join returns the flight for a key, and whether it was started by this call: then run is called. It fails with ShuttingDown, and as may does,
// which is asked before one is started; nil: nobody is.
func (f *flights[K, V]) join(key K, may func() error, run func() V) (fl *flight[V], mine bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.running[key]; fl != nil {
		return fl, false, nil
	}
	if f.closed {
		return nil, false, broker.ShuttingDown
	}
	if may != nil {
		if err := may(); err != nil {
			return nil, false, err
		}
	}
	if f.running == nil {
		f.running = map[K]*flight[V]{}
	}
	fl = &flight[V]{done: make(chan struct{})}
	f.running[key] = fl
	f.all.Go(func() {
		fl.value = run()
		f.mu.Lock()
		delete(f.running, key)
		f.mu.Unlock()
		close(fl.done)
	})
	return fl, true, nil
}

// close refuses new flights.
func (f *flights[K, V]) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
}

func (f *flights[K, V]) isClosed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closed
}
