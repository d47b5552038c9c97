package mesh

import (
	"iter"
	"net/url"
	"slices"
	"strings"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// A field is a header.
type field struct{ name, value string }

// headersOf are those that a token puts on a request, in lower case, in the place of those of the same names, and those that it takes off: what the client has sent to prove who
// they are is never the API's to see, nor what a server reads as the same header (CGI makes underscores of hyphens: RFC 3875 section 4.1.18). sent are the names of the client's headers, in
// lower case, and cookies is the one with its cookies.
func headersOf(t *tokenbrokerv1.Token, sent iter.Seq[string], cookies string) (set []field, remove []string) {
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
	for name := range sent {
		if !slices.ContainsFunc(set, func(f field) bool { return f.name == name }) && slices.ContainsFunc(set, func(f field) bool { return hyphened(f.name) == hyphened(name) }) {
			remove = append(remove, name)
		}
	}
	return set, remove
}

// hyphened is a header's name as CGI has it: some make the same of all that is neither a letter nor a digit.
func hyphened(name string) string {
	return strings.Map(func(r rune) rune {
		if 'a' <= r && r <= 'z' || '0' <= r && r <= '9' {
			return r
		}
		return '-'
	}, name)
}

// withCookies is a Cookie header (RFC 6265 section 4.2.1) with ours in the place of those that some may take for them. What is no cookie by that section is left out: readers differ in where
// it ends, and some would read on into ours, or stop before it. Cookies of several lines an Envoy writes behind each other with a comma.
func withCookies(header string, ours []*tokenbrokerv1.Cookie) string {
	named := alike(ours)
	var out []string
	for part := range strings.SplitSeq(header, ";") {
		are := strings.Split(part, ",")
		for i, c := range are {
			are[i] = strings.Trim(c, " \t")
		}
		if slices.ContainsFunc(are, func(c string) bool { return !isCookie(c) }) {
			continue
		}
		for _, c := range are {
			if name, _, _ := strings.Cut(c, "="); !named(name) {
				out = append(out, c)
			}
		}
	}
	for _, o := range ours {
		out = append(out, o.GetName()+"="+o.GetValue())
	}
	return strings.Join(out, "; ")
}

// isCookie reports whether it is one by RFC 6265 section 4.1.1.
func isCookie(c string) bool {
	name, value, ok := strings.Cut(c, "=")
	if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
		value = value[1 : len(value)-1]
	}
	return ok && name != "" && visible(name, `()<>@,;:\"/[]?={}`) && visible(value, `",;\`)
}

// visible reports whether a text is of visible ASCII, but for some.
func visible(s, except string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune(except, r) })
}

// withQuery is a path with ours in the place of query parameters that some may take for them. The others stay as they were written. What some APIs read as a separator is one
// (HTML 4.01 section B.2.2 has the semicolon), and what is no percent-encoding is left out.
func withQuery(path string, ours []*tokenbrokerv1.QueryParameter) string {
	path, query, _ := strings.Cut(path, "?")
	named := alike(ours)
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

// alike says of a name, as it is written, whether some may take it for one of ours: they decode it, fold its case as Unicode has it, take it out of brackets or from behind another
// question mark, end it at a bracket or a NUL, or make underscores of dots and blanks. What cannot be decoded is one too: readers differ in what they make of it.
func alike[N interface{ GetName() string }](ours []N) func(written string) bool {
	taken := make([]string, len(ours))
	for i, o := range ours {
		taken[i], _ = plain(o.GetName())
	}
	return func(written string) bool {
		is, ok := plain(written)
		return !ok || slices.Contains(taken, is)
	}
}

// plain is a name as the most generous reader has it; false: it cannot be decoded.
func plain(name string) (string, bool) {
	if !strings.ContainsFunc(name, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '_' && r != '-' }) {
		return name, true // as most are
	}
	if strings.ContainsAny(name, "%+") {
		s, err := url.QueryUnescape(name)
		if err != nil {
			return strings.ToLower(name), false
		}
		name = s
	}
	name = strings.TrimLeft(name, "[? ")
	if i := strings.IndexAny(name, "[]\x00"); i >= 0 {
		name = name[:i]
	}
	return underscores.Replace(strings.ToLower(strings.ToUpper(strings.TrimSpace(name)))), true
}

var underscores = strings.NewReplacer(".", "_", " ", "_")
