package provider

import (
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

func form(t *testing.T, body string) url.Values {
	t.Helper()
	q, err := url.ParseQuery(body)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

const token200 = `{"access_token": "t"}`

func TestAJSONBooleanIsSentAsWhatItMeansHoweverItIsSpelled(t *testing.T) {
	v := newVendor(t, jsonSays(`{"token": "t"}`))
	d := v.define("obtain: {post: https://example.com/t, json: {a: True, b: TRUE, c: false}, take: {token: token}}")
	if _, err := v.obtain(d, credential(nil), broker.Selection{}); err != nil {
		t.Fatal(err)
	}
	if got := v.requests()[0].body; got != `{"a":true,"b":true,"c":false}` {
		t.Errorf("got %s", got)
	}
}

func TestAParametersDefaultMayNameInputsAndIsNeverSentLiterally(t *testing.T) {
	v := newVendor(t, jsonSays(token200))
	d := v.define(`inputs: {tenant: {}}
parameters: {account: {default: "acct-{{tenant}}"}}
audience: {default: "https://{{tenant}}.example"}
obtain: {oauth2: https://example.com/t, auth: none, params: {account: "{{account}}"}}`)
	c := credential(map[string]string{"tenant": "blue"})
	sel, err := d.Select(c, broker.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.obtain(d, c, sel); err != nil {
		t.Fatal(err)
	}
	got := form(t, v.requests()[0].body)
	if got.Get("account") != "acct-blue" || got.Get("audience") != "https://blue.example" {
		t.Errorf("got %v", got)
	}
}

func TestAnInputsDefaultNamesNothing(t *testing.T) {
	if p := Check("", []byte("name: x\ninputs: {a: {}, b: {default: \"{{a}}\"}}\ntoken: \"{{b}}\"")); len(p) == 0 {
		t.Error("it would be sent literally")
	}
}

func TestAnInputThatWasRenamedIsFoundUnderItsFormerName(t *testing.T) {
	v := newVendor(t, jsonSays(token200))
	d := v.define(`inputs: {client_id: {was: app}, client_secret: {secret: true, was: key}}
obtain: {oauth2: https://example.com/t}`)
	c := credential(map[string]string{"app": "a", "!key": "k"})
	if w := d.wrong(c); len(w) > 0 {
		t.Fatal(w)
	}
	if _, err := v.obtain(d, c, broker.Selection{}); err != nil {
		t.Fatal(err)
	}
	got := form(t, v.requests()[0].body)
	if got.Get("client_id") != "a" || got.Get("client_secret") != "k" {
		t.Errorf("got %v", got)
	}
}

func TestAnInputsFormatGivesItsTypeInJSON(t *testing.T) {
	v := newVendor(t, jsonSays(`{"token": "t"}`))
	d := v.define(`inputs: {n: {format: integer}, b: {format: boolean}, s: {}}
obtain: {post: https://example.com/t, json: {n: "{{n}}", b: "{{b}}", s: "{{s}}", x: "n{{n}}"}, take: {token: token}}`)
	if _, err := v.obtain(d, credential(map[string]string{"n": "5", "b": "true", "s": "5"}), broker.Selection{}); err != nil {
		t.Fatal(err)
	}
	if got := v.requests()[0].body; got != `{"n":5,"b":true,"s":"5","x":"n5"}` {
		t.Errorf("got %s", got)
	}
}

func TestWhatACallerMayChooseIsNoHost(t *testing.T) {
	for _, text := range []string{
		"name: x\nparameters: {p: {}}\nobtain: {get: \"https://{{p}}.example.com/t\", take: {token: t}}",
		"name: x\nparameters: {p: {format: url}}\nobtain: {get: \"{{p}}/t\", take: {token: t}}",
		"name: x\nparameters: {p: {}}\nlet: {h: {lower: \"{{p}}\"}}\nobtain: {get: \"https://{{h}}/t\", take: {token: t}}",
		"name: x\naudience: {}\nobtain: {oauth2: {issuer: \"{{audience}}\"}, auth: none}",
	} {
		if p := Check("", []byte(text)); len(p) == 0 {
			t.Errorf("a caller could send the credential's secrets to themselves: %s", text)
		}
	}
	if p := Check("", []byte("name: x\nparameters: {p: {one_of: [eu, us]}}\nobtain: {get: \"https://{{p}}.example.com/t/{{p}}\", take: {token: t}}")); len(p) > 0 {
		t.Error(p)
	}
}

func TestACallersValueThatNoHeaderMayHaveIsNotTheCredentialsFailure(t *testing.T) {
	v := newVendor(t, jsonSays(token200))
	d := v.define(`parameters: {p: {}}
obtain: {oauth2: https://example.com/t, auth: none, headers: {X-P: "{{p}}"}}`)
	_, err := v.obtain(d, credential(nil), broker.Selection{Parameters: broker.NewPairs(map[string]string{"p": "a\nb"})})
	if e := upstreamError(t, err); e.Level != broker.LevelRequest || e.Lost {
		t.Errorf("got %+v", e)
	}
}

func TestEverythingWrongIsSaidAtOnceAlsoWhereWordsAreWrong(t *testing.T) {
	p := Check("x.yaml", []byte("name: x\ninputs: {client_id: {}}\nobtian: 1\nobtain: {get: \"https://example.com/{{clientid}}\", take: {token: t}}\nbase_url: \"{{nothing}}\"\n"))
	var all []string
	for _, x := range p {
		all = append(all, x.String())
	}
	s := strings.Join(all, "\n")
	if !strings.Contains(s, "obtian") || !strings.Contains(s, "nothing") {
		t.Errorf("got %s", s)
	}
}

func TestAParametersAffixIsCutOffOnce(t *testing.T) {
	v := newVendor(t, jsonSays(token200))
	d := v.define("parameters: {p: {prefix: a}}\nobtain: {oauth2: https://example.com/t, auth: none, params: {p: \"{{p}}\"}}")
	sel, err := d.Select(credential(nil), broker.Selection{Parameters: broker.NewPairs(map[string]string{"p": "aab"})})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := v.obtain(d, credential(nil), sel); err != nil {
		t.Fatal(err)
	}
	if got := form(t, v.requests()[0].body).Get("p"); got != "ab" {
		t.Errorf("got %q", got)
	}
}

func TestADigestIsWrappedBeforeItIsText(t *testing.T) {
	if p := Check("", []byte("name: x\ninputs: {a: {}}\nlet: {d: {sha256: \"{{a}}\"}}\ntoken: \"{{d}}\"")); len(p) == 0 {
		t.Error("bytes would be sent as text")
	}
	if p := Check("", []byte("name: x\ninputs: {a: {}}\nlet: {d: {hex: {sha256: {sha1: \"{{a}}\"}}}}\ntoken: \"{{d}}\"")); len(p) > 0 {
		t.Error(p)
	}
}

func TestAHeaderThatARequestRemovesIsNotSent(t *testing.T) {
	v := newVendor(t, jsonSays(`{"token": "t"}`))
	d := v.define("obtain: {post: https://example.com/t, headers: {Accept: null}, take: {token: token}}")
	if _, err := v.obtain(d, credential(nil), broker.Selection{}); err != nil {
		t.Fatal(err)
	}
	if got := v.requests()[0].header["Accept"]; got != nil {
		t.Errorf("got %v", got)
	}
}

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
	if got := d.wrong(c); len(got) != 0 {
		t.Errorf("got %v of what is right", got)
	}
	bad := credential(map[string]string{
		"host": "a b", "url": "http://a.example", "id": "1", "mail": "x", "pem": "y", "doc": "{", "n": "1.5", "yes": "maybe", "color": "green", "code": "abcd", "!secret": "WRONG-VALUE",
	})
	fields := map[string]string{}
	for _, x := range d.wrong(bad) {
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
	if got := d.wrong(credential(nil)); len(got) != 5 {
		t.Errorf("got %v, want the five that are required", got)
	}
}

func TestWhatIsStoredIsText(t *testing.T) {
	v := newVendor(t, nil)
	d := v.define("inputs: {a: {}, s: {secret: true}}\nparameters: {p: {optional: true}}\nobtain: {oauth2: 'https://example.com/t', auth: none, params: {a: '{{a}}', s: '{{s}}', p: '{{p}}'}}")
	for _, bad := range []string{"a\xffb", "a\ufffdb", "\xc3"} {
		got := d.wrong(credential(map[string]string{"a": bad, "!s": bad}))
		if len(got) != 2 || got[0].Field != "credential.inputs.a" || got[1].Field != "secrets.s" || !strings.Contains(got[1].Description, "UTF-8") {
			t.Errorf("%q: got %v, want both refused by their names", bad, got)
		}
		if _, err := d.Select(credential(nil), broker.Selection{Parameters: broker.NewPairs(map[string]string{"p": bad})}); err == nil {
			t.Errorf("%q: a caller may send it", bad)
		}
	}
}

// TestAnInputIsALineOfText: a control character in one is a mistake, but where its format has lines. A secret may be anything.
func TestAnInputIsALineOfText(t *testing.T) {
	v := newVendor(t, nil)
	d := v.define("inputs: {a: {}, j: {format: json}, s: {secret: true}}\nobtain: {oauth2: 'https://example.com/t', auth: none, params: {a: '{{a}}', j: '{{j}}', s: '{{s}}'}}")
	for _, bad := range []string{"\x00", "a\r\nb", "a\n", "\ta", "\x1b[31m", "a\u0085"} {
		got := d.wrong(credential(map[string]string{"a": bad, "j": "{\r\n}", "!s": bad}))
		if len(got) != 1 || got[0].Field != "credential.inputs.a" || !strings.Contains(got[0].Description, "control character") {
			t.Errorf("%q: got %v, want it refused by its name", bad, got)
		}
	}
	if got := d.wrong(credential(map[string]string{"a": "größe \u202e", "j": "[]", "!s": "s"})); len(got) > 0 {
		t.Errorf("got %v", got)
	}
}

// TestAnInputsExpressionMayBeOfUsualLength: it is held against a value, and not against an answer.
func TestAnInputsExpressionMayBeOfUsualLength(t *testing.T) {
	for _, pattern := range []string{`.{1,255}`, `[A-Za-z0-9_-]{1,128}`, `[A-Za-z0-9]{20,200}`} {
		if got := check(t, "name: x\ninputs: {a: {pattern: '"+pattern+"', secret: true, handed_out: true}}\ntoken: \"{{a}}\""); len(got) > 0 {
			t.Errorf("%s: %v", pattern, got)
		}
		if got := check(t, "name: x\nobtain: {post: 'https://example.com/', take: {token: {path: t, pattern: '("+pattern+")'}}}"); len(got) != 1 {
			t.Errorf("%s, of an answer: %v", pattern, got)
		}
	}
}
