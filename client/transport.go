package client

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// A Transport puts a Source's token on requests, and gets another where the API refuses it. Safe for concurrent use, as its Base is. The zero value is not ready:
// Source is needed.
type Transport struct {
	Source *Source
	// Base sends the requests; nil: http.DefaultTransport.
	Base http.RoundTripper
	// Rejects reports whether an answer says that the token is refused, beside 401, for APIs that say it in another way. It must leave the body as it is. Nil: 401 alone does.
	Rejects func(*http.Response) bool
}

var _ http.RoundTripper = (*Transport)(nil)

// HTTPClient returns a client whose requests bring the token. An address without a host, as "/members", is below the API's base_url.
func (s *Source) HTTPClient() *http.Client { return &http.Client{Transport: &Transport{Source: s}} }

// drainMost is how much of an answer is read so that its connection can be used again.
const drainMost = 64 << 10

// RoundTrip implements http.RoundTripper. The token goes to the API's origin alone: a request to another one fails, and one to which the API redirects is sent without.
// Where the API refuses the token, and the request's body can be sent again (http.Request.GetBody), it is sent once more with another; if there is none, the API's answer is
// the answer.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := t.Source.Token(r.Context())
	if err != nil {
		closeBody(r)
		return nil, err
	}
	plain, err := t.Source.placed(r, token)
	if err != nil {
		closeBody(r)
		return nil, err
	}
	if plain == nil { // the API has sent it elsewhere
		res, err := t.base().RoundTrip(undressed(r, token))
		if err == nil {
			res.Request = r // by which it is known whether it came by here
		}
		return res, err
	}
	res, err := t.send(plain, token)
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusUnauthorized && (t.Rejects == nil || !t.Rejects(res)) {
		return res, nil
	}
	t.Source.Reject(token)
	if r.Body != nil && r.Body != http.NoBody && r.GetBody == nil {
		return res, nil
	}
	next, err := t.Source.Token(r.Context())
	if err != nil || next.ID == token.ID {
		return res, nil //nolint:nilerr // the API has answered, and the broker has no better
	}
	again, err := t.Source.placed(r, next)
	if err != nil || again == nil {
		return res, nil //nolint:nilerr // the next token is for another place
	}
	if r.GetBody != nil {
		if again.Body, err = r.GetBody(); err != nil {
			return res, nil //nolint:nilerr // the same
		}
	}
	_, _ = io.CopyN(io.Discard, res.Body, drainMost)
	_ = res.Body.Close()
	return t.send(again, next)
}

// send sends a request with a token on. Nothing of the answer but what the API wrote has the token: what follows it, such as a Referer or an error, is made of that.
func (t *Transport) send(plain *http.Request, token *Token) (*http.Response, error) {
	res, err := t.base().RoundTrip(dressed(plain, token))
	if err != nil {
		return nil, err
	}
	res.Request = plain
	return located(res, token), nil
}

func (t *Transport) base() http.RoundTripper {
	if t.Base == nil {
		return http.DefaultTransport
	}
	return t.Base
}

func closeBody(r *http.Request) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
}

// placed returns a request as it is to be sent to the API, without the token; nil: the API has sent it to another origin.
func (s *Source) placed(r *http.Request, t *Token) (*http.Request, error) {
	where := t.BaseURL
	if where == "" {
		where = s.origin
	}
	base, err := url.Parse(where)
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" {
		return nil, fmt.Errorf("tokenbroker: the definition of %s does not say where its API is: say so by WithOrigin", s.request.Credential)
	}
	out := r.Clone(r.Context())
	switch {
	case r.URL.Opaque != "":
		return nil, errors.New("tokenbroker: the address of a request is not Opaque here: Path and RawPath say what is asked")
	case cameBy(r, base):
		return nil, nil //nolint:nilnil // the API has sent it there, and what comes back from there is not what was asked
	case r.URL.Host == "" && r.URL.Scheme == "" && r.Response == nil: // where it leads without a host is said by located
		if !strings.HasSuffix(base.Path, "/") {
			base.Path += "/"
		}
		u := base.JoinPath(r.URL.EscapedPath())
		if !strings.HasPrefix(u.Path+"/", base.Path) || climbs(u.Path) {
			return nil, fmt.Errorf("tokenbroker: %.100q is not below %s", r.URL.Path, base)
		}
		u.RawQuery, u.Fragment = r.URL.RawQuery, r.URL.Fragment
		out.URL, out.Host = u, ""
	case originOf(r.URL) != originOf(base) || r.Host != "" && lower(r.Host) != lower(r.URL.Host):
		if r.Response != nil { // the answer that led here
			return nil, nil //nolint:nilnil // as the comment says
		}
		return nil, fmt.Errorf("tokenbroker: %s has tokens for %s, and this request is for %s", s.request.Credential, originOf(base), originOf(r.URL))
	}
	return out, nil
}

// climbs reports whether a path has a `..` in it, which some read behind a backslash, before parameters or what looks like a query, or where they decode it again, too.
func climbs(path string) bool {
	for range 4 {
		for s := range strings.FieldsFuncSeq(path, func(r rune) bool { return strings.ContainsRune(`/\;?#`, r) }) {
			if s == ".." || s == "." {
				return true
			}
		}
		again := unescaped(path)
		if again == path {
			return false
		}
		path = again
	}
	return false
}

