package upstreamsim

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"
)

// vocabulary is the field names that some vendor or RFC documents. Only these are shown when a field is refused: a badly
// escaped secret turns into field names.
var vocabulary = []string{
	"access_token", "assertion", "audience", "client_assertion", "client_assertion_type", "client_id", "client_secret", "clientId",
	"clientSecret", "code", "code_verifier", "codeVerifier", "grant_type", "HostID", "id", "LoginType", "Organization", "password",
	"Password", "redirect_uri", "RedirectToMyselfInCaseOfError", "refresh_token", "RememberMe", "resource", "scope", "secret", "state",
	"token", "token_type_hint", "username", "UserName",
}

// shown is a field's name, or that it is none that may be shown.
func shown(name string) string {
	if slices.Contains(vocabulary, name) {
		return name
	}
	return "a name that nobody documents"
}

// fieldSet is the fields that a request may have. A repeatable one is optional too.
type fieldSet struct{ required, optional, repeatable []string }

// fields judges the request's fields. An empty value counts as absent (RFC 6749 section 3.2).
func (x *exchange) fields(set fieldSet) (map[string]string, *answer) {
	bad := func(reason Reason, name string) (map[string]string, *answer) {
		return nil, new(x.refuse(http.StatusBadRequest, "invalid_request", reason, shown(name)))
	}
	found := make(map[string]string)
	names := make([]string, 0, len(x.values))
	for name := range x.values {
		names = append(names, name)
	}
	slices.Sort(names) // so that the same request is always refused for the same field
	for _, name := range names {
		values := x.values[name]
		known := slices.Contains(set.required, name) || slices.Contains(set.optional, name)
		if slices.Contains(set.repeatable, name) {
			continue
		}
		if !known {
			return bad(ReasonUnknownField, name)
		}
		if len(values) > 1 {
			return bad(ReasonRepeatedField, name)
		}
		if values[0] != "" {
			found[name] = values[0]
		}
	}
	for _, name := range set.required {
		if found[name] == "" {
			return bad(ReasonMissingField, name)
		}
	}
	return found, nil
}

// want refuses a field that does not have the one value it may have.
func (x *exchange) want(found map[string]string, name, value, code string) *answer {
	if found[name] == value {
		return nil
	}
	return new(x.refuse(http.StatusBadRequest, code, ReasonValue, name))
}

// value is the first value of a field, for looking before judging.
func (x *exchange) value(name string) string {
	if values := x.values[name]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// parseForm reads application/x-www-form-urlencoded text. It refuses what an encoder would have escaped, with one exception:
// OfficeRnD's own curl sample separates its scopes by a bare space.
func parseForm(text string) (values map[string][]string, invalid string) {
	values = make(map[string][]string)
	if text == "" {
		return values, ""
	}
	if strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c > '~' || strings.ContainsRune("\"<>{}\\^`|;#", c) }) {
		return nil, "not form-encoded"
	}
	for pair := range strings.SplitSeq(text, "&") {
		rawName, rawValue, ok := strings.Cut(pair, "=")
		name, err1 := url.QueryUnescape(rawName)
		value, err2 := url.QueryUnescape(rawValue)
		if !ok || name == "" || err1 != nil || err2 != nil || !utf8.ValidString(name) || !utf8.ValidString(value) {
			return nil, "not form-encoded"
		}
		values[name] = append(values[name], value)
	}
	return values, ""
}

// parseJSON reads one flat JSON object of strings; encoding/json alone would overlook repeated names.
func parseJSON(body []byte) (values map[string][]string, invalid string) {
	if !utf8.Valid(body) {
		return nil, "not UTF-8"
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, "not a JSON object"
	}
	values = make(map[string][]string)
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, "not a JSON object"
		}
		value, err := d.Token()
		text, ok := value.(string)
		if err != nil || !ok {
			return nil, "a field is not text"
		}
		key := name.(string) // the decoder allows no other
		values[key] = append(values[key], text)
	}
	if _, err := d.Token(); err != nil {
		return nil, "not a JSON object"
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, "more than a JSON object"
	}
	return values, ""
}

// identify finds the account that a request names, however it is wrong otherwise; s.mu is held.
func (s *Sim) identify(x *exchange) *account {
	for _, name := range []string{"client_id", "clientId", "id", "UserName", "username"} {
		if a := s.lookUp(x.value(name), hostSystems[x.host]...); a != nil {
			return a
		}
	}
	if user, _, ok := x.r.BasicAuth(); ok {
		plain, err := url.QueryUnescape(user)
		if err != nil {
			plain = user
		}
		if a := s.lookUp(plain, hostSystems[x.host]...); a != nil {
			return a
		}
	}
	presented, _ := bearer(x.r)
	if cookie, err := x.r.Cookie(cookieAuth); presented == "" && err == nil {
		presented = cookie.Value
	}
	if t := s.access[presented]; t != nil && slices.Contains(hostSystems[x.host], t.account.system) {
		return t.account
	}
	return nil
}
