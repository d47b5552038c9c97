package server

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A page token is the name to go on after, and a hash of the filter that it belongs to. It is opaque to callers, and tells
// them nothing that they did not see.
func writePageToken(after, filter string) string {
	if after == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(filter))
	return base64.RawURLEncoding.EncodeToString(append(sum[:8:8], after...))
}

func readPageToken(token, filter string) (after string, err error) {
	if token == "" {
		return "", nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(token)
	sum := sha256.Sum256([]byte(filter))
	if err != nil || len(raw) < 9 || !slices.Equal(raw[:8], sum[:8]) {
		return "", broker.Invalid(broker.Violation{
			Field: "page_token", Description: "is malformed, or belongs to another list or filter: start again without a page token",
		})
	}
	return string(raw[8:]), nil
}
