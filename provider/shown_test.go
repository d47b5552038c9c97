package provider

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

func TestExplainShowsNoSecretParameter(t *testing.T) {
	dir := t.TempDir()
	text := `name: x
parameters: {otp: {secret: true}, plain: {}}
obtain: {oauth2: https://example.com/t, auth: none, params: {otp: "{{otp}}", plain: "{{plain}}"}}`
	if err := os.WriteFile(filepath.Join(dir, "x.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(nil, dir)
	if err != nil {
		t.Fatal(err)
	}
	requests, problems, err := c.Explain("x", nil, broker.Selection{Parameters: broker.NewPairs(map[string]string{"otp": "hunter22", "plain": "shown"})})
	if err != nil || len(problems) > 0 {
		t.Fatal(problems, err)
	}
	all := strings.Join(requests, "\n")
	if strings.Contains(all, "hunter22") || !strings.Contains(all, "otp=<otp>") || !strings.Contains(all, "plain=shown") {
		t.Error(all)
	}
}

func TestTryShowsNoTokenThatItDoesNotUnderstandAndNoSeed(t *testing.T) {
	for _, x := range []struct{ what, media, body, want string }{
		{"another name", "application/json", `{"accesstoken": "very-secret", "ttl": 5}`, "accesstoken"},
		{"a page", "text/html", "<html>very-secret</html>", "page"},
		{"an echo", "application/json", `{"error": "invalid_grant", "error_description": "token s33d-value is\u001b[31m unknown\u202e"}`, "<refresh_token>"},
	} {
		t.Run(x.what, func(t *testing.T) {
			v := newVendor(t, says(200, x.media, x.body))
			dir := t.TempDir()
			text := "name: x\ninputs: {refresh_token: {secret: true, seed: true}}\nrefresh: {oauth2: https://example.com/t, auth: none}"
			if err := os.WriteFile(filepath.Join(dir, "x.yaml"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			c, err := Load(v.tr, dir)
			if err != nil {
				t.Fatal(err)
			}
			cred := broker.Credential{Provider: "x", Seeds: map[string]broker.Seed{"refresh_token": {}}, Secrets: map[string]broker.SecretInput{"empty": {}}}
			rep, _, err := c.Try(v.context(), cred, broker.Selection{}, broker.NewSecret("s33d-value"))
			if err != nil || rep.Failure == nil || len(rep.Requests) != 1 {
				t.Fatalf("got %+v %v", rep, err)
			}
			m := rep.Requests[0].Message
			if strings.Contains(m, "very-secret") || strings.Contains(m, "s33d") || strings.ContainsAny(m, "\x1b\u202e") || !strings.Contains(m, x.want) {
				t.Errorf("got %q", m)
			}
		})
	}
}

func TestAFileThatCannotBeReadDoesNotKeepTheOthersFromLoading(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(filepath.Join(dir, "itself.yaml"), filepath.Join(dir, "itself.yaml")); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"good.yaml": "name: good\ninputs: {k: {}}\ntoken: '{{k}}'", "other.yml": "name: other\ntoken: t"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := Load(nil, dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Definition("good"); err != nil {
		t.Error(err)
	}
	seen := map[string]int{}
	for _, e := range c.List() {
		seen[e.Name] = len(e.Problems)
	}
	if seen["itself"] != 1 || seen["other"] != 1 {
		t.Errorf("got %v", seen)
	}
}

// TestWhatStandsInAWrongFileIsNotQuoted: somebody's credentials come to lie among the definitions. The log says what is wrong, and no value.
func TestWhatStandsInAWrongFileIsNotQuoted(t *testing.T) {
	const planted = "sekret"
	request := func(s string) string {
		return "name: x\nobtain: {post: \"https://example.com/t\", take: {token: t}, " + s + "}"
	}
	for _, text := range []string{
		"name: sekret-1\ninputs: sekret-2\nparameters: sekret-3\nscopes: sekret-4\naudience: sekret-5\nlet: sekret-6\nheaders: sekret-7\nerror: sekret-8\nobtain: sekret-9",
		"name: SEKRET sekret-1\nlanguage: sekret-2\noverride: sekret-3\nrefresh: sekret-4\nrefresh_token_lifetime: sekret-5\nlifetime: sekret-6\nmargin: sekret-7\nrate: sekret-8",
		"name: x\nwhen_store_is_away: sekret-1\npresent: sekret-2\nattributes: sekret-3\nbase_url: sekret-4\nrefresh_token_reuse: sekret-5\nrefresh: {oauth2: sekret-6}",
		"name: x\ninputs: {client_id: id, password: sekret-1, a: {secret: sekret-2, format: sekret-3, pattern: \"sekret-4(\", one_of: sekret-5, default: \"{{sekret-6}}\"}}",
		"name: x\ninputs: {a: {one_of: [sekret-1], default: sekret-2}, b: {format: uuid, one_of: [sekret-3]}, c: {pattern: sekret-4, default: x}}\ntoken: sekret-5",
		"name: x\ninputs: {a: {one_of: [sekret/1]}, b: {default: sekret/2}}\nobtain: {post: \"https://{{a}}.{{b}}.example.com/\", take: {token: t}}",
		"name: x\nattributes: [sekret-1]\nbase_url: \"https://sekret 2/\"\nobtain: {post: \"https://a:sekret-3/\", take: {token: t}}",
		"name: x\nlet: {a: {add: sekret-1}, b: {now: {add: sekret-2, layout: sekret-3}}, c: {random: sekret-4}, d: {uuid: sekret-5}, e: {split: {of: x, by: y, at: sekret-6}}}",
		"name: x\npassword: *sekret-1",
		"name: x\npassword: !sekret-1 x\nlet: {a: ! sekret-2, b: {base64: [sekret-3]}}",
		request(`ok: sekret-1`), request(`ok: [200, sekret-2]`), request(`answer: sekret-3`), request(`auth: sekret-4`), request(`auth: {basic: sekret-5}`),
		request(`headers: {A: "{{sekret-1}}", B: "sekret\r\n-2"}`), request(`cookies: {a: "sekret;-3"}`), request(`form: sekret-4`), request(`expect: {a: {present: sekret-5}}`),
		request(`error: {code: "sekret-1[", rules: [{status: sekret-2, means: sekret-3, wait: sekret-4}]}`), request(`error: {rules: sekret-5}`),
		"name: x\nobtain: {post: \"https://example.com\", take: {token: \"sekret-1[sekret-2]\", a: \"sekret..3\", b: {path: x, unit: sekret-4, layout: sekret-5, pattern: sekret-6}, c: {claim: x, of: sekret-7}}}",
	} {
		found := Check("x.yaml", []byte(text))
		if len(yamldoc.Errors(found)) == 0 {
			t.Errorf("%s\nnothing is wrong with it", text)
		}
		for _, p := range found {
			if strings.Contains(p.String(), planted) {
				t.Errorf("%s\nis told as %s", text, p)
			}
		}
	}
}
