package server

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
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

// A filter is a conjunction of comparisons: the part of AIP-160 that operators need.
type filter []comparison

type comparison struct {
	field  string // provider, state, name, labels.KEY
	op     string // =, !=, :
	value  string
	prefix bool // name = "abc*"
}

func parseFilter(s string) (filter, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var out filter
	for term := range strings.SplitSeq(s, " AND ") {
		c, err := parseComparison(strings.TrimSpace(term))
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func parseComparison(term string) (comparison, error) {
	bad := func(why string) error {
		return broker.Invalid(broker.Violation{Field: "filter", Description: fmt.Sprintf(
			"%.80q: %s; write FIELD = VALUE, FIELD != VALUE or FIELD : VALUE, joined by AND, with provider, state, name (may end in *) or labels.KEY", term, why)})
	}
	i := strings.IndexAny(term, "=!:")
	if i <= 0 {
		return comparison{}, bad("no comparison")
	}
	c := comparison{field: strings.TrimSpace(term[:i])}
	switch {
	case strings.HasPrefix(term[i:], "!="):
		c.op, c.value = "!=", term[i+2:]
	case term[i] == '!':
		return comparison{}, bad("! without =")
	default:
		c.op, c.value = term[i:i+1], term[i+1:]
	}
	c.value = strings.Trim(strings.TrimSpace(c.value), `"`)
	switch c.field {
	case "name":
		c.value, c.prefix = strings.CutSuffix(c.value, "*")
	case "provider":
	case "state":
		c.value = strings.TrimPrefix(strings.ToUpper(c.value), "CREDENTIAL_STATE_")
		if _, ok := tokenbrokerv1.CredentialState_value["CREDENTIAL_STATE_"+c.value]; !ok {
			return comparison{}, bad("no such state")
		}
	default:
		if !strings.HasPrefix(c.field, "labels.") {
			return comparison{}, bad("no such field")
		}
	}
	return c, nil
}

func (f filter) matches(m *tokenbrokerv1.Credential) bool {
	for _, c := range f {
		if !c.matches(m) {
			return false
		}
	}
	return true
}

// withoutState is the part of it that a credential alone decides.
func (f filter) withoutState() filter {
	return slices.DeleteFunc(slices.Clone(f), func(c comparison) bool { return c.field == "state" })
}

func (c comparison) matches(m *tokenbrokerv1.Credential) bool {
	var have string
	there := true
	switch {
	case c.field == "name":
		have = m.GetName()
	case c.field == "provider":
		have = m.GetProvider()
	case c.field == "state":
		have = strings.TrimPrefix(m.GetState().String(), "CREDENTIAL_STATE_")
	default:
		have, there = m.GetLabels()[strings.TrimPrefix(c.field, "labels.")]
	}
	same := there && have == c.value
	switch {
	case c.prefix:
		same = strings.HasPrefix(have, c.value)
	case c.op == ":" && c.value == "*":
		same = there
	case c.op == ":":
		same = there && strings.Contains(have, c.value)
	}
	return same != (c.op == "!=")
}
