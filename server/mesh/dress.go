package mesh

import (
	"net/url"
	"slices"
	"strings"
	"unicode"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// A field is a header.
type field struct{ name, value string }

// headersOf are those that a token puts on a request, in lower case, in the place of those of the same names, and those that it takes off: what the client has sent to prove who
// they are is never the API's to see. cookies is the header that the client has sent.
func headersOf(t *tokenbrokerv1.Token, cookies string) (set []field, remove []string) {
	authorized := false
	for _, h := range t.GetHeaders() {
		f := field{strings.ToLower(h.GetName()), h.GetValue()}
		authorized = authorized || f.name == "authorization"
		set = append(set, f)
	}
	if len(t.GetCookies()) > 0 {
		set = append(set, field{"cookie", withCookies(cookies, t.GetCookies())})
	}
	if !authorized { // Envoy removes after it has set
		remove = []string{"authorization"}
	}
	return set, remove
}

// withCookies is a Cookie header (RFC 6265 section 4.2.1) with ours in the place of those of the same names. Cookies of several lines an Envoy writes behind each other with a comma,
// which some APIs read as that, too, and some decode names. What is no cookie, because it has a control character or half of a pair of quotes, is left out: some would read on into ours.
func withCookies(header string, ours []*tokenbrokerv1.Cookie) string {
	named := func(name string) bool {
		name = strings.TrimSpace(name)
		plain := unescaped(name)
		return slices.ContainsFunc(ours, func(o *tokenbrokerv1.Cookie) bool { return o.GetName() == name || o.GetName() == plain })
	}
	var out []string
	for c := range strings.SplitSeq(header, ";") {
		c = strings.TrimSpace(without(c, ",", named))
		if c != "" && strings.Count(c, `"`)%2 == 0 && !strings.ContainsFunc(c, unicode.IsControl) {
			out = append(out, c)
		}
	}
	for _, o := range ours {
		out = append(out, o.GetName()+"="+o.GetValue())
	}
	return strings.Join(out, "; ")
}

// withQuery is a path with ours in the place of query parameters of the same names. The others stay as they were written. What some APIs read as a separator is one
// (HTML 4.01 section B.2.2 has the semicolon).
func withQuery(path string, ours []*tokenbrokerv1.QueryParameter) string {
	path, query, _ := strings.Cut(path, "?")
	named := func(name string) bool { return means(name, ours) }
	var out []string
	for p := range strings.SplitSeq(query, "&") {
		if p = without(p, ";", named); p != "" {
			out = append(out, p)
		}
	}
	for _, o := range ours {
		out = append(out, url.QueryEscape(o.GetName())+"="+url.QueryEscape(o.GetValue()))
	}
	return path + "?" + strings.Join(out, "&")
}

// without is a text without those of its parts, NAME=VALUE between separators, whose names are to go.
func without(s, separator string, named func(name string) bool) string {
	return strings.Join(slices.DeleteFunc(strings.Split(s, separator), func(part string) bool {
		name, _, _ := strings.Cut(part, "=")
		return named(name)
	}), separator)
}

// means reports whether the name of a query parameter, as it is written, is that of one of ours.
func means(written string, ours []*tokenbrokerv1.QueryParameter) bool {
	name := unescaped(written)
	return slices.ContainsFunc(ours, func(o *tokenbrokerv1.QueryParameter) bool { return o.GetName() == name })
}

// unescaped is a name as its percent-encoding means it; what is none stays.
func unescaped(written string) string {
	if name, err := url.QueryUnescape(written); err == nil {
		return name
	}
	return written
}
