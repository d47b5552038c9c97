package store

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// A rewrap seals with the primary key what is sealed with another one: the same plaintext, in a row that has a new revision and ends when it would have. Each
// row is written under the condition that it is as it was read, so that nothing is brought back that has changed meanwhile; and what decides on a row that
// was rewrapped meanwhile reads and decides again. Leases are left alone: they end by themselves.
//
// How far it is is a row, so that any broker goes on from there. It goes round until a whole pass finds nothing. Each pass takes the names of all credentials first (see
// everyone): one that is listed again once the cursor has gone by would not be looked at. A record that cannot be read stays as it is and
// is counted: it is no reason to leave the others under a key that has leaked.

// sealedKinds are the kinds of a credential's rows that last, the credential first.
var sealedKinds = []Kind{kindCredential, kindHealth, kindHistory, kindGrant, kindToken, kindFailure, kindSuspended}

// A Rewrap is how one stands.
type Rewrap struct {
	// To is the key that all is to be sealed with.
	To string
	// Credentials is how many of them this pass has looked at, and Rows how many rows were sealed anew, in all passes.
	Credentials, Rows int
	// Pass counts from 1.
	Pass int
	// Unreadable is how many rows this pass has left as they are because nothing opens them, and Why says it of the first of them. The former key cannot be
	// retired while it seals one.
	Unreadable int
	Why        string
	// Done: a whole pass has found nothing that it could seal anew.
	Done bool
	// At is when this was written, by the store's clock.
	At time.Time
}

// rewrapRecord is in the clear; of what it holds only the name is not for everybody, and that is in the index too.
type rewrapRecord struct {
	To          string `json:"to"`
	Name        string `json:"name,omitzero"`
	Credentials int    `json:"credentials"`
	Rows        int    `json:"rows"`
	Pass        int    `json:"pass"`
	// Found is how many rows this pass has sealed anew.
	Found      int       `json:"found"`
	Unreadable int       `json:"unreadable,omitzero"`
	Why        string    `json:"why,omitzero"`
	Done       bool      `json:"done,omitzero"`
	At         time.Time `json:"at"`
}

// parseRewrap returns nil for what is none: a rewrap begins anew then.
func parseRewrap(data []byte) *rewrapRecord {
	var r rewrapRecord
	if json.Unmarshal(data, &r) != nil || r.Pass < 1 || r.Credentials < 0 || r.Rows < 0 || r.Found < 0 || r.Unreadable < 0 {
		return nil
	}
	return &r
}

func (r rewrapRecord) rewrap() Rewrap {
	return Rewrap{To: r.To, Credentials: r.Credentials, Rows: r.Rows, Pass: r.Pass, Unreadable: r.Unreadable, Why: r.Why, Done: r.Done, At: r.At}
}

const (
	// rowsAtOnce bounds how many rows one change seals anew.
	rowsAtOnce = 200
	// credentialsAtOnce is how many credentials' rows are sealed anew at a time.
	credentialsAtOnce = 16
	// cursorEvery is how often it is stored how far a rewrap is.
	cursorEvery = time.Second
)

// Rewrap seals with the primary key what is sealed with another, at most rate rows a second; 0: as many as it can. progress is called now and then; nil: nobody
// looks. It goes on where a former one was interrupted, and ends once a whole pass has found nothing that it could seal anew; look whether something is
// Unreadable. A *Refused.
func (s *Store) Rewrap(ctx context.Context, rate int, progress func(Rewrap)) (Rewrap, error) {
	if progress == nil {
		progress = func(Rewrap) {}
	}
	m, err := s.current(ctx)
	if err != nil {
		return Rewrap{}, err
	}
	if s.ring.kek == nil {
		return Rewrap{}, refused("the keys are in a key file, and cannot be changed there: wrap them with a KEK first, with `tokenbroker keys wrap`")
	}
	began := s.clock.Now()
	w := &rewrapping{s: s, rate: rate, progress: progress, began: began.At, to: s.keys().ID(), now: m.now, read: began}
	w.record = rewrapRecord{To: w.to, Pass: 1}
	if m.rewrap != nil && m.rewrap.To == w.to && !m.rewrap.Done {
		w.record = *m.rewrap
	}
	if err := w.save(ctx); err != nil { // no key is retired until it is done
		return w.record.rewrap(), err
	}
	w.saved = broker.Never
	for {
		if err := w.pass(ctx); err != nil {
			return w.record.rewrap(), err
		}
		if w.record.Found == 0 {
			break
		}
		w.record = rewrapRecord{To: w.to, Rows: w.record.Rows, Pass: w.record.Pass + 1}
	}
	w.record.Done = true
	err = w.save(ctx)
	progress(w.record.rewrap())
	return w.record.rewrap(), err
}

