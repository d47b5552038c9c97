package provider

import (
	"net/textproto"
	"strings"

	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

func (c *checker) fields(fs []field, what string, here *place, headers bool) {
	for _, f := range fs {
		if headers {
			c.headerName(f, what)
		}
		for _, t := range f.values {
			c.text(t, what+"."+f.name, here)
			if headers {
				c.sendable(t, what+"."+yamldoc.Clip(f.name), "")
			}
		}
	}
}

// sendable checks what is written of a header's value or a cookie's: no line breaks (RFC 9110 section 5.5), and nothing that ends it.
func (c *checker) sendable(t text, what, ends string) {
	for _, p := range t.parts {
		switch {
		case !headerSafe(p.literal):
			c.Wrong(t.at, "%s: a header has no line breaks and no control characters; leave them out", what)
			return
		case ends != "" && strings.ContainsAny(p.literal, ends):
			c.Wrong(t.at, "%s: a cookie's value has no semicolon; write each cookie as an entry of its own", what)
			return
		}
	}
}

func (c *checker) cookies(cs cookies, what string, here *place) {
	c.fields(cs.fields, what, here, false)
	c.cookieFields(cs.fields, what)
	if cs.whole != nil {
		c.text(*cs.whole, what, here)
		c.sendable(*cs.whole, what, "")
	}
}

func (c *checker) cookieFields(fs []field, what string) {
	for _, f := range fs {
		if !validHeaderName(f.name) { // both are tokens (RFC 6265 section 4.1.1, RFC 9110 section 5.6.2)
			c.Wrong(f.at, "%s: %q is not a cookie's name; write one without blanks, line breaks, or any of ()<>@,;:\\\"/[]?={}", what, yamldoc.Clip(f.name))
		}
		for _, t := range f.values {
			c.sendable(t, what+"."+yamldoc.Clip(f.name), ";")
		}
	}
}

func (c *checker) headerName(f field, what string) {
	if !validHeaderName(f.name) {
		c.Wrong(f.at, "%s: %q is not a header name; write letters, digits and -, as X-Api-Key", what, yamldoc.Clip(f.name))
		return
	}
	switch textproto.CanonicalMIMEHeaderKey(f.name) {
	case "Content-Length", "Transfer-Encoding", "Connection", "Host", "Cookie", "Upgrade", "Te", "Trailer":
		c.Wrong(f.at, "%s: %s is the transport's; leave it out (for Cookie there is cookies)", what, f.name)
	}
}

func validHeaderName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`()<>@,;:\"/[]?={}`, r)
	})
}
