package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// What is done with the keys. Each step is one change of the keyring's row, under the condition that it is as it was read, and makes a new generation. So
// whatever two brokers do at once, one of them looks again.

// destroyAfter is how long a key has to be retired before it can be destroyed.
const destroyAfter = 7 * 24 * time.Hour

// rewrapSettles is how long after a rewrap no key is retired: what a failover undoes is younger, and its key would open nothing.
const rewrapSettles = 30 * time.Second

// Refused is why something is not done with the keys now, in a sentence that says what to do.
type Refused struct{ Why string }

// Error implements error.
func (r *Refused) Error() string { return r.Why }

func refused(format string, args ...any) error { return &Refused{fmt.Sprintf(format, args...)} }

// Keys is what there is to say of the keys.
type Keys struct {
	// KEK is the URI of the one that wraps them; empty: they are in a key file, and nothing is known but their ids.
	KEK        string
	StoreID    string
	Generation uint64
	Keys       []seal.KeyInfo
	// Readers are the brokers that hold them, as of the last half minute, this one first.
	Readers []Reader
	// Rewrap is how the last one stands; nil: there was none.
	Rewrap *Rewrap
	// Now is when this was so, by the store's clock.
	Now time.Time
}

// A Reader is a broker that holds the keys.
type Reader struct {
	// Instance is drawn for each process, and Name what it calls itself.
	Instance, Name string
	// Generation is that of its keys; 0: it has them of a key file. Version is the id of their state: those of one generation may have been changed apart.
	Generation uint64
	Version    string
	// This: it is the one that was asked.
	This bool
}

// metaState is what the ceremonies decide on.
type metaState struct {
	wrapped *seal.Wrapped // nil: there is none
	row     Row
	readers []Reader
	rewrap  *rewrapRecord
	now     time.Time
}

// meta reads it.
func (s *Store) meta(ctx context.Context) (m metaState, err error) {
	all, err := s.backend.List(ctx, []Group{metaGroup}, kindKeyring, kindReader, kindRewrap)
	if err != nil {
		return m, fromBackend(err)
	}
	if err := all[0].Err; err != nil {
		return m, fromBackend(err)
	}
	m.now = all[0].Now
	for _, row := range all[0].Rows {
		switch kind := row.Key.Kind; {
		case kind == kindKeyring:
			if m.wrapped, err = seal.ParseWrapped(row.Value); err != nil {
				return m, unreadableData(err.Error())
			}
			m.row = row
		case kind == kindReader:
			r := Reader{Instance: hex.EncodeToString(row.Key.ID[:len(broker.ID{})]), This: row.Key == readerKey(s.ring.instance)}
			var record readerRecord
			if json.Unmarshal(row.Value, &record) == nil { // one that cannot be read has no version, and is waited for
				r.Name, r.Generation, r.Version = record.Name, record.Generation, record.Version
			}
			if r.This && s.ring.kek != nil { // what counts is what it has now
				r.Generation, r.Version = s.generation(), s.keys().Version()
			}
			m.readers = append(m.readers, r)
		case kind == kindRewrap:
			m.rewrap = parseRewrap(row.Value)
		}
	}
	if s.shared == nil && m.wrapped != nil {
		m.readers = []Reader{{Instance: s.ring.instance.String(), Name: s.options.Name, Generation: s.generation(), Version: s.keys().Version(), This: true}}
	}
	slices.SortStableFunc(m.readers, func(a, b Reader) int {
		if a.This != b.This {
			return map[bool]int{true: -1, false: 1}[a.This]
		}
		return bytes.Compare([]byte(a.Name+a.Instance), []byte(b.Name+b.Instance))
	})
	return m, nil
}

// Keys tells what there is to say of the keys.
func (s *Store) Keys(ctx context.Context) (Keys, error) {
	m, err := s.current(ctx)
	if err != nil && (m.wrapped == nil || !s.lags()) {
		return Keys{}, err
	}
	k := s.keys() // where those of the row cannot be had now, these go on
	out := Keys{StoreID: k.StoreID(), Generation: k.Generation(), Keys: k.Keys(), Readers: m.readers, Now: m.now}
	if m.wrapped != nil {
		out.KEK = m.wrapped.KEK
	}
	if m.rewrap != nil {
		r := m.rewrap.rewrap()
		out.Rewrap = &r
	}
	return out, nil
}

