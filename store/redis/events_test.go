package redis_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/redis"
)

// A listener notes what it is told.
type listener struct {
	t    *testing.T
	told chan store.Happened
}

func listen(t *testing.T, db *redis.DB) *listener {
	t.Helper()
	l := &listener{t, make(chan store.Happened, 1000)}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { db.Watch(ctx, func(h store.Happened) { l.told <- h }) })
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
	l.await("that it listens", func(h store.Happened) bool { return h.Group == "" })
	return l
}

func (l *listener) await(what string, want func(store.Happened) bool) {
	l.t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case h := <-l.told:
			if want(h) {
				return
			}
		case <-deadline:
			l.t.Fatalf("not told %s", what)
		}
	}
}

func changeRow(t *testing.T, db *redis.DB, group store.Group) {
	t.Helper()
	k := store.Key{Kind: "token"}
	err := db.Apply(t.Context(), store.Batch{Group: group, Tell: 'x', Puts: []store.Put{{Key: k, Revision: store.Revision{1}, Value: []byte("v")}}})
	if err != nil {
		t.Fatal(err)
	}
}

// TestOthersAreTold, whoever changes something is not; and whoever may have missed something is told that.
func TestOthersAreTold(t *testing.T) {
	s := redistest.Start(t, redistest.Options{})
	proxy := redistest.NewProxy(t, s.Addr())
	same := func(o *redis.Options) { o.Prefix = "same" }
	a, b := open(t, s.URL(), same), open(t, "redis://"+proxy.Addr(), same)
	la, lb := listen(t, a), listen(t, b)
	changeRow(t, a, "c:1")
	lb.await("of c:1", func(h store.Happened) bool { return h.Group == "c:1" && h.Note == 'x' })
	changeRow(t, b, "c:2")
	la.await("of c:2, before anything of its own", func(h store.Happened) bool {
		if h.Group == "c:1" {
			t.Error("told of its own change")
		}
		return h.Group == "c:2"
	})
	proxy.Refuse()
	<-time.After(100 * time.Millisecond) // as long as a network is gone
	proxy.Forward()
	lb.await("that something may have been missed", func(h store.Happened) bool { return h.Group == "" })
	changeRow(t, a, "c:3")
	lb.await("of c:3", func(h store.Happened) bool { return h.Group == "c:3" })
}

// TestARestartIsNoticed: what was told meanwhile was missed.
func TestARestartIsNoticed(t *testing.T) {
	s := redistest.Start(t, redistest.Options{})
	l := listen(t, open(t, s.URL()))
	s.Kill()
	s.Restart()
	l.await("that something may have been missed", func(h store.Happened) bool { return h.Group == "" })
}
