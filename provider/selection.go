package provider

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/suggest"
)

// longestDefault bounds what is held against a pattern, in bytes: as long as what a caller may choose.
const longestDefault = 8192

// A madeDefault is what stands for something that a caller does not choose. It is made of the file and of inputs that are no secrets, so that what is wrong with
// it is the credential's, and no caller's.
type madeDefault struct {
	value string
	of    []string // inputs
	// why is what is wrong with it; empty: nothing.
	why     string
	tooLong bool
}

func (in *input) makeDefault(v *values) madeDefault {
	m := madeDefault{}
	if !in.hasDefault {
		return m
	}
	m.of = in.fallback.names()
	s, ok, err := in.fallback.expand(v)
	if ok {
		m.value = in.affixed(s)
	}
	if m.tooLong = err != nil || len(m.value) > longestDefault; m.tooLong { // nothing but its length can be why it is not made
		m.why = fmt.Sprintf("is longer than %d bytes", longestDefault)
	} else if m.value != "" {
		m.why = in.wrongValue(m.value)
	}
	return m
}

// blame says of each input that a default is made of what is wrong with that.
func (m madeDefault) blame(what string) []broker.Violation {
	code := broker.CodeInvalid
	if m.tooLong {
		code = broker.CodeTooLarge
	}
	var out []broker.Violation
	for _, n := range m.of {
		out = append(out, broker.Violation{Field: "credential.inputs." + n, Code: code, Description: "makes the default of " + what + ", which " + m.why})
	}
	return out
}

func (m madeDefault) refuse(what string) error {
	return &broker.Failure{Kind: broker.CredentialIncomplete, Violations: m.blame(what), Detail: "the default of " + what + " " + m.why}
}

// defaults are those that are made of what a credential has, by what they stand for.
func (d *definition) defaults(v *values) map[string]madeDefault {
	out := map[string]madeDefault{}
	for name, in := range d.parameters {
		out["parameters."+name] = in.makeDefault(v)
	}
	if d.audience != nil {
		out["audience"] = d.audience.makeDefault(v)
	}
	return out
}

// Select implements broker.Definition.
func (d *definition) Select(c broker.Credential, sel broker.Selection) (broker.Selection, error) {
	refuse := func(k broker.Kind, field, why string) (broker.Selection, error) {
		return broker.Selection{}, refusal(k, field, why)
	}
	v := newValues(nil)
	d.give(v, c, broker.Selection{})
	var err error
	if d.scopes == nil && !sel.Scopes.Empty() {
		return refuse(broker.ParameterNotDeclared, "scopes", "provider "+d.name+" uses no scopes: leave them out")
	}
	if d.scopes != nil {
		if sel.Scopes, err = d.scopes.choose("scopes", sel.Scopes, c.DefaultScopes, v); err != nil {
			return broker.Selection{}, err
		}
	}
	if d.resources == nil && !sel.Resources.Empty() {
		return refuse(broker.ParameterNotDeclared, "resources", "provider "+d.name+" uses no resources: leave them out")
	}
	if d.resources != nil {
		kind := broker.RequestInvalid
		if sel.Resources.Empty() {
			kind = broker.CredentialIncomplete // its inputs make the default
		}
		if sel.Resources, err = d.resources.choose("resources", sel.Resources, broker.Set{}, v); err != nil {
			return broker.Selection{}, err
		}
		if slices.ContainsFunc(sel.Resources.List(), hasFragment) {
			return refuse(kind, "resources", "a resource has no fragment (#…): leave it out")
		}
	}
	if d.audience == nil && sel.Audience != "" {
		return refuse(broker.ParameterNotDeclared, "audience", "provider "+d.name+" uses no audience: leave it out")
	}
	if d.audience != nil {
		if sel.Audience = cmp.Or(sel.Audience, c.DefaultAudience); sel.Audience != "" {
			sel.Audience = d.audience.affixed(sel.Audience)
			if why := d.audience.wrongValue(sel.Audience); why != "" {
				return refuse(broker.RequestInvalid, "audience", why)
			}
		} else {
			m := d.audience.makeDefault(v)
			if m.why != "" {
				return broker.Selection{}, m.refuse("audience")
			}
			sel.Audience = m.value
		}
		if sel.Audience == "" && !d.audience.optional {
			return refuse(broker.ParameterRequired, "audience", "provider "+d.name+" requires an audience")
		}
	}
	params, err := d.chooseParameters(sel.Parameters.Map(), v)
	if err != nil {
		return broker.Selection{}, err
	}
	sel.Parameters = broker.NewPairs(params)
	return sel, nil
}

