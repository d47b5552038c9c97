package broker

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
)

// A CredentialName is a valid name of a credential, such as "officernd-main" (NameForm). The zero value is no name.
// Check user input with IsCredentialName before converting it, unless the contract has checked it: that has the same rule.
type CredentialName string

// NameForm says for people what a credential's name looks like, and a label's key.
const NameForm = "must be 1 to 63 of a-z 0-9 . _ -, a letter or digit first and last"

const nameMost = 63

// IsCredentialName reports whether s is a credential's name. The contract has the same as a pattern; this costs a hit nothing.
func IsCredentialName(s string) bool {
	if s == "" || len(s) > nameMost || !letterOrDigit(s[0]) || !letterOrDigit(s[len(s)-1]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !letterOrDigit(c) && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return true
}

func letterOrDigit(c byte) bool { return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' }

// A Set is a sorted set of strings, comparable with ==, so that order and repeats do not matter. The zero value is empty.
type Set struct{ joined string }

// setSeparator cannot occur in an element: ParseSet refuses control characters.
const setSeparator = "\x1f"

// Scopes are the scopes of a token (RFC 6749 section 3.3).
type Scopes = Set

// ParseSet sorts and deduplicates. field names what is parsed, for the failure that an element gives which is empty, or has a control
// character or a blank in it: two scopes that are written as one would be another set than the two (RFC 6749 section 3.3).
func ParseSet(field string, elements []string) (Set, error) {
	switch len(elements) {
	case 0:
		return Set{}, nil
	case 1:
		if err := checkElement(field, elements[0]); err != nil {
			return Set{}, err
		}
		return Set{elements[0]}, nil
	}
	for _, e := range elements {
		if err := checkElement(field, e); err != nil {
			return Set{}, err
		}
	}
	s := slices.Clone(elements)
	slices.Sort(s)
	return Set{strings.Join(slices.Compact(s), setSeparator)}, nil
}

func checkElement(field, e string) error {
	if e == "" {
		return invalid(field, "an empty element; leave it out")
	}
	if strings.ContainsFunc(e, func(r rune) bool { return unicode.IsSpace(r) || r == '\ufeff' }) { // U+FEFF is a blank for JavaScript
		return invalid(field, "an element with a blank in it: give each as an element of its own")
	}
	return CheckText(field, e)
}

// CheckText refuses a text with a control character in it. field is where it stands.
func CheckText(field, text string) error {
	if strings.ContainsFunc(text, unicode.IsControl) {
		return invalid(field, "contains a control character")
	}
	return nil
}

// SetOf is ParseSet of elements that were let in before, also where that would refuse them by now. It fails for those that no set can hold.
func SetOf(elements []string) (Set, error) {
	for _, e := range elements {
		if e == "" || strings.Contains(e, setSeparator) {
			return Set{}, invalid("", "an element that no set can hold")
		}
	}
	s := slices.Clone(elements)
	slices.Sort(s)
	return Set{strings.Join(slices.Compact(s), setSeparator)}, nil
}

// List returns the elements, sorted; nil for the empty set. The caller owns it.
func (s Set) List() []string {
	if s.joined == "" {
		return nil
	}
	return strings.Split(s.joined, setSeparator)
}

// Empty reports whether there is no element.
func (s Set) Empty() bool { return s.joined == "" }

// Contains reports whether every element of o is in s.
func (s Set) Contains(o Set) bool {
	have := s.List()
	for _, e := range o.List() {
		if _, ok := slices.BinarySearch(have, e); !ok {
			return false
		}
	}
	return true
}

// String joins with spaces, for people.
func (s Set) String() string { return strings.ReplaceAll(s.joined, setSeparator, " ") }

// Pairs are names with values, sorted by name, comparable with ==. The zero value is empty.
type Pairs struct{ joined string }

// NewPairs builds Pairs from a map. Each part carries its length, so that no value can pose as another pair.
func NewPairs(m map[string]string) Pairs {
	if len(m) == 0 {
		return Pairs{}
	}
	var b strings.Builder
	for _, k := range slices.SortedFunc(maps.Keys(m), cmp.Compare[string]) {
		fmt.Fprintf(&b, "%d:%s%d:%s", len(k), k, len(m[k]), m[k])
	}
	return Pairs{b.String()}
}

// Empty reports whether there is no pair.
func (p Pairs) Empty() bool { return p.joined == "" }

// Map returns the pairs; nil for none. The caller owns it.
func (p Pairs) Map() map[string]string {
	if p.joined == "" {
		return nil
	}
	m := map[string]string{}
	rest := p.joined
	next := func() string {
		var n int
		i := strings.IndexByte(rest, ':')
		for _, d := range rest[:i] {
			n = n*10 + int(d-'0')
		}
		s := rest[i+1 : i+1+n]
		rest = rest[i+1+n:]
		return s
	}
	for rest != "" {
		k := next()
		m[k] = next()
	}
	return m
}

// String never shows a value: parameters may be secret.
func (p Pairs) String() string {
	return strings.Join(slices.Sorted(maps.Keys(p.Map())), ",")
}

// Format implements fmt.Formatter, so that no verb shows a value.
func (p Pairs) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(p.String())) }

// Canonical is the selection as strings, of which two selections have the same only if they are equal.
func (s Selection) Canonical() []string {
	return []string{s.Scopes.joined, s.Audience, s.Parameters.joined, s.Resources.joined}
}

// An ID is a random 128-bit identity, compared for equality only. The zero value identifies nothing.
type ID [16]byte

// NewID draws an ID.
func NewID() ID {
	var id ID
	_, _ = rand.Read(id[:]) // never fails (crypto/rand)
	return id
}

// ParseEtag reads an etag; empty gives the zero ID. It fails with a RequestInvalid failure.
func ParseEtag(s string) (ID, error) {
	var id ID
	if s == "" {
		return id, nil
	}
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw) != len(id) || ID(raw) == id { // the zero ID would be taken for none
		return id, invalid("etag", "is not an etag of this broker: use the one that it answered, or leave it empty")
	}
	copy(id[:], raw)
	return id, nil
}

// IsZero reports whether the ID identifies nothing.
func (id ID) IsZero() bool { return id == ID{} }

// String is hexadecimal; IDs are no secrets.
func (id ID) String() string { return hex.EncodeToString(id[:]) }
