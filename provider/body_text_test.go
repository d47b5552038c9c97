package provider

import (
	"encoding/json"
	"encoding/xml"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tokenbroker/tokenbroker/broker"
)

// texts are bodies with a value beside a secret, and how the upstream reads them.
var texts = map[string]struct {
	contentType, text string
	read              func(body string) (a, s string, err error)
}{
	"JSON": {"application/vnd.x+json; charset=utf-8", `{"a": "<{{a}}>", "s": "{{s}}"}`, func(body string) (string, string, error) {
		var doc map[string]string
		err := json.Unmarshal([]byte(body), &doc)
		return strings.TrimSuffix(strings.TrimPrefix(doc["a"], "<"), ">"), doc["s"], err
	}},
	"XML": {"text/xml", `<?xml version="1.0" encoding="UTF-8"?><l a="{{a}}"><s>{{s}}</s></l>`, func(body string) (string, string, error) {
		var doc struct {
			A string `xml:"a,attr"`
			S string `xml:"s"`
		}
		err := xml.Unmarshal([]byte(body), &doc)
		return doc.A, doc.S, err
	}},
	"form": {"application/x-www-form-urlencoded", `x=1&a={{a}}&s={{s}}`, func(body string) (string, string, error) {
		q, err := url.ParseQuery(body)
		return q.Get("a"), q.Get("s"), err
	}},
	"GraphQL": {"application/graphql", "# it's \"one\nmutation { login(a: \"{{a}}\", s: \"{{s}}\") }", func(body string) (a, s string, err error) {
		_, rest, _ := strings.Cut(body, "login(a: ")
		dec := json.NewDecoder(strings.NewReader(rest)) // a string of JSON is one of GraphQL
		if err = dec.Decode(&a); err == nil {
			_, rest, _ = strings.Cut(rest[dec.InputOffset():], ", s: ")
			err = json.NewDecoder(strings.NewReader(rest)).Decode(&s)
		}
		return a, s, err
	}},
}

func defineText(t testing.TB, contentType, text string) *definition {
	t.Helper()
	doc, err := json.Marshal(map[string]any{"text": text}) // a string of JSON is one of YAML
	if err != nil {
		t.Fatal(err)
	}
	body := strings.TrimSuffix(strings.TrimPrefix(string(doc), "{"), "}")
	d, problems := parse("", []byte("name: test\ninputs: {a: {}, s: {secret: true}}\nobtain: {post: 'https://example.com/', headers: {content-type: '"+contentType+"'}, "+body+", take: {token: t}}\n"))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return d
}

func bodyOf(d *definition, a, s string) (string, error) {
	v := newValues(d.let)
	d.give(v, credential(map[string]string{"a": a, "!s": s}), broker.Selection{})
	b, _, err := d.obtain[0].body.encode(v)
	return string(b), err
}

func TestAValueInATextStaysOneValue(t *testing.T) {
	for kind, x := range texts {
		d := defineText(t, x.contentType, x.text)
		for _, value := range []string{awkward, `", "s": "mine`, `"/><s>mine</s><l a="`, "&s=mine", "]]>", `\`, "a\nb\tc"} {
			body, err := bodyOf(d, value, "se<c>re\"t")
			if err != nil {
				t.Errorf("%s, %q: %v", kind, value, err)
				continue
			}
			if a, s, err := x.read(body); err != nil || a != value || s != "se<c>re\"t" {
				t.Errorf("%s, %q: got %q, %q, %v of %s", kind, value, a, s, err, body)
			}
		}
	}
}

// FuzzText: whatever a value is, it comes out of the text as it went in, and nothing else changes; or nothing is sent.
func FuzzText(f *testing.F) {
	var definitions []*definition
	var kinds []string
	for kind, x := range texts {
		definitions, kinds = append(definitions, defineText(f, x.contentType, x.text)), append(kinds, kind)
	}
	for _, s := range []string{"", "a", awkward, `", "s": "mine`, `"/><s>mine</s>`, "&s=mine", "\xff", "\x00", "\u2028", "]]>", `\u0022`, "\ufffe"} {
		f.Add(s, "s3cret")
	}
	f.Fuzz(func(t *testing.T, value, secret string) {
		for i, d := range definitions {
			body, err := bodyOf(d, value, secret)
			if err != nil {
				if kinds[i] == "form" || utf8.ValidString(value) && utf8.ValidString(secret) && kinds[i] != "XML" {
					t.Fatalf("%s: %q and %q: %v", kinds[i], value, secret, err)
				}
				continue
			}
			if value == "" || secret == "" {
				continue // absent: nothing is sent
			}
			if a, s, err := texts[kinds[i]].read(body); err != nil || a != value || s != secret {
				t.Fatalf("%s: got %q, %q, %v of %q and %q", kinds[i], a, s, err, value, secret)
			}
		}
	})
}

