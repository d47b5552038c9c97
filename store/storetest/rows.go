package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
)

func testRows(t *testing.T, _ Config, b store.Backend) {
	wantAbsent(t, b, key(kindX, 1))
	p, q := put(key(kindX, 1), "first"), put(key(kindX, 2), "")
	applyPuts(t, b, groupA, p, q)
	wantRow(t, b, groupA, p)
	wantRow(t, b, groupA, q)
	if r := one(t, b, groupA, p.Key); r.Left != 0 {
		t.Errorf("left: got %v, want 0 for a row that lives for ever", r.Left)
	}
	rows, err := rowsOf(context.Background(), b, groupA, q.Key, key(kindX, 3), p.Key)
	if err != nil || len(rows) != 2 {
		t.Errorf("read of two that are there and one that is not: got %d rows, %v", len(rows), err)
	}
	binary := put(p.Key, string(bytes.Repeat([]byte{0, 0xff, '\n', '"'}, 5000)))
	applyPuts(t, b, groupA, binary)
	wantRow(t, b, groupA, binary)
	if rows, err := rowsOf(context.Background(), b, groupA); err != nil || len(rows) != 0 {
		t.Errorf("read of nothing: got %d rows, %v", len(rows), err)
	}
}

func testDeletes(t *testing.T, _ Config, b store.Backend) {
	all := []store.Put{put(key(kindX, 0), "0"), put(key(kindX, 1), "1"), put(key(kindX, 255), "255"), put(key(kindY, 1), "y")}
	refill := func() { applyPuts(t, b, groupA, all...) }
	refill()
	apply(t, b, store.Batch{Group: groupA, Deletes: []store.Key{key(kindX, 1), key(kindX, 9)}})
	wantAbsent(t, b, key(kindX, 1))
	wantRow(t, b, groupA, all[0])

	refill()
	kept := put(key(kindX, 7), "comes after the deletes")
	apply(t, b, store.Batch{Group: groupA, Clear: []store.Kind{kindX}, Puts: []store.Put{kept}})
	wantAbsent(t, b, key(kindX, 0), key(kindX, 1), key(kindX, 255))
	wantRow(t, b, groupA, all[3])
	wantRow(t, b, groupA, kept)

	kept = put(key(kindY, 1), "a new row of a new group")
	apply(t, b, store.Batch{Group: groupA, DeleteGroup: true, Puts: []store.Put{kept}})
	wantAbsent(t, b, key(kindX, 7))
	wantRow(t, b, groupA, kept)
	apply(t, b, store.Batch{Group: groupA, DeleteGroup: true})
	apply(t, b, store.Batch{Group: groupA, DeleteGroup: true}) // nothing is there
	wantAbsent(t, b, kept.Key)
}

// testReplaced: what goes and is put in the same batch is put, in one step.
func testReplaced(t *testing.T, _ Config, b store.Backend) {
	for what, batch := range map[string]store.Batch{
		"cleared":        {Clear: []store.Kind{kindX}},
		"deleted":        {Deletes: []store.Key{key(kindX, 1)}},
		"of the group":   {DeleteGroup: true},
		"no room for it": {Rooms: []store.Room{{Kind: kindX, Most: 1}}},
	} {
		applyPuts(t, b, groupA, ending(key(kindX, 1), "former", time.Hour), put(key(kindX, 2), "lives longer"))
		new := put(key(kindX, 1), what)
		batch.Group, batch.Puts = groupA, []store.Put{new}
		apply(t, b, batch)
		wantRow(t, b, groupA, new)
		if all, err := listOf(context.Background(), b, groupA, kindX); err != nil || !slices.ContainsFunc(all, func(r store.Row) bool { return r.Revision == new.Revision }) {
			t.Errorf("%s: it is not listed: %v, %v", what, all, err)
		}
	}
}

// testSeparation uses names that are prefixes of one another.
func testSeparation(t *testing.T, _ Config, b store.Backend) {
	ax, ay, bx := put(key(kindX, 1), "a grant"), put(key(kindY, 1), "a grant lease"), put(key(kindX, 1), "b grant")
	applyPuts(t, b, groupA, ax, ay)
	applyPuts(t, b, groupB, bx)
	apply(t, b, store.Batch{Group: groupA, Clear: []store.Kind{kindX}})
	wantRow(t, b, groupA, ay)
	wantRow(t, b, groupB, bx)
	apply(t, b, store.Batch{Group: groupA, DeleteGroup: true})
	wantRow(t, b, groupB, bx)
}

func testOwnership(t *testing.T, _ Config, b store.Backend) {
	p := put(key(kindX, 1), "value")
	applyPuts(t, b, groupA, p)
	copy(p.Value, "XXXXX")
	p.Value = []byte("value")
	r := one(t, b, groupA, p.Key)
	copy(r.Value, "YYYYY")
	wantRow(t, b, groupA, p)
}

