package provider

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/leaktest"
)

func TestExplainShowsTheRequestsAndNoSecret(t *testing.T) {
	c, _ := catalogIn(t, map[string]string{"static.yaml": "name: static\ninputs: {k: {secret: true, handed_out: true}}\ntoken: \"{{k}}\"", "bad.yaml": "name: bad"})
	for name, want := range map[string][]string{
		"officernd":                       {"POST https://identity.officernd.com/oauth/token", "client_secret=<client_secret>", "scope=officernd.api.read", "takes token from access_token"},
		"snov-get":                        {"GET https://api.snov.io/v1/oauth/access_token?", "client_secret=<client_secret>"},
		"docuware":                        {"obtain, request 3 of 3", "password=<password>"},
		"docuware-cookie":                 {"Password=<password>", "User-Agent: tokenbroker-docuware/1", "takes token from cookie .DWPLATFORMAUTH"},
		"oauth2-client-credentials-basic": {"/.well-known/openid-configuration", "Basic the-id:<client_secret>"},
		"oauth2-refresh-token":            {"refresh, request 1 of 1", "refresh_token=<refresh_token>"},
		"ochno-operated":                  {"obtain, request 1 of 1", "refresh, request 1 of 1"},
		"static":                          {"nothing is asked"},
	} {
		requests, _, err := c.Explain(name, map[string]string{"client_id": "the-id"}, broker.Selection{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		text := strings.Join(requests, "\n")
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: %q is not in\n%s", name, w, text)
			}
		}
		if strings.Contains(text, "cannot be made") || strings.Contains(text, "masked.") {
			t.Errorf("%s: got\n%s", name, text)
		}
	}
	_, problems, err := c.Explain("officernd", map[string]string{"client_idd": "x"}, broker.Selection{})
	if err != nil || len(problems) != 2 || !strings.Contains(problems[1].String(), `did you mean "client_id"?`) {
		t.Errorf("got %v %v", problems, err)
	}
	if _, _, err := c.Explain("missing", nil, broker.Selection{}); broker.KindOf(err) != broker.NotFound {
		t.Errorf("got %v", err)
	}
	if _, ps, err := c.Explain("bad", nil, broker.Selection{}); broker.KindOf(err) != broker.ProviderInvalid || len(ps) == 0 {
		t.Errorf("got %v %v", ps, err)
	}
}

func TestTryShowsWhatTheUpstreamSaysAndNoSecret(t *testing.T) {
	v := newVendor(t, says(400, "application/json", `{"error": "invalid_client", "error_description": "client s3cret-value is\nunknown"}`))
	d := v.define(oauth)
	c := &Catalog{loaded: map[string]*definition{"test": d}}
	cred := credential(client)
	rep, _, err := c.Try(v.context(), cred, broker.Selection{}, broker.Secret{})
	if err != nil || rep.Failure == nil || len(rep.Requests) != 1 || rep.Requests[0].Status != 400 {
		t.Fatalf("got %+v %v", rep, err)
	}
	if got := rep.Requests[0].Message; got != "client <client_secret> is unknown" {
		t.Errorf("got %q", got)
	}
	v.answer = says(422, "application/json", `{"error": "E_FORM", "error_description": "fields are wanted"}`)
	rep, _, err = c.Try(v.context(), cred, broker.Selection{}, broker.Secret{})
	if err != nil || len(rep.Requests) != 1 || rep.Requests[0].Message != "E_FORM: fields are wanted" {
		t.Errorf("got %+v %v, want the code that a rule can name", rep, err)
	}
	v.answer = jsonSays(`{"access_token": "t", "expires_in": 60, "refresh_token": "r"}`)
	rep, ans, err := c.Try(v.context(), cred, broker.Selection{}, broker.NewSecret("seed"))
	if err != nil || rep.Failure != nil || rep.Requests[0].Taken["token"] != "access_token" || !rep.RefreshToken || ans.RefreshToken.Reveal() != "r" {
		t.Errorf("got %+v %v", rep, err)
	}
	if _, _, err := c.Try(v.context(), credential(nil), broker.Selection{}, broker.Secret{}); err == nil || len(cred.Secrets) == 0 {
		if cred.Provider = "missing"; err == nil {
			t.Error("a credential without its inputs was tried")
		}
	}
	if _, _, err := c.Try(v.context(), broker.Credential{Provider: "missing"}, broker.Selection{}, broker.Secret{}); broker.KindOf(err) != broker.ProviderInvalid {
		t.Errorf("got %v", err)
	}
}