func TestATextWhoseValuesCannotBeWrittenIsRefused(t *testing.T) {
	for _, c := range []struct{ contentType, text, want string }{
		{"text/plain", "user={{a}}", "write headers: {Content-Type: …}"},
		{"{{a}}", "user={{a}}", "write headers: {Content-Type: …}"},
		{"application/json", `{"n": {{a}}}`, "within the double quotes"},
		{"application/json", `{"n": "\{{a}}"}`, "within the double quotes"},
		{"application/graphql", `{ x(a: """{{a}}""") }`, `write the string in "…"`},
		{"application/graphql", "{ x } # \"{{a}}\"", "within the double quotes"},
		{"text/xml", "<a><![CDATA[{{a}}]]></a>", "leave <![CDATA[ and ]]> out"},
		{"text/xml", "<{{a}}/>", "between tags"},
		{"text/xml", "<a><!-- {{a}} --></a>", "between tags"},
		{"text/xml", "<a b={{a}}/>", "it is not XML"},
		{"text/xml", "<a {{a}}='x'/>", "between tags"},
		{"text/xml", `<?xml version="1.0" encoding="ISO-8859-1"?><a>{{a}}</a>`, "in UTF-8"},
	} {
		doc, err := json.Marshal(c.text)
		if err != nil {
			t.Fatal(err)
		}
		got := strings.Join(check(t, "name: x\ninputs: {a: {}}\nobtain: {post: 'https://example.com/', headers: {Content-Type: '"+c.contentType+"'}, text: "+string(doc)+", take: {token: t}}"), "\n")
		if !strings.Contains(got, c.want) {
			t.Errorf("%s %s: got %q, want %q", c.contentType, c.text, got, c.want)
		}
	}
	for _, right := range []string{
		`text: "{{a}}"`, `text: "nothing is named"`, `text: "a={{a}}"`,
	} {
		if got := check(t, "name: x\ninputs: {a: {}}\nheaders: {Content-Type: application/x-www-form-urlencoded}\nobtain: {post: 'https://example.com/', "+right+", take: {token: t}}"); len(got) > 0 {
			t.Errorf("%s: got %v", right, got)
		}
	}
}

func TestBytesThatAreNoTextAreNotSentAsText(t *testing.T) {
	v := newVendor(t, jsonSays(`{"t": "token"}`))
	for body, want := range map[string]string{
		`json: {k: "{{b}}"}`:  "json: {{b}} has bytes that are no text (UTF-8): wrap it in base64, base64url or hex",
		`json: {k: "x{{b}}"}`: "json: {{b}} has bytes that are no text",
		`headers: {Content-Type: application/json}, text: '{"k": "{{b}}"}'`: "text: {{b}} has bytes that are no text",
		`headers: {Content-Type: text/xml}, text: '<k>{{b}}</k>'`:           "text: {{b}} has bytes that are no text",
	} {
		d := v.define("inputs: {raw: {secret: true}}\nlet: {b: {from_base64: '{{raw}}'}}\nobtain: {post: 'https://example.com/', " + body + ", take: {token: t}}\n")
		_, err := v.obtain(d, credential(map[string]string{"!raw": "/////w=="}), broker.Selection{})
		if e := upstreamError(t, err); e.Level != broker.LevelCredential || !strings.Contains(e.Detail, want) {
			t.Errorf("%s: got %v, want %q", body, e.Detail, want)
		}
	}
	if n := len(v.requests()); n > 0 {
		t.Errorf("got %d requests", n)
	}
}
