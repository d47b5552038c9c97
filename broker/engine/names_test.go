package engine

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestATokenOfManyNamesIsOneEntry: callers choose the names, and as many as they like. What is put in place is there for each of them, and is gone with the
// last that leads to it.
func TestATokenOfManyNamesIsOneEntry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, err := newCache(broker.NewClock(nil), Settings{Store: alone{}, Observer: unobserved{}})
		if err != nil {
			t.Fatal(err)
		}
		defer c.close()
		l, now := c.hold("main"), time.Now()
		var names []lookup
		var last *entry
		for i := range 200 {
			scopes, err := broker.ParseSet("scopes", []string{fmt.Sprint("name-", i)})
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, lookup{"main", broker.Selection{Scopes: scopes}})
			a := offer{
				target: target{lookup: names[i], facts: &broker.Facts{Name: "p"}},
				issued: &broker.Issued{ID: "one", SentAt: now, ExpireAt: now.Add(time.Hour), RefreshAt: now.Add(time.Hour)},
				token:  &broker.Token{}, mark: broker.Mark{TokenRevision: broker.NewID()},
			}
			if last, err = c.put(l, a, c.clock.Now().At, l.moves.now()); err != nil {
				t.Fatal(err)
			}
			if n := len(l.slots); n != 1 {
				t.Fatalf("after %d names: %d entries, want one", i+1, n)
			}
		}
		for i, name := range names {
			if got := c.peek(name); got != last {
				t.Errorf("name %d does not lead to the entry that was put in place last", i)
			}
		}
		c.release(l)
		for i, name := range names {
			synctest.Wait()
			if c.line("main") == nil {
				t.Fatalf("nothing is left of it after %d names, of %d", i, len(names))
			}
			c.names.Invalidate(name)
		}
		synctest.Wait()
		if c.line("main") != nil {
			t.Error("it is kept although nothing leads to it")
		}
	})
}

// alone is a store of which only that nobody shares it is asked.
type alone struct{ broker.Store }

func (alone) Shared() bool { return false }
