package provider

import (
	"encoding/base64"
	"encoding/json"
	"mime"
	"mime/multipart"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

// awkward has everything that an encoding could trip over.
const awkward = `a"b&c=d+e%20f{{g}} h\i/j?k#l;m'n<o>` + "\u00e9"

func TestASecretArrivesUnchangedWhereverItIsWritten(t *testing.T) {
	for name, c := range map[string]struct {
		definition string
		arrived    func(a asked) string
	}{
		"form": {`
inputs: {s: {secret: true}}
obtain: {post: "https://example.com/t", form: {x: "{{s}}"}, take: {token: t}}`,
			func(a asked) string { q, _ := url.ParseQuery(a.body); return q.Get("x") }},
		"json": {`
inputs: {s: {secret: true}}
obtain: {post: "https://example.com/t", json: {deep: [{x: "{{s}}"}]}, take: {token: t}}`,
			func(a asked) string {
				var doc struct{ Deep []struct{ X string } }
				_ = json.Unmarshal([]byte(a.body), &doc)
				return doc.Deep[0].X
			}},
		"query": {`
inputs: {s: {secret: true}}
obtain: {get: "https://example.com/t", query: {x: "{{s}}"}, take: {token: t}}`,
			func(a asked) string { u, _ := url.Parse(a.uri); return u.Query().Get("x") }},
		"path segment": {`
inputs: {s: {}}
obtain: {get: "https://example.com/a/{{s}}/b", take: {token: t}}`,
			func(a asked) string {
				u, _ := url.Parse(a.uri)
				return strings.TrimSuffix(strings.TrimPrefix(u.Path, "/a/"), "/b")
			}},
		"text": {`
inputs: {s: {secret: true}}
obtain: {post: "https://example.com/t", text: "{{s}}", take: {token: t}}`,
			func(a asked) string { return a.body }},
		"basic": {`
inputs: {s: {secret: true}}
obtain: {post: "https://example.com/t", auth: {basic: [u, "{{s}}"]}, take: {token: t}}`,
			func(a asked) string {
				raw, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(a.header.Get("Authorization"), "Basic "))
				return strings.TrimPrefix(string(raw), "u:")
			}},
		"client_secret_basic is form-encoded first": {`
inputs: {s: {secret: true}}
obtain: {post: "https://example.com/t", auth: {client_secret_basic: {id: u, secret: "{{s}}"}}, take: {token: t}}`,
			func(a asked) string {
				raw, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(a.header.Get("Authorization"), "Basic "))
				s, _ := url.QueryUnescape(strings.TrimPrefix(string(raw), "u:"))
				return s
			}},
		"multipart": {`
inputs: {s: {secret: true}}
obtain: {post: "https://example.com/t", multipart: {x: "{{s}}"}, take: {token: t}}`,
			func(a asked) string {
				_, params, _ := mime.ParseMediaType(a.header.Get("Content-Type"))
				form, err := multipart.NewReader(strings.NewReader(a.body), params["boundary"]).ReadForm(1 << 20)
				if err != nil {
					return err.Error()
				}
				return form.Value["x"][0]
			}},
		"header": {`
inputs: {s: {secret: true}}
obtain: {post: "https://example.com/t", headers: {X-Key: "{{s}}"}, take: {token: t}}`,
			func(a asked) string { return a.header.Get("X-Key") }},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVendor(t, jsonSays(`{"t": "token"}`))
			d := v.define(c.definition)
			key := "!s"
			if !d.inputs["s"].secret {
				key = "s"
			}
			if _, err := v.obtain(d, credential(map[string]string{key: awkward}), broker.Selection{}); err != nil {
				t.Fatal(err)
			}
			if got := c.arrived(v.requests()[0]); got != awkward {
				t.Errorf("got %q, want %q", got, awkward)
			}
		})
	}
}

func TestALineBreakReachesNoHeader(t *testing.T) {
	for name, text := range map[string]string{
		"header": `
inputs: {s: {secret: true}}
obtain: {post: "https://example.com/t", headers: {X-Key: "{{s}}"}, take: {token: t}}`,
		"cookie": `
inputs: {s: {secret: true}}
obtain: {post: "https://example.com/t", cookies: {a: "{{s}}"}, take: {token: t}}`,
	} {
		v := newVendor(t, jsonSays(`{"t": "token"}`))
		d := v.define(text)
		for _, bad := range []string{"a\r\nX-Evil: 1", "a\nb", "a\x00b"} {
			_, err := v.obtain(d, credential(map[string]string{"!s": bad}), broker.Selection{})
			if e := upstreamError(t, err); e.Level != broker.LevelCredential || strings.Contains(e.Error(), "Evil") {
				t.Errorf("%s: got %v, want a refusal that shows nothing of the value", name, e)
			}
		}
		if n := len(v.requests()); n != 0 {
			t.Errorf("%s: got %d requests, want none", name, n)
		}
	}
}