// A rewrapping is one call of Rewrap.
type rewrapping struct {
	s        *Store
	rate     int
	progress func(Rewrap)
	to       string
	record   rewrapRecord
	// now is what the store's clock said when it was read last, and read is that by this process's.
	now   time.Time
	read  broker.Instant
	began broker.Moment
	saved broker.Moment
	mu    sync.Mutex
	// sealed is how many rows this call has sealed anew; guarded by mu, and so are the numbers of rows in record while a page is worked on.
	sealed int
}

// pass goes from where the record is to the last credential. Where not all can be found it does nothing: from there nobody could go on.
func (w *rewrapping) pass(ctx context.Context) error {
	if err := w.metaRows(ctx); err != nil {
		return err
	}
	names, err := w.s.everyone(ctx)
	if err != nil {
		return err
	}
	first, found := slices.BinarySearch(names, broker.CredentialName(w.record.Name))
	if found {
		first++
	}
	for page := range slices.Chunk(names[first:], groupsAtOnce) {
		all, err := w.s.listGroups(ctx, page, sealedKinds)
		if err != nil {
			return err
		}
		if w.now, w.read = all[0].Now, w.s.clock.Now(); w.s.keys().ID() != w.to {
			return errPromoted
		}
		if err := w.page(ctx, page, all); err != nil {
			return err
		}
		w.record.Name = string(page[len(page)-1])
		w.record.Credentials += len(page)
		if w.s.clock.Now().At.Sub(w.saved) >= cursorEvery {
			if err := w.save(ctx); err != nil {
				return err
			}
			w.progress(w.record.rewrap())
		}
		if err := Ended(ctx); err != nil {
			return err
		}
	}
	return nil
}

// page seals anew what is to be of these credentials, several at a time: a backend that syncs takes several changes along with one sync.
func (w *rewrapping) page(ctx context.Context, page []broker.CredentialName, all []Reading) error {
	names := make(chan broker.CredentialName, len(page))
	for i, read := range all {
		if slices.ContainsFunc(read.Rows, w.old) {
			names <- page[i]
		}
	}
	close(names)
	errs := make(chan error, credentialsAtOnce)
	for range credentialsAtOnce {
		go func() {
			var err error
			for name := range names {
				if err == nil {
					err = w.credential(ctx, name)
				}
			}
			errs <- err
		}()
	}
	var first error
	for range credentialsAtOnce {
		if err := <-errs; first == nil {
			first = err
		}
	}
	return first
}

// old reports whether a row is sealed with another key.
func (w *rewrapping) old(row Row) bool { return seal.SealedWith(row.Value) != w.to }

// save stores how far it is. Whoever rewraps at the same time does too, and one of them goes on from there.
func (w *rewrapping) save(ctx context.Context) error {
	w.record.At = w.now.Add(w.s.clock.Now().Ran - w.read.Ran) // what was sealed anew last is not younger
	value, err := json.Marshal(w.record)
	if err != nil {
		return misused("how a rewrap stands cannot be encoded")
	}
	w.saved = w.s.clock.Now().At
	err = w.s.apply(ctx, w.s.backend, Batch{Group: metaGroup, Puts: []Put{{Key: rewrapKey, Revision: newRevision(), Value: value}}})
	return ignoreUnconfirmed(err)
}

var errPromoted = refused("another key was promoted meanwhile: rewrap again")

func ignoreUnconfirmed(err error) error {
	if errors.Is(err, ErrUnconfirmed) {
		return nil
	}
	return err
}

// pace waits until it is no faster than its rate.
func (w *rewrapping) pace(ctx context.Context) error {
	if w.rate <= 0 {
		return Ended(ctx)
	}
	w.mu.Lock()
	sealed := w.sealed
	w.mu.Unlock()
	ahead := time.Duration(sealed)*time.Second/time.Duration(w.rate) - w.s.clock.Now().At.Sub(w.began)
	if ahead <= 0 {
		return Ended(ctx)
	}
	timer := time.NewTimer(ahead)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return Ended(ctx)
}

