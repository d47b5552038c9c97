package seal

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
)

// KEK is a key-encryption key, which lies outside of the store. Wrap encrypts and binds to the associated data, Unwrap is its inverse. What they fail with
// holds nothing of the plaintext; one that may pass by itself has a method Passes that says so. Safe for concurrent use.
type KEK interface {
	// URI names the key.
	URI() string
	Wrap(ctx context.Context, plaintext, associated []byte) ([]byte, error)
	Unwrap(ctx context.Context, wrapped, associated []byte) ([]byte, error)
}

// Wrapped is the stored form 2: the keys, as a KEK has wrapped them. All of it may be read by anybody.
//
//	{
//	  "comment":      what this is,
//	  "format":       2,
//	  "store_id":     drawn once, and the same for ever: 16 bytes in hexadecimal,
//	  "generation":   1, and one more with each change of the keys,
//	  "history":      an id of each state of the keys that led to this one, which is the last,
//	  "primary":      the id of the key that seals,
//	  "kek":          the URI of the KEK,
//	  "sealing":      wrapped: a Tink keyset of AEAD keys, when each was added, promoted, retired, and a digest of the history,
//	  "fingerprints": wrapped: a Tink keyset of one PRF key
//	}
//
// The two are wrapped apart. Associated data, each with its length before it: "tokenbroker keyring 2", the member's name, the store's id and, of sealing,
// the generation. So nothing that is wrapped can be moved to another store or another member, and no former sealing keyset be passed off as a newer one.
type Wrapped struct {
	Comment      string   `json:"comment"`
	Format       int      `json:"format"`
	StoreID      string   `json:"store_id"`
	Generation   uint64   `json:"generation"`
	History      []string `json:"history,omitempty"`
	Primary      string   `json:"primary,omitempty"`
	KEK          string   `json:"kek"`
	Sealing      []byte   `json:"sealing"`
	Fingerprints []byte   `json:"fingerprints"`
}

const (
	wrappedFormat  = 2
	wrappedComment = "The keys of a tokenbroker, wrapped: without the key that kek names they are nothing."
	wrappedPurpose = "tokenbroker keyring 2"
	storeIDSize    = 16
	maxWrapped     = 4 << 20
	longestKEK     = 2048
	// longestHistory bounds it: what came before is forgotten, and is taken for what was changed apart.
	longestHistory = 1000
	versionSize    = 8
	// maxGeneration is far beyond any, and exact in whatever reads JSON.
	maxGeneration = 1 << 53
)

// A KeyState is what a sealing key is used for.
type KeyState string

// The states, in the order of a key's life. All but Retired open.
const (
	// Pending: it was added, and seals nothing yet.
	Pending KeyState = "pending"
	// Primary: it seals.
	Primary KeyState = "primary"
	// Former: it has sealed, and another does now.
	Former KeyState = "former"
	// Retired: it opens nothing any more, and can be restored.
	Retired KeyState = "retired"
)

// A KeyInfo is what is known of a sealing key. No secret.
type KeyInfo struct {
	ID    string
	State KeyState
	// Added, Promoted and Retired are when, by the store's clock; zero: never, or nobody knows.
	Added, Promoted, Retired time.Time
}

// keyTimes are a key's, in the plaintext of sealing: in nanoseconds since 1970; 0: never.
type keyTimes struct {
	ID       string `json:"id"`
	Added    int64  `json:"added,omitzero"`
	Promoted int64  `json:"promoted,omitzero"`
	Retired  int64  `json:"retired,omitzero"`
}

type sealingPart struct {
	Keyset json.RawMessage `json:"keyset"`
	Keys   []keyTimes      `json:"keys"`
	// History is a digest of it; empty: there is none.
	History []byte `json:"history,omitempty"`
}

// ErrDamaged is that of what is no keyring of any format.
var ErrDamaged = errors.New("the keyring is damaged: restore a backup")

