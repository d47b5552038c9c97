package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"

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
	rows, err := b.Read(context.Background(), groupA, q.Key, key(kindX, 3), p.Key)
	if err != nil || len(rows) != 2 {
		t.Errorf("read of two that are there and one that is not: got %d rows, %v", len(rows), err)
	}
	binary := put(p.Key, string(bytes.Repeat([]byte{0, 0xff, '\n', '"'}, 5000)))
	applyPuts(t, b, groupA, binary)
	wantRow(t, b, groupA, binary)
	if rows, err := b.Read(context.Background(), groupA); err != nil || len(rows) != 0 {
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
	if n, err := b.Count(context.Background(), groupB, kindY); n != 0 || err != nil {
		t.Errorf("count of a kind that has none: got %d, %v", n, err)
	}
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
	if n, _ := b.Count(context.Background(), groupA, kindY); n != 1 {
		t.Errorf("a batch that was applied already has cleared again")
	}
	applyPuts(t, b, groupA, put(first.Key, "overwritten"), put(key(kindX, 2), "overwritten"))
	conflicts(t, b, batch)
}

func testList(t *testing.T, _ Config, b store.Backend) {
	ctx := context.Background()
	if rows, err := b.List(ctx, groupA, kindX, kindY); len(rows) != 0 || err != nil {
		t.Errorf("list of an empty group: got %d rows, %v", len(rows), err)
	}
	var puts []store.Put
	for _, n := range []byte{200, 3, 0, 77} {
		puts = append(puts, put(key(kindX, n), fmt.Sprint("x", n)), put(key(kindY, n), fmt.Sprint("y", n)))
	}
	applyPuts(t, b, groupA, puts...)
	applyPuts(t, b, groupB, put(key(kindX, 1), "of another group"))
	rows, err := b.List(ctx, groupA, kindY, kindX, "none")
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	var got []string
	for _, r := range rows {
		got = append(got, string(r.Value))
	}
	want := []string{"y0", "y3", "y77", "y200", "x0", "x3", "x77", "x200"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	if n, err := b.Count(ctx, groupA, kindX); n != 4 || err != nil {
		t.Errorf("count: got %d, %v, want 4", n, err)
	}
}
