package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// Where a KEK wraps the keys, they are a row (seal.Wrapped), which the KEK is asked to open at the start, and again when it was written anew.
//
// What a broker has and what it meets in the row become one (seal.Keyring.Joined): what came to be from the other counts, and of what was changed apart all keys
// are kept. If that is not what is in the row it is put there. So a failover that undoes a change, an older row that somebody puts back, a backup below brokers
// that run, and two halves that went on apart all end alike: with a row that has every key that something may be sealed with.
//
// A row that the KEK cannot open is left alone, and this broker's keys go on: another KEK may have wrapped them anew. But if the row says that it is one that these keys
// came to be from, they take its place.
//
// Brokers that share a store have to know each other's keys before one of them seals with a new one, and nobody may seal any more with one that
// is about to be retired. So each that holds the keys has a row, which says which version it has (a reader), and lives for readerTTL. It is written
// every confirmEvery under the condition that the keyring's row is the one that this broker knows: whoever changes the keyring and sees the readers
// knows everybody. Who could not write theirs for readerTTL seals nothing: what they know may be out of date, and nobody waits for them.
//
// A backend that is not Shared has one broker, and no readers.
const (
	confirmEvery = 10 * time.Second
	readerTTL    = 30 * time.Second
	// confirmAgain is how long after it failed it is tried again.
	confirmAgain = time.Second
	confirmMost  = 10 * time.Second
	// unwrapMost is how much of that the KEK may take: one that hangs must not keep a reader from being written. So it is not asked again for a while.
	unwrapMost = 5 * time.Second
	// lookEvery is how often a broker with a key file looks whether its keys were wrapped: from then on it is a reader, whose keys nobody can change.
	lookEvery = time.Minute
	// learnEvery is how often a key that is not known has the keyring read, and learnMost bounds that.
	learnEvery = time.Second
	learnMost  = 3 * time.Second
	// tellEvery is how often it is logged what keeps a newer keyring out.
	tellEvery = time.Minute
)

// ring is what a Store knows of wrapped keys beside them; the zero value is that of one whose keys are in a key file.
type ring struct {
	kek      seal.KEK
	instance broker.ID

	// confirmed is the broker.Moment at which it was last known that the row is that one.
	confirmed atomic.Int64

	mu sync.Mutex
	// revision is of the row that was last read; zero: it is to be read.
	revision Revision
	// settled: what is in that row is what this process has.
	settled bool
	// wrote is of the row that this process has written last: what its KEK does not open of that, it is not asked to wrap again.
	wrote Revision
	// lags: it could not be opened, and why, and these keys go on meanwhile. tried is when.
	lags  bool
	why   error
	tried broker.Moment
	// learned is when an unknown key had it read, and found what became of that.
	learned broker.Moment
	found   error
	// outdated: these keys are of a key file, and others were promoted since. It is read without mu.
	outdated atomic.Bool
	told     map[string]broker.Moment
	stale    bool
}

// readerRecord is a broker that holds keys: cleartext, and no secret.
type readerRecord struct {
	// Name is how people find it, as its host.
	Name       string `json:"name,omitzero"`
	Generation uint64 `json:"generation"`
	// Version is that of its keys; empty: they are of a key file.
	Version string `json:"version,omitzero"`
}

// keys is the keyring; nil: it is not there yet.
func (s *Store) keys() *seal.Keyring { return s.keyring.Load() }

// Ready says why nothing can be made of names and secrets yet, by Fingerprint or otherwise; nil: it can. Once it is nil it stays so. Where the keys are in a
// key file it always is.
func (s *Store) Ready() error {
	if s.ring.kek == nil || s.backend.ready.Load() {
		return nil
	}
	return errNotReady
}

// readKeyring returns the row and what is in it; nil: there is none.
func readKeyring(ctx context.Context, backend Backend) (*seal.Wrapped, Row, time.Time, error) {
	read, err := backend.Read(ctx, Ask{metaGroup, []Key{keyringKey}})
	if err != nil {
		return nil, Row{}, time.Time{}, fromBackend(err)
	}
	if len(read[0].Rows) == 0 {
		return nil, Row{}, read[0].Now, nil
	}
	row := read[0].Rows[0]
	w, err := seal.ParseWrapped(row.Value)
	if err != nil {
		return nil, row, read[0].Now, &keyringError{unreadableData(err.Error()), err}
	}
	return w, row, read[0].Now, nil
}

