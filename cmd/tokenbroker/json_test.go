package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/alecthomas/kong"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
)

// withoutJSON are the commands that print what is no answer: a log, a show, a script, a file for somebody else, what another program prints.
var withoutJSON = []string{"serve", "run", "demo run", "demo upstream", "help", "completion"}

// ofKeys are the commands that TestTheKeysAreToldInJSON tries.
var ofKeys = []string{"keys create", "keys wrap", "keys list", "keys rotate", "keys promote", "keys rewrap", "keys retire", "keys restore", "keys destroy"}

// ofDoctor is the command that TestTheDoctor tries, wherever it looks.
var ofDoctor = []string{"doctor"}

// TestTheKeysAreToldInJSON walks through the life of a key; it cannot be destroyed yet, which is said in JSON, too.
func TestTheKeysAreToldInJSON(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	data := filepath.Join(dir, "d")
	var tried []string
	say := func(name string, more ...string) []byte {
		t.Helper()
		tried = append(tried, name)
		out := command(t, append(append(strings.Fields(name), more...), "-o", "json")...)
		if !json.Valid([]byte(out)) {
			t.Errorf("%s: got no JSON:\n%s", name, out)
		}
		return []byte(out)
	}
	var first struct {
		URI string `json:"uri"`
	}
	if err := json.Unmarshal(say("keys create", filepath.Join(dir, "kek.json")), &first); err != nil {
		t.Fatal(err)
	}
	say("keys create", filepath.Join(dir, "other.json"))
	p := start(t, "serve", "--data-dir", data, "--listen", "127.0.0.1:0", "--metrics-listen", "none", "--keys-kek", first.URI)
	p.waitFor(`answering on (127\.0\.0\.1:\d+)`)
	at := "--data-dir=" + data
	say("keys rotate", at)
	say("keys promote", at)
	say("keys rewrap", at)
	var keys struct {
		Keys []struct{ ID, State string } `json:"keys"`
	}
	if err := json.Unmarshal(say("keys list", at), &keys); err != nil || len(keys.Keys) != 2 {
		t.Fatalf("got %+v, %v", keys, err)
	}
	former := keys.Keys[0].ID
	if keys.Keys[0].State != "former" {
		former = keys.Keys[1].ID
	}
	say("keys retire", former, at)
	tried = append(tried, "keys destroy")
	if _, failed := failing(t, "keys", "destroy", former, at, "-o", "json"); !json.Valid(failed) {
		t.Errorf("keys destroy: got no JSON: %s", failed)
	}
	say("keys restore", former, at)
	p.stopAtOnce()
	say("keys wrap", at, "--former-kek", first.URI, "--keys-kek", "file://"+filepath.Join(dir, "other.json"))
	for _, name := range ofKeys {
		if !slices.Contains(tried, name) {
			t.Errorf("%s is not tried: add it here", name)
		}
	}
}

