package provider

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
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
	for name, text := range map[string]string{"good.yaml": "name: good\ntoken: t", "other.yml": "name: other\ntoken: t"} {
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