// lags reports whether the keys of the row could not be had, and those of this process go on.
func (s *Store) lags() bool {
	s.ring.mu.Lock()
	defer s.ring.mu.Unlock()
	return s.ring.lags
}

// current is what the ceremonies decide on, once this process has the keys of the row. Where it cannot have them it fails, and says what there is all the same.
func (s *Store) current(ctx context.Context) (metaState, error) {
	for range 10 {
		m, err := s.meta(ctx)
		if err != nil || s.ring.kek == nil {
			return m, err
		}
		s.ring.mu.Lock()
		switch {
		case m.wrapped != nil && s.hangs(): // whoever asks again and again must not keep the reader from being written
			err = s.ring.why
		case m.wrapped == nil || m.row.Revision != s.ring.revision || !s.ring.settled:
			err = s.reload(ctx, s.backend, s.clock.Now().At)
		}
		same := m.row.Revision == s.ring.revision && s.ring.settled
		s.ring.mu.Unlock()
		if err != nil && !errors.Is(err, broker.ErrConflict) {
			return m, err
		}
		if same && err == nil {
			return m, nil
		}
	}
	return metaState{}, Unavailable("the keyring changes all the time")
}

// changeKeyring makes the next generation of the keys, as next decides on what there is. next fails with a *Refused where it is not to be done.
func (s *Store) changeKeyring(ctx context.Context, next func(m metaState, k *seal.Keyring) (*seal.Keyring, error)) error {
	for {
		m, err := s.current(ctx)
		if err != nil && m.wrapped != nil && s.lags() && m.wrapped.KEK != s.ring.kek.URI() {
			return refused("the keys are wrapped by %s by now, and this broker has %s: start it again with keys.kek set to that", m.wrapped.KEK, s.ring.kek.URI())
		}
		if err != nil {
			return err
		}
		if s.ring.kek == nil {
			return refused("the keys are in a key file, and cannot be changed there: wrap them with a KEK first, with `tokenbroker keys wrap`")
		}
		k, err := next(m, s.keys())
		if err != nil {
			return err
		}
		switch err := s.replaceKeyring(ctx, m, k); {
		case errors.Is(err, broker.ErrConflict):
			if ctx.Err() != nil {
				return Ended(ctx)
			}
			continue
		case errors.Is(err, ErrUnconfirmed):
			return Unavailable("it is done, and too few replicas confirm it (wait_replicas): a failover may undo it. Look with `tokenbroker keys list`")
		default:
			return err
		}
	}
}

// replaceKeyring puts keys in the place of those that were read. The KEK may take its time: nobody waits for it.
func (s *Store) replaceKeyring(ctx context.Context, m metaState, k *seal.Keyring) error {
	value, err := k.Wrap(ctx, s.ring.kek)
	if err != nil {
		return fromKEK(err)
	}
	s.ring.mu.Lock()
	defer s.ring.mu.Unlock()
	err = s.putWrapped(ctx, s.backend, k, value, m.row.Revision)
	s.ring.revision = Revision{} // it is read before it is relied on
	if !errors.Is(err, broker.ErrConflict) {
		s.ring.settled = false
	}
	if (err == nil || errors.Is(err, ErrUnconfirmed)) && k.Follows(s.keys().Version()) {
		s.keyring.Store(k)
	}
	return err
}

// behind names a reader that does not have just these keys; empty: all have.
func (m metaState) behind(k *seal.Keyring) string {
	for _, r := range m.readers {
		if r.Version != k.Version() {
			name := r.Name
			if name == "" {
				name = r.Instance
			}
			if r.Generation == 0 {
				return name + ", which has the keys of a key file"
			}
			return name
		}
	}
	return ""
}

