package operator

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
)

// aPolicy is one with a test that passes, and a group that nobody names.
const aPolicy = `version: 1
callers:
  shop: [{spiffe: "corp.example/ns/shop/sa/*"}]
  spare: [{unix: 1}]
rules:
  - {name: shop, callers: [shop], credentials: {names: ["occtoo-*"], labels: {env: [prod]}}, operations: [get_token, credential.read], scopes: [read], parameters: {source: [secret-1], trace: ["*"]}}
tests:
  - {caller: "spiffe://corp.example/ns/shop/sa/cart", operation: credential.read, credential: occtoo-a, labels: {env: prod}, rule: shop}
`

func TestPolicyCommands(t *testing.T) {
	name := filepath.Join(t.TempDir(), "policy.yaml")
	cart := func(c policyExplainCommand) *policyExplainCommand {
		c.File, c.Caller, c.Operation = name, "spiffe://corp.example/ns/shop/sa/cart", "get_token"
		return &c
	}
	operation := func(c *policyExplainCommand, operation string) *policyExplainCommand {
		c.Operation = operation
		return c
	}
	untested, _, _ := strings.Cut(aPolicy, "tests:")
	failing := strings.Replace(aPolicy, "env: prod}, rule", "env: dev}, rule", 1)
	for _, x := range []struct {
		text           string
		command        interface{ Run(*console.Process) error }
		code           int
		stdout, stderr string // what is in them, and in the error; empty: nothing
	}{
		{aPolicy, &policyCheckCommand{Files: []string{name}}, console.ExitOK, name + ":4:3: warning: callers.spare: no rule names it\n", "no problems, 1 warning"},
		{strings.Replace(aPolicy, "  spare: [{unix: 1}]\n", "", 1), &policyCheckCommand{Files: []string{name}}, console.ExitOK, "", "no problems"},
		{failing, &policyCheckCommand{Files: []string{name, name}}, console.ExitUsage, `labels: env is "dev", and it allows prod`, "2 problems"},
		{failing, &policyCheckCommand{Format: console.Format{Output: "json"}, Files: []string{name}}, console.ExitUsage, `"severity": "warning"`, "1 problem"},
		{aPolicy, &policyCheckCommand{Files: []string{name + ".absent"}}, console.ExitUsage, "", "no such file"},
		{aPolicy, &policyTestCommand{File: name}, console.ExitOK, "ok    tests[0]: spiffe://corp.example/ns/shop/sa/cart credential.read occtoo-a\n", "1 test passed"},
		{failing, &policyTestCommand{File: name}, console.ExitUsage, "line 8: it is denied, and is to be allowed by shop: labels", "1 test failed, of 1"},
		{failing, &policyTestCommand{Format: console.Format{Output: "json"}, File: name}, console.ExitUsage, `"passed": false`, "1 test failed, of 1"},
		{"version: 2", &policyTestCommand{File: name}, console.ExitUsage, "", name + ":1:10: version: this version reads 1 only"},
		{untested, &policyTestCommand{File: name}, console.ExitOK, "", "there are no tests in it"},

		{aPolicy, cart(policyExplainCommand{Credential: "occtoo-a", Label: pairs{"env": "prod"}, Scope: []string{"write"}}), console.ExitOK, `  shop: denied: scopes: it allows read, and "write" is none of them`, ""},
		{aPolicy, cart(policyExplainCommand{Credential: "occtoo-a", Label: pairs{"env": "prod"}, Scope: []string{"read"}, ParameterName: []string{"source"}}), console.ExitOK, "depends\n", ""},
		{aPolicy, operation(cart(policyExplainCommand{Credential: "occtoo-a", Label: pairs{"env": "prod"}}), "credential.read"), console.ExitOK, "allowed by shop\n", ""},
		{aPolicy, operation(cart(policyExplainCommand{Format: console.Format{Output: "json"}}), "credential.read"), console.ExitOK, `"effect": "depends"`, ""},
		{aPolicy, operation(cart(policyExplainCommand{}), "provider.read"), console.ExitOK, "operation: it allows get_token, credential.read, and not provider.read", ""},
		{aPolicy, operation(cart(policyExplainCommand{}), "credential.reed"), console.ExitUsage, "", `did you mean "credential.read"?`},
		{aPolicy, operation(cart(policyExplainCommand{}), "xyzzy"), console.ExitUsage, "", "write one of get_token"},
		{aPolicy, operation(cart(policyExplainCommand{Scope: []string{"a"}}), "provider.read"), console.ExitUsage, "", "leave out --scope"},
		{aPolicy, cart(policyExplainCommand{}), console.ExitUsage, "", "--credential is missing"},
		{aPolicy, cart(policyExplainCommand{Credential: "A"}), console.ExitUsage, "", "--credential: a name must be"},
		{aPolicy, cart(policyExplainCommand{Credential: "a", Proof: "peer"}), console.ExitUsage, "", "proof: of spiffe there is x509 and jwt only"},
		{failing, cart(policyExplainCommand{Credential: "a"}), console.ExitUsage, "", "tests[0]: it is denied"},
	} {
		if err := os.WriteFile(name, []byte(x.text), 0o600); err != nil {
			t.Fatal(err)
		}
		var stdout, stderr bytes.Buffer
		err := x.command.Run(&console.Process{Context: t.Context(), Stdout: &stdout, Stderr: &stderr})
		if err != nil {
			stderr.WriteString(err.Error())
		}
		if code := console.ExitCode(err); code != x.code {
			t.Errorf("%+v: got %d, want %d: %v", x.command, code, x.code, err)
		}
		for what, of := range map[string][2]string{"standard output": {stdout.String(), x.stdout}, "errors": {stderr.String(), x.stderr}} {
			if !strings.Contains(of[0], of[1]) || of[1] == "" && of[0] != "" {
				t.Errorf("%+v: got %s %q, want %q", x.command, what, of[0], of[1])
			}
		}
	}
}