func (w *rewrapping) did(rows int, unreadable []error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.record.Rows += rows
	w.record.Found += rows
	w.sealed += rows
	if w.record.Unreadable += len(unreadable); len(unreadable) > 0 && w.record.Why == "" {
		w.record.Why = unreadable[0].Error()
	}
}

// credential seals the rows of one credential anew, a part at a time. One that is gone has none.
func (w *rewrapping) credential(ctx context.Context, name broker.CredentialName) error {
	for {
		var done int
		var unreadable []error
		err := ignoreUnconfirmed(w.s.changeKept(ctx, w.s.backend, func() (*Batch, error) {
			if done, unreadable = 0, nil; w.s.keys().ID() != w.to {
				return nil, errPromoted
			}
			n, err := w.s.list(ctx, name, sealedKinds[1:]...)
			if errors.Is(err, broker.NotFound) {
				return nil, nil
			}
			if errors.Is(err, broker.RecordUnreadable) { // its own row: what belongs to it, nobody knows
				unreadable = []error{err}
				return nil, nil
			}
			if err != nil {
				return nil, err
			}
			b := n.change()
			b.batch.Finish, b.batch.Keep = true, true
			for _, key := range n.order {
				row := n.rows[key]
				if !w.old(row) || done == rowsAtOnce {
					continue
				}
				p, err := w.s.resealed(n.bound(key), row)
				if errors.Is(err, broker.RecordUnreadable) {
					unreadable = append(unreadable, err)
					continue
				}
				if err != nil {
					return nil, err
				}
				if row.Left > 0 {
					n.until(&p, n.now.Add(row.Left))
				}
				if !b.named(key) {
					b.unchanged(key)
				}
				b.batch.Puts = append(b.batch.Puts, p)
				done++
			}
			if done == 0 {
				return nil, nil
			}
			return b.done()
		}))
		if err != nil {
			return err
		}
		if done == rowsAtOnce {
			unreadable = nil // the next round meets them again
		}
		w.did(done, unreadable)
		if err := w.pace(ctx); err != nil || done < rowsAtOnce {
			return err
		}
	}
}

// resealed is the same record, sealed with the primary key.
func (s *Store) resealed(p binding, row Row) (Put, error) {
	plain, err := s.unseal(p, row)
	if err != nil {
		return Put{}, err
	}
	defer clear(plain)
	return s.sealed(nil, p, plain)
}

// metaRows seals the store's own rows anew.
func (w *rewrapping) metaRows(ctx context.Context) error {
	for _, key := range []Key{checkKey, suspendedKey} {
		var done int
		var unreadable []error
		err := ignoreUnconfirmed(w.s.changeKept(ctx, w.s.backend, func() (*Batch, error) {
			done, unreadable = 0, nil
			rows, err := w.s.rows(ctx, metaGroup, key)
			if err != nil || len(rows) == 0 {
				return nil, err
			}
			row := rows[0]
			var p Put
			if key == checkKey {
				p, err = w.check(row)
			} else if w.old(row) {
				if p, err = w.s.resealed(suspendedBinding, row); errors.Is(err, broker.RecordUnreadable) {
					unreadable, err = []error{err}, nil
				}
			}
			if err != nil || p.Value == nil {
				return nil, err
			}
			done = 1
			return &Batch{Group: metaGroup, Conditions: []Condition{{key, row.Revision}}, Puts: []Put{p}, Finish: true, Keep: true}, nil
		}))
		if err != nil {
			return err
		}
		w.did(done, unreadable)
	}
	return nil
}

// check is the check record, sealed anew; no value: it is already.
func (w *rewrapping) check(row Row) (Put, error) {
	var r checkRecord
	if json.Unmarshal(row.Value, &r) != nil || r.Schema != schema {
		return Put{}, unreadableData("the record of their keys is damaged")
	}
	k, err := w.s.sealing()
	if err != nil || seal.SealedWith(r.Sealed) == w.to {
		return Put{}, err
	}
	plain, err := k.Open(r.Sealed, checkBinding.associated())
	if err != nil {
		return Put{}, w.s.unreadable(checkBinding, err)
	}
	if r.Sealed, err = k.Seal(plain, checkBinding.associated()); err != nil {
		return Put{}, misused(err.Error())
	}
	r.Keys = k.IDs()
	value, err := json.Marshal(r)
	if err != nil {
		return Put{}, misused("the check record cannot be encoded")
	}
	return Put{Key: checkKey, Revision: newRevision(), Value: value}, nil
}
