package provider

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

func TestEverythingThatIsWrongWithACredentialIsSaid(t *testing.T) {
	v := newVendor(t, nil)
	d := v.define(`
inputs:
  host: {format: host}
  url: {format: url}
  id: {format: uuid}
  mail: {format: email, optional: true}
  pem: {format: pem, optional: true}
  doc: {format: json, optional: true}
  n: {format: integer, optional: true}
  yes: {format: boolean, optional: true}
  color: {one_of: [red, blue], default: red}
  code: {pattern: "[A-Z]{3}", prefix: "Code ", optional: true}
  secret: {secret: true, pattern: "[a-z]+"}
  refresh_token: {secret: true, seed: true}
refresh: {oauth2: "https://example.com/t", auth: none}`)
	good := map[string]string{
		"host": "a.example", "url": "https://a.example/x", "id": "6F9619FF-8B86-D011-B42D-00CF4FC964FF", "mail": "a@b.example",
		"pem": "-----BEGIN X-----\nAAAA\n-----END X-----\n", "doc": "{}", "n": "-5", "yes": "true", "color": "blue", "code": "Code ABC", "!secret": "abc",
	}
	c := credential(good)
	c.Seeds["refresh_token"] = broker.Seed{Hash: broker.NewID()}
	if got := d.Check(c); len(got) != 0 {
		t.Errorf("got %v of what is right", got)
	}
	bad := credential(map[string]string{
		"host": "a b", "url": "http://a.example", "id": "1", "mail": "x", "pem": "y", "doc": "{", "n": "1.5", "yes": "maybe", "color": "green", "code": "abcd", "!secret": "WRONG-VALUE",
	})
	fields := map[string]string{}
	for _, x := range d.Check(bad) {
		fields[x.Field] = x.Description
		if strings.Contains(x.Description, "WRONG-VALUE") {
			t.Errorf("%s shows the value", x.Field)
		}
	}
	want := []string{
		"credential.inputs.code", "credential.inputs.color", "credential.inputs.doc", "credential.inputs.host", "credential.inputs.id", "credential.inputs.mail",
		"credential.inputs.n", "credential.inputs.pem", "credential.inputs.url", "credential.inputs.yes", "secrets.refresh_token", "secrets.secret",
	}
	if got := slices.Sorted(maps.Keys(fields)); !slices.Equal(got, want) {
		t.Errorf("got violations of %v, want %v", got, want)
	}
	if got := d.Check(credential(nil)); len(got) != 5 {
		t.Errorf("got %v, want the five that are required", got)
	}
}

