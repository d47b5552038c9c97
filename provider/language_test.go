package provider

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

func TestWhatIsInAURLCanBeTakenApart(t *testing.T) {
	v := newVendor(t, jsonSays(`{"t": "token"}`))
	d := v.define(`
inputs: {link: {}, name: {}}
let:
  code: {query: {of: "{{link}}", name: code}}
  plain: {from_percent: "{{name}}"}
  nested: {query: {of: {query: {of: "{{link}}", name: next}}, name: a}}
  query: {quote: "{{plain}}"}
obtain: {post: "https://example.com/t", json: {code: "{{code}}", plain: "{{plain}}", nested: "{{nested}}", query: "{ login(p: {{query}}) }"}, take: {token: t}}`)
	c := credential(map[string]string{"link": "https://x.example/cb?state=1&code=a%2Fb+c&next=%2Fd%3Fa%3D%2526#frag", "name": "a%22%2B+c"})
	if _, err := v.obtain(d, c, broker.Selection{}); err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := json.Unmarshal([]byte(v.requests()[0].body), &got); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"code": "a/b c", "plain": `a"++c`, "nested": "&", "query": `{ login(p: "a\"++c") }`} {
		if got[name] != want {
			t.Errorf("%s: got %q, want %q", name, got[name], want)
		}
	}
	for input, value := range map[string]string{"link": "https://x.example/cb?state=1", "name": "100%"} {
		bad := credential(map[string]string{"link": c.Inputs["link"], "name": c.Inputs["name"]})
		bad.Inputs[input] = value
		_, err := v.obtain(d, bad, broker.Selection{})
		if e := upstreamError(t, err); e.Level != broker.LevelCredential || strings.Contains(e.Detail, value) {
			t.Errorf("%s: got %v, want an error of the credential that does not show the value", value, e)
		}
	}
}

func TestAListInAList(t *testing.T) {
	v := newVendor(t, jsonSays(`{"t": "token", "catalog": [
		{"type": "compute", "endpoints": [{"interface": "public", "region": "eu", "url": "wrong"}]},
		{"type": "object-store", "endpoints": [{"interface": "internal", "url": "wrong"}, {"interface": "public", "region": "us", "urls": ["wrong"]}, {"interface": "public", "region": "eu", "urls": ["right"]}]}]}`))
	d := v.define(`
inputs: {region: {}}
obtain:
  post: "https://example.com/t"
  take:
    token: t
    store: {each: catalog, where: {type: object-store}, path: {each: endpoints, where: {interface: public, region: "{{region}}"}, path: "urls[0]"}}
    none: {each: catalog, where: {type: nothing}, path: {each: endpoints, where: {interface: public}, path: url}, optional: true}`)
	a, err := v.obtain(d, credential(map[string]string{"region": "eu"}), broker.Selection{})
	if err != nil || a.Values["store"].Reveal() != "right" || !a.Values["none"].IsZero() {
		t.Errorf("got %v %q", err, a.Values["store"].Reveal())
	}
	_, err = v.obtain(d, credential(map[string]string{"region": "mars"}), broker.Selection{})
	if e := upstreamError(t, err); e.Detail != "the answer has no store at urls[0]" {
		t.Errorf("got %v", e.Detail)
	}
}

func TestAbsentMembersLeaveTheirObjectAlsoWhenTheyAreAllAbsent(t *testing.T) {
	v := newVendor(t, jsonSays(`{"t": "token"}`))
	for body, want := range map[string]string{
		`{a: x, user: {name: "{{o}}", mail: "m{{o}}"}}`:                `{"a":"x"}`,
		`{a: x, deep: {deeper: {o: "{{o}}"}}, list: ["{{o}}"]}`:        `{"a":"x"}`,
		`{a: x, written: {}, list: [], nothing: null, l: [{o: null}]}`: `{"a":"x","written":{},"list":[],"nothing":null,"l":[{"o":null}]}`,
		`{o: "{{o}}"}`:    `{}`,
		`["{{o}}", [ ] ]`: `[[]]`,
		`[{o: "{{o}}"}]`:  `[]`,
		`{a: {b: ["x", "{{o}}"], c: {d: "{{o}}"}}}`: `{"a":{"b":["x"]}}`,
	} {
		d := v.define("inputs: {o: {optional: true}}\nobtain: {post: 'https://example.com/t', json: " + body + ", take: {token: t}}")
		if _, err := v.obtain(d, credential(nil), broker.Selection{}); err != nil {
			t.Fatal(err)
		}
		all := v.requests()
		if got := all[len(all)-1].body; got != want {
			t.Errorf("%s: got %s, want %s", body, got, want)
		}
	}
}
