package storetest

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
)

var (
	lastingKinds = []store.Kind{"credential", "health", "history", "grant", "token", "failure", "suspended"}
	leaseKinds   = []store.Kind{"grantlease", "keylease"}
)

func testRewrap(t *testing.T, c Config, b *wrappedBench) {
	keys := b.furnished()
	names := []broker.CredentialName{"a", "b/ü", "c"}
	held := plain("a", 9)
	b.acquired(held, false) // a lease, which nobody touches
	if err := b.Export(ctx, &strings.Builder{}, nil); err != nil {
		t.Fatalf("export: %v", err) // rows that say so, here and in each credential
	}
	before := map[broker.TokenKey]broker.View{}
	for _, k := range keys {
		before[k] = b.view(k)
	}
	former := b.promoted()
	lasting, leases := b.sealedRows(lastingKinds, names...), b.sealedRows(leaseKinds, names...)
	if len(lasting) != 1 || len(lasting[former]) < 15 || len(leases[former]) != 1 {
		t.Fatalf("before: %d keys, %d rows, %d leases", len(lasting), len(lasting[former]), len(leases[former]))
	}
	c.pass(10 * time.Millisecond)
	began := time.Now()
	r := b.rewrapped()
	k, _ := b.stored()
	after := b.sealedRows(lastingKinds, names...)
	if len(after) != 1 || len(after[k.ID()]) != len(lasting[former]) || r.To != k.ID() || r.Rows != len(lasting[former])+2 || r.Pass != 2 {
		t.Errorf("got %+v and %d rows under %d keys, want %d and two of the store's own under %s", r, len(after[k.ID()]), len(after), len(lasting[former]), k.ID())
	}
	for i, is := range after[k.ID()] {
		was := lasting[former][i]
		if is.kind != was.kind || is.revision == was.revision || (is.left == 0) != (was.left == 0) {
			t.Errorf("row %d: got %+v, was %+v", i, is, was)
		}
		if later := is.left - was.left; later > c.Resolution || later < -time.Since(began)-c.Resolution-time.Second {
			t.Errorf("a %s ends %v later than it did", is.kind, later)
		}
	}
	if got := b.sealedRows(leaseKinds, names...); len(got[former]) != 1 || got[former][0].revision != leases[former][0].revision {
		t.Errorf("leases: got %v, want %v", got, leases)
	}
	for _, k := range keys {
		if diff := cmp.Diff(before[k], b.view(k), about(c), cmp.FilterPath(func(p cmp.Path) bool {
			return strings.HasPrefix(p.String(), "Mark") || p.String() == "Credential.Revision"
		}, cmp.Ignore())); diff != "" {
			t.Errorf("view (-before +after):\n%s", diff)
		}
	}
	if r := b.rewrapped(); r.Pass != 1 || r.Rows != 0 {
		t.Errorf("again: got %+v, want a pass that finds nothing", r)
	}
	if since, err := b.Suspended(ctx); err != nil || since.IsZero() {
		t.Errorf("suspended: got %v, %v", since, err)
	}
}

// testRewrapBetween: what a lease was taken for is sealed anew before it ends, by another broker.
func testRewrapBetween(t *testing.T, _ Config, b *wrappedBench) {
	b.created("a", "r1")
	k := spending("a", 1)
	l := b.acquired(k, true)
	before := b.view(k).Grant.Generation
	b.promoted()
	if r := b.rewrapped(); r.Rows < 3 {
		t.Errorf("rewrapped: got %+v, want at least a credential, a grant and the check", r)
	}
	if done := b.committed(l, broker.Outcome{Token: issued("t"), RefreshToken: broker.NewSecret("r2")}); !done.Grant || !done.Token {
		t.Errorf("commit: got %+v, want both stored", done)
	}
	b.wantGrant(k, "r2")
	b.wantToken(k, "t")
	if g := b.view(k).Grant; g.Generation == before || g.MayBeSpent() {
		t.Errorf("grant: got %+v, want the successor of what was presented", g)
	}
}

