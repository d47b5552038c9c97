package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
	"github.com/tokenbroker/tokenbroker/internal/leaktest"
)

// A leakSearch runs commands, whatever becomes of them, and keeps what they print.
type leakSearch struct {
	t       testing.TB
	dir     string
	env     []string
	said    bytes.Buffer
	secrets []string
	ran     []string
}

// plant makes a file with a secret that must be found nowhere.
func (l *leakSearch) plant(name string) (secret string) {
	l.t.Helper()
	secret = "pl4nted+" + name + "/" + strings.Repeat("x", 8) + "=&\"%"
	l.secrets = append(l.secrets, secret)
	l.write(name, secret)
	return secret
}

func (l *leakSearch) write(name, text string) {
	l.t.Helper()
	if err := os.WriteFile(filepath.Join(l.dir, name), []byte(text), 0o600); err != nil {
		l.t.Fatal(err)
	}
}

// run runs a command with the text of a file as its standard input.
func (l *leakSearch) run(stdin string, args ...string) (stdout string, code int) {
	l.t.Helper()
	path, err := binary()
	if err != nil {
		l.t.Fatal(err)
	}
	l.ran = append(l.ran, strings.Join(args, " "))
	ctx, cancel := context.WithTimeout(l.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = l.dir, l.env, &out, &errs
	if stdin != "" {
		f, err := os.Open(filepath.Join(l.dir, stdin))
		if err != nil {
			l.t.Fatal(err)
		}
		defer f.Close()
		cmd.Stdin = f
	}
	exit := (*exec.ExitError)(nil)
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		l.t.Fatal(err)
	}
	l.said.WriteString("\n$ " + args[0] + "\n")
	l.said.Write(errs.Bytes())
	if args[0] != "token" || args[1] != "get" { // its purpose is to print one
		l.said.Write(out.Bytes())
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// ok is run of a command that must work, so that the search is one of real outputs.
func (l *leakSearch) ok(stdin string, args ...string) string {
	l.t.Helper()
	out, code := l.run(stdin, args...)
	if code != 0 {
		l.t.Errorf("%s: got exit code %d, want 0\n%s", strings.Join(args, " "), code, &l.said)
	}
	return out
}

func (l *leakSearch) fails(stdin string, args ...string) {
	l.t.Helper()
	if _, code := l.run(stdin, args...); code == 0 {
		l.t.Errorf("%s: got exit code 0, want a failure", strings.Join(args, " "))
	}
}

// leakDefinition asks nobody, and hands out a secret as the token: the worst case for the broker's log.
const leakDefinition = `
name: static
inputs:
  api_key: {secret: true, handed_out: true}
  other: {secret: true, optional: true}
token: "{{api_key}}"
lifetime: 1h
`

// TestNoSecretIsPrinted plants secrets in every way in which one gets in, runs every command, and searches what they say and what
// the broker logs at its most talkative.
func TestNoSecretIsPrinted(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	l := &leakSearch{t: t, dir: shortDir(t)}
	if err := os.Mkdir(filepath.Join(l.dir, "providers"), 0o700); err != nil {
		t.Fatal(err)
	}
	l.write("providers/static.yaml", leakDefinition)
	s := u.serve("--log-level", "debug", "--providers-dir", filepath.Join(l.dir, "providers"), "--data-dir", filepath.Join(l.dir, "d"))
	for _, n := range []string{"file", "stdin", "rotated", "declared", "token"} {
		l.plant(n)
	}
	argument, fromEnv, literal := l.plant("argument"), l.plant("environment"), l.plant("literal")
	l.env = append(cleanEnvironment(), "TOKENBROKER_ADDRESS="+s.address, "TOKENBROKER_DATA_DIR="+filepath.Join(l.dir, "d"), "PLANTED="+fromEnv)
	l.vendors(u)
	l.credentials(argument, literal)
	l.others(u, argument)
	s.signal(syscall.SIGTERM)
	s.code()
	l.moving()
	l.keys()
	l.everyCommandRan()
	if found := leaktest.Find(l.said.Bytes(), l.secrets); len(found) > 0 {
		t.Errorf("the commands print %v", found)
	}
	if found := leaktest.Find([]byte(s.output()), l.secrets); len(found) > 0 || !strings.Contains(s.output(), `"level":"DEBUG"`) {
		t.Errorf("the broker's log has %v", found)
	}
}

// vendors stores and uses the simulator's credentials: their secrets and the tokens that come of them count too.
func (l *leakSearch) vendors(u *upstream) {
	files, err := filepath.Glob(filepath.Join(u.dir, "secrets", "*"))
	if err != nil || len(files) == 0 {
		l.t.Fatalf("got secrets %v, %v", files, err)
	}
	var names []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			l.t.Fatal(err)
		}
		l.secrets = append(l.secrets, string(text))
		name, _, _ := strings.Cut(filepath.Base(f), ".")
		names = append(names, name)
	}
	l.ok("", "credential", "apply", "-f", filepath.Join(u.dir, "credentials.yaml"), "--dry-run")
	l.ok("", "credential", "apply", "-f", filepath.Join(u.dir, "credentials.yaml"))
	for _, name := range names {
		token := strings.TrimSpace(l.ok("", "token", "get", name))
		l.secrets = append(l.secrets, token)
		l.write("issued", token)
		l.ok("", "credential", "test", name)
		l.ok("", "credential", "status", name)
		l.ok("", "token", "invalidate", name, "--access-token-file", "issued")
	}
	u.control("POST", "/down")
	for _, name := range names {
		l.run("", "token", "get", name, "-o", "json")
		l.run("", "credential", "test", name, "-o", "json")
	}
	u.control("POST", "/up")
}