// ParseWrapped reads the stored form. What it fails with quotes nothing of it; ErrDamaged.
func ParseWrapped(data []byte) (*Wrapped, error) {
	var w Wrapped
	if len(data) > maxWrapped || json.Unmarshal(data, &w) != nil || w.Format == 0 {
		return nil, ErrDamaged
	}
	if w.Format != wrappedFormat {
		return nil, fmt.Errorf("the keyring has format %d, and this tokenbroker reads format %d: use a newer one", w.Format, wrappedFormat)
	}
	if id, err := hex.DecodeString(w.StoreID); err != nil || len(id) != storeIDSize || hex.EncodeToString(id) != w.StoreID ||
		w.Generation < 1 || w.Generation >= maxGeneration || len(w.Sealing) == 0 || len(w.Fingerprints) == 0 || !printable(w.KEK) ||
		len(w.History) > longestHistory || slices.ContainsFunc(w.History, notVersion) {
		return nil, ErrDamaged
	}
	return &w, nil
}

func notVersion(s string) bool {
	b, err := hex.DecodeString(s)
	return err != nil || len(b) != versionSize
}

func newVersion() string {
	var b [versionSize]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// history is that of the keys that are wrapped. Until they are opened nobody says that it is true. Those of a tokenbroker that kept none are a state by themselves.
func (w *Wrapped) history() []string {
	if len(w.History) > 0 {
		return w.History
	}
	sum := sha256.Sum256(w.Sealing)
	return []string{hex.EncodeToString(sum[:versionSize])}
}

// Version is the id of this state of the keys, as the row says.
func (w *Wrapped) Version() string {
	h := w.history()
	return h[len(h)-1]
}

func digestOf(history []string) []byte {
	sum := sha256.Sum256([]byte(strings.Join(history, " ")))
	return sum[:]
}

// printable: it is shown to operators.
func printable(uri string) bool {
	return uri != "" && len(uri) <= longestKEK && !bytes.ContainsFunc([]byte(uri), func(r rune) bool { return r <= ' ' || r >= 0x7f })
}

// associated is what a member is bound to; generation 0: to none.
func associated(member, storeID string, generation uint64) []byte {
	parts := []string{wrappedPurpose, member, storeID}
	if generation > 0 {
		parts = append(parts, fmt.Sprint(generation))
	}
	var b []byte
	for _, s := range parts {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	return b
}

// Follows reports whether the row says that these keys came to be from a version. Until they are opened nobody says that it is true.
func (w *Wrapped) Follows(version string) bool { return slices.Contains(w.history(), version) }

// ErrHistory is that of keys that open, in a row whose history is not the one that was wrapped with them.
var ErrHistory = errors.New("the keyring's history is not the one that was wrapped: restore a backup")

// Unwrap opens the keys. It fails with what the KEK fails with, or where what it gives is no keyring; with ErrHistory it gives the keys as well.
func (w *Wrapped) Unwrap(ctx context.Context, kek KEK) (*Keyring, error) {
	var prints []byte
	var why error
	var asking sync.WaitGroup // both at once: a KMS that is slow is waited for once
	asking.Go(func() { prints, why = kek.Unwrap(ctx, w.Fingerprints, associated("fingerprints", w.StoreID, 0)) })
	plain, err := kek.Unwrap(ctx, w.Sealing, associated("sealing", w.StoreID, w.Generation))
	asking.Wait()
	defer clear(plain)
	defer clear(prints)
	switch {
	case err != nil:
		return nil, err
	case why != nil:
		return nil, why
	}
	var part sealingPart
	if json.Unmarshal(plain, &part) != nil {
		return nil, errors.New("the keyring's sealing keyset is damaged: restore a backup")
	}
	defer clear(part.Keyset)
	sealing, err := readKeyset(part.Keyset)
	if err != nil {
		return nil, errors.New("the keyring's sealing keyset is damaged: restore a backup")
	}
	fingerprints, err := readKeyset(prints)
	if err != nil {
		return nil, errors.New("the keyring's fingerprint keyset is damaged: restore a backup")
	}
	k, err := newKeyring(sealing, fingerprints)
	if err != nil {
		return nil, err
	}
	k.storeID, k.generation, k.times, k.history = w.StoreID, w.Generation, map[string]keyTimes{}, w.history()
	for _, t := range part.Keys {
		k.times[t.ID] = t
	}
	if len(w.History)+len(part.History) > 0 && !bytes.Equal(digestOf(w.History), part.History) {
		k.history = nil
		return k, ErrHistory
	}
	return k, nil
}

// Wrap gives the stored form 2 of the keys. It fails with what the KEK fails with, and for a keyring that has no generation: see Adopted.
func (k *Keyring) Wrap(ctx context.Context, kek KEK) ([]byte, error) {
	if k.generation == 0 {
		return nil, errors.New("seal: a keyring of a key file is not wrapped as it is")
	}
	w := Wrapped{Comment: wrappedComment, Format: wrappedFormat, StoreID: k.storeID, Generation: k.generation, History: k.history, Primary: k.primary, KEK: kek.URI()}
	keyset, err := cleartext(k.secrets.sealing)
	if err != nil {
		return nil, err
	}
	defer clear(keyset)
	part := sealingPart{Keyset: keyset, History: digestOf(k.history)}
	for _, info := range k.Keys() {
		part.Keys = append(part.Keys, k.times[info.ID])
	}
	plain, err := json.Marshal(part)
	if err != nil {
		return nil, errors.New("seal: a keyset is not JSON")
	}
	defer clear(plain)
	prints, err := cleartext(k.secrets.fingerprints)
	if err != nil {
		return nil, err
	}
	defer clear(prints)
	var why error
	var asking sync.WaitGroup // both at once, as for Unwrap
	asking.Go(func() { w.Fingerprints, why = kek.Wrap(ctx, prints, associated("fingerprints", k.storeID, 0)) })
	w.Sealing, err = kek.Wrap(ctx, plain, associated("sealing", k.storeID, k.generation))
	asking.Wait()
	switch {
	case err != nil:
		return nil, err
	case why != nil:
		return nil, why
	}
	data, err := json.Marshal(w)
	if err != nil {
		return nil, errors.New("seal: the keyring cannot be encoded")
	}
	return data, nil
}

func cleartext(handle *keyset.Handle) ([]byte, error) {
	var b bytes.Buffer
	if err := insecurecleartextkeyset.Write(handle, keyset.NewJSONWriter(&b)); err != nil {
		return nil, errors.New("seal: write a keyset: the cryptographic library refuses")
	}
	return b.Bytes(), nil
}

// Generation counts the changes of wrapped keys, from 1; 0: they are of a key file.
func (k *Keyring) Generation() uint64 { return k.generation }

// StoreID names the store that wrapped keys belong to; empty: they are of a key file.
func (k *Keyring) StoreID() string { return k.storeID }

// Keys are the sealing keys, by id. The caller owns the slice.
func (k *Keyring) Keys() []KeyInfo {
	var all []KeyInfo
	for i := range k.secrets.sealing.Len() {
		e, err := k.secrets.sealing.Entry(i)
		if err != nil {
			continue // newKeyring has read them all
		}
		t := k.times[keyID(e.KeyID())]
		info := KeyInfo{ID: keyID(e.KeyID()), State: Former, Added: moment(t.Added), Promoted: moment(t.Promoted), Retired: moment(t.Retired)}
		switch {
		case e.IsPrimary():
			info.State = Primary
		case e.KeyStatus() != keyset.Enabled:
			info.State = Retired
		case k.generation > 0 && t.Promoted == 0:
			info.State = Pending
		}
		all = append(all, info)
	}
	slices.SortFunc(all, func(a, b KeyInfo) int { return bytes.Compare([]byte(a.ID), []byte(b.ID)) })
	return all
}

// Key is what is known of one; false: there is none of that id.
func (k *Keyring) Key(id string) (KeyInfo, bool) {
	for _, info := range k.Keys() {
		if info.ID == id {
			return info, true
		}
	}
	return KeyInfo{}, false
}

func moment(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

// Adopted is a keyring of a key file as the first generation of wrapped keys, of a store whose id is drawn now.
func (k *Keyring) Adopted(now time.Time) (*Keyring, error) {
	var id [storeIDSize]byte
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	next, err := newKeyring(k.secrets.sealing, k.secrets.fingerprints)
	if err != nil {
		return nil, err
	}
	next.storeID, next.generation, next.times, next.history = hex.EncodeToString(id[:]), 1, map[string]keyTimes{}, []string{newVersion()}
	for _, info := range next.Keys() { // whatever there is may have sealed
		t := keyTimes{ID: info.ID, Added: now.UnixNano(), Promoted: now.UnixNano()}
		if info.State == Retired {
			t.Retired = now.UnixNano()
		}
		next.times[info.ID] = t
	}
	return next, nil
}

// changed is the next generation: with the keys as change leaves them, and what is known of the one with this id as note leaves it.
func (k *Keyring) changed(change func(*keyset.Manager) (id uint32, err error), note func(*keyTimes)) (*Keyring, string, error) {
	if k.generation == 0 {
		return nil, "", errors.New("the keys are in a key file: wrap them first, with `tokenbroker keys wrap`")
	}
	m := keyset.NewManagerFromHandle(k.secrets.sealing)
	id, err := change(m)
	if err != nil {
		return nil, "", errors.New("seal: change the keyset: the cryptographic library refuses")
	}
	sealing, err := m.Handle()
	if err != nil {
		return nil, "", errors.New("seal: change the keyset: the cryptographic library refuses")
	}
	next, err := newKeyring(sealing, k.secrets.fingerprints)
	if err != nil {
		return nil, "", err
	}
	next.storeID, next.generation, next.times, next.history = k.storeID, k.generation+1, map[string]keyTimes{}, newer(k.history)
	for _, info := range next.Keys() {
		t, ok := k.times[info.ID]
		if !ok {
			t.ID = info.ID
		}
		if info.ID == keyID(id) {
			note(&t)
		}
		next.times[info.ID] = t
	}
	return next, keyID(id), nil
}

// newer is the history of what is made of something with this one.
func newer(history []string) []string {
	all := append(slices.Clone(history), newVersion())
	return all[max(0, len(all)-longestHistory):]
}

// Rotated has one key more, which is Pending, and its id.
func (k *Keyring) Rotated(now time.Time) (*Keyring, string, error) {
	return k.changed(func(m *keyset.Manager) (uint32, error) { return m.Add(sealingTemplate()) },
		func(t *keyTimes) { t.Added = now.UnixNano() })
}

// Promoted has another Primary. The caller sees to it that the key opens.
func (k *Keyring) Promoted(id string, now time.Time) (*Keyring, error) {
	next, _, err := k.changed(func(m *keyset.Manager) (uint32, error) { n := number(id); return n, m.SetPrimary(n) },
		func(t *keyTimes) { t.Promoted = now.UnixNano() })
	return next, err
}

// Retired has the key Retired. It fails for the Primary.
func (k *Keyring) Retired(id string, now time.Time) (*Keyring, error) {
	next, _, err := k.changed(func(m *keyset.Manager) (uint32, error) { n := number(id); return n, m.Disable(n) },
		func(t *keyTimes) { t.Retired = now.UnixNano() })
	return next, err
}

// Restored has a Retired key as it was before.
func (k *Keyring) Restored(id string) (*Keyring, error) {
	next, _, err := k.changed(func(m *keyset.Manager) (uint32, error) { n := number(id); return n, m.Enable(n) },
		func(t *keyTimes) { t.Retired = 0 })
	return next, err
}

// Destroyed does not have the key any more. It fails for the Primary.
func (k *Keyring) Destroyed(id string) (*Keyring, error) {
	next, _, err := k.changed(func(m *keyset.Manager) (uint32, error) { n := number(id); return n, m.Delete(n) }, func(*keyTimes) {})
	return next, err
}

// number is the inverse of keyID; 0 is no key's.
func number(id string) uint32 {
	b, err := hex.DecodeString(id)
	if err != nil || len(b) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}
