package engine_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

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

// TestStatusesWhileAPartIsAway: of those in it nothing is known, at once when it has been away for a while, and of the others
// everything.
func TestStatusesWhileAPartIsAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newPartials(t, 1, &upstream{answer: issues(time.Hour)})[0]
		names := []broker.CredentialName{"first", "lost", "last"}
		for _, name := range names {
			w.create(string(name), nil)
			w.mustGet(string(name))
		}
		group := w.group("lost")
		for range 20 {
			w.parts.lose(only(group))
			all, err := w.CredentialStatuses(t.Context(), local, names)
			if err != nil || len(all) != 3 {
				t.Fatalf("got %d, %v", len(all), err)
			}
			wantKind(t, all[1].Err, broker.StoreUnavailable)
			for _, i := range []int{0, 2} {
				if all[i].Err != nil || all[i].State != engine.Ready || len(all[i].Tokens) != 1 || all[i].Credential.Name != names[i] {
					t.Errorf("%s: got %+v", names[i], all[i])
				}
			}
			sleep(200 * time.Millisecond)
		}
		w.parts.lose(func(store.Group) bool { return true })
		_, err := w.CredentialStatuses(t.Context(), local, names)
		wantKind(t, err, broker.StoreUnavailable)
		w.parts.lose(nil)
		sleep(time.Second)
		if all, err := w.CredentialStatuses(t.Context(), local, names); err != nil || all[1].Err != nil || all[1].State != engine.Ready {
			t.Errorf("when it is back: got %+v, %v", all, err)
		}
		if all, err := w.CredentialStatuses(t.Context(), broker.NewCaller(broker.SPIFFE, "far.example", "far", broker.ProofX509, "services"), names); err != nil || !errors.Is(all[0].Err, broker.CallerNotAllowed) {
			t.Errorf("of a caller who may not: got %+v, %v", all, err)
		}
	})
}
