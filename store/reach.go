package store

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/trace"
)

// reach is the backend as everything here sees it: nothing is asked of it before it is ready, nor of a group that was named before there were keys, and a part of a Shared backend that
// has not answered for a while is not waited for any more.
//
// A part that is away costs whoever asks it the time that a dead connection takes to be noticed. So after giveUp of nothing but
// failure, its questions fail at once, but for one every tryEvery that finds out whether it is back, and one that writes. Nothing is decided by this
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
	// beside is until when a part is not asked beside another.
	beside map[string]broker.Moment
}

// A shard is a part of the backend, as far as it has failed. There is none for a part that is well.
type shard struct {
	// since is from when on it has only failed, tried when it was asked last. Once it is given up, next is from when on it may be asked again, and write the
	// same of what is to be written: what waits for a part that takes no writes does not keep it from being asked whether it can be read.
	since, tried, next, write broker.Moment
	given                     bool
}

const (
	giveUp   = 2 * time.Second
	tryEvery = 250 * time.Millisecond
)

func newReach(b Backend, clock *broker.Clock, o Options) *reach {
	r := &reach{Backend: b, clock: clock, log: o.Log, tell: o.Away, shards: map[string]*shard{}, beside: map[string]broker.Moment{}}
	r.shared, _ = b.(Shared)
	return r
}

var (
	errNotReady = Unavailable("the broker has not been able to look at it since it started")
	errGivenUp  = Unavailable("it has not answered for a while")
	errPartAway = Unavailable("a part of it is away")
)

// shard is the part that has a group.
func (r *reach) shard(g Group) string {
	if r.shared == nil {
		return ""
	}
	return r.shared.Shard(g)
}

// may says why a part is not to be asked now; nil: it is. next is when it may be asked such a thing again, once it is given up.
func (r *reach) may(part string, next func(*shard) *broker.Moment) error {
	if r.shared == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Now().At
	s := r.given(part, now)
	if s == nil {
		return nil
	}
	again := next(s)
	if now < *again {
		return errGivenUp
	}
	s.tried, *again = now, now.Add(tryEvery)
	return nil
}

// given is a part that is given up; nil: it is not, or nobody has asked for it lately, and it is as one that has not failed. The caller holds mu.
func (r *reach) given(part string, now broker.Moment) *shard {
	if s := r.shards[part]; s != nil && s.given && now.Sub(s.tried) < forgetAfter {
		return s
	}
	return nil
}

func nextRead(s *shard) *broker.Moment  { return &s.next }
func nextWrite(s *shard) *broker.Moment { return &s.write }

// besideEvery is how often a part is asked beside another that had no time for that: each such question is waited for in vain.
const besideEvery = time.Second

// mayBeside reports whether a part is to be asked for advice, beside another. It is no question that finds out whether the part is back.
func (r *reach) mayBeside(part string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.Now().At
	next, failed := r.beside[part]
	if r.given(part, now) != nil || failed && now < next {
		return false
	}
	if failed {
		r.beside[part] = now.Add(besideEvery) // one asks, and the others need not wait for it
	}
	return true
}

// notedBeside notes what became of that. It had little time: that the part did not answer in it says nothing about its own questions.
func (r *reach) notedBeside(ctx context.Context, asked broker.Moment, part string, err error) {
	if answered(err) {
		_ = r.noted(ctx, asked, part, nil)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case answered(err):
		delete(r.beside, part)
	case ctx.Err() == nil: // else its caller gave up
		r.beside[part] = r.clock.Now().At.Add(besideEvery)
	}
}

// tooLittle: a question that failed because its caller gave it less time than this says nothing about the part that it went to.
const tooLittle = 250 * time.Millisecond

// answered reports whether a part has answered, if only that it has not this group now.
func answered(err error) bool {
	return !errors.Is(err, broker.StoreUnavailable) || errors.Is(err, ErrGroupAway)
}

