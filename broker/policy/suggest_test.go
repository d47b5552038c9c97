package policy

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tokenbroker/tokenbroker/broker"
)

func described(t testing.TB, identity string) *broker.Caller {
	t.Helper()
	c, err := Description{Identity: identity}.Caller()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestWhatWasDoneIsSuggested: what is alike is one rule, what a rule for something else allows has none, and patterns are comments.
func TestWhatWasDoneIsSuggested(t *testing.T) {
	var uses []Use
	for _, c := range []string{"spiffe://td/ns/shop/sa/a", "spiffe://td/ns/shop/sa/b", "spiffe://td/ns/shop/sa/c"} {
		for _, name := range []broker.CredentialName{"mail", "maps"} {
			uses = append(uses,
				Use{Caller: described(t, c), Operation: broker.GetToken, Credential: name, Scopes: []string{"write", "read", "read"}},
				Use{Caller: described(t, c), Operation: broker.GetToken, Credential: name, Scopes: []string{"read"}},
				Use{Caller: described(t, c), Operation: broker.Watch, Credential: name, Scopes: []string{"read", "write"}},
				Use{Caller: described(t, c), Operation: broker.InvalidateOne, Credential: name},
			)
		}
	}
	uses = append(uses,
		Use{Caller: described(t, "via:mesh/spiffe://td/web"), Operation: broker.GetToken, Credential: "occtoo-main", Audience: "https://a.example", Resources: []string{"https://b.example/x"}, Parameters: []string{"source"}},
		Use{Caller: described(t, "unix:0"), Operation: broker.WriteCredential, Credential: "mail", Rule: "everything"},
		Use{Caller: described(t, "jwt:ci/repo:acme/web:ref:main"), Operation: broker.GetToken, Credential: "mail"},
		Use{Caller: described(t, "jwt:ci/repo:acme/web:ref:main"), Operation: broker.GetToken, Credential: "mail", Scopes: []string{"read"}},
	)
	got, err := Suggest(uses)
	if err != nil {
		t.Fatal(err)
	}
	const want = `version: 1
callers:
  main:
    - {jwt: "ci", sub: "repo:acme/web:ref:main"}
  a:
    - {spiffe: "td/ns/shop/sa/a", proof: x509}
    - {spiffe: "td/ns/shop/sa/b", proof: x509}
    - {spiffe: "td/ns/shop/sa/c", proof: x509}
    # or, of all beside them: - {spiffe: "td/ns/shop/sa/*", proof: x509}
  unix-0:   # allowed by ["everything"]
    - {unix: "0"}
  web:
    - {via: "mesh", spiffe: "td/web"}
rules:
  - name: main-1
    callers: [main]
    credentials: {names: ["mail"]}
    operations: [get_token]
    scopes: ["read"]
  - name: main-2
    callers: [main]
    credentials: {names: ["mail"]}
    operations: [get_token]
  - name: a-1
    callers: [a]
    credentials: {names: ["mail", "maps"]}
    operations: [get_token, watch]
    scopes: ["read", "write"]
  - name: a-2
    callers: [a]
    credentials: {names: ["mail", "maps"]}
    operations: [invalidate]
  - name: unix-0
    callers: [unix-0]
    credentials: {names: ["mail"]}
    operations: [credential.write]
  - name: web
    callers: [web]
    credentials: {names: ["occtoo-main"]}
    operations: [get_token]
    resources: ["https://b.example/x"]
    audience: ["https://a.example"]
    parameters: {"source": ["*"]}   # their values are not in the audit log: narrow them
tests:
  - {caller: "jwt:ci/repo:acme/web:ref:main", operation: get_token, credential: "mail", scopes: ["read"], rule: main-1}
  - {caller: "jwt:ci/repo:acme/web:ref:main", operation: get_token, credential: "mail", rule: main-2}
  - {caller: "spiffe://td/ns/shop/sa/a", operation: get_token, proof: x509, credential: "mail", scopes: ["read", "write"], rule: a-1}
  - {caller: "spiffe://td/ns/shop/sa/a", operation: invalidate, proof: x509, credential: "mail", rule: a-2}
  - {caller: "unix:0", operation: credential.write, credential: "mail", rule: unix-0}
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}

// TestASuggestionAllowsNothingElse: of random uses, what somebody else did, of another credential, by another operation, or with a scope more, is denied.
func TestASuggestionAllowsNothingElse(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 7))
		pick := func(all ...string) string { return all[r.IntN(len(all))] }
		some := func(all ...string) (out []string) {
			for _, s := range all {
				if r.IntN(2) == 0 {
					out = append(out, s)
				}
			}
			return out
		}
		draw := func() Use {
			u := Use{
				Caller:     described(t, pick("spiffe://td/a", "spiffe://td/b", "via:mesh/spiffe://td/a", "unix:5", "local:machine", "dns:company/x.example", "k8s:prod/ns/a", "cn:old/batch 7")),
				Operation:  broker.Operations()[r.IntN(8)], // all but provider.read
				Credential: broker.CredentialName(pick("one", "two", "three")),
			}
			if u.Operation.Selects() {
				u.Scopes, u.Audience, u.Resources = some("read", "write", "all"), pick("", "aud"), some("urn:x")
			}
			return u
		}
		var uses []Use
		for range 1 + r.IntN(30) {
			uses = append(uses, draw())
		}
		text, err := Suggest(uses)
		if err != nil {
			t.Fatalf("%d: %v", seed, err)
		}
		p, _ := Parse("suggested", text)
		for range 200 {
			u := draw()
			covered := false
			for _, done := range uses {
				is := selection{sorted(u.Scopes), u.Audience, sorted(u.Resources), nil}
				covered = covered || done.Caller.Identity == u.Caller.Identity && done.Operation == u.Operation && done.Credential == u.Credential &&
					is.within(selection{sorted(done.Scopes), done.Audience, sorted(done.Resources), nil})
			}
			if got := p.Decide(u.access()).Effect == broker.Allowed; got != covered {
				t.Fatalf("%d: %+v of %s is allowed: %t\n%s", seed, u, u.Caller, got, text)
			}
		}
	}
}

// TestWhatCannotBeSaid: a text that no policy has is told before, and spoils nothing; what a policy reads in another spelling is read back as it was.
func TestWhatCannotBeSaid(t *testing.T) {
	use := func(scope, parameter string) Use {
		u := Use{Caller: described(t, "spiffe://td/a"), Operation: broker.GetToken, Credential: "main"}
		if scope != "" {
			u.Scopes = []string{scope}
		}
		if parameter != "" {
			u.Parameters = []string{parameter}
		}
		return u
	}
	for _, u := range []Use{use("", "*"), use("", "a*"), use("a*", "")} {
		if u.Literal() {
			t.Errorf("%+v is literal", u)
		}
	}
	for _, scope := range []string{"x\ufffe", "x\ufeffy", "x\u2028y", "x\u00a0y", "x\U0001fffe", "x\u0085y", `a"b\`, "é", "x\x7f"} {
		u := use(scope, "")
		text, err := Suggest([]Use{u, use("good", "")})
		if u.Sayable() != (err == nil) {
			t.Errorf("%q: sayable %t, %v", scope, u.Sayable(), err)
		}
		if p, problems := Parse("suggested", text); err == nil && (p == nil || p.Decide(u.access()).Effect != broker.Allowed) {
			t.Errorf("%q: %v\n%s", scope, problems, text)
		}
	}
	var many []Use
	for i := range mostTests + 1 {
		u := use("", "")
		u.Audience = strconv.Itoa(i)
		many = append(many, u)
	}
	text, err := Suggest(many)
	if err != nil || strings.Count(string(text), "- {caller:") != mostTests {
		t.Errorf("%d rules: %v", len(many), err)
	}
}

