package kek

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"hash/crc32"
	"net/http"
	"regexp"
	"strings"
)

// A gcpKMS is a symmetric key of Google Cloud KMS (its REST API v1, which is google.cloud.kms.v1.KeyManagementService in JSON).
type gcpKMS struct {
	client      *client
	credentials gcpCredentials
	key         string
}

// keyResource is the name of a key. A version has none of this form: rotation makes another, and the key unwraps what any of them has wrapped.
// A project's name may have dots, of the domain that it is of, and begins with none.
var keyResource = regexp.MustCompile(`^projects/[a-z0-9][a-z0-9:.-]{0,99}/locations/[a-z0-9-]{1,63}/keyRings/[A-Za-z0-9_-]{1,63}/cryptoKeys/[A-Za-z0-9_-]{1,63}$`)

const (
	gcpEndpoint = "https://cloudkms.googleapis.com"
	versions    = "/cryptoKeyVersions/"
)

func openGCP(key string, s Settings) (*gcpKMS, error) {
	if !keyResource.MatchString(key) {
		return nil, invalid("it names no key of Google Cloud KMS, which a version of one is not: want " + formGCP)
	}
	c, err := newClient(or(s.GCP.Endpoint, gcpEndpoint), s, loopback)
	if err != nil {
		return nil, err
	}
	credentials, err := openGCPCredentials(s)
	return &gcpKMS{c, credentials, key}, err
}

func (k *gcpKMS) name() string { return schemeGCP + ":" + k.key }

// A checksum is the CRC-32C of bytes that travel: Google asks both sides to compare them, because what is damaged before it is encrypted is damaged for ever.
type checksum int64

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksumOf(b []byte) *checksum {
	c := checksum(crc32.Checksum(b, castagnoli))
	return &c
}

func (c *checksum) of(b []byte) bool { return c != nil && *c == *checksumOf(b) }

// A gcpRequest is EncryptRequest and DecryptRequest. 64-bit numbers are texts in the JSON of proto3.
type gcpRequest struct {
	Plaintext        []byte    `json:"plaintext,omitempty"`
	PlaintextCRC     *checksum `json:"plaintextCrc32c,omitempty,string"`
	Ciphertext       []byte    `json:"ciphertext,omitempty"`
	CiphertextCRC    *checksum `json:"ciphertextCrc32c,omitempty,string"`
	Authenticated    []byte    `json:"additionalAuthenticatedData"`
	AuthenticatedCRC *checksum `json:"additionalAuthenticatedDataCrc32c,string"`
}

// A gcpAnswer is EncryptResponse and DecryptResponse.
type gcpAnswer struct {
	Name                  string    `json:"name"`
	Ciphertext            []byte    `json:"ciphertext"`
	CiphertextCRC         *checksum `json:"ciphertextCrc32c,string"`
	VerifiedPlaintext     bool      `json:"verifiedPlaintextCrc32c"`
	VerifiedAuthenticated bool      `json:"verifiedAdditionalAuthenticatedDataCrc32c"`
	Plaintext             []byte    `json:"plaintext"`
	PlaintextCRC          *checksum `json:"plaintextCrc32c,string"`
}

func (k *gcpKMS) wrap(ctx context.Context, dataKey []byte, bound [sha256.Size]byte) ([]byte, error) {
	got, err := k.ask(ctx, "encrypt", gcpRequest{
		Plaintext: dataKey, PlaintextCRC: checksumOf(dataKey), Authenticated: bound[:], AuthenticatedCRC: checksumOf(bound[:]),
	})
	switch {
	case err != nil:
		return nil, err
	case !strings.HasPrefix(got.Name, k.key+versions):
		return nil, nonsense()
	case !got.VerifiedPlaintext, !got.VerifiedAuthenticated, !got.CiphertextCRC.of(got.Ciphertext):
		return nil, corrupted()
	}
	return got.Ciphertext, nil
}

func (k *gcpKMS) unwrap(ctx context.Context, wrapped []byte, bound [sha256.Size]byte) ([]byte, error) {
	got, err := k.ask(ctx, "decrypt", gcpRequest{
		Ciphertext: wrapped, CiphertextCRC: checksumOf(wrapped), Authenticated: bound[:], AuthenticatedCRC: checksumOf(bound[:]),
	})
	switch {
	case err != nil:
		return nil, err
	case len(got.Plaintext) == 0:
		return nil, nonsense()
	case !got.PlaintextCRC.of(got.Plaintext):
		return nil, corrupted()
	}
	return got.Plaintext, nil
}

// corrupted is what Google says to do a few times about it.
func corrupted() *Failure {
	return failure(Away, "a checksum does not fit what travelled between us and Google Cloud KMS: try again")
}

func (k *gcpKMS) ask(ctx context.Context, method string, body gcpRequest) (got gcpAnswer, err error) {
	token, err := k.credentials.token(ctx)
	if err != nil {
		return got, err
	}
	a, err := k.client.json(ctx, http.MethodPost, "/v1/"+k.key+":"+method, http.Header{"Authorization": {"Bearer " + token}}, body)
	if err != nil {
		return got, err
	}
	if !a.ok() {
		return got, k.refused(a)
	}
	return got, a.read(&got)
}

// gcpErrors are the codes of google.rpc.Code that Google Cloud KMS gives, and what we say of each.
var gcpErrors = map[string]*Failure{
	"NOT_FOUND":           failure(KeyUnavailable, "Google Cloud KMS has no such key: look at its name"),
	"FAILED_PRECONDITION": failure(KeyUnavailable, "a version of the key in Google Cloud KMS is disabled or destroyed, or it has no primary one: enable or restore the version"),
	"INVALID_ARGUMENT":    failure(Damaged, "Google Cloud KMS cannot open this with the key: it was changed, or moved here from another place, or another key has wrapped it; or the key is not one to encrypt and decrypt with"),
	"PERMISSION_DENIED":   failure(Refused, "Google Cloud KMS does not let this account use the key, or there is none: it takes the role roles/cloudkms.cryptoKeyEncrypterDecrypter on the key, and the API enabled in its project"),
	"UNAUTHENTICATED":     failure(Refused, "Google Cloud KMS does not believe the credentials: they are wrong, were deleted or have ended, or the clock of this machine is wrong"),
	"RESOURCE_EXHAUSTED":  failure(Away, "Google Cloud KMS asks to slow down: try again later"),
	"UNAVAILABLE":         failure(Away, "Google Cloud KMS is not available: try again later"),
	"DEADLINE_EXCEEDED":   failure(Away, "Google Cloud KMS does not answer in time: try again later"),
	"ABORTED":             failure(Away, "Google Cloud KMS has broken off: try again"),
	"CANCELLED":           failure(Away, "Google Cloud KMS has broken off: try again"),
	"INTERNAL":            failure(Away, "Google Cloud KMS fails: try again later"),
	"UNKNOWN":             failure(Away, "Google Cloud KMS fails: try again later"),
}

func (k *gcpKMS) refused(a answer) error {
	var said struct {
		Error struct {
			Status string `json:"status"`
		} `json:"error"`
	}
	if json.Unmarshal(a.body, &said) == nil {
		if f := gcpErrors[said.Error.Status]; f != nil {
			return f
		}
	}
	return a.failure()
}