func testConditions(t *testing.T, _ Config, b store.Backend) {
	p := put(key(kindX, 1), "there")
	apply(t, b, store.Batch{
		Group: groupA, Conditions: []store.Condition{{Key: p.Key}, {Key: key(kindX, 2)}}, Puts: []store.Put{p},
		List: &store.Listing{Name: "kept"},
	})
	holds := store.Condition{Key: p.Key, Revision: p.Revision}
	for name, fails := range map[string]store.Condition{
		"it is there":          {Key: p.Key},
		"another revision":     {Key: p.Key, Revision: revision()},
		"it is not there":      {Key: key(kindX, 2), Revision: revision()},
		"it is in other group": {Key: key(kindY, 1), Revision: p.Revision},
	} {
		for _, conditions := range [][]store.Condition{{fails}, {holds, fails}, {fails, holds}} {
			err := b.Apply(context.Background(), store.Batch{
				Group: groupA, Conditions: conditions, DeleteGroup: true, Clear: []store.Kind{kindX}, Deletes: []store.Key{p.Key},
				Puts: []store.Put{put(key(kindX, 3), "new")},
				List: &store.Listing{Name: "new"}, Unlist: &store.Listing{Name: "kept"},
			})
			if !errors.Is(err, broker.ErrConflict) {
				t.Errorf("%s: got %v, want a conflict", name, err)
			}
		}
	}
	wantRow(t, b, groupA, p)
	wantAbsent(t, b, key(kindX, 3))
	page, err := b.Scan(context.Background(), p.Key, store.Listing{}, 10)
	if err != nil || len(page) != 1 || page[0].Name != "kept" {
		t.Errorf("scan: got %v, %v; want the entry that was there before", page, err)
	}
	next := put(p.Key, "next")
	apply(t, b, store.Batch{Group: groupA, Conditions: []store.Condition{holds, holds}, Puts: []store.Put{next}})
	wantRow(t, b, groupA, next)
}

func testAppliedAgain(t *testing.T, _ Config, b store.Backend) {
	first := put(key(kindX, 1), "first")
	batch := store.Batch{
		Group: groupA, Conditions: []store.Condition{{Key: first.Key}}, Puts: []store.Put{first, put(key(kindX, 2), "second")},
		Clear: []store.Kind{kindY},
	}
	apply(t, b, batch)
	later := put(key(kindX, 2), "of somebody else")
	applyPuts(t, b, groupA, later, put(key(kindY, 1), "of somebody else"))
	apply(t, b, batch) // its answer was lost
	wantRow(t, b, groupA, first)
	wantRow(t, b, groupA, later)
	if r := one(t, b, groupA, key(kindY, 1)); r.Revision == (store.Revision{}) {
		t.Errorf("a batch that was applied already has cleared again")
	}
	applyPuts(t, b, groupA, put(first.Key, "overwritten"), put(key(kindX, 2), "overwritten"))
	conflicts(t, b, batch)
}

