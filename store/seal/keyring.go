package seal

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"

	"github.com/tink-crypto/tink-go/v2/aead"
	"github.com/tink-crypto/tink-go/v2/keyset"
	"github.com/tink-crypto/tink-go/v2/prf"
	"github.com/tink-crypto/tink-go/v2/tink"

	tinkpb "github.com/tink-crypto/tink-go/v2/proto/tink_go_proto"
)

// A Keyring seals and opens. It is made by New, Create or Load; the zero value is of no use. Immutable, and safe for
// concurrent use. It does not print its keys.
type Keyring struct {
	secrets *secrets
	primary string
	keys    []string
	file    string
	// storeID, generation, times and history are of wrapped keys; zero: they are of a key file.
	storeID    string
	generation uint64
	times      map[string]keyTimes
	history    []string
}

// secrets is behind a pointer, so that %+v of anything that holds a Keyring prints an address.
type secrets struct {
	sealing, fingerprints *keyset.Handle
	aead                  tink.AEAD
	prf                   *prf.Set
}

// Tink's prefix of a ciphertext: one byte, then the key id in four.
const (
	tinkVersion = 1
	prefixSize  = 5
)

// New draws fresh keys that are in no file, for tests and for Create.
func New() (*Keyring, error) {
	sealing, err := keyset.NewHandle(sealingTemplate())
	if err != nil {
		return nil, errors.New("seal: draw the sealing key: the cryptographic library refuses")
	}
	fingerprints, err := keyset.NewHandle(prf.HMACSHA256PRFKeyTemplate())
	if err != nil {
		return nil, errors.New("seal: draw the fingerprint key: the cryptographic library refuses")
	}
	return newKeyring(sealing, fingerprints)
}

func sealingTemplate() *tinkpb.KeyTemplate { return aead.XAES256GCM192BitNonceKeyTemplate() }

// newKeyring wraps nothing foreign in its errors: they could quote a keyset.
func newKeyring(sealing, fingerprints *keyset.Handle) (*Keyring, error) {
	a, err := aead.New(sealing)
	if err != nil {
		return nil, errors.New("the sealing keyset is not one of AEAD keys")
	}
	p, err := prf.NewPRFSet(fingerprints)
	if err != nil {
		return nil, errors.New("the fingerprint keyset is not one of PRF keys")
	}
	if _, err := p.ComputePrimaryPRF(nil, fingerprintSize); err != nil {
		return nil, errors.New("the fingerprint keyset gives fewer than 32 bytes")
	}
	k := &Keyring{secrets: &secrets{sealing: sealing, fingerprints: fingerprints, aead: a, prf: p}}
	for i := range sealing.Len() {
		e, err := sealing.Entry(i)
		if err != nil {
			return nil, errors.New("the sealing keyset is damaged")
		}
		if e.KeyStatus() == keyset.Enabled {
			k.keys = append(k.keys, keyID(e.KeyID()))
		}
		if e.IsPrimary() {
			k.primary = keyID(e.KeyID())
		}
	}
	slices.Sort(k.keys)
	return k, nil
}

func keyID(id uint32) string { return fmt.Sprintf("%08x", id) }

// ID names the key that seals: eight hexadecimal digits, no secret.
func (k *Keyring) ID() string { return k.primary }

// IDs names every key that opens, sorted: those that are retired do not. The caller owns the slice.
func (k *Keyring) IDs() []string { return slices.Clone(k.keys) }

// Opens reports whether the key of this id opens.
func (k *Keyring) Opens(id string) bool { return slices.Contains(k.keys, id) }

// File is the path that the keyring was loaded from; empty: none.
func (k *Keyring) File() string { return k.file }

// Where says where the keys come from, for messages to operators.
func (k *Keyring) Where() string {
	if k.generation > 0 {
		return fmt.Sprintf("the store's keyring of generation %d", k.generation)
	}
	if k.file == "" {
		return "the keyring in memory"
	}
	return "the key file " + k.file
}

// String names the key and its file.
func (k *Keyring) String() string { return "key " + k.primary + " of " + k.Where() }

// Seal encrypts plaintext and binds it to the associated data: only with the same data does it open again. Two calls give
// two different ciphertexts.
func (k *Keyring) Seal(plaintext, associated []byte) ([]byte, error) {
	sealed, err := k.secrets.aead.Encrypt(plaintext, associated)
	if err != nil {
		return nil, errors.New("seal: the cryptographic library refuses to encrypt")
	}
	return sealed, nil
}

// An OpenError says why something sealed does not open. It holds no key and no data.
type OpenError struct {
	// KeyID names the key that it was sealed with; empty: it is nothing that Seal made.
	KeyID string
	// Held: the keyring has that key, so that the ciphertext was changed, or moved from where it belongs.
	Held bool
}

// Error implements error.
func (e *OpenError) Error() string {
	switch {
	case e.KeyID == "":
		return "it is not sealed"
	case !e.Held:
		return "it is sealed with key " + e.KeyID + ", which is not in the keyring"
	}
	return "it was changed, or belongs elsewhere"
}

// Open decrypts what Seal made with the same associated data. It fails with an *OpenError.
func (k *Keyring) Open(sealed, associated []byte) ([]byte, error) {
	plaintext, err := k.secrets.aead.Decrypt(sealed, associated)
	if err != nil {
		id := SealedWith(sealed)
		return nil, &OpenError{KeyID: id, Held: slices.Contains(k.keys, id)}
	}
	return plaintext, nil
}

// SealedWith names the key that sealed was made with, without opening it; empty: it is nothing that Seal made.
func SealedWith(sealed []byte) string {
	if len(sealed) < prefixSize || sealed[0] != tinkVersion {
		return ""
	}
	return hex.EncodeToString(sealed[1:prefixSize])
}

const fingerprintSize = 32

// Fingerprint is a keyed hash that only holders of the key file can compute, the same for ever. purpose keeps the uses
// apart, and every part carries its length, so that no two lists of parts look the same.
func (k *Keyring) Fingerprint(purpose string, parts ...string) [fingerprintSize]byte {
	size := len(purpose) + binary.MaxVarintLen64*(len(parts)+1)
	for _, p := range parts {
		size += len(p)
	}
	input := make([]byte, 0, size)
	input = binary.AppendUvarint(input, uint64(len(purpose)))
	input = append(input, purpose...)
	for _, p := range parts {
		input = binary.AppendUvarint(input, uint64(len(p)))
		input = append(input, p...)
	}
	sum, err := k.secrets.prf.ComputePrimaryPRF(input, fingerprintSize)
	if err != nil {
		panic("seal: an HMAC that worked when the keyring was made fails") // a bug of ours: newKeyring tried it
	}
	return [fingerprintSize]byte(sum)
}