// testCommitWithinRewrap: what was committed since a rewrap has read is not undone by what it has sealed.
func testCommitWithinRewrap(t *testing.T, _ Config, b *wrappedBench) {
	b.created("a", "r1")
	k := spending("a", 1)
	l := b.acquired(k, true)
	b.promoted()
	group := b.GroupOf("a")
	b.faults.Set(Hooks{BeforeApply: func(_ context.Context, batch store.Batch) error {
		if batch.Group == group {
			b.faults.Set(Hooks{})
			if done, err := l.Commit(ctx, broker.Outcome{Token: issued("t"), RefreshToken: broker.NewSecret("r2"), Now: now()}); err != nil || !done.Grant {
				t.Errorf("commit: got %+v, %v", done, err)
			}
		}
		return nil
	}})
	b.rewrapped()
	b.wantGrant(k, "r2")
	b.wantToken(k, "t")
}

// testRetiredBetween: the key of what Acquire left is retired before the lease ends.
func testRetiredBetween(t *testing.T, c Config, b *wrappedBench) {
	b.created("a", "r1")
	k := spending("a", 1)
	l := b.acquiredFor(c.ending(), k, true)
	former := b.promoted()
	b.rewrapped()
	b.refuses("retire beside the lease", b.RetireKey(ctx, former), "under way")
	c.pass(c.ending())
	b.want("retire", b.RetireKey(ctx, former), nil)
	if done := b.committed(l, broker.Outcome{Token: issued("t"), RefreshToken: broker.NewSecret("r2")}); !done.Grant {
		t.Errorf("commit: got %+v, want the grant stored", done)
	}
	b.wantGrant(k, "r2")
}

// testRewrapGoesOn: a rewrap that is broken off goes on in another broker, from where it was.
func testRewrapGoesOn(t *testing.T, _ Config, b *wrappedBench) {
	names := make([]broker.CredentialName, 0, 130)
	for i := range 130 {
		name := broker.CredentialName("n" + string(rune('A'+i/26)) + string(rune('a'+i%26)))
		names = append(names, name)
		b.created(name, "seed")
	}
	former := b.promoted()
	ended, end := context.WithCancel(ctx)
	at := atomic.Int64{}
	b.faults.Set(Hooks{BeforeApply: func(context.Context, store.Batch) error {
		if at.Add(1) == 100 {
			end()
		}
		return nil
	}})
	const rate = 100
	r, err := b.Rewrap(ended, rate, nil)
	if err == nil || r.Done || r.Rows < rate {
		t.Fatalf("broken off: got %+v, %v", r, err)
	}
	b.faults.Set(Hooks{})
	other := wrappedOn(t, b.backend, b.kek)
	done := other.rewrapped()
	if all := 2*len(names) + 1; done.Rows > all || done.Rows < all-rate*5/4 { // how far it is is stored each second
		t.Errorf("gone on: got %+v, want %d rows altogether", done, 2*len(names)+1)
	}
	if left := other.sealedRows(lastingKinds, names...)[former]; len(left) > 0 {
		t.Errorf("%d rows are sealed with the former key", len(left))
	}
	keys, err := other.Keys(ctx)
	if err != nil || keys.Rewrap == nil || !keys.Rewrap.Done {
		t.Errorf("keys: got %+v, %v", keys, err)
	}
}