func TestWhatIsNotDeclaredIsRefusedAndDefaultsAreApplied(t *testing.T) {
	v := newVendor(t, nil)
	none := v.define(`token: "x"`)
	set := func(s ...string) broker.Set {
		x, err := broker.ParseSet("x", s)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	for field, sel := range map[string]broker.Selection{
		"scopes": {Scopes: set("a")}, "audience": {Audience: "a"}, "resources": {Resources: set("https://r")}, "parameters.p": {Parameters: broker.NewPairs(map[string]string{"p": "1"})},
	} {
		_, err := none.Select(credential(nil), sel)
		f, ok := err.(*broker.Failure) //nolint:errorlint // the interface promises it
		if !ok || f.Kind != broker.ParameterNotDeclared || f.Violations[0].Field != field {
			t.Errorf("%s: got %v", field, err)
		}
	}
	d := v.define(`
inputs: {tenant: {optional: true}}
scopes: {default: [read, "{{tenant}}.all"], one_of: [read, write, "t.all"]}
resources: {}
audience: {pattern: "https://.*"}
parameters: {p: {one_of: ["1", "2"], default: "1"}, q: {}, r: {optional: true}}
token: "{{p}}{{q}}"`)
	q := broker.NewPairs(map[string]string{"q": "x"})
	got, err := d.Select(credential(map[string]string{"tenant": "t"}), broker.Selection{Audience: "https://a", Parameters: q})
	if err != nil || got.Scopes.String() != "read t.all" || got.Parameters.Map()["p"] != "1" {
		t.Errorf("got %v %v", got, err)
	}
	c := credential(nil)
	c.DefaultScopes, c.DefaultAudience = set("write"), "https://own"
	if got, err = d.Select(c, broker.Selection{Parameters: q}); err != nil || got.Scopes.String() != "write" || got.Audience != "https://own" {
		t.Errorf("got %v %v, want the credential's own defaults", got, err)
	}
	for want, sel := range map[broker.Kind]broker.Selection{
		broker.ParameterRequired:    {Audience: "https://a"},
		broker.RequestInvalid:       {Audience: "ftp://a", Parameters: q},
		broker.ParameterNotDeclared: {Audience: "https://a", Parameters: broker.NewPairs(map[string]string{"q": "1", "z": "1"})},
	} {
		if _, err := d.Select(credential(nil), sel); broker.KindOf(err) != want {
			t.Errorf("got %v, want %s", err, want.Name())
		}
	}
	if _, err := d.Select(credential(nil), broker.Selection{Parameters: q}); broker.KindOf(err) != broker.ParameterRequired {
		t.Errorf("got %v, want an audience to be required", err)
	}
	if _, err := d.Select(c, broker.Selection{Scopes: set("admin"), Parameters: q}); broker.KindOf(err) != broker.RequestInvalid {
		t.Errorf("got %v of a scope that is none of one_of", err)
	}
	if _, err := d.Select(c, broker.Selection{Parameters: broker.NewPairs(map[string]string{"q": "1", "p": "3"})}); broker.KindOf(err) != broker.RequestInvalid {
		t.Errorf("got %v of a parameter that is none of one_of", err)
	}
}

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
	for kind, want := range map[string]int{"": 1, "Bearer": 1, "bearer": 1, "DPoP": 0, "mac": 0} {
		p, err := plain.Present(credential(nil), broker.Selection{}, issued(kind, map[string]string{"token": "T"}))
		if err != nil || len(p.Headers) != want {
			t.Errorf("%q: got %v %v, want %d headers", kind, p.Headers, err, want)
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

func TestAStaticTokenAsksNobody(t *testing.T) {
	v := newVendor(t, nil)
	d := v.define(`
inputs: {user: {}, key: {secret: true}}
let: {pair: {base64: "{{user}}:{{key}}"}}
token: "{{pair}}"
lifetime: until_rejected`)
	a, err := v.obtain(d, credential(map[string]string{"user": "u", "!key": "k"}), broker.Selection{})
	if err != nil || a.Values["token"].Reveal() != "dTpr" || len(a.Attempts) != 0 || d.Host(credential(nil)) != "" {
		t.Errorf("got %+v %v", a, err)
	}
	if _, err := v.obtain(d, credential(map[string]string{"user": "u"}), broker.Selection{}); err == nil {
		t.Error("a token was made of an absent secret")
	}
}

func TestARefreshTakesWhatObtainTakesAndMayNameWhatIsHeld(t *testing.T) {
	v := newVendor(t, jsonSays(`{"data": {"at": "new", "rt": "next"}, "instance": "i2"}`))
	d := v.define(`
obtain: {post: "https://example.com/login", take: {token: data.at, refresh_token: data.rt, instance: instance}}
refresh: {post: "https://example.com/refresh/{{instance}}", headers: {Authorization: "Bearer {{refresh_token}}"}, text: ""}`)
	a, err := v.refresh(d, credential(nil), "r1", map[string]broker.Secret{"instance": broker.NewSecret("i1")})
	if err != nil || a.Values["token"].Reveal() != "new" || a.RefreshToken.Reveal() != "next" || a.Values["instance"].Reveal() != "i2" {
		t.Fatalf("got %+v %v", a, err)
	}
	r := v.requests()[0]
	if r.uri != "/refresh/i1" || r.header.Get("Authorization") != "Bearer r1" || r.body != "" || r.header.Get("Transfer-Encoding") != "" {
		t.Errorf("got %+v", r)
	}
}
