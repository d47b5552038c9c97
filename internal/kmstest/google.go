package main

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"cloud.google.com/go/kms/apiv1/kmspb"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// google is the double of Google Cloud KMS.
type google struct {
	root string

	mu     sync.Mutex
	keys   map[string]*cryptoKey
	email  string
	public *rsa.PublicKey
	denied bool
	broken string // which checksum is wrong
}

// A cryptoKey has versions; the last one is primary. A ciphertext begins with the number of its version.
type cryptoKey struct {
	versions []cipher.AEAD
	disabled bool
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func crc(b []byte) *wrapperspb.Int64Value {
	return wrapperspb.Int64(int64(crc32.Checksum(b, castagnoli)))
}

// order changes what the double does.
func (g *google) order(w http.ResponseWriter, r *http.Request) {
	var o struct {
		Rotate, Disable, Enable string
		Email, Public           string
		Denied                  bool
		Broken                  string
	}
	if r.Header.Get("Authorization") != g.root || json.NewDecoder(r.Body).Decode(&o) != nil {
		w.WriteHeader(http.StatusForbidden)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if o.Rotate != "" {
		raw := make([]byte, 32)
		_, _ = rand.Read(raw)
		block, _ := aes.NewCipher(raw)
		aead, _ := cipher.NewGCMWithRandomNonce(block)
		if g.keys[o.Rotate] == nil {
			g.keys[o.Rotate] = &cryptoKey{}
		}
		g.keys[o.Rotate].versions = append(g.keys[o.Rotate].versions, aead)
	}
	if k := g.keys[o.Disable]; k != nil {
		k.disabled = true
	}
	if k := g.keys[o.Enable]; k != nil {
		k.disabled = false
	}
	if block, _ := pem.Decode([]byte(o.Public)); block != nil {
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		g.email, g.public = o.Email, key.(*rsa.PublicKey)
	}
	g.denied, g.broken = o.Denied, o.Broken
}

// ServeHTTP implements http.Handler.
func (g *google) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	name, method, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/"), ":")
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 128<<10))
	switch {
	case err != nil, r.Method != http.MethodPost, r.URL.RawQuery != "":
		status(w, http.StatusBadRequest, "INVALID_ARGUMENT", "the request is none")
		return
	case !g.believed(r.Header.Get("Authorization")):
		status(w, http.StatusUnauthorized, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
		return
	case g.denied:
		status(w, http.StatusForbidden, "PERMISSION_DENIED", "Permission 'cloudkms.cryptoKeyVersions.useToEncrypt' denied on resource '"+name+"' (or it may not exist).")
		return
	}
	k := g.keys[name]
	var request proto.Message
	switch method {
	case "encrypt":
		request = &kmspb.EncryptRequest{}
	case "decrypt":
		request = &kmspb.DecryptRequest{}
	default:
		status(w, http.StatusNotFound, "NOT_FOUND", "no such method")
		return
	}
	if err := protojson.Unmarshal(body, request); err != nil { // which refuses fields that are not published
		status(w, http.StatusBadRequest, "INVALID_ARGUMENT", err.Error())
		return
	}
	switch {
	case k == nil:
		status(w, http.StatusNotFound, "NOT_FOUND", "CryptoKey "+name+" not found.")
		return
	case k.disabled:
		status(w, http.StatusBadRequest, "FAILED_PRECONDITION", name+" is not enabled, current state is: DISABLED.")
		return
	}
	if e, ok := request.(*kmspb.EncryptRequest); ok {
		g.encrypt(w, name, k, e)
		return
	}
	g.decrypt(w, k, request.(*kmspb.DecryptRequest))
}

