package engine

import (
	"context"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// secondLook is what a process that was stopped has for reading what came meanwhile.
const secondLook = 2 * time.Second

// patient returns a context that ends after d, or with ctx. Its cause is context.DeadlineExceeded then.
//
// A process that was stopped (SIGSTOP, a machine that slept, a debugger) finds its timers due when it goes on, and beside them the
// answer that came meanwhile, in the socket. An answer that brings a refresh token must not lose that race: where the timer
// comes late, there is time for a second look. What must not happen too late is held against the clock by itself, before
// each request is written.
func patient(ctx context.Context, clock *broker.Clock, d time.Duration) (context.Context, context.CancelFunc) {
	inner, cancel := context.WithCancelCause(ctx)
	due := clock.Now().At.Add(d)
	timer := time.NewTimer(d)
	go func() {
		defer timer.Stop()
		for second := false; ; second = true {
			select {
			case <-timer.C:
			case <-inner.Done():
				return
			}
			if late := clock.Now().At.Sub(due); second || late < lateMost {
				cancel(context.DeadlineExceeded)
				return
			}
			timer.Reset(secondLook)
		}
	}()
	return inner, func() { cancel(nil) }
}

// lateMost is how late a timer is in a process that runs.
const lateMost = 250 * time.Millisecond
