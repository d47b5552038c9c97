package server

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A page token is the name to go on after, sealed by a key that belongs to the list, to its filter and to whoever asks: of names that a caller is not
// shown it tells nothing, and nobody else can use it.
func writePageToken(after string, key [32]byte) string {
	if after == "" {
		return ""
	}
	seal := sealOf(key)
	nonce := make([]byte, seal.NonceSize())
	_, _ = rand.Read(nonce) // never fails (crypto/rand)
	padded := make([]byte, longestAfter)
	copy(padded, after)
	return base64.RawURLEncoding.EncodeToString(seal.Seal(nonce, nonce, padded, nil))
}

// longestAfter is longer than every name: a token must not tell how long one is.
const longestAfter = 64

func readPageToken(token string, key [32]byte) (after string, err error) {
	if token == "" {
		return "", nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	seal := sealOf(key)
	if err == nil && len(raw) > seal.NonceSize() {
		if padded, err := seal.Open(nil, raw[:seal.NonceSize()], raw[seal.NonceSize():], nil); err == nil {
			return strings.TrimRight(string(padded), "\x00"), nil
		}
	}
	return "", broker.Invalid(broker.Violation{
		Field: "page_token", Description: "is malformed, or belongs to another list, filter or caller: start again without a page token",
	})
}

func sealOf(key [32]byte) cipher.AEAD {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the length is right
	}
	seal, err := cipher.NewGCM(block)
	if err != nil {
		panic(err) // AES has the right block
	}
	return seal
}
