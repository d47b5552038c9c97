package provider

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/tokenbroker/tokenbroker/internal/jsondoc"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// defaultHeader is what a request has unless the definition says otherwise.
func defaultHeader() http.Header {
	return http.Header{"Accept": {"application/json"}, "User-Agent": {"tokenbroker"}}
}

// buildAt makes a request of its declaration, its URL and the values that hold. Errors quote the definition only.
func (d *definition) buildAt(q *request, u *url.URL, v *values) (*transport.Request, error) {
	w := &transport.Request{Method: q.method, URL: u, Header: defaultHeader()}
	if err := addQuery(u, q.query, v); err != nil {
		return nil, err
	}
	for _, fs := range [][]field{d.headers, q.headers} {
		if err := setHeaders(w.Header, fs, v); err != nil {
			return nil, err
		}
	}
	cookie, err := q.cookies.header(v)
	if err != nil {
		return nil, err
	}
	if q.withToken {
		if cookie, err = d.putToken(w, cookie, v); err != nil {
			return nil, err
		}
	}
	if cookie != "" {
		w.Header.Set("Cookie", cookie)
	}
	if err := q.auth.apply(w.Header, v); err != nil {
		return nil, err
	}
	var contentType string
	if w.Body, contentType, err = q.body.encode(v); err != nil {
		return nil, err
	}
	if contentType != "" && w.Header.Get("Content-Type") == "" {
		w.Header.Set("Content-Type", contentType)
	}
	return w, nil
}

func addQuery(u *url.URL, fields []field, v *values) error {
	q, err := formOf(fields, v)
	if err != nil || q == "" {
		return err
	}
	if u.RawQuery != "" {
		u.RawQuery += "&"
	}
	u.RawQuery += q
	return nil
}

// formOf encodes as application/x-www-form-urlencoded, in the order written. A value whose template names something absent
// is left out; a list that is a value is repeated.
func formOf(fields []field, v *values) (string, error) {
	var b strings.Builder
	add := func(name, value string) {
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		b.WriteString(url.QueryEscape(name) + "=" + url.QueryEscape(value))
	}
	for _, f := range fields {
		for _, t := range f.values {
			if name, ok := t.alone(); ok {
				x, err := v.get(name)
				if err != nil {
					return "", err
				}
				if l, ok := x.v.([]any); ok {
					for _, e := range l {
						add(f.name, jsondoc.Text(e))
					}
					continue
				}
			}
			s, ok, err := t.expand(v)
			if err != nil {
				return "", err
			}
			if ok {
				add(f.name, s)
			}
		}
	}
	return b.String(), nil
}

// A badValue says that a part of a request cannot be made, and of which names it would be.
type badValue struct {
	why   string
	names []string
}

func (e *badValue) Error() string { return e.why }

func (t text) bad(format string, args ...any) error {
	return &badValue{fmt.Sprintf(format, args...), t.names()}
}

var errHeaderValue = errors.New("a value has a character that no header may have")

func setHeaders(h http.Header, fields []field, v *values) error {
	for _, f := range fields {
		if f.remove {
			h.Del(f.name)
			continue
		}
		h.Del(f.name)
		for _, t := range f.values {
			s, ok, err := t.expand(v)
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
			if !headerSafe(s) {
				return t.bad("header %s: %v", f.name, errHeaderValue)
			}
			h.Add(f.name, s)
		}
	}
	return nil
}

// headerSafe: no CR, LF, NUL or other control character (RFC 9110 section 5.5).
func headerSafe(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

// header makes the Cookie header (RFC 6265 section 4.2.1).
func (c cookies) header(v *values) (string, error) {
	if c.whole != nil {
		s, _, err := c.whole.expand(v)
		if err != nil {
			return "", err
		}
		if c.broken(s) || !headerSafe(s) {
			return "", c.whole.bad("cookies: %v", errHeaderValue)
		}
		return s, nil
	}
	var all []string
	for _, f := range c.fields {
		for _, t := range f.values {
			s, ok, err := t.expand(v)
			if err != nil {
				return "", err
			}
			if !ok {
				continue
			}
			if !headerSafe(s) || strings.Contains(s, ";") {
				return "", t.bad("cookie %s: %v", f.name, errHeaderValue)
			}
			all = append(all, f.name+"="+s)
		}
	}
	return strings.Join(all, "; "), nil
}

// broken reports whether a value has made a cookie of its own in a whole header; where a value is all of it, it is a header.
func (c cookies) broken(s string) bool {
	_, alone := c.whole.alone()
	return !alone && strings.Count(s, ";") > strings.Count(withNames(c.whole.parts, ""), ";")
}

func (a auth) apply(h http.Header, v *values) error {
	if a.kind != secretBasic && a.kind != rawBasic {
		return nil
	}
	id, okID, err := a.id.expand(v)
	if err != nil {
		return err
	}
	secret, okSecret, err := a.secret.expand(v)
	if err != nil {
		return err
	}
	if !okID || !okSecret {
		return &badValue{"auth: the client's id or secret is absent", append(a.id.names(), a.secret.names()...)}
	}
	if a.kind == secretBasic {
		id, secret = url.QueryEscape(id), url.QueryEscape(secret)
	}
	h.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(id+":"+secret)))
	return nil
}