// noted notes what became of a question to a part, and passes it on.
func (r *reach) noted(ctx context.Context, asked broker.Moment, part string, err error) error {
	if r.shared == nil {
		return err
	}
	failed := !answered(err)
	now := r.clock.Now().At
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.away
	r.forget(now, part)
	s := r.shards[part]
	if failed && ctx.Err() != nil && now.Sub(asked) < tooLittle {
		if s != nil {
			s.next = now // somebody else may try
		}
		return err
	}
	switch {
	case failed && s == nil:
		r.shards[part] = &shard{since: now, tried: now}
	case failed:
		s.tried, s.next = now, now.Add(tryEvery)
		if !s.given && now.Sub(s.since) >= giveUp {
			s.given = true
			r.away++
		}
	case s != nil:
		r.drop(part, s)
	}
	after := r.away
	switch {
	case before == 0 && after > 0:
		r.log.LogAttrs(context.Background(), slog.LevelWarn, "the store cannot be reached: valid tokens go on being served for the outage's grace",
			slog.String("error", err.Error()), slog.String("part", part))
		r.told(true)
	case before > 0 && after == 0:
		r.log.LogAttrs(context.Background(), slog.LevelInfo, "the store can be reached again")
		r.told(false)
	}
	return err
}

// forgetAfter is how long after nobody has asked for a part it is forgotten: no group may be there any more, and how it was then says nothing about now.
const forgetAfter = 10 * time.Second

// forget forgets parts that nobody asks for; the caller holds mu. Whether one that is given up is back, and was asked just now, its answer says.
func (r *reach) forget(now broker.Moment, asked string) {
	for part, s := range r.shards {
		if now.Sub(s.tried) >= forgetAfter && (part != asked || !s.given) {
			r.drop(part, s)
		}
	}
}

// drop forgets that a part has failed; the caller holds mu.
func (r *reach) drop(part string, s *shard) {
	delete(r.shards, part)
	if s.given {
		r.away--
	}
}

func (r *reach) told(away bool) {
	if r.tell != nil {
		r.tell(away)
	}
}

// heard notes that something was told of a group: its part may be asked at once. That it answers is not said: others may have told.
func (r *reach) heard(g Group) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.shards[r.shard(g)]; s != nil {
		now := r.clock.Now().At
		s.next, s.write = now, now
	}
}

// Read implements Backend.
func (r *reach) Read(ctx context.Context, asks ...Ask) ([]Reading, error) {
	if !r.ready.Load() || asks[0].Group == "" {
		return nil, errNotReady
	}
	first := r.shard(asks[0].Group)
	if err := r.may(first, nextRead); err != nil {
		return nil, err
	}
	out, parts, at := make([]Reading, len(asks)), make([]string, len(asks)), []int{}
	for i, ask := range asks { // what is asked beside the first is advice: of a part that is given up it is not waited for
		if parts[i] = r.shard(ask.Group); parts[i] != first && !r.mayBeside(parts[i]) {
			out[i].Err = errGivenUp
			continue
		}
		at = append(at, i)
	}
	asked := r.clock.Now().At
	asking, step := trace.Ask(ctx, "store read", trace.Rows(len(at)))
	all, err := r.Backend.Read(asking, picked(asks, at)...)
	step.End(err)
	if err != nil {
		return nil, r.noted(ctx, asked, first, err)
	}
	for i, j := range at {
		if out[j] = all[i]; parts[j] != first {
			r.notedBeside(ctx, asked, parts[j], out[j].Err)
		}
	}
	return out, r.noted(ctx, asked, first, nil)
}

// List implements Backend. Parts that are given up are not asked.
func (r *reach) List(ctx context.Context, groups []Group, kinds ...Kind) ([]Reading, error) {
	out := make([]Reading, len(groups))
	failed, err := r.ask(ctx, groups, func(at []int) ([]error, error) {
		ctx, step := trace.Ask(ctx, "store list", trace.Rows(len(at)))
		all, err := r.Backend.List(ctx, picked(groups, at), kinds...)
		step.End(err)
		said := make([]error, len(all))
		for i, read := range all {
			out[at[i]], said[i] = read, read.Err
		}
		return said, err
	})
	for i, why := range failed {
		out[i].Err = why
	}
	return out, err
}