func testList(t *testing.T, _ Config, b store.Backend) {
	ctx := context.Background()
	if all, err := listOf(ctx, b, groupA, kindX, kindY); len(all) != 0 || err != nil {
		t.Errorf("list of an empty group: got %d rows, %v", len(all), err)
	}
	var puts []store.Put
	for _, n := range []byte{200, 3, 0, 77} {
		puts = append(puts, put(key(kindX, n), fmt.Sprint("x", n)), put(key(kindY, n), fmt.Sprint("y", n)))
	}
	applyPuts(t, b, groupA, puts...)
	applyPuts(t, b, groupB, put(key(kindX, 1), "of another group"))
	all, err := listOf(ctx, b, groupA, kindY, kindX, "none")
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	var got []string
	for _, r := range all {
		got = append(got, string(r.Value))
	}
	want := []string{"y0", "y3", "y77", "y200", "x0", "x3", "x77", "x200"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
}

// testListings: as many groups as a page has, in the order in which they were asked for, each with its own rows and the time.
func testListings(t *testing.T, c Config, b store.Backend) {
	ctx := context.Background()
	if all, err := b.List(ctx, nil, kindX); err != nil || len(all) != 0 {
		t.Errorf("list of no group: got %+v, %v", all, err)
	}
	var groups []store.Group
	for i := range 100 {
		g := store.Group(fmt.Sprint("c:", i))
		groups = append(groups, g)
		switch {
		case i%3 == 0: // has nothing
		case i%3 == 1:
			applyPuts(t, b, g, put(key(kindX, 2), fmt.Sprint("x2 of ", i)), put(key(kindX, 1), fmt.Sprint("x1 of ", i)))
		default:
			applyPuts(t, b, g, put(key(kindX, 1), fmt.Sprint("x1 of ", i)), put(key(kindY, 1), fmt.Sprint("y1 of ", i)))
			apply(t, b, store.Batch{Group: g, Puts: []store.Put{ending(key(kindX, 9), "ends", time.Second)}})
		}
	}
	c.pass(time.Second)
	groups = append(groups, groups[1]) // twice
	asked := time.Now()
	all, err := b.List(ctx, groups, kindY, kindX)
	took := time.Since(asked) // parts are asked beside each other, each at its own moment
	if err != nil || len(all) != len(groups) {
		t.Fatalf("list: got %d readings, %v, want %d", len(all), err, len(groups))
	}
	for i, r := range all {
		var got, want []string
		for _, row := range r.Rows {
			got = append(got, string(row.Value))
		}
		switch of := i % 100; of % 3 {
		case 1:
			want = []string{fmt.Sprint("x1 of ", of), fmt.Sprint("x2 of ", of)}
		case 2:
			want = []string{fmt.Sprint("y1 of ", of), fmt.Sprint("x1 of ", of)}
		}
		if i == 100 {
			want = []string{"x1 of 1", "x2 of 1"}
		}
		if diff := cmp.Diff(want, got); diff != "" || r.Err != nil {
			t.Errorf("reading %d: %v (-want +got):\n%s", i, r.Err, diff)
		}
		if d := r.Now.Sub(all[0].Now); d < -took-c.Resolution || d > time.Minute {
			t.Errorf("reading %d is of %v after the first", i, d)
		}
	}
}

// testRoom: of the rows of a kind in a group those that end first go, however many are too many, and no others.
func testRoom(t *testing.T, c Config, b store.Backend) {
	ends := func(n byte, in time.Duration) store.Put { return ending(key(kindX, n), fmt.Sprint(n), in) }
	others := []store.Put{put(store.Key{Kind: kindX}, "of no key"), ending(key(kindY, 1), "of another kind", time.Hour)}
	stays, third, first, second, new := put(key(kindX, 1), "never ends"), ends(2, 3*time.Hour), ends(3, time.Hour), ends(4, 2*time.Hour), ends(5, time.Minute)
	applyPuts(t, b, groupA, append(others, stays, third, first, second)...)
	elsewhere := ends(7, time.Hour)
	applyPuts(t, b, groupB, elsewhere)
	makes := func(most int, conditions ...store.Condition) store.Batch {
		return store.Batch{Group: groupA, Conditions: conditions, Puts: []store.Put{new}, Rooms: []store.Room{{Kind: kindX, Most: most}, {Kind: kindY, Most: 9}}}
	}
	there := func(want ...store.Put) {
		t.Helper()
		for _, p := range []store.Put{stays, third, first, second, new} {
			if slices.ContainsFunc(want, func(w store.Put) bool { return w.Key == p.Key }) {
				wantRow(t, b, groupA, p)
			} else {
				wantAbsent(t, b, p.Key)
			}
		}
	}
	conflicts(t, b, makes(2, store.Condition{Key: stays.Key}))
	there(stays, third, first, second)
	apply(t, b, makes(5))
	there(stays, third, first, second, new)
	apply(t, b, makes(1)) // its answer was lost
	there(stays, third, first, second, new)
	new = ends(6, time.Second)
	apply(t, b, makes(3))
	new = ends(8, time.Minute)
	there(stays, third)
	c.pass(time.Second)
	apply(t, b, makes(3)) // what has ended takes no room
	there(stays, third, new)
	new = ends(9, time.Minute)
	apply(t, b, makes(1))
	there(new)
	for _, p := range others {
		wantRow(t, b, groupA, p)
	}
	wantRow(t, b, groupB, elsewhere)
}

// testReadings: several groups at once, each as of one moment, with the time.
func testReadings(t *testing.T, c Config, b store.Backend) {
	ctx := context.Background()
	ax, bx := put(key(kindX, 1), "a"), put(key(kindX, 1), "b")
	applyPuts(t, b, groupA, ax)
	applyPuts(t, b, groupB, bx)
	all, err := b.Read(ctx, store.Ask{Group: groupB, Keys: []store.Key{bx.Key}}, store.Ask{Group: groupA, Keys: []store.Key{key(kindX, 9), ax.Key}})
	if err != nil || len(all) != 2 || len(all[0].Rows) != 1 || len(all[1].Rows) != 1 || all[0].Err != nil || all[1].Err != nil {
		t.Fatalf("read of two groups: got %+v, %v", all, err)
	}
	if string(all[0].Rows[0].Value) != "b" || string(all[1].Rows[0].Value) != "a" {
		t.Errorf("got %q and %q, want b and a", all[0].Rows[0].Value, all[1].Rows[0].Value)
	}
	listed, err := b.List(ctx, []store.Group{groupA}, kindX)
	if err != nil {
		t.Fatal(err)
	}
	wait(10 * time.Millisecond)
	later, err := b.Read(ctx, store.Ask{Group: groupA})
	if err != nil {
		t.Fatal(err)
	}
	for what, at := range map[string]time.Time{"read": all[0].Now, "list": listed[0].Now} {
		if d := later[0].Now.Sub(at); d < 10*time.Millisecond-c.Resolution || d > time.Minute {
			t.Errorf("%s: a read 10 ms later says that %v have passed", what, d)
		}
	}
}
