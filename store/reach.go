package store

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// reach is the backend as everything here sees it: nothing is asked of it before it is ready, and a part of a Shared backend that
// has not answered for a while is not waited for any more.
//
// A part that is away costs whoever asks it the time that a dead connection takes to be noticed. So after giveUp of nothing but
// failure, its questions fail at once, but for one every tryEvery that finds out whether it is back. Nothing is decided by this
// but how long a failure takes: what may be served meanwhile follows from what was last confirmed, and when.
type reach struct {
	Backend
	ready  atomic.Bool
	shared Shared // nil: nobody else changes it, and it is never away
	clock  *broker.Clock
	log    *slog.Logger
	tell   func(away bool)

	mu     sync.Mutex
	shards map[string]*shard
	away   int // how many shards are given up
}

// A shard is a part of the backend, as far as it has failed. There is none for a part that is well.
type shard struct {
	since, tried broker.Moment
	given        bool
}

const (
	giveUp   = 2 * time.Second
	tryEvery = 250 * time.Millisecond
)

func newReach(b Backend, clock *broker.Clock, o Options) *reach {
	r := &reach{Backend: b, clock: clock, log: o.Log, tell: o.Away, shards: map[string]*shard{}}
	r.shared, _ = b.(Shared)
	return r
}

var (
	errNotReady = Unavailable("the broker has not been able to look at it since it started")
	errGivenUp  = Unavailable("it has not answered for a while")
)

// shard is the part that has a group.
func (r *reach) shard(g Group) string {
	if r.shared == nil {
		return ""
	}
	return r.shared.Shard(g)
}

// may says why a part is not to be asked now; nil: it is.
func (r *reach) may(part string) error {
	if r.shared == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s, now := r.shards[part], r.clock.Now().At
	if s == nil || now.Sub(s.since) < giveUp {
		return nil
	}
	if now.Sub(s.tried) < tryEvery {
		return errGivenUp
	}
	s.tried = now
	return nil
}

// tooLittle is how little time a caller may have left for a question that says nothing about the part it went to.
const tooLittle = 250 * time.Millisecond

// noted notes what became of a question to a part, and passes it on.
func (r *reach) noted(ctx context.Context, asked broker.Moment, part string, err error) error {
	if r.shared == nil {
		return err
	}
	failed := errors.Is(err, broker.StoreUnavailable)
	now := r.clock.Now().At
	r.mu.Lock()
	defer r.mu.Unlock()
	s, before := r.shards[part], r.away
	if failed && ctx.Err() != nil && now.Sub(asked) < tooLittle {
		if s != nil {
			s.tried = broker.Never // somebody else may try
		}
		return err
	}
	switch {
	case failed && s == nil:
		r.shards[part] = &shard{since: now, tried: now}
	case failed && !s.given && now.Sub(s.since) >= giveUp:
		s.given, s.tried = true, now
		r.away++
	case failed:
		s.tried = now
	case s != nil:
		delete(r.shards, part)
		if s.given {
			r.away--
		}
	}
	r.forget(now)
	after := r.away
	switch {
	case before == 0 && after > 0:
		r.log.LogAttrs(context.Background(), slog.LevelWarn, "the store cannot be reached: valid tokens go on being served for the outage's grace",
			slog.String("error", err.Error()))
		r.told(true)
	case before > 0 && after == 0:
		r.log.LogAttrs(context.Background(), slog.LevelInfo, "the store can be reached again")
		r.told(false)
	}
	return err
}

// forgetAfter is how long after nobody has asked for a part it is forgotten: no group may be there any more.
const forgetAfter = 10 * time.Second

// forget forgets parts that nobody asks for; the caller holds mu.
func (r *reach) forget(now broker.Moment) {
	for part, s := range r.shards {
		if s.tried != broker.Never && now.Sub(s.tried) >= forgetAfter {
			delete(r.shards, part)
			if s.given {
				r.away--
			}
		}
	}
}

func (r *reach) told(away bool) {
	if r.tell != nil {
		r.tell(away)
	}
}

// heard notes that something came from the part that has a group: it can be asked again.
func (r *reach) heard(g Group) { _ = r.noted(context.Background(), 0, r.shard(g), nil) }

// Read implements Backend.
func (r *reach) Read(ctx context.Context, asks ...Ask) ([]Reading, error) {
	if !r.ready.Load() {
		return nil, errNotReady
	}
	first := r.shard(asks[0].Group)
	if err := r.may(first); err != nil {
		return nil, err
	}
	asked := r.clock.Now().At
	all, err := r.Backend.Read(ctx, asks...)
	for i, ask := range asks {
		if part := r.shard(ask.Group); err == nil && part != first {
			_ = r.noted(ctx, asked, part, all[i].Err)
		}
	}
	return all, r.noted(ctx, asked, first, err)
}

// List implements Backend.
func (r *reach) List(ctx context.Context, group Group, kinds ...Kind) (Reading, error) {
	if !r.ready.Load() {
		return Reading{}, errNotReady
	}
	part := r.shard(group)
	if err := r.may(part); err != nil {
		return Reading{}, err
	}
	asked := r.clock.Now().At
	all, err := r.Backend.List(ctx, group, kinds...)
	return all, r.noted(ctx, asked, part, err)
}

// Apply implements Backend.
func (r *reach) Apply(ctx context.Context, b Batch) error {
	if !r.ready.Load() {
		return errNotReady
	}
	part := r.shard(b.Group)
	if err := r.may(part); err != nil {
		return err
	}
	asked := r.clock.Now().At
	err := r.Backend.Apply(ctx, b)
	if errors.Is(err, broker.StoreUnavailable) && r.shared != nil {
		return err // one that takes no writes may well answer: what is read says whether it is there
	}
	return r.noted(ctx, asked, part, err)
}

// Scan implements Backend. The index and the rows may be in many parts.
func (r *reach) Scan(ctx context.Context, key Key, after Listing, limit int) ([]Listed, error) {
	if !r.ready.Load() {
		return nil, errNotReady
	}
	return r.Backend.Scan(ctx, key, after, limit)
}

// Revisions is that of Shared. Parts that are given up are not asked.
func (r *reach) Revisions(ctx context.Context, places []Place) ([]Revision, []bool, error) {
	if !r.ready.Load() {
		return nil, nil, errNotReady
	}
	out, known := make([]Revision, len(places)), make([]bool, len(places))
	parts, may := make([]string, len(places)), map[string]error{}
	var some []Place
	var at []int
	for i, p := range places {
		parts[i] = r.shard(p.Group)
		err, ok := may[parts[i]]
		if !ok {
			err = r.may(parts[i])
			may[parts[i]] = err
		}
		if err == nil {
			some, at = append(some, p), append(at, i)
		}
	}
	if len(some) == 0 {
		return nil, nil, errGivenUp
	}
	asked := r.clock.Now().At
	there, told, err := r.shared.Revisions(ctx, some)
	answered := map[string]error{}
	for i, j := range at {
		switch {
		case err != nil:
			answered[parts[j]] = err
		case told[i]:
			out[j], known[j], answered[parts[j]] = there[i], true, nil
		default:
			if _, ok := answered[parts[j]]; !ok {
				answered[parts[j]] = Unavailable("a part of the store is away")
			}
		}
	}
	for part, err := range answered {
		_ = r.noted(ctx, asked, part, err)
	}
	return out, known, err
}
