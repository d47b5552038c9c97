package storetest

import (
	"context"
	"sync"

	"github.com/tokenbroker/tokenbroker/store"
)

// A Replica is one broker's view of a Memory that several brokers share: what the others change is told to it. Safe for
// concurrent use.
type Replica struct {
	*Memory
	others *others
	mu     sync.Mutex
	tell   func(store.Happened)
	// deaf: it hears nothing of what the others change.
	deaf bool
}

// others are all replicas of one Memory.
type others struct{ all []*Replica }

var _ store.Shared = (*Replica)(nil)

// NewReplicas returns n views of one Memory.
func NewReplicas(n int) []*Replica {
	m, o := NewMemory(), &others{}
	for range n {
		o.all = append(o.all, &Replica{Memory: m, others: o})
	}
	return o.all
}

// Apply implements store.Backend.
func (r *Replica) Apply(ctx context.Context, b store.Batch) error {
	if err := r.Memory.Apply(ctx, b); err != nil || b.Tell == 0 {
		return err
	}
	for _, o := range r.others.all {
		if o != r {
			o.hear(store.Happened{Group: b.Group, Note: b.Tell})
		}
	}
	return nil
}

func (r *Replica) hear(h store.Happened) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tell != nil && !r.deaf {
		r.tell(h)
	}
}

// Deafen says whether it hears what the others change; they hear it all the same.
func (r *Replica) Deafen(deaf bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deaf = deaf
}

// Resubscribe tells it that something may have been missed, as a subscription does that was made anew.
func (r *Replica) Resubscribe() { r.hear(store.Happened{}) }

// Check implements store.Shared.
func (r *Replica) Check(ctx context.Context) ([]string, error) { return nil, store.Ended(ctx) }

// Revisions implements store.Shared.
func (r *Replica) Revisions(ctx context.Context, places []store.Place) ([]store.Revision, []bool, error) {
	out, known := make([]store.Revision, len(places)), make([]bool, len(places))
	for i, p := range places {
		read, err := r.Read(ctx, store.Ask{Group: p.Group, Keys: []store.Key{p.Key}})
		if err != nil {
			return nil, nil, err
		}
		if known[i] = true; len(read[0].Rows) > 0 {
			out[i] = read[0].Rows[0].Revision
		}
	}
	return out, known, nil
}

// Relist implements store.Shared: its index changes along with the rows.
func (r *Replica) Relist(ctx context.Context) (int, error) { return 0, store.Ended(ctx) }

// Shard implements store.Shared: it has one.
func (r *Replica) Shard(store.Group) string { return "" }

// Watch implements store.Shared.
func (r *Replica) Watch(ctx context.Context, f func(store.Happened)) {
	r.mu.Lock()
	r.tell = f
	f(store.Happened{})
	r.mu.Unlock()
	<-ctx.Done()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.tell = nil
}