// RotateKey adds a key, which is Pending, and returns its id. At most one is pending at a time. A *Refused.
func (s *Store) RotateKey(ctx context.Context) (id string, err error) {
	err = s.changeKeyring(ctx, func(m metaState, k *seal.Keyring) (next *seal.Keyring, err error) {
		if pending := inState(k, seal.Pending); pending != "" {
			return nil, refused("key %s is pending already: promote it, with `tokenbroker keys promote`", pending)
		}
		next, id, err = k.Rotated(m.now)
		return next, err
	})
	return id, err
}

// PromoteKey makes the pending key the one that seals, and returns its id. A *Refused, until every broker has it.
func (s *Store) PromoteKey(ctx context.Context) (id string, err error) {
	err = s.changeKeyring(ctx, func(m metaState, k *seal.Keyring) (*seal.Keyring, error) {
		if id = inState(k, seal.Pending); id == "" {
			return nil, refused("no key is pending: add one, with `tokenbroker keys rotate`")
		}
		info, _ := k.Key(id)
		wait := info.Added.Add(readerTTL).Sub(m.now)
		wait = max(wait, first(k).Add(lookEvery+readerTTL).Sub(m.now)) // a broker with a key file may not have noticed that they were wrapped
		if err := notYet(wait, lookEvery+readerTTL, "a broker may not have noticed key "+id+" yet", "retire it, and rotate again"); err != nil && s.shared != nil {
			return nil, err
		}
		if who := m.behind(k); who != "" {
			return nil, refused("the broker %s does not have key %s yet: try again in ten seconds, and look into its log if this stays", who, id)
		}
		return k.Promoted(id, m.now)
	})
	return id, err
}

// RetireKey has a key open nothing any more. A *Refused while anything needs it.
func (s *Store) RetireKey(ctx context.Context, id string) error {
	return s.changeKeyring(ctx, func(m metaState, k *seal.Keyring) (*seal.Keyring, error) {
		info, ok := k.Key(id)
		switch {
		case !ok:
			return nil, unknownKey(id)
		case info.State == seal.Primary:
			return nil, refused("key %s seals: promote another one first", id)
		case info.State == seal.Retired:
			return nil, refused("key %s is retired already", id)
		}
		if primary, ok := k.Key(k.ID()); ok && info.State == seal.Former {
			wait := primary.Promoted.Add(readerTTL).Sub(m.now)
			if err := notYet(wait, readerTTL, "a broker may still seal with key "+id, "rotate once more, promote that key, and rewrap"); err != nil && s.shared != nil {
				return nil, err
			}
		}
		if who := m.behind(k); who != "" {
			return nil, refused("the broker %s has not noticed the last change of the keys yet: try again in ten seconds, and look into its log if this stays", who)
		}
		if err := s.needed(ctx, id); err != nil {
			return nil, err
		}
		if err := s.rewrapSettled(ctx, m.now); err != nil {
			return nil, err
		}
		return k.Retired(id, m.now)
	})
}

// rewrapSettled fails with a *Refused where something may have been sealed anew a moment ago, which a failover undoes. It is asked once nothing is found that needs a key: a
// rewrap says that it is not done before it seals anything.
func (s *Store) rewrapSettled(ctx context.Context, now time.Time) error {
	rows, err := s.rows(ctx, metaGroup, rewrapKey)
	if err != nil || len(rows) == 0 || s.shared == nil {
		return err
	}
	r := parseRewrap(rows[0].Value)
	switch {
	case r == nil:
		return nil
	case !r.Done:
		return refused("a rewrap is under way, or was interrupted: `tokenbroker keys rewrap` goes on with it")
	}
	settles := cmp.Or(s.options.RewrapSettles, rewrapSettles)
	if settles < 0 {
		return nil
	}
	return notYet(r.At.Add(settles).Sub(now), settles, "a failover may still undo what was sealed anew", "rewrap again") // by the clocks of two parts, which differ
}

// notYet refuses, for this reason, what is to wait this long; nil: it need not. Where that is longer than the most that it can be, the store's clock was ahead when something was
// noted, and mend says how to have it noted again: how long ago that was, nobody can say.
func notYet(wait, most time.Duration, why, mend string) error {
	switch {
	case wait <= 0:
		return nil
	case wait > most+clockSkew:
		return refused("%s, for all that can be told: the store's clock was ahead by at least %s then, or is behind now. If it is right now, do not wait: %s", why, (wait - most).Round(time.Second), mend)
	}
	return refused("%s: try again in %s", why, wait.Round(time.Second)+time.Second)
}