// testRewrapUnreadable: what nothing opens is counted and stays as it is, and all else is sealed anew.
func testRewrapUnreadable(t *testing.T, _ Config, b *wrappedBench) {
	names := []broker.CredentialName{"a", "b", "c"}
	for _, name := range names {
		b.created(name, "seed")
	}
	former := b.promoted()
	moved := one(t, b.backend, b.GroupOf("a"), store.Key{Kind: "grant"}) // sealed for where it was
	group, key := b.GroupOf("b"), store.Key{Kind: "grant"}
	is := one(t, b.backend, group, key)
	left := store.Put{Key: key, Revision: revision(), Value: moved.Value}
	apply(t, b.backend, store.Batch{Group: group, Puts: []store.Put{left}})
	r := b.rewrapped()
	if r.Unreadable != 1 || r.Rows != 2*len(names) || !strings.Contains(r.Why, "credential b") || !strings.Contains(r.Why, "grant record") {
		t.Errorf("got %+v, want %d rows sealed anew and one of credential b left", r, 2*len(names))
	}
	if rows := b.sealedRows(lastingKinds, names...)[former]; len(rows) != 1 || rows[0].revision != left.Revision {
		t.Errorf("under the former key: got %+v, want the one that cannot be read, as it was", rows)
	}
	b.refuses("retire", b.RetireKey(ctx, former), "the grant record of credential b")
	if keys, err := b.Keys(ctx); err != nil || keys.Rewrap == nil || keys.Rewrap.Unreadable != 1 || keys.Rewrap.Why != r.Why {
		t.Errorf("keys: got %+v, %v", keys.Rewrap, err)
	}
	apply(t, b.backend, store.Batch{Group: group, Puts: []store.Put{{Key: key, Revision: revision(), Value: is.Value}}})
	if r := b.rewrapped(); r.Unreadable != 0 || r.Why != "" || r.Rows != 1 {
		t.Errorf("once it can be read: got %+v, want its row sealed anew", r)
	}
	b.want("retire", b.RetireKey(ctx, former), nil)
	b.wantGrant(spending("b", 1), "seed")
}

// testRewrapBeside: exchanges go on while a rewrap runs, and none of them loses what it has.
func testRewrapBeside(t *testing.T, _ Config, b *wrappedBench) {
	const rounds = 20
	b.created("a", "r0")
	k := spending("a", 1)
	former := b.promoted()
	done := make(chan error, 1)
	go func() {
		for range 5 {
			if _, err := b.Rewrap(ctx, 0, nil); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for i := range rounds {
		var l broker.Lease
		for {
			var err error
			if l, err = b.view(k).Acquire(ctx, leaseTime, true); err == nil {
				break
			} else if !errors.Is(err, broker.ErrConflict) {
				t.Fatal(err)
			}
		}
		next := "r" + string(rune('1'+i))
		if done, err := l.Commit(ctx, broker.Outcome{Token: issued(next), RefreshToken: broker.NewSecret(next), Now: now()}); err != nil || !done.Grant || !done.Token {
			t.Fatalf("round %d: got %+v, %v", i, done, err)
		}
		b.wantGrant(k, next)
	}
	b.want("rewrap", <-done, nil)
	b.rewrapped()
	b.want("retire", b.RetireKey(ctx, former), nil)
	b.wantGrant(k, "r"+string(rune('1'+rounds-1)))
}

// testRewrapped: from a key file to a KEK, and from that to another, while brokers run.
func testRewrapped(t *testing.T, c Config, b *wrappedBench) {
	filed := newBench(t, c.Open(t), store.Options{})
	backend := filed.faults.Backend
	filed.created("a", "r1")
	k := spending("a", 1)
	b.want("wrap", store.WrapKeyring(ctx, backend, filed.keys, nil, b.kek), nil)
	if err := store.WrapKeyring(ctx, backend, filed.keys, nil, b.kek); err == nil {
		t.Error("wrapped twice")
	}
	filed.committed(filed.acquired(k, true), broker.Outcome{Token: issued("t"), RefreshToken: broker.NewSecret("r2")}) // a broker that has not been started again
	wrapped := wrappedOn(t, backend, b.kek)
	wrapped.wantGrant(k, "r2")
	former, _ := wrapped.stored()
	other := NewKEK("other")
	if err := store.WrapKeyring(ctx, backend, nil, NewKEK("wrong"), other); err == nil {
		t.Error("wrapped from a KEK that did not wrap it")
	}
	b.want("wrap by another", store.WrapKeyring(ctx, backend, nil, b.kek, other), nil)
	b.kek.Away(true)
	wrapped.notice()
	wrapped.wantGrant(k, "r2")
	anew := wrappedOn(t, backend, other)
	anew.wantGrant(k, "r2")
	if now, _ := anew.stored(); now.Generation() != former.Generation()+1 || !now.Follows(former.Version()) || now.StoreID() != former.StoreID() {
		t.Errorf("generation %d of %s, want %d of %s", now.Generation(), now.StoreID(), former.Generation()+1, former.StoreID())
	}
	if err := store.WrapKeyring(ctx, c.Open(t), filed.keys, nil, other); err == nil {
		t.Error("wrapped for a store that has no data")
	}
}