// TestEveryCommandPrintsJSON walks all commands: what -o json prints can be parsed, of what went well and of what did not.
func TestEveryCommandPrintsJSON(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	s := u.serve()
	s.apply(u)
	secret, empty := filepath.Join(u.dir, "secret"), filepath.Join(u.dir, "empty.yaml")
	const connector = `{"authorization_request_url": "https://api.example.com/auth?client_id={{ username }}&client_secret={{ password }}",
		"authorization_request_method": "GET", "response_access_token_path": "access_token", "encode": false, "token_in_header": true,
		"header_key": "Authorization", "token_format": "{{token}}", "token_prefix": "Bearer {{token_format}}"}`
	static, locoia := filepath.Join(u.dir, "static.yaml"), filepath.Join(u.dir, "locoia.json")
	audited := filepath.Join(u.dir, "audit.jsonl")
	for file, text := range map[string]string{
		audited: `{"v":1,"time":"2026-03-01T11:00:00Z","event":"token.issued","outcome":"ok","caller":{"id":"unix:7","proof":"peer"},"operation":"get_token","credential":"a"}` + "\n",
		secret:  "one of mine", empty: "# nothing\n", locoia: connector,
		static: "name: static\ninputs: {api_key: {secret: true, handed_out: true}}\ntoken: \"{{api_key}}\"\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	data, backup, export := filepath.Join(u.dir, "data"), filepath.Join(u.dir, "backup"), filepath.Join(u.dir, "export")
	config, key := filepath.Join(u.dir, "settings.yaml"), filepath.Join(data, "key.json")
	certs := filepath.Join(u.dir, "certs")
	const one = "officernd-1"
	order := []struct{ command, args string }{
		{"version", ""}, {"health", ""}, {"config check", empty}, {"certs dev", certs}, {"policy check", certs + "/policy.yaml"}, {"policy test", certs + "/policy.yaml"},
		{"policy explain", certs + "/policy.yaml --caller spiffe://example.org/shop --operation get_token --credential any"}, {"policy suggest", audited}, {"provider list", ""}, {"provider show", "snov"}, {"provider explain", "snov"},
		{"provider check", static}, {"provider try", static + " --secret api_key=@" + secret}, {"provider schema", ""}, {"provider import locoia", locoia},
		{"provider new", "new-api --token-url https://example.com/token --providers-dir " + u.dir},
		{"token get", one}, {"token watch", one}, {"token invalidate", one + " --all"}, {"bench", one + " --callers 2 --duration 10ms"},
		{"credential create", "mine --provider snov --input client_id=a --secret client_secret=@" + secret}, {"credential get", one}, {"credential list", ""},
		{"credential update", "mine --label a=b"}, {"credential rotate-secret", "mine --secret client_secret=@" + secret}, {"credential retire-secret", "mine"},
		{"credential accept", "mine --yes"}, {"credential test", one}, {"credential status", one}, {"credential delete", "mine --yes"},
		{"credential apply", "-f " + filepath.Join(u.dir, "credentials.yaml")}, {"backup", backup}, {"", "stop"},
		{"restore", backup + " --data-dir " + filepath.Join(u.dir, "restored") + " --key-file " + key},
		{"store export", export}, {"store import", export + " --data-dir " + filepath.Join(u.dir, "imported") + " --key-file " + key}, {"store export", "--resume"},
	}
	var walked []string
	for _, x := range order {
		if x.command == "" {
			s.stopAtOnce()
			continue
		}
		walked = append(walked, x.command)
		args := append(strings.Fields(x.command), strings.Fields(x.args)...)
		if !slices.Contains([]string{"version", "config check", "certs dev", "policy check", "policy test", "policy explain", "policy suggest", "provider check", "provider try", "provider schema", "provider import locoia", "provider new"}, x.command) && !strings.Contains(x.args, "--data-dir") {
			args = append(args, "--config", config)
		}
		args = append(args, "-o", "json")
		if x.command == "token watch" {
			w := start(t, args...)
			line := w.waitFor(`(?m)^(\{.*\})$`)
			w.kill()
			if !json.Valid([]byte(line)) || strings.Contains(line, "access_token") || !strings.Contains(line, "token_id") {
				t.Errorf("token watch: got %s, want JSON with the token's id and without the token", line)
			}
			continue
		}
		if out := command(t, args...); !json.Valid([]byte(out)) {
			t.Errorf("%s: got no JSON:\n%s", strings.Join(args, " "), out)
		}
		_, failed := failing(t, append(strings.Fields(x.command), "--nonsense", "-o", "json")...)
		if !json.Valid(failed) {
			t.Errorf("%s: got no JSON for what is wrong:\n%s", x.command, failed)
		}
	}
	for _, leaf := range leaves(t) {
		if !slices.Contains(walked, leaf) && !slices.Contains(withoutJSON, leaf) && !slices.Contains(ofKeys, leaf) && !slices.Contains(ofDoctor, leaf) {
			t.Errorf("%s is not tried: add it here", leaf)
		}
	}
}

// TestListsFitTheirColumns: lists of what is built in.
func TestListsFitTheirColumns(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	s := u.serve()
	for _, args := range [][]string{{"provider", "list", "--address", s.address}, {"demo", "--once", "--callers", "2"}} {
		for line := range strings.Lines(command(t, args...)) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > console.Columns {
				t.Errorf("%v: got %d columns, want at most %d: %s", args, n, console.Columns, line)
			}
		}
	}
}

// leaves are all commands that can be run.
func leaves(t *testing.T) []string {
	t.Helper()
	k, err := kong.New(&cli{}, settings.Options("d"))
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, n := range k.Model.Leaves(true) {
		all = append(all, strings.TrimPrefix(n.FullPath(), k.Model.Name+" "))
	}
	return all
}

// failing runs a command that fails, and returns what it printed.
func failing(t *testing.T, args ...string) (stdout, stderr []byte) {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = cleanEnvironment(), &out, &errs
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) {
		t.Fatalf("%v: got %v, want it to fail", args, err)
	}
	return out.Bytes(), errs.Bytes()
}
