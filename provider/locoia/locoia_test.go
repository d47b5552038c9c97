package locoia

import (
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
	"github.com/tokenbroker/tokenbroker/provider"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A vendor is example.com, which answers as a test says and keeps what it was asked, a request at a time.
type vendor struct {
	t         *testing.T
	dir       string
	transport *transport.Transport
	asked     []asked
}

type asked struct{ uri, body string }

func newVendor(t *testing.T, answer http.HandlerFunc) *vendor {
	t.Helper()
	v := &vendor{t: t, dir: t.TempDir()}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		v.asked = append(v.asked, asked{r.URL.RequestURI(), string(b)})
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	v.transport, err = transport.New(transport.Settings{CAFile: ca, ConnectTo: map[string]string{"example.com:443": server.Listener.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.transport.Close)
	return v
}

// define loads a definition, whose name is x.
func (v *vendor) define(text []byte) broker.Definition {
	v.t.Helper()
	if err := os.WriteFile(filepath.Join(v.dir, "x.yaml"), text, 0o600); err != nil {
		v.t.Fatal(err)
	}
	c, err := provider.Load(v.transport, v.dir)
	if err != nil {
		v.t.Fatal(err)
	}
	d, err := c.Definition("x")
	if err != nil {
		v.t.Fatal(err)
	}
	return d
}

func exchange(t *testing.T, d broker.Definition, x broker.Exchange) (broker.Answer, error) {
	t.Helper()
	x.BeforeSend = func(string) error { return nil }
	return d.Exchange(t.Context(), x)
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
		def, notes, err := Import([]byte(c.config), "")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, p := range provider.Check("", def) {
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
		if _, _, err := Import([]byte(bad), ""); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}

// TestAnImportedConfigurationSendsWhatItSaid runs what was imported.
func TestAnImportedConfigurationSendsWhatItSaid(t *testing.T) {
	def, notes, err := Import([]byte(`{"name": "x", "authorization_request_url": "https://example.com/auth?scope=https%3A%2F%2Fapi%2Fa+b&id={{ username }}&x=1&x=2&x=3",
"authorization_request_method": "POST", "authorization_request_headers": {"content-type": "application/json"},
"authorization_request_body_template": "{\"p\": \"{{password}}\", \"n\": 12345678901234567890, \"t\": true, \"z\": null, \"l\": [1.50, \"1\"]}",
"response_access_token_path": "a.b", "response_refresh_token_path": "r", "refresh_request_url": "https://example.com/refresh?v=a%26b",
"refresh_request_body_template": "refresh_token={{ refresh_token }}&grant=a%3Db", "encode": true, "token_in_header": false, "header_key": "k", "token_prefix": "T {{token_format}}"}`), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range notes {
		if strings.Contains(n, "by hand") {
			t.Error(n)
		}
	}
	v := newVendor(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"a": {"b": "tok"}, "r": "next"}`)
	})
	d := v.define(def)
	c := broker.Credential{
		Name: "c", Provider: "x", Inputs: map[string]string{"username": "u&v"},
		Secrets: map[string]broker.SecretInput{"password": {Value: broker.NewSecret(`p"w`)}},
	}
	a, err := exchange(t, d, broker.Exchange{Credential: c})
	if err != nil || a.RefreshToken.Reveal() != "next" {
		t.Fatalf("got %+v %v", a, err)
	}
	if a, err = exchange(t, d, broker.Exchange{Run: broker.Refresh, Credential: c, RefreshToken: broker.NewSecret("r&1")}); err != nil || a.Values["token"].Reveal() != "tok" {
		t.Fatalf("got %+v %v: where a refresh says nothing, it takes what the first request took", a, err)
	}
	asked := v.asked
	u, err := url.Parse(asked[0].uri)
	if err != nil || u.Query().Encode() != "id=u%26v&scope=https%3A%2F%2Fapi%2Fa+b&x=1&x=2&x=3" {
		t.Errorf("got %s", asked[0].uri)
	}
	if want := `{"l":[1.50,"1"],"n":12345678901234567890,"p":"p\"w","t":true,"z":null}`; asked[0].body != want {
		t.Errorf("got %s, want %s", asked[0].body, want)
	}
	if asked[1].uri != "/refresh?v=a%26b" || asked[1].body != "refresh_token=r%261&grant=a%3Db" {
		t.Errorf("got %s %s", asked[1].uri, asked[1].body)
	}
	p, err := d.Present(c, broker.Selection{}, broker.Issued{Values: a.Values})
	if err != nil || len(p.Query) != 1 || p.Query[0].Name != "k" || p.Query[0].Value.Reveal() != "T dG9r" {
		t.Errorf("got %v %v", p.Query, err)
	}
}

func TestWhatCannotBeImportedIsSaid(t *testing.T) {
	for config, want := range map[string]string{
		`{"authorization_request_url": "https://a.example", "authorization_request_method": "PATCH"}`:                                                           "by hand",
		`{"authorization_request_url": "https://a.example/{{ x.y }}"}`:                                                                                          "by hand",
		`{"authorization_request_url": "https://a.example", "authorization_request_method": "GET", "authorization_request_body_template": "a=b"}`:               "a GET has no body",
		`{"authorization_request_url": "https://a.example", "authorization_request_body_template": "{\"a\": {{n}}}"}`:                                           "is none; it is sent as text",
		`{"authorization_request_url": "https://a.example", "response_refresh_token_path": "r"}`:                                                                "the refresh token is not taken",
		`{"authorization_request_url": "https://a.example", "header_key": "X", "headers": {"x": "y"}}`:                                                          "the other is dropped",
		`{"authorization_request_url": "https://a.example", "authorization_request_body_template": "just text", "response_access_token_path_in_cookie": "sid"}`: "authorization_request_headers is missing",
	} {
		_, notes, err := Import([]byte(config), "")
		if err != nil || !strings.Contains(strings.Join(notes, "\n"), want) {
			t.Errorf("%s: got %q %v, want %q", config, notes, err, want)
		}
	}
}

func TestAnAddressThatBeginsWithANameIsAWholeURL(t *testing.T) {
	def, notes, err := Import([]byte(`{"name": "x", "authorization_request_url": "{{ base_url }}/auth?u={{ user }}#top", "response_access_token_path": "t"}`), "")
	if err != nil || strings.Contains(strings.Join(notes, "\n"), "by hand") || !strings.Contains(string(def), "base_url: {format: url}") || strings.Contains(string(def), "top") {
		t.Errorf("got %s %v %v", def, notes, err)
	}
}

// FuzzImport: whatever a configuration says, what comes of it is YAML, and what is wrong with it is said.
func FuzzImport(f *testing.F) {
	f.Add([]byte(`{"authorization_request_url": "https://api.example.com/auth?client_id={{ username }}&client_secret={{ password }}", "authorization_request_method": "GET", "response_access_token_path": "access_token", "header_key": "Authorization", "token_prefix": "Bearer {{token_format}}"}`))
	f.Add([]byte(`{"name": "x", "authorization_request_url": "https://a/", "authorization_request_body_template": "{\"a\": {{ b }}}", "authorization_request_method": "PATCH"}`))
	f.Add([]byte(`{"authorization_request_url": "{{a}}/x y#z", "authorization_request_body_template": "{\"a\":\"{{ b }}\"}", "response_access_token_path_in_cookie": "x", "refresh_request_url": "https://b/", "refresh_request_body_template": "a=b&a=c"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		def, notes, err := Import(data, "")
		if err != nil {
			return
		}
		problems, said := yamldoc.Errors(provider.Check("", def)), 0
		for _, n := range notes {
			if strings.HasPrefix(n, "to be mended by hand") {
				said++
			}
		}
		for _, p := range problems {
			if strings.Contains(p.Message, "not YAML") {
				t.Fatalf("%s\n%s", p, def)
			}
		}
		if wrong := yamldoc.Errors(problems); said != len(wrong) { // warnings are for provider check, on what is made of it
			t.Fatalf("got %d notes of %d problems", said, len(wrong))
		}
	})
}

// TestEachSettingOfTheTableHasItsPlace: every way in which a token comes, with a real answer.
func TestEachSettingOfTheTableHasItsPlace(t *testing.T) {
	v := newVendor(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Token", "of-header")
		w.Header().Set("Set-Cookie", "sid=of-cookie; Path=/")
		_, _ = io.WriteString(w, `{"access_token": "of-body", "method": "`+r.Method+`"}`)
	})
	for settings, want := range map[string]string{
		`"response_access_token_path": "access_token"`:      "of-body",
		`"response_access_token_path_in_header": "X-Token"`: "of-header",
		`"response_access_token_path_in_cookie": "sid"`:     "of-cookie",
		`"authorization_request_method": "GET", "authorization_request_body_template": "", "response_access_token_path": "method"`: "GET",
		`"authorization_request_body_template": "", "response_access_token_path": "method"`:                                        "POST",
	} {
		def, _, err := Import([]byte(`{"name": "x", "authorization_request_url": "https://example.com/auth", `+settings+`}`), "")
		if err != nil {
			t.Fatal(err)
		}
		a, err := exchange(t, v.define(def), broker.Exchange{Credential: broker.Credential{Name: "c", Provider: "x"}})
		if err != nil || a.Values["token"].Reveal() != want {
			t.Errorf("%s: got %q %v, want %q", settings, a.Values["token"].Reveal(), err, want)
		}
	}
}
