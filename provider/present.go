package provider

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/jsondoc"
	"github.com/tokenbroker/tokenbroker/provider/transport"
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

// What is kept of the scopes that were granted: they are stored, and in every answer to callers.
const (
	mostScopes      = 1000
	mostScopesBytes = 64 << 10
)

// leftOut stands for the scopes that are not kept. No wildcard of a policy stands for it: nobody is given a token by a rule for scopes of which some are not known.
const leftOut = "\ufffd"

// scopesOf splits what was granted. Of too many the first are kept, and none that a terminal would obey.
func scopesOf(v value, s *set) []string {
	out, size := granted(v, s), 0
	all := len(out)
	out = slices.DeleteFunc(out, func(scope string) bool {
		return strings.ContainsFunc(scope, func(r rune) bool { return !unicode.IsPrint(r) })
	})
	for i, scope := range out {
		if size += len(scope); i == mostScopes || size > mostScopesBytes {
			kept := make([]string, i, i+1)
			for j := range kept {
				kept[j] = strings.Clone(out[j]) // or they would keep all of it in memory
			}
			out = kept
			break
		}
	}
	if len(out) < all {
		out = append(out, leftOut)
	}
	return out
}

func granted(v value, s *set) []string {
	out := []string{}
	if l, ok := v.v.([]any); ok {
		for _, x := range l {
			out = append(out, jsondoc.Text(x))
		}
		return out
	}
	join := " "
	if s != nil && s.join != "" {
		join = s.join
	}
	// Upstreams answer with blanks (RFC 6749 section 3.3) or commas, however they want to be asked.
	for x := range strings.SplitSeq(v.String(), join) {
		out = append(out, strings.FieldsFunc(x, func(r rune) bool { return r == ',' || unicode.IsSpace(r) })...)
	}
	return out
}

// bearerTypes are what upstreams call a token that is shown as RFC 6750 section 2.1 has it, in lower case and without what separates words.
var bearerTypes = map[string]bool{
	"": true, "bearer": true, "bearertoken": true, "applicationaccesstoken": true, "useraccesstoken": true,
}

var wordSeparators = strings.NewReplacer(" ", "", "_", "", "-", "")

// bearer reports whether a token of this type is shown as Bearer where the definition does not say how.
func bearer(tokenType string) bool {
	return bearerTypes[strings.ToLower(wordSeparators.Replace(tokenType))]
}

var errTokenType = errors.New("its token_type is none that is shown as Bearer: write how the API wants it, as in present: {headers: {Authorization: \"Bearer {{token}}\"}}")

var errNotPresentable = errors.New("the token is not a valid header value")

// Present implements broker.Definition.
func (d *definition) Present(c broker.Credential, sel broker.Selection, t broker.Issued) (broker.Presentation, error) {
	v := newValues(d.let)
	d.give(v, c, sel)
	for _, name := range append(d.own(), "token") {
		if s := t.Values[name]; !s.IsZero() {
			v.set(name, s.Reveal(), true)
		}
	}
	if t.TokenType != "" {
		v.set("token_type", t.TokenType, false)
	}
	out := broker.Presentation{Headers: append([]broker.Field(nil), t.Headers...)}
	var err error
	switch {
	case d.present.nothing:
	case !d.present.declared:
		token := t.Values["token"].Reveal()
		switch {
		case !bearer(t.TokenType):
			return broker.Presentation{}, errTokenType
		case !visible(token):
			return broker.Presentation{}, errNotPresentable
		}
		out.Headers = append(out.Headers, broker.Field{Name: "Authorization", Value: broker.NewSecret("Bearer " + token)})
	default:
		if out.Headers, err = d.shown(out.Headers, d.present.headers, v, visible); err != nil {
			return broker.Presentation{}, err
		}
		if out.Query, err = d.shown(nil, d.present.query, v, nil); err != nil {
			return broker.Presentation{}, err
		}
		if out.Cookies, err = d.presentCookies(v); err != nil {
			return broker.Presentation{}, err
		}
	}
	if d.baseURL != nil {
		u, err := d.url(*d.baseURL, v)
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
	return out, isText(out)
}

// isText fails where something is no text: nobody could be told. Attributes are of answers, and are texts.
func isText(p broker.Presentation) error {
	for _, f := range slices.Concat(p.Headers, p.Cookies, p.Query) {
		if !utf8.ValidString(f.Value.Reveal()) {
			return fmt.Errorf("%s %w", f.Name, errNotUTF8)
		}
	}
	return nil
}

// mayLack reports whether a name may be absent when a token is shown: what stands for it is left out then.
func (d *definition) mayLack(name string) bool {
	names := map[string]bool{}
	d.behind(name, names)
	for n := range names {
		if in := cmp.Or(d.inputs[n], d.parameters[n]); in != nil && (in.optional || in.hasDefault) {
			return true
		}
		switch n {
		case "scope", "audience", "resources", "token_type":
			return true
		}
		for _, q := range slices.Concat(d.obtain, d.refresh) {
			if slices.ContainsFunc(q.take, func(t take) bool { return t.name == n && t.where.optional }) {
				return true
			}
		}
	}
	return false
}

// render expands a template of what is shown; "" and no error: it is left out.
func (d *definition) render(t text, what string, v *values, good func(string) bool) (string, error) {
	s, ok, err := t.expand(v)
	if err != nil {
		return "", err
	}
	if !ok {
		for _, n := range t.names() {
			if x, err := v.get(n); err != nil || x.absent() && !d.mayLack(n) {
				return "", fmt.Errorf("%s: %s is absent", what, n)
			}
		}
		return "", nil
	}
	if good != nil && !good(s) {
		return "", fmt.Errorf("%s: %w", what, errNotPresentable)
	}
	return s, nil
}

// shown renders fields; each value must pass good, where it is given. A header takes the place of one that is there.
func (d *definition) shown(out []broker.Field, fields []field, v *values, good func(string) bool) ([]broker.Field, error) {
	for _, f := range fields {
		out = slices.DeleteFunc(out, func(x broker.Field) bool { return strings.EqualFold(x.Name, f.name) })
		for _, t := range f.values {
			s, err := d.render(t, f.name, v, good)
			if err != nil {
				return nil, err
			}
			if s != "" {
				out = append(out, broker.Field{Name: f.name, Value: broker.NewSecret(s)})
			}
		}
	}
	return out, nil
}

func (d *definition) presentCookies(v *values) ([]broker.Field, error) {
	good := func(s string) bool { return visible(s) && !strings.Contains(s, ";") }
	var out []broker.Field
	if d.present.cookies.whole == nil {
		for _, f := range d.present.cookies.fields { // unlike headers they mind case
			one, err := d.shown(nil, []field{f}, v, good)
			if err != nil {
				return nil, err
			}
			out = append(out, one...)
		}
		return out, nil
	}
	s, err := d.render(*d.present.cookies.whole, "cookies", v, func(s string) bool { return visible(s) && !d.present.cookies.broken(s) })
	if err != nil {
		return nil, err
	}
	for c := range strings.SplitSeq(s, ";") {
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
func (d *definition) putToken(w *transport.Request, cookie string, v *values) (string, error) {
	token, err := v.get("token")
	if err != nil {
		return "", err
	}
	if !d.present.declared {
		w.Header.Set("Authorization", "Bearer "+token.String())
		return cookie, nil
	}
	if err := setHeaders(w.Header, d.present.headers, v); err != nil {
		return "", err
	}
	if err := addQuery(w.URL, d.present.query, v); err != nil {
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
