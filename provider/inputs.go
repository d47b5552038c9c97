package provider

import (
	"cmp"
	"encoding/json"
	"encoding/pem"
	"errors"
	"maps"
	"net/mail"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// Check implements broker.Definition.
func (d *definition) Check(c broker.Credential, given []string) []broker.Violation {
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
		if in.secret && !slices.Contains(given, name) {
			continue
		}
		if why := d.wrongInput(name, in.affixed(v)); why != "" {
			bad(field, broker.CodeInvalid, why)
		}
	}
	if len(wrong) == 0 {
		v := newValues(d.let)
		d.give(v, c, broker.Selection{})
		d.hostless(c, v, bad)
		for what, m := range d.defaults(v) {
			if m.tooLong { // else whoever chooses for themselves may go on
				wrong = append(wrong, m.blame(what)...)
			}
		}
		slices.SortStableFunc(wrong, func(a, b broker.Violation) int {
			return cmp.Or(cmp.Compare(a.Field, b.Field), cmp.Compare(a.Description, b.Description))
		})
	}
	return wrong
}

// hostless finds the inputs of which a host is computed that is none. What stands in a host as it was given has been looked at.
func (d *definition) hostless(c broker.Credential, v *values, bad func(string, broker.Code, string)) {
	said := map[string]bool{}
	for _, u := range d.urls() {
		of := u.hostNames()
		if len(of) == 0 || !d.allCertain(of) {
			continue
		}
		_, err := d.url(u.place(), v)
		why := (*badValue)(nil)
		if !errors.As(err, &why) {
			continue
		}
		behind := d.named([]text{{parts: namesOf(why.names)}})
		for _, name := range slices.Sorted(maps.Keys(behind)) {
			if in := d.inputs[name]; in != nil && in.stored(c, name) != "" && !said[name] {
				said[name] = true
				bad("credential.inputs."+name, broker.CodeInvalid, "makes no host: "+why.Error())
			}
		}
	}
}

func namesOf(names []string) []part {
	var parts []part
	for _, n := range names {
		parts = append(parts, part{name: n})
	}
	return parts
}

var uuidWord = regexp.MustCompile(`^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$`)

// hasLines are the formats of inputs that may be written in several lines.
var hasLines = map[string]bool{"pem": true, "json": true, "jwk": true}

// wrongInput says what is wrong with an input's value, also for the URLs that it is in; empty: nothing.
func (d *definition) wrongInput(name, v string) string {
	in := d.inputs[name]
	if why := in.wrongValue(v); why != "" {
		return why
	}
	if !in.secret && !hasLines[in.format] && strings.ContainsFunc(v, unicode.IsControl) {
		return "has a control character or a line break in it"
	}
	if in.format == "url" {
		if _, err := d.whole(v); err != nil {
			return err.Error()
		}
	}
	if in.format == hostPathFormat {
		return "" // it stands where a path may be
	}
	for _, u := range d.urls() {
		if why := u.misfit(name, v); why != "" {
			return why
		}
	}
	return ""
}

// wrongValue says what is wrong with a value, without showing it; empty: nothing.
func (in *input) wrongValue(v string) string {
	switch {
	case v == "":
		return "is empty"
	case strings.ContainsRune(v, utf8.RuneError): // the character that stands for them is none either
		return "has bytes that are no text (UTF-8): write it in base64, hex or PEM, as the provider wants it"
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
		if _, err := wholeURL(v); err != nil {
			return "must be an absolute https URL, without user and fragment"
		}
	case hostPathFormat:
		u, err := parseURL(literalText("https://" + v))
		if err != nil || u.hasQuery {
			return "must be a host, with a path or without, as in example.com/base: without https:// and without a query"
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

// stored is what a credential has for an input, also under the name that it was renamed from; empty: nothing. What was kept as
// a secret is never read for an input that is none.
func (in *input) stored(c broker.Credential, name string) string {
	for _, n := range []string{name, in.was} {
		s := c.Inputs[n]
		if in.secret {
			s = c.Secrets[n].Value.Reveal()
		}
		if n != "" && s != "" {
			return s
		}
	}
	return ""
}
