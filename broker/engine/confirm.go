package engine

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// confirmer asks the store, where others share it, about what is asked for often, before it is too old to be served: so whoever
// asks for it does not wait. What other brokers tell makes it faster, and nothing relies on it.
type confirmer struct {
	b *Broker
	// now wakes it: all is to be confirmed at once.
	now chan struct{}
}

const (
	// idleMost is after how many questions without a hit an entry is left to become too old.
	idleMost = 4
	// askMost is how many entries are asked about at once, asksAtOnce how often that is done side by side: a long list must not
	// look like a store that is away.
	askMost    = 500
	asksAtOnce = 4
)

func newConfirmer(b *Broker) *confirmer { return &confirmer{b, make(chan struct{}, 1)} }

// hear handles what other brokers have done.
func (c *confirmer) hear(n broker.Notice) {
	if n.Credential == "" { // something may have been missed
		select {
		case c.now <- struct{}{}:
		default: // it will look anyway
		}
		c.b.cache.each((*line).hears)
		return
	}
	if n.Moved {
		c.b.cache.doubt(n.Credential)
		return
	}
	if l := c.b.cache.line(n.Credential); l != nil {
		l.hears()
	}
}

// run looks often enough that an entry is asked about between half the bound and five eighths of it, and waits a quarter for the
// answer: there is time to know that the store is away before the entry is too old.
func (c *confirmer) run() {
	every := max(c.b.cache.bound/8, time.Millisecond)
	timer := time.NewTimer(every)
	defer timer.Stop()
	for {
		all := false
		select {
		case <-timer.C:
		case <-c.now:
			all = true
		case <-c.b.stopping.Done():
			return
		}
		c.confirm(c.due(all))
		timer.Reset(every)
	}
}

// due are the entries to ask about.
func (c *confirmer) due(all bool) []*entry {
	now, half := c.b.clock.Now(), int64(c.b.cache.bound/2)
	var due []*entry
	for _, e := range c.b.cache.hot(now) {
		if !all && int64(now.At)-e.confirmed.Load() < half {
			continue
		}
		if e.hit.Swap(false) || e.line.watchers.Load() > 0 {
			e.idle = 0
		} else if e.idle++; e.idle > idleMost {
			c.b.cache.cool(e)
			e.idle = 0
			continue
		}
		due = append(due, e)
	}
	return due
}

func (c *confirmer) confirm(due []*entry) {
	var asking sync.WaitGroup
	parts := make(chan []*entry)
	for range min(asksAtOnce, (len(due)+askMost-1)/askMost) {
		asking.Go(func() {
			for part := range parts {
				c.confirmPart(part)
			}
		})
	}
	for part := range slices.Chunk(due, askMost) {
		parts <- part
	}
	close(parts)
	asking.Wait()
}

func (c *confirmer) confirmPart(due []*entry) {
	marks, moved := make([]broker.Mark, len(due)), make([]movedTo, len(due))
	for i, e := range due {
		marks[i], moved[i] = e.mark, e.line.moves.now()
	}
	ctx, cancel := context.WithTimeout(c.b.stopping, max(c.b.cache.bound/4, 10*time.Millisecond))
	defer cancel()
	asked := c.b.clock.Now().At
	verdicts, err := c.b.store.Unchanged(ctx, marks)
	if c.b.stopping.Err() != nil {
		return
	}
	for i, e := range due {
		_, doubtful := e.line.moves.since(moved[i], e)
		switch {
		case err != nil || verdicts[i] == broker.Unknown:
			c.b.cache.try(e, asked)
		case e.astray.Load(): // what is stored decides
			c.b.cache.drop(e.name, func(o *entry) bool { return o == e }, false)
			c.b.refresh(e.lookup, need{})
		case doubtful: // what was asked about may be from before that
		case verdicts[i] == broker.Same:
			c.b.cache.confirm(e, asked)
			e.line.confirm(e.mark.CredentialRevision, asked)
			if e.local && e.claim(c.b.clock.Now().At) {
				// The store can be asked: what all brokers share takes the place of what only this one has.
				c.b.refresh(e.lookup, need{stored: true})
			}
		default:
			c.b.cache.doubtEntry(e)
			// Whoever asks next need not wait for it, and watches hear of it.
			c.b.refresh(e.lookup, need{})
		}
	}
}