// A keyringError is that of a row that is no keyring, and why.
type keyringError struct{ failure, why error }

func (e *keyringError) Error() string   { return e.failure.Error() }
func (e *keyringError) Unwrap() []error { return []error{e.failure, e.why} }

// wrappedData is why a key file is of no use.
func wrappedData(w *seal.Wrapped) error {
	return unreadableData("their keys are wrapped by " + w.KEK + ": set keys.kek to it")
}

// refuseWrapped fails where the keys are wrapped, and this broker has a key file.
func refuseWrapped(ctx context.Context, backend Backend) error {
	w, _, _, err := readKeyring(ctx, backend)
	if err == nil && w != nil {
		err = wrappedData(w)
	}
	return err
}

// openKeyring has the KEK open the keys, and draws them where the store is empty.
func (s *Store) openKeyring(ctx context.Context, backend Backend) error {
	s.ring.mu.Lock()
	defer s.ring.mu.Unlock()
	for {
		w, row, now, err := readKeyring(ctx, backend)
		if err != nil {
			return err
		}
		if w == nil {
			err := s.drawKeyring(ctx, backend, now)
			if errors.Is(err, broker.ErrConflict) {
				continue // somebody was quicker
			}
			if errors.Is(err, ErrUnconfirmed) {
				return Unavailable("the keys are drawn, and too few replicas confirm it (wait_replicas)")
			}
			if err != nil {
				return err
			}
			continue
		}
		k, err := s.unwrap(ctx, w)
		if err != nil {
			return err
		}
		s.ring.revision, s.ring.settled = row.Revision, true
		s.keyring.Store(k)
		return nil
	}
}

// drawKeyring draws the keys of an empty store. It fails with broker.ErrConflict where somebody else has.
func (s *Store) drawKeyring(ctx context.Context, backend Backend, now time.Time) error {
	const wrap = ": wrap it first, with `tokenbroker keys wrap`"
	r, err := readCheck(ctx, backend)
	if err != nil {
		return err
	}
	if r != nil {
		return unreadableData(fmt.Sprintf("they are sealed with key %s of a key file%s", strings.Join(r.Keys, ", "), wrap))
	}
	page, err := backend.Scan(ctx, credentialKey, Listing{}, 1)
	if err != nil {
		return fromBackend(err)
	}
	if len(page) > 0 {
		return unreadableData("there are credentials, which are sealed with a key file" + wrap)
	}
	if s.options.KeyFile != "" {
		return unreadableData(fmt.Sprintf("there are none yet, and there is a key file %s%s; or move it away, if nothing was sealed with it", s.options.KeyFile, wrap))
	}
	k, err := seal.New()
	if err == nil {
		k, err = k.Adopted(now)
	}
	if err != nil {
		return misused(err.Error())
	}
	return s.putKeyring(ctx, backend, k, Revision{}, Condition{Key: checkKey}) // nor has anybody begun with a key file meanwhile
}

// putKeyring wraps keys, and puts them in the place of the row with this revision. broker.ErrConflict.
func (s *Store) putKeyring(ctx context.Context, backend Backend, k *seal.Keyring, over Revision, more ...Condition) error {
	value, err := k.Wrap(ctx, s.ring.kek)
	if err != nil {
		return fromKEK(err)
	}
	return s.putWrapped(ctx, backend, value, over, more...)
}

func (s *Store) putWrapped(ctx context.Context, backend Backend, value []byte, over Revision, more ...Condition) error {
	s.ring.wrote = newRevision()
	return s.apply(ctx, backend, Batch{
		Group: metaGroup, Conditions: append(more, Condition{keyringKey, over}), Puts: []Put{{Key: keyringKey, Revision: s.ring.wrote, Value: value}}, Keep: true,
	})
}

