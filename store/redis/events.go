package redis

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tokenbroker/tokenbroker/store"
)

const (
	// pingEvery is how often a subscription that is silent is asked whether it still is one.
	pingEvery = time.Second
	// eventsHeld is how many events may wait for the one that handles them; it is faster than they come.
	eventsHeld = 10_000
)

// Watch implements store.Shared. Messages get lost where a connection breaks or a node is demoted: whoever watches hears that
// changes may have been missed whenever the subscription was made anew.
func (db *DB) Watch(ctx context.Context, f func(store.Happened)) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(db.stopping, cancel)()
	var mu sync.Mutex
	tell := func(h store.Happened) {
		mu.Lock()
		defer mu.Unlock()
		if ctx.Err() == nil {
			f(h)
		}
	}
	var working sync.WaitGroup
	defer working.Wait()
	sub := db.client.Subscribe(ctx, db.keys.events())
	working.Go(func() {
		<-ctx.Done()
		_ = sub.Close() // ends the channel
	})
	events := sub.ChannelWithSubscriptions(
		redis.WithChannelSize(eventsHeld), redis.WithChannelHealthCheckInterval(pingEvery), redis.WithChannelPingTimeout(db.options.Timeout),
	)
	for e := range events {
		switch m := e.(type) {
		case *redis.Subscription:
			tell(store.Happened{})
		case *redis.Message:
			if h, ok := db.event(m.Payload); ok {
				tell(h)
			}
		}
	}
}

// event is what a message says; false: it is our own, or none of ours.
func (db *DB) event(payload string) (store.Happened, bool) {
	who, rest, ok := strings.Cut(payload, " ")
	note, group, also := strings.Cut(rest, " ")
	if !ok || !also || who == db.who || len(note) != 1 || group == "" {
		return store.Happened{}, false
	}
	return store.Happened{Group: store.Group(group), Note: store.Note(note[0])}, true
}

// eachMaster calls f for every master, several at a time, each bounded.
func (db *DB) eachMaster(ctx context.Context, f func(context.Context, redis.Cmdable) error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*db.options.Timeout)
	defer cancel()
	if db.cluster != nil {
		return db.cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { return f(ctx, c) })
	}
	return f(ctx, db.client)
}

// field is the value of a line of INFO; empty: there is none.
func field(info, name string) string {
	for line := range strings.Lines(info) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
