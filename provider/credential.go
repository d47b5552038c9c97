package provider

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/mail"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// Facts implements broker.Definition.
func (d *definition) Facts() *broker.Facts { return d.facts }

// Check implements broker.Definition.
func (d *definition) Check(c broker.Credential) []broker.Violation {
	var wrong []broker.Violation
	bad := func(field string, code broker.Code, why string) {
		wrong = append(wrong, broker.Violation{Field: field, Code: code, Description: why})
	}
	for _, name := range slices.Sorted(maps.Keys(d.inputs)) {
		in := d.inputs[name]
		field := "credential.inputs." + name
		var v string
		switch {
		case in.seed:
			_, ok := c.Seeds[name]
			if _, former := c.Seeds[in.was]; !ok && !former && !in.optional {
				bad("secrets."+name, broker.CodeRequired, "is required: the first refresh token")
			}
			continue
		case in.secret:
			field = "secrets." + name
			v = in.stored(c, name)
		default:
			v = in.stored(c, name)
		}
		if v == "" {
			if !in.optional && !in.hasDefault {
				bad(field, broker.CodeRequired, "is required")
			}
			continue
		}
		if why := in.wrongValue(in.affixed(v)); why != "" {
			bad(field, broker.CodeInvalid, why)
		} else if in.format == "url" {
			if why := d.wrongURL(in.affixed(v)); why != "" {
				bad(field, broker.CodeInvalid, why)
			}
		}
	}
	return wrong
}

var uuidWord = regexp.MustCompile(`^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$`)

// wrongURL says why a URL may not be asked; empty: it may.
func (d *definition) wrongURL(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "must be an absolute https URL"
	}
	if err := d.transport.Allowed(u); err != nil {
		return err.Error()
	}
	return ""
}

// wrongValue says what is wrong with a value, without showing it; empty: nothing.
func (in *input) wrongValue(v string) string {
	switch {
	case v == "":
		return "is empty"
	case in.oneOf != nil && !slices.Contains(in.oneOf, v):
		return "must be one of " + strings.Join(in.oneOf, ", ")
	case in.pattern != nil && !in.pattern.MatchString(v):
		return "must match " + in.patternText
	}
	good := true
	switch in.format {
	case "host":
		good = transport.IsHost(v)
	case "url":
		u, err := url.Parse(v)
		good = err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil && u.Fragment == ""
		if !good {
			return "must be an absolute https URL, without user and fragment"
		}
	case "uuid":
		good = uuidWord.MatchString(v)
	case "email":
		a, err := mail.ParseAddress(v)
		good = err == nil && a.Address == v
	case "pem":
		b, _ := pem.Decode([]byte(v))
		good = b != nil
	case "json", "jwk":
		good = json.Valid([]byte(v))
	case "integer":
		_, err := strconv.ParseInt(v, 10, 64)
		good = err == nil
	case "boolean":
		good = v == "true" || v == "false"
	}
	if !good {
		return "must be " + map[string]string{
			"host": "a host name", "uuid": "a UUID", "email": "an e-mail address", "pem": "PEM", "json": "JSON", "jwk": "a JSON Web Key",
			"integer": "a whole number", "boolean": "true or false",
		}[in.format]
	}
	return ""
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
		if sel.Resources, err = d.resources.choose("resources", sel.Resources, broker.Set{}, v); err != nil {
			return broker.Selection{}, err
		}
	}
	if d.audience == nil && sel.Audience != "" {
		return refuse(broker.ParameterNotDeclared, "audience", "provider "+d.name+" uses no audience: leave it out")
	}
	if d.audience != nil {
		if sel.Audience == "" {
			sel.Audience = c.DefaultAudience
		}
		if sel.Audience == "" {
			sel.Audience = d.audience.byDefault(v)
		}
		if sel.Audience == "" && !d.audience.optional {
			return refuse(broker.ParameterRequired, "audience", "provider "+d.name+" requires an audience")
		}
		if sel.Audience != "" {
			sel.Audience = d.audience.affixed(sel.Audience)
			if why := d.audience.wrongValue(sel.Audience); why != "" {
				return refuse(broker.RequestInvalid, "audience", why)
			}
		}
	}
	params, err := d.chooseParameters(sel.Parameters.Map(), v)
	if err != nil {
		return broker.Selection{}, err
	}
	sel.Parameters = broker.NewPairs(params)
	return sel, nil
}

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
		if s := in.byDefault(v); s != "" {
			out[name] = s
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

// choose applies defaults and holds the elements against one_of.
func (s *set) choose(field string, asked, stored broker.Set, v *values) (broker.Set, error) {
	if asked.Empty() {
		asked = stored
	}
	if asked.Empty() {
		var all []string
		for _, t := range s.defaults {
			if x, ok, err := t.expand(v); err == nil && ok && x != "" {
				all = append(all, x)
			}
		}
		var err error
		if asked, err = broker.ParseSet(field, all); err != nil {
			return broker.Set{}, err
		}
	}
	for _, e := range asked.List() {
		if s.oneOf != nil && !slices.Contains(s.oneOf, e) {
			return broker.Set{}, broker.Invalid(broker.Violation{Field: field, Description: fmt.Sprintf("%.80q is none of %s", e, strings.Join(s.oneOf, ", "))})
		}
	}
	return asked, nil
}

// Host implements broker.Definition.
func (d *definition) Host(c broker.Credential) string {
	v := newValues(d.let)
	d.give(v, c, broker.Selection{})
	qs := slices.Concat(d.obtain, d.refresh)
	if len(qs) == 0 {
		return ""
	}
	for _, q := range qs {
		t := q.url
		if q.issuer != nil {
			t = *q.issuer
		}
		if u, err := d.url(hostOf(t), v); err == nil {
			return transport.HostPort(u)
		}
	}
	return "unknown"
}
