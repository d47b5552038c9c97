package provider

import (
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

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

// hostNames are the names in a template of which the host of a URL is made.
func hostNames(t text) []string {
	var out []string
	for i, p := range t.parts {
		if p.name != "" {
			out = append(out, p.name)
		}
		if i == 0 && p.name != "" {
			return out // a whole URL: what follows is its path
		}
		if p.name == "" && endsHost(t.parts[:i+1]) {
			return out
		}
	}
	return out
}

// hostOf is a URL's template up to the end of its host.
func hostOf(t text) text {
	if len(t.parts) > 0 && t.parts[0].name != "" {
		return text{parts: t.parts[:1], at: t.at}
	}
	for i, p := range t.parts {
		if p.name == "" && endsHost(t.parts[:i+1]) {
			before := ""
			for _, q := range t.parts[:i] {
				before += q.literal + strings.Repeat("x", len(q.name)) // as long as it is not empty
			}
			end := part{literal: p.literal[:hostEnd(before+p.literal)-len(before)]}
			return text{parts: append(slices.Clone(t.parts[:i]), end), at: t.at}
		}
	}
	return t
}

// endsHost reports whether the host of a URL template is over after these parts.
func endsHost(parts []part) bool {
	var s string
	for _, p := range parts {
		if p.name != "" {
			s += "x"
		} else {
			s += p.literal
		}
	}
	return hostEnd(s) < len(s)
}

// hostEnd is where the host of a URL ends.
func hostEnd(s string) int {
	slashes := 0
	for i := range s {
		switch {
		case s[i] == '/' && slashes < 2:
			slashes++
		case s[i] == '/' || s[i] == '?' || s[i] == '#':
			return i
		}
	}
	return len(s)
}
