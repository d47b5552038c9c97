package storetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
)

// Config says how to get a backend, and what it cannot do.
type Config struct {
	// Open returns an empty backend that no other test uses, and has it closed when the test ends. Unless RealTime is set it
	// is called within a testing/synctest bubble.
	Open func(t *testing.T) store.Backend
	// RealTime: rows end by a clock outside this process, so that the suite has to wait for it.
	RealTime bool
	// Resolution is how much earlier or later than its time a row may end; 0: not at all.
	Resolution time.Duration
}

// Run runs the suite: what a Backend promises, and what store.Store makes of it.
func Run(t *testing.T, c Config) {
	for name, test := range map[string]func(*testing.T, Config, store.Backend){
		"rows/read and overwrite":                  testRows,
		"rows/delete one, a kind, a group":         testDeletes,
		"rows/are put where they go":               testReplaced,
		"rows/belong to their group and kind only": testSeparation,
		"rows/are not shared with the caller":      testOwnership,
		"conditions/all hold or nothing changes":   testConditions,
		"conditions/applied again":                 testAppliedAgain,
		"expiry/before, at and after":              testExpiry,
		"expiry/conditions and listings":           testExpiryElsewhere,
		"expiry/a new life":                        testExpiryReplaced,
		"expiry/by the backend's clock":            testExpiryByTheClock,
		"read/several groups, with the time":       testReadings,
		"room":                                     testRoom,
		"list/order":                               testList,
		"list/several groups, with the time":       testListings,
		"scan/pages in order of names":             testScan,
		"scan/entries without a record":            testScanGaps,
		"contention/no lost update":                testContention,
		"contention/no half of a change":           testWholeChanges,
		"context/ended before it began":            testCanceled,
		"closed":                                   testClosed,
		"model":                                    testModel,
	} {
		c.run(t, name, test)
	}
	runProtocol(t, c)
	runMoving(t, c)
	runKeys(t, c)
}

func (c Config) run(t *testing.T, name string, test func(*testing.T, Config, store.Backend)) {
	t.Run(name, func(t *testing.T) {
		if c.RealTime {
			t.Parallel() // most of it is waiting
			test(t, c, c.Open(t))
			return
		}
		synctest.Test(t, func(t *testing.T) { test(t, c, c.Open(t)) })
	})
}

// pass lets d pass, and what the backend's resolution adds.
func (c Config) pass(d time.Duration) { wait(d + c.Resolution) }

// wait lets d pass: at once in a bubble.
func wait(d time.Duration) { <-time.After(d) }

// The groups and kinds of the suite's own; store's are its own business.
const (
	groupA store.Group = "c:a"
	groupB store.Group = "c:ab"
	kindX  store.Kind  = "grant"
	kindY  store.Kind  = "grantlease"
)

func key(kind store.Kind, n byte) store.Key { return store.Key{Kind: kind, ID: [32]byte{31: n}} }

func revision() (r store.Revision) {
	_, _ = rand.Read(r[:]) // never fails (crypto/rand)
	return r
}

func put(k store.Key, value string) store.Put {
	return store.Put{Key: k, Revision: revision(), Value: []byte(value)}
}

func apply(t tb, b store.Backend, batch store.Batch) {
	t.Helper()
	if err := b.Apply(context.Background(), batch); err != nil {
		t.Fatalf("apply: %v", err)
	}
}

func applyPuts(t tb, b store.Backend, g store.Group, puts ...store.Put) {
	t.Helper()
	apply(t, b, store.Batch{Group: g, Puts: puts})
}

func conflicts(t tb, b store.Backend, batch store.Batch) {
	t.Helper()
	if err := b.Apply(context.Background(), batch); !errors.Is(err, broker.ErrConflict) {
		t.Fatalf("apply: got %v, want %v", err, broker.ErrConflict)
	}
}

// rowsOf reads rows of one group.
func rowsOf(ctx context.Context, b store.Backend, g store.Group, keys ...store.Key) ([]store.Row, error) {
	all, err := b.Read(ctx, store.Ask{Group: g, Keys: keys})
	if err != nil {
		return nil, err
	}
	return all[0].Rows, nil
}

// listOf lists one group.
func listOf(ctx context.Context, b store.Backend, g store.Group, kinds ...store.Kind) ([]store.Row, error) {
	all, err := b.List(ctx, []store.Group{g}, kinds...)
	if err != nil {
		return nil, err
	}
	return all[0].Rows, nil
}

// one returns the row, or a zero Row.
func one(t tb, b store.Backend, g store.Group, k store.Key) store.Row {
	t.Helper()
	rows, err := rowsOf(context.Background(), b, g, k)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	switch {
	case len(rows) == 0:
		return store.Row{}
	case len(rows) > 1 || rows[0].Key != k:
		t.Fatalf("read: got %d rows, the first is %v; want %v", len(rows), rows[0].Key, k)
	}
	return rows[0]
}

func wantRow(t tb, b store.Backend, g store.Group, p store.Put) {
	t.Helper()
	r := one(t, b, g, p.Key)
	if r.Revision != p.Revision || !bytes.Equal(r.Value, p.Value) {
		t.Errorf("row %s/%d: got %q, want %q", p.Key.Kind, p.Key.ID[31], r.Value, p.Value)
	}
}

func wantAbsent(t tb, b store.Backend, keys ...store.Key) {
	t.Helper()
	for _, k := range keys {
		if r := one(t, b, groupA, k); r.Revision != (store.Revision{}) {
			t.Errorf("row %s/%d: got %q, want none", k.Kind, k.ID[31], r.Value)
		}
	}
}

func wantUnavailable(t tb, what string, err error) {
	t.Helper()
	if !errors.Is(err, broker.StoreUnavailable) {
		t.Errorf("%s: got %v, want a failure that is StoreUnavailable", what, err)
	}
}

// tb is what testing.TB and *rapid.T have in common.
type tb interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}
