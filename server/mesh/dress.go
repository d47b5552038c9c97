package mesh

import (
	"net/url"
	"regexp"
	"slices"
	"strings"

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

// withCookies is a Cookie header (RFC 6265 section 4.2.1) with ours in the place of those that some may take for them. What is no cookie by that section is left out: readers differ in where
// it ends, and some would read on into ours, or stop before it. Cookies of several lines an Envoy writes behind each other with a comma.
func withCookies(header string, ours []*tokenbrokerv1.Cookie) string {
	named := func(name string) bool {
		return slices.ContainsFunc(ours, func(o *tokenbrokerv1.Cookie) bool { return alike(name, o.GetName()) })
	}
	var out []string
	for part := range strings.SplitSeq(header, ";") {
		all := strings.Split(part, ",")
		for i, c := range all {
			all[i] = strings.Trim(c, " \t")
		}
		if slices.ContainsFunc(all, func(c string) bool { return !isCookie.MatchString(c) }) {
			continue
		}
		for _, c := range all {
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

// isCookie is RFC 6265 section 4.1.1.
var isCookie = regexp.MustCompile(`^[!#-'*+.^_` + "`" + `|~0-9A-Za-z-]+=("[!#-+.-:<-\[\]-~-]*"|[!#-+.-:<-\[\]-~-]*)$`)

// withQuery is a path with ours in the place of query parameters that some may take for them. The others stay as they were written. What some APIs read as a separator is one
// (HTML 4.01 section B.2.2 has the semicolon), and what is no percent-encoding is left out.
func withQuery(path string, ours []*tokenbrokerv1.QueryParameter) string {
	path, query, _ := strings.Cut(path, "?")
	named := func(name string) bool {
		_, err := url.QueryUnescape(name)
		return err != nil || slices.ContainsFunc(ours, func(o *tokenbrokerv1.QueryParameter) bool { return alike(name, o.GetName()) })
	}
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

// alike reports whether some may take a name, as it is written, for ours: they decode it, fold its case, end it at a bracket or a NUL, or make underscores of dots and blanks.
func alike(written, ours string) bool { return plain(written) == plain(ours) }

func plain(name string) string {
	if s, err := url.QueryUnescape(name); err == nil {
		name = s
	}
	if i := strings.IndexAny(name, "[\x00"); i > 0 {
		name = name[:i]
	}
	return strings.NewReplacer(".", "_", " ", "_").Replace(strings.ToLower(strings.TrimSpace(name)))
}
