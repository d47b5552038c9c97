package provider

import (
	"encoding/base64"
	"math"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// read parses the body: as the request says, else by Content-Type, else by its first character.
func (a *answer) read(kind string) {
	if a.parsed {
		return
	}
	a.parsed = true
	media, _, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	if err != nil {
		media = ""
	}
	body := strings.TrimSpace(string(a.body))
	switch {
	case kind != "":
	case media == "application/json", strings.HasSuffix(media, "+json"):
		kind = "json"
	case media == "application/x-www-form-urlencoded":
		kind = "form"
	case strings.HasPrefix(body, "{"), strings.HasPrefix(body, "["), strings.HasPrefix(body, `"`):
		kind = "json"
	default:
		kind = "text"
		a.html = media == "text/html" || media == "application/xhtml+xml" || strings.HasPrefix(body, "<")
	}
	a.kind = kind
	switch kind {
	case "json":
		if doc, err := decodeJSON([]byte(body)); err == nil {
			a.doc = doc
		}
	case "form":
		if vs, err := url.ParseQuery(body); err == nil {
			doc := map[string]any{}
			for k, v := range vs {
				doc[k] = v[0]
			}
			a.doc = doc
		}
	}
}

// find takes one value out of the answer. taken are the values that were taken before, for claims.
func (w *where) find(a *answer, taken map[string]value) (value, string) {
	for _, x := range w.anyOf {
		if v, from := x.find(a, taken); !v.absent() {
			return v, from
		}
	}
	var v any
	switch {
	case w.each != nil:
		v = w.element(a.doc)
	case w.path != nil:
		if a.doc != nil {
			v, _ = w.path.find(a.doc)
		}
	case w.header != "":
		if h := a.header.Get(w.header); h != "" {
			v = h
		}
	case w.cookie != "":
		if c := lastCookie(a.header, w.cookie); c != "" {
			v = c
		}
	case w.cookies:
		if c := allCookies(a.header); c != "" {
			v = c
		}
	case w.text:
		if s := strings.TrimSpace(string(a.body)); s != "" {
			v = s
		}
	case w.claim != nil:
		if claims := claimsOf(taken[w.of].String()); claims != nil {
			v, _ = w.claim.find(claims)
		}
	}
	if v == nil || v == "" {
		return value{}, ""
	}
	if w.pattern != nil {
		m := w.pattern.FindStringSubmatch(textOf(v))
		if m == nil || m[1] == "" {
			return value{}, ""
		}
		v = m[1]
	}
	return value{v: v, secret: true}, w.written
}

// element finds, of the list at each, the first element that has the wanted values.
func (w *where) element(doc any) any {
	l, _ := w.each.find(doc)
	elements, _ := l.([]any)
	for _, e := range elements {
		match := true
		for _, f := range w.match {
			p, err := parsePath(f.name)
			if err != nil {
				return nil
			}
			x, _ := p.find(e)
			one := false
			for _, t := range f.values {
				s, _, _ := t.expand(newValues(nil)) // literals only: checked
				one = one || textOf(x) == s
			}
			match = match && one
		}
		if match {
			v, _ := w.path.find(e)
			return v
		}
	}
	return nil
}

// setCookies are the cookies that an answer sets. A cookie that is deleted (Max-Age=0) counts as empty.
func setCookies(h http.Header) []*http.Cookie {
	cs := (&http.Response{Header: h}).Cookies()
	for _, c := range cs {
		if c.MaxAge < 0 {
			c.Value = ""
		}
		if c.Quoted {
			c.Value = `"` + c.Value + `"` // byte for byte as it was set
		}
	}
	return cs
}

// lastCookie: of several cookies of one name the last non-empty one counts.
func lastCookie(h http.Header, name string) string {
	var v string
	for _, c := range setCookies(h) {
		if c.Name == name && c.Value != "" {
			v = c.Value
		}
	}
	return v
}

func allCookies(h http.Header) string {
	var order []string
	values := map[string]string{}
	for _, c := range setCookies(h) {
		if c.Value == "" {
			continue
		}
		if _, ok := values[c.Name]; !ok {
			order = append(order, c.Name)
		}
		values[c.Name] = c.Value
	}
	for i, n := range order {
		order[i] = n + "=" + values[n]
	}
	return strings.Join(order, "; ")
}

// claimsOf reads a JWT's claims (RFC 7519 section 7.2) without verifying it: it is the upstream's own, and only its dates
// and names are looked at. Nil where it is no JWT.
func claimsOf(token string) any {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(parts[1], "="))
	if err != nil {
		return nil
	}
	claims, err := decodeJSON(raw)
	if _, ok := claims.(map[string]any); !ok || err != nil {
		return nil
	}
	return claims
}

const mostSeconds = 100 * 365 * 24 * 3600

// relative reads expires_in: a number or a text, with a fraction; milliseconds only where the definition says so.
func relative(s, unit string) (time.Duration, bool) {
	if unit == "d:hh:mm" {
		return daysHoursMinutes(s)
	}
	f, ok := number(s)
	if !ok {
		return 0, false
	}
	switch unit {
	case "ms":
		f /= 1000
	case "m":
		f *= 60
	}
	f = math.Max(-mostSeconds, math.Min(f, mostSeconds))
	return time.Duration(f * float64(time.Second)), true
}

func daysHoursMinutes(s string) (time.Duration, bool) {
	parts := strings.Split(s, ":")
	if len(parts) != 3 {
		return 0, false
	}
	var n [3]int
	for i, p := range parts {
		x, err := strconv.Atoi(p)
		if err != nil || x < 0 || x > 36500 {
			return 0, false
		}
		n[i] = x
	}
	return time.Duration(n[0])*24*time.Hour + time.Duration(n[1])*time.Hour + time.Duration(n[2])*time.Minute, true
}

// form finds the where that a taken value came from, for its unit and layout.
func (w *where) form(written string) *where {
	for _, x := range w.anyOf {
		if f := x.form(written); f != nil && f.written == written {
			return f
		}
	}
	return w
}