func (b body) encode(v *values) (data []byte, contentType string, err error) {
	switch b.kind {
	case formBody:
		s, err := formOf(b.fields, v)
		return []byte(s), "application/x-www-form-urlencoded", err
	case jsonBody:
		x, ok, err := b.json.value(v)
		if err != nil {
			return nil, "", err
		}
		if !ok && b.json.kind == treeObject {
			x = ordered{}
		}
		if !ok && b.json.kind == treeList {
			x = []any{}
		}
		var out bytes.Buffer
		enc := json.NewEncoder(&out)
		enc.SetEscapeHTML(false)
		if err := enc.Encode(x); err != nil {
			return nil, "", errors.New("json: a value cannot be sent")
		}
		return bytes.TrimSuffix(out.Bytes(), []byte("\n")), "application/json", nil
	case textBody:
		s, err := b.text.expandAs(b.as, v)
		return []byte(s), "", err
	case multipartBody:
		return encodeMultipart(b.fields, v)
	case noBody:
	}
	return nil, "", nil
}

func encodeMultipart(fields []field, v *values) ([]byte, string, error) {
	var out bytes.Buffer
	w := multipart.NewWriter(&out)
	for _, f := range fields {
		for _, t := range f.values {
			s, ok, err := t.expand(v)
			if err != nil {
				return nil, "", err
			}
			if ok {
				_ = w.WriteField(f.name, s) // a bytes.Buffer does not fail
			}
		}
	}
	_ = w.Close()
	return out.Bytes(), w.FormDataContentType(), nil
}

// value makes the JSON. A leaf that is a name alone keeps that value's type; one that names something absent is left out, and
// so is an object or a list of which nothing is left.
func (t *tree) value(v *values) (x any, ok bool, err error) {
	switch t.kind {
	case treeRaw:
		return t.raw, true, nil
	case treeList:
		out := []any{}
		for _, e := range t.list {
			x, ok, err := e.value(v)
			if err != nil {
				return nil, false, err
			}
			if ok {
				out = append(out, x)
			}
		}
		return out, len(out) > 0 || len(t.list) == 0, nil
	case treeObject:
		out := ordered{}
		for _, m := range t.members {
			x, ok, err := m.tree.value(v)
			if err != nil {
				return nil, false, err
			}
			if ok {
				out = append(out, pair{m.name, x})
			}
		}
		return out, len(out) > 0 || len(t.members) == 0, nil
	case treeLeaf:
	}
	if name, alone := t.leaf.alone(); alone {
		x, err := v.get(name)
		if s, is := x.v.(string); is && !utf8.ValidString(s) {
			return nil, false, t.leaf.bad("json: {{%s}} %v", name, errNotUTF8)
		}
		return x.v, !x.absent(), err
	}
	s, ok, err := t.leaf.expand(v)
	if !utf8.ValidString(s) {
		return nil, false, t.leaf.bad("json: %s %v", spoken(t.leaf.parts), errNotUTF8)
	}
	return s, ok, err
}

// ordered is an object whose members are sent in the order written.
type ordered []pair

type pair struct {
	name  string
	value any
}

// MarshalJSON implements json.Marshaler.
func (o ordered) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, p := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		for j, x := range []any{p.name, p.value} {
			if j > 0 {
				b.WriteByte(':')
			}
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(x); err != nil {
				return nil, err
			}
			b.Truncate(b.Len() - 1) // Encode ends with a newline
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}
