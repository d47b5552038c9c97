package storetest

import (
	"context"
	"sync"

	"github.com/tokenbroker/tokenbroker/store"
)

// Faults is a Backend in front of another one, for tests of what happens at each step. Its hooks are changed by Set, also
// while calls run, and may themselves use the store. Safe for concurrent use.
type Faults struct {
	store.Backend
	mu    sync.Mutex
	hooks Hooks
}

// Hooks are called around a backend's work; nil: nothing is called.
type Hooks struct {
	// BeforeRead is called before Read, List, Scan and Revisions; they fail with its error.
	BeforeRead func(context.Context) error
	// AfterRead is called after a Read, before its answer is given.
	AfterRead func(context.Context)
	// BeforeApply is called before Apply, which fails with its error and changes nothing.
	BeforeApply func(context.Context, store.Batch) error
	// AfterApply is called after an Apply that succeeded, which then fails with its error: the answer was lost.
	AfterApply func(context.Context, store.Batch) error
}

// NewFaults returns one without hooks in front of b.
func NewFaults(b store.Backend) *Faults { return &Faults{Backend: b} }

// Whole returns f as a backend that is Shared if the one behind it is.
func (f *Faults) Whole() store.Backend {
	if s, ok := f.Backend.(store.Shared); ok {
		return &sharedFaults{f, s}
	}
	return f
}

type sharedFaults struct {
	*Faults
	shared store.Shared
}

// Check implements store.Shared.
func (f *sharedFaults) Check(ctx context.Context) ([]string, error) {
	if err := f.reading(ctx); err != nil {
		return nil, err
	}
	return f.shared.Check(ctx)
}

// Revisions implements store.Shared.
func (f *sharedFaults) Revisions(ctx context.Context, places []store.Place) ([]store.Revision, []bool, error) {
	if err := f.reading(ctx); err != nil {
		return nil, nil, err
	}
	return f.shared.Revisions(ctx, places)
}

// Relist implements store.Shared.
func (f *sharedFaults) Relist(ctx context.Context) (int, error) {
	if err := f.reading(ctx); err != nil {
		return 0, err
	}
	return f.shared.Relist(ctx)
}

// Shard implements store.Shared.
func (f *sharedFaults) Shard(g store.Group) string { return f.shared.Shard(g) }

// Watch implements store.Shared. What is told goes on being told: an event needs no answer.
func (f *sharedFaults) Watch(ctx context.Context, tell func(store.Happened)) {
	f.shared.Watch(ctx, tell)
}

// Set replaces the hooks.
func (f *Faults) Set(h Hooks) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hooks = h
}

// Away makes every call fail as if the database could not be reached, until Set is called.
func (f *Faults) Away() {
	f.Set(Hooks{
		BeforeRead:  func(context.Context) error { return store.Unavailable("it is away, for a test") },
		BeforeApply: func(context.Context, store.Batch) error { return store.Unavailable("it is away, for a test") },
	})
}

func (f *Faults) reading(ctx context.Context) error {
	f.mu.Lock()
	before := f.hooks.BeforeRead
	f.mu.Unlock()
	if before == nil {
		return nil
	}
	return before(ctx)
}

// Read implements store.Backend.
func (f *Faults) Read(ctx context.Context, asks ...store.Ask) ([]store.Reading, error) {
	if err := f.reading(ctx); err != nil {
		return nil, err
	}
	all, err := f.Backend.Read(ctx, asks...)
	f.mu.Lock()
	after := f.hooks.AfterRead
	f.mu.Unlock()
	if after != nil {
		after(ctx)
	}
	return all, err
}

// List implements store.Backend.
func (f *Faults) List(ctx context.Context, groups []store.Group, kinds ...store.Kind) ([]store.Reading, error) {
	if err := f.reading(ctx); err != nil {
		return nil, err
	}
	return f.Backend.List(ctx, groups, kinds...)
}

// Scan implements store.Backend.
func (f *Faults) Scan(ctx context.Context, key store.Key, after store.Listing, limit int) ([]store.Listed, error) {
	if err := f.reading(ctx); err != nil {
		return nil, err
	}
	return f.Backend.Scan(ctx, key, after, limit)
}

// Apply implements store.Backend.
func (f *Faults) Apply(ctx context.Context, b store.Batch) error {
	f.mu.Lock()
	h := f.hooks
	f.mu.Unlock()
	if h.BeforeApply != nil {
		if err := h.BeforeApply(ctx, b); err != nil {
			return err
		}
	}
	if err := f.Backend.Apply(ctx, b); err != nil {
		return err
	}
	if h.AfterApply != nil {
		return h.AfterApply(ctx, b)
	}
	return nil
}
