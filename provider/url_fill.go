package provider

import (
	"net/url"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/internal/dotdot"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// names are all names in it.
func (u urlTemplate) names() []string { return u.written.names() }

// hostNames are the names that decide which host is asked.
func (u urlTemplate) hostNames() []string {
	if u.whole != "" {
		return []string{u.whole}
	}
	return text{parts: slices.Concat(u.host, u.port)}.names()
}

// origin are the parts of scheme, host and port, as they are written.
func (u urlTemplate) origin() []part {
	if u.whole != "" {
		return []part{{name: u.whole}}
	}
	out := append([]part{{literal: u.scheme + "://"}}, u.host...)
	if len(u.port) > 0 {
		out = append(append(out, part{literal: ":"}), u.port...)
	}
	return out
}

// place is the URL up to the end of its host.
func (u urlTemplate) place() urlTemplate {
	u.segments, u.query, u.hasQuery = nil, nil, false
	return u
}

// hostPath is the name that is all of the host, and may bring a path where its format says so; empty: there is none.
func (u urlTemplate) hostPath() string {
	if len(u.host) == 1 && len(u.port) == 0 {
		return u.host[0].name
	}
	return ""
}

// before is this URL followed by the path and the query of another. Of its own path a final slash is left out then.
func (u urlTemplate) before(next urlTemplate) urlTemplate {
	if n := len(u.segments); n > 0 && len(u.segments[n-1]) == 0 && len(next.segments) > 0 {
		u.segments = u.segments[:n-1]
	}
	u.segments = slices.Concat(u.segments, next.segments)
	if next.hasQuery {
		u.query, u.hasQuery = next.query, true
	}
	u.written = next.written
	return u
}

// misfit says why a value cannot stand for a name in this URL; empty: it can.
func (u urlTemplate) misfit(name, value string) string {
	switch {
	case name == u.whole:
		return "" // its format is url
	case value == "" && slices.Contains(u.names(), name):
		return "must not be empty: it is part of a URL"
	}
	for _, p := range u.host {
		if p.name == name && !isHostName(value) {
			return "must be a host's name or a part of one, without port and path: it is in the host of a URL"
		}
	}
	for _, p := range u.port {
		if p.name == name && !transport.IsPort(value) {
			return "must be a port, from 1 to 65535"
		}
	}
	for _, s := range u.segments {
		if len(s) == 1 && s[0].name == name && dotdot.Leads(value) {
			return "must not lead elsewhere by . or ..: it is in the path of a URL"
		}
	}
	return ""
}

// url fills a URL's template. A value cannot leave the part that it stands in: it is encoded there, or refused.
func (d *definition) url(u urlTemplate, v *values) (*url.URL, error) {
	if name := u.whole; name != "" {
		s, err := v.get(name)
		if err != nil {
			return nil, err
		}
		base, err := wholeURL(s.String())
		if err == nil {
			_, err = d.fill(base.place(), v)
		}
		if err != nil {
			return nil, nameText(name).bad("{{%s}} is not a URL that may be asked: it must be absolute, with https (or be of a host in upstream.allow_http), and without user, fragment, . and ..", name)
		}
		if base.hasQuery && (len(u.segments) > 0 || u.hasQuery) {
			return nil, nameText(name).bad("{{%s}} has a query, and something comes after it", name)
		}
		return d.fill(base.before(u), v)
	}
	if name := u.hostPath(); name != "" && d.inputs[name] != nil && d.inputs[name].format == hostPathFormat {
		s, err := v.get(name)
		if err != nil {
			return nil, err
		}
		base, err := parseURL(literalText(u.scheme + "://" + s.String()))
		if err != nil || base.hasQuery {
			return nil, nameText(name).bad("{{%s}} is not a host with a path", name)
		}
		return d.fill(base.before(u), v)
	}
	return d.fill(u, v)
}

// whole makes the URL of a value.
func (d *definition) whole(s string) (*url.URL, error) {
	u, err := wholeURL(s)
	if err != nil {
		return nil, err
	}
	return d.fill(u, nil) // nothing is named in it
}

// fill makes the URL of a template that begins with no name of a whole one.
func (d *definition) fill(u urlTemplate, v *values) (*url.URL, error) {
	host, err := fillParts(u.host, v, func(s string) (string, bool) { return s, isHostName(s) }, "a host's name")
	if err != nil {
		return nil, err
	}
	port, err := fillParts(u.port, v, func(s string) (string, bool) { return s, transport.IsPort(s) }, "a URL as its port")
	if err != nil {
		return nil, err
	}
	if port != "" {
		host += ":" + port
	}
	out := &url.URL{Scheme: u.scheme, Host: host, ForceQuery: u.hasQuery}
	for _, s := range u.segments {
		one, err := fillParts(s, v, func(s string) (string, bool) { return url.PathEscape(s), true }, "a path")
		if err != nil {
			return nil, err
		}
		out.RawPath += "/" + one
		plain, _ := url.PathUnescape(one) // what is encoded here can be decoded
		if out.Path += "/" + plain; dotdot.Leads(plain) {
			return nil, text{parts: s}.bad("%s would lead elsewhere in a path, by . or ..", spoken(s))
		}
	}
	if out.RawQuery, err = fillParts(u.query, v, func(s string) (string, bool) { return url.QueryEscape(s), true }, "a query"); err != nil {
		return nil, err
	}
	return out, d.transport.Allowed(out)
}

// fillParts puts values into one part of a URL, encoded for it.
func fillParts(parts []part, v *values, encode func(string) (string, bool), what string) (string, error) {
	var b strings.Builder
	for _, p := range parts {
		if p.name == "" {
			b.WriteString(p.literal)
			continue
		}
		x, err := v.get(p.name)
		if err != nil {
			return "", err
		}
		if x.String() == "" {
			return "", nameText(p.name).bad("{{%s}} is empty, and part of a URL", p.name)
		}
		s, good := encode(x.String())
		if !good {
			return "", nameText(p.name).bad("{{%s}} cannot be part of %s", p.name, what)
		}
		b.WriteString(s)
	}
	return b.String(), nil
}

// spoken lists the names of a part for people.
func spoken(parts []part) string {
	var all []string
	for _, n := range (text{parts: parts}).names() {
		all = append(all, "{{"+n+"}}")
	}
	return strings.Join(all, " and ")
}

// urls are all URLs of a definition.
func (d *definition) urls() []urlTemplate {
	var out []urlTemplate
	for _, q := range slices.Concat(d.obtain, d.refresh) {
		out = append(out, q.target())
	}
	if d.baseURL != nil {
		out = append(out, *d.baseURL)
	}
	return out
}

// ledBy are the names that decide where a request goes. Of an issuer's URL they are all: its document says where, and another path is another
// document.
func (q *request) ledBy() []string {
	if q.issuer != nil {
		return q.issuer.names()
	}
	return q.url.hostNames()
}

// target is the URL that a request begins with: its own, or that of the issuer which says where to ask.
func (q *request) target() urlTemplate {
	if q.issuer != nil {
		return *q.issuer
	}
	return q.url
}