// credentials goes through the life of some, and through what operators do wrong.
func (l *leakSearch) credentials(argument, literal string) {
	create := []string{"credential", "create", "one", "--provider", "static"}
	with := func(more ...string) []string { return append(append([]string{}, create...), more...) }
	l.fails("", with("--secret", "api_key="+argument)...)
	l.fails("", with("--secret", argument)...)
	l.fails("", with("--input", argument)...)
	l.fails("", with("--input", "api_key="+argument)...)
	l.fails("", with(argument)...)
	l.fails("", with("--api-key="+argument)...)
	l.fails("", with("--secret", "nothing=@file")...)
	l.fails("file", with()...)
	l.fails("", with("--secret", "other=@file", "-o", "json")...)
	l.ok("", with("--secret", "api_key=@file", "--validate-only")...)
	l.ok("stdin", with("--secret", "api_key=@file", "--secret-stdin", "other")...)
	l.fails("", with("--secret", "api_key=@file")...)
	l.ok("", "credential", "get", "one", "-o", "json")
	l.ok("", "credential", "list")
	l.ok("", "credential", "update", "one", "--label", "a=b", "--secret", "other=@rotated")
	l.fails("", "credential", "update", "one", "--provider", "officernd")
	l.fails("", "credential", "update", "one", "--input", "api_key="+argument)
	l.ok("", "credential", "rotate-secret", "one", "--secret", "api_key=@rotated")
	l.ok("", "credential", "test", "one", "-o", "json")
	l.ok("", "token", "get", "one")
	l.ok("", "credential", "status", "one")
	l.ok("", "credential", "retire-secret", "one")
	l.ok("", "credential", "accept", "one")
	l.fails("", "token", "get", "one", "--scope", "read", "-o", "json")
	l.ok("token", "token", "invalidate", "one", "--access-token-file", "-")
	l.fails("", "token", "invalidate", "nobody", "--access-token-file", "token")
	l.fails("", "token", "invalidate", "one", argument)
	l.fails("", "token", "watch", "nobody")
	l.ok("", "run", "--credential", "one", "--env", "TOKEN", "--", "sh", "-c", `test "$(cat "$ACCESS_TOKEN_FILE")" = "$TOKEN" && test -s "$HEADER_FILE"`)
	l.fails("", "run", "--credential", "one", "--env", "TOKEN", "--", "./no-such-command")
	l.fails("", "run", "--credential", "nobody", "-o", "json", "--", "true")

	l.write("declared.yaml", "- {name: two, provider: static, secrets: {api_key: {file: declared}, other: 'env:PLANTED'}}\n")
	l.write("literal.yaml", "- {name: three, provider: static, secrets: {api_key: '"+strings.ReplaceAll(literal, "'", "''")+"', other: {secret: "+`'`+literal+`'`+"}}}\n")
	l.write("broken.yaml", "- {name: three, secrets: {api_key: '"+literal+"'\n")
	l.ok("", "credential", "apply", "-f", "declared.yaml", "--dry-run")
	l.ok("", "credential", "apply", "-f", "declared.yaml")
	l.ok("declared.yaml", "credential", "apply", "-f", "-")
	l.fails("", "credential", "apply", "-f", "literal.yaml")
	l.fails("", "credential", "apply", "-f", "broken.yaml")
	l.fails("", "credential", "apply", "-f", "literal", "-o", "json")
	l.ok("", "credential", "delete", "two", "--yes")
}

