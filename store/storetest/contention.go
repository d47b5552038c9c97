package storetest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
)

const (
	contenders = 100
	rounds     = 3
)

// testContention: a hundred goroutines count up one row, and each leaves behind which revision it replaced.
func testContention(t *testing.T, _ Config, b store.Backend) {
	ctx := context.Background()
	counter := key(kindX, 0)
	first := put(counter, "0")
	applyPuts(t, b, groupA, first)
	var mu sync.Mutex
	replaced := map[store.Revision]store.Revision{} // the next one, by the one before
	var all sync.WaitGroup
	for range contenders {
		all.Go(func() {
			for done := 0; done < rounds; {
				rows, err := rowsOf(ctx, b, groupA, counter)
				if err != nil || len(rows) != 1 {
					t.Errorf("read: %d rows, %v", len(rows), err)
					return
				}
				n, _ := strconv.Atoi(string(rows[0].Value))
				next := put(counter, strconv.Itoa(n+1))
				err = b.Apply(ctx, store.Batch{
					Group: groupA, Conditions: []store.Condition{{Key: counter, Revision: rows[0].Revision}}, Puts: []store.Put{next},
				})
				switch {
				case errors.Is(err, broker.ErrConflict):
					continue
				case err != nil:
					t.Errorf("apply: %v", err)
					return
				}
				done++
				mu.Lock()
				if _, ok := replaced[rows[0].Revision]; ok {
					t.Error("one revision was replaced twice")
				}
				replaced[rows[0].Revision] = next.Revision
				mu.Unlock()
			}
		})
	}
	all.Wait()
	r := one(t, b, groupA, counter)
	if want := strconv.Itoa(contenders * rounds); string(r.Value) != want {
		t.Errorf("counted to %s, want %s", r.Value, want)
	}
	links := 0
	for at := first.Revision; at != r.Revision; links++ {
		next, ok := replaced[at]
		if !ok {
			t.Fatalf("the chain of revisions breaks after %d", links)
		}
		at = next
	}
	if links != contenders*rounds {
		t.Errorf("the chain has %d links, want %d", links, contenders*rounds)
	}
}

// testWholeChanges: two rows that always change together are never seen apart.
func testWholeChanges(t *testing.T, _ Config, b store.Backend) {
	ctx := context.Background()
	x, y := key(kindX, 1), key(kindY, 1)
	write := func(n int) error {
		v := fmt.Sprint(n)
		return b.Apply(ctx, store.Batch{Group: groupA, Clear: []store.Kind{kindX}, Puts: []store.Put{put(x, v), put(y, v)}})
	}
	if err := write(0); err != nil {
		t.Fatalf("apply: %v", err)
	}
	stop := make(chan struct{})
	var readers, writers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for {
				read, err := rowsOf(ctx, b, groupA, x, y)
				listed, errListed := listOf(ctx, b, groupA, kindX, kindY)
				if err != nil || errListed != nil {
					t.Errorf("read: %v, %v", err, errListed)
					return
				}
				for _, rows := range [][]store.Row{read, listed} {
					if len(rows) != 2 || string(rows[0].Value) != string(rows[1].Value) {
						t.Errorf("got half of a change: %d rows", len(rows))
						return
					}
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for w := range 4 {
		writers.Go(func() {
			for n := range 25 {
				if err := write(w*1000 + n); err != nil {
					t.Errorf("apply: %v", err)
				}
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
}

func testCanceled(t *testing.T, _ Config, b store.Backend) {
	p := put(key(kindX, 1), "kept")
	applyPuts(t, b, groupA, p)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for what, err := range everyCall(ctx, b) {
		wantUnavailable(t, what, err)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want one that matches context.Canceled", what, err)
		}
	}
	wantRow(t, b, groupA, p)
}

func testClosed(t *testing.T, _ Config, b store.Backend) {
	if err := b.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
	for what, err := range everyCall(context.Background(), b) {
		wantUnavailable(t, what, err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("a second close: %v", err)
	}
}

func everyCall(ctx context.Context, b store.Backend) map[string]error {
	k := key(kindX, 1)
	errs := map[string]error{}
	_, errs["read"] = rowsOf(ctx, b, groupA, k)
	_, errs["list"] = listOf(ctx, b, groupA, kindX)
	_, errs["scan"] = b.Scan(ctx, k, store.Listing{}, 1)
	errs["apply"] = b.Apply(ctx, store.Batch{Group: groupA, DeleteGroup: true, Puts: []store.Put{put(k, "lost")}})
	if e, ok := b.(store.Exclusive); ok {
		_, errs["clear all"] = e.ClearAll(ctx, kindX)
	}
	return errs
}
