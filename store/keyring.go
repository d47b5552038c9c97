package store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
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
// knows everybody. Who could not write theirs for readerTTL seals nothing: what they know may be out of date, and nobody waits for them. If the row is still
// the one under which they wrote the last, nothing has changed meanwhile, and they go on. But where they cannot open it, because its KEK does not answer them, they write it anew as
// it is along with their reader: whoever has read the readers before, and is about to change the keys, has to read them again.
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

	// until is the broker.Moment until which this broker may seal by what it knows of the row: others wait so long before they change anything over its head.
	until atomic.Int64
	// look asks a broker with a key file to look whether its keys were wrapped. It does so only while it is following.
	look      chan struct{}
	following atomic.Int32

	mu sync.Mutex
	// revision is of the row that was last read; zero: it is to be read.
	revision Revision
	// value is what is in it; nil: nothing that was read.
	value []byte
	// settled: what is in that row is what this process has.
	settled bool
	// under is what was in the row when the reader was written last: each change of the keys is another one.
	under []byte
	// wrote is the version that this process has put into the row last, and not opened since: what its KEK does not open of that, it is not asked to wrap again.
	wrote string
	// lags: it could not be opened, and why, and these keys go on meanwhile. tried is when that was known.
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

// confirm writes the reader of this broker, and has a keyring opened before that it does not know. Where the KEK does not open that one, the former keys go on,
// as long as their reader has not ended since the keyring was last changed. It returns when there is a reader; else it fails, and says why. It is bounded from when
// nobody else does anything with the keyring: it would have no time left otherwise.
func (s *Store) confirm(ctx context.Context, backend Backend) error {
	s.ring.mu.Lock()
	defer s.ring.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, confirmMost)
	defer cancel()
	began := s.clock.Now().At
	for range 10 {
		if s.ring.revision == (Revision{}) || !s.ring.settled {
			err := s.reload(ctx, backend, began)
			if errors.Is(err, broker.ErrConflict) {
				continue
			}
			if err != nil && (!s.ring.lags || !s.goesOn()) {
				return err
			}
		}
		if s.ring.kek == nil && s.ring.revision == (Revision{}) { // there is nothing to be read
			s.noRow(began)
			return nil
		}
		asked := s.clock.Now().At
		value, err := json.Marshal(readerRecord{Name: s.options.Name, Generation: s.generation(), Version: s.keys().Version()})
		if err != nil {
			return misused("the reader cannot be encoded")
		}
		reader := Put{Key: readerKey(s.ring.instance), Revision: newRevision(), Value: value, TTL: readerTTL}
		now := s.ring.revision
		b := Batch{
			Group: metaGroup, Conditions: []Condition{{keyringKey, now}}, Puts: []Put{reader},
			Finish: true, // what was begun cannot be sealed without it, also where there is no room
		}
		if s.ring.lags {
			read, err := backend.Read(ctx, Ask{metaGroup, []Key{reader.Key}})
			switch {
			case err != nil:
				return fromBackend(err)
			case len(read[0].Rows) > 0: // it has not ended: whoever changes the keys sees it
				b.Conditions = append(b.Conditions, Condition{reader.Key, read[0].Rows[0].Revision})
			case bytes.Equal(s.ring.value, s.ring.under) || s.sealsStill():
				now = newRevision()
				b.Puts = append(b.Puts, Put{Key: keyringKey, Revision: now, Value: s.ring.value})
			default: // a failover has taken it, and another key was promoted before it was written again
				s.ring.until.Store(int64(broker.Never))
				return s.ring.why
			}
		}
		err = fromBackend(backend.Apply(ctx, b))
		if errors.Is(err, broker.ErrConflict) {
			s.ring.revision = Revision{}
			continue
		}
		if err == nil {
			s.ring.revision, s.ring.under = now, s.ring.value
			s.ring.until.Store(int64(asked.Add(readerTTL)))
		}
		return err
	}
	return Unavailable("the keyring changes all the time")
}

// generation is that of the keys that this process has.
func (s *Store) generation() uint64 { return s.keys().Generation() }

// noRow notes that a broker with a key file has looked, at this moment, and there was no row: if there is one by now, nobody promotes a key before this broker has to look again.
func (s *Store) noRow(asked broker.Moment) {
	s.ring.until.Store(int64(asked.Add(lookEvery + readerTTL)))
}

// confirms reports whether this broker may seal by what it knows of the row: its reader has not ended, or it has looked lately.
func (s *Store) confirms() bool { return s.clock.Now().At < broker.Moment(s.ring.until.Load()) }

// goesOn reports whether no key can have been retired, or another promoted, since this broker was known to have its keys.
func (s *Store) goesOn() bool { return s.confirms() || bytes.Equal(s.ring.value, s.ring.under) }

// sealsStill reports whether the row that was read says that the key which seals is still this broker's.
func (s *Store) sealsStill() bool {
	w, err := seal.ParseWrapped(s.ring.value)
	return err == nil && w.Primary == s.keys().ID()
}

