package provider

import (
	"maps"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

func TestHowATokenIsShown(t *testing.T) {
	v := newVendor(t, nil)
	issued := func(kind string, values map[string]string) broker.Issued {
		t := broker.Issued{TokenType: kind, Values: map[string]broker.Secret{}}
		for k, x := range values {
			t.Values[k] = broker.NewSecret(x)
		}
		return t
	}
	plain := v.define(`obtain: {get: "https://example.com/t", take: {token: t}}`)
	for kind, want := range map[string]int{"": 1, "Bearer": 1, "bearer": 1, "BearerToken": 1, "Application Access Token": 1, "user_access_token": 1, "DPoP": 0, "mac": 0, "N_A": 0} {
		p, err := plain.Present(credential(nil), broker.Selection{}, issued(kind, map[string]string{"token": "T"}))
		if (err == nil) != (want == 1) || len(p.Headers) != want || err != nil && !strings.Contains(err.Error(), "as in present:") {
			t.Errorf("%q: got %v %v, want %d headers, or what to write", kind, p.Headers, err, want)
		}
		if want == 1 && (p.Headers[0].Name != "Authorization" || p.Headers[0].Value.Reveal() != "Bearer T") {
			t.Errorf("%q: got %s", kind, p.Headers[0].Value.Reveal())
		}
	}
	for _, bad := range []string{"a\nb", "a b ", "\x00", "é"} {
		if _, err := plain.Present(credential(nil), broker.Selection{}, issued("", map[string]string{"token": bad})); err == nil {
			t.Errorf("%q: it was presented", bad)
		}
	}
	d := v.define(`
inputs: {server: {format: url}, key: {secret: true, handed_out: true}}
headers: {User-Agent: agent/1}
let: {encoded: {base64: "{{token}}"}}
obtain: {get: "{{server}}/t", take: {token: t, id: i}}
present: {headers: {X-Auth: "Token {{encoded}}", X-Key: "{{key}}"}, query: {k: "{{token}}", a: "&="}, cookies: {sid: "{{token}}"}}
attributes: [id]
base_url: "{{server}}/api"`)
	x := issued("", map[string]string{"token": "tok", "id": "42"})
	x.Headers = []broker.Field{{Name: "User-Agent", Value: broker.NewSecret("agent/1")}}
	p, err := d.Present(credential(map[string]string{"server": "https://example.com/", "!key": "k"}), broker.Selection{}, x)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{"base": p.BaseURL, "id": p.Attributes["id"]}
	for _, fs := range [][]broker.Field{p.Headers, p.Query, p.Cookies} {
		for _, f := range fs {
			got[f.Name] = f.Value.Reveal()
		}
	}
	want := map[string]string{"base": "https://example.com/api", "id": "42", "User-Agent": "agent/1", "X-Auth": "Token dG9r", "X-Key": "k", "k": "tok", "a": "&=", "sid": "tok"}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if _, err := d.Present(credential(map[string]string{"server": "https://example.com/", "!key": "k"}), broker.Selection{}, issued("", map[string]string{"id": "1"})); err == nil {
		t.Error("a token that is not there was presented")
	}
	whole := v.define(`
obtain: {get: "https://example.com/t", take: {token: {cookies: all}}}
present: {cookies: "{{token}}"}`)
	p, err = whole.Present(credential(nil), broker.Selection{}, issued("", map[string]string{"token": "a=1; b=2=3"}))
	if err != nil || len(p.Cookies) != 2 || p.Cookies[1].Value.Reveal() != "2=3" {
		t.Errorf("got %v %v", p.Cookies, err)
	}
	nothing := v.define("obtain: {get: \"https://example.com/t\", take: {token: t}}\npresent: nothing")
	if p, err = nothing.Present(credential(nil), broker.Selection{}, x); err != nil || len(p.Query)+len(p.Cookies) != 0 {
		t.Errorf("got %v %v", p, err)
	}
}
