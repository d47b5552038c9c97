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

// Where a KEK wraps the keys, they are a row (seal.Wrapped), which the KEK is asked to open at the start, and again when its generation has changed.
//
// Brokers that share a store have to know each other's keys before one of them seals with a new one, and nobody may seal any more with one that
// is about to be retired. So each that holds the keys has a row, which says which generation it has (a reader), and lives for readerTTL. It is written
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
	// unwrapMost is how much of that the KEK may take: one that hangs must not keep a reader from being written.
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
	// revision is of the row that was last read, zero: it is to be read; of is its generation.
	revision Revision
	of       uint64
	// learned is when an unknown key had it read, and why what became of that.
	learned broker.Moment
	// outdated: these keys are of a key file, and others were promoted since. It is read without mu.
	outdated atomic.Bool
	why      error
	told     broker.Moment
	stale    bool
}

// readerRecord is a broker that holds keys: cleartext, and no secret.
type readerRecord struct {
	// Name is how people find it, as its host.
	Name       string `json:"name,omitzero"`
	Generation uint64 `json:"generation"`
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
		return nil, row, read[0].Now, unreadableData(err.Error())
	}
	return w, row, read[0].Now, nil
}

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
		s.ring.revision, s.ring.of = row.Revision, w.Generation
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
	return s.apply(ctx, backend, Batch{
		Group: metaGroup, Conditions: append(more, Condition{keyringKey, over}), Puts: []Put{{Key: keyringKey, Revision: newRevision(), Value: value}}, Keep: true,
	})
}

// unwrap opens a keyring. Where another KEK is asked than the one that wrapped it, it says so.
func (s *Store) unwrap(ctx context.Context, w *seal.Wrapped) (*seal.Keyring, error) {
	k, err := w.Unwrap(ctx, s.ring.kek)
	if err == nil {
		return k, nil
	}
	if uri := s.ring.kek.URI(); w.KEK != uri && !passes(err) {
		return nil, unreadableData(fmt.Sprintf("their keys are wrapped by %s, and keys.kek is %s: %s", w.KEK, uri, err))
	}
	return nil, fromKEK(err)
}

// passes reports whether a failure of a KEK may pass by itself.
func passes(err error) bool {
	var f interface{ Passes() bool }
	return errors.As(err, &f) && f.Passes()
}

// fromKEK is a failure of the KEK as one of the store: one that passes by itself is StoreUnavailable.
func fromKEK(err error) error {
	if passes(err) {
		return Unavailable(err.Error())
	}
	return unreadableData(err.Error())
}

