package policy

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

func parse(t testing.TB, text string) *Policy {
	t.Helper()
	p, problems := Parse("", []byte(text))
	if p == nil {
		t.Fatalf("%.2000v\n%.2000s", problems, text)
	}
	return p
}

func caller(t testing.TB, identity string) *broker.Caller {
	t.Helper()
	c, err := Description{Identity: identity}.Caller()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// ruleFor is a policy of one rule for one caller, unix:1.
func ruleFor(t testing.TB, words string) *Policy {
	t.Helper()
	return parse(t, "version: 1\ncallers: {c: [{unix: 1}]}\nrules:\n- {name: r, callers: [c], "+words+"}\n")
}

const main = `credentials: {names: [main]}, operations: [get_token]`

// TestEachDimension in both directions, by what is stored, while it is unread, and where there is none of the name.
func TestEachDimension(t *testing.T) {
	selected := func(scopes, audience, resources string, parameters ...string) func(*broker.Access) {
		return func(a *broker.Access) {
			a.Selection = broker.Selection{Scopes: set(strings.Fields(scopes)), Audience: audience, Resources: set(strings.Fields(resources))}
			given := map[string]string{}
			for _, p := range parameters {
				k, v, _ := strings.Cut(p, "=")
				given[k] = v
			}
			a.Selection.Parameters = broker.NewPairs(given)
		}
	}
	labelled := func(all ...string) func(*broker.Access) {
		return func(a *broker.Access) {
			a.Labels = map[string]string{}
			for _, l := range all {
				k, v, _ := strings.Cut(l, "=")
				a.Labels[k] = v
			}
		}
	}
	granted := func(scopes, more string) func(*broker.Access) {
		return func(a *broker.Access) {
			a.Selection.Scopes, a.Granted = set(strings.Fields(scopes)), strings.Fields(more)
		}
	}
	none := selected("", "", "")
	const denied, depends, allowed = broker.Denied, broker.Depends, broker.Allowed
	open := `scopes: ["*"], audience: ["*"], resources: ["*"], parameters: {"*": ["*"]}, ` + main
	for _, x := range []struct {
		rule                    string
		ask                     func(*broker.Access)
		stored, unread, missing broker.Effect
	}{
		{main, none, allowed, depends, allowed},
		{open, none, allowed, allowed, allowed},
		{open, selected("a b", "c", "d", "e=f"), allowed, allowed, allowed},
		{main, func(a *broker.Access) { a.Caller = nil }, denied, denied, denied},
		{main, func(a *broker.Access) { a.Caller = caller(t, "unix:2") }, denied, denied, denied},

		// operations
		{open, func(a *broker.Access) { a.Operation = broker.Watch }, denied, denied, denied},
		{open, func(a *broker.Access) { a.Operation = "get_tokens" }, denied, denied, denied},
		{open, func(a *broker.Access) { a.Operation = "" }, denied, denied, denied},

		// names
		{open, func(a *broker.Access) { a.Credential = "other" }, denied, denied, denied},
		{open, func(a *broker.Access) { a.Credential = "" }, denied, denied, denied},
		{`credentials: {names: ["*"]}, operations: [get_token]`, func(a *broker.Access) { a.Credential = "" }, denied, denied, denied},
		{`credentials: {names: ["m*n"]}, operations: [get_token]`, none, allowed, depends, allowed},
		{`credentials: {names: ["main*"]}, operations: [get_token]`, none, denied, denied, denied},

		// labels
		{strings.Replace(open, "[main]", "[main], labels: {env: [prod]}", 1), labelled("env=prod"), allowed, depends, denied},
		{strings.Replace(open, "[main]", "[main], labels: {env: [prod]}", 1), labelled("env=dev"), denied, depends, denied},
		{strings.Replace(open, "[main]", "[main], labels: {env: [prod]}", 1), labelled(), denied, depends, denied},
		{strings.Replace(open, "[main]", "[main], labels: {env: [prod], team: [a]}", 1), labelled("env=prod"), denied, depends, denied},
		{strings.Replace(open, "[main]", "[main], labels: {env: [prod], team: [a]}", 1), labelled("env=prod", "team=a", "x=y"), allowed, depends, denied},
		{strings.Replace(open, "[main]", "[main], labels: {env: [dev, \"p*\"]}", 1), labelled("env=prod"), allowed, depends, denied},
		{strings.Replace(open, "[main]", "[main], labels: {env: [\"*\"]}", 1), labelled("env="), allowed, depends, denied},
		{strings.Replace(open, "[main]", "[main], labels: {env: [\"*\"]}", 1), labelled(), denied, depends, denied},
		{open, labelled("env=prod"), allowed, allowed, allowed},

		// scopes
		{main, selected("a", "", ""), denied, denied, denied},
		{`scopes: [a, "b*"], ` + main, none, denied, depends, allowed},
		{`scopes: [a, "b*"], ` + main, selected("a", "", ""), allowed, depends, allowed},
		{`scopes: [a, "b*"], ` + main, selected("a bc", "", ""), allowed, depends, allowed},
		{`scopes: [a, "b*"], ` + main, selected("a c", "", ""), denied, depends, denied},
		{`scopes: ["*"], ` + main, selected("a c", "", ""), allowed, depends, allowed},
		{`scopes: ["*"], ` + main, none, allowed, depends, allowed},
		{`scopes: [read], ` + main, granted("read", "read write"), denied, denied, denied},
		{`scopes: [read], ` + main, granted("", "read"), allowed, depends, allowed},
		{`scopes: [read], ` + main, granted("write", "read"), denied, depends, denied},
		{main, granted("", "read"), denied, denied, denied},
		{`scopes: ["*"], ` + main, granted("read", "read write"), allowed, depends, allowed},

		// audience
		{main, selected("", "a", ""), denied, denied, denied},
		{`audience: [a, "https://h/*"], ` + main, none, denied, depends, allowed},
		{`audience: [a, "https://h/*"], ` + main, selected("", "https://h/x", ""), allowed, depends, allowed},
		{`audience: [a, "https://h/*"], ` + main, selected("", "https://h/x/y", ""), denied, depends, denied},
		{`audience: ["*"], ` + main, selected("", "https://h/x/y", ""), allowed, depends, allowed},
		{`audience: ["*"], ` + main, none, allowed, depends, allowed},
		{`audience: [A], ` + main, selected("", "a", ""), denied, depends, denied},

		// resources
		{main, selected("", "", "https://h/x"), denied, denied, denied},
		{`resources: ["https://h/**"], ` + main, none, denied, depends, allowed},
		{`resources: ["https://h/**"], ` + main, selected("", "", "https://h/x https://h/y/z"), allowed, depends, allowed},
		{`resources: ["https://h/**"], ` + main, selected("", "", "https://h/x https://g/y/z"), denied, depends, denied},
		{`resources: ["https://H/**"], ` + main, selected("", "", "https://h/x"), allowed, depends, allowed},
		{`resources: ["https://h/**"], ` + main, selected("", "", "https://H/x"), allowed, depends, allowed},
		{`resources: ["https://h/x"], ` + main, selected("", "", "https://H/X"), denied, depends, denied},
		{`resources: ["https://user@h/x"], ` + main, selected("", "", "https://User@h/x"), denied, depends, denied},
		{`resources: ["https://h/**"], ` + main, selected("", "", "https://h/../x"), denied, depends, denied},
		{`resources: ["*"], ` + main, selected("", "", "https://h/../x"), allowed, depends, allowed},
		{`resources: ["*"], ` + main, none, allowed, depends, allowed},

		// parameters
		{main, selected("", "", "", "p=a"), denied, denied, denied},
		{`parameters: {p: [a, "b*"]}, ` + main, none, denied, depends, allowed},
		{`parameters: {p: [a, "b*"]}, ` + main, selected("", "", "", "p=bc"), allowed, depends, allowed},
		{`parameters: {p: [a, "b*"]}, ` + main, selected("", "", "", "p=c"), denied, depends, denied},
		{`parameters: {p: [a, "b*"]}, ` + main, selected("", "", "", "p=a", "q=a"), denied, denied, denied},
		{`parameters: {p: [a], q: [a]}, ` + main, selected("", "", "", "p=a"), denied, depends, allowed},
		{`parameters: {p: ["*"], q: [a]}, ` + main, selected("", "", "", "q=a"), allowed, depends, allowed},
		{`parameters: {p: ["*"]}, ` + main, selected("", "", "", "p=anything"), allowed, depends, allowed},
		{`parameters: {"*": ["*"]}, ` + main, selected("", "", "", "p=anything", "q=more"), allowed, depends, allowed},
		{`parameters: {"*": ["*"]}, ` + main, none, allowed, depends, allowed},
		{main, selected("", "", "", "p="), denied, depends, allowed}, // what is empty is left out by the definition

		// operations that select nothing
		{`credentials: {names: [main]}, operations: [credential.write, invalidate.all]`, func(a *broker.Access) {
			selected("a", "b", "c", "d=e")(a)
			granted("a", "b")(a)
			a.Operation = broker.WriteCredential
		}, allowed, allowed, allowed},
		{`credentials: {names: [main], labels: {env: [prod]}}, operations: [credential.write]`, func(a *broker.Access) { a.Operation = broker.WriteCredential }, denied, depends, denied},
		{`credentials: {names: [main]}, operations: [credential.write, invalidate.all]`, func(a *broker.Access) { a.Operation = broker.InvalidateAll }, allowed, allowed, allowed},
		{`credentials: {names: [main]}, operations: [invalidate.all]`, func(a *broker.Access) { a.Operation = broker.InvalidateOne }, denied, denied, denied},

		// what is about no credential
		{`operations: [provider.read]`, func(a *broker.Access) { a.Operation, a.Credential = broker.ReadProvider, "" }, allowed, allowed, allowed},
		{`operations: [provider.read]`, func(a *broker.Access) { a.Operation, a.Credential = broker.ReadCredential, "" }, denied, denied, denied},
		{`credentials: {names: [main], labels: {a: [b]}}, operations: [credential.read]`, func(a *broker.Access) { a.Operation, a.Credential = broker.ReadCredential, "" }, denied, depends, denied},
		{`credentials: {names: ["*"]}, operations: [credential.read]`, func(a *broker.Access) { a.Operation, a.Credential = broker.ReadCredential, "" }, denied, depends, denied},
		{`credentials: {names: ["*"]}, operations: [credential.write]`, func(a *broker.Access) { a.Operation, a.Credential = broker.WriteCredential, "" }, denied, denied, denied},
	} {
		p := ruleFor(t, x.rule)
		for known, want := range map[broker.Knowledge]broker.Effect{broker.Stored: x.stored, broker.Unread: x.unread, broker.Missing: x.missing, 7: denied, -1: denied} {
			a := broker.Access{Caller: caller(t, "unix:1"), Operation: broker.GetToken, Credential: "main"}
			x.ask(&a)
			if a.Known = known; (known < 0 || known > broker.Stored) && a.Operation == broker.ReadProvider {
				continue
			}
			got := p.Decide(a)
			if got.Effect != want || (got.Rule == "r") != (want == allowed) {
				t.Errorf("%s: known %d, got %v, want %v: %+v", x.rule, known, got, want, a)
			}
			for _, r := range p.Explain(a).Rules {
				if r.Effect != want {
					t.Errorf("%s: known %d is explained by %+v, want %v", x.rule, known, r, want)
				}
			}
		}
	}
}

// TestOneRuleCoversTheWhole: rules never add up.
func TestOneRuleCoversTheWhole(t *testing.T) {
	p := parse(t, `version: 1
callers: {c: [{unix: 1}]}
rules:
- {name: read, callers: [c], operations: [get_token], credentials: {names: ["*"]}, scopes: [read]}
- {name: write, callers: [c], operations: [get_token], credentials: {names: ["*"]}, scopes: [write]}
- {name: both, callers: [c], operations: [watch], credentials: {names: ["*"]}, scopes: [read, write]}
`)
	for scopes, want := range map[string]string{"read": "read", "write": "write", "read write": ""} {
		a := broker.Access{Caller: caller(t, "unix:1"), Operation: broker.GetToken, Credential: "a", Known: broker.Stored, Selection: broker.Selection{Scopes: set(strings.Fields(scopes))}}
		if got := p.Decide(a); got.Rule != want || (got.Effect == broker.Allowed) != (want != "") {
			t.Errorf("%s: got %v, want %q", scopes, got, want)
		}
	}
}

// TestWhoIsBlockedMayDoNothing: whatever the rules say, also where nothing is asked of a credential.
func TestWhoIsBlockedMayDoNothing(t *testing.T) {
	p := parse(t, `version: 1
callers: {c: [{unix: "*"}]}
blocked: [{unix: 1}, {unix: "*", gid: 66}]
rules:
- {name: r, callers: [c], operations: [`+strings.Join(operationNames(), ", ")+`], credentials: {names: ["*"]}}
`)
	for _, o := range broker.Operations() {
		for _, known := range []broker.Knowledge{broker.Unread, broker.Missing, broker.Stored} {
			for _, name := range []broker.CredentialName{"a", ""} {
				a := broker.Access{Operation: o, Credential: name, Known: known}
				in := caller(t, "unix:3")
				in.Attributes = map[string][]string{"gid": {"65", "66"}}
				for c, blocked := range map[*broker.Caller]bool{caller(t, "unix:1"): true, in: true, caller(t, "unix:2"): false} {
					a.Caller = c
					if got := p.Decide(a); blocked && got != (broker.Decision{}) || !blocked && name != "" && got.Effect == broker.Denied {
						t.Errorf("%s %q: got %v for %s", o, name, got, c)
					}
				}
			}
		}
	}
}

func TestCallers(t *testing.T) {
	one := func(identity string, more ...func(*broker.Caller)) *broker.Caller {
		c := caller(t, identity)
		for _, f := range more {
			f(c)
		}
		return c
	}
	operators := func(c *broker.Caller) { c.Listener = "operators" }
	gids := func(all ...string) func(*broker.Caller) {
		return func(c *broker.Caller) { c.Attributes = map[string][]string{"gid": all} }
	}
	claims := func(name string, all ...string) func(*broker.Caller) {
		return func(c *broker.Caller) { c.Attributes[name] = all }
	}
	for _, x := range []struct {
		entry string
		c     *broker.Caller
		want  bool
	}{
		{`spiffe: "td/a/*"`, one("spiffe://td/a/b"), true},
		{`spiffe: "td/a/*"`, one("spiffe://td/a/b/c"), false},
		{`spiffe: "td/a/*"`, one("spiffe://other/a/b"), false},
		{`spiffe: "td/a/*"`, one("spiffe://td/A/b"), false},
		{`spiffe: "td/**"`, one("spiffe://td/a/b"), true},
		{`spiffe: "td/**"`, broker.NewCaller(broker.SPIFFE, "td", "", broker.ProofX509, "services"), false},
		{`spiffe: "td/a/b"`, one("spiffe://td/a/b"), true},
		{`spiffe: "td/a/b"`, one("uri:td/a/b"), false},
		{`spiffe: "td/a/b", proof: x509`, one("spiffe://td/a/b"), true},
		{`spiffe: "td/a/b", proof: x509`, one("spiffe://td/a/b", func(c *broker.Caller) { c.Proof = "jwt" }), false},
		{`spiffe: "td/a/b"`, one("spiffe://td/a/b", func(c *broker.Caller) { c.Proof = "jwt" }), true},
		{`spiffe: "td/a/b", listener: operators`, one("spiffe://td/a/b", operators), true},
		{`spiffe: "td/a/b", listener: operators`, one("spiffe://td/a/b"), false},
		{`certificate: one, dns: "*.Corp"`, one("dns:one/a.corp"), true},
		{`certificate: one, dns: "*.corp"`, broker.NewCaller(broker.DNS, "one", "A.CORP", broker.ProofX509, "services"), true},
		{`certificate: one, dns: "*.corp"`, one("dns:two/a.corp"), false},
		{`certificate: one, dns: "*.corp"`, one("dns:one/a.b.corp"), false},
		{`certificate: one, dns: "a.corp"`, one("cn:one/a.corp"), false},
		{`certificate: one, uri: "urn:a:*"`, one("uri:one/urn:a:b"), true},
		{`certificate: one, uri: "urn:a:*"`, one("uri:one/urn:a:b:c"), false},
		{`certificate: one, cn: "a*"`, one("cn:one/ab"), true},
		{`certificate: one, cn: "a*"`, one("cn:one/AB"), false},
		{`unix: 1`, one("unix:1"), true},
		{`unix: 1`, one("unix:11"), false},
		{`unix: "*"`, one("unix:11"), true},
		{`unix: "*"`, broker.NewCaller(broker.Unix, "", "", broker.ProofPeer, "services"), false},
		{`unix: "*", gid: 7`, one("unix:11", gids("7")), true},
		{`unix: "*", gid: 7`, one("unix:11", gids("6", "7")), true},
		{`unix: "*", gid: 7`, one("unix:11", gids("77")), false},
		{`unix: "*", gid: 7`, one("unix:7"), false},
		{`jwt: ci, sub: "repo:acme/web:ref:**"`, one("jwt:ci/repo:acme/web:ref:refs/heads/main"), true},
		{`jwt: ci, sub: "repo:acme/web:ref:**"`, one("jwt:other/repo:acme/web:ref:refs/heads/main"), false},
		{`jwt: ci, sub: "repo:acme/web:ref:**"`, one("jwt:ci/repo:acme/web2:ref:refs/heads/main"), false},
		{`jwt: ci, sub: "repo:acme/*:ref"`, one("jwt:ci/repo:acme/web/x:ref"), false},
		{`jwt: ci, sub: "auth0|a"`, one("jwt:ci/auth0|a"), true},
		{`jwt: ci, sub: "a"`, one("uri:ci/a"), false},
		{`jwt: ci, sub: "a", claims: {ref: [main, "release-*"]}`, one("jwt:ci/a", claims("ref", "release-1")), true},
		{`jwt: ci, sub: "a", claims: {ref: [main, "release-*"]}`, one("jwt:ci/a", claims("ref", "feature")), false},
		{`jwt: ci, sub: "a", claims: {ref: [main]}`, one("jwt:ci/a"), false},
		{`jwt: ci, sub: "a", claims: {groups: [admin]}`, one("jwt:ci/a", claims("groups", "staff", "admin")), true},
		{`jwt: ci, sub: "a", claims: {groups: [admin]}`, one("jwt:ci/a", claims("groups", "staff,admin")), false},
		{`jwt: ci, sub: "a", claims: {groups: ["*"]}`, one("jwt:ci/a", claims("groups", "x")), true},
		{`jwt: ci, sub: "a", claims: {groups: ["*"]}`, one("jwt:ci/a", claims("other", "x")), false},
		{`jwt: ci, sub: "a", claims: {a: [x], b: [y]}`, one("jwt:ci/a", claims("a", "x"), claims("b", "y")), true},
		{`jwt: ci, sub: "a", claims: {a: [x], b: [y]}`, one("jwt:ci/a", claims("a", "x"), claims("b", "x")), false},
		{`k8s: "prod/batch/*"`, one("k8s:prod/batch/importer"), true},
		{`k8s: "prod/batch/*"`, one("k8s:prod/shop/importer"), false},
		{`k8s: "prod/batch/*"`, one("k8s:test/batch/importer"), false},
		{`k8s: "prod/**"`, one("k8s:prod/batch/importer"), true},
		{`local: services`, one("local:services"), true},
		{`local: services`, one("local:operators"), false},
		{`local: services`, one("unix:1"), false},
	} {
		p := parse(t, "version: 1\ncallers: {c: [{"+x.entry+"}]}\nrules: [{name: r, callers: [c], operations: [provider.read]}]")
		for range 2 { // remembered the second time
			if got := p.Decide(broker.Access{Caller: x.c, Operation: broker.ReadProvider}).Effect == broker.Allowed; got != x.want {
				t.Errorf("%s: got %v for %s %s", x.entry, got, x.c, x.c.Listener)
			}
		}
	}
}

// TestWhatIsRememberedOfCallersIsBounded, and right: who differs in anything is another one.
func TestWhatIsRememberedOfCallersIsBounded(t *testing.T) {
	p := parse(t, "version: 1\ncallers: {c: [{unix: \"*\", gid: 7, listener: services}, {certificate: one, cn: a}, {spiffe: td/a, proof: x509}]}\nrules: [{name: r, callers: [c], operations: [provider.read]}]")
	ask := func(c *broker.Caller, want broker.Effect) {
		t.Helper()
		if got := p.Decide(broker.Access{Caller: c, Operation: broker.ReadProvider}); got.Effect != want {
			t.Errorf("got %v for %s", got, c)
		}
		if n := len(p.views.all); n > mostViews {
			t.Fatalf("%d are remembered", n)
		}
	}
	for i := range mostViews + 10 {
		c := broker.NewCaller(broker.Unix, "", fmt.Sprint(i), broker.ProofPeer, "services")
		ask(c, broker.Denied)
		c.Attributes = map[string][]string{"gid": {"7"}}
		ask(c, broker.Allowed)
		c.Attributes = map[string][]string{"gid": {"8", "9"}}
		ask(c, broker.Denied)
		c.Attributes = map[string][]string{"gid": {"8", "7"}}
		ask(c, broker.Allowed)
		c.Listener = "operators"
		ask(c, broker.Denied)
	}
	ask(broker.NewCaller(broker.CommonName, "one", "a", broker.ProofX509, ""), broker.Allowed)
	ask(broker.NewCaller(broker.CommonName, "two", "a", broker.ProofX509, ""), broker.Denied)
	ask(broker.NewCaller(broker.URI, "one", "a", broker.ProofX509, ""), broker.Denied)
	ask(broker.NewCaller(broker.SPIFFE, "td", "a", broker.ProofX509, ""), broker.Allowed)
	ask(broker.NewCaller(broker.SPIFFE, "td", "a", broker.ProofNone, ""), broker.Denied)
}

// TestDecidingAtOnce is for the race detector.
func TestDecidingAtOnce(t *testing.T) {
	p := parse(t, good)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 500 {
				c := broker.NewCaller(broker.Unix, "", fmt.Sprint(i%100), broker.ProofPeer, "services")
				p.Decide(broker.Access{Caller: c, Operation: broker.GetToken, Credential: "a"})
			}
		})
	}
	wg.Wait()
}

