package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A refresh token has one owner. From the moment at which a store is exported, refreshing is suspended there: what was
// copied must not be spent.
//
// Each credential has a row that says so, in its own group, and taking the lease of a grant has the condition that there is
// none. So a lease and the suspension are decided by the backend one after the other, whatever was read before and however
// long a batch was on its way: either the suspension came first, and the lease is refused; or the lease came first, and who
// reads the group after the suspension sees it, and waits until it is gone. Export does that, so that it copies either
// nothing that is being presented, or the successor. One row for the whole store could not do it: it is in another group,
// and between its being read and the lease's being written anything may happen. It would also cost each exchange a question.
//
// Where no grant is spent, exchanges go on: a token that is had with a client's secret takes nothing away from whoever has
// the copy. If refused, brokers that share a store would think it is down, and go on obtaining such tokens each for itself,
// without a lease.
//
// The meta group's row is the note of the export: it tells operators, and an export whose note is gone, or another's, cannot be used. No lease depends on it. A credential that is created after the
// export has begun is in no copy, and is not suspended.

// suspendedRecord says since when.
type suspendedRecord struct {
	At instant `json:"at"`
}

var suspendedBinding = binding{key: suspendedKey, subject: "meta"}

// suspended is the failure of a refresh that is suspended; nil: it is not.
func (n *snapshot) suspended() error {
	var r suspendedRecord
	switch there, err := n.open(suspendedKey, &r); {
	case !there:
		return nil
	case err != nil:
		return err
	}
	return Unavailable(fmt.Sprintf("refreshing is suspended since the store was exported at %s: `tokenbroker store export --resume` undoes it",
		r.At.time().Format(time.RFC3339)))
}

// Suspended tells since when refreshing is suspended because the store was exported; the zero time: it is not.
func (s *Store) Suspended(ctx context.Context) (time.Time, error) {
	rows, err := s.rows(ctx, metaGroup, suspendedKey)
	if err != nil || len(rows) == 0 {
		return time.Time{}, err
	}
	var r suspendedRecord
	if err := s.open(suspendedBinding, rows[0], &r); err != nil {
		return time.Time{}, err
	}
	return r.At.time(), nil
}

var errSuspensionUnconfirmed = Unavailable("too few replicas confirm that refreshing is suspended (wait_replicas)")

// A suspending is what an export does to a store before it copies anything.
type suspending struct {
	s *Store
	// at is what the rows say, and note the revision of the meta group's row.
	at   time.Time
	note Revision
	// unsettled are the rows that were written since the note was last seen to be there.
	unsettled []suspension
}

// A suspension is the row that suspends one credential.
type suspension struct {
	group    Group
	revision Revision
}

const (
	// settleEvery bounds how many rows are taken back where somebody has resumed meanwhile.
	settleEvery = 100
	// settleMost is how long that may take where the export itself has ended.
	settleMost = 5 * time.Second
)

// suspendAll notes that the store is being exported, and suspends the refreshes of these credentials.
func (s *Store) suspendAll(ctx context.Context, names []broker.CredentialName, now time.Time) (*suspending, error) {
	p, err := s.seal(suspendedBinding, suspendedRecord{at(now)})
	if err != nil {
		return nil, err
	}
	err = s.apply(ctx, s.backend, Batch{Group: metaGroup, Puts: []Put{p}, Keep: true})
	if errors.Is(err, ErrUnconfirmed) {
		err = errSuspensionUnconfirmed
	}
	if err != nil {
		return nil, err
	}
	x := &suspending{s: s, at: now, note: p.Revision}
	return x, x.suspend(ctx, names...)
}

// suspend suspends the refreshes of credentials. Where it fails because somebody has resumed, it leaves none suspended that the one who resumed has not seen.
func (x *suspending) suspend(ctx context.Context, names ...broker.CredentialName) (err error) {
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleMost)
			defer cancel()
			_ = x.settle(ctx) // what has failed is told
		}
	}()
	for _, name := range names {
		if err := x.one(ctx, name); err != nil {
			return err
		}
		if len(x.unsettled) == settleEvery {
			if err := x.settle(ctx); err != nil {
				return err
			}
		}
	}
	return x.settle(ctx)
}

