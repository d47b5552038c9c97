package provider

import (
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

func TestExplainShowsTheRequestsAndNoSecret(t *testing.T) {
	c, _ := catalogIn(t, map[string]string{"static.yaml": "name: static\ninputs: {k: {secret: true}}\ntoken: \"{{k}}\"", "bad.yaml": "name: bad"})
	for name, want := range map[string][]string{
		"officernd":                       {"POST https://identity.officernd.com/oauth/token", "client_secret=<client_secret>", "scope=officernd.api.read", "takes token from access_token"},
		"snov-get":                        {"GET https://api.snov.io/v1/oauth/access_token?", "client_secret=<client_secret>"},
		"docuware":                        {"obtain, request 3 of 3", "password=<password>"},
		"docuware-cookie":                 {"Password=<password>", "User-Agent: tokenbroker-docuware/1", "takes token from cookie .DWPLATFORMAUTH"},
		"oauth2-client-credentials-basic": {"/.well-known/openid-configuration", "Basic <client_id>:<client_secret>"},
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

func TestAnImportedConfigurationIsADefinition(t *testing.T) {
	for name, c := range map[string]struct {
		config string
		want   []string
	}{
		"the example": {`{"authorization_request_url": "https://api.example.com/auth?client_id={{ username }}&client_secret={{ password }}", "authorization_request_method":
"GET", "authorization_request_body_template": "", "authorization_request_headers": {"Content-Type": "application/x-www-form-urlencoded"},
"response_access_token_path": "access_token", "refresh_request_url": null, "response_refresh_token_path": null,
"header_configuration": {"encode": false, "token_in_header": true, "header_key": "Authorization", "token_format": "{{token}}", "token_prefix": "Bearer {{token_format}}"}}`,
			[]string{"get: https://api.example.com/auth", "client_secret: '{{password}}'", "password: {secret: true}", "Authorization: Bearer {{token}}"}},
		"everything": {`{"name": "My API", "authorization_request_url": "https://api.example.com/login", "authorization_request_body_template": "{\"user\": \"{{username}}\", \"pass\": \"{{password}}\"}",
"authorization_request_headers": {"X-Key": "{{api_key}}"}, "response_access_token_path": "data.token", "response_refresh_token_path": "data.refresh",
"refresh_request_url": "https://api.example.com/refresh", "refresh_request_headers": {"Authorization": "Bearer {{refresh_token}}"}, "refresh_request_body_template": "a={{refresh_token}}&b=c",
"refresh_response_access_token_path": "token", "refresh_response_refresh_token_path": "refresh", "header_key": "X-Auth", "token_prefix": "Token {{token_format}}", "token_format": "{{ token }}", "encode": true,
"headers": {"User-Agent": "agent"}}`,
			[]string{"name: my-api", "json:", "refresh:", "form:", "base64", "X-Auth: Token {{encoded}}", "token: data.token", "refresh_token: data.refresh"}},
		"a header": {`{"authorization_request_url": "https://a.example", "response_access_token_path_in_header": "X-Token"}`, []string{"header: X-Token", "text: \"\""}},
		"a cookie": {`{"authorization_request_url": "https://a.example", "response_access_token_path_in_cookie": "sid", "token_in_header": false, "header_key": "key"}`, []string{"cookie: sid", "query:"}},
	} {
		def, notes, err := ImportLocoia([]byte(c.config))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, p := range Check("", def) {
			t.Errorf("%s: %s in\n%s", name, p, def)
		}
		for _, n := range notes {
			if strings.Contains(n, "by hand") {
				t.Errorf("%s: %s", name, n)
			}
		}
		for _, w := range c.want {
			if !strings.Contains(string(def), w) {
				t.Errorf("%s: %q is not in\n%s", name, w, def)
			}
		}
	}
	for _, bad := range []string{``, `{`, `[]`, `{}`, `{"authorization_request_url": 5}`, `{"unknown_word": 1}`} {
		if _, _, err := ImportLocoia([]byte(bad)); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}