// others are the commands that have nothing to do with credentials, or should not have.
func (l *leakSearch) others(u *upstream, argument string) {
	l.fails("", "doctor") // the key lies beside the data
	l.fails("", "doctor", "-o", "json")
	l.ok("", "provider", "list")
	l.ok("", "provider", "show", "static")
	l.ok("", "provider", "explain", "officernd", "--input", "client_id=x")
	l.run("", "provider", "explain", "officernd", "--input", "client_secret="+argument)
	l.ok("", "provider", "check", "providers/static.yaml")
	l.ok("", "provider", "schema")
	l.ok("", "provider", "try", "providers/static.yaml", "--secret", "api_key=@file")
	l.fails("", "provider", "try", "officernd", "--input", "client_id=x", "--secret", "client_secret=@file",
		"--upstream-ca-file", filepath.Join(u.dir, "ca.pem"), "--upstream-connect-to", "identity.officernd.com:443="+u.address)
	l.fails("", "provider", "try", "officernd", "--secret", "client_secret="+argument)
	l.fails("", "provider", "new", argument, "--how", "json")
	l.ok("", "certs", "dev", "certs")
	l.ok("", "policy", "check", "certs/policy.yaml")
	l.ok("", "policy", "test", "certs/policy.yaml")
	l.ok("", "policy", "explain", "certs/policy.yaml", "--caller", "spiffe://example.org/shop", "--operation", "get_token", "--credential", "any")
	for _, command := range []string{"check", "test"} {
		l.fails("", "policy", command, "literal")
	}
	l.fails("", "policy", "suggest", "literal")
	l.fails("", "policy", "explain", "certs/policy.yaml", "--caller", argument, "--operation", "get_token", "--credential", "any")
	l.fails("", "provider", "import", "locoia", "literal")
	l.fails("", "config", "check", "literal")
	l.fails("", "serve", "--config", "literal")
	l.fails("", "serve")
	l.ok("", "health")
	l.ok("", "bench", "one", "--duration", "100ms", "--callers", "4", "--connections", "2", "-o", "json")
	l.ok("", "backup", "copy.db")
	l.ok("", "restore", "copy.db", "--data-dir", filepath.Join(l.dir, "restored"), "--key-file", filepath.Join(l.dir, "d", "key.json"))
	for _, args := range [][]string{{"promote"}, {"rewrap"}, {"rotate"}, {"retire", "00000000"}, {"restore", "00000000"}, {"destroy", argument}} {
		l.fails("", append([]string{"keys"}, args...)...) // the keys are in a file
	}
	l.ok("", "keys", "list")
	l.ok("", "version")
	l.ok("", "help", "token")
	l.ok("", "completion", "bash")
}

