package engine

import (
	"fmt"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestATokenIsKeptUnderFewNames: callers choose the names, and what is put in place is put under each of them while everybody waits.
func TestATokenIsKeptUnderFewNames(t *testing.T) {
	c, err := newCache(broker.NewClock(nil), Settings{Store: alone{}, Observer: unobserved{}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	l, now := c.hold("main"), time.Now()
	defer c.release(l)
	for i := range 10 * namesMost {
		scopes, err := broker.ParseSet("scopes", []string{fmt.Sprint("name-", i)})
		if err != nil {
			t.Fatal(err)
		}
		a := offer{
			target: target{lookup: lookup{"main", broker.Selection{Scopes: scopes}}, facts: &broker.Facts{Name: "p"}},
			issued: &broker.Issued{ID: "one", SentAt: now, ExpireAt: now.Add(time.Hour), RefreshAt: now.Add(time.Hour)},
			mark:   broker.Mark{TokenRevision: broker.NewID()},
		}
		if _, err := c.put(l, a, c.clock.Now().At, l.moves.now()); err != nil {
			t.Fatal(err)
		}
		c.mu.Lock()
		if names, entries := len(l.tokens[a.target.token.Token]), len(l.entries); names != entries || names != min(i+1, namesMost) {
			t.Errorf("after %d names: kept under %d, %d in the line, want %d at most", i+1, names, entries, namesMost)
		}
		c.mu.Unlock()
	}
}

// alone is a store of which only that nobody shares it is asked.
type alone struct{ broker.Store }

func (alone) Shared() bool { return false }
