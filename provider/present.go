package provider

import (
	"errors"
	"fmt"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
)

func splitScopes(s, join string) []string {
	out := []string{}
	for _, x := range strings.Split(s, join) {
		if x = strings.TrimSpace(x); x != "" {
			out = append(out, x)
		}
	}
	return out
}

var errNotPresentable = errors.New("the token is no value that a header may have")

// Present implements broker.Definition.
func (d *definition) Present(c broker.Credential, sel broker.Selection, t broker.Issued) (broker.Presentation, error) {
	v := newValues(d.let)
	d.give(v, c, sel)
	for name, s := range t.Values {
		v.set(name, s.Reveal(), true)
	}
	if t.TokenType != "" {
		v.set("token_type", t.TokenType, false)
	}
	out := broker.Presentation{Headers: append([]broker.Field(nil), t.Headers...)}
	var err error
	switch {
	case d.present.nothing:
	case !d.present.declared:
		// RFC 6750 section 2.1, where the upstream does not say that it is another type.
		if t.TokenType == "" || strings.EqualFold(t.TokenType, "bearer") {
			token := t.Values["token"].Reveal()
			if !visible(token) {
				return broker.Presentation{}, errNotPresentable
			}
			out.Headers = append(out.Headers, broker.Field{Name: "Authorization", Value: broker.NewSecret("Bearer " + token)})
		}
	default:
		if out.Headers, err = shown(out.Headers, d.present.headers, v, visible); err != nil {
			return broker.Presentation{}, err
		}
		if out.Query, err = shown(nil, d.present.query, v, nil); err != nil {
			return broker.Presentation{}, err
		}
		if out.Cookies, err = d.presentCookies(v); err != nil {
			return broker.Presentation{}, err
		}
	}
	if d.baseURL != nil {
		u, err := d.transport.url(*d.baseURL, v)
		if err != nil {
			return broker.Presentation{}, err
		}
		out.BaseURL = u.String()
	}
	for _, name := range d.attributes {
		x, err := v.get(name)
		if err != nil {
			return broker.Presentation{}, err
		}
		if !x.absent() {
			if out.Attributes == nil {
				out.Attributes = map[string]string{}
			}
			out.Attributes[name] = x.String()
		}
	}
	return out, nil
}

// shown renders fields; each value must pass good, where it is given.
func shown(out []broker.Field, fields []field, v *values, good func(string) bool) ([]broker.Field, error) {
	for _, f := range fields {
		for _, t := range f.values {
			s, ok, err := t.expand(v)
			if err != nil {
				return nil, err
			}
			if !ok {
				return nil, fmt.Errorf("%s: a value is absent", f.name)
			}
			if good != nil && !good(s) {
				return nil, fmt.Errorf("%s: %w", f.name, errNotPresentable)
			}
			out = append(out, broker.Field{Name: f.name, Value: broker.NewSecret(s)})
		}
	}
	return out, nil
}

func (d *definition) presentCookies(v *values) ([]broker.Field, error) {
	good := func(s string) bool { return visible(s) && !strings.Contains(s, ";") }
	if d.present.cookies.whole == nil {
		return shown(nil, d.present.cookies.fields, v, good)
	}
	s, ok, err := d.present.cookies.whole.expand(v)
	if err != nil {
		return nil, err
	}
	if !ok || !visible(s) {
		return nil, errNotPresentable
	}
	var out []broker.Field
	for _, c := range strings.Split(s, ";") {
		if name, value, found := strings.Cut(strings.TrimSpace(c), "="); found {
			out = append(out, broker.Field{Name: name, Value: broker.NewSecret(value)})
		}
	}
	return out, nil
}

// visible: printable ASCII and inner spaces (RFC 9110 section 5.5, without the obsolete rest).
func visible(s string) bool {
	return s != "" && strings.TrimSpace(s) == s && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// putToken shows the token on a request of the definition itself.
func (d *definition) putToken(w *wire, cookie string, v *values) (string, error) {
	token, err := v.get("token")
	if err != nil {
		return "", err
	}
	if !d.present.declared {
		w.header.Set("Authorization", "Bearer "+token.String())
		return cookie, nil
	}
	if err := setHeaders(w.header, d.present.headers, v); err != nil {
		return "", err
	}
	if err := addQuery(w.url, d.present.query, v); err != nil {
		return "", err
	}
	own, err := d.present.cookies.header(v)
	if err != nil || own == "" {
		return cookie, err
	}
	if cookie != "" {
		own = cookie + "; " + own
	}
	return own, nil
}
