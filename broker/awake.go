package broker

import (
	"context"
	"sync"
	"time"
)

// awakeStep is how finely awake counts.
const awakeStep = 50 * time.Millisecond

// awake returns a context that ends, with context.DeadlineExceeded, after so much time in which this process was running; or
// with ctx.
//
// A process that was stopped (SIGSTOP, a machine that slept, a debugger) finds all its timers due when it goes on, and beside
// them the answer that came meanwhile. An answer that brings a refresh token must not lose that race. What must not happen too
// late is held against the clock by itself, before each request is written.
func awake(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	inner, cancel := context.WithCancel(ctx)
	c := &awakeContext{Context: inner, cancel: cancel, stopped: make(chan struct{})}
	go c.count(ctx, d)
	return c, sync.OnceFunc(func() {
		close(c.stopped)
		cancel()
	})
}

type awakeContext struct {
	context.Context //nolint:containedctx // it is one itself
	cancel          context.CancelFunc
	stopped         chan struct{}
	mu              sync.Mutex
	late            bool
}

func (c *awakeContext) count(ctx context.Context, left time.Duration) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	<-timer.C
	for left > 0 {
		step := min(left, awakeStep)
		began := time.Now()
		timer.Reset(step)
		select {
		case <-timer.C:
			left -= min(time.Since(began), 2*step) // what is beyond that, it was not running
		case <-c.stopped:
			return
		case <-ctx.Done():
			return
		}
	}
	c.mu.Lock()
	c.late = true
	c.mu.Unlock()
	c.cancel()
}

// Err implements context.Context.
func (c *awakeContext) Err() error {
	err := c.Context.Err()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil && c.late {
		return context.DeadlineExceeded
	}
	return err
}