func TestAValueInACookieIsNoCookieOfItsOwn(t *testing.T) {
	v := newVendor(t, jsonSays(`{"t": "token"}`))
	for cookies, sent := range map[string]string{`"a={{p}}; b=c"`: "", `{a: "{{p}}", b: c}`: "", `"{{p}}"`: "x; admin=1"} { // one that stands alone may be several
		d := v.define("parameters: {p: {}}\nobtain: {post: 'https://example.com/t', cookies: " + cookies + ", take: {token: t}}")
		_, err := v.obtain(d, credential(nil), broker.Selection{Parameters: broker.NewPairs(map[string]string{"p": "x; admin=1"})})
		all := v.requests()
		switch {
		case sent == "" && upstreamError(t, err).Level != broker.LevelRequest:
			t.Errorf("%s: got %v, want a refusal", cookies, err)
		case sent != "" && (err != nil || all[len(all)-1].header.Get("Cookie") != sent):
			t.Errorf("%s: got %v %v", cookies, err, all)
		}
	}
}

func TestAValueInACookieThatIsShownIsNoCookieOfItsOwn(t *testing.T) {
	v := newVendor(t, nil)
	issued := broker.Issued{Values: map[string]broker.Secret{"token": broker.NewSecret("x; admin=1")}}
	for cookies, want := range map[string]int{`"a={{token}}; b=c"`: 0, `{a: "{{token}}", b: c}`: 0, `"{{token}}"`: 1} {
		d := v.define("obtain: {post: 'https://example.com/t', take: {token: t}}\npresent: {cookies: " + cookies + "}")
		if shown, err := d.Present(credential(nil), broker.Selection{}, issued); (err != nil) != (want == 0) || len(shown.Cookies) != want {
			t.Errorf("%s: got %d cookies, %v; want %d", cookies, len(shown.Cookies), err, want)
		}
	}
}

func TestAnEntryOfAnAbsentOptionalInputIsLeftOutAndAnEmptyOneIsKept(t *testing.T) {
	v := newVendor(t, jsonSays(`{"t": "token"}`))
	d := v.define(`
inputs: {a: {}, b: {optional: true}, c: {default: dd}}
obtain:
  post: https://example.com/t
  query: {q: "{{b}}"}
  headers: {X-B: "x{{b}}"}
  json: {a: "{{a}}", b: "{{b}}", c: "{{c}}", e: "", n: 5, y: true, z: null, l: ["{{b}}", "{{a}}"]}
  take: {token: t}`)
	if _, err := v.obtain(d, credential(map[string]string{"a": "1"}), broker.Selection{}); err != nil {
		t.Fatal(err)
	}
	a := v.requests()[0]
	if want := `{"a":"1","c":"dd","e":"","n":5,"y":true,"z":null,"l":["1"]}`; a.body != want || a.uri != "/t" || a.header.Get("X-B") != "" {
		t.Errorf("got %s %s %v, want %s, no query and no header", a.uri, a.body, a.header, want)
	}
}

func TestWhatOAuth2StandsFor(t *testing.T) {
	v := newVendor(t, jsonSays(`{"access_token": "t", "refresh_token": "r", "expires_in": 60, "token_type": "bearer", "scope": "a b"}`))
	d := v.define(`
inputs: {client_id: {}, client_secret: {secret: true}, redirect_uri: {format: url}}
scopes: {}
audience: {optional: true}
resources: {}
obtain: {oauth2: "https://example.com/t"}
refresh: {oauth2: "https://example.com/t", params: {redirect_uri: "{{redirect_uri}}"}}`)
	c := credential(map[string]string{"client_id": "id", "!client_secret": "s", "redirect_uri": "https://x.example/cb"})
	scopes, _ := broker.ParseSet("", []string{"b", "a"})
	resources, _ := broker.ParseSet("", []string{"https://r2", "https://r1"})
	a, err := v.obtain(d, c, broker.Selection{Scopes: scopes, Audience: "aud", Resources: resources})
	if err != nil {
		t.Fatal(err)
	}
	if a.RefreshToken.Reveal() != "r" || a.TokenType != "bearer" || len(a.Scopes) != 2 || a.Expiry.In == nil || a.Expiry.In.Seconds() != 60 {
		t.Errorf("got %+v", a)
	}
	if _, leaked := a.Values["refresh_token"]; leaked {
		t.Error("the refresh token is among the values, which callers may receive")
	}
	if _, err := v.refresh(d, c, "old", nil); err != nil {
		t.Fatal(err)
	}
	asked := v.requests()
	want := []string{
		"audience=aud&client_id=id&client_secret=s&grant_type=client_credentials&resource=https%3A%2F%2Fr1&resource=https%3A%2F%2Fr2&scope=a+b",
		"client_id=id&client_secret=s&grant_type=refresh_token&redirect_uri=https%3A%2F%2Fx.example%2Fcb&refresh_token=old",
	}
	for i, w := range want {
		q, err := url.ParseQuery(asked[i].body)
		if err != nil || q.Encode() != w || asked[i].header.Get("Content-Type") != "application/x-www-form-urlencoded" {
			t.Errorf("got %s, want %s", q.Encode(), w)
		}
	}
}

