package engine_test

import (
	"context"
	"sync"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// parts is one broker's view of a store whose groups are each in a part of their own, of which some may be away, as in a Cluster.
type parts struct {
	*storetest.Replica
	mu   sync.Mutex
	away func(store.Group) bool
}

var errPartAway = store.Unavailable("that part is away, for a test")

func (p *parts) lose(away func(store.Group) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.away = away
}

func (p *parts) lost(g store.Group) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.away != nil && p.away(g)
}

func (p *parts) Shard(g store.Group) string { return string(g) }

func (p *parts) Read(ctx context.Context, asks ...store.Ask) ([]store.Reading, error) {
	if p.lost(asks[0].Group) {
		return nil, errPartAway
	}
	all, err := p.Replica.Read(ctx, asks...)
	for i := range all {
		if p.lost(asks[i].Group) {
			all[i] = store.Reading{Err: errPartAway}
		}
	}
	return all, err
}

func (p *parts) List(ctx context.Context, groups []store.Group, kinds ...store.Kind) ([]store.Reading, error) {
	all, err := p.Replica.List(ctx, groups, kinds...)
	some := false
	for i := range all {
		if p.lost(groups[i]) {
			all[i] = store.Reading{Err: errPartAway}
		}
		some = some || all[i].Err == nil
	}
	if err == nil && !some {
		return nil, errPartAway
	}
	return all, err
}

func (p *parts) Apply(ctx context.Context, b store.Batch) error {
	if p.lost(b.Group) {
		return errPartAway
	}
	return p.Replica.Apply(ctx, b)
}

func (p *parts) Revisions(ctx context.Context, places []store.Place) ([]store.Revision, []bool, error) {
	out, known, err := p.Replica.Revisions(ctx, places)
	if err != nil {
		return nil, nil, err
	}
	some := false
	for i, at := range places {
		known[i] = !p.lost(at.Group)
		some = some || known[i]
	}
	if !some {
		return nil, nil, errPartAway
	}
	return out, known, nil
}

// A partial is a broker on such a store.
type partial struct {
	*world
	parts *parts
}

func newPartials(t testing.TB, n int, up *upstream, more ...func(*engine.Settings)) []*partial {
	t.Helper()
	up.complete()
	keys := newKeys(t)
	var all []*partial
	for _, m := range storetest.NewReplicas(n) {
		p := &parts{Replica: m}
		s, err := store.New(p, keys, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		w := &world{t: t, up: up, store: s}
		w.start(more...)
		all = append(all, &partial{w, p})
	}
	return all
}

// group is that of a credential: what is read of it tells.
func (p *partial) group(name broker.CredentialName) (g store.Group) {
	p.parts.lose(func(asked store.Group) bool { g = asked; return false })
	_, _ = p.store.Credential(context.Background(), name)
	p.parts.lose(nil)
	return g
}

// only loses the part that has this credential.
func only(g store.Group) func(store.Group) bool { return func(x store.Group) bool { return x == g } }
