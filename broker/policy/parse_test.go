package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tokenbroker/tokenbroker/broker"
)

// good is a policy to which tests do one thing.
const good = `version: 1
callers:
  shop: [{spiffe: "corp.example/ns/shop/sa/*", proof: x509}]
  batch: [{certificate: company, dns: "*.batch.corp"}]
  ops: [{unix: 1001}, {unix: "*", gid: 2000}, {local: operators}]
blocked: []
rules:
  - name: shop-occtoo
    callers: [shop, batch]
    credentials: {names: ["occtoo-*"], labels: {env: [prod]}}
    operations: [get_token, watch, invalidate]
    scopes: [products.read]
    resources: ["https://api.occtoo.com/**"]
    parameters: {source: ["shop-*"]}
  - name: operators
    callers: [ops]
    credentials: {names: ["*"]}
    operations: [credential.read, credential.delete, provider.read]
tests:
  - {caller: "spiffe://corp.example/ns/shop/sa/cart", proof: x509, credential: occtoo-main, labels: {env: prod}, operation: get_token, scopes: [products.read], resources: ["https://api.occtoo.com/v1"], parameters: {source: shop-1}, rule: shop-occtoo}
  - {caller: "unix:7", gid: 2000, operation: provider.read, rule: operators}
  - {caller: "dns:company/a.batch.corp", credential: occtoo-main, operation: get_token, denied: true}
`

func problemsOf(text string) string {
	p, problems := Parse("", []byte(text))
	var out []string
	for _, x := range problems {
		out = append(out, x.String())
		if p != nil && !x.Warning || p == nil && len(problems) == 0 {
			out = append(out, "AND A POLICY")
		}
	}
	return strings.Join(out, "\n")
}

func TestAGoodFileHasNoProblems(t *testing.T) {
	if got := problemsOf(good); got != "" {
		t.Error(got)
	}
}

// with is good with something else in one place.
func with(t *testing.T, was, becomes string) string {
	t.Helper()
	if strings.Count(good, was) == 0 {
		t.Fatalf("%q is not in the file", was)
	}
	return strings.Replace(good, was, becomes, 1)
}

