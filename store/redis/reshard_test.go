package redis_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/store/redis"
)

// clusterRig is a rig on a Cluster, and the key by which the slot of its credential "main" is found.
func clusterRig(t *testing.T) (*redistest.Cluster, *rig, string) {
	t.Helper()
	c := redistest.StartCluster(t)
	r := newRig(t, "redis+cluster://"+strings.Join(c.Addrs(), ","), func(o *redis.Options) { o.AcceptLoss, o.Prefix = true, "moving" })
	return c, r, "moving:1:{" + string(r.GroupOf("main")) + "}:rows"
}

func keyed(i int) broker.TokenKey {
	k := [32]byte{3, byte(i), byte(i >> 8)}
	return broker.TokenKey{Credential: "main", Token: k, Selection: k, Grant: k, Digest: "d"}
}

// obtain stores a token.
func (r *rig) obtain(k broker.TokenKey, id string) error {
	v, err := r.Read(context.Background(), k, "")
	if err != nil {
		return err
	}
	l, err := v.Acquire(context.Background(), time.Minute, false)
	if err != nil {
		return err
	}
	now := time.Now()
	_, err = l.Commit(context.Background(), broker.Outcome{
		Now: now, Token: &broker.Issued{ID: id, Values: map[string]broker.Secret{"token": broker.NewSecret("access-" + id)}, SentAt: now, ExpireAt: now.Add(time.Hour)},
	})
	return err
}

// apart moves a slot but for some of its keys, which are the ones that contain this.
func apart(t *testing.T, c *redistest.Cluster, key, stays string) (m *redistest.Moving, left []string) {
	t.Helper()
	m = c.Move(key)
	var rest []string
	for _, k := range m.Keys(1000) {
		if strings.Contains(k, stays) {
			left = append(left, k)
		} else {
			rest = append(rest, k)
		}
	}
	if len(left) == 0 || len(rest) == 0 {
		t.Fatalf("of the slot's keys %d stay and %d go", len(left), len(rest))
	}
	m.Take(rest...)
	return m, left
}

// settled waits until the rig's client knows who has the slot.
func (r *rig) settled() {
	r.t.Helper()
	for began := time.Now(); ; {
		_, err := r.Credential(context.Background(), "main")
		if err == nil || broker.KindOf(err) == broker.NotFound {
			return
		}
		if time.Since(began) > 20*time.Second {
			r.t.Fatal(err)
		}
	}
}

// TestWhatIsElsewhereIsNotGone: while a slot is moved, rows may be at another master than the list of them is. Nothing is concluded of that: an invalidation, a
// deletion and an export fail, and succeed afterwards.
func TestWhatIsElsewhereIsNotGone(t *testing.T) {
	ctx := context.Background()
	c, r, key := clusterRig(t)
	r.create("main")
	if err := r.obtain(keyed(1), "tok"); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, stays := range []string{":token:", "}:credential", "}:rows", "}:grant"} { // the last is not asked for to invalidate
		m, left := apart(t, c, key, stays)
		if _, err := r.Drop(ctx, "main", broker.Match{TokenID: "tok"}); stays != "}:grant" && broker.KindOf(err) != broker.StoreUnavailable {
			t.Errorf("%s stays, invalidate: got %v", stays, err)
		}
		if err := r.DeleteCredential(ctx, "main", broker.ID{}); broker.KindOf(err) != broker.StoreUnavailable {
			t.Errorf("%s stays, delete: got %v", stays, err)
		}
		if err := r.Export(ctx, &out, nil); broker.KindOf(err) != broker.StoreUnavailable {
			t.Errorf("%s stays, export: got %v", stays, err)
		}
		m.Take(left...)
		m.End()
		r.settled()
		if v, err := r.Read(ctx, keyed(1), ""); err != nil || v.Token == nil || v.Token.Rejected != (stays == "}:grant") {
			t.Fatalf("%s stayed: got %+v, %v, want the token as it was", stays, v.Token, err)
		}
	}
	if _, err := r.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.DeleteCredential(ctx, "main", broker.ID{}); err != nil {
		t.Errorf("delete: %v", err)
	}
	r.create("main")
	if err := r.obtain(keyed(1), "another"); err != nil {
		t.Errorf("of another one of its name: %v", err)
	}
}

// TestInvalidatedWhileASlotMoves: tokens are invalidated one after the other while their slot is moved back and forth, a few keys at a time. Those of which it was said
// that they are gone are.
func TestInvalidatedWhileASlotMoves(t *testing.T) {
	const tokens = 120
	c, r, key := clusterRig(t)
	r.create("main")
	for i := range tokens {
		if err := r.obtain(keyed(i), fmt.Sprint("tok", i)); err != nil {
			t.Fatal(err)
		}
	}
	var dropping sync.WaitGroup
	said := make([]int, tokens)
	done := make(chan struct{})
	dropping.Go(func() {
		defer close(done)
		for i := range slices.Backward(said) {
			for {
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
				d, err := r.Drop(ctx, "main", broker.Match{TokenID: fmt.Sprint("tok", i)})
				cancel()
				if err == nil {
					said[i] = d.Count
					break
				}
			}
		}
	})
	moves := 0
	for over := false; !over && moves < 20; moves++ {
		m := c.Move(key)
		for keys := m.Keys(10); len(keys) > 0; keys = m.Keys(10) {
			m.Take(keys...)
		}
		m.End()
		select {
		case <-done:
			over = true
		default:
		}
	}
	dropping.Wait()
	r.settled()
	for i, n := range said {
		v, err := r.Read(context.Background(), keyed(i), "")
		if err != nil {
			t.Fatal(err)
		}
		if v.Token != nil && !v.Token.Rejected {
			t.Errorf("token %d, of which it was said that %d were invalidated, is there", i, n)
		}
	}
	t.Logf("%d moves", moves)
}

// TestWhatSomebodyHasDeletedIsGone: a row without a key, of which no master has one, keeps nobody from anything.
func TestWhatSomebodyHasDeletedIsGone(t *testing.T) {
	ctx := context.Background()
	c, r, key := clusterRig(t)
	r.create("main")
	for i := range 2 {
		if err := r.obtain(keyed(i), fmt.Sprint("tok", i)); err != nil {
			t.Fatal(err)
		}
	}
	at := c.MasterFor(key)
	all, err := at.Do("KEYS", strings.TrimSuffix(key, "rows")+"token:*")
	if err != nil || len(all.([]any)) != 2 {
		t.Fatalf("got %v, %v", all, err)
	}
	if _, err := at.Do("DEL", fmt.Sprint(all.([]any)[0])); err != nil {
		t.Fatal(err)
	}
	if d, err := r.Drop(ctx, "main", broker.Match{Epoch: broker.NewID()}); err != nil || d.Count != 1 {
		t.Errorf("invalidate all: got %+v, %v", d, err)
	}
	if err := r.DeleteCredential(ctx, "main", broker.ID{}); err != nil {
		t.Errorf("delete: %v", err)
	}
	if left, err := at.Do("KEYS", strings.TrimSuffix(key, "rows")+"*"); err != nil || len(left.([]any)) != 0 {
		t.Errorf("what is left: %v, %v", left, err)
	}
}
