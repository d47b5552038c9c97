package server

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// A filter is a conjunction of comparisons: the part of AIP-160 that operators need.
type filter []comparison

type comparison struct {
	field  string // provider, state, name, labels.KEY
	op     string // =, !=, :
	value  string
	prefix bool // name = "abc*"
}

// filterForm says what of AIP-160 there is.
const filterForm = "write FIELD = VALUE, FIELD != VALUE or FIELD : VALUE, joined by AND, with provider, state, name (may end in one *) or labels.KEY, and " +
	`"quotes" around a VALUE with blanks or signs in it; there is no OR, no NOT and no parenthesis`

// filterTerm is a comparison at the beginning of a text, filterAnd what joins it to the next.
var (
	filterTerm = regexp.MustCompile(`^\s*([A-Za-z0-9._-]+)\s*(!=|=|:)\s*("(?:[^"\\]|\\.)*"|[^\s"()=!:]+)`)
	filterAnd  = regexp.MustCompile(`^\s+AND\s+`)
)

// parseFilter reads a filter, and refuses what it does not understand: what is left out would let more through than was meant.
func parseFilter(s string) (filter, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var out filter
	for {
		m := filterTerm.FindStringSubmatch(s)
		if m == nil {
			return nil, badFilter(s, "is no comparison")
		}
		c, err := newComparison(m[1], m[2], m[3])
		if err != nil {
			return nil, err
		}
		out, s = append(out, c), s[len(m[0]):]
		if strings.TrimSpace(s) == "" {
			return out, nil
		}
		and := filterAnd.FindString(s)
		if and == "" {
			return nil, badFilter(s, "comes behind a comparison, and is not AND")
		}
		s = s[len(and):]
	}
}

func badFilter(what, why string) error {
	return broker.Invalid(broker.Violation{Field: "filter", Description: fmt.Sprintf("%.80q: %s; %s", strings.TrimSpace(what), why, filterForm)})
}

func newComparison(field, op, value string) (comparison, error) {
	c := comparison{field: field, op: op, value: value}
	term := field + " " + op + " " + value
	if strings.HasPrefix(value, `"`) {
		var err error
		if c.value, err = strconv.Unquote(value); err != nil {
			return c, badFilter(term, "the quoted text is not well-formed")
		}
	}
	switch c.field {
	case "name":
		c.value, c.prefix = strings.CutSuffix(c.value, "*")
	case "provider":
	case "state":
		c.value = strings.TrimPrefix(strings.ToUpper(c.value), "CREDENTIAL_STATE_")
		if _, ok := tokenbrokerv1.CredentialState_value["CREDENTIAL_STATE_"+c.value]; !ok {
			return comparison{}, badFilter(term, "there is no such state; there are "+stateNames())
		}
	default:
		if !strings.HasPrefix(c.field, "labels.") {
			return comparison{}, badFilter(term, "there is no such field")
		}
	}
	if there := c.op == ":" && c.value == "*"; strings.Contains(c.value, "*") && !there {
		return comparison{}, badFilter(term, "a * stands at the end of a name, once, or alone behind a colon")
	}
	return c, nil
}

// stateNames are the states that a filter may name.
func stateNames() string {
	var out []string
	for _, i := range slices.Sorted(maps.Keys(tokenbrokerv1.CredentialState_name)) {
		if i != 0 {
			out = append(out, strings.TrimPrefix(tokenbrokerv1.CredentialState_name[i], "CREDENTIAL_STATE_"))
		}
	}
	return strings.Join(out, ", ")
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
