package storetest

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
)

const leaseTime = time.Minute

// ending is how long a lease lasts whose end is waited for.
func (c Config) ending() time.Duration {
	if c.RealTime {
		return 2 * time.Second
	}
	return leaseTime
}

func testAcquire(t *testing.T, c Config, b *bench) {
	b.created("a", "r1")
	k := spending("a", 1)
	v := b.view(k)
	if _, err := v.Acquire(ctx, leaseTime, true); err != nil {
		t.Fatalf("acquire: %v", err)
	}
	held := b.view(k)
	if held.LeaseLeft <= 0 || held.LeaseLeft > leaseTime+c.Resolution || held.Grant.Marker.IsZero() || !held.Grant.MayBeSpent() {
		t.Errorf("view while it is held: %v left, marker %v", held.LeaseLeft, held.Grant.Marker)
	}
	_, err := v.Acquire(ctx, leaseTime, true)
	b.want("acquire by another owner, as of before", err, broker.ErrConflict)
	_, err = held.Acquire(ctx, leaseTime, true)
	b.want("acquire by another owner, as of now", err, broker.ErrConflict)
	_, err = b.view(spending("a", 2)).Acquire(ctx, leaseTime, true)
	b.want("acquire for another key of the same grant", err, broker.ErrConflict)
	if _, err := b.view(plain("a", 1)).Acquire(ctx, leaseTime, false); err != nil {
		t.Errorf("acquire for a key that spends nothing: %v", err)
	}
	if _, err := b.view(obtaining(1)).Acquire(ctx, leaseTime, false); err != nil {
		t.Errorf("acquire for a key with a grant of its own: %v", err)
	}

	b.created("late", "r1")
	k = spending("late", 1)
	b.acquiredFor(c.ending(), k, true)
	marker := b.view(k).Grant.Marker
	c.pass(c.ending())
	gone := b.view(k)
	if gone.LeaseLeft != 0 || marker.IsZero() || gone.Grant.Marker != marker {
		t.Errorf("after its time: %v left, marker %v; want none, and the marker of the owner", gone.LeaseLeft, gone.Grant.Marker)
	}
	if _, err := gone.Acquire(ctx, leaseTime, true); err != nil {
		t.Errorf("acquire after its time: %v", err)
	}
}

// testAcquireMoved: nothing that the view showed may have changed.
func testAcquireMoved(_ *testing.T, _ Config, b *bench) {
	for name, move := range map[string]func(broker.Credential, broker.TokenKey){
		"credential": func(c broker.Credential, _ broker.TokenKey) { b.saved(c, changed(c, false), nil) },
		"deleted": func(c broker.Credential, _ broker.TokenKey) {
			b.want("delete", b.DeleteCredential(ctx, c.Name, broker.ID{}), nil)
		},
		"created again": func(c broker.Credential, _ broker.TokenKey) {
			b.want("delete", b.DeleteCredential(ctx, c.Name, broker.ID{}), nil)
			b.created(c.Name, "r1")
		},
		"epoch": func(c broker.Credential, _ broker.TokenKey) {
			_, err := b.Drop(ctx, c.Name, broker.Match{Epoch: broker.NewID()})
			b.want("drop", err, nil)
		},
		"token": func(_ broker.Credential, k broker.TokenKey) {
			b.committed(b.acquired(k, false), broker.Outcome{Token: issued("t")})
		},
		"grant": func(_ broker.Credential, k broker.TokenKey) {
			b.committed(b.acquired(k, true), broker.Outcome{RefreshToken: broker.NewSecret("r2")})
		},
		"key failure": func(_ broker.Credential, k broker.TokenKey) {
			b.failed(b.acquired(k, false), broker.FailureRecord{Level: broker.LevelScope, Now: now()})
		},
		"credential failure": func(_ broker.Credential, k broker.TokenKey) {
			b.failed(b.acquired(k, false), broker.FailureRecord{Level: broker.LevelCredential, Now: now()})
		},
		"lease": func(_ broker.Credential, k broker.TokenKey) { b.acquired(k, false) },
	} {
		n := broker.CredentialName("moved " + name)
		c := b.created(n, "r1")
		k := spending(n, 1)
		v := b.view(k)
		move(c, k)
		_, err := v.Acquire(ctx, leaseTime, true)
		b.want(name, err, broker.ErrConflict)
	}
	// What does not concern the key is no conflict: the status of the credential, other keys' tokens.
	b.created("b", "")
	v := b.view(plain("b", 1))
	other := plain("b", 2)
	b.committed(b.acquired(other, false), broker.Outcome{Token: issued("t"), Attempts: []broker.Attempt{{Host: "h"}}})
	_, err := v.Acquire(ctx, leaseTime, false)
	b.want("after a commit for another key", err, nil)
}