func TestWhatIsWrongIsSaidWithItsPlace(t *testing.T) {
	for _, x := range []struct{ was, becomes, want string }{
		{"version: 1", "version: 2", "1:10: version: this version reads 1 only; write version: 1"},
		{"version: 1", "vresion: 1", "1:1: policy: unknown word \"vresion\"; did you mean \"version\"?\n1:1: policy: version is missing; write version: 1"},
		{"blocked: []", "blocked: {}", "6:10: blocked: a list is wanted, not a mapping; write [value, value]"},
		{"blocked: []", "blocked: [{unix: 01}]", "6:18: blocked[0].unix: a number of a user or a group is wanted, in digits, as 1001"},
		{"blocked: []", "blocked: [{unix: 1001}]", ""},

		// callers
		{`[{spiffe: "corp.example/ns/shop/sa/*", proof: x509}]`, "[]", "3:9: callers.shop: an empty list; leave the word out, or write what is allowed"},
		{"spiffe:", "spife:", `3:11: callers.shop[0]: unknown word "spife"; did you mean "spiffe"?`},
		{"corp.example/ns", "spiffe://corp.example/ns", `3:19: callers.shop[0].spiffe: "spiffe://corp.example/ns/shop/sa/*": leave out spiffe://`},
		{"corp.example/ns", "*.example/ns", `3:19: callers.shop[0].spiffe: "*.example/ns/shop/sa/*": no wildcard may be in a trust domain`},
		{"corp.example/ns", "Corp.example/ns", `3:19: callers.shop[0].spiffe: "Corp.example/ns/shop/sa/*": a trust domain has a-z 0-9 . _ - in it`},
		{`"corp.example/ns/shop/sa/*"`, "corp.example", `3:19: callers.shop[0].spiffe: "corp.example": a path is missing; write it behind the trust domain, as "corp.example/ns/shop/sa/*"`},
		{"ns/shop/sa/*", "ns/**/sa/*", `3:19: callers.shop[0].spiffe: "corp.example/ns/**/sa/*": ** stands for the last segments, and nothing beside it; write it after the last separator, or * within a segment`},
		{"ns/shop/sa/*", "ns/shop/sa**", `3:19: callers.shop[0].spiffe: "corp.example/ns/shop/sa**": ** stands for the last segments, and nothing beside it; write it after the last separator, or * within a segment`},
		{"ns/shop/sa/*", "ns//sa/*", `3:19: callers.shop[0].spiffe: "corp.example/ns//sa/*": no path of a SPIFFE ID: its segments have a-z A-Z 0-9 . _ - in them`},
		{"ns/shop/sa/*", "ns/../sa/*", `3:19: callers.shop[0].spiffe: "corp.example/ns/../sa/*": no path of a SPIFFE ID has . or .. in it`},
		{"ns/shop/sa/*", "**", ""},
		{"proof: x509", "proof: peer", "3:55: callers.shop[0].proof: of spiffe there is x509 and jwt only, and this matches nobody"},
		{"proof: x509", "proof: jwt", "20:5: tests[0]: it is denied, and is to be allowed by shop-occtoo: its callers are shop, batch, and the caller is none of them"},
		{"proof: x509", "sub: a", `3:48: callers.shop[0].sub: it goes with jwt; leave it out`},
		{"proof: x509", "prof: x509", `3:48: callers.shop[0]: unknown word "prof"; did you mean "proof"?`},
		{"proof: x509", "listener: service", `3:58: callers.shop[0].listener: "service" is none of services, operators, machine; did you mean "services"?`},
		{"proof: x509", "certificate: company", `3:48: callers.shop[0].certificate: it goes with dns, uri and cn; leave it out`},
		{"proof: x509", "gid: 1", `3:48: callers.shop[0].gid: it goes with unix; leave it out`},
		{"proof: x509", "unix: 1", `3:48: callers.shop[0]: a caller is of one kind, and this matches nobody; write an entry for spiffe and one for unix`},
		{`[{spiffe: "corp.example/ns/shop/sa/*", proof: x509}]`, "[{proof: x509}]", "3:10: callers.shop[0]: who it is, is missing; write one of spiffe, dns, uri, cn, jwt, k8s, unix, local"},
		{"certificate: company, ", "", "4:11: callers.batch[0]: certificate is missing; write by which trust of the settings it is named, as {certificate: company, dns: …}"},
		{"certificate: company", "certificate: \"*\"", "4:25: callers.batch[0].certificate: a name must be 1 to 63 of a-z 0-9 . _ -, a letter or digit first and last"},
		{"*.batch.corp", "*.batch/corp", `4:39: callers.batch[0].dns: "*.batch/corp": no DNS name: labels have a-z 0-9 _ - in them, with a dot between them`},
		{`dns: "*.batch.corp"`, `uri: "*/x"`, `4:39: callers.batch[0].uri: "*/x": no wildcard may be in a scheme; begin with it, as "urn:corp:shop:*"`},
		{`dns: "*.batch.corp"`, `uri: "https://*/x"`, `4:39: callers.batch[0].uri: "https://*/x": no wildcard may be in a scheme or a host; write one pattern for each`},
		{`dns: "*.batch.corp"`, `cn: "a/**"`, `4:38: callers.batch[0].cn: "a/**": ** stands for segments, and there are none here; write *`},
		{"{unix: 1001}", "{unix: \"10*\"}", "5:16: callers.ops[0].unix: a number of a user or a group is wanted, in digits, as 1001"},
		{"{unix: 1001}", "{unix: 4294967296}", "5:16: callers.ops[0].unix: a number of a user or a group is wanted, in digits, as 1001"},
		{"gid: 2000", "gid: \"*\"", "5:40: callers.ops[1].gid: a number of a user or a group is wanted, in digits, as 1001"},
		{"local: operators", "local: \"*\"", `5:55: callers.ops[2].local: "*" is none of services, operators, machine`},
		{"local: operators", "local: operators, listener: services", "5:76: callers.ops[2].listener: it is another one than local says, and this matches nobody; leave it out"},
		{"{local: operators}", "{jwt: ci}", `5:47: callers.ops[2]: sub is missing; write which subjects of the issuer, as "repo:acme/web:ref:**"`},
		{"{local: operators}", `{jwt: ci, sub: "repo:acme/web:ref:**"}`, ""},
		{"{local: operators}", `{jwt: ci, sub: "repo:acme/**", claims: {ref: [refs/heads/main, "refs/tags/*"], groups: ["*"]}}`, ""},
		{"{local: operators}", `{jwt: "*", sub: a}`, "5:53: callers.ops[2].jwt: a name must be 1 to 63 of a-z 0-9 . _ -, a letter or digit first and last"},
		{"{local: operators}", `{jwt: ci, sub: "**"}`, "5:62: warning: callers.ops[2].sub: it may begin with anything, so that these are all whom the issuer knows: of a public issuer, everybody; begin with what is fixed, or demand claims"},
		{"{local: operators}", `{jwt: ci, sub: "**", claims: {groups: [admin]}}`, ""},
		{"{local: operators}", `{jwt: ci, sub: a, claims: {groups: admin}}`, "5:82: callers.ops[2].claims.groups: a list is wanted, not a text; write [value, value]"},
		{"{local: operators}", `{jwt: ci, sub: a, claims: {groups: []}}`, "5:82: callers.ops[2].claims.groups: an empty list; leave the word out, or write what is allowed"},
		{"{local: operators}", `{jwt: ci, sub: a, claims: {}}`, "5:65: callers.ops[2].claims: there are none; leave the word out"},
		{"{local: operators}", "{k8s: prod/a/b}", ""},
		{"{local: operators}", `{k8s: "prod/a/*"}`, ""},
		{"{local: operators}", `{k8s: "prod/**"}`, ""},
		{"{local: operators}", `{k8s: "prod/a"}`, `5:53: callers.ops[2].k8s: "prod/a": a namespace and a service account are wanted behind the issuer, as "prod/batch/importer" or "prod/batch/*"`},
		{"{local: operators}", `{k8s: "*/a/b"}`, `5:53: callers.ops[2].k8s: "*/a/b": no wildcard may be in the name of an issuer`},
		{"{local: operators}", `{k8s: prod/a/b, claims: {node: [x]}}`, `5:63: callers.ops[2].claims: it goes with jwt; leave it out`},
		{"{local: operators}", `{via: mesh, spiffe: "td/a"}`, ""},
		{"{local: operators}", `{via: mesh, spiffe: "td/a", proof: forwarded}`, ""},
		{"{local: operators}", `{via: mesh, spiffe: "td/a", proof: x509}`, "5:82: callers.ops[2].proof: of spiffe there is forwarded only, and this matches nobody"},
		{"{local: operators}", `{spiffe: "td/a", proof: forwarded}`, "5:71: callers.ops[2].proof: of spiffe there is x509 and jwt only, and this matches nobody"},
		{"{local: operators}", `{via: "a b", spiffe: "td/a"}`, "5:53: callers.ops[2].via: a name " + broker.NameForm},
		{"{local: operators}", "{via: mesh, unix: 5}", "5:48: callers.ops[2].via: it goes with spiffe, which is what proxies forward; leave it out"},
		{"blocked: []", `blocked: [{jwt: ci, sub: "**", claims: {groups: [contractors]}}]`, "6:32: blocked[0].claims: nobody is blocked by what they claim: what is too large or not plain is left out, and a token may be made so; block them by sub"},
		{"blocked: []", `blocked: [{jwt: ci, sub: "mallory"}]`, ""},
		{"blocked: []", "blocked: [{unix: 5, claims: {a: b}}]", "6:21: blocked[0].claims: it goes with jwt; leave it out"},
		{"  ops: [", "  spare: [{unix: 5}]\n  ops: [", "5:3: warning: callers.spare: no rule names it"},
		{"  ops: [", "  Ops: [{unix: 5}]\n  ops: [", "5:3: callers: a name must be 1 to 63 of a-z 0-9 . _ -, a letter or digit first and last"},

		// rules
		{"name: operators", "name: shop-occtoo", `15:11: rules[1].name: another rule is called "shop-occtoo"; each has a name of its own`},
		{"name: operators", "name: Operators", "15:11: rules[1].name: a name must be 1 to 63 of a-z 0-9 . _ -, a letter or digit first and last"},
		{"callers: [ops]", "callers: [opps]", "5:3: warning: callers.ops: no rule names it\n16:15: rules[1].callers: no callers are called \"opps\"; did you mean \"ops\"?"},
		{"callers: [ops]", "callers: []", "5:3: warning: callers.ops: no rule names it\n16:14: rules[1].callers: an empty list; leave the word out, or write what is allowed"},
		{"callers: [ops]", "callers: [ops, ops]", `16:20: warning: rules[1].callers: "ops" is there twice`},
		{"    callers: [ops]\n", "", "5:3: warning: callers.ops: no rule names it\n15:5: rules[1]: callers is missing; write names of callers, as [shop]"},
		{"credential.delete,", "credential.delet,", `18:35: rules[1].operations: "credential.delet" is none of get_token, watch, invalidate, invalidate.all, credential.read, credential.write, credential.delete, credential.test, provider.read; did you mean "credential.delete"?`},
		{"[credential.read, credential.delete, provider.read]", "[]", "18:17: rules[1].operations: an empty list; leave the word out, or write what is allowed"},
		{"[credential.read, credential.delete, provider.read]", `["*"]`, `18:18: rules[1].operations: "*" is none of get_token, watch, invalidate, invalidate.all, credential.read, credential.write, credential.delete, credential.test, provider.read`},
		{"[credential.read, credential.delete, provider.read]", "[provider.read]", "17:5: rules[1].credentials: provider.read is about no credential; leave it out"},
		{"    credentials: {names: [\"*\"]}\n", "", "15:5: rules[1]: credentials is missing, and a rule without it can never match; write {names: [PATTERN]}; any is [\"*\"]"},
		{"credentials: {names: [\"*\"]}", "credentials: {labels: {a: [b]}}", "17:18: rules[1].credentials: names is missing; a rule without them can never match; any is [\"*\"]"},
		{"credentials: {names: [\"*\"]}", "credentials: {names: [\"*\"], labels: {}}", "17:41: rules[1].credentials.labels: there is nothing in it; leave it out, or write {NAME: [PATTERN]}"},
		{"credentials: {names: [\"*\"]}", "credentials: {names: [\"*\"], labels: {A: [b]}}", "17:42: rules[1].credentials.labels: a name must be 1 to 63 of a-z 0-9 . _ -, a letter or digit first and last"},
		{"credentials: {names: [\"*\"]}", "credentials: {names: [\"*\"], labels: {\"e*\": [b]}}", "17:42: rules[1].credentials.labels: a name must be 1 to 63 of a-z 0-9 . _ -, a letter or digit first and last"},
		{`names: ["*"]`, `names: ["*", a]`, "17:27: rules[1].credentials.names: * alone is any value at all; leave out the others, or it"},
		{`names: ["*"]`, `names: [Main]`, `17:27: rules[1].credentials.names: "Main": no credential can have this name: it must be 1 to 63 of a-z 0-9 . _ -, a letter or digit first and last`},
		{`names: ["*"]`, `names: ["**"]`, `17:27: rules[1].credentials.names: "**": ** stands for segments, and there are none here; write *`},
		{`names: ["*"]`, `names: ["-*"]`, `17:27: rules[1].credentials.names: "-*": no credential can have this name: it must be 1 to 63 of a-z 0-9 . _ -, a letter or digit first and last`},
		{`names: ["*"]`, `names: [a, a]`, `17:30: warning: rules[1].credentials.names: "a" is there twice`},
		{`names: ["*"]`, `names: [""]`, `17:27: rules[1].credentials.names: "": there is nothing in it; leave it out`},
		{"credentials: {names: [\"*\"]}", "credentials: {names: [\"*\"]}\n    scopes: [a]", "18:5: rules[1].scopes: none of its operations is about a token, so that nothing is selected; leave it out"},
		{"scopes: [products.read]", "scopes: [\"\ufffd\"]", "12:14: rules[0].scopes: \"\ufffd\": U+FFFD stands for what is not known of an upstream's answer; leave it out"},
		{"scopes: [products.read]", "scopes: [\"products.read products.write\"]", `12:14: rules[0].scopes: "products.read products.write": there is no blank in a value; write each as one of its own`},
		{"scopes: [products.read]", "scopes: [\"a\\x01\"]", `12:14: rules[0].scopes: "a\x01": it has a control character in it; leave that out`},
		{"scopes: [products.read]", "scopes: products.read", `12:13: rules[0].scopes: a list is wanted, not a text; write [value, value]`},
		{"scopes: [products.read]", "scopes: [products.read]\n    rate: 50/s", ""},
		{"scopes: [products.read]", "scopes: [products.read]\n    rate: 50", "13:11: rules[0].rate: so many a second, a minute or an hour are wanted, from 1 to 1000000, as 50/s, 600/m or 1000/h"},
		{"scopes: [products.read]", "scopes: [products.read]\n    rate: 0/s", "13:11: rules[0].rate: so many a second, a minute or an hour are wanted, from 1 to 1000000, as 50/s, 600/m or 1000/h"},
		{"scopes: [products.read]", "scopes: [products.read]\n    rate: 5/d", "13:11: rules[0].rate: so many a second, a minute or an hour are wanted, from 1 to 1000000, as 50/s, 600/m or 1000/h"},
		{"scopes: [products.read]", "scopes: [products.read]\n    rate: 1.5/s", "13:11: rules[0].rate: so many a second, a minute or an hour are wanted, from 1 to 1000000, as 50/s, 600/m or 1000/h"},
		{"scopes: [products.read]", "scopes: [products.read]\n    rate: 1000001/h", "13:11: rules[0].rate: so many a second, a minute or an hour are wanted, from 1 to 1000000, as 50/s, 600/m or 1000/h"},
		{"https://api.occtoo.com/**", "https://*.occtoo.com/**", `13:17: rules[0].resources: "https://*.occtoo.com/**": no wildcard may be in a scheme or a host; write one pattern for each`},
		{"https://api.occtoo.com/**", "**", `13:17: rules[0].resources: "**": no wildcard may be in a scheme or a host; begin with both, as "https://api.example.com/**"`},
		{`["https://api.occtoo.com/**"]`, `["*"]`, ""},
		{"scopes: [products.read]", "scopes: [products.read]\n    audience: [\"htt*://h/x\"]", `13:16: rules[0].audience: "htt*://h/x": no wildcard may be in a scheme or a host; write one pattern for each`},
		{"scopes: [products.read]", "scopes: [products.read]\n    audience: [\"https://*/x\"]", `13:16: rules[0].audience: "https://*/x": no wildcard may be in a scheme or a host; write one pattern for each`},
		{`{source: ["shop-*"]}`, `{"*": ["*"]}`, ""},
		{`{source: ["shop-*"]}`, `{"*": ["a"]}`, `14:17: rules[0].parameters: * is any parameter with any value, and nothing beside it; write {"*": ["*"]}, or name each`},
		{`{source: ["shop-*"]}`, `{"*": ["*"], a: ["*"]}`, `14:17: rules[0].parameters: * is any parameter with any value, and nothing beside it; write {"*": ["*"]}, or name each`},
		{`{source: ["shop-*"]}`, `{"s*": ["*"]}`, `14:18: rules[0].parameters: a name is no pattern; write each, or {"*": ["*"]} for any parameters`},

		// tests
		{"rule: shop-occtoo", "denied: true", "20:5: tests[0]: it is allowed by shop-occtoo, and is to be denied"},
		{"rule: shop-occtoo", "rule: operators", "20:5: tests[0]: it is allowed by shop-occtoo, and is to be by operators: its callers are ops, and the caller is none of them"},
		{"rule: shop-occtoo", "rule: shop", `20:239: tests[0].rule: no rule is called "shop"`},
		{", rule: shop-occtoo", "", "20:5: tests[0]: what is to be decided has to be there, once; write rule: NAME, or denied: true"},
		{"denied: true", "denied: false", "22:97: tests[2].denied: only true can be written; write rule: NAME for what is allowed"},
		{"credential: occtoo-main, labels: {env: prod}", "credential: occtoo-main, labels: {env: dev}", `20:5: tests[0]: it is denied, and is to be allowed by shop-occtoo: labels: env is "dev", and it allows prod`},
		{"credential: occtoo-main, labels: {env: prod}", "credential: occtoo-main", `20:5: tests[0]: it is denied, and is to be allowed by shop-occtoo: labels: the credential has none called env, and it wants prod`},
		{"credential: occtoo-main, labels", "credential: other, labels", `20:5: tests[0]: it is denied, and is to be allowed by shop-occtoo: credentials: it allows occtoo-*, and other is none of them`},
		{"scopes: [products.read], res", "scopes: [products.write], res", `20:5: tests[0]: it is denied, and is to be allowed by shop-occtoo: scopes: it allows products.read, and "products.write" is none of them`},
		{"scopes: [products.read], res", "res", `20:5: tests[0]: it is denied, and is to be allowed by shop-occtoo: scopes: there are none, and the rule wants some of products.read`},
		{"scopes: [products.read], res", "scopes: [products.read], audience: x, res", `20:5: tests[0]: it is denied, and is to be allowed by shop-occtoo: audience: "x" is there, and the rule, which leaves the word out, allows none`},
		{"occtoo.com/v1", "occtoo.org/v1", `20:5: tests[0]: it is denied, and is to be allowed by shop-occtoo: resources: it allows https://api.occtoo.com/**, and "https://api.occtoo.org/v1" is none of them`},
		{"{source: shop-1}", "{source: secret}", `20:5: tests[0]: it is denied, and is to be allowed by shop-occtoo: parameters: "source": the rule does not allow its value`},
		{"{source: shop-1}", "{source: shop-1, other: secret}", `20:5: tests[0]: it is denied, and is to be allowed by shop-occtoo: parameters: "other": the rule does not name it`},
		{", parameters: {source: shop-1}", "", `20:5: tests[0]: it is denied, and is to be allowed by shop-occtoo: parameters: "source": it is not there, and the rule allows certain values only`},
		{"gid: 2000, operation", "gid: 2001, operation", "21:5: tests[1]: it is denied, and is to be allowed by operators: its callers are ops, and the caller is none of them"},
		{"gid: 2000, operation", "uid: 8, gid: 2000, operation", "21:29: tests[1].uid: it is not the caller's, whose identity says it; leave it out"},
		{"gid: 2000, operation", "uid: 7, gid: 2000, operation", ""},
		{"operation: provider.read", "operation: provider.write", `21:46: tests[1].operation: "provider.write" is none of get_token, watch, invalidate, invalidate.all, credential.read, credential.write, credential.delete, credential.test, provider.read; did you mean "provider.read"?`},
		{"operation: provider.read", "operation: credential.read", `21:5: tests[1]: credential is missing; write which one credential.read is about`},
		{"operation: provider.read", "operation: credential.test, credential: a", `21:5: tests[1]: it is denied, and is to be allowed by operators: operation: it allows credential.read, credential.delete, provider.read, and not credential.test`},
		{"operation: provider.read", "operation: provider.read, scopes: [a]", "21:61: tests[1].scopes: provider.read is not about a token, so that nothing is selected; leave it out"},
		{"caller: \"unix:7\"", "caller: \"unx:7\"", `21:14: tests[1]: caller: it is of no kind that is known; write spiffe://DOMAIN/PATH, dns:CERTIFICATE/NAME, uri:CERTIFICATE/NAME, cn:CERTIFICATE/NAME, jwt:ISSUER/SUB, k8s:ISSUER/NAMESPACE/NAME, unix:UID, local:LISTENER or via:PROXY/spiffe://DOMAIN/PATH; did you mean "unix"?`},
		{"caller: \"unix:7\"", "caller: \"via:ci/x\"", `21:14: tests[1]: caller: behind via: is a proxy of the settings and the SPIFFE ID that it forwards, as via:mesh/spiffe://DOMAIN/PATH`},
		{"blocked: []", "blocked: [{unix: 7}]", "21:5: tests[1]: it is denied, and is to be allowed by operators: the caller is blocked"},
	} {
		got := problemsOf(with(t, x.was, x.becomes))
		if diff := cmp.Diff(x.want, got); diff != "" {
			t.Errorf("%q for %q (-want +got):\n%s", x.becomes, x.was, diff)
		}
	}
}