// TestNoValueOfAParameterIsQuoted: they may be secret.
func TestNoValueOfAParameterIsQuoted(t *testing.T) {
	const planted = "planted-5ecret"
	for _, rule := range []string{main, `parameters: {p: [a]}, ` + main, `parameters: {p: [a], q: [b]}, ` + main, `parameters: {"*": ["*"]}, ` + main} {
		p := ruleFor(t, rule)
		for _, known := range []broker.Knowledge{broker.Unread, broker.Missing, broker.Stored} {
			for _, c := range []string{"unix:1", "unix:2"} {
				e := p.Explain(broker.Access{
					Caller: caller(t, c), Operation: broker.GetToken, Credential: "main", Known: known,
					Selection: broker.Selection{Parameters: broker.NewPairs(map[string]string{"p": planted, "z": planted})},
				})
				if strings.Contains(fmt.Sprintf("%+v", e), planted) || len(e.Rules) != 1 {
					t.Errorf("%s: got %+v", rule, e)
				}
			}
		}
	}
}

func TestExplain(t *testing.T) {
	p := parse(t, good+"  - {caller: \"unix:9\", operation: provider.read, denied: true}\n")
	for _, x := range []struct {
		a    broker.Access
		want string
	}{
		{broker.Access{}, "nobody asks, and nobody is allowed anything"},
		{broker.Access{Caller: caller(t, "unix:9")}, "no rule is about this caller; shop-occtoo: its callers are shop, batch, and the caller is none of them; operators: its callers are ops, and the caller is none of them"},
		{broker.Access{Caller: caller(t, "unix:1001"), Operation: broker.ReadProvider}, "operators: it allows this"},
		{broker.Access{Caller: caller(t, "unix:1001"), Operation: broker.ReadCredential}, "operators: credentials: each of the list is decided by itself"},
		{broker.Access{Caller: caller(t, "unix:1001"), Operation: broker.DeleteCredential}, "operators: credentials: none is named"},
		{broker.Access{Caller: caller(t, "spiffe://corp.example/ns/shop/sa/a"), Operation: broker.GetToken, Credential: "occtoo-a"}, "shop-occtoo: labels: the credential's are not known yet"},
		{broker.Access{Caller: caller(t, "spiffe://corp.example/ns/shop/sa/a"), Operation: broker.GetToken, Credential: "occtoo-a", Known: broker.Missing}, "shop-occtoo: labels: there is no credential that has them"},
	} {
		e := p.Explain(x.a)
		var parts []string
		if e.Why != "" {
			parts = append(parts, e.Why)
		}
		for _, r := range e.Rules {
			parts = append(parts, r.Rule+": "+r.Why)
		}
		if got := strings.Join(parts, "; "); got != x.want || e.Decision != p.Decide(x.a) {
			t.Errorf("got %s, %v; want %s", got, e.Decision, x.want)
		}
	}
}

