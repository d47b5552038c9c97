package provider

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// Destinations implements broker.Definition.
func (d *definition) Destinations(c broker.Credential) []broker.Destination {
	v := newValues(d.let)
	d.give(v, c, broker.Selection{})
	all := make([]broker.Destination, 0, len(d.flows)+1)
	for _, f := range d.flows {
		all = append(all, broker.Destination{Use: f.use, Place: shortened(legible(d.place(f, v)), longestPlace)})
	}
	if !d.user {
		all = append(all, broker.Destination{Use: broker.Release, Place: builtIn})
	}
	return broker.SortDestinations(all)
}

// builtIn is the place of what a release decides.
const builtIn = "built in"

// longestPlace bounds a place, in bytes: as long as one of an AcceptCredential may be.
const longestPlace = 8192

// legible is a text that can be stored, sent and shown: what has bytes that are none stands in quotes, with those escaped. No host is made of such, so nothing is sent there.
func legible(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return strconv.Quote(s)
}

// shortened is something that somebody can accept: a text of more than most bytes ends with its digest.
func shortened(s string, most int) string {
	if len(s) <= most {
		return s
	}
	h := sha256.Sum256([]byte(s))
	return strings.ToValidUTF8(s[:most/2], "") + " … and so on, by " + hex.EncodeToString(h[:])
}

// place is where a flow leads with these values.
func (d *definition) place(f flow, v *values) string {
	if f.to == nil {
		return f.what
	}
	where := ""
	if f.told {
		where = "as told by " + d.spelled(*f.to, v)
	} else {
		where = d.origin(*f.to, v)
	}
	if f.what == "" {
		return where
	}
	return where + ": " + f.what
}

// origin is where a URL leads. Where a caller or an answer has a say in that, their part stands in braces.
func (d *definition) origin(t urlTemplate, v *values) string {
	if d.allCertain(t.hostNames()) {
		if u, err := d.url(t.place(), v); err == nil {
			return transport.Origin(u)
		}
	}
	return d.filled(t.origin(), v)
}

// spelled is a whole URL, as origin is the beginning of one.
func (d *definition) spelled(t urlTemplate, v *values) string {
	if d.allCertain(t.names()) {
		if u, err := d.url(t, v); err == nil {
			return u.String()
		}
	}
	return d.filled(t.written.parts, v)
}

func (d *definition) filled(parts []part, v *values) string {
	var b strings.Builder
	for _, p := range parts {
		switch in := d.parameters[p.name]; {
		case p.name == "":
			b.WriteString(p.literal)
		case in != nil && in.oneOf != nil:
			b.WriteString("{" + p.name + ": " + strings.Join(in.oneOf, ", ") + "}")
		case d.allCertain([]string{p.name}):
			x, _ := v.get(p.name) // what cannot be computed is sent nowhere
			b.WriteString(x.String())
		default:
			// An answer tells it, or something computed from one: whatever decides what is sent and taken may change what it becomes.
			b.WriteString("{" + p.name + " by " + d.how + "}")
		}
	}
	return b.String()
}

func (d *definition) allCertain(names []string) bool {
	return !slices.ContainsFunc(names, func(n string) bool { return !d.certain(n, map[string]bool{}) })
}

// certain reports whether the credential's inputs alone decide what a name stands for.
func (d *definition) certain(name string, seen map[string]bool) bool {
	if seen[name] {
		return false
	}
	seen[name] = true
	if in := d.inputs[name]; in != nil {
		return !in.secret
	}
	x := d.let[name]
	return x != nil && x.certain() && !slices.ContainsFunc(x.names(), func(n string) bool { return !d.certain(n, seen) })
}

// certain reports whether it computes the same of the same.
func (c *compute) certain() bool {
	if c == nil {
		return true
	}
	switch c.op {
	case "uuid", "random", "now":
		return false
	}
	return c.of.certain() && !slices.ContainsFunc(c.any, func(x *compute) bool { return !x.certain() })
}