func TestWhatIsNoPolicy(t *testing.T) {
	for text, want := range map[string]string{
		"":                       "there is nothing in it; a policy has at least version: 1, callers and rules",
		"# nothing":              "there is nothing in it; a policy has at least version: 1, callers and rules",
		"- a":                    "1:1: policy: a mapping is wanted, not a list; write {name: value}",
		good + "---\nversion: 1": "24:1: one document a file: this is a second one; leave it out",
		"version: 1\ncallers: {}\nrules: []": "2:10: callers: there are none; write {NAME: [{spiffe: \"corp.example/ns/shop/sa/*\"}]}\n" +
			"3:8: rules: an empty list; leave the word out, or write what is allowed",
		"version: 1":                     "1:1: policy: callers is missing; write callers: {NAME: [{spiffe: \"corp.example/ns/shop/sa/*\"}]}\n1:1: policy: rules is missing; without rules nobody may do anything",
		strings.Repeat("#", MostBytes+1): fmt.Sprintf("larger than %d bytes; make several files of it, or leave something out", MostBytes),
	} {
		if diff := cmp.Diff(want, problemsOf(text)); diff != "" {
			t.Errorf("%.40q (-want +got):\n%s", text, diff)
		}
	}
}

// TestBounds: a file has so many rules, patterns and tests, and not one more.
func TestBounds(t *testing.T) {
	rules := func(n, patterns int) string {
		var b strings.Builder
		b.WriteString("version: 1\ncallers: {c: [{unix: 1}]}\nrules:\n")
		for i := range n {
			fmt.Fprintf(&b, "- {name: r%d, callers: [c], operations: [watch], credentials: {names: [a%s]}}\n", i, strings.Repeat(",b", patterns-1))
		}
		return b.String()
	}
	test := "- {caller: 'unix:1', operation: watch, credential: a, rule: r0}\n"
	for _, x := range []struct{ text, want string }{
		{rules(mostRules, 1), ""},
		{rules(mostRules+1, 1), "rules: this is rule 1001, and a file has 1000 at most"},
		{rules(3, 3333), ""}, // and one of the caller
		{rules(1, 10_000), "rules[0].credentials.names: this is pattern 10001, and a file has 10000 at most"},
		{rules(1, 1) + "tests:\n" + strings.Repeat(test, mostTests), ""},
		{rules(1, 1) + "tests:\n" + strings.Repeat(test, mostTests+1), "tests: this is test 501, and a file has 500 at most"},
	} {
		var wrong []string
		for line := range strings.Lines(problemsOf(x.text)) {
			if !strings.Contains(line, "warning") {
				wrong = append(wrong, line)
			}
		}
		if got := strings.Join(wrong, ""); (got == "") != (x.want == "") || !strings.Contains(got, x.want) {
			t.Errorf("got %q, want %q", got, x.want)
		}
	}
}

