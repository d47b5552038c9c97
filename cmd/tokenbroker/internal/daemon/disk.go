package daemon

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/bolt"
)

const (
	// wellAfter is for how long nothing may fail until the disk is said to take changes again: a full one has room for small ones.
	wellAfter = 10 * time.Second
	// tryDisk is how often a disk is tried that has taken no change, by one that changes nothing.
	tryDisk = 5 * time.Second
)

// A disk is the embedded store, and follows whether it takes changes. What is in it is read all the same.
type disk struct {
	*bolt.DB
	log *slog.Logger
	// tell is told when it takes none, and when it takes them again.
	tell func(full bool)

	mu   sync.Mutex
	full bool
	last time.Time // of the failures
}

// Apply implements store.Backend.
func (d *disk) Apply(ctx context.Context, b store.Batch) error {
	err := d.DB.Apply(ctx, b)
	d.noted(err, ctx.Err() != nil, time.Now())
	return err
}

// noted notes how a change went; ended: whoever wanted it has given up, which says nothing of the disk.
func (d *disk) noted(err error, ended bool, now time.Time) {
	failed := err != nil && broker.KindOf(err) == broker.StoreUnavailable
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case failed && ended:
	case failed:
		d.last = now
		if !d.full {
			d.full = true
			d.log.Error("the store takes no changes: tokens that are in it are served, and no others; it is tried again and again", "cause", err.Error())
			d.tell(true)
		}
	case err == nil && d.full && now.Sub(d.last) >= wellAfter:
		d.full = false
		d.log.Info("the store takes changes again")
		d.tell(false)
	}
}

// follow tries a disk that takes no changes, until ctx ends.
func (d *disk) follow(ctx context.Context) {
	tick := time.NewTicker(tryDisk)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		d.mu.Lock()
		full := d.full
		d.mu.Unlock()
		if full {
			_ = d.Apply(ctx, store.Batch{}) // it is noted
		}
	}
}
