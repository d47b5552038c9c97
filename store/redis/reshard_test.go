package redis_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/store"
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

// endedByTheList gives all of a group's rows scores as if they had ended, which is how a master whose clock is ahead sees them, or what has ended meanwhile.
func endedByTheList(t *testing.T, at *redistest.Server, key string) {
	t.Helper()
	all, err := at.Do("ZRANGE", key, "0", "-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all.([]any) {
		if _, err := at.Do("ZADD", key, "1", fmt.Sprint(m)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestWhatIsElsewhereIsNotGone: while a slot is moved, rows may be at another master than the list of them is, which may say that they have ended. Nothing is concluded of
// that: an invalidation, a deletion and an export fail, and succeed afterwards.
func TestWhatIsElsewhereIsNotGone(t *testing.T) {
	for name, rig := range map[string]func(t *testing.T, at *redistest.Server, key string){
		"as the list says": func(*testing.T, *redistest.Server, string) {}, "the other master's clock is ahead": endedByTheList,
	} {
		t.Run(name, func(t *testing.T) {
			ctx := context.Background()
			c, r, key := clusterRig(t)
			r.create("main")
			if err := r.obtain(keyed(1), "tok"); err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			for _, stays := range []string{":token:", "}:credential", "}:rows", "}:grant"} { // the last is not asked for to invalidate
				rig(t, c.MasterFor(key), key)
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
		})
	}
}

// TestWithReplicasACommitIsMadeWhileItsSlotIsOpen: all of a credential is at the other master already, as while the rest of a large slot is on its way. Replicas of that master
// are waited for, and not those of the one that is asked first.
func TestWithReplicasACommitIsMadeWhileItsSlotIsOpen(t *testing.T) {
	c := redistest.StartCluster(t)
	for _, s := range c.Nodes() { // a replica that hangs is not taken for dead
		if _, err := s.Do("CONFIG", "SET", "cluster-node-timeout", "60000"); err != nil {
			t.Fatal(err)
		}
	}
	r := newRig(t, "redis+cluster://"+strings.Join(c.Addrs(), ","), func(o *redis.Options) { o.AcceptLoss, o.Prefix, o.WaitReplicas = true, "moving", 1 })
	k, key := r.create("main"), "moving:1:{"+string(r.GroupOf("main"))+"}:rows"
	if err := r.refresh(k, "refresh-0"); err != nil { // a slot that is open takes no row that is new
		t.Fatal(err)
	}
	for i, tt := range []struct {
		hangs       string
		unconfirmed int
	}{{"the former master's replica", 0}, {"the others", 1}} {
		v, err := r.Read(t.Context(), k, "")
		if err != nil {
			t.Fatal(err)
		}
		l, err := v.Acquire(t.Context(), time.Minute, true)
		if err != nil {
			t.Fatal(err)
		}
		former := c.ReplicaOf(c.MasterFor(key))
		m := c.Move(key)
		m.Take(m.Keys(1000)...)
		var hang []*redistest.Server
		for _, s := range c.Nodes()[len(c.Nodes())/2:] {
			if (s == former) == (i == 0) {
				hang = append(hang, s)
				s.Stop()
			}
		}
		next := fmt.Sprint("refresh-", i+1)
		if err := r.commit(l, next); err != nil {
			t.Errorf("%s hang: %v", tt.hangs, err)
		}
		if r.unconfirmed != tt.unconfirmed {
			t.Errorf("%s hang: %d are counted as not confirmed, want %d", tt.hangs, r.unconfirmed, tt.unconfirmed)
		}
		for _, s := range hang {
			s.Continue()
		}
		m.End()
		r.settled()
		if got := r.grant(k); got != next {
			t.Errorf("%s hang: there is %q", tt.hangs, got)
		}
	}
}

// TestWhatHasEndedIsForgotten: a group's list does not grow by what has ended. Where that may be at another master it is looked for once it is much, or something depends on it.
func TestWhatHasEndedIsForgotten(t *testing.T) {
	ctx := context.Background()
	one := redistest.Start(t, redistest.Options{})
	c := redistest.StartCluster(t)
	const key = "ended:1:{c:1}:rows"
	for name, tt := range map[string]struct {
		url, few string
		server   *redistest.Server
	}{
		"one server": {one.URL(), "1", one}, "Cluster": {"redis+cluster://" + strings.Join(c.Addrs(), ","), "51", c.MasterFor(key)},
	} {
		t.Run(name, func(t *testing.T) {
			db := open(t, tt.url, func(o *redis.Options) { o.Prefix = "ended" })
			ends := func(n int) {
				t.Helper()
				args := []string{"ZADD", key}
				for i := range n {
					args = append(args, "1000", fmt.Sprint("token:", i))
				}
				if _, err := tt.server.Do(args...); err != nil {
					t.Fatal(err)
				}
			}
			for _, step := range []struct {
				name  string
				ended int
				batch store.Batch
				want  string
			}{
				{"few", 50, store.Batch{}, tt.few},
				{"many", 150, store.Batch{}, "1"},
				{"few that are cleared", 50, store.Batch{Clear: []store.Kind{"token"}}, "1"},
				{"few that room is made of", 50, store.Batch{Rooms: []store.Room{{Kind: "token", Most: 10}}}, "1"},
			} {
				ends(step.ended)
				step.batch.Group, step.batch.Puts = "c:1", []store.Put{{Key: store.Key{Kind: "grant"}, Revision: store.Revision(broker.NewID())}}
				if err := db.Apply(ctx, step.batch); err != nil {
					t.Fatal(err)
				}
				if n, err := tt.server.Do("ZCARD", key); err != nil || fmt.Sprint(n) != step.want {
					t.Errorf("%s: got %v members, %v, want %s", step.name, n, err, step.want)
				}
			}
		})
	}
}

// TestWhatIsElsewhereIsNotForgotten, however much of it there is that has ended by the list, and somebody changes something else.
func TestWhatIsElsewhereIsNotForgotten(t *testing.T) {
	ctx := context.Background()
	c := redistest.StartCluster(t)
	db := open(t, "redis+cluster://"+strings.Join(c.Addrs(), ","), func(o *redis.Options) { o.Prefix = "moving" })
	for g, n := range map[store.Group]int{"c:few": 10, "c:many": 150} {
		key := "moving:1:{" + string(g) + "}:rows"
		other := store.Put{Key: store.Key{Kind: "grant"}, Revision: store.Revision(broker.NewID()), Value: []byte("another kind")}
		all := []store.Put{other}
		for i := range n {
			all = append(all, movedRow(byte(i+1), time.Hour))
		}
		if err := db.Apply(ctx, store.Batch{Group: g, Puts: all}); err != nil {
			t.Fatal(err)
		}
		endedByTheList(t, c.MasterFor(key), key)
		m, left := apart(t, c, key, ":token:")
		other.Revision = store.Revision(broker.NewID())
		if err := db.Apply(ctx, store.Batch{Group: g, Puts: []store.Put{other}}); err != nil {
			t.Errorf("%s: what is where the list is: %v", g, err)
		}
		m.Take(left...)
		m.End()
		var listed []store.Reading
		var err error
		for began := time.Now(); time.Since(began) < 20*time.Second; { // until the client knows who has the slot
			if listed, err = db.List(ctx, []store.Group{g}, "token"); err == nil {
				break
			}
		}
		if err != nil || len(listed[0].Rows) != n {
			t.Errorf("%s: got %v rows, %v, want %d", g, len(listed[0].Rows), err, n)
		}
	}
}

// TestWhatASlotSaysIsNoOutage: whether it is read, listed or written, a master that has not all of a group yet has answered.
func TestWhatASlotSaysIsNoOutage(t *testing.T) {
	ctx := context.Background()
	c := redistest.StartCluster(t)
	db := open(t, "redis+cluster://"+strings.Join(c.Addrs(), ","), func(o *redis.Options) { o.Prefix = "moving" })
	one, two := movedRow(1, 0), movedRow(2, 0)
	if err := db.Apply(ctx, store.Batch{Group: "c:1", Puts: []store.Put{one, two}}); err != nil {
		t.Fatal(err)
	}
	apart(t, c, "moving:1:{c:1}:rows", ":rows")
	for what, ask := range map[string]func() error{
		"read": func() error {
			_, err := db.Read(ctx, store.Ask{Group: "c:1", Keys: []store.Key{one.Key, movedRow(3, 0).Key}})
			return err
		},
		"list":  func() error { _, err := db.List(ctx, []store.Group{"c:1"}, "token"); return err },
		"apply": func() error { return db.Apply(ctx, store.Batch{Group: "c:1", Clear: []store.Kind{"token"}}) },
	} {
		if err := ask(); !errors.Is(err, store.ErrGroupAway) || broker.KindOf(err) != broker.StoreUnavailable {
			t.Errorf("%s: got %v", what, err)
		}
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

// movedRow is a row of a group whose slot is moved.
func movedRow(id byte, ttl time.Duration) store.Put {
	k := store.Key{Kind: "token"}
	if id > 0 {
		k.ID = [32]byte{id}
	}
	revision := broker.NewID()
	return store.Put{Key: k, Revision: store.Revision(revision), Value: revision[:], TTL: ttl}
}

// TestABatchIsMadeWholeOrNotWhileASlotMoves: the slot is about to be moved, and its keys are where they were. A script is refused a key that is not there,
// also one that it has deleted itself, and what it wrote before that stays.
func TestABatchIsMadeWholeOrNotWhileASlotMoves(t *testing.T) {
	ctx := context.Background()
	c := redistest.StartCluster(t)
	db := open(t, "redis+cluster://"+strings.Join(c.Addrs(), ","), func(o *redis.Options) { o.Prefix = "moving" })
	one, two, three := movedRow(1, time.Hour), movedRow(2, 2*time.Hour), movedRow(3, 0)
	other := store.Put{Key: store.Key{Kind: "grant"}, Revision: store.Revision(broker.NewID()), Value: []byte("another kind")}
	again := func(p store.Put) store.Put {
		p.Revision = store.Revision(broker.NewID())
		return p
	}
	passed := again(two)
	passed.TTL, passed.Ends = 0, time.Unix(1, 0)
	all := []store.Put{one, two, three, other}
	for i, tt := range []struct {
		name  string
		batch store.Batch
		rig   func(at *redistest.Server, key string)
		want  []store.Key // nil: it is refused
	}{
		{"what is cleared is put", store.Batch{Clear: []store.Kind{"token"}, Puts: []store.Put{again(other), again(two)}}, nil, []store.Key{other.Key, two.Key}},
		{"what is deleted is put", store.Batch{Deletes: []store.Key{two.Key, one.Key}, Puts: []store.Put{again(one)}}, nil, []store.Key{other.Key, one.Key, three.Key}},
		{"the group is deleted, and a row of it put", store.Batch{DeleteGroup: true, Puts: []store.Put{again(three)}}, nil, []store.Key{three.Key}},
		{"the group is deleted", store.Batch{DeleteGroup: true, Deletes: []store.Key{one.Key, other.Key}}, nil, []store.Key{}},
		{"room is made of what is put", store.Batch{Rooms: []store.Room{{Kind: "token", Most: 2}}, Puts: []store.Put{again(one)}}, nil, []store.Key{other.Key, one.Key, three.Key}},
		{"a put has passed", store.Batch{Clear: []store.Kind{"grant"}, Deletes: []store.Key{two.Key}, Puts: []store.Put{passed, again(one)}}, nil, []store.Key{one.Key, three.Key}},
		{"a new row", store.Batch{Clear: []store.Kind{"grant"}, Puts: []store.Put{again(one), movedRow(4, time.Hour)}}, nil, nil},
		{"a new row alone", store.Batch{DeleteGroup: true, Puts: []store.Put{movedRow(4, time.Hour)}}, nil, nil},
		{"a row that is not there goes", store.Batch{Clear: []store.Kind{"grant"}, Deletes: []store.Key{{Kind: "token", ID: [32]byte{4}}}, Puts: []store.Put{again(one)}}, nil, nil},
		{
			"somebody has deleted a row", store.Batch{Clear: []store.Kind{"token"}, Puts: []store.Put{again(other), again(three)}},
			func(at *redistest.Server, key string) {
				_, _ = at.Do("ZADD", key, "+inf", "token:none", "+inf", "other")
			}, []store.Key{other.Key, three.Key},
		},
		{
			"all have ended by the list", store.Batch{Clear: []store.Kind{"grant"}, Puts: []store.Put{again(one)}},
			func(at *redistest.Server, key string) { endedByTheList(t, at, key) }, []store.Key{one.Key, two.Key, three.Key},
		},
		{
			"one has ended", store.Batch{Clear: []store.Kind{"token"}, Puts: []store.Put{again(one)}},
			func(at *redistest.Server, key string) { _, _ = at.Do("ZADD", key, "1", "token:none") }, []store.Key{other.Key, one.Key},
		},
	} {
		g := store.Group(fmt.Sprint("c:", i))
		key := fmt.Sprintf("moving:1:{%s}:rows", g)
		if err := db.Apply(ctx, store.Batch{Group: g, Puts: all}); err != nil {
			t.Fatal(err)
		}
		if tt.rig != nil {
			tt.rig(c.MasterFor(key), key)
		}
		m := c.Move(key)
		tt.batch.Group = g
		err := db.Apply(ctx, tt.batch)
		if err != nil && !errors.Is(err, store.ErrGroupAway) {
			t.Errorf("%s: got %v, which is said of the whole master", tt.name, err)
		}
		m.Take(m.Keys(1000)...)
		m.End()
		if (err != nil) != (tt.want == nil) || err != nil && broker.KindOf(err) != broker.StoreUnavailable {
			t.Errorf("%s: got %v", tt.name, err)
		}
		want, put := tt.want, tt.batch.Puts
		if err != nil {
			want, put = []store.Key{one.Key, two.Key, three.Key, other.Key}, nil
		}
		put = append(slices.Clip(put), all...)
		ask := store.Ask{Group: g, Keys: []store.Key{movedRow(4, 0).Key, one.Key, two.Key, three.Key, other.Key}}
		read, err := db.Read(ctx, ask)
		for began := time.Now(); err != nil && time.Since(began) < 20*time.Second; { // until the client knows who has the slot
			read, err = db.Read(ctx, ask)
		}
		if err != nil {
			t.Fatal(err)
		}
		listed, err := db.List(ctx, []store.Group{g}, "grant", "token")
		if err != nil {
			t.Fatal(err)
		}
		for what, rows := range map[string][]store.Row{"read": read[0].Rows, "listed": listed[0].Rows} {
			for _, row := range rows {
				if p := put[slices.IndexFunc(put, func(p store.Put) bool { return p.Key == row.Key })]; p.Revision != row.Revision || !slices.Contains(want, row.Key) {
					t.Errorf("%s: %s: %v is there, %v put", tt.name, what, row.Key, p.Revision == row.Revision)
				}
			}
			if len(rows) != len(want) {
				t.Errorf("%s: %d rows are %s, want %d", tt.name, len(rows), what, len(want))
			}
		}
	}
}

// TestTheListGoesByTheKeys: a slot was moved to a master whose clock is ahead. Keys were given the time that they had left there, and by the list of them they have ended.
func TestTheListGoesByTheKeys(t *testing.T) {
	ctx := context.Background()
	server := redistest.Start(t, redistest.Options{})
	db := open(t, server.URL(), func(o *redis.Options) { o.Prefix = "ahead" })
	one, two, three := movedRow(1, time.Hour), movedRow(2, 0), movedRow(3, time.Hour)
	want := func(n int) {
		t.Helper()
		if all, err := db.List(ctx, []store.Group{"c:1"}, "token"); err != nil || len(all[0].Rows) != n {
			t.Errorf("listed: %v, %v, want %d", all, err, n)
		}
	}
	if err := db.Apply(ctx, store.Batch{Group: "c:1", Puts: []store.Put{one, two, three}}); err != nil {
		t.Fatal(err)
	}
	back := func(n int) {
		t.Helper()
		endedByTheList(t, server, "ahead:1:{c:1}:rows")
		want(n)
	}
	back(3)
	if err := db.Apply(ctx, store.Batch{Group: "c:1", Deletes: []store.Key{one.Key}}); err != nil {
		t.Fatal(err)
	}
	want(2)
	if n, err := server.Do("ZCOUNT", "ahead:1:{c:1}:rows", "-inf", "1000000"); err != nil || n != int64(0) {
		t.Errorf("%v have ended by the list, %v", n, err)
	}
	back(2)
	if err := db.Apply(ctx, store.Batch{Group: "c:1", Clear: []store.Kind{"token"}}); err != nil {
		t.Fatal(err)
	}
	want(0)
	if all, err := db.Read(ctx, store.Ask{Group: "c:1", Keys: []store.Key{one.Key, two.Key, three.Key}}); err != nil || len(all[0].Rows) != 0 {
		t.Errorf("cleared, and there are %v, %v", all, err)
	}
}
