package redis

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/store"
)

// holding is a DB with credentials of these names, as the backend has them: a row each, and an entry of the index.
func holding(t *testing.T, address string, names ...string) *DB {
	t.Helper()
	a, err := ParseAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	db, err := Open(Options{Address: a, Prefix: "a[b]*?"}) // which are no pattern
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	for _, name := range names {
		if err := db.Apply(t.Context(), inserted(name, 1)); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

func groupOf(name string) store.Group { return store.Group("c:" + name) }

// inserted is the change that makes a credential.
func inserted(name string, incarnation byte) store.Batch {
	return store.Batch{
		Group: groupOf(name), DeleteGroup: true, List: &store.Listing{Name: name, Incarnation: [16]byte{incarnation}},
		Puts: []store.Put{{Key: store.Key{Kind: store.IndexedKind}, Revision: store.Revision{incarnation, 7}, Value: []byte("sealed")}},
	}
}

// names are what the index lists.
func (db *DB) names(t *testing.T) (names []string) {
	t.Helper()
	page, err := db.Scan(t.Context(), store.Key{Kind: store.IndexedKind}, store.Listing{}, 1000)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range page {
		if l.Row.Revision != (store.Revision{}) {
			names = append(names, fmt.Sprint(l.Name, l.Incarnation[0]))
		}
	}
	return names
}

func (db *DB) wantNames(t *testing.T, names ...string) {
	t.Helper()
	if got := db.names(t); !slices.Equal(got, names) {
		t.Errorf("listed are %v, want %v", got, names)
	}
}

func (db *DB) wantRelisted(t *testing.T, want int) {
	t.Helper()
	if n, err := db.Relist(t.Context()); n != want || err != nil {
		t.Errorf("relisted %d, %v; want %d", n, err, want)
	}
}

// TestAnIndexThatLostEntriesGetsThemBack, on a Redis and on a Cluster, where the index has another master than most credentials.
func TestAnIndexThatLostEntriesGetsThemBack(t *testing.T) {
	for name, address := range map[string]string{
		"a redis":   redistest.Start(t, redistest.Options{}).URL(),
		"a cluster": "redis+cluster://" + strings.Join(redistest.StartCluster(t).Addrs(), ","),
	} {
		t.Run(name, func(t *testing.T) {
			db := holding(t, address, "a", "b", "c", "d")
			other := holding(t, address, "a") // of the same prefix: the same
			db.wantRelisted(t, 0)
			if err := db.client.ZRem(t.Context(), db.keys.index(), entry(store.Listing{Name: "b", Incarnation: [16]byte{1}}, groupOf("b"))).Err(); err != nil {
				t.Fatal(err)
			}
			db.wantNames(t, "a1", "c1", "d1")
			other.wantRelisted(t, 1)
			db.wantNames(t, "a1", "b1", "c1", "d1")
			if err := db.client.Del(t.Context(), db.keys.index()).Err(); err != nil {
				t.Fatal(err)
			}
			if err := db.Apply(t.Context(), store.Batch{Group: groupOf("c"), DeleteGroup: true, Unlist: &store.Listing{Name: "c"}}); err != nil {
				t.Fatal(err)
			}
			if err := db.Apply(t.Context(), inserted("d", 2)); err != nil { // deleted and created anew
				t.Fatal(err)
			}
			db.wantRelisted(t, 2)
			db.wantNames(t, "a1", "b1", "d2")
			db.wantRelisted(t, 0)
		})
	}
}

// unnoted takes the listed rows of credentials, as those have none that a former broker made.
func (db *DB) unnoted(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if err := db.Apply(t.Context(), store.Batch{Group: groupOf(name), Deletes: []store.Key{{Kind: kindListed}}}); err != nil {
			t.Fatal(err)
		}
	}
}

// indexed adds an entry to the index that no credential's change has brought.
func (db *DB) indexed(t *testing.T, name string, incarnation byte) (added string) {
	t.Helper()
	added = entry(store.Listing{Name: name, Incarnation: [16]byte{incarnation}}, groupOf(name))
	if err := db.client.ZAdd(t.Context(), db.keys.index(), zero(added)).Err(); err != nil {
		t.Fatal(err)
	}
	return added
}

func (db *DB) wantEntries(t *testing.T, what string, want int64) {
	t.Helper()
	if n, err := db.client.ZCard(t.Context(), db.keys.index()).Result(); n != want || err != nil {
		t.Errorf("%s the index has %d entries, %v; want %d", what, n, err, want)
	}
}

// TestCredentialsFromBeforeThereWereListedRows get one when the index is swept.
func TestCredentialsFromBeforeThereWereListedRows(t *testing.T) {
	db := holding(t, redistest.Start(t, redistest.Options{}).URL(), "a", "b")
	ctx := t.Context()
	db.unnoted(t, "a", "b")
	former := db.indexed(t, "b", 9)                                              // which of the two is b's, the index does not say
	if err := db.noteListed(ctx, db.judged(ctx, []string{former})); err != nil { // as where they are on two pages
		t.Fatal(err)
	}
	now := time.Now()
	for _, after := range []time.Duration{0, 61 * time.Minute} {
		if err := db.sweep(ctx, now.Add(after)); err != nil {
			t.Fatal(err)
		}
		db.wantEntries(t, fmt.Sprint("after ", after), 3)
	}
	if err := db.client.Del(ctx, db.keys.index()).Err(); err != nil {
		t.Fatal(err)
	}
	db.wantRelisted(t, 1)
	db.wantNames(t, "a1")
}

// TestASlotThatIsMovedIsTheOnlyOneThatIsNotSwept: what can be looked at is noted and swept, and the sweep says that there is more.
func TestASlotThatIsMovedIsTheOnlyOneThatIsNotSwept(t *testing.T) {
	c := redistest.StartCluster(t)
	db := holding(t, "redis+cluster://"+strings.Join(c.Addrs(), ","), "a", "b", "c")
	ctx := t.Context()
	db.unnoted(t, "a", "b", "c")
	db.indexed(t, "gone", 1)
	m := c.Move(db.keys.rows(groupOf("a")))
	now := time.Now()
	for _, after := range []time.Duration{0, 61 * time.Minute} {
		if err := db.sweep(ctx, now.Add(after)); broker.KindOf(err) != broker.StoreUnavailable || !strings.Contains(err.Error(), "some credentials could not be looked at") {
			t.Errorf("after %v: got %v, want that it has not looked at all", after, err)
		}
	}
	db.wantEntries(t, "while a slot is open", 3)
	noted := func(want int) {
		t.Helper()
		n := 0
		for _, j := range db.judged(ctx, []string{db.indexed(t, "a", 1), db.indexed(t, "b", 1), db.indexed(t, "c", 1)}) {
			if j.listed == j.entry {
				n++
			}
		}
		if n != want {
			t.Errorf("%d have a listed row, want %d", n, want)
		}
	}
	noted(2)
	m.Take(m.Keys(1000)...)
	m.End()
	for began := time.Now(); db.sweep(ctx, now) != nil; {
		if time.Since(began) > 20*time.Second {
			t.Fatal("the index is never swept whole")
		}
	}
	noted(3)
}

// TestAPartThatIsAwayKeepsNothingElseFromBeingListedAgain, and it is not said that all are listed.
func TestAPartThatIsAwayKeepsNothingElseFromBeingListedAgain(t *testing.T) {
	c := redistest.StartCluster(t)
	for _, s := range c.Nodes() {
		for setting, value := range map[string]string{"cluster-node-timeout": "60000", "cluster-require-full-coverage": "no"} { // nobody takes its place
			if _, err := s.Do("CONFIG", "SET", setting, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	names := strings.Split("abcdefgh", "")
	db := holding(t, "redis+cluster://"+strings.Join(c.Addrs(), ","), names...)
	var found, lost []string
	dead := ""
	index := c.MasterFor(db.keys.index()).Addr()
	for _, name := range names {
		key := db.keys.row(groupOf(name), store.Key{Kind: kindListed})
		if at := c.MasterFor(key).Addr(); at != index && dead == "" {
			dead = at
		}
		if found = append(found, key); c.MasterFor(key).Addr() == dead {
			lost = append(lost, name)
		}
	}
	if len(lost) == 0 || len(lost) == len(names) {
		t.Fatalf("%d of %d credentials are at the master that is to go", len(lost), len(names))
	}
	if err := db.client.Del(t.Context(), db.keys.index()).Err(); err != nil {
		t.Fatal(err)
	}
	for _, s := range c.Nodes() {
		if s.Addr() == dead {
			s.Stop()
			defer s.Continue()
		}
	}
	if n, err := db.relist(t.Context(), found); n != len(names)-len(lost) || err == nil {
		t.Errorf("relisted %d, %v; want the %d that can be looked at, and that there are more", n, err, len(names)-len(lost))
	}
	if n, err := db.Relist(t.Context()); n != 0 || broker.KindOf(err) != broker.StoreUnavailable {
		t.Errorf("relisted %d, %v; want that not all can be looked at", n, err)
	}
}

// scanning has a master do something before it is gone over, and after.
type scanning struct{ before, after func() }

func (h scanning) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h scanning) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h scanning) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		scan, ok := cmd.(*redis.ScanCmd)
		if !ok {
			return next(ctx, cmd)
		}
		h.before()
		err := next(ctx, cmd)
		if _, cursor := scan.Val(); cursor == 0 {
			h.after()
		}
		return err
	}
}

