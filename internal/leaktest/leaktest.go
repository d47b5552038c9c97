// Package leaktest finds planted secrets in data that must not hold them: in the clear, and in the forms in which they
// usually travel. It is for tests of several packages, and imports none of ours.
package leaktest

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
)

// A Finding is a secret that was found. It does not hold the secret, so that a test may print it.
type Finding struct {
	// Index is the secret's place in the list that was searched for.
	Index int
	// Form names how it was written, such as "base64, 1 byte in".
	Form string
	// Offset is where in the data it begins, in bytes.
	Offset int
}

// String names the finding by number, form and place.
func (f Finding) String() string {
	return fmt.Sprintf("secret %d as %s at offset %d", f.Index, f.Form, f.Offset)
}

// shortest is the length below which a form would be found by chance.
const shortest = 6

// Find returns the first place of each form of each secret in data, in the order of the secrets; nil: there is none. It
// panics on a secret shorter than 8 bytes, which would be found by chance.
func Find(data []byte, secrets []string) []Finding {
	lower := bytes.ToLower(data)
	var found []Finding
	for i, s := range secrets {
		if len(s) < 8 {
			panic(fmt.Sprintf("leaktest: secret %d is too short to look for", i))
		}
		for _, f := range forms(s) {
			in, text := data, []byte(f.text)
			if f.fold {
				in, text = lower, bytes.ToLower(text)
			}
			if len(text) < shortest {
				continue
			}
			if at := bytes.Index(in, text); at >= 0 {
				found = append(found, Finding{Index: i, Form: f.name, Offset: at})
			}
		}
	}
	return found
}

// A form is a way to write a secret. fold: letters may be of either case.
type form struct {
	name, text string
	fold       bool
}

func forms(s string) []form {
	all := []form{
		{"it is", s, false},
		{"hex", hex.EncodeToString([]byte(s)), true},
		{"percent-encoded", percent(s), true},
		{"percent-encoded query", url.QueryEscape(s), true},
		{"percent-encoded path", url.PathEscape(s), true},
	}
	if quoted, err := json.Marshal(s); err == nil {
		all = append(all, form{"JSON", strings.Trim(string(quoted), `"`), false})
	}
	for in := range 3 {
		all = append(all,
			form{fmt.Sprintf("base64, %d bytes in", in), inner(base64.RawStdEncoding, s, in), false},
			form{fmt.Sprintf("base64url, %d bytes in", in), inner(base64.RawURLEncoding, s, in), false})
	}
	return all
}

// percent encodes every byte.
func percent(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, "%%%02x", s[i])
	}
	return b.String()
}

// inner is how s looks within something longer that is base64, where it begins so many bytes after a group of three:
// without the characters at either end that hold bits of its neighbours.
func inner(e *base64.Encoding, s string, in int) string {
	text := e.EncodeToString(append(make([]byte, in), s...))
	first := (in*8 + 5) / 6
	last := (in + len(s)) * 8 / 6
	return text[first:last]
}
