package provider

import (
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/internal/suggest"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

// tokenOf: a token that is not asked for is what it is made of, and callers get it.
func (c *checker) tokenOf(t text) {
	for _, n := range t.names() {
		if s := c.meaning(n).kept; s != "" {
			c.Wrong(t.at, "token: callers would see the secret %q; say handed_out: true on it if that is meant", s)
		}
	}
	if len(t.names()) == 0 {
		c.Wrong(t.at, "token: it does not stand in a definition, which callers may read: declare an input, inputs: {api_key: {secret: true, handed_out: true}}, and write \"{{api_key}}\"")
	}
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
	for _, n := range []string{"expires_in", "expires_at", "refresh_token"} { // of an answer, and not kept beside the token
		delete(known, n)
	}
	here := placeOf(known)
	p := c.d.present
	uses := false
	shown := func(t text, what string) {
		c.text(t, what, here)
		for _, n := range t.names() {
			if c.meaning(n).changes {
				c.Wrong(t.at, "%s: %q is another value each time that the token is shown, and none that was sent; take what is shown from the answer", what, n)
			}
			if s := c.meaning(n).kept; s != "" {
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
	c.cookieFields(p.cookies.fields, "present.cookies")
	if p.cookies.whole != nil {
		shown(*p.cookies.whole, "present.cookies")
	}
	for _, f := range p.headers {
		for _, t := range f.values {
			if !visible("x" + withNames(t.parts, "x") + "x") {
				c.Wrong(t.at, "present.%s: a header that is handed out has printable ASCII alone; write nothing else", f.name)
			}
		}
	}
	for _, f := range slices.Concat(p.headers, c.d.headers) {
		if notPresented(f.name) || !validHeaderName(f.name) {
			c.Wrong(f.at, "present: the header %s cannot be handed out; write another one", yamldoc.Clip(f.name))
		}
	}
	for _, f := range c.d.headers {
		for _, t := range f.values {
			for _, n := range t.names() {
				if s := c.meaning(n).kept; s != "" {
					c.Wrong(t.at, "headers.%s: headers are handed out with the token, and callers would see the secret %q; put it into the request's own headers", f.name, s)
				}
			}
		}
	}
	if p.declared && !p.nothing && !uses && len(all) > 0 {
		c.Wrong(all[0].at, "present: nothing of it names a value that was taken; write {{token}}, or present: nothing")
	}
	if c.d.baseURL != nil {
		c.text(c.d.baseURL.written, "base_url", here)
		c.fits(*c.d.baseURL, "base_url")
		for _, n := range c.d.baseURL.names() {
			if s := c.meaning(n).kept; s != "" {
				c.Wrong(c.d.baseURL.written.at, "base_url: callers would see the secret %q; say handed_out: true on it if that is meant", s)
			}
		}
	}
	own := c.d.own()
	for i, a := range c.d.attributes {
		if a == "expires_in" || a == "expires_at" {
			c.Wrong(c.d.attributesAt[i], "attributes: %s is not kept beside the token, and callers get the token's end in any case; leave it out, or take the value under another name", a)
			continue
		}
		if !slices.Contains(own, a) && !builtinNames[a] || a == "refresh_token" || a == "token" {
			p := c.d.attributesAt[i]
			c.Problems = append(c.Problems, Problem{
				File: c.File, Line: p.Line, Column: p.Column,
				Message: "attributes: nothing of this name is taken; take it, or leave it out", Suggestion: suggest.Nearest(a, own),
			})
		}
	}
}
