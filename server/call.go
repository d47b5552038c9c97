package server

import (
	"context"
	"sync"
	"time"
)

// A call is the context of a unary call: the stream's, with its caller, and with a deadline whose timer is made when somebody
// first asks for the end. A hit waits for nothing, and has none.
type call struct {
	context.Context //nolint:containedctx // it is one
	proof           proof
	connection      *connection // nil: it came on none
	started         time.Time

	mu      sync.Mutex
	bounded context.Context //nolint:containedctx // made late; nil: nobody has asked
	cancel  context.CancelFunc
	// over lets go of what ends it with its caller's proof; nil: nothing does.
	over  func()
	ended bool
}

// deadline is until when the handler has time.
func (c *call) deadline() time.Time {
	d, ok := c.Context.Deadline()
	if !ok {
		return c.started.Add(DefaultDeadline)
	}
	return d.Add(-min(answerSpare, d.Sub(c.started)/10))
}

// limited is the context with the timer. It ends with the caller's proof, too: whoever waits is told so, before the connection ends.
func (c *call) limited() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bounded == nil {
		ctx := c.Context
		if c.connection != nil {
			ctx, c.over = c.connection.of.proven.add(ctx, c.proof, time.Now())
		}
		c.bounded, c.cancel = context.WithDeadline(ctx, c.deadline())
		if c.ended {
			c.let()
		}
	}
	return c.bounded
}

// end is when the handler has returned.
func (c *call) end() {
	if c.connection != nil {
		c.connection.running.Add(-1)
		c.connection.ends(c.Context)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.let()
}

// let ends the context with the timer; the caller holds mu.
func (c *call) let() {
	if c.cancel != nil {
		c.cancel()
	}
	if c.over != nil {
		c.over()
	}
}

// Deadline implements context.Context.
func (c *call) Deadline() (time.Time, bool) { return c.deadline(), true }

// Done implements context.Context.
func (c *call) Done() <-chan struct{} { return c.limited().Done() }

// Err implements context.Context.
func (c *call) Err() error { return c.limited().Err() }

// Value implements context.Context. Package context finds by a value which context it can put a child under without a
// goroutine: once there is one with the timer, it is that.
func (c *call) Value(key any) any {
	if key == (callerKey{}) {
		return c.proof.caller()
	}
	c.mu.Lock()
	in := c.bounded
	c.mu.Unlock()
	if in == nil {
		in = c.Context
	}
	return in.Value(key)
}