func TestParamsWinAndNullRemoves(t *testing.T) {
	v := newVendor(t, jsonSays(`{"access_token": "t"}`))
	d := v.define(`
inputs: {client_id: {}, client_secret: {secret: true}}
scopes: {default: [x]}
obtain: {oauth2: "https://example.com/t", send: json, params: {audience: null, client_secret: null, grant_type: other, list: [1, "{{client_id}}"]}}`)
	c := credential(map[string]string{"client_id": "id", "!client_secret": "s"})
	sel, err := d.Select(c, broker.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.obtain(d, c, sel); err != nil {
		t.Fatal(err)
	}
	if got, want := v.requests()[0].body, `{"grant_type":"other","list":[1,"id"],"scope":"x","client_id":"id"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestAWholeURLAndItsPlaces(t *testing.T) {
	v := newVendor(t, jsonSays(`{"t": "token"}`))
	d := v.define(`
inputs: {server: {format: url}, sub: {optional: true}}
obtain: {post: "{{server}}/login", take: {token: t}}`)
	for server, want := range map[string]string{"https://example.com/": "/login", "https://example.com/base": "/base/login"} {
		if _, err := v.obtain(d, credential(map[string]string{"server": server}), broker.Selection{}); err != nil {
			t.Fatal(err)
		}
		all := v.requests()
		if got := all[len(all)-1].uri; got != want {
			t.Errorf("%s: got %s, want %s", server, got, want)
		}
	}
	for _, bad := range []string{"http://example.com", "https://user:pw@example.com", "ftp://example.com", "example.com", "https://", "https://a b"} {
		c := credential(map[string]string{"server": bad})
		if len(d.wrong(c)) == 0 {
			t.Errorf("%s: no violation", bad)
		}
		if _, err := v.obtain(d, c, broker.Selection{}); err == nil {
			t.Errorf("%s: it was asked", bad)
		}
	}
	if got := d.Facts().HostInputs; len(got) != 1 || got[0] != "server" {
		t.Errorf("got host inputs %v, want server", got)
	}
	if got := d.Host(credential(map[string]string{"server": "https://Example.com"}), broker.Selection{}); got != "example.com:443" {
		t.Errorf("got host %s", got)
	}
}

// TestWhatIsSentWhere: the inputs that decide where secrets and tokens go are known, through whatever they are computed of.
func TestWhatIsSentWhere(t *testing.T) {
	v := newVendor(t, jsonSays(`{"t": "token"}`))
	d := v.define(`
inputs: {login: {}, api: {}, tenant: {}, id: {}}
let: {lower: {lower: "{{tenant}}"}}
obtain: {post: "https://{{login}}.example.com/{{id}}", take: {token: t}}
base_url: "https://{{lower}}.{{api}}.example.com/{{id}}"
present: {headers: {Authorization: "Bearer {{token}}"}}`)
	f := d.Facts()
	if !slices.Equal(f.HostInputs, []string{"login"}) || !slices.Equal(f.PlaceInputs, []string{"api", "login", "tenant"}) {
		t.Errorf("got hosts of %v, places of %v", f.HostInputs, f.PlaceInputs)
	}
	d = v.define(`
inputs: {realm: {}, sub: {}, tenant: {}, id: {}}
let: {lower: {lower: "{{tenant}}"}}
parameters: {part: {one_of: [a, b], default: "{{sub}}"}}
obtain: {oauth2: {issuer: "https://example.com/{{realm}}/{{part}}?t={{lower}}"}, auth: none, query: {id: "{{id}}"}}`)
	if f := d.Facts(); !slices.Equal(f.HostInputs, []string{"realm", "sub", "tenant"}) || !slices.Equal(f.PlaceInputs, f.HostInputs) {
		t.Errorf("an issuer: got hosts of %v, places of %v: its document is named by all of its URL", f.HostInputs, f.PlaceInputs)
	}
}

func TestANameInAHostIsAHostsName(t *testing.T) {
	v := newVendor(t, jsonSays(`{"t": "token"}`))
	d := v.define(`
inputs: {sub: {}}
let: {lower_sub: {lower: "{{sub}}"}}
obtain: {post: "https://{{lower_sub}}.example.com/t", take: {token: t}}`)
	if got := d.Facts().HostInputs; len(got) != 1 || got[0] != "sub" {
		t.Errorf("got host inputs %v, want sub, seen through let", got)
	}
	if _, err := v.obtain(d, credential(map[string]string{"sub": "WWW"}), broker.Selection{}); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"evil.example/", "a@b", "x:1", "a#", "..", ""} {
		if _, err := v.obtain(d, credential(map[string]string{"sub": bad}), broker.Selection{}); err == nil {
			t.Errorf("%q: it was asked", bad)
		}
	}
	if len(v.requests()) != 1 {
		t.Errorf("got %d requests, want 1", len(v.requests()))
	}
}

func TestLetIsComputedOncePerRun(t *testing.T) {
	v := newVendor(t, jsonSays(`{"t": "token"}`))
	d := v.define(`
inputs: {k: {secret: true}, o: {optional: true}}
let:
  nonce: {hex: {random: 16}}
  id: {uuid: 4}
  mix: {base64url: {sha256: "{{nonce}}.{{k}}"}}
  pick: {first: ["{{o}}", "fallback"]}
  part: {split: {of: "a-b-c", by: "-", at: -1}}
  doc: {field: {of: '{"x": {"y": 7}}', path: x.y}}
  when: {now: {add: -5m, layout: rfc3339}}
obtain:
  post: https://example.com/t
  json: {n: "{{nonce}}", again: "{{nonce}}", id: "{{id}}", mix: "{{mix}}", pick: "{{pick}}", part: "{{part}}", doc: "{{doc}}", when: "{{when}}"}
  take: {token: t}`)
	for range 2 {
		if _, err := v.obtain(d, credential(map[string]string{"!k": "k"}), broker.Selection{}); err != nil {
			t.Fatal(err)
		}
	}
	var runs [2]map[string]string
	for i, a := range v.requests() {
		if err := json.Unmarshal([]byte(a.body), &runs[i]); err != nil {
			t.Fatal(err)
		}
	}
	r := runs[0]
	if r["n"] == "" || r["n"] != r["again"] || r["n"] == runs[1]["n"] || r["id"] == runs[1]["id"] {
		t.Errorf("got %v and %v, want one nonce for a run, and another for the next", r, runs[1])
	}
	if r["pick"] != "fallback" || r["part"] != "c" || r["doc"] != "7" || !strings.HasSuffix(r["when"], "Z") || len(r["id"]) != 36 {
		t.Errorf("got %v", r)
	}
}

// TestAPublicClientSaysWhoItIs: RFC 6749 section 3.2.1.
func TestAPublicClientSaysWhoItIs(t *testing.T) {
	v := newVendor(t, jsonSays(`{"access_token": "t"}`))
	for definition, want := range map[string]string{
		`inputs: {client_id: {}}` + "\n" + `obtain: {oauth2: "https://example.com/t", auth: none}`:                                        "client_id=id&grant_type=client_credentials",
		`inputs: {client_id: {}}` + "\n" + `obtain: {oauth2: "https://example.com/t", auth: none, params: {client_id: null}}`:             "grant_type=client_credentials",
		`inputs: {client_id: {}}` + "\n" + `obtain: {oauth2: "https://example.com/t", auth: none, params: {client_id: "a{{client_id}}"}}`: "client_id=aid&grant_type=client_credentials",
		`obtain: {oauth2: "https://example.com/t", auth: none}`:                                                                           "grant_type=client_credentials",
	} {
		if _, err := v.obtain(v.define(definition), credential(map[string]string{"client_id": "id"}), broker.Selection{}); err != nil {
			t.Errorf("%s: %v", definition, err)
			continue
		}
		all := v.requests()
		if q, err := url.ParseQuery(all[len(all)-1].body); err != nil || q.Encode() != want {
			t.Errorf("%s\ngot %s, want %s", definition, q.Encode(), want)
		}
	}
}

// TestWhatWasNotSentIsNotSaidToBeRefused: nobody refuses what nobody was asked.
func TestWhatWasNotSentIsNotSaidToBeRefused(t *testing.T) {
	v := newVendor(t, jsonSays(`{"t": "x"}`))
	d := v.define(`inputs: {tenant: {}}` + "\n" + `obtain: {post: "https://{{tenant}}.example.com/t", take: {token: t}}`)
	_, err := v.obtain(d, credential(map[string]string{"tenant": "a/b"}), broker.Selection{})
	if e := upstreamError(t, err); e.Level != broker.LevelCredential || strings.Contains(e.Error(), "refuses") || !strings.Contains(e.Error(), "was not sent") {
		t.Errorf("got %v", e)
	}
}
