package storetest

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tokenbroker/tokenbroker/store"
)

func enlist(t tb, b store.Backend, g store.Group, l store.Listing, p store.Put) {
	t.Helper()
	apply(t, b, store.Batch{Group: g, Puts: []store.Put{p}, List: &l})
}

func testScan(t *testing.T, _ Config, b store.Backend) {
	ctx := context.Background()
	k := key(kindX, 0)
	if page, err := b.Scan(ctx, k, store.Listing{}, 10); err != nil || len(page) != 0 {
		t.Fatalf("scan of nothing: got %v, %v", page, err)
	}
	// Names that are prefixes of others, and whose order a separator could upset.
	names := []string{"b", "a", "a-", "a.b", "a_", "a0", "ab", "a-b", "z", "0"}
	for i, n := range names {
		enlist(t, b, store.Group(fmt.Sprintf("c:%d", i)), store.Listing{Name: n, Incarnation: [16]byte{byte(i)}}, put(k, "record of "+n))
	}
	want := slices.Sorted(slices.Values(names))
	for limit := 1; limit <= len(names)+1; limit++ {
		var got []string
		after := store.Listing{}
		for {
			page, err := b.Scan(ctx, k, after, limit)
			if err != nil || len(page) > limit {
				t.Fatalf("scan: got %d entries of at most %d, %v", len(page), limit, err)
			}
			for _, l := range page {
				got, after = append(got, l.Name), l.Listing
				if string(l.Row.Value) != "record of "+l.Name || l.Row.Key != k {
					t.Errorf("entry %s: got the row %q", l.Name, l.Row.Value)
				}
			}
			if len(page) < limit {
				break
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("pages of %d (-want +got):\n%s", limit, diff)
		}
	}
}

func testScanGaps(t *testing.T, _ Config, b store.Backend) {
	ctx := context.Background()
	k := key(kindX, 0)
	old, now := store.Listing{Name: "n", Incarnation: [16]byte{1}}, store.Listing{Name: "n", Incarnation: [16]byte{2}}
	enlist(t, b, groupA, old, put(k, "record"))
	enlist(t, b, groupA, now, put(k, "record"))
	enlist(t, b, groupB, store.Listing{Name: "nn"}, put(key(kindY, 0), "another kind"))
	names := func() (all []string) {
		t.Helper()
		page, err := b.Scan(ctx, k, store.Listing{}, 10)
		if err != nil {
			t.Fatalf("scan: %v", err)
		}
		for _, l := range page {
			all = append(all, fmt.Sprintf("%s %d %q", l.Name, l.Incarnation[0], l.Row.Value))
		}
		return all
	}
	check := func(what string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, names()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	check("at first", `n 1 "record"`, `n 2 "record"`, `nn 0 ""`)
	apply(t, b, store.Batch{Group: groupA, Unlist: &old})
	check("exactly one entry removed", `n 2 "record"`, `nn 0 ""`)
	apply(t, b, store.Batch{Group: groupA, DeleteGroup: true})
	check("deleted, but still in the index", `n 2 ""`, `nn 0 ""`)
	enlist(t, b, groupA, old, put(k, "record"))
	apply(t, b, store.Batch{Group: groupA, DeleteGroup: true, Unlist: &store.Listing{Name: "n"}})
	check("every entry of a name removed", `nn 0 ""`)
}
