package store

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
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

// WrapKeyring has a KEK wrap the keys of a store: those of its key file or, where former is given, those that former wraps, which stay as they are. Brokers that
// share the store may run: those with the former KEK go on with the keys that they have, until they are started with this one. A
// *Refused.
func WrapKeyring(ctx context.Context, backend Backend, file *seal.Keyring, former, kek seal.KEK) error {
	s := &Store{}
	s.options.Log = slog.New(slog.DiscardHandler)
	for {
		w, row, now, err := readKeyring(ctx, backend)
		if err != nil {
			return err
		}
		var k *seal.Keyring
		switch {
		case former == nil && w != nil:
			return refused("the keys are wrapped already, by %s: name it with --former-kek to have another wrap them", w.KEK)
		case former != nil && w == nil:
			return refused("the keys are not wrapped yet: leave out --former-kek, and they are taken from the key file")
		case former != nil:
			s.ring.kek = former
			if k, err = s.unwrap(ctx, w); err == nil {
				err = rowCounts(ctx, backend, k)
			}
			if err == nil {
				k, err = k.Again()
			}
		default:
			k, err = wrappable(ctx, backend, file, now)
		}
		if err != nil {
			return err
		}
		s.ring.kek = kek
		if err := s.putKeyring(ctx, backend, k, row.Revision); !errors.Is(err, broker.ErrConflict) {
			if errors.Is(err, ErrUnconfirmed) {
				return Unavailable("it is done, and too few replicas confirm it (wait_replicas): a failover may undo it")
			}
			return err
		}
	}
}

// rowCounts fails with a *Refused where something says that a keyring in the row is not the one that counts.
func rowCounts(ctx context.Context, backend Backend, k *seal.Keyring) error {
	r, err := readCheck(ctx, backend)
	if err != nil {
		return err
	}
	if r != nil {
		if why := verify(r, k); why != "" {
			return unreadableData("they are " + why)
		}
	}
	all, err := backend.List(ctx, []Group{metaGroup}, kindReader)
	if err == nil {
		err = all[0].Err
	}
	if err != nil {
		return fromBackend(err)
	}
	for _, row := range all[0].Rows {
		var r readerRecord
		if json.Unmarshal(row.Value, &r) == nil && r.Version != "" && !k.Follows(r.Version) {
			return refused("the broker %s has keys that are not in the store: a backup, or a former row, lies below it. It puts that right within ten seconds if its KEK answers: see its log", r.Name)
		}
	}
	return nil
}

// wrappable are the keys of a key file, which have to be those of the store.
func wrappable(ctx context.Context, backend Backend, file *seal.Keyring, now time.Time) (*seal.Keyring, error) {
	r, err := readCheck(ctx, backend)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, refused("this store holds no tokenbroker data: is it the right one? A broker that starts on an empty store with keys.kek draws keys of its own")
	}
	if why := verify(r, file); why != "" {
		return nil, unreadableData("they are " + why)
	}
	return file.Adopted(now)
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
		if m.wrapped == nil || m.row.Revision != s.ring.revision || !s.ring.settled {
			err = s.reload(ctx, s.backend)
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
	err = s.putWrapped(ctx, s.backend, value, m.row.Revision)
	s.ring.revision, s.ring.settled = Revision{}, false // it is read before it is relied on
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
		if wait > 0 && s.shared != nil {
			return nil, refused("a broker may not have noticed key %s yet: try again in %s", id, wait.Round(time.Second)+time.Second)
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
			if wait := primary.Promoted.Add(readerTTL).Sub(m.now); wait > 0 && s.shared != nil {
				return nil, refused("a broker may still seal with key %s: try again in %s", id, wait.Round(time.Second)+time.Second)
			}
		}
		if who := m.behind(k); who != "" {
			return nil, refused("the broker %s has not noticed the last change of the keys yet: try again in ten seconds, and look into its log if this stays", who)
		}
		if err := s.needed(ctx, id); err != nil {
			return nil, err
		}
		if m.rewrap != nil && s.shared != nil {
			if wait := m.rewrap.At.Add(cmp.Or(s.options.RewrapSettles, rewrapSettles)).Sub(m.now); wait > 0 {
				return nil, refused("a failover may still undo what was sealed anew: try again in %s", wait.Round(time.Second)+time.Second)
			}
		}
		return k.Retired(id, m.now)
	})
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
		if until := info.Retired.Add(destroyAfter); m.now.Before(until) {
			return nil, refused("key %s was retired at %s, and can be destroyed from %s on", id, info.Retired.Format(time.RFC3339), until.Format(time.RFC3339))
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
	return s.eachGroup(ctx, Listing{}, append(slices.Clone(sealedKinds), kindGrantLease, kindKeyLease), func(l Listed, rows []Row, _ time.Time) error {
		for _, row := range rows {
			switch {
			case seal.SealedWith(row.Value) != id:
			case row.Key.Kind == kindGrantLease || row.Key.Kind == kindKeyLease:
				return refused("an exchange of credential %s is under way since before key %s was replaced: try again in a minute", l.Name, id)
			default:
				return refused("the %s record of credential %s is sealed with key %s%s", row.Key.Kind, l.Name, id, rewrap)
			}
		}
		return nil
	})
}

// groupsAtOnce is how many credentials are read in one round trip.
const groupsAtOnce = 50

// eachGroup calls f with the rows of these kinds of each credential after a listing, in order of names, and when they were read.
func (s *Store) eachGroup(ctx context.Context, after Listing, kinds []Kind, f func(l Listed, rows []Row, now time.Time) error) error {
	return s.eachPage(ctx, after, kinds, func(there []Listed, all []Reading) error {
		for i, read := range all {
			if err := f(there[i], read.Rows, read.Now); err != nil {
				return err
			}
		}
		return nil
	})
}

// eachPage is eachGroup of as many credentials as are read in one round trip: at least one.
func (s *Store) eachPage(ctx context.Context, after Listing, kinds []Kind, f func(there []Listed, all []Reading) error) error {
	for cursor := after; ; {
		page, err := s.backend.Scan(ctx, credentialKey, cursor, groupsAtOnce)
		if err != nil {
			return fromBackend(err)
		}
		var there []Listed
		var groups []Group
		for _, l := range page {
			if cursor = l.Listing; l.Row.Revision != (Revision{}) {
				there = append(there, l)
				groups = append(groups, s.credentialGroup(broker.CredentialName(l.Name)))
			}
		}
		if len(groups) > 0 {
			all, err := s.backend.List(ctx, groups, kinds...)
			if err != nil {
				return fromBackend(err)
			}
			for _, read := range all {
				if read.Err != nil { // nothing may be concluded of a part that is away
					return fromBackend(read.Err)
				}
			}
			if err := f(there, all); err != nil {
				return err
			}
		}
		if len(page) < groupsAtOnce {
			return nil
		}
	}
}
