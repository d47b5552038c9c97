package upstreamsim

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
)

// awkward is what clients get wrong: quotes end JSON strings, & + % = and space mean something in a form or a query, %41
// becomes A when decoded once too often, {{ looks like a template, and the rest belongs to headers, paths and shells. All of
// it is allowed in a client secret by RFC 6749 appendix A.2.
const awkward = `"&+%41 {{x}}=%zz\'<:;/?#$` + "`"

// newSecret returns a fresh secret of the kind that the system hands out.
func newSecret(system System) string {
	switch system {
	case OcctooDestination, OcctooIngest:
		for {
			// Base64 text, and such that + / = all occur.
			if s := randomBase64(32); strings.Contains(s, "+") && strings.Contains(s, "/") {
				return s
			}
		}
	case DocuWareCookie, DocuWare:
		return randomHex(8) + awkward + "Åß€語" + randomHex(8) // a password is a person's choice
	}
	return randomHex(8) + awkward + randomHex(8)
}

// newToken returns a fresh token: base64 text, which RFC 6750 allows in a Bearer header, and which a form must escape.
func newToken(prefix string) string { return prefix + randomBase64(32) }

func randomBase64(n int) string { return base64.StdEncoding.EncodeToString(randomBytes(n)) }

func randomHex(n int) string { return hex.EncodeToString(randomBytes(n)) }

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}

// randomUUID returns a version 4 UUID (RFC 9562).
func randomUUID() string {
	b := randomBytes(16)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
