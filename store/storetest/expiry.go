package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/store"
)

func ending(k store.Key, value string, ttl time.Duration) store.Put {
	p := put(k, value)
	p.TTL = ttl
	return p
}

func testExpiry(t *testing.T, c Config, b store.Backend) {
	const ttl = 2 * time.Second
	p, forever := ending(key(kindX, 1), "ends", ttl), put(key(kindX, 2), "stays")
	applyPuts(t, b, groupA, p, forever)
	r := one(t, b, groupA, p.Key)
	if r.Left <= 0 || r.Left > ttl+c.Resolution {
		t.Errorf("left: got %v, want up to %v", r.Left, ttl)
	}
	if !c.RealTime {
		wait(ttl - c.Resolution - 1)
		wantRow(t, b, groupA, p)
		if r := one(t, b, groupA, p.Key); r.Left <= 0 || r.Left > 1+2*c.Resolution {
			t.Errorf("left just before the end: got %v", r.Left)
		}
		wait(1)
		c.pass(0)
	} else {
		c.pass(ttl)
	}
	wantAbsent(t, b, p.Key)
	wantRow(t, b, groupA, forever)
	c.pass(time.Second)
	wantAbsent(t, b, p.Key)
}

// testExpiryByTheClock: a row that is given an end by the backend's clock ends then, however late it was written, and one whose
// end has passed is none.
func testExpiryByTheClock(t *testing.T, c Config, b store.Backend) {
	ctx := context.Background()
	read, err := b.Read(ctx, store.Ask{Group: groupA})
	if err != nil {
		t.Fatal(err)
	}
	end := read[0].Now.Add(2 * time.Second)
	p, late := put(key(kindX, 1), "ends"), put(key(kindX, 2), "ends too")
	p.Ends, late.Ends = end, end
	applyPuts(t, b, groupA, p)
	wait(time.Second)
	applyPuts(t, b, groupA, late)
	for _, q := range []store.Put{p, late} {
		wantRow(t, b, groupA, q)
		if left := one(t, b, groupA, q.Key).Left; left <= 0 || left > time.Second+c.Resolution {
			t.Errorf("left of a row that ends in a second: got %v", left)
		}
	}
	c.pass(time.Second)
	wantAbsent(t, b, p.Key, late.Key)
	soon, sooner := ending(p.Key, "by its time", time.Second), ending(late.Key, "by the clock", time.Hour)
	soon.Ends, sooner.Ends = end.Add(time.Hour), end.Add(time.Second)
	applyPuts(t, b, groupA, soon, sooner)
	for _, q := range []store.Put{soon, sooner} { // the earlier of both
		if left := one(t, b, groupA, q.Key).Left; left <= 0 || left > time.Second+c.Resolution {
			t.Errorf("left of %s: got %v, want a second", q.Value, left)
		}
	}
	c.pass(time.Second)
	wantAbsent(t, b, soon.Key, sooner.Key)
	applyPuts(t, b, groupA, put(p.Key, "there"))
	over := put(p.Key, "over")
	over.Ends = end
	applyPuts(t, b, groupA, over)
	wantAbsent(t, b, p.Key)
	if all, err := listOf(ctx, b, groupA, kindX); err != nil || len(all) != 0 {
		t.Errorf("list: got %d rows, %v, want none", len(all), err)
	}
}

func testExpiryElsewhere(t *testing.T, c Config, b store.Backend) {
	ctx := context.Background()
	p, stays := ending(key(kindX, 1), "ends", time.Second), put(key(kindX, 2), "stays")
	apply(t, b, store.Batch{Group: groupA, Puts: []store.Put{p, stays}, List: &store.Listing{Name: "n"}})
	conflicts(t, b, store.Batch{Group: groupA, Conditions: []store.Condition{{Key: p.Key}}, Deletes: []store.Key{p.Key}})
	c.pass(time.Second)
	conflicts(t, b, store.Batch{
		Group: groupA, Conditions: []store.Condition{{Key: p.Key, Revision: p.Revision}}, Deletes: []store.Key{key(kindX, 2)},
	})
	if all, err := listOf(ctx, b, groupA, kindX); err != nil || len(all) != 1 {
		t.Errorf("list: got %d rows, %v, want the one that lives", len(all), err)
	}
	apply(t, b, store.Batch{Group: groupA, Puts: []store.Put{put(key(kindX, 3), "there is room")}, Rooms: []store.Room{{Kind: kindX, Most: 2}}})
	wantRow(t, b, groupA, stays)
	page, err := b.Scan(ctx, p.Key, store.Listing{}, 10)
	if err != nil || len(page) != 1 || page[0].Row.Revision != (store.Revision{}) {
		t.Errorf("scan: got %v, %v, want the entry without a row", page, err)
	}
	next := put(p.Key, "another holder")
	apply(t, b, store.Batch{Group: groupA, Conditions: []store.Condition{{Key: p.Key}}, Puts: []store.Put{next}})
	wantRow(t, b, groupA, next)
}

// testExpiryReplaced: what a row's former life would have ended does not touch the next.
func testExpiryReplaced(t *testing.T, c Config, b store.Backend) {
	k := key(kindX, 1)
	applyPuts(t, b, groupA, ending(k, "short", time.Second))
	longer := ending(k, "longer", time.Hour)
	applyPuts(t, b, groupA, longer)
	applyPuts(t, b, groupA, ending(key(kindX, 2), "short", time.Second))
	forever := put(key(kindX, 2), "for ever")
	applyPuts(t, b, groupA, forever)
	c.pass(2 * time.Second)
	wantRow(t, b, groupA, longer)
	wantRow(t, b, groupA, forever)
	if !c.RealTime {
		c.pass(time.Hour)
		wantAbsent(t, b, k)
		wantRow(t, b, groupA, forever)
		far := ending(k, "far", 10*365*24*time.Hour)
		applyPuts(t, b, groupA, far)
		c.pass(24 * time.Hour)
		wantRow(t, b, groupA, far)
	}
}
