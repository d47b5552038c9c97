package seal

import (
	"bytes"
	"errors"
	"slices"
	"time"

	"github.com/tink-crypto/tink-go/v2/insecurecleartextkeyset"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"google.golang.org/protobuf/proto"

	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
)

// Version is the id of this state of wrapped keys; empty: they are of a key file.
func (k *Keyring) Version() string {
	if len(k.history) == 0 {
		return ""
	}
	return k.history[len(k.history)-1]
}

// Follows reports whether these keys are of this version, or came to be from it.
func (k *Keyring) Follows(version string) bool { return slices.Contains(k.history, version) }

// Again is the same keys as their next state, which another KEK is to wrap: who meets the former one afterwards knows which counts.
func (k *Keyring) Again() (*Keyring, error) {
	next, err := newKeyring(k.secrets.sealing, k.secrets.fingerprints)
	if err != nil {
		return nil, err
	}
	next.storeID, next.generation, next.times, next.history = k.storeID, k.generation+1, k.times, newer(k.history)
	return next, nil
}

// Joined is what counts where a process has these keys and meets other ones of the same store, so that no key is lost that something may be sealed with:
//
//   - The one that came to be from the other counts: the other one as it is. These keys too, with those as Retired that the other one has and they have not: they
//     were destroyed, and so was, perhaps, what the other one's data need. They open nothing unless somebody restores them.
//
//   - Where they were changed apart, all keys of both are there. One opens if it does in either of them; of two that seal, the one that was promoted
//     last goes on, and the other is Former.
//
//   - Where they share no state, nobody knows which keys either side has destroyed: somebody may have made a former one look new. So only what opens in both of them opens, and the
//     one that was promoted last, which seals. The others are Retired.
//
//   - Of one of which nobody says where it comes from only the keys count, as Retired: somebody may have made it look new.
//
// It is k or other where that is as it counts. It fails where two keys have one id.
func (k *Keyring) Joined(other *Keyring, now time.Time) (*Keyring, error) {
	switch {
	case len(other.history) == 0: // nobody says where it comes from (ErrHistory)
		return k.with(other, now)
	case other.Follows(k.Version()):
		return other, nil
	case k.Follows(other.Version()):
		return k.with(other, now)
	}
	of, with := material(k), material(other)
	times := map[string]keyTimes{}
	for _, key := range of.GetKey() {
		times[keyID(key.GetKeyId())] = k.times[keyID(key.GetKeyId())]
	}
	for _, theirs := range with.GetKey() {
		id := keyID(theirs.GetKeyId())
		ours, err := find(of, theirs)
		if err != nil {
			return nil, err
		}
		t := other.times[id]
		if ours == nil {
			of.Key = append(of.Key, theirs)
			times[id] = t
			continue
		}
		was := times[id]
		t.Added, t.Promoted, t.Retired = min(t.Added, was.Added), max(t.Promoted, was.Promoted), max(t.Retired, was.Retired)
		if ours.Status == tinkpb.KeyStatusType_ENABLED || theirs.Status == tinkpb.KeyStatusType_ENABLED {
			ours.Status, t.Retired = tinkpb.KeyStatusType_ENABLED, 0
		}
		times[id] = t
	}
	a, b := times[k.primary], times[other.primary]
	if b.Promoted > a.Promoted || b.Promoted == a.Promoted && b.ID > a.ID {
		of.PrimaryKeyId = with.GetPrimaryKeyId()
	}
	if !slices.ContainsFunc(k.history, other.Follows) {
		for _, key := range of.GetKey() {
			id := keyID(key.GetKeyId())
			if key.GetKeyId() == of.GetPrimaryKeyId() || k.Opens(id) && other.Opens(id) {
				continue
			}
			key.Status = tinkpb.KeyStatusType_DISABLED
			if t := times[id]; t.Retired == 0 {
				t.Retired = now.UnixNano()
				times[id] = t
			}
		}
	}
	return k.made(of, times, other)
}

// with is k, with the keys of what it came from that it lacks.
func (k *Keyring) with(former *Keyring, now time.Time) (*Keyring, error) {
	of := material(k)
	times := map[string]keyTimes{}
	for id, t := range k.times {
		times[id] = t
	}
	lacking := false
	for _, theirs := range material(former).GetKey() {
		ours, err := find(of, theirs)
		if err != nil {
			return nil, err
		}
		if ours != nil {
			continue
		}
		lacking = true
		theirs.Status = tinkpb.KeyStatusType_DISABLED
		of.Key = append(of.Key, theirs)
		t := former.times[keyID(theirs.GetKeyId())]
		t.Retired = now.UnixNano()
		times[t.ID] = t
	}
	if !lacking {
		return k, nil
	}
	return k.made(of, times, former)
}

// made is what two keyrings have become.
func (k *Keyring) made(of *tinkpb.Keyset, times map[string]keyTimes, other *Keyring) (*Keyring, error) {
	plain, err := proto.Marshal(of)
	if err != nil {
		return nil, errors.New("seal: join two keysets: they cannot be encoded")
	}
	defer clear(plain)
	handle, err := insecurecleartextkeyset.Read(keyset.NewBinaryReader(bytes.NewReader(plain)))
	if err != nil {
		return nil, errors.New("seal: join two keysets: the cryptographic library refuses")
	}
	next, err := newKeyring(handle, k.secrets.fingerprints)
	if err != nil {
		return nil, err
	}
	next.storeID, next.generation, next.times = k.storeID, max(k.generation, other.generation)+1, times
	history := slices.Clone(other.history)
	for _, v := range k.history {
		if !slices.Contains(history, v) {
			history = append(history, v)
		}
	}
	next.history = newer(history)
	return next, nil
}

// material is the sealing keys in the clear, which are the caller's.
func material(k *Keyring) *tinkpb.Keyset {
	return proto.CloneOf(insecurecleartextkeyset.KeysetMaterial(k.secrets.sealing))
}

// find is the key of a keyset that another one has too; nil: it has not.
func find(in *tinkpb.Keyset, key *tinkpb.Keyset_Key) (*tinkpb.Keyset_Key, error) {
	for _, is := range in.GetKey() {
		if is.GetKeyId() == key.GetKeyId() {
			if !proto.Equal(is.GetKeyData(), key.GetKeyData()) {
				return nil, errors.New("two keys have the id " + keyID(key.GetKeyId()) + ": they cannot be in one keyring")
			}
			return is, nil
		}
	}
	return nil, nil
}

// OpenRetired is Open, with keys that are Retired too: of what is no secret, and has to be known before somebody can restore one.
func (k *Keyring) OpenRetired(sealed, associated []byte) ([]byte, error) {
	if info, ok := k.Key(SealedWith(sealed)); ok && info.State == Retired {
		restored, err := k.Restored(info.ID)
		if err != nil {
			return nil, err
		}
		return restored.Open(sealed, associated)
	}
	return k.Open(sealed, associated)
}