// hasFragment reports whether a resource has one. RFC 8707 section 2 forbids that.
func hasFragment(resource string) bool { return strings.Contains(resource, "#") }

func (d *definition) chooseParameters(given map[string]string, v *values) (map[string]string, error) {
	fail := func(k broker.Kind, name, why string) error { return refusal(k, "parameters."+name, why) }
	out := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		in, ok := d.parameters[name]
		if !ok {
			return nil, fail(broker.ParameterNotDeclared, name, "provider "+d.name+" has no such parameter; it has: "+list(slices.Sorted(maps.Keys(d.parameters))))
		}
		s := in.affixed(given[name])
		if s == "" {
			continue
		}
		if why := in.wrongValue(s); why != "" {
			return nil, fail(broker.RequestInvalid, name, why)
		}
		out[name] = s
	}
	for _, name := range slices.Sorted(maps.Keys(d.parameters)) {
		in := d.parameters[name]
		if out[name] != "" {
			continue
		}
		m := in.makeDefault(v)
		if m.why != "" {
			return nil, m.refuse("parameters." + name)
		}
		if m.value != "" {
			out[name] = m.value
		} else if !in.optional && !in.hasDefault {
			return nil, fail(broker.ParameterRequired, name, "provider "+d.name+" requires it")
		}
	}
	return out, nil
}

// refusal is of one thing that a caller has chosen.
func refusal(k broker.Kind, field, why string) error {
	code := broker.CodeInvalid
	switch k {
	case broker.ParameterNotDeclared:
		code = broker.CodeUnknown
	case broker.ParameterRequired:
		code = broker.CodeRequired
	default:
	}
	return &broker.Failure{Kind: k, Violations: []broker.Violation{{Field: field, Code: code, Description: why}}}
}

func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

const (
	// mostOffered is how many elements a message lists.
	mostOffered = 20
	// mostCompared bounds how many are held against what was asked for, since callers decide how often that is.
	mostCompared = 100
)

// offered are the elements that there are, with meanings where the definition knows them, the one first that was probably meant; empty: nobody
// knows.
func (s *set) offered(asked []string) string {
	all := slices.Clone(s.known)
	if s.oneOf != nil {
		all = nil
		for _, name := range s.oneOf {
			i := slices.IndexFunc(s.known, func(k known) bool { return k.name == name })
			if i < 0 {
				all = append(all, known{name: name})
			} else {
				all = append(all, s.known[i])
			}
		}
	}
	var names []string
	for _, k := range all[:min(len(all), mostCompared)] {
		names = append(names, k.name)
	}
	for _, e := range asked {
		if slices.Contains(names, e) {
			continue
		}
		if i := slices.Index(names, suggest.Nearest(e, names)); i >= 0 {
			meant := all[i]
			all = slices.Insert(slices.Delete(all, i, i+1), 0, meant)
		}
		break
	}
	var out []string
	for _, k := range all[:min(len(all), mostOffered)] {
		if k.meaning != "" {
			k.name += " (" + k.meaning + ")"
		}
		out = append(out, k.name)
	}
	if more := len(all) - len(out); more > 0 {
		out = append(out, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(out, ", ")
}

// choose applies defaults and holds the elements against one_of.
func (s *set) choose(field string, asked, stored broker.Set, v *values) (broker.Set, error) {
	if asked.Empty() {
		asked = stored
	}
	// What is sent with the separator in it is two, with blanks around that or without: one key for one token.
	if by := cmp.Or(strings.TrimSpace(s.join), s.join); by != "" && slices.ContainsFunc(asked.List(), func(e string) bool { return strings.Contains(e, by) }) {
		var err error
		if asked, err = broker.ParseSet(field, splitScopes(joinSet(asked, by), by)); err != nil {
			return broker.Set{}, err
		}
	}
	if asked.Empty() {
		var all []string
		for _, t := range s.defaults {
			if x, ok, err := t.expand(v); err == nil && ok && x != "" {
				all = append(all, x)
			}
		}
		var err error
		if asked, err = broker.SetOf(all); err != nil { // the definition's own words
			return broker.Set{}, err
		}
	}
	if asked.Empty() && s.required {
		why := "at least one is needed"
		if there := s.offered(nil); there != "" {
			why += ": " + there
		}
		return broker.Set{}, refusal(broker.ParameterRequired, field, why)
	}
	for _, e := range asked.List() {
		if s.oneOf == nil || slices.Contains(s.oneOf, e) {
			continue
		}
		return broker.Set{}, broker.Invalid(broker.Violation{Field: field, Description: fmt.Sprintf("%.80q is none of %s", e, s.offered([]string{e}))})
	}
	return asked, nil
}
