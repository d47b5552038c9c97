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
	for _, q := range slices.Concat(d.obtain, d.refresh) {
		all = append(all, broker.Destination{Use: broker.Requests, Place: d.origin(q.target(), v)})
	}
	if d.baseURL != nil {
		all = append(all, broker.Destination{Use: broker.API, Place: d.origin(*d.baseURL, v)})
	}
	for name, in := range d.inputs {
		if in.secret && in.handedOut {
			all = append(all, broker.Destination{Use: broker.Callers, Place: name})
		}
	}
	return broker.SortDestinations(all)
}

// origin is where a URL leads. Where a caller or an answer has a say in that, their part stands in braces.
func (d *definition) origin(t urlTemplate, v *values) string {
	if !slices.ContainsFunc(t.hostNames(), func(n string) bool { return !d.certain(n, map[string]bool{}) }) {
		if u, err := d.url(t.place(), v); err == nil {
			return transport.Origin(u)
		}
	}
	var b strings.Builder
	for _, p := range t.origin() {
		switch in := d.parameters[p.name]; {
		case p.name == "":
			b.WriteString(p.literal)
		case in != nil && in.oneOf != nil:
			b.WriteString("{" + p.name + ": " + strings.Join(in.oneOf, ", ") + "}")
		case d.certain(p.name, map[string]bool{}):
			x, _ := v.get(p.name) // what cannot be computed is sent nowhere
			b.WriteString(x.String())
		default:
			// An answer tells it, or something computed from one: whatever decides issuance may change what it becomes.
			b.WriteString("{" + p.name + " by " + d.digest + "}")
		}
	}
	return b.String()
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