// reload reads the row, and settles what this process has with what is in it; the caller holds ring.mu. Where it fails, what this process has goes on if
// ring.lags, and seals nothing soon if not. It fails with broker.ErrConflict where it is to be read again. A value that the KEK has not opened since this moment it is not
// asked for again: each of those that lag writes the row anew as it is, and they would keep each other asking a KEK that hangs until none has time left to write.
func (s *Store) reload(ctx context.Context, backend Backend, since broker.Moment) error {
	w, row, now, err := readKeyring(ctx, backend)
	if s.ring.kek == nil { // these keys are of a key file, and the row has the same
		if err == nil && w != nil {
			s.ring.outdated.Store(w.Primary != s.keys().ID() && (w.Primary != "" || w.Generation > promotedAt))
			s.tell("the keys in the store are wrapped, and this broker has them of its key file: restart it with keys.kek", slog.String("kek", w.KEK))
		}
		s.ring.revision = row.Revision
		return s.staleFor(err)
	}
	same := bytes.Equal(row.Value, s.ring.value)
	known, unopened := same && s.ring.settled, same && s.ring.lags && s.ring.tried >= since
	s.ring.revision, s.ring.value, s.ring.settled, s.ring.lags = Revision{}, nil, false, false
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
	}
	s.ring.revision, s.ring.value = row.Revision, row.Value
	if known { // it may have been written anew as it was
		s.ring.settled = true
		return s.staleFor(nil)
	}
	if unopened {
		s.ring.lags = true
		return s.staleFor(s.ring.why)
	}
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
	s.ring.settled, s.ring.wrote = true, ""
	s.keyring.Store(found)
	return s.staleFor(nil)
}

// unopened is what becomes of a row that the KEK did not open. These keys go on where the row says that it came to be from them, so that it has them. What it says is
// not known to be true; but whoever may forge it could delete the row as well.
func (s *Store) unopened(ctx context.Context, backend Backend, w *seal.Wrapped, at Revision, why error) error {
	k := s.keys()
	same, follows := w.Version() == k.Version(), w.Follows(k.Version())
	if k.Follows(w.Version()) && !errors.Is(why, broker.StoreUnavailable) && w.Version() != s.ring.wrote {
		s.tell("the keyring in the store says that it is one that this broker's came to be from, and cannot be opened: that of this broker takes its place", slog.String("error", why.Error()))
		if err := s.putBack(ctx, backend, k, at); !same || err == nil || errors.Is(err, broker.ErrConflict) {
			return err
		} // the KEK refuses this broker: the row may well be sound
	}
	if !follows {
		s.tell("the keyring in the store lacks what this broker has seen, or says so, and cannot be opened: nothing is sealed until it can, or another one is there", slog.String("error", why.Error()))
		return s.staleFor(why)
	}
	s.ring.lags, s.ring.why, s.ring.tried = true, why, s.clock.Now().At
	switch {
	case !s.goesOn():
		s.tell("the keyring in the store has changed while nobody knew that this broker runs, and cannot be opened: nothing is sealed until it can be, as after a start with the KEK that wraps it",
			slog.String("kek", w.KEK), slog.String("error", why.Error()))
	case !same:
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
	s.ring.following.Add(1)
	defer s.ring.following.Add(-1)
	for wait := s.confirmAfter(); ; {
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-s.ring.look:
			timer.Stop()
		case <-ctx.Done():
			timer.Stop()
			return
		}
		if wait = s.confirmAfter(); !s.backend.ready.Load() {
			continue // Begin confirms
		}
		if wait = confirmAgain; s.confirm(ctx, s.backend) == nil {
			wait = s.confirmAfter()
		}
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
	if s.shared == nil || !s.backend.ready.Load() || s.confirms() {
		return k, nil
	}
	if s.ring.kek == nil {
		if s.ring.following.Load() == 0 {
			return k, nil
		}
		select {
		case s.ring.look <- struct{}{}:
		default:
		}
	}
	return nil, errUnconfirmedKeys
}

var errOutdatedKeys = Unavailable("the keys of this broker's key file were replaced in the store, where they are wrapped: restart it with keys.kek")

// promotedAt is the generation after which others may seal with another key than that of a key file, where the row does not say with which: they were wrapped, a key was
// added, and then promoted.
const promotedAt = 2

var errUnconfirmedKeys = Unavailable("this broker could not confirm its keys for a while, and seals nothing until it can")

// learn has the keyring read because something is sealed with a key that is not in it, at most once each learnEvery. It fails with StoreUnavailable where it could not be
// found out whether somebody has that key: what cannot be opened then is not unreadable, and whoever has an answer of an upstream goes on trying to store it.
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
	if now.Sub(s.ring.learned) >= learnEvery {
		if !s.hangs() {
			ctx, cancel := context.WithTimeout(context.Background(), learnMost)
			defer cancel()
			s.ring.why = s.reload(ctx, s.backend, now)
		}
		s.ring.found, s.ring.learned = s.ring.why, s.clock.Now().At // whoever has waited for this does not ask again
	}
	switch unknown := s.ring.found; {
	case s.keys().Opens(id) || unknown == nil && s.confirms():
		return nil
	case errors.Is(unknown, broker.StoreUnavailable):
		return unknown
	}
	return errLacking
}

// hangs reports whether the KEK has not opened the row, and is not to be asked again yet by those who meet that: one that hangs would hold up everybody. confirm asks
// it all the same. The caller holds ring.mu.
func (s *Store) hangs() bool {
	return s.ring.lags && s.clock.Now().At.Sub(s.ring.tried) < confirmEvery
}

// errLacking is that of what is sealed with a key that others may have, and this broker cannot know: the keyring in the store cannot be opened, which is logged, or is not known to be
// the one that counts.
var errLacking = Unavailable("it is sealed with a key that this broker does not have, and it cannot find out now whether others do")
