package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

// testUnbrokenLine: a hundred goroutines rotate one refresh token, and each successor has the predecessor that was presented.
func testUnbrokenLine(t *testing.T, _ Config, b *bench) {
	b.created("a", "r0")
	const wanted = 150
	var mu sync.Mutex
	rotations, presented := 0, map[string]bool{}
	var all sync.WaitGroup
	for g := range byte(contenders) {
		all.Go(func() {
			k := spending("a", g%10)
			for {
				v, err := b.Read(ctx, k, "")
				if err != nil {
					t.Errorf("read: %v", err)
					return
				}
				mu.Lock()
				enough := rotations >= wanted
				mu.Unlock()
				if enough {
					return
				}
				l, err := v.Acquire(ctx, leaseTime, true)
				if errors.Is(err, broker.ErrConflict) {
					continue
				}
				if err != nil {
					t.Errorf("acquire: %v", err)
					return
				}
				mu.Lock()
				if presented[v.Grant.RefreshToken.Reveal()] {
					t.Errorf("%s was presented twice", v.Grant.RefreshToken.Reveal())
				}
				presented[v.Grant.RefreshToken.Reveal()] = true
				rotations++
				n := rotations
				mu.Unlock()
				done, err := l.Commit(ctx, broker.Outcome{
					Token: issued(fmt.Sprint(n)), RefreshToken: broker.NewSecret(fmt.Sprintf("r%d", n)), Now: now(),
				})
				if err != nil || !done.Grant || !done.Token {
					t.Errorf("commit: got %+v, %v", done, err)
					return
				}
			}
		})
	}
	all.Wait()
	for n := range rotations {
		if !presented[fmt.Sprintf("r%d", n)] {
			t.Errorf("r%d was never presented", n)
		}
	}
	b.wantGrant(spending("a", 0), fmt.Sprintf("r%d", rotations))
	if len(presented) != rotations || rotations < wanted {
		t.Errorf("%d rotations presented %d refresh tokens", rotations, len(presented))
	}
}

// testOneLease: of many that ask at once, one gets it.
func testOneLease(t *testing.T, _ Config, b *bench) {
	b.created("a", "r1")
	k := spending("a", 1)
	v := b.view(k)
	var mu sync.Mutex
	got := 0
	var all sync.WaitGroup
	for range contenders {
		all.Go(func() {
			_, err := v.Acquire(ctx, leaseTime, true)
			if err != nil && !errors.Is(err, broker.ErrConflict) {
				t.Errorf("acquire: %v", err)
			}
			if err == nil {
				mu.Lock()
				got++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if got != 1 {
		t.Errorf("%d got the lease, want 1", got)
	}
	// Many end at once, for keys of one credential: nothing of any is lost.
	all = sync.WaitGroup{}
	for n := range byte(15) {
		all.Go(func() {
			k := plain("a", n)
			l, err := b.view(k).Acquire(ctx, leaseTime, false)
			if err == nil {
				_, err = l.Commit(ctx, broker.Outcome{Token: issued(fmt.Sprint(n)), Attempts: []broker.Attempt{{Status: int(n)}}, Now: now()})
			}
			if err != nil {
				t.Errorf("key %d: %v", n, err)
			}
		})
	}
	all.Wait()
	if st := b.status("a"); len(st.Tokens) != 15 || len(st.Attempts) != 15 {
		t.Errorf("got %d tokens and %d attempts, want 15 of each", len(st.Tokens), len(st.Attempts))
	}
}

func testStoreCanceled(t *testing.T, _ Config, b *bench) {
	c := b.created("a", "r1")
	k := spending("a", 1)
	l := b.acquired(k, true)
	v := b.view(plain("a", 1))
	ended, cancel := context.WithCancel(ctx)
	cancel()
	errs := map[string]error{}
	errs["create"] = b.CreateCredential(ended, credential("b"), nil)
	_, errs["credential"] = b.Credential(ended, "a")
	errs["save"] = b.SaveCredential(ended, c.Etag, changed(c, true), nil)
	errs["delete"] = b.DeleteCredential(ended, "a", broker.ID{})
	_, errs["credentials"] = b.Credentials(ended, "", 10)
	_, errs["read"] = b.Read(ended, k, "")
	_, errs["acquire"] = v.Acquire(ended, leaseTime, false)
	_, errs["commit"] = l.Commit(ended, broker.Outcome{RefreshToken: broker.NewSecret("r2")})
	errs["fail"] = l.Release(ended)
	_, errs["drop"] = b.Drop(ended, "a", broker.Match{TokenID: "t"})
	_, errs["status"] = Status(ended, b.Store, "a")
	errs["save backoff"] = b.SaveBackoff(ended, "h", broker.Backoff{Failures: 1})
	for what, err := range errs {
		wantUnavailable(t, what, err)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want one that matches context.Canceled", what, err)
		}
	}
	if got, err := l.Commit(ctx, broker.Outcome{RefreshToken: broker.NewSecret("r2"), Now: now()}); err != nil || !got.Grant {
		t.Errorf("commit after all that: got %+v, %v", got, err)
	}
}