// testAcquireLost: a lease whose taking nobody has confirmed is there, and can be given back.
func testAcquireLost(t *testing.T, _ Config, b *bench) {
	b.created("a", "r1")
	k := spending("a", 1)
	v := b.view(k)
	b.faults.Set(Hooks{AfterApply: func(context.Context, store.Batch) error { return store.Unavailable("the answer was lost") }})
	l, err := v.Acquire(ctx, leaseTime, true)
	b.want("acquire", err, broker.StoreUnavailable)
	b.faults.Set(Hooks{})
	if l == nil {
		t.Fatal("nobody can give back what may have been taken")
	}
	if v := b.view(k); v.LeaseLeft == 0 || v.Grant.Marker.IsZero() {
		t.Errorf("it was not taken: %v left, marker %v", v.LeaseLeft, v.Grant.Marker)
	}
	_, err = v.Acquire(ctx, leaseTime, true)
	b.want("acquire by another", err, broker.ErrConflict)
	b.released(l)
	if v := b.view(k); v.LeaseLeft != 0 || v.Grant.MayBeSpent() {
		t.Errorf("given back: %v left, marker %v", v.LeaseLeft, v.Grant.Marker)
	}
	next := b.acquired(k, true)
	b.released(l) // once more
	if v := b.view(k); v.LeaseLeft == 0 || v.Grant.Marker.IsZero() {
		t.Error("another's lease was given back")
	}
	b.committed(next, broker.Outcome{RefreshToken: broker.NewSecret("r2")})
	b.wantGrant(k, "r2")
	b.faults.Set(Hooks{BeforeApply: func(context.Context, store.Batch) error { return store.Unavailable("it did not get there") }})
	l, err = b.view(k).Acquire(ctx, leaseTime, true)
	b.want("acquire", err, broker.StoreUnavailable)
	b.faults.Set(Hooks{})
	b.want("delete", b.DeleteCredential(ctx, "a", broker.ID{}), nil)
	b.released(l) // nothing was taken, and there is nothing any more
}

// testAcquireVoid: a lease counts only as long as its token would; one on a grant always does.
func testAcquireVoid(t *testing.T, _ Config, b *bench) {
	c := b.created("a", "r1")
	k, s := plain("a", 1), spending("a", 1)
	old, spends := b.acquired(k, false), b.acquired(s, true)
	next := changed(c, true)
	b.saved(c, next, nil)
	if v := b.view(k); v.LeaseLeft != 0 {
		t.Errorf("a lease for the former version counts: %v left", v.LeaseLeft)
	}
	if v := b.view(s); v.LeaseLeft == 0 {
		t.Error("a lease on the grant does not count any more")
	}
	fresh := b.acquired(k, false)
	if done := b.committed(old, broker.Outcome{Token: issued("void")}); done.Token {
		t.Error("a token of the former version was stored")
	}
	if v := b.view(k); v.LeaseLeft == 0 {
		t.Error("a late commit released the lease of another owner")
	}
	if done := b.committed(fresh, broker.Outcome{Token: issued("t")}); !done.Token {
		t.Error("a token was not stored")
	}
	if done := b.committed(spends, broker.Outcome{Token: issued("void"), RefreshToken: broker.NewSecret("r2")}); done.Token || !done.Grant {
		t.Errorf("a rotated refresh token, and a void token: got %+v", done)
	}
	b.wantGrant(s, "r2")
	old = b.acquired(k, false)
	if _, err := b.Drop(ctx, "a", broker.Match{Epoch: broker.NewID()}); err != nil {
		t.Fatalf("drop: %v", err)
	}
	if v := b.view(k); v.LeaseLeft != 0 {
		t.Errorf("a lease for the former epoch counts: %v left", v.LeaseLeft)
	}
	b.acquired(k, false)
	b.released(old)
	if v := b.view(k); v.LeaseLeft == 0 {
		t.Error("a late failure released the lease of another owner")
	}
}

// testTooManyTokens: the token that ends first makes room, and no other; of the same credential.
func testTooManyTokens(t *testing.T, _ Config, b *bench) {
	b.created("a", "")
	b.created("b", "")
	b.committed(b.acquired(plain("b", 1), false), broker.Outcome{Token: issued("t")})
	obtained := func(n byte, ago time.Duration) {
		t.Helper()
		token := issued("t")
		token.SentAt, token.ExpireAt = now().Add(-ago), token.ExpireAt.Add(-ago)
		b.committed(b.acquired(plain("a", n), false), broker.Outcome{Token: token})
	}
	for n := range byte(20) {
		obtained(n, time.Duration(n)*time.Second) // the last one is the oldest
	}
	l, err := b.view(plain("a", 19)).Acquire(ctx, leaseTime, false)
	b.want("acquire for one that is there", err, nil)
	b.released(l)
	there := func() (all []byte) {
		for n := range byte(30) {
			if b.view(plain("a", n)).Token != nil {
				all = append(all, n)
			}
		}
		return all
	}
	if got := there(); len(got) != 20 {
		t.Errorf("got %v, want all 20", got)
	}
	obtained(20, 0)
	obtained(21, 0)
	if got := there(); len(got) != 20 || slices.Contains(got, 19) || slices.Contains(got, 18) {
		t.Errorf("got %v, want the 20 that end last", got)
	}
	if b.view(plain("b", 1)).Token == nil {
		t.Error("a token of another credential has made room")
	}
}

// testForeignMarker: a marker without a lease is a presentation whose answer was lost, and the next one that is known to
// have spent nothing must not hide it.
func testForeignMarker(t *testing.T, c Config, b *bench) {
	b.created("a", "r1")
	k := spending("a", 1)
	began := now()
	b.acquiredFor(c.ending(), k, true)
	first := b.view(k).Grant.UsedAt
	if first.Before(began) || first.After(now()) {
		t.Errorf("used at: got %v, want when it was marked", first)
	}
	c.pass(c.ending())
	former := b.view(k).Grant.Marker
	l := b.acquired(k, true)
	g := b.view(k).Grant
	if !g.Uncertain || g.Marker.IsZero() || g.Marker == former || !g.UsedAt.Equal(first) {
		t.Errorf("over a foreign marker: got %+v, want uncertain since %v", g, first)
	}
	b.failed(l, broker.FailureRecord{Presented: true, Now: now()})
	g = b.view(k).Grant
	if !g.Uncertain || !g.Marker.IsZero() || !g.UsedAt.Equal(first) {
		t.Errorf("after an answer that spends nothing: got %+v, want still uncertain", g)
	}
	b.committed(b.acquired(k, true), broker.Outcome{})
	if g := b.view(k).Grant; g.MayBeSpent() {
		t.Errorf("after an answer that is good: got %+v", g)
	}
}
