package store

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// checkRecord is the one row that can be read without a key: it says which keys belong to these data.
type checkRecord struct {
	Comment string `json:"comment"`
	// Schema is that of layout.go.
	Schema int `json:"schema"`
	// Keys are the ids of the keys that were in the keyring when this was written.
	Keys []string `json:"keys"`
	// Sealed is the fingerprint of a constant, sealed: it opens with the right sealing key, and then tells whether the
	// fingerprint key is the right one too.
	Sealed []byte `json:"sealed"`
}

const checkPurpose = "store: check"

var checkBinding = binding{key: checkKey, subject: "meta"}

// readCheck returns nil where there is none.
func readCheck(ctx context.Context, backend Backend) (*checkRecord, error) {
	read, err := backend.Read(ctx, Ask{metaGroup, []Key{checkKey}})
	if err != nil {
		return nil, fromBackend(err)
	}
	if len(read[0].Rows) == 0 {
		return nil, nil
	}
	var r checkRecord
	if err := json.Unmarshal(read[0].Rows[0].Value, &r); err != nil || r.Schema == 0 {
		return nil, unreadableData("the record of their keys is damaged")
	}
	if r.Schema != schema {
		return nil, unreadableData(fmt.Sprintf("they have schema %d, and this tokenbroker reads schema %d: use a newer one", r.Schema, schema))
	}
	return &r, nil
}

func unreadableData(why string) error {
	return &broker.Failure{Kind: broker.RecordUnreadable, Detail: "the stored data: " + why}
}

// checkKeys refuses data of other keys, and leaves the check in data that have none.
func (s *Store) checkKeys(ctx context.Context, backend Backend) error {
	keyring := s.keys()
	fingerprint := keyring.Fingerprint(checkPurpose)
	return s.changeKept(ctx, backend, func() (*Batch, error) {
		r, err := readCheck(ctx, backend)
		if err != nil {
			return nil, err
		}
		if r != nil {
			if why := verify(r, keyring); why != "" {
				return nil, unreadableData("they are " + why)
			}
			return nil, nil
		}
		if err := s.openAny(ctx, backend); err != nil {
			return nil, err
		}
		sealed, err := keyring.Seal([]byte(hex.EncodeToString(fingerprint[:])), checkBinding.associated())
		if err != nil {
			return nil, misused(err.Error())
		}
		value, err := json.Marshal(checkRecord{
			Comment: "which keys these data are sealed with", Schema: schema, Keys: keyring.IDs(), Sealed: sealed,
		})
		if err != nil {
			return nil, misused("the check record cannot be encoded")
		}
		conditions := []Condition{{Key: checkKey}}
		if s.ring.kek == nil { // nor has anybody begun with a KEK meanwhile
			if err := refuseWrapped(ctx, backend); err != nil {
				return nil, err
			}
			conditions = append(conditions, Condition{Key: keyringKey})
		}
		return &Batch{
			Group: metaGroup, Conditions: conditions,
			Puts: []Put{{Key: checkKey, Revision: newRevision(), Value: value}},
		}, nil
	})
}

// verify says why the keyring is not the one that the data belong to; empty: it is. The sentence begins after "they are".
func verify(r *checkRecord, k *seal.Keyring) string {
	what := "key file"
	if k.Generation() > 0 {
		what = "keyring"
	}
	fingerprint := k.Fingerprint(checkPurpose)
	plain, err := k.OpenRetired(r.Sealed, checkBinding.associated())
	if err != nil {
		return fmt.Sprintf("sealed with key %s, and %s has %s: give the %s that belongs to them",
			strings.Join(r.Keys, ", "), k.Where(), strings.Join(k.IDs(), ", "), what)
	}
	if string(plain) != hex.EncodeToString(fingerprint[:]) {
		return fmt.Sprintf("indexed with a different fingerprint key than the one in %s: give the %s that belongs to them", k.Where(), what)
	}
	return ""
}

// openAny tries one credential of data without a check.
func (s *Store) openAny(ctx context.Context, backend Backend) error {
	page, err := backend.Scan(ctx, credentialKey, Listing{}, 1)
	if err != nil {
		return fromBackend(err)
	}
	for _, l := range page {
		if l.Row.Revision == (Revision{}) {
			continue
		}
		if _, err := s.openCredential(broker.CredentialName(l.Name), l.Row); err != nil {
			return err
		}
	}
	return nil
}

// LoadKeyring returns the keyring in the key file at path. Where there is no such file, it is created, unless backend holds
// data already: those were sealed with keys that are missing, and the failure names them.
func LoadKeyring(ctx context.Context, backend Backend, path string) (*seal.Keyring, error) {
	k, err := seal.Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	if err := refuseWrapped(ctx, backend); err != nil {
		return nil, err
	}
	r, err := readCheck(ctx, backend)
	if err != nil {
		return nil, err
	}
	if r != nil {
		return nil, unreadableData(fmt.Sprintf("they are sealed with key %s, and there is no key file %s: restore it from the backup",
			strings.Join(r.Keys, ", "), path))
	}
	page, err := backend.Scan(ctx, credentialKey, Listing{}, 1)
	if err != nil {
		return nil, fromBackend(err)
	}
	if len(page) > 0 {
		return nil, unreadableData(fmt.Sprintf("there are credentials, and there is no key file %s: restore it from the backup", path))
	}
	k, err = seal.Create(path)
	if errors.Is(err, fs.ErrExist) { // another process was quicker
		return seal.Load(path)
	}
	return k, err
}