// unwrap opens a keyring. Where another KEK is asked than the one that wrapped it, it says so.
func (s *Store) unwrap(ctx context.Context, w *seal.Wrapped) (*seal.Keyring, error) {
	k, err := w.Unwrap(ctx, s.ring.kek)
	if err == nil {
		return k, nil
	}
	if errors.Is(err, seal.ErrHistory) {
		return k, &keyringError{unreadableData(err.Error()), err}
	}
	if uri := s.ring.kek.URI(); w.KEK != uri && !passes(err) {
		return nil, unreadableData(fmt.Sprintf("their keys are wrapped by %s, and keys.kek is %s: %s", w.KEK, uri, err))
	}
	return nil, fromKEK(err)
}

// passes reports whether a failure of a KEK may pass by itself.
func passes(err error) bool {
	var f interface{ Passes() bool }
	return errors.As(err, &f) && f.Passes() || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// fromKEK is a failure of the KEK as one of the store: one that passes by itself is StoreUnavailable.
func fromKEK(err error) error {
	if passes(err) {
		return Unavailable(err.Error())
	}
	return unreadableData(err.Error())
}

// confirm writes the reader of this broker, and has a keyring opened before that it does not know. Where the KEK does not open that one, the former keys go on,
// as long as their reader has not ended meanwhile. It returns when there is a reader; else it fails, and says why.
func (s *Store) confirm(ctx context.Context, backend Backend) error {
	s.ring.mu.Lock()
	defer s.ring.mu.Unlock()
	for range 10 {
		if s.ring.revision == (Revision{}) || !s.ring.settled {
			err := s.reload(ctx, backend)
			if errors.Is(err, broker.ErrConflict) {
				continue
			}
			if err != nil && (!s.ring.lags || !s.confirms()) {
				return err
			}
		}
		if s.ring.kek == nil && s.ring.revision == (Revision{}) {
			return nil // there is nothing to be read
		}
		asked := s.clock.Now().At
		value, err := json.Marshal(readerRecord{Name: s.options.Name, Generation: s.generation(), Version: s.keys().Version()})
		if err != nil {
			return misused("the reader cannot be encoded")
		}
		err = fromBackend(backend.Apply(ctx, Batch{
			Group: metaGroup, Conditions: []Condition{{keyringKey, s.ring.revision}},
			Puts:   []Put{{Key: readerKey(s.ring.instance), Revision: newRevision(), Value: value, TTL: readerTTL}},
			Finish: true, // what was begun cannot be sealed without it, also where there is no room
		}))
		switch {
		case errors.Is(err, broker.ErrConflict):
			s.ring.revision = Revision{}
			continue
		case err == nil:
			s.ring.confirmed.Store(int64(asked))
		}
		return err
	}
	return Unavailable("the keyring changes all the time")
}

// generation is that of the keys that this process has.
func (s *Store) generation() uint64 { return s.keys().Generation() }

// confirms reports whether the reader of this broker has not ended.
func (s *Store) confirms() bool {
	return s.clock.Now().At.Sub(broker.Moment(s.ring.confirmed.Load())) < readerTTL
}

// reload reads the row, and settles what this process has with what is in it; the caller holds ring.mu. Where it fails, what this process has goes on if
// ring.lags, and seals nothing soon if not. It fails with broker.ErrConflict where it is to be read again.
func (s *Store) reload(ctx context.Context, backend Backend) error {
	w, row, now, err := readKeyring(ctx, backend)
	if s.ring.kek == nil { // these keys are of a key file, and the row has the same
		if err == nil && w != nil {
			s.ring.outdated.Store(w.Primary != s.keys().ID() && (w.Primary != "" || w.Generation > promotedAt))
			s.tell("the keys in the store are wrapped, and this broker has them of its key file: restart it with keys.kek", slog.String("kek", w.KEK))
		}
		s.ring.revision = row.Revision
		return s.staleFor(err)
	}
	known, settled := s.ring.revision, s.ring.settled
	s.ring.revision, s.ring.settled, s.ring.lags = Revision{}, false, false
	switch {
	case errors.Is(err, seal.ErrDamaged):
		s.tell("the keyring in the store is damaged: that of this broker takes its place")
		return s.putBack(ctx, backend, s.keys(), row.Revision)
	case err != nil:
		return s.staleFor(err)
	case w == nil: // a failover has undone a first start, or somebody has deleted it: nobody else may draw others
		s.tell("the keyring is gone from the store: that of this broker takes its place")
		return s.putBack(ctx, backend, s.keys(), Revision{})
	case w.StoreID != s.keys().StoreID():
		s.tell("the keyring in the store is that of another store: it is refused, and nothing is sealed until this broker is started again", slog.Uint64("generation", w.Generation))
		return s.staleFor(unreadableData("their keyring is that of another store"))
	case row.Revision == known && settled:
		s.ring.revision, s.ring.settled = row.Revision, true
		return s.staleFor(nil)
	}
	s.ring.revision, s.ring.tried = row.Revision, s.clock.Now().At
	bounded, cancel := context.WithTimeout(ctx, unwrapMost)
	defer cancel()
	found, err := s.unwrap(bounded, w)
	switch {
	case errors.Is(err, seal.ErrHistory):
		s.tell("the keyring in the store does not say truly where it comes from: that of this broker takes its place")
	case err != nil:
		return s.unopened(ctx, backend, w, row.Revision, err)
	}
	joined, err := s.keys().Joined(found, now)
	if err != nil {
		s.tell("the keyring in the store does not go together with that of this broker, and nothing is sealed", slog.String("error", err.Error()))
		return s.staleFor(unreadableData(err.Error()))
	}
	if joined != found {
		s.tell("the keyring in the store lacks what this broker has seen: a failover has undone it, or somebody has put a former one there. What counts of both takes its place",
			slog.Uint64("generation", w.Generation), slog.Uint64("seen", s.generation()))
		return s.putBack(ctx, backend, joined, row.Revision)
	}
	if found.Version() != s.keys().Version() {
		s.options.Log.LogAttrs(ctx, slog.LevelInfo, "the keys have changed", slog.Uint64("generation", w.Generation), slog.String("primary", found.ID()))
	}
	s.ring.settled = true
	s.keyring.Store(found)
	return s.staleFor(nil)
}

// unopened is what becomes of a row that the KEK did not open. These keys go on where the row says that it came to be from them, so that it has them. What it says is
// not known to be true; but whoever may forge it could delete the row as well.
func (s *Store) unopened(ctx context.Context, backend Backend, w *seal.Wrapped, at Revision, why error) error {
	k := s.keys()
	same, follows := w.Version() == k.Version(), w.Follows(k.Version())
	if k.Follows(w.Version()) && !errors.Is(why, broker.StoreUnavailable) && at != s.ring.wrote {
		s.tell("the keyring in the store says that it is one that this broker's came to be from, and cannot be opened: that of this broker takes its place", slog.String("error", why.Error()))
		if err := s.putBack(ctx, backend, k, at); !same || err == nil || errors.Is(err, broker.ErrConflict) {
			return err
		} // the KEK refuses this broker: the row may well be sound
	}
	if !follows {
		s.tell("the keyring in the store lacks what this broker has seen, or says so, and cannot be opened: nothing is sealed until it can, or another one is there", slog.String("error", why.Error()))
		return s.staleFor(why)
	}
	s.ring.lags, s.ring.why = true, why
	if !same {
		s.tell("the keyring in the store is newer, and cannot be opened: the former keys go on", slog.Uint64("generation", w.Generation), slog.String("error", why.Error()))
	}
	return s.staleFor(why)
}

// putBack puts these keys in the place of the row with this revision. It fails with broker.ErrConflict where that is done, and where somebody
// was quicker.
func (s *Store) putBack(ctx context.Context, backend Backend, k *seal.Keyring, over Revision) error {
	ctx, cancel := context.WithTimeout(ctx, unwrapMost)
	defer cancel()
	err := s.putKeyring(ctx, backend, k, over)
	if err == nil || errors.Is(err, ErrUnconfirmed) {
		s.keyring.Store(k)
		return broker.ErrConflict
	}
	if errors.Is(err, broker.ErrConflict) {
		return err
	}
	return s.staleFor(err)
}

// staleFor notes whether this process has the keys that are in the store, and passes the failure on.
func (s *Store) staleFor(err error) error {
	if stale := err != nil; stale != s.ring.stale {
		s.ring.stale = stale
		if s.options.KeysStale != nil {
			s.options.KeysStale(stale)
		}
	}
	return err
}

// tell logs what is wrong with the keyring, each thing once a minute.
func (s *Store) tell(what string, attrs ...slog.Attr) {
	now := s.clock.Now().At
	if was, ok := s.ring.told[what]; ok && now.Sub(was) < tellEvery {
		return
	}
	if s.ring.told == nil {
		s.ring.told = map[string]broker.Moment{}
	}
	s.ring.told[what] = now
	s.options.Log.LogAttrs(context.Background(), slog.LevelError, what, attrs...)
}

// FollowKeys keeps the keys up to date with those in the store until ctx ends. Watch does it too. Where nobody else changes the store it only waits.
func (s *Store) FollowKeys(ctx context.Context) {
	if s.shared == nil {
		<-ctx.Done()
		return
	}
	for wait := s.confirmAfter(); ; {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		if wait = s.confirmAfter(); !s.backend.ready.Load() {
			continue // Begin confirms
		}
		bounded, cancel := context.WithTimeout(ctx, confirmMost)
		if wait = confirmAgain; s.confirm(bounded, s.backend) == nil {
			wait = s.confirmAfter()
		}
		cancel()
	}
}

// confirmAfter is how long after it was confirmed it is to be again.
func (s *Store) confirmAfter() time.Duration {
	s.ring.mu.Lock()
	defer s.ring.mu.Unlock()
	if s.ring.kek == nil && s.ring.revision == (Revision{}) {
		return lookEvery
	}
	return confirmEvery
}

// sealing is the keyring to seal with. StoreUnavailable while this broker may not: see the top of this file.
func (s *Store) sealing() (*seal.Keyring, error) {
	k := s.keys()
	if k == nil {
		return nil, errNotReady
	}
	if s.ring.kek == nil && s.ring.outdated.Load() {
		return nil, errOutdatedKeys
	}
	if s.ring.kek == nil || s.shared == nil || !s.backend.ready.Load() {
		return k, nil
	}
	if !s.confirms() {
		return nil, errUnconfirmedKeys
	}
	return k, nil
}

var errOutdatedKeys = Unavailable("the keys of this broker's key file were replaced in the store, where they are wrapped: restart it with keys.kek")

// promotedAt is the generation after which others may seal with another key than that of a key file, where the row does not say with which: they were wrapped, a key was
// added, and then promoted.
const promotedAt = 2

var errUnconfirmedKeys = Unavailable("this broker could not confirm its keys for a while, and seals nothing until it can")

// learn has the keyring read because something is sealed with a key that is not in it, at most once each learnEvery. It fails where that could not be found
// out.
func (s *Store) learn(id string) error {
	if s.ring.kek == nil || s.shared == nil || id == "" {
		return nil
	}
	s.ring.mu.Lock()
	defer s.ring.mu.Unlock()
	if s.keys().Opens(id) {
		return nil
	}
	now := s.clock.Now().At
	if now.Sub(s.ring.learned) < learnEvery {
		return s.ring.found
	}
	if !s.ring.lags || now.Sub(s.ring.tried) >= confirmEvery { // else a KEK that hangs would hold up everybody
		ctx, cancel := context.WithTimeout(context.Background(), learnMost)
		defer cancel()
		s.ring.why = s.reload(ctx, s.backend)
	}
	s.ring.found, s.ring.learned = s.ring.why, s.clock.Now().At // whoever has waited for this does not ask again
	if s.ring.found != nil && !errors.Is(s.ring.found, broker.StoreUnavailable) {
		s.ring.found = nil // what is wrong with the keyring is logged, and the record cannot be read
	}
	return s.ring.found
}
