package provider

import (
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/jsondoc"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

// FuzzDefinition: reading never panics, and what is right has a revision, can be explained and asks nobody unknown.
func FuzzDefinition(f *testing.F) {
	files, err := builtins.ReadDir("catalog")
	if err != nil || len(files) == 0 {
		f.Fatalf("no seeds: %v", err)
	}
	for _, file := range files {
		text, err := builtins.ReadFile("catalog/" + file.Name())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	tr, err := transport.New(transport.Settings{})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(right))
	f.Add([]byte("name: x\nlet: {a: {first: [{base64: \"{{b}}\"}]}, b: {uuid: 4}}\ntoken: \"{{a}}\""))
	f.Add([]byte("name: x\nparameters: {p: {one_of: [a]}}\nlet: {h: {from_hex: \"ff\"}}\nobtain: {oauth2: \"https://{{p}}{{h}}.e.com/\", auth: none}"))
	f.Add([]byte("name: x\ninputs: &a {id: {}}\nparameters: *a\ntoken: t"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, problems := parse("", data)
		for _, p := range problems {
			if p.String() == "" {
				t.Error("a problem that says nothing")
			}
		}
		if len(yamldoc.Errors(problems)) > 0 {
			return
		}
		if d.Facts().Digest == "" || d.Facts().Name == "" {
			t.Error("no revision or no name")
		}
		again, _ := parse("", data)
		if again.Facts().Digest != d.Facts().Digest {
			t.Error("two revisions of one text")
		}
		d.transport = tr
		c := &Catalog{loaded: map[string]*definition{d.name: d}, entries: map[string]Entry{d.name: {Name: d.name}}}
		if _, _, err := c.Explain(d.name, nil, broker.Selection{}); err != nil {
			t.Error(err)
		}
		cred := broker.Credential{}
		d.wrong(cred)
		d.Host(cred, broker.Selection{})
		for _, x := range d.Destinations(cred) {
			if !utf8.ValidString(x.Place) {
				t.Errorf("a place that is no text: %q", x.Place)
			}
		}
		_, _ = d.Select(cred, broker.Selection{})
		_, _ = d.Present(cred, broker.Selection{}, broker.Issued{Values: map[string]broker.Secret{"token": broker.NewSecret("t")}})
	})
}

// FuzzTemplate: what parses expands, and a literal comes back as it was written.
func FuzzTemplate(f *testing.F) {
	for _, s := range []string{"", "{{a}}", "{{{{", "x{{ a }}y", "{{a}}{{b}}", "{{", "}}", "{{{a}}}", "{{a b}}"} {
		f.Add(s, "value")
	}
	f.Fuzz(func(t *testing.T, s, value string) {
		parts, err := parseText(s)
		if err != nil {
			return
		}
		v := newValues(nil)
		x := text{parts: parts}
		for _, n := range x.names() {
			v.set(n, value, false)
		}
		got, ok, err := x.expand(v)
		if err != nil || !ok {
			t.Fatalf("got %v %v", ok, err)
		}
		if len(x.names()) == 0 && got != strings.ReplaceAll(s, "{{{{", "{{") {
			t.Errorf("got %q of %q", got, s)
		}
		literal, err := parseText(strings.ReplaceAll(value, "{{", "{{{{"))
		if err != nil {
			return // a brace that is left over may make another pair
		}
		if back, _, _ := (text{parts: literal}).expand(newValues(nil)); back != value {
			t.Errorf("got %q, want %q", back, value)
		}
	})
}

// FuzzAnswer: no answer panics, and none of its text is in an error.
func FuzzAnswer(f *testing.F) {
	for _, b := range []string{
		`{"access_token": "t", "expires_in": 3600}`, `{"error": "invalid_grant"}`, ``, `[]`, `"x"`, `{"a": [{"b": 1}]}`, "a=b&c=d", "<html>", `{"access_token": {"x": []}, "expires_in": "1e400"}`,
		`{"access_token": "e30.eyJleHAiOjF9.x", "expires_at": "2026-05-01T12:00:00Z"}`,
	} {
		f.Add(200, "application/json", "sid=1; Max-Age=0", b)
		f.Add(400, "", "", b)
	}
	d, problems := parse("", []byte(`name: test
inputs: {client_id: {}, client_secret: {secret: true}}
scopes: {}
obtain:
  oauth2: https://example.com/t
  error: {code: [error, {path: a.b, pattern: "(.*)"}], retry_after: wait, rules: [{status: [401], code: {not: x}, means: credential}]}
  expect: {"a[0]": {not: 1}}
  take: {token: [access_token, {cookie: sid}, {header: X-T}], c: {claim: exp, of: token, optional: true}, e: {path: v, each: a, where: {b: 1}, optional: true}, expires_at: {path: expires_at, layout: "%Y"}}
`))
	if len(yamldoc.Errors(problems)) > 0 {
		f.Fatal(problems)
	}
	f.Fuzz(func(t *testing.T, status int, contentType, cookie, body string) {
		a := &answer{Answer: transport.Answer{Status: status, Header: http.Header{"Content-Type": {contentType}, "Set-Cookie": {cookie}, "Date": {contentType}, "Retry-After": {cookie}}, Body: []byte(body), SentAt: time.Now()}}
		for _, by := range []posed{{}, {refreshes: true}, {refreshes: true, presents: true}} {
			q := d.obtain[0]
			failure := d.judge(q, a, by)
			if failure == nil {
				e := &exchange{d: d, v: newValues(nil), attempts: make([]broker.Attempt, 1)}
				out := broker.Answer{Values: map[string]broker.Secret{}, TakenBy: map[string]string{}}
				if failure = e.taking(t.Context(), q, a, &out); failure == nil && out.Values["token"].IsZero() {
					t.Error("a success without a token")
				}
			}
			if failure != nil {
				if failure.Code != "" && !errorCode.MatchString(failure.Code) || failure.RetryAfter < 0 {
					t.Errorf("got %+v", failure)
				}
				if strings.Contains(failure.Detail, "\n") {
					t.Errorf("got detail %q", failure.Detail)
				}
			}
		}
	})
}

// FuzzPath: reading a path and following it never panics.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"a", "$", `a."b c"[-1].@x`, "[0]", "a[99999999999999999999]", `""`, "a.b.c", "$.x"} {
		f.Add(s, `{"a": {"b c": [{"@x": 1}], "b": {"c": null}}}`)
	}
	f.Fuzz(func(t *testing.T, s, body string) {
		p, err := parsePath(s)
		if err != nil {
			return
		}
		doc, err := jsondoc.Read([]byte(body))
		if err != nil {
			return
		}
		if v, ok := p.find(doc); ok && v == nil {
			t.Error("found nothing, and says that it found it")
		}
	})
}
