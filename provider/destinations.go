package provider

import (
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// Destinations implements broker.Definition.
func (d *definition) Destinations(c broker.Credential) []broker.Destination {
	v := newValues(d.let)
	d.give(v, c, broker.Selection{})
	all := []broker.Destination{}
	add := func(use broker.Use, place string) { all = append(all, broker.Destination{Use: use, Place: place}) }
	for _, q := range slices.Concat(d.obtain, d.refresh) {
		add(broker.Requests, d.origin(q.target(), v))
		if q.issuer != nil { // its document says which host is asked: another path is another document
			add(broker.Requests, "as told by "+d.spelled(*q.issuer, v))
		}
	}
	if d.baseURL != nil {
		add(broker.API, d.origin(*d.baseURL, v))
	}
	for name, in := range d.inputs {
		switch {
		case in.secret && in.handedOut && in.was != "": // what was kept as another input may come out of this one
			add(broker.Callers, name+", formerly "+in.was)
		case in.secret && in.handedOut:
			add(broker.Callers, name)
		}
	}
	shown := d.visibleToCallers()
	for _, q := range slices.Concat(d.obtain, d.refresh) {
		for _, t := range q.take {
			if shown[t.name] && !builtinNames[t.name] {
				add(broker.Callers, t.name+", taken from "+t.where.source)
			}
		}
	}
	if !d.user {
		add(broker.Release, builtIn)
	}
	return broker.SortDestinations(all)
}

// builtIn is the place of what a release decides.
const builtIn = "built in"

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
			// An answer tells it, or something computed from one: whatever decides issuance may change what it becomes.
			b.WriteString("{" + p.name + " by " + d.digest + "}")
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