// dressed is a request with a token on.
func dressed(r *http.Request, t *Token) *http.Request {
	out := r.Clone(r.Context())
	for _, h := range t.Headers {
		out.Header.Set(h.Name, h.Value)
	}
	if len(t.Cookies) > 0 {
		out.Header["Cookie"] = []string{withCookies(out.Header["Cookie"], t.Cookies)}
	}
	if len(t.Query) > 0 {
		out.URL.RawQuery = withQuery(out.URL.RawQuery, t.Query)
	}
	return out
}

// undressed is a request without the query parameters of a token, which an API that redirects may have written down where it leads.
func undressed(r *http.Request, t *Token) *http.Request {
	if len(t.Query) == 0 {
		return r
	}
	out := r.Clone(r.Context())
	out.URL.RawQuery = withoutQuery(r.URL.RawQuery, t.Query)
	return out
}

// cameBy reports whether a redirect has led a request past another origin than the API's: with a token, whoever is there would choose what is asked with it.
func cameBy(r *http.Request, api *url.URL) bool {
	for by := r.Response; by != nil && by.Request != nil; by = by.Request.Response {
		if originOf(by.Request.URL) != originOf(api) {
			return true
		}
	}
	return false
}

// located has a redirect say where it leads from where the API is, for who asked may have given a path alone, and without the token's query parameters, which the API may have repeated there.
// One that leads to another origin from where a token is in the query, or that has the token in it all the same, leads nowhere: the answer is what the API has said. An API
// may repeat the address it was asked by, in any form, so that somebody comes back to it.
func located(res *http.Response, t *Token) *http.Response {
	if at := res.Header.Get("Location"); at != "" {
		if before, query, ok := strings.Cut(at, "?"); ok && len(t.Query) > 0 { // also of what is no address: whoever says so says it whole
			at = before + "?" + withoutQuery(query, t.Query)
			res.Header.Set("Location", at)
		}
		to, err := res.Request.URL.Parse(at)
		if t.isIn(at) || len(t.Query) > 0 && (err != nil || originOf(to) != originOf(res.Request.URL)) {
			res.Header.Del("Location")
		} else if err == nil {
			res.Header.Set("Location", to.String())
		}
	}
	return res
}

// shortestSecret is how short a header, cookie or parameter of a token is that is a secret: what is shorter may be in any address.
const shortestSecret = 8

// isIn reports whether an address has a value of the token's in it, as it is or escaped, five times at most.
func (t *Token) isIn(address string) bool {
	var secrets []string
	if t.AccessToken != "" {
		secrets = append(secrets, t.AccessToken)
	}
	for _, f := range slices.Concat(t.Headers, t.Cookies, t.Query) {
		if len(f.Value) >= shortestSecret {
			secrets = append(secrets, f.Value)
		}
	}
	for range 5 {
		for _, s := range secrets {
			if strings.Contains(address, s) || strings.Contains(address, url.QueryEscape(s)) {
				return true
			}
		}
		plain := unescaped(address)
		if plain == address {
			break
		}
		address = plain
	}
	return false
}

// unescaped is a text with each escape of a byte as the byte; what is none stays.
func unescaped(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && i+2 < len(s) {
			if b, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				out.WriteByte(byte(b))
				i += 2
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// originOf is as of RFC 6454 section 4. A host that is not in ASCII is asked by another name (RFC 5891), and is no host's but its own here.
func originOf(u *url.URL) string {
	scheme, port := lower(u.Scheme), u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[scheme]
	}
	return scheme + "://" + lower(u.Hostname()) + ":" + port
}

// lower folds A to Z alone: to strings.ToLower and EqualFold some letters of other alphabets are those, such as the Turkish İ.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}

// withCookies is a Cookie header (RFC 6265 section 4.2) with cookies in the place of those of the same names. Values are as they were set: net/http would quote some.
func withCookies(lines []string, cookies []Field) string {
	var all []string
	for _, line := range lines {
		for pair := range strings.SplitSeq(line, ";") {
			pair = strings.TrimSpace(pair)
			name, _, _ := strings.Cut(pair, "=")
			if pair != "" && !named(cookies, name) {
				all = append(all, pair)
			}
		}
	}
	for _, c := range cookies {
		all = append(all, c.Name+"="+c.Value)
	}
	return strings.Join(all, "; ")
}

// withQuery is a query with parameters in the place of those of the same names. The others stay as they were written.
func withQuery(query string, parameters []Field) string {
	all := []string{withoutQuery(query, parameters)}
	if all[0] == "" {
		all = nil
	}
	for _, p := range parameters {
		all = append(all, url.QueryEscape(p.Name)+"="+url.QueryEscape(p.Value))
	}
	return strings.Join(all, "&")
}

// withoutQuery is a query without the parameters of these names.
func withoutQuery(query string, parameters []Field) string {
	var all []string
	for pair := range strings.SplitSeq(query, "&") {
		name, _, _ := strings.Cut(pair, "=")
		if plain, err := url.QueryUnescape(name); pair != "" && (err != nil || !named(parameters, plain)) {
			all = append(all, pair)
		}
	}
	return strings.Join(all, "&")
}

func named(fields []Field, name string) bool {
	return slices.ContainsFunc(fields, func(f Field) bool { return f.Name == name })
}

var errPlain = errors.New("tokenbroker: a token is sent over TLS only")
