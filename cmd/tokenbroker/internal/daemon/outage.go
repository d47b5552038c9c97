package daemon

import (
	"log/slog"
	"sync"
	"time"
)

// An outage follows whether the store is away: once the grace is over, nothing is served that has to be confirmed, and health says so.
type outage struct {
	log *slog.Logger
	// grace is for how long valid tokens go on being served.
	grace time.Duration
	// serving tells health; nil: nothing follows, because the rest of the store may be there.
	serving func(bool)

	mu    sync.Mutex
	timer *time.Timer
	// times counts how often it was away or back, so that a timer knows whether it is about this time.
	times int
	over  bool
}

// away is told when the store is away, and when it is there again.
func (o *outage) away(is bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.timer != nil {
		o.timer.Stop()
	}
	o.times++
	if is {
		mine := o.times
		o.timer = time.AfterFunc(o.grace, func() { o.ended(mine) })
		return
	}
	if o.over && o.serving != nil {
		o.serving(true)
	}
	o.over = false
}

func (o *outage) ended(times int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.times != times {
		return // it is there again
	}
	o.over = true
	o.log.Error("the store is still away, and the outage's grace is over: no token is served that it has to confirm", "grace", o.grace)
	if o.serving != nil {
		o.serving(false)
	}
}
