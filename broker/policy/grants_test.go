package policy

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// TestGrants: what is too wide about a rule.
func TestGrants(t *testing.T) {
	p, problems := Parse("policy.yaml", []byte(`version: 1
callers:
  all: [{spiffe: "corp.example/**"}, {dns: "**", certificate: web}, {k8s: "prod/*/*"}, {k8s: "prod/**"}, {jwt: ci, sub: "**"}, {jwt: ci, sub: "*"}, {cn: "*", certificate: old}, {local: machine}, {unix: "*"}]
  some: [{spiffe: "corp.example/ns/**"}, {spiffe: "corp.example/*"}, {dns: "*.example", certificate: web}, {k8s: "prod/shop/*"}, {jwt: ci, sub: "**", claims: {team: [shop]}}, {unix: 7}, {unix: "*", gid: 7}]
rules:
  - {name: wide, callers: [all], credentials: {names: ["*"]}, operations: [credential.write]}
  - {name: narrow, callers: [some], credentials: {names: ["*"], labels: {a: [b]}}, operations: [get_token], scopes: ["*"]}
`))
	if p == nil {
		t.Fatal(problems)
	}
	got := p.Grants()
	want := []Grant{{Rule: "wide", Changes: true, AnyCredential: true}, {Rule: "narrow", AnyScope: true}}
	if d := cmp.Diff(want, got, cmpopts.IgnoreFields(Grant{}, "Callers")); d != "" {
		t.Error(d)
	}
	for i, everybody := range []bool{true, false} {
		for _, c := range got[i].Callers {
			if c.Everybody != everybody || c.Group == "" {
				t.Errorf("got %+v, want everybody %v", c, everybody)
			}
		}
	}
	if len(got[0].Callers) != 9 || len(got[1].Callers) != 7 {
		t.Errorf("got %d and %d callers", len(got[0].Callers), len(got[1].Callers))
	}
}