func TestExplainKeepsNamesApartThatBeginAlike(t *testing.T) {
	c, _ := catalogIn(t, map[string]string{"x.yaml": `name: x
inputs: {key: {secret: true}, key_id: {secret: true}, sub_domain: {}, server: {format: url}}
let: {way: {lower: "{{server}}"}, pair: {base64: "{{key}}:{{key_id}}"}}
parameters: {p: {}, s: {secret: true}}
obtain:
- post: "https://{{sub_domain}}.example.com/{{p}}?x=1"
  query: {k: "{{key}}{{key_id}}", s: "{{s}}"}
  form: {pair: "{{pair}}"}
  auth: {basic: ["{{key_id}}", "{{key}}"]}
  take: {token: t, token_type: tt}
- {post: "{{way}}/again/{{token_type}}", json: {a: "{{token}}", b: "{{token_type}}"}, take: {token: t}}`})
	requests, _, err := c.Explain("x", nil, broker.Selection{})
	if err != nil || len(requests) != 2 {
		t.Fatalf("got %v %v", requests, err)
	}
	for i, want := range [][]string{
		{"POST https://<sub_domain>.example.com/<p>?x=1&k=<key><key_id>&s=<s>", "Authorization: Basic <key_id>:<key>", "pair=<pair>"},
		{"POST <way>/again/<token_type>", `{"a":"<token>","b":"<token_type>"}`},
	} {
		for _, w := range want {
			if !strings.Contains(requests[i], w) {
				t.Errorf("%q is not in\n%s", w, requests[i])
			}
		}
	}
}

// TestTryConcealsWhatAnUpstreamEchoes: a gateway that says in its error what it was sent.
func TestTryConcealsWhatAnUpstreamEchoes(t *testing.T) {
	const secret = `p"q&r+s/t=<u>`
	v := newVendor(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusBadGateway)
		body, _ := io.ReadAll(r.Body)
		sum := base64.StdEncoding.EncodeToString([]byte(secret))
		_, _ = fmt.Fprintf(w, "sent %s to %s with %s; %s \x1b[31m\u009b %s", body, r.URL.RequestURI(), r.Header.Get("Authorization"), sum, secret)
	})
	d := v.define(`
inputs: {client_id: {}, client_secret: {secret: true}}
obtain: {post: "https://example.com/t", query: {q: "{{client_secret}}"}, json: {s: "{{client_secret}}"}, auth: client_secret_basic, take: {token: t}}`)
	c := &Catalog{loaded: map[string]*definition{"test": d}}
	rep, _, err := c.Try(v.context(), credential(map[string]string{"client_id": "id", "!client_secret": secret}), broker.Selection{}, broker.Secret{})
	if err != nil || len(rep.Requests) != 1 {
		t.Fatalf("got %+v %v", rep, err)
	}
	m := rep.Requests[0].Message
	if found := leaktest.Find([]byte(m), []string{secret}); len(found) > 0 || strings.ContainsAny(m, "\x1b\u009b") {
		t.Errorf("got %q: %v", m, found)
	}
	v.server.Close()
	rep, _, err = c.Try(v.context(), credential(map[string]string{"client_id": "id", "!client_secret": secret}), broker.Selection{}, broker.Secret{})
	if err != nil || rep.Requests[0].Host != "example.com:443" || rep.Requests[0].Status != 0 {
		t.Errorf("got %+v %v, want the host that could not be reached", rep.Requests, err)
	}
}
