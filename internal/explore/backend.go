package explore

import (
	"context"
	"strings"
	"time"

	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// The kinds of steps that are calls of the store.
const (
	stepRead    = "read"    // one row
	stepView    = "view"    // all that decides
	stepList    = "list"    //
	stepCheck   = "check"   // whether what is cached is still current
	stepAcquire = "acquire" // a lease
	stepCommit  = "commit"  // what an exchange brought
	stepSettle  = "settle"  // an exchange that brought nothing
	stepDrop    = "drop"    // tokens
	stepDelete  = "delete"  // all of a credential
	stepWrite   = "write"   // anything else
)

var writes = []string{stepAcquire, stepCommit, stepSettle, stepDrop, stepDelete, stepWrite}

// A backend is the store as one life of one broker sees it. Each call is a step.
type backend struct {
	*storetest.Replica
	w    *world
	b    int
	life int
}

var _ store.Shared = (*backend)(nil)

// do asks the scheduler, and then calls f, or does not, or does not say so.
func (s *backend) do(ctx context.Context, what string, f func(context.Context) error) error {
	switch v := s.w.park(ctx, s.b, s.life, what); v.outcome {
	case goesOn:
		return f(ctx)
	case lost:
		_ = f(ctx)
		return store.Unavailable("the answer was lost")
	case late:
		s.w.calls.Go(func() {
			<-time.After(v.span)
			_ = f(context.WithoutCancel(ctx))
		})
	case failed, busy, gone:
	}
	if err := store.Ended(ctx); err != nil {
		return err
	}
	return store.Unavailable("away")
}

// Read implements store.Backend.
func (s *backend) Read(ctx context.Context, asks ...store.Ask) (all []store.Reading, err error) {
	what := stepView
	if len(asks) == 1 && len(asks[0].Keys) == 1 {
		what = stepRead
	}
	err = s.do(ctx, what, func(ctx context.Context) error { all, err = s.Replica.Read(ctx, asks...); return err })
	return all, err
}

// List implements store.Backend.
func (s *backend) List(ctx context.Context, groups []store.Group, kinds ...store.Kind) (all []store.Reading, err error) {
	err = s.do(ctx, stepList, func(ctx context.Context) error { all, err = s.Replica.List(ctx, groups, kinds...); return err })
	return all, err
}

// Apply implements store.Backend.
func (s *backend) Apply(ctx context.Context, b store.Batch) error {
	return s.do(ctx, kindOf(b), func(ctx context.Context) error {
		restore := s.Memory.Snapshot()
		err := s.Replica.Apply(ctx, b)
		if err == nil {
			s.w.wrote(life{s.b, s.life}, b, restore)
		}
		return err
	})
}

func kindOf(b store.Batch) string {
	brings, takes := false, false
	for _, p := range b.Puts {
		brings = brings || p.Key.Kind == "token"
		takes = takes || strings.HasSuffix(string(p.Key.Kind), "lease")
	}
	switch {
	case b.DeleteGroup:
		return stepDelete
	case b.Finish && b.Tell == 'm':
		return stepDrop
	case b.Finish && brings:
		return stepCommit
	case b.Finish:
		return stepSettle
	case takes:
		return stepAcquire
	}
	return stepWrite
}

// Revisions implements store.Shared.
func (s *backend) Revisions(ctx context.Context, places []store.Place) (r []store.Revision, known []bool, err error) {
	err = s.do(ctx, stepCheck, func(ctx context.Context) error { r, known, err = s.Replica.Revisions(ctx, places); return err })
	return r, known, err
}

// rows are how many there are in the group of the world's credential.
func (w *world) rows(kinds ...store.Kind) int {
	all, err := w.views[0].Memory.List(context.Background(), []store.Group{w.group}, kinds...)
	if err != nil {
		return 0
	}
	return len(all[0].Rows)
}
