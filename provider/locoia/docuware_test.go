package locoia

import (
	"net/http"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/provider"
)

// docuWare is Locoia's example of a token that is a cookie, named by a unique string, with one User-Agent for all requests.
const docuWare = `{"refreshable_token": {
  "auth_form": [{"name": "base_url", "title": "Server", "type": "text"}, {"name": "password", "type": "password"}],
  "config": {
    "authorization_request_url": "{{ base_url }}/DocuWare/Platform/Account/Logon",
    "authorization_request_body_template": "UserName={{ username }}&Password={{ password }}&RememberMe=false",
    "authorization_request_headers": "{\"Content-Type\": \"application/x-www-form-urlencoded\", \"User-Agent\": \"agent/1\"}",
    "response_access_token_path": "", "response_access_token_path_in_cookie": "DWPLATFORMAUTH",
    "response_refresh_token_path": null, "refresh_request_url": null, "refresh_request_body_template": null
  }},
 "header_configuration": {"encode": false, "token_in_header": true, "content_type": "application/json", "header_key": "Cookie",
  "token_format": "{{token}}", "token_prefix": "{{token_format}}", "User-Agent": "agent/1"}}`

func TestDocuWareIsImportedWithoutRepairs(t *testing.T) {
	for name, config := range map[string]string{
		"as the pages have it":   docuWare,
		"without a header block": strings.Replace(docuWare, `"header_key": "Cookie",`, "", 1),
		"with the cookie's name": strings.Replace(docuWare, `"token_prefix": "{{token_format}}"`, `"token_prefix": ".DWPLATFORMAUTH={{token_format}}"`, 1),
	} {
		if name == "without a header block" {
			config = strings.Replace(config, `"token_format": "{{token}}", "token_prefix": "{{token_format}}", `, "", 1)
		}
		def, notes, err := Import([]byte(config), "x")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := strings.Join(notes, "\n"); strings.Contains(got, "by hand") || strings.Contains(got, "is missing") {
			t.Errorf("%s: %s", name, got)
		}
		for _, p := range provider.Check("", def) {
			t.Errorf("%s: %s in\n%s", name, p, def)
		}
		agents := ""
		v := newVendor(t, func(w http.ResponseWriter, r *http.Request) {
			agents += r.Header.Get("User-Agent")
			for _, c := range []string{".DWPLATFORMAUTH=; Path=/", "DWPLATFORMBROWSERID=b1; Path=/", ".DWPLATFORMAUTH=a1; Path=/; HttpOnly"} {
				w.Header().Add("Set-Cookie", c)
			}
		})
		d := v.define(def)
		c := broker.Credential{
			Name: "c", Provider: "x", Inputs: map[string]string{"base_url": "https://example.com", "username": "u"},
			Secrets: map[string]broker.SecretInput{"password": {Value: broker.NewSecret("p")}},
		}
		a, err := exchange(t, d, broker.Exchange{Credential: c})
		if err != nil || a.Values["token"].Reveal() != "a1" || v.asked[0].body != "UserName=u&Password=p&RememberMe=false" {
			t.Errorf("%s: got %q %v of %v", name, a.Values["token"].Reveal(), err, v.asked)
			continue
		}
		p, err := d.Present(c, broker.Selection{}, broker.Issued{Values: a.Values, Headers: a.Headers})
		if err != nil || len(p.Cookies) != 1 || p.Cookies[0].Name != ".DWPLATFORMAUTH" || p.Cookies[0].Value.Reveal() != "a1" {
			t.Errorf("%s: got cookies %v %v in\n%s", name, p.Cookies, err, def)
		}
		if agents != "agent/1" || len(p.Headers) != 1 || p.Headers[0].Name != "User-Agent" || p.Headers[0].Value.Reveal() != "agent/1" {
			t.Errorf("%s: got %q and headers %v, want one User-Agent for all requests", name, agents, p.Headers)
		}
	}
}

// TestASecretInAConfigurationBecomesAnInput: it is in nobody's definition, and in no note.
func TestASecretInAConfigurationBecomesAnInput(t *testing.T) {
	def, notes, err := Import([]byte(`{"name": "Their name", "authorization_request_url": "https://example.com/auth?client_id=me&client_secret=s3cret-1",
"authorization_request_body_template": "{\"user\": \"{{username}}\", \"login\": {\"password\": \"s3cret-2\", \"pin\": 4711}}",
"authorization_request_headers": {"Content-Type": "application/json", "Authorization": "Basic s3cret-3"}, "response_access_token_path": "t",
"header_key": "X-Auth", "token_format": "{{token}}", "token_prefix": "{{token_format}}", "headers": {"X-Api-Key": "s3cret-4", "X-Other": "{{ my_key }}"}}`), "mine")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range provider.Check("", def) {
		if !p.Warning {
			t.Errorf("%s in\n%s", p, def)
		}
	}
	said := strings.Join(notes, "\n")
	if all := string(def) + said; strings.Contains(all, "s3cret") || strings.Contains(all, "4711") {
		t.Errorf("got\n%s", all)
	}
	for _, want := range []string{"name: mine", "client_secret: '{{client_secret}}'", "password: '{{password}}'", "pin: '{{pin}}'", "Authorization: Basic {{api_key}}", "my_key: {secret: true, handed_out: true}"} {
		if !strings.Contains(string(def), want) {
			t.Errorf("%q is not in\n%s", want, def)
		}
	}
	if !strings.Contains(said, "client_secret: the configuration has a secret in it") {
		t.Errorf("got %s", said)
	}
}

func TestWhatLocoiaRequiresIsMissed(t *testing.T) {
	_, notes, err := Import([]byte(`{"authorization_request_url": "https://a.example", "refresh_request_url": "https://a.example/r"}`), "")
	said := strings.Join(notes, "\n")
	for _, name := range []string{
		"authorization_request_body_template", "authorization_request_headers", "response_access_token_path", "refresh_request_body_template",
		"refresh_request_headers", "response_refresh_token_path",
	} {
		if err != nil || !strings.Contains(said, name+" is missing") {
			t.Errorf("%s: got %v\n%s", name, err, said)
		}
	}
}
