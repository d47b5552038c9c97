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
// The meta group's row tells operators of the export, and nothing depends on it. A credential that is created after the
// export is in no copy, and is not suspended.

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

// suspendAll notes that the store is being exported, and returns the note's revision.
func (s *Store) suspendAll(ctx context.Context, now time.Time) (Revision, error) {
	p, err := s.seal(suspendedBinding, suspendedRecord{at(now)})
	if err != nil {
		return Revision{}, err
	}
	err = s.apply(ctx, s.backend, Batch{Group: metaGroup, Puts: []Put{p}, Keep: true})
	if errors.Is(err, ErrUnconfirmed) {
		err = errSuspensionUnconfirmed
	}
	return p.Revision, err
}

// suspend suspends the refreshes of one credential. One that is gone needs none. It writes the row also where there is one:
// that may be of an export whose row was not confirmed.
func (s *Store) suspend(ctx context.Context, name broker.CredentialName, now time.Time) error {
	err := s.changeKept(ctx, s.backend, func() (*Batch, error) {
		n, err := s.read(ctx, name, suspendedKey)
		if errors.Is(err, broker.NotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		b := n.change()
		b.batch.Keep = true
		b.put(suspendedKey, suspendedRecord{at(now)})
		return b.done()
	})
	if errors.Is(err, ErrUnconfirmed) {
		return errSuspensionUnconfirmed
	}
	return err
}

// Resume undoes what Export has suspended, and reports whether there was something. The copies that were made must not be
// used after that.
func (s *Store) Resume(ctx context.Context) (bool, error) {
	resumed := false
	remove := func(group Group) error {
		rows, err := s.rows(ctx, group, suspendedKey)
		if err != nil || len(rows) == 0 {
			return err
		}
		resumed = true
		err = s.apply(ctx, s.backend, Batch{Group: group, Deletes: []Key{suspendedKey}, Tell: noteNews, Finish: true})
		if errors.Is(err, ErrUnconfirmed) {
			return nil
		}
		return err
	}
	// The note goes last, so that an operator who was interrupted still sees it.
	err := s.eachListed(ctx, func(l Listed) error { return remove(s.credentialGroup(broker.CredentialName(l.Name))) })
	if err == nil {
		err = remove(metaGroup)
	}
	return resumed, err
}

// eachListed calls f with the entries of the index that have a credential, in order.
func (s *Store) eachListed(ctx context.Context, f func(Listed) error) error {
	for cursor := (Listing{}); ; {
		page, err := s.backend.Scan(ctx, credentialKey, cursor, scanPage)
		if err != nil {
			return fromBackend(err)
		}
		for _, l := range page {
			cursor = l.Listing
			if l.Row.Revision == (Revision{}) {
				continue
			}
			if err := f(l); err != nil {
				return err
			}
		}
		if len(page) < scanPage {
			return nil
		}
	}
}

const scanPage = 100