// one suspends the refreshes of one credential. One that is gone needs none. It writes the row also where there is one:
// that may be of an export whose row was not confirmed.
func (x *suspending) one(ctx context.Context, name broker.CredentialName) error {
	group, written := x.s.credentialGroup(name), Revision{}
	err := x.s.changeKept(ctx, x.s.backend, func() (*Batch, error) {
		written = Revision{}
		n, err := x.s.read(ctx, name, suspendedKey)
		if errors.Is(err, broker.NotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		b := n.change()
		b.batch.Keep = true
		b.put(suspendedKey, suspendedRecord{at(x.at)})
		batch, err := b.done()
		if err == nil {
			written = b.after(*batch).revision(suspendedKey)
		}
		return batch, err
	})
	if written != (Revision{}) { // also where it may not have been made
		x.unsettled = append(x.unsettled, suspension{group, written})
	}
	if errors.Is(err, ErrUnconfirmed) {
		return errSuspensionUnconfirmed
	}
	return err
}

// settle looks whether the note is still there, after the rows were written: Resume deletes it before it looks at them for the last time, so that one of both
// sees what the other has done. Where the note is gone, nobody knows of these rows any more. They stay where it is of another export: that one counts on them.
func (x *suspending) settle(ctx context.Context) error {
	there, err := x.noted(ctx)
	gone := errors.Is(err, errResumed) && !there
	if gone {
		for _, row := range x.unsettled {
			undo := Batch{Group: row.group, Conditions: []Condition{{suspendedKey, row.revision}}, Deletes: []Key{suspendedKey}, Tell: noteNews, Finish: true}
			if err := x.s.apply(ctx, x.s.backend, undo); err != nil && !errors.Is(err, broker.ErrConflict) && !errors.Is(err, ErrUnconfirmed) {
				return err
			}
		}
	}
	if gone || err == nil {
		x.unsettled = nil
	}
	return err
}

var errResumed = errors.New("refreshing was resumed, or the store exported again, while this export was being made: it cannot be used")

// noted fails with errResumed where the note of this export is not there any more; there: another's is.
func (x *suspending) noted(ctx context.Context) (there bool, err error) {
	rows, err := x.s.rows(ctx, metaGroup, suspendedKey)
	if there = len(rows) > 0; err == nil && (!there || rows[0].Revision != x.note) {
		err = errResumed
	}
	return there, err
}

// Resume undoes what Export has suspended, and reports whether there was something. The copies that were made must not be
// used after that. Where not all credentials can be found, it resumes those that are, and fails: the store counts as suspended until all are.
func (s *Store) Resume(ctx context.Context) (resumed bool, err error) {
	// The note goes after the rows, so that an operator who was interrupted still sees it; and the rows are gone over once more when it is gone. An export that is
	// being made meanwhile finds it gone, and takes back what it writes after that (see settle). So it ends once nothing is found: neither a row, nor a note of
	// another export, which may have written some.
	for {
		rows, err := s.resumeEach(ctx)
		if err != nil {
			return resumed || rows, err
		}
		note, err := s.unsuspend(ctx, metaGroup)
		resumed = resumed || rows || note
		if err != nil || !rows && !note {
			return resumed, err
		}
	}
}

// resumeEach resumes every credential, and reports whether one was suspended.
func (s *Store) resumeEach(ctx context.Context) (some bool, err error) {
	names, incomplete := s.everyone(ctx)
	for _, name := range names {
		there, err := s.unsuspend(ctx, s.credentialGroup(name))
		if some = some || there; err != nil {
			return some, err
		}
	}
	if incomplete != nil {
		return some, fmt.Errorf("what was found of the credentials (%d) refreshes again, and others may still be suspended: %w", len(names), incomplete)
	}
	return some, nil
}

// unsuspend deletes a group's row that says so, and reports whether there was one.
func (s *Store) unsuspend(ctx context.Context, group Group) (there bool, err error) {
	rows, err := s.rows(ctx, group, suspendedKey)
	if err != nil || len(rows) == 0 {
		return false, err
	}
	err = s.apply(ctx, s.backend, Batch{Group: group, Deletes: []Key{suspendedKey}, Tell: noteNews, Finish: true})
	if errors.Is(err, ErrUnconfirmed) {
		err = nil
	}
	return true, err
}