// confirm writes the reader of this broker, and has a newer keyring opened before. Where the KEK does not open that one, the former keys go on, as long
// as their reader has not ended meanwhile. It returns when there is a reader; else it fails, and says why.
func (s *Store) confirm(ctx context.Context, backend Backend) error {
	s.ring.mu.Lock()
	defer s.ring.mu.Unlock()
	for range 10 {
		if s.ring.revision == (Revision{}) || s.ring.of != s.generation() {
			err := s.reload(ctx, backend)
			if errors.Is(err, broker.ErrConflict) {
				continue
			}
			if err != nil && (s.ring.revision == (Revision{}) || !s.confirms()) {
				return err
			}
		}
		if s.ring.kek == nil && s.ring.revision == (Revision{}) {
			return nil // there is nothing to be read
		}
		asked := s.clock.Now().At
		value, err := json.Marshal(readerRecord{Name: s.options.Name, Generation: s.generation()})
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

// reload reads the row, and has the KEK open what is newer than what this process has; the caller holds ring.mu. Where it fails, what this process has
// goes on. It fails with broker.ErrConflict where it is to be read again.
//
// What is older than what this process has is refused: a failover has undone a change, or somebody has put a former row there. What this process has
// takes its place again, so that others do not go on from there.
func (s *Store) reload(ctx context.Context, backend Backend) error {
	w, row, _, err := readKeyring(ctx, backend)
	if err != nil {
		return s.staleFor(err)
	}
	if s.ring.kek == nil { // these keys are of a key file, and the row has the same
		s.ring.revision = row.Revision
		if w != nil {
			s.ring.of = w.Generation
			s.ring.outdated.Store(w.Generation > promotedAt)
			s.tell("the keys in the store are wrapped, and this broker has them of its key file: restart it with keys.kek", slog.String("kek", w.KEK))
		}
		return nil
	}
	switch {
	case w == nil: // a failover has undone a first start, or somebody has deleted it: nobody else may draw others
		s.tell("the keyring is gone from the store: it is put back", slog.Uint64("seen", s.generation()))
		return s.putBack(ctx, backend, s.keys(), Revision{})
	case w.StoreID != s.keys().StoreID():
		s.ring.revision = Revision{}
		s.tell("the keyring in the store is that of another store: it is refused, and nothing is sealed until this broker is started again", slog.Uint64("generation", w.Generation))
		return s.staleFor(unreadableData("their keyring is that of another store"))
	case w.Generation < s.generation():
		s.tell("the keyring in the store is older than one that this broker has seen: it is refused, and the newer one is put back",
			slog.Uint64("generation", w.Generation), slog.Uint64("seen", s.generation()))
		s.ring.revision, s.ring.of = row.Revision, w.Generation
		return s.putBackOver(ctx, backend, w, row.Revision)
	}
	same := w.Generation == s.generation()
	unchanged := same && row.Revision == s.ring.revision
	s.ring.revision, s.ring.of = row.Revision, w.Generation
	if unchanged || same && w.KEK != s.ring.kek.URI() { // or it was wrapped by another KEK, and has the same keys
		return s.staleFor(nil)
	}
	bounded, cancel := context.WithTimeout(ctx, unwrapMost)
	defer cancel()
	k, err := s.unwrap(bounded, w)
	if err != nil && same {
		return s.staleFor(nil)
	}
	if err != nil {
		s.tell("the keyring in the store is newer, and cannot be opened: the former keys go on", slog.Uint64("generation", w.Generation), slog.String("error", err.Error()))
		return s.staleFor(err)
	}
	s.keyring.Store(k)
	if same {
		return s.staleFor(nil)
	}
	s.options.Log.LogAttrs(ctx, slog.LevelInfo, "the keys have changed", slog.Uint64("generation", w.Generation), slog.String("primary", k.ID()))
	return s.staleFor(nil)
}

// putBackOver is putBack over an older keyring. What is stored may be as old, so that it may need what was retired since: that opens again, and somebody has to
// retire it anew. What another KEK wraps, or needs a key that is gone, is left alone: whoever has put it there has to say what counts.
func (s *Store) putBackOver(ctx context.Context, backend Backend, w *seal.Wrapped, over Revision) error {
	if w.KEK != s.ring.kek.URI() {
		return s.staleFor(unreadableData(fmt.Sprintf("their keyring is older than one that was seen, and wrapped by %s", w.KEK)))
	}
	r, err := readCheck(ctx, backend)
	if err != nil {
		return s.staleFor(err)
	}
	k := s.keys()
	if r != nil {
		if _, known := k.Key(seal.SealedWith(r.Sealed)); !known {
			return s.staleFor(unreadableData("their keyring is older than one that was seen, and so is what is stored: stop all brokers, and start them again, if that is meant"))
		}
	}
	for _, info := range k.Keys() {
		if info.State == seal.Retired {
			if k, err = k.Restored(info.ID); err != nil {
				return s.staleFor(misused(err.Error()))
			}
			s.tell("a key that was retired opens again, because the store may have lost what was sealed anew: rewrap, and retire it again", slog.String("key", info.ID))
		}
	}
	return s.putBack(ctx, backend, k, over)
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

// tell logs what is wrong with the keyring, once a minute.
func (s *Store) tell(what string, attrs ...slog.Attr) {
	now := s.clock.Now().At
	if now.Sub(s.ring.told) < tellEvery {
		return
	}
	s.ring.told = now
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

// promotedAt is the generation after which others may seal with another key than that of a key file: they were wrapped, a key was added, and then promoted.
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
	if s.clock.Now().At.Sub(s.ring.learned) < learnEvery {
		return s.ring.why
	}
	ctx, cancel := context.WithTimeout(context.Background(), learnMost)
	defer cancel()
	s.ring.why = s.reload(ctx, s.backend)
	s.ring.learned = s.clock.Now().At // whoever has waited for this does not ask again
	if s.ring.why != nil && !errors.Is(s.ring.why, broker.StoreUnavailable) {
		s.ring.why = nil // what is wrong with the keyring is logged, and the record cannot be read
	}
	return s.ring.why
}