// RestoreKey undoes RetireKey. A *Refused.
func (s *Store) RestoreKey(ctx context.Context, id string) error {
	return s.changeKeyring(ctx, func(_ metaState, k *seal.Keyring) (*seal.Keyring, error) {
		info, ok := k.Key(id)
		switch {
		case !ok:
			return nil, unknownKey(id)
		case info.State != seal.Retired:
			return nil, refused("key %s is not retired", id)
		}
		return k.Restored(id)
	})
}

// DestroyKey forgets a retired key for ever. A *Refused until it has been retired for seven days, and while anything needs it.
func (s *Store) DestroyKey(ctx context.Context, id string) error {
	return s.changeKeyring(ctx, func(m metaState, k *seal.Keyring) (*seal.Keyring, error) {
		info, ok := k.Key(id)
		switch {
		case !ok:
			return nil, unknownKey(id)
		case info.State != seal.Retired:
			return nil, refused("key %s is not retired: retire it first, with `tokenbroker keys retire %s`", id, id)
		}
		until := info.Retired.Add(destroyAfter)
		why := fmt.Sprintf("key %s was retired at %s, and can be destroyed from %s on", id, info.Retired.Format(time.RFC3339), until.Format(time.RFC3339))
		if err := notYet(until.Sub(m.now), destroyAfter, why, "restore it, and retire it again"); err != nil {
			return nil, err
		}
		if err := s.needed(ctx, id); err != nil {
			return nil, err
		}
		return k.Destroyed(id)
	})
}

func unknownKey(id string) error {
	if len(id) != 8 {
		return refused("that is no key's id: `tokenbroker keys list` has them")
	}
	return refused("there is no such key: `tokenbroker keys list` has those that there are")
}

// first is when the first of the keys was added, or when they were wrapped.
func first(k *seal.Keyring) time.Time {
	keys := k.Keys()
	return slices.MinFunc(keys, func(a, b seal.KeyInfo) int { return a.Added.Compare(b.Added) }).Added
}

func inState(k *seal.Keyring, state seal.KeyState) string {
	for _, info := range k.Keys() {
		if info.State == state {
			return info.ID
		}
	}
	return ""
}

// needed fails with a *Refused that names a row which only this key opens; nil: there is none. Backoffs are not looked for: they are advice.
func (s *Store) needed(ctx context.Context, id string) error {
	const rewrap = ": `tokenbroker keys rewrap` seals it anew, or says why it cannot"
	names, err := s.everyone(ctx)
	if err != nil {
		return err
	}
	rows, err := s.rows(ctx, metaGroup, checkKey, suspendedKey)
	if err != nil {
		return err
	}
	for _, row := range rows {
		with := seal.SealedWith(row.Value)
		if row.Key == checkKey {
			var r checkRecord
			if json.Unmarshal(row.Value, &r) != nil {
				return unreadableData("the record of their keys is damaged")
			}
			with = seal.SealedWith(r.Sealed)
		}
		if with == id {
			return refused("the store's %s record is sealed with key %s%s", row.Key.Kind, id, rewrap)
		}
	}
	kinds := append(slices.Clone(sealedKinds), kindGrantLease, kindKeyLease)
	for part := range slices.Chunk(names, groupsAtOnce) {
		all, err := s.listGroups(ctx, part, kinds)
		if err != nil {
			return err
		}
		for i, name := range part {
			for _, row := range all[i].Rows {
				switch {
				case seal.SealedWith(row.Value) != id:
				case row.Key.Kind == kindGrantLease || row.Key.Kind == kindKeyLease:
					return refused("an exchange of credential %s is under way since before key %s was replaced: try again in a minute", name, id)
				default:
					return refused("the %s record of credential %s is sealed with key %s%s", row.Key.Kind, name, id, rewrap)
				}
			}
		}
	}
	return nil
}