// TestATestNamesAnyRuleThatAllowsIt: rules have no order.
func TestATestNamesAnyRuleThatAllowsIt(t *testing.T) {
	text := func(rule string) string {
		return `version: 1
callers: {c: [{unix: 1}]}
rules:
- {name: a, callers: [c], operations: [provider.read]}
- {name: b, callers: [c], operations: [provider.read]}
- {name: c, callers: [c], operations: [credential.read], credentials: {names: ["*"]}}
tests: [{caller: "unix:1", operation: provider.read, rule: ` + rule + `}]
`
	}
	for rule, want := range map[string]string{
		"a": "", "b": "", "c": "7:9: tests[0]: it is allowed by a, and is to be by c: operation: it allows credential.read, and not provider.read",
	} {
		if got := problemsOf(text(rule)); got != want {
			t.Errorf("%s: got %q, want %q", rule, got, want)
		}
	}
}

// TestTestsAreToldEach: with how each came out, whether the file is good or not.
func TestTestsAreToldEach(t *testing.T) {
	results, problems := Test("", []byte(with(t, "gid: 2000, operation", "gid: 2001, operation")))
	var got []string
	for _, r := range results {
		got = append(got, fmt.Sprintf("%d %s: %s", r.Line, r.Name, r.Wrong))
	}
	want := []string{
		"20 tests[0]: spiffe://corp.example/ns/shop/sa/cart get_token occtoo-main: ",
		"21 tests[1]: unix:7 provider.read: it is denied, and is to be allowed by operators: its callers are ops, and the caller is none of them",
		"22 tests[2]: dns:company/a.batch.corp get_token occtoo-main: ",
	}
	if diff := cmp.Diff(want, got); diff != "" || len(problems) > 0 {
		t.Errorf("%v (-want +got):\n%s", problems, diff)
	}
	if results, problems := Test("", []byte(with(t, "version: 1", "version: 2"))); results != nil || len(problems) != 1 {
		t.Errorf("got %v, %v of a broken file", results, problems)
	}
}