// moving exports what all the others have left, and looks into the file.
func (l *leakSearch) moving() {
	l.ok("", "store", "export", "export")
	l.fails("", "store", "export", "export")
	l.ok("", "store", "export", "--resume")
	l.ok("", "store", "import", "export", "--data-dir", filepath.Join(l.dir, "there"), "--key-file", filepath.Join(l.dir, "d", "key.json"))
	l.fails("", "store", "import", "literal")
	export := read(l.t, filepath.Join(l.dir, "export"))
	if found := leaktest.Find([]byte(export), l.secrets); len(found) > 0 || !strings.Contains(export, `"name":"one"`) {
		l.t.Errorf("the export of %d bytes has %v", len(export), found)
	}
}

// keys wraps what the others have left, and goes through a life of keys. What wraps, what is wrapped, and whatever opens either, is nowhere.
func (l *leakSearch) keys() {
	l.ok("", "keys", "create", "kek.json")
	l.fails("", "keys", "create", "kek.json")
	l.ok("", "keys", "create", "other.json")
	uri := func(name string) string { return "file://" + filepath.Join(l.dir, name) }
	for _, name := range []string{"kek.json", "other.json", "d/key.json"} {
		all := strings.Split(read(l.t, filepath.Join(l.dir, name)), `"value":`)[1:]
		for _, part := range all {
			l.secrets = append(l.secrets, strings.SplitN(part, `"`, 3)[1])
		}
		if len(all) == 0 {
			l.t.Errorf("there are no keys in %s", name)
		}
	}
	l.ok("", "store", "export", "--resume")
	l.fails("", "keys", "wrap")
	l.fails("", "keys", "wrap", "--keys-kek", "file://"+filepath.Join(l.dir, "literal"))
	l.ok("", "keys", "wrap", "--keys-kek", uri("kek.json"))
	l.ok("", "keys", "wrap", "--keys-kek", uri("other.json"), "--former-kek", uri("kek.json"))
	s := start(l.t, "serve", "--log-level", "debug", "--data-dir", filepath.Join(l.dir, "d"), "--providers-dir", filepath.Join(l.dir, "providers"), "--listen", "127.0.0.1:0",
		"--metrics-listen", "none", "--keys-kek", uri("other.json"), "--audit-file", filepath.Join(l.dir, "audit.jsonl"))
	s.waitFor(`answering on (127\.0\.0\.1:\d+)`)
	id := firstGroup(l.t.Fatalf, `([0-9a-f]{8}) +primary`, l.ok("", "keys", "list"))
	for _, args := range [][]string{{"rotate"}, {"promote"}, {"rewrap"}, {"retire", id}, {"restore", id}, {"retire", id}, {"list"}} {
		l.ok("", append([]string{"keys"}, args...)...)
	}
	l.fails("", "keys", "destroy", id)
	l.ok("", "backup", "wrapped.db")
	s.signal(syscall.SIGTERM)
	s.code()
	l.ok("", "store", "export", "wrapped", "--keys-kek", uri("other.json"))
	for _, name := range []string{"audit.jsonl", "wrapped.db", "wrapped", "d/tokenbroker.db"} {
		if found := leaktest.Find([]byte(read(l.t, filepath.Join(l.dir, name))), l.secrets); len(found) > 0 {
			l.t.Errorf("%s has %v", name, found)
		}
	}
	l.said.WriteString(s.output())
}

// everyCommandRan fails when somebody adds a command and forgets it here.
func (l *leakSearch) everyCommandRan() {
	l.t.Helper()
	k, err := kong.New(&cli{}, kong.Name("tokenbroker"), settings.Options("d"), kong.Bind(&console.Process{}))
	if err != nil {
		l.t.Fatal(err)
	}
	leaves := k.Model.Leaves(true)
	if len(leaves) < 20 {
		l.t.Errorf("got %d commands", len(leaves))
	}
	for _, n := range leaves {
		path := strings.TrimPrefix(n.FullPath(), "tokenbroker ")
		if strings.HasPrefix(path, "demo ") {
			continue // its secrets are drawn for the show, and end with it
		}
		found := false
		for _, args := range l.ran {
			found = found || strings.HasPrefix(args, path)
		}
		if !found {
			l.t.Errorf("the command %s was not run", path)
		}
	}
}
