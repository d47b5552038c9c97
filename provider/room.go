package provider

import (
	"context"
	"slices"
	"sync"
)

// A room bounds how much is in memory at once. Who comes first is let in first. Safe for concurrent use.
type room struct {
	mu      sync.Mutex
	left    int
	waiting []*visitor
}

// A visitor wants so much of a room, and is told when there is as much.
type visitor struct {
	wants int
	in    chan struct{}
}

func newRoom(size int) *room { return &room{left: size} }

// enter waits until there is room for so much, which is no more than all of it. It fails when ctx is over before.
func (r *room) enter(ctx context.Context, wants int) error {
	r.mu.Lock()
	if len(r.waiting) == 0 && wants <= r.left {
		r.left -= wants
		r.mu.Unlock()
		return nil
	}
	v := &visitor{wants, make(chan struct{})}
	r.waiting = append(r.waiting, v)
	r.mu.Unlock()
	select {
	case <-v.in:
		return nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if i := slices.Index(r.waiting, v); i >= 0 {
		r.waiting = slices.Delete(r.waiting, i, i+1)
		r.letIn() // those behind it may want less
		return ctx.Err()
	}
	return nil // it was let in meanwhile
}

// leave gives back what was entered with.
func (r *room) leave(had int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left += had
	r.letIn()
}

func (r *room) letIn() {
	for len(r.waiting) > 0 && r.waiting[0].wants <= r.left {
		r.left -= r.waiting[0].wants
		close(r.waiting[0].in)
		r.waiting = slices.Delete(r.waiting, 0, 1)
	}
}