// Revisions is that of Shared. Parts that are given up are not asked.
func (r *reach) Revisions(ctx context.Context, places []Place) ([]Revision, []bool, error) {
	out, known, groups := make([]Revision, len(places)), make([]bool, len(places)), make([]Group, len(places))
	for i, p := range places {
		groups[i] = p.Group
	}
	failed, err := r.ask(ctx, groups, func(at []int) ([]error, error) {
		ctx, step := trace.Ask(ctx, "store revisions", trace.Rows(len(at)))
		there, told, err := r.shared.Revisions(ctx, picked(places, at))
		step.End(err)
		said := make([]error, len(told))
		for i, ok := range told {
			if out[at[i]] = there[i]; !ok {
				said[i] = errPartAway
			}
		}
		return said, err
	})
	for i, why := range failed {
		known[i] = why == nil
	}
	return out, known, err
}

// ask asks about several groups at once: about those whose part is to be asked now, by their numbers. The question says what became
// of each of them, or why of none. ask returns why nothing is known of a group; nil: it was told. It fails if nothing is known of any.
func (r *reach) ask(ctx context.Context, groups []Group, question func(at []int) ([]error, error)) ([]error, error) {
	if !r.ready.Load() || slices.Contains(groups, "") {
		return nil, errNotReady
	}
	if len(groups) == 0 {
		return nil, nil
	}
	parts, why, may, at := make([]string, len(groups)), make([]error, len(groups)), map[string]error{}, []int{}
	for i, g := range groups {
		parts[i] = r.shard(g)
		if _, known := may[parts[i]]; !known {
			may[parts[i]] = r.may(parts[i], nextRead)
		}
		if why[i] = may[parts[i]]; why[i] == nil {
			at = append(at, i)
		}
	}
	if len(at) == 0 {
		return nil, why[0]
	}
	asked := r.clock.Now().At
	said, err := question(at)
	became := map[string]error{}
	for i, j := range at {
		if why[j] = err; err == nil {
			why[j] = said[i]
		}
		if before, ok := became[parts[j]]; !ok || !answered(before) {
			became[parts[j]] = why[j] // a part is there if anything of it is
		}
	}
	for part, err := range became {
		_ = r.noted(ctx, asked, part, err)
	}
	if err == nil && !slices.Contains(why, nil) { // some were not asked, and the others could not say
		err = why[0]
	}
	return why, err
}

// picked are those with these numbers.
func picked[T any](all []T, at []int) []T {
	some := make([]T, len(at))
	for i, j := range at {
		some[i] = all[j]
	}
	return some
}

// Apply implements Backend.
func (r *reach) Apply(ctx context.Context, b Batch) error {
	if !r.ready.Load() || b.Group == "" {
		return errNotReady
	}
	part := r.shard(b.Group)
	if err := r.may(part, nextWrite); err != nil {
		return err
	}
	asked := r.clock.Now().At
	asking, step := trace.Ask(ctx, "store apply", trace.Rows(len(b.Puts)+len(b.Deletes)))
	err := r.Backend.Apply(asking, b)
	step.End(err)
	if !answered(err) && r.shared != nil {
		return err // one that takes no writes may well answer: what is read says whether it is there
	}
	return r.noted(ctx, asked, part, err)
}

// Scan implements Backend. The index and the rows may be in many parts.
func (r *reach) Scan(ctx context.Context, key Key, after Listing, limit int) ([]Listed, error) {
	if !r.ready.Load() {
		return nil, errNotReady
	}
	ctx, step := trace.Ask(ctx, "store scan", trace.Rows(limit))
	all, err := r.Backend.Scan(ctx, key, after, limit)
	step.End(err)
	return all, err
}