// FuzzSuggest: whatever callers choose, what is suggested is a policy that allows it, and nobody else anything.
func FuzzSuggest(f *testing.F) {
	f.Add("repo:acme/web", "read", "https://a.example", "x", "source")
	f.Add("a\"}]\nrules: [", "\n- {", "*", "**", "k: [v]")
	f.Add("é\u2028", "\x7f", "a: b", "#", "'")
	f.Fuzz(func(t *testing.T, sub, scope, audience, resource, parameter string) {
		c := broker.NewCaller(broker.JWT, "ci", sub, broker.ProofJWT, "services")
		if d, err := (Description{Identity: c.Identity}).Caller(); err != nil || d.Name != sub {
			return
		}
		u := Use{Caller: c, Operation: broker.GetToken, Credential: "main", Scopes: []string{scope}, Audience: audience, Resources: []string{resource}, Parameters: []string{parameter}}
		text, err := Suggest([]Use{u})
		if err != nil || !u.Literal() {
			return
		}
		if strings.Contains(parameter, "*") {
			t.Errorf("%q is a parameter's name", parameter)
		}
		p, problems := Parse("suggested", text)
		if p == nil || len(p.rules) != 1 || len(p.groups) != 1 || len(p.blocked) != 0 {
			t.Fatalf("%v\n%s", problems, text)
		}
		other := u
		other.Caller = broker.NewCaller(broker.JWT, "ci", sub+"x", broker.ProofJWT, "services")
		if p.Decide(u.access()).Effect != broker.Allowed || !strings.Contains(sub, "*") && p.Decide(other.access()).Effect != broker.Denied {
			t.Errorf("got\n%s", text)
		}
	})
}