// TestWhatIsMovedMeanwhileIsListedAgain: a slot goes from a master that is gone over last to one that was gone over before, so that neither has its credential then.
func TestWhatIsMovedMeanwhileIsListedAgain(t *testing.T) {
	c := redistest.StartCluster(t)
	db := holding(t, "redis+cluster://"+strings.Join(c.Addrs(), ","), "a", "b", "c", "d", "e", "f")
	key := db.keys.rows(groupOf("a"))
	from := c.MasterFor(key).Addr()
	m := c.Move(key)
	var others sync.WaitGroup
	var moves sync.Once
	err := db.cluster.ForEachMaster(t.Context(), func(_ context.Context, one *redis.Client) error {
		if one.Options().Addr == from {
			one.AddHook(scanning{func() {
				moves.Do(func() {
					others.Wait()
					m.Take(m.Keys(1000)...)
					m.End()
				})
			}, func() {}})
			return nil
		}
		others.Add(1)
		one.AddHook(scanning{func() {}, sync.OnceFunc(others.Done)})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.client.ZRem(t.Context(), db.keys.index(), entry(store.Listing{Name: "a", Incarnation: [16]byte{1}}, groupOf("a"))).Err(); err != nil {
		t.Fatal(err)
	}
	db.wantRelisted(t, 1)
	db.wantNames(t, "a1", "b1", "c1", "d1", "e1", "f1")
}

// TestWhileASlotIsOpenItIsNotSaidThatAllAreListed, and what is found is listed all the same.
func TestWhileASlotIsOpenItIsNotSaidThatAllAreListed(t *testing.T) {
	c := redistest.StartCluster(t)
	db := holding(t, "redis+cluster://"+strings.Join(c.Addrs(), ","), "a", "b", "c")
	m := c.Move(db.keys.rows(groupOf("a")))
	if err := db.client.Del(t.Context(), db.keys.index()).Err(); err != nil {
		t.Fatal(err)
	}
	if n, err := db.Relist(t.Context()); broker.KindOf(err) != broker.StoreUnavailable || !strings.Contains(err.Error(), "slots of the Redis Cluster are being moved") {
		t.Errorf("relisted %d, %v; want that slots are being moved", n, err)
	}
	db.wantNames(t, "a1", "b1", "c1")
	m.Take(m.Keys(1000)...)
	m.End()
	db.wantRelisted(t, 0)
}

// TestNothingIsMissedWhereEachSlotHasOneMaster, and none of them is on its way.
func TestNothingIsMissedWhereEachSlotHasOneMaster(t *testing.T) {
	for _, tt := range []struct {
		name   string
		claims []string
		want   bool
	}{
		{"all have one", []string{"1 0-5460", "3 5461 5463-10000", "2 5462 10001-16383", "4 "}, true},
		{"one has none", []string{"1 0-5460", "2 5462-16383"}, false},
		{"one has two", []string{"1 0-5461", "2 5461-16383"}, false},
		{"one has two, and another none", []string{"1 0-5461", "2 5461-16382"}, false},
		{"one goes", []string{"1 0-5460 [77->-b]", "2 5461-16383"}, false},
		{"one comes", []string{"1 0-5460", "2 5461-16383 [77-<-a]"}, false},
		{"nothing is said", nil, false},
	} {
		var had slots
		for _, c := range tt.claims {
			had.add(c)
		}
		if got := had.once(); got != tt.want {
			t.Errorf("%s: got %v", tt.name, got)
		}
	}
}

// TestTheEntryOfAFormerOneIsSwept after an hour, and its successor's is not. It stayed because the index could not be changed when the former one was deleted.
func TestTheEntryOfAFormerOneIsSwept(t *testing.T) {
	db := holding(t, redistest.Start(t, redistest.Options{}).URL(), "a", "b")
	ctx := t.Context()
	if err := db.Apply(ctx, store.Batch{Group: groupOf("a"), DeleteGroup: true}); err != nil {
		t.Fatal(err)
	}
	if err := db.Apply(ctx, inserted("a", 2)); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, at := range []struct {
		after time.Duration
		want  int64
	}{{0, 3}, {59 * time.Minute, 3}, {61 * time.Minute, 2}} {
		if err := db.sweep(ctx, now.Add(at.after)); err != nil {
			t.Fatal(err)
		}
		db.wantEntries(t, fmt.Sprint("after ", at.after), at.want)
	}
	db.wantNames(t, "a2", "b1")
	db.wantRelisted(t, 0)
}

// TestEntriesWithoutACredentialAreSwept after an hour, and not before.
func TestEntriesWithoutACredentialAreSwept(t *testing.T) {
	db := holding(t, redistest.Start(t, redistest.Options{}).URL(), "a")
	ctx := context.Background()
	db.indexed(t, "gone", 1)
	now := time.Now()
	for _, at := range []struct {
		after time.Duration
		want  int64
	}{{0, 2}, {59 * time.Minute, 2}, {61 * time.Minute, 1}} {
		if err := db.sweep(ctx, now.Add(at.after)); err != nil {
			t.Fatal(err)
		}
		db.wantEntries(t, fmt.Sprint("after ", at.after), at.want)
	}
	db.wantNames(t, "a1")
}
