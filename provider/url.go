package provider

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/internal/dotdot"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// A urlTemplate is a URL of a definition, parsed when the definition is read: scheme, host, port, segments of the path, query
// (RFC 3986 section 3). What fills a part cannot leave it. Literals are percent-encoded already. The zero value is no URL.
type urlTemplate struct {
	// written is the template as it stands in the file.
	written text
	// whole is the name of a whole URL that this one begins with; scheme, host and port are its then. Empty: there is none.
	whole      string
	scheme     string
	host, port []part
	segments   [][]part
	query      []part
	hasQuery   bool
}

// parseURL reads a template of a URL. It fails with a sentence that says what is wrong, and what to write.
func parseURL(t text) (urlTemplate, error) {
	u := urlTemplate{written: t}
	switch {
	case len(t.parts) == 0:
		return u, errors.New("a URL is wanted; write one, as https://example.com/token")
	case t.parts[0].name != "":
		u.whole = t.parts[0].name
	default:
		scheme, _, found := strings.Cut(t.parts[0].literal, "://")
		if u.scheme = scheme; !found || scheme != "https" && scheme != "http" {
			return u, errors.New("a URL begins with https:// or with {{name}}; write the whole of it")
		}
	}
	rest := t.parts[1:]
	if u.whole == "" {
		rest = withoutFirst(t.parts, len(u.scheme+"://"))
	}
	authority, rest := cutParts(rest, "/?#")
	path, rest := cutParts(rest, "?#")
	query, fragment := cutParts(rest, "#")
	if len(fragment) > 0 {
		return u, errors.New("a fragment (#…) is never sent; leave it out, or write %23 for a literal #")
	}
	if err := u.parseAuthority(authority); err != nil {
		return u, err
	}
	if err := u.parsePath(path); err != nil {
		return u, err
	}
	if u.hasQuery = len(query) > 0; u.hasQuery {
		query = withoutFirst(query, 1)
	}
	var err error
	u.query, err = encodeParts(query, queryKeeps)
	return u, err
}

// wholeURL reads a URL that is a value.
func wholeURL(s string) (urlTemplate, error) {
	if scheme, rest, found := strings.Cut(s, "://"); found {
		s = strings.ToLower(scheme) + "://" + rest
	}
	return parseURL(literalText(s))
}

// cutParts cuts before the first of these characters in a literal.
func cutParts(parts []part, chars string) (before, after []part) {
	for i, p := range parts {
		if j := strings.IndexAny(p.literal, chars); j >= 0 {
			before = slices.Clone(parts[:i])
			if j > 0 {
				before = append(before, part{literal: p.literal[:j]})
			}
			after = slices.Clone(parts[i:])
			after[0].literal = p.literal[j:]
			return before, after
		}
	}
	return parts, nil
}

// withoutFirst leaves out the first n bytes, of a literal.
func withoutFirst(parts []part, n int) []part {
	if len(parts[0].literal) == n {
		return parts[1:]
	}
	return append([]part{{literal: parts[0].literal[n:]}}, parts[1:]...)
}

func (u *urlTemplate) parseAuthority(parts []part) error {
	example := withNames(parts, "x")
	switch {
	case u.whole != "" && example != "":
		return fmt.Errorf("after {{%s}}, which is a whole URL, comes / or ?; write {{%s}}/path", u.whole, u.whole)
	case u.whole != "":
		return nil
	case example == "":
		return errors.New("the host is missing; write https://host/path")
	case strings.Contains(example, "@"):
		return errors.New("a URL has no user (…@); write auth: {basic: [user, password]}")
	}
	if strings.HasPrefix(example, "[") {
		return u.parseIPv6(parts)
	}
	u.host, u.port = cutParts(parts, ":")
	if len(u.port) > 0 {
		u.port = withoutFirst(u.port, 1)
		named := len(u.port) == 1 && u.port[0].name != ""
		if !named && !transport.IsPort(withNames(u.port, "x")) {
			return errors.New("after the host's colon comes no port: write one from 1 to 65535")
		}
	}
	if host := withNames(u.host, "x"); !isHostName(host) {
		if strings.ContainsFunc(host, func(r rune) bool { return r > 0x7f }) {
			return errors.New("the host is not as it is sent; write its ASCII form, xn--…")
		}
		return errors.New("what stands before the path is not a host's name; write one, as example.com")
	}
	return nil
}

// parseIPv6 reads [::1] and [::1]:8443, in which nothing is named.
func (u *urlTemplate) parseIPv6(parts []part) error {
	if len(parts) == 1 && parts[0].name == "" {
		host, port, found := strings.Cut(parts[0].literal[1:], "]")
		a, err := netip.ParseAddr(host)
		if found && err == nil && a.Is6() && a.Zone() == "" && (port == "" || port[0] == ':' && transport.IsPort(port[1:])) {
			u.host = []part{{literal: "[" + host + "]"}}
			if port != "" {
				u.port = []part{{literal: port[1:]}}
			}
			return nil
		}
	}
	return errors.New("what begins with [ is an IPv6 address: write https://[2001:db8::1]/path")
}

// isHostName reports whether a text is a host's name without a port, or a part of one.
func isHostName(s string) bool { return transport.IsHost(s) && !strings.Contains(s, ":") }

func (u *urlTemplate) parsePath(parts []part) error {
	for len(parts) > 0 {
		var segment []part
		segment, parts = cutParts(withoutFirst(parts, 1), "/")
		segment, err := encodeParts(segment, pathKeeps)
		if err != nil {
			return err
		}
		plain, _ := url.PathUnescape(withNames(segment, "x")) // what is encoded here can be decoded
		if dotdot.Leads(plain) {
			return errors.New("a path has no segment . or ..; write the path that it leads to")
		}
		u.segments = append(u.segments, segment)
	}
	return nil
}

// Characters that stand for themselves beside letters and digits (RFC 3986 sections 3.3 and 3.4).
const (
	pathKeeps  = "-._~!$&'()*+,;=:@"
	queryKeeps = pathKeeps + "/?"
)

// encodeParts percent-encodes literals; what is percent-encoded stays as it is.
func encodeParts(parts []part, keeps string) ([]part, error) {
	var out []part
	for _, p := range parts {
		if p.name == "" {
			s, err := encodeLiteral(p.literal, keeps)
			if err != nil {
				return nil, err
			}
			p.literal = s
		}
		out = append(out, p)
	}
	return out, nil
}

func encodeLiteral(s, keeps string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '%':
			if i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2]) {
				return "", errors.New("a % in a URL begins a code such as %20; write %25 for a literal %")
			}
			b.WriteByte(c)
		case c < ' ' || c == 0x7f:
			return "", errors.New("a URL has no line breaks and control characters; write their code, as in %0A")
		case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(keeps, c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String(), nil
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// withNames writes parts with something in the place of each name.
func withNames(parts []part, name string) string {
	var b strings.Builder
	for _, p := range parts {
		if p.name != "" {
			b.WriteString(name)
		}
		b.WriteString(p.literal)
	}
	return b.String()
}
