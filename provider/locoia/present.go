package locoia

import (
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

func (im *importer) take(access, refresh string, elsewhere bool) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	switch {
	case elsewhere && im.l.AccessTokenInHeader != "":
		n = mapping("token", mapping("header", im.l.AccessTokenInHeader))
	case elsewhere && im.l.AccessTokenInCookie != "":
		n = mapping("token", im.cookieValue(), "cookie", im.cookiePair())
	default:
		n = mapping("token", or(access, "access_token"))
	}
	if refresh != "" && im.l.RefreshURL != "" {
		n.Content = append(n.Content, mapping("refresh_token", refresh).Content...)
	}
	return n
}

// block is the header block.
func (im *importer) block() header {
	if im.l.HeaderConfiguration != nil {
		return *im.l.HeaderConfiguration
	}
	return im.l.header
}

func (h header) inQuery() bool { return h.TokenInHeader != nil && !*h.TokenInHeader }

// plain: it does not say how the token is shown.
func (h header) plain() bool {
	return !h.inQuery() && h.HeaderKey == "" && h.TokenPrefix == "" && h.TokenFormat == ""
}

// present turns the header block into let and present. A token that was a cookie is shown as that cookie, unless the block says otherwise.
func (im *importer) present() (let, present *yaml.Node) {
	h := im.block()
	headers := im.otherHeaders(h)
	if h.plain() {
		var cookies any
		if im.wholeCookie() {
			cookies = "{{cookie}}"
		} else if headers != nil {
			headers.Content = append(mapping("Authorization", "Bearer {{token}}").Content, headers.Content...)
		}
		if cookies == nil && headers == nil {
			return nil, nil
		}
		return nil, mapping("headers", headers, "cookies", cookies)
	}
	format := im.shown("token_format", or(h.TokenFormat, "{{token}}"))
	value := strings.ReplaceAll(or(h.TokenPrefix, "{{token_format}}"), "{{ token_format }}", "{{token_format}}")
	if h.Encode {
		let = mapping("encoded", mapping("base64", format))
		format = "{{encoded}}"
	}
	value = im.namesOfToken(strings.ReplaceAll(value, "{{token_format}}", format))
	switch {
	case h.inQuery():
		return let, mapping("headers", headers, "query", mapping(or(h.HeaderKey, "access_token"), value))
	case strings.EqualFold(h.HeaderKey, "Cookie"):
		if im.wholeCookie() {
			value = "{{cookie}}"
		}
		return let, mapping("headers", headers, "cookies", value)
	}
	token := mapping(or(h.HeaderKey, "Authorization"), value)
	if headers != nil {
		token.Content = append(token.Content, headers.Content...)
	}
	return let, mapping("headers", token)
}

// otherHeaders are those that go with the token's own; nil: none.
func (im *importer) otherHeaders(h header) *yaml.Node {
	all := maps.Clone(h.Headers)
	if h.UserAgent != "" {
		if all == nil {
			all = map[string]string{}
		}
		all["User-Agent"] = h.UserAgent
	}
	if h.ContentType != "" {
		im.note("content_type: it is that of requests to the API, and whoever sends a body says its type")
	}
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, k := range slices.Sorted(maps.Keys(all)) {
		switch {
		case !h.plain() && strings.EqualFold(k, or(h.HeaderKey, "Authorization")):
			im.note("headers: %s is the token's header; the other is dropped", k)
			continue
		case strings.EqualFold(k, "User-Agent") && im.names(all[k]) == im.userAgent:
			continue // it is the definition's, and handed out with the token
		case strings.EqualFold(k, "User-Agent") && im.userAgent != "":
			im.note("headers: the User-Agent of the API's requests is another than that of the token's")
		}
		n.Content = append(n.Content, mapping(k, im.shown(k, all[k])).Content...)
	}
	if len(n.Content) == 0 {
		return nil
	}
	return n
}

// shown turns a template of ours that callers will see; secrets in it are handed out, as they were.
func (im *importer) shown(field, s string) string {
	s = im.kept(field, im.names(s))
	for _, m := range placeholder.FindAllStringSubmatch(s, -1) {
		if in, ok := im.inputs[m[1]]; ok && in.secret {
			in.handedOut = true
			im.inputs[m[1]] = in
		}
	}
	return s
}

// wholeCookie reports whether the token is shown as the cookie that it was, by the name that it had.
func (im *importer) wholeCookie() bool {
	h := im.block()
	return im.l.AccessTokenInCookie != "" && (h.plain() || strings.EqualFold(h.HeaderKey, "Cookie") && !strings.Contains(h.TokenPrefix+h.TokenFormat, "="))
}

// cookieValue takes the value of the cookie that has a unique string in it: of that name, else in its name, else in its value.
func (im *importer) cookieValue() *yaml.Node {
	unique, _, _ := strings.Cut(im.l.AccessTokenInCookie, "=")
	part := regexp.QuoteMeta(unique)
	return list(
		mapping("cookie", unique),
		mapping("cookies", "all", "pattern", `(?:^|; )[^;=]*`+part+`[^;=]*=([^;]*)`),
		mapping("cookies", "all", "pattern", `(?:^|; )[^;=]*=([^;]*`+part+`[^;]*)`),
	)
}

// cookiePair takes that cookie with its name; nil: it is not wanted.
func (im *importer) cookiePair() *yaml.Node {
	if !im.wholeCookie() {
		return nil
	}
	unique, _, _ := strings.Cut(im.l.AccessTokenInCookie, "=")
	part := regexp.QuoteMeta(unique)
	return list(
		mapping("cookies", "all", "pattern", `(?:^|; )(`+part+`=[^;]*)`),
		mapping("cookies", "all", "pattern", `(?:^|; )([^;=]*`+part+`[^;=]*=[^;]*)`),
		mapping("cookies", "all", "pattern", `(?:^|; )([^;=]*=[^;]*`+part+`[^;]*)`),
	)
}

func list(all ...*yaml.Node) *yaml.Node { return &yaml.Node{Kind: yaml.SequenceNode, Content: all} }

// namesOfToken is names of what shows the token, in which the name of our own let stays.
func (im *importer) namesOfToken(s string) string {
	const mark = "\x00encoded\x00"
	return strings.ReplaceAll(im.names(strings.ReplaceAll(s, "{{encoded}}", mark)), mark, "{{encoded}}")
}