func (g *google) encrypt(w http.ResponseWriter, name string, k *cryptoKey, r *kmspb.EncryptRequest) {
	if !proto.Equal(r.GetPlaintextCrc32C(), crc(r.GetPlaintext())) || !proto.Equal(r.GetAdditionalAuthenticatedDataCrc32C(), crc(r.GetAdditionalAuthenticatedData())) {
		status(w, http.StatusBadRequest, "INVALID_ARGUMENT", "a checksum does not match")
		return
	}
	n := len(k.versions)
	ciphertext := append([]byte{byte(n)}, k.versions[n-1].Seal(nil, nil, r.GetPlaintext(), r.GetAdditionalAuthenticatedData())...) //nolint:gosec // G407: this GCM draws its nonces
	answer := &kmspb.EncryptResponse{
		Name: fmt.Sprintf("%s/cryptoKeyVersions/%d", name, n), Ciphertext: ciphertext, CiphertextCrc32C: crc(ciphertext),
		VerifiedPlaintextCrc32C: true, VerifiedAdditionalAuthenticatedDataCrc32C: true, ProtectionLevel: kmspb.ProtectionLevel_SOFTWARE,
	}
	switch g.broken {
	case "ciphertext":
		answer.CiphertextCrc32C.Value ^= 1
	case "missing":
		answer.CiphertextCrc32C = nil
	case "plaintext":
		answer.VerifiedPlaintextCrc32C = false
	case "associated":
		answer.VerifiedAdditionalAuthenticatedDataCrc32C = false
	}
	replyWith(w, answer)
}

func (g *google) decrypt(w http.ResponseWriter, k *cryptoKey, r *kmspb.DecryptRequest) {
	c := r.GetCiphertext()
	if !proto.Equal(r.GetCiphertextCrc32C(), crc(c)) || !proto.Equal(r.GetAdditionalAuthenticatedDataCrc32C(), crc(r.GetAdditionalAuthenticatedData())) {
		status(w, http.StatusBadRequest, "INVALID_ARGUMENT", "a checksum does not match")
		return
	}
	if len(c) == 0 || int(c[0]) < 1 || int(c[0]) > len(k.versions) {
		status(w, http.StatusBadRequest, "INVALID_ARGUMENT", "Decryption failed: the ciphertext is invalid.")
		return
	}
	plaintext, err := k.versions[c[0]-1].Open(nil, nil, c[1:], r.GetAdditionalAuthenticatedData())
	if err != nil {
		status(w, http.StatusBadRequest, "INVALID_ARGUMENT", "Decryption failed: the ciphertext is invalid.")
		return
	}
	answer := &kmspb.DecryptResponse{Plaintext: plaintext, PlaintextCrc32C: crc(plaintext), UsedPrimary: int(c[0]) == len(k.versions), ProtectionLevel: kmspb.ProtectionLevel_SOFTWARE}
	if g.broken == "plaintext" {
		answer.PlaintextCrc32C.Value ^= 1
	}
	replyWith(w, answer)
}

// believed verifies a JWT that a service account has signed itself (AIP-4111).
func (g *google) believed(authorization string) bool {
	token, bearer := strings.CutPrefix(authorization, "Bearer ")
	if bearer && token == g.root {
		return true // the metadata service's
	}
	parts := strings.Split(token, ".")
	if !bearer || len(parts) != 3 || g.public == nil {
		return false
	}
	var header struct{ Alg, Typ, Kid string }
	var claims struct {
		Iss, Sub, Aud string
		Iat, Exp      int64
	}
	for i, into := range []any{&header, &claims} {
		text, err := base64.RawURLEncoding.DecodeString(parts[i])
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err != nil || d.Decode(into) != nil {
			return false
		}
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return false
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	now := time.Now().Unix()
	return rsa.VerifyPKCS1v15(g.public, crypto.SHA256, digest[:], signature) == nil && header.Alg == "RS256" && header.Kid != "" && claims.Iss == g.email && claims.Sub == g.email &&
		claims.Aud == "https://cloudkms.googleapis.com/" && claims.Iat <= now && now < claims.Exp && claims.Exp-claims.Iat <= 3600
}

func status(w http.ResponseWriter, code int, name, text string) {
	reply(w, code, map[string]any{"error": map[string]any{"code": code, "status": name, "message": text}})
}

func replyWith(w http.ResponseWriter, m proto.Message) {
	text, err := protojson.Marshal(m)
	if err != nil {
		status(w, http.StatusInternalServerError, "INTERNAL", "")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(text)
}
