package provider

import (
	"encoding/base64"
	"errors"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tokenbroker/tokenbroker/internal/jsondoc"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// An answer is what came back, and what is read out of it.
type answer struct {
	transport.Answer
	doc    any // the parsed body, where it is JSON or a form
	parsed bool
	// html: a page for people, as proxies and login forms send.
	html bool
	// unread is why a body that should be a document is none; empty: it is one, or is not to be.
	unread string
	// tooMany: it has more values than are read.
	tooMany bool
	// twice are the names that a form has more than once.
	twice map[string]bool
	// names are the values that hold in the run, for a where that compares with one, or looks into one.
	names *values
}

// ambiguous is a name that this is taken from and that the answer, a form, has more than once; empty: there is none.
func (w *where) ambiguous(a *answer) string {
	for _, x := range w.anyOf {
		if name := x.ambiguous(a); name != "" {
			return name
		}
	}
	if w.path != nil && w.each == nil {
		return w.path.ambiguous(a)
	}
	return ""
}

// ambiguous is where.ambiguous.
func (p *path) ambiguous(a *answer) string {
	if len(p.steps) > 0 && a.twice[p.steps[0].member] {
		return p.steps[0].member
	}
	return ""
}

// find takes one value out of the answer, and says by which alternative.
func (w *where) find(a *answer) (value, *where) {
	for _, x := range w.anyOf {
		if v, from := x.find(a); !v.absent() {
			return v, from
		}
	}
	var v any
	switch {
	case w.each != nil:
		v = w.element(a.doc, a.named())
	case w.path != nil:
		if a.doc != nil {
			v, _ = w.path.find(a.doc)
		}
	case w.header != "":
		if h := a.Header.Get(w.header); h != "" {
			v = h
		}
	case w.cookie != "":
		if c := lastCookie(a.Header, w.cookie); c != "" {
			v = c
		}
	case w.cookies:
		if c := allCookies(a.Header); c != "" {
			v = c
		}
	case w.text:
		if s := strings.TrimSpace(string(a.Body)); s != "" {
			v = s
		}
	case w.claim != nil:
		token, _ := a.named().fixed[w.of].v.(string)
		if c := a.named().claimsIn(token); c.are != nil {
			v, _ = w.claim.find(c.are)
		}
	}
	if s, ok := v.(string); v == nil || ok && (s == "" || !utf8.ValidString(s)) {
		return value{}, nil // what is no text can be handed to nobody
	}
	if w.pattern != nil {
		m := a.named().search(w.pattern, v)
		if m == nil || m[1] == "" {
			return value{}, nil
		}
		v = m[1]
	}
	return value{v: v, secret: true}, w
}

// named are the values that hold where the answer is read.
func (a *answer) named() *values {
	if a.names == nil {
		a.names = newValues(nil)
	}
	return a.names
}

// element finds, of the list at each, the first element that has the wanted values; null wants none.
func (w *where) element(doc any, names *values) any {
	l, _ := w.each.find(doc)
	elements, _ := l.([]any)
	for _, e := range elements {
		if !slices.ContainsFunc(w.match, func(m match) bool { return !m.holds(e, names) }) {
			if w.within != nil {
				return w.within.element(e, names)
			}
			v, _ := w.path.find(e)
			return v
		}
	}
	return nil
}

func (m match) holds(element any, names *values) bool {
	x, there := m.path.find(element)
	if m.field.remove {
		return !there
	}
	return there && slices.ContainsFunc(m.field.values, func(t text) bool {
		s, ok, err := t.expand(names)
		return ok && err == nil && jsondoc.Text(x) == s
	})
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

// claims are those of a token that is a JWT; nil: it is none. tooMany: they are not read, for there are more than mostClaims.
type claims struct {
	are     map[string]any
	tooMany bool
}

// mostClaims bounds the values of a token's claims. An API takes a token in a header, which has some 16 KiB.
const mostClaims = 2000

// claimsOf reads a JWT's claims (RFC 7519 section 7.2) without verifying it: it is the upstream's own, and only its dates
// and names are looked at.
func claimsOf(token string) claims {
	if strings.Count(token, ".") != 2 {
		return claims{}
	}
	_, rest, _ := strings.Cut(token, ".")
	encoded, _, _ := strings.Cut(rest, ".")
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(encoded, "="))
	if err != nil {
		return claims{}
	}
	doc, err := jsondoc.ReadUpTo(raw, mostClaims)
	are, _ := doc.(map[string]any)
	return claims{are, errors.Is(err, jsondoc.ErrTooMany)}
}

const mostSeconds = 100 * 365 * 24 * 3600

// relative reads expires_in: a number or a text, with a fraction; milliseconds only where the definition says so.
func relative(s, unit string) (time.Duration, bool) {
	if unit == "d:hh:mm" {
		return daysHoursMinutes(s)
	}
	if unit == "" {
		s = strings.TrimSuffix(s, "s") // as JSON has durations of protobuf
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