// TestExplainNames: without a parameter's value, what hangs on it depends.
func TestExplainNames(t *testing.T) {
	p := ruleFor(t, `parameters: {p: [a, "b*"], q: ["*"]}, `+main)
	a := broker.Access{Caller: caller(t, "unix:1"), Operation: broker.GetToken, Credential: "main", Known: broker.Stored}
	for names, want := range map[string]string{
		"p":   `1 parameters: it depends on the value of "p", for which it allows a, b*`,
		"q p": `1 parameters: it depends on the value of "p", for which it allows a, b*`,
		"q":   `0 parameters: "p": it is not there, and the rule allows certain values only`,
		"p x": `0 parameters: "x": the rule does not name it`,
	} {
		e := p.ExplainNames(a, strings.Fields(names))
		if got := fmt.Sprint(int(e.Decision.Effect), " ", e.Rules[0].Why); got != want || e.Decision.Rule != "" {
			t.Errorf("%s: got %s, want %s", names, got, want)
		}
	}
	free := ruleFor(t, `parameters: {p: ["*"]}, `+main)
	if e := free.ExplainNames(a, []string{"p"}); e.Decision != (broker.Decision{Effect: broker.Allowed, Rule: "r"}) {
		t.Errorf("got %+v where any value will do", e)
	}
}
