package provider

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/internal/suggest"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

// secret reports whether a name stands for a secret input, or for something computed of one.
func (c *checker) secret(name string, seen map[string]bool) bool {
	if in := c.d.inputs[name]; in != nil {
		return in.secret
	}
	if in := c.d.parameters[name]; in != nil {
		return in.secret
	}
	x, ok := c.d.let[name]
	if !ok || seen[name] {
		return name == "refresh_token" || name == "token"
	}
	seen[name] = true
	return slices.ContainsFunc(x.names(), func(n string) bool { return c.secret(n, seen) })
}

// keptSecret finds a secret input that is not to be handed out behind a name.
func (c *checker) keptSecret(name string, seen map[string]bool) string {
	if in := c.d.inputs[name]; in != nil {
		if in.secret && !in.handedOut {
			return name
		}
		return ""
	}
	if in := c.d.parameters[name]; in != nil && in.secret {
		return name
	}
	if x, ok := c.d.let[name]; ok && !seen[name] {
		seen[name] = true
		for _, n := range x.names() {
			if s := c.keptSecret(n, seen); s != "" {
				return s
			}
		}
	}
	if name == "refresh_token" {
		return name
	}
	return ""
}

// changes reports whether a name is computed of what is drawn or read from a clock.
func (c *checker) changes(name string, seen map[string]bool) bool {
	x, ok := c.d.let[name]
	if !ok || seen[name] {
		return false
	}
	seen[name] = true
	return x.changes() || slices.ContainsFunc(x.names(), func(n string) bool { return c.changes(n, seen) })
}

// notPresented are headers that a token is never shown in: they are the transport's, or a proxy's.
func notPresented(name string) bool {
	n := strings.ToLower(name)
	switch n {
	case "host", "cookie", "content-length", "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
		"te", "trailer", "transfer-encoding", "upgrade":
		return true
	}
	return strings.HasPrefix(n, ":") || strings.HasPrefix(n, "x-forwarded-") || strings.HasPrefix(n, "x-envoy-")
}

// presents checks what callers will see.
func (c *checker) presents() {
	known := c.known(c.d.obtain) // what only a refresh brings is not there before
	if len(c.d.obtain) == 0 {
		known = c.known(c.d.refresh)
	}
	known["token"] = true
	p := c.d.present
	uses := false
	shown := func(t text, what string) {
		c.text(t, what, known)
		for _, n := range t.names() {
			if c.changes(n, map[string]bool{}) {
				c.Wrong(t.at, "%s: %q is another value each time that the token is shown, and none that was sent", what, n)
			}
			if s := c.keptSecret(n, map[string]bool{}); s != "" {
				c.Wrong(t.at, "%s: callers would see the secret %q; say handed_out: true on it if that is meant", what, s)
			}
			_, static := c.d.inputs[n]
			uses = uses || !static
		}
	}
	all := slices.Concat(p.headers, p.query, p.cookies.fields)
	for _, f := range all {
		for _, t := range f.values {
			shown(t, "present."+f.name)
		}
	}
	if p.cookies.whole != nil {
		shown(*p.cookies.whole, "present.cookies")
	}
	for _, f := range slices.Concat(p.headers, c.d.headers) {
		if notPresented(f.name) || !validHeaderName(f.name) {
			c.Wrong(f.at, "present: the header %s cannot be handed out", yamldoc.Clip(f.name))
		}
	}
	for _, f := range c.d.headers {
		for _, t := range f.values {
			for _, n := range t.names() {
				if s := c.keptSecret(n, map[string]bool{}); s != "" {
					c.Wrong(t.at, "headers.%s: headers are handed out with the token, and callers would see the secret %q; put it into the request's own headers", f.name, s)
				}
			}
		}
	}
	if p.declared && !p.nothing && !uses && len(all) > 0 {
		c.Wrong(all[0].at, "present: nothing of it names a value that was taken, such as {{token}}")
	}
	if c.d.baseURL != nil {
		c.text(c.d.baseURL.written, "base_url", known)
		c.fits(*c.d.baseURL, "base_url")
		for _, n := range c.d.baseURL.names() {
			if s := c.keptSecret(n, map[string]bool{}); s != "" {
				c.Wrong(c.d.baseURL.written.at, "base_url: callers would see the secret %q", s)
			}
		}
	}
	own := c.d.own()
	for i, a := range c.d.attributes {
		if !slices.Contains(own, a) && !builtinNames[a] || a == "refresh_token" || a == "token" {
			p := c.d.attributesAt[i]
			c.Problems = append(c.Problems, Problem{
				File: c.File, Line: p.Line, Column: p.Column,
				Message: fmt.Sprintf("attributes: nothing is taken as %q", yamldoc.Clip(a)), Suggestion: suggest.Nearest(a, own),
			})
		}
	}
}
