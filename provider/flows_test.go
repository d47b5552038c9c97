package provider

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// ways are what a definition sends and shows with these inputs, beside what is only asked.
func ways(d *definition, inputs map[string]string) (out []string) {
	for _, x := range d.Destinations(credential(inputs)) {
		if x.Use != broker.Release && x.Use != broker.Requests {
			out = append(out, string(x.Use)+" "+x.Place)
		}
	}
	return out
}

// TestWhatGoesWhere: each secret to each place, and what callers get by where it comes from.
func TestWhatGoesWhere(t *testing.T) {
	v := newVendor(t, nil)
	const client = "inputs: {client_id: {}, client_secret: {secret: true}}\n"
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"the normal case": {client + "scopes: {}\nobtain: {oauth2: \"https://a.e.com/t\"}\nrefresh: {oauth2: \"https://a.e.com/r\"}", []string{
			"carried https://a.e.com: client_secret", "carried https://a.e.com: refresh_token", "token from token, as RFC 6749 has it",
		}},
		"the same, written": {client + "obtain: {oauth2: \"https://a.e.com/t\", take: {token: access_token, scope: scope, token_type: token_type}}", []string{
			"carried https://a.e.com: client_secret", "token from token, as RFC 6749 has it",
		}},
		"a public client":      {"inputs: {client_id: {}}\nobtain: {oauth2: \"https://a.e.com/t\", auth: none}", []string{"token from token, as RFC 6749 has it"}},
		"a token of the input": {"inputs: {key: {secret: true, handed_out: true}}\ntoken: \"{{key}}\"", []string{"callers key", "token from token, made of inputs"}},
		"a login": {"inputs: {user: {}, pass: {secret: true, was: password}}\nlet: {both: {base64: \"{{user}}:{{pass}}\"}}\nobtain: {post: \"https://a.e.com/t\", form: {b: \"{{both}}\"}, take: {token: d.t, scope: scope, token_type: k}}", []string{
			"carried https://a.e.com: pass, formerly password", "token from token, taken from d.t of POST https://a.e.com/t", "token from token_type, taken from k of POST https://a.e.com/t",
			"sent https://a.e.com: pass, formerly password in the body, as b; both is {base64: {{user}}:{{pass}}}",
		}},
		"another host of the chain": {"inputs: {s: {format: url}, key: {secret: true}}\nobtain:\n- {get: \"{{s}}/a\", headers: {K: \"{{key}}\"}, take: {own: o, token: t, refresh_token: refresh_token}}\n" +
			"- {get: \"{{s}}/b\", with_token: true, query: {o: \"{{own}}\", r: \"{{refresh_token}}\"}, take: {same: s}}\n- {get: \"https://b.e.com/c?s={{same}}\", with_token: true, query: {o: \"{{own}}\"}, take: {unused: u}}", []string{
			"carried https://a.e.com: key", "carried https://a.e.com: refresh_token",
			"carried https://b.e.com: own, taken from o of GET {{s}}/a",
			"carried https://b.e.com: same, taken from s of GET {{s}}/b?o={{own}}&r={{refresh_token}}; own, taken from o of GET {{s}}/a; refresh_token, taken from refresh_token of GET {{s}}/a",
			"carried https://b.e.com: token", "sent https://a.e.com: key in the header K", "sent https://a.e.com: refresh_token in the query, as r",
			"sent https://a.e.com: a value of an answer in the query, as o", "sent https://b.e.com: a value of an answer in the query, as o",
			"sent https://b.e.com: a value of an answer in the URL's query: \"s={{same}}\"",
			"token from token, taken from t of GET {{s}}/a",
		}},
		"an address in an answer": {"inputs: {key: {secret: true}}\nobtain:\n- {get: \"https://a.e.com/a\", take: {next: n}}\n- {post: \"{{next}}/t\", form: {k: \"{{key}}\"}, take: {token: t}}", []string{
			"carried {next by }: key", "sent {next by }: key in the body, as k", "token from token, taken from t of POST {{next}}/t; next, taken from n of GET https://a.e.com/a",
		}},
		"a refresh token of another place": {client + "obtain: {oauth2: \"https://a.e.com/t\", take: {refresh_token: master}}\nrefresh: {oauth2: \"https://b.e.com/t\"}", []string{
			"carried https://a.e.com: client_secret", "carried https://b.e.com: client_secret", "carried https://b.e.com: refresh_token",
			"carried https://b.e.com: refresh_token, taken from master of POST https://a.e.com/t",
			"carried https://b.e.com: refresh_token, taken from master of POST https://b.e.com/t", "token from token, as RFC 6749 has it",
		}},
		"a question beside the token": {client + "scopes: {}\nobtain: {oauth2: \"https://a.e.com/me\", send: query, query: {doc: public}, take: {own: o}}\nattributes: [own]", []string{
			"callers own, taken from o of POST https://a.e.com/me?doc=public", "carried https://a.e.com: client_secret",
			"sent https://a.e.com: client_secret in the query, as client_secret", "token from token, as RFC 6749 has it",
		}},
		"parts of a request": {"inputs: {a: {secret: true}, b: {secret: true, prefix: \"Bearer \"}, c: {secret: true}}\nlet: {l: {lower: \"{{m}}\"}, m: {hex: \"{{c}}\"}}\n" +
			"obtain: {post: \"https://a.e.com/t\", auth: {client_secret_basic: {id: \"{{a}}\", secret: \"{{c}}\"}}, cookies: {k: \"{{a}}\"}, json: {a: \"{{a}}\", list: [\"{{l}}\"], in: {b: \"<{{b}}>\"}}, take: {token: t}}", []string{
			"carried https://a.e.com: a", "carried https://a.e.com: b", "carried https://a.e.com: c", "token from token, taken from t of POST https://a.e.com/t",
			"sent https://a.e.com: a in HTTP Basic, as the user", "sent https://a.e.com: a in the cookie k", "sent https://a.e.com: b in the body, as in.b: \"<{{b}}>\"; without \"Bearer \" in front",
			"sent https://a.e.com: c in the body, as list[0]; l is {lower: {{m}}}; m is {hex: {{c}}}",
		}},
		"a value in a URL": {"obtain:\n- {get: \"https://a.e.com/a\", take: {own: o}}\n- {get: \"https://a.e.com/{{own}}/b?c=1&d={{own}}\", take: {token: t}}", []string{
			"sent https://a.e.com: a value of an answer in the URL's query: \"c=1&d={{own}}\"",
			"token from token, taken from t of GET https://a.e.com/{{own}}/b?c=1&d={{own}}; own, taken from o of GET https://a.e.com/a",
		}},
		"client authentication by another name": {"inputs: {id: {}, key: {secret: true}}\nobtain: {oauth2: \"https://a.e.com/t\", auth: {client_secret_post: {id: \"{{id}}\", secret: \"{{key}}\"}}}", []string{
			"carried https://a.e.com: key", "token from token, as RFC 6749 has it",
		}},
		"a parameter that an upstream may repeat": {client + "scopes: {}\nobtain: {oauth2: \"https://a.e.com/t\", params: {scope: \"{{scope}} {{client_secret}}\"}}", []string{
			"carried https://a.e.com: client_secret", "token from token, as RFC 6749 has it", "sent https://a.e.com: client_secret in the body, as scope: \"{{scope}} {{client_secret}}\"",
		}},
		"an issuer": {client + "obtain: {oauth2: {issuer: \"https://a.e.com/x\"}, take: {own: o}}\nattributes: [own]", []string{
			"callers own, taken from o of POST as told by https://a.e.com/x", "carried as told by https://a.e.com/x: client_secret", "token from token, as RFC 6749 has it",
		}},
		"all that a value is named by": {"inputs: {s: {format: url}, n: {default: five}, plain: {}}\nparameters: {p: {one_of: [a, b], default: \"{{n}}\"}}\nlet: {l: {lower: \"{{m}}\"}, m: VAULT}\n" +
			"obtain:\n- {get: \"{{s}}/{{plain}}/{{l}}\", query: {p: \"{{p}}\"}, take: {token: t, jwt: j, own: {claim: sub, of: jwt}, one: {each: l, where: {n: \"{{n}}\"}, path: id}}}\nattributes: [own, one]", []string{
			"callers one, taken from {each: l, path: id, where: {n: {{n}}}} of GET {{s}}/{{plain}}/{{l}}?p={{p}}; n is by default five; l is {lower: {{m}}}; p is one of a, b; p is by default {{n}}; m is VAULT",
			"callers own, taken from {claim: sub, of: jwt} of GET {{s}}/{{plain}}/{{l}}?p={{p}}; jwt, taken from j of GET {{s}}/{{plain}}/{{l}}?p={{p}}; l is {lower: {{m}}}; p is one of a, b; p is by default {{n}}; m is VAULT; n is by default five",
			"token from token, taken from t of GET {{s}}/{{plain}}/{{l}}?p={{p}}; l is {lower: {{m}}}; p is one of a, b; p is by default {{n}}; m is VAULT; n is by default five",
		}},
	} {
		d := v.define(c.text)
		d.digest = ""
		if got, want := ways(d, map[string]string{"s": "https://a.e.com/base", "plain": "x"}), slices.Sorted(slices.Values(c.want)); !slices.Equal(got, want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// TestWhatIsTakenIsCalledByWhatItIs: two ways to write the same are one, and two things are two.
func TestWhatIsTakenIsCalledByWhatItIs(t *testing.T) {
	v := newVendor(t, nil)
	called := map[string]string{}
	of := func(take, let string) string {
		d := v.define("inputs: {k: {secret: true}}\nlet: {l: " + let + "}\nobtain: {post: \"https://a.e.com/t\", form: {b: \"{{l}}\"}, take: {token: t, own: " + take + "}}\nattributes: [own]")
		return strings.Join(ways(d, nil), "\n")
	}
	plain := of("a.b", "{hex: \"{{k}}\"}")
	for _, same := range []string{"[a.b]", "{path: a.b}", "[{path: a.b}]", "'a.b'"} {
		if got := of(same, "{hex: \"{{k}}\"}"); got != plain {
			t.Errorf("own: %s: got\n%s\nwant\n%s", same, got, plain)
		}
	}
	for _, other := range [][2]string{
		{"a.b", "{hex: \"{{k}}\"}"}, {"a.b", "\"{hex: {{k}}}\""}, {"a.b", "{first: [\"{{k}}\", a]}"}, {"a.b", "{first: [\"{{k}}, a\"]}"},
		{"[a, b]", "{hex: \"{{k}}\"}"}, {"{path: a, optional: true}", "{hex: \"{{k}}\"}"},
	} {
		got := of(other[0], other[1])
		if was := called[got]; was != "" {
			t.Errorf("%v and %s are both\n%s", other, was, got)
		}
		called[got] = fmt.Sprint(other)
	}
}

// TestAllThatAPartDependsOnIsAskedAbout: where what comes out of a part of a request with a secret depends on what is there, an edit of that is one of the
// part, wherever it is made. What it does not depend on is nobody's question.
func TestAllThatAPartDependsOnIsAskedAbout(t *testing.T) {
	const (
		file  = "name: x\ninputs: {pick: {optional: true}, other: {optional: true}, client_secret: {secret: true}}\n"
		send  = "obtain: {post: \"https://a.e.com/t\", form: {scope: \"{{p}}\", client_secret: \"{{client_secret}}\", o: \"{{other}}\", k: \"{{pick}}\"}, take: {token: access_token}}\n"
		pick  = file + "let: {p: {first: [\"{{pick}}\", \"{{client_secret}}\"]}}\n" + send
		plain = file + "obtain: {post: \"https://a.e.com/t\", form: {scope: \"{{pick}} {{client_secret}}\", client_secret: \"{{client_secret}}\", o: \"{{other}}\", k: \"{{pick}}\"}, take: {token: access_token}}\n"
		cut   = file + "let: {p: {split: {of: \"{{pick}}:{{client_secret}}\", by: \":\", at: 1}}}\n" + send
		by    = "inputs: {n: {default: a}, client_secret: {secret: true}}\nlet: {p: {first: [\"{{v}}\", \"{{client_secret}}\"]}}\nparameters: {v: {default: \"{{n}}\"}}\n" +
			"obtain: {post: \"https://a.e.com/t\", form: {scope: \"{{p}}\", client_secret: \"{{client_secret}}\", n: \"{{n}}\"}, take: {token: access_token}}\n"
		asks = "inputs: {n: {default: a}, client_secret: {secret: true}}\nlet: {p: {split: {of: \"{{scope}},{{client_secret}}\", by: \",\", at: 1}}}\nscopes: {default: [r, w], join: \",\"}\n" +
			"obtain: {post: \"https://a.e.com/t\", form: {scope: \"{{p}}\", client_secret: \"{{client_secret}}\", n: \"{{n}}\"}, take: {token: access_token}}\n"
		one   = "- {post: \"https://a.e.com/one\", form: {client_secret: \"{{client_secret}}\"}, take: {acct: acct}}\n"
		two   = "- {post: \"https://a.e.com/two\", form: {scope: \"{{p}}\"}, take: {token: access_token}}\n"
		order = "inputs: {client_secret: {secret: true}}\nlet: {p: {first: [\"{{acct}}\", \"{{client_secret}}\"]}}\nobtain:\n" + one + two
		tree  = file + "obtain: {post: \"https://a.e.com/t\", json: {scope: [[1, \"{{pick}}\"], {b: true, k: \"{{other}}\", l: []}, [\"{{pick}}\", \"{{other}}\"], \"{{client_secret}}\"]}, take: {token: t}}\n"
		renew = "inputs: {client_id: {}, client_secret: {secret: true}}\nobtain:\n- {post: \"https://a.e.com/one\", form: {client_secret: \"{{client_secret}}\"}, take: {acct: acct, REFRESH}}\n" +
			"- {post: \"https://a.e.com/two/PATH\", form: {scope: \"{{acct}}\"}, take: {token: access_token}}\nrefresh: {oauth2: \"https://a.e.com/t\", auth: none}\n"
		each = "refresh_token: {each: tokens, where: {kind: refresh}, path: value}"
	)
	renewing := func(refresh, path string) string {
		return strings.NewReplacer("REFRESH", refresh, "PATH", path).Replace(renew)
	}
	for name, c := range map[string]struct {
		before string
		edits  []string
		same   bool
	}{
		"a prefix of what is there":            {pick, []string{"pick: {optional: true}", "pick: {optional: true, prefix: x}"}, false},
		"a suffix of what is cut":              {cut, []string{"pick: {optional: true}", "pick: {optional: true, suffix: x}"}, false},
		"a name of before":                     {pick, []string{"pick: {optional: true}", "pick: {optional: true, was: q}"}, false},
		"what is needed":                       {pick, []string{"pick: {optional: true}", "pick: {}"}, false},
		"a default of a default":               {by, []string{"n: {default: a}", "n: {optional: true}"}, false},
		"a prefix of a choice":                 {by, []string{"{default: \"{{n}}\"}", "{default: \"{{n}}\", prefix: a}"}, false},
		"what joins scopes":                    {asks, []string{", join: \",\"", ""}, false},
		"the scopes that are asked for":        {asks, []string{"[r, w]", "[r]"}, false},
		"the order of requests":                {order, []string{one + two, two + one}, false},
		"where something is taken":             {order, []string{"acct: acct", "acct: {path: acct, pattern: \"nothing(.)\", optional: true}"}, false},
		"how an answer is read":                {order, []string{"acct: acct}", "acct: {path: acct, optional: true}}, answer: text"}, false},
		"what is asked before":                 {order, []string{"one\", form: {", "one\", form: {less: \"1\", "}, false},
		"a number in a list":                   {tree, []string{"[1, ", "["}, false},
		"nothing, in an object in a list":      {tree, []string{"b: true", "b: null"}, false},
		"an empty list in a list":              {tree, []string{", l: []", ""}, false},
		"lists in a list":                      {tree, []string{`[[1, "{{pick}}"], `, `[[1, ["{{pick}}"]], `}, false},
		"the list of refresh tokens":           {renewing(each, ""), []string{"acct: acct", "acct: tokens"}, false},
		"an element of it":                     {renewing(each, ""), []string{"acct: acct", "acct: \"tokens[1]\""}, false},
		"a refresh token in a header":          {renewing("x: y", ""), []string{"acct: acct", "acct: {header: X-Refresh-Token}"}, false},
		"a refresh token in a cookie":          {renewing("x: y", ""), []string{"acct: acct", "acct: {cookie: refresh_token}"}, false},
		"all cookies":                          {renewing("refresh_token: {cookie: rt}", ""), []string{"acct: acct", "acct: {cookies: all}"}, false},
		"a refresh token in a path":            {renewing("x: y", "{{acct}}"), []string{"acct: acct", "acct: refresh_token"}, false},
		"a value of the same answer":           {renewing("x: y", ""), []string{"acct: acct", "acct: another"}, true},
		"a choice of the callers'":             {by, []string{"{default: \"{{n}}\"}", "{one_of: [a, b], default: a}"}, false},
		"what callers have to choose":          {asks, []string{"scopes: {", "scopes: {required: true, "}, false},
		"a header that is left out":            {order, []string{"one\", form", "one\", headers: {Accept: null}, form"}, false},
		"which statuses are good":              {order, []string{"one\", form", "one\", ok: [404], form"}, false},
		"how a header is written":              {renewing("refresh_token: {header: X-T}", ""), []string{"acct: acct", "acct: {header: x-t, pattern: \"(a)\"}"}, false},
		"a cookie of the header":               {renewing("refresh_token: {header: Set-Cookie, pattern: \"rt=([^;]+)\"}", ""), []string{"acct: acct", "acct: {cookie: rt}"}, false},
		"a part of the text":                   {renewing("refresh_token: {text: true, pattern: \"rt=(.*)\"}", ""), []string{"acct: acct", "acct: rt"}, false},
		"what the claim is of":                 {renewing("idt: id_token, refresh_token: {claim: rt, of: idt}", ""), []string{"acct: acct", "acct: {path: id_token, pattern: \"[.](.*)[.]\"}"}, false},
		"another element of the list":          {renewing(each, ""), []string{"acct: acct", "acct: {each: tokens, where: {kind: access}, path: value}"}, true},
		"titles where something is chosen":     {pick, []string{"pick: {optional: true}", "pick: {optional: true, title: A pick}"}, true},
		"a field beside it":                    {plain, []string{"o: \"{{other}}\"", "o: \"{{other}}\", more: x"}, true},
		"the order of fields":                  {plain, []string{"scope: \"{{pick}} {{client_secret}}\", client_secret: \"{{client_secret}}\"", "client_secret: \"{{client_secret}}\", scope: \"{{pick}} {{client_secret}}\""}, true},
		"titles, hints and choices":            {plain, []string{"pick: {optional: true}", "pick: {optional: true, title: A pick, hint: Any., one_of: [a, b]}"}, true},
		"another input":                        {plain, []string{"other: {optional: true}", "other: {default: x}"}, true},
		"a computation that chooses of others": {plain, []string{"obtain:", "let: {q: {first: [\"{{pick}}\", \"{{other}}\"]}}\nobtain:", "k: \"{{pick}}\"", "k: \"{{q}}\""}, true},
		"a text that is run together":          {file + "let: {p: \"<u>{{pick}}</u>{{client_secret}}\"}\n" + send, []string{"pick: {optional: true}", "pick: {default: \"</u><scope>\"}"}, false},
		"what the body is read as":             {plain, []string{"form: {", "headers: {Content-Type: application/json}, form: {"}, false},
		"the order of takes":                   {order, []string{"take: {acct: acct}", "take: {acct: acct, b: c}"}, false},
		"lists on two levels":                  {renewing("refresh_token: {each: \"groups[0].tokens\", where: {kind: b}, path: value}", ""), []string{"acct: acct", "acct: {each: groups, where: {kind: a}, path: \"tokens[0].value\"}"}, false},
		"another page for what is sent on":     {strings.Replace(strings.Replace(renewing("x: y", ""), "refresh: {oauth2: \"https://a.e.com/t\", auth: none}\n", "", 1), "acct: acct", "acct: {text: true, pattern: \"a(.)\"}", 1), []string{"a(.)", "b(.)"}, true},
	} {
		v := newVendor(t, nil)
		before := strings.TrimPrefix(c.before, "name: x\n")
		after := before
		for i := 0; i < len(c.edits); i += 2 {
			edited := strings.Replace(after, c.edits[i], c.edits[i+1], 1)
			if edited == after {
				t.Fatalf("%s: nothing is edited", name)
			}
			after = edited
		}
		was, is := ways(v.define(before), nil), ways(v.define(after), nil)
		isNew := slices.ContainsFunc(is, func(s string) bool { return !slices.Contains(was, s) })
		if isNew == c.same {
			t.Errorf("%s: asked about: %v, want %v; before\n%s\nafter\n%s", name, isNew, !c.same, strings.Join(was, "\n"), strings.Join(is, "\n"))
		}
	}
}

// TestAPlaceIsOneThatSomebodyCanAccept, however long what it is made of.
func TestAPlaceIsOneThatSomebodyCanAccept(t *testing.T) {
	v := newVendor(t, nil)
	long := func(end string) string { return strings.Repeat("ü", longestPlace) + end }
	of := func(text string) string {
		all := ways(v.define(text), nil)
		if i := slices.IndexFunc(all, func(s string) bool { return len(s) > longestPlace }); i >= 0 {
			t.Errorf("got a place of %d bytes", len(all[i]))
		}
		return strings.Join(all, "\n")
	}
	a := of("let: {l: " + long("a") + "}\nobtain: {get: \"https://e.com/{{l}}\", take: {token: t}}")
	b := of("let: {l: " + long("b") + "}\nobtain: {get: \"https://e.com/{{l}}\", take: {token: t}}")
	if a == b || !strings.Contains(a, "and so on") {
		t.Errorf("got %.100s and %.100s, want what is shortened to differ still", a, b)
	}
}

// TestWhatADefinitionMayLeadToCanBeAccepted: the contract takes as many places, and as long ones.
func TestWhatADefinitionMayLeadToCanBeAccepted(t *testing.T) {
	rule := func(m protoreflect.ProtoMessage, field protoreflect.Name) *validate.FieldRules {
		r, _ := proto.GetExtension(m.ProtoReflect().Descriptor().Fields().ByName(field).Options(), validate.E_Field).(*validate.FieldRules)
		return r
	}
	if got := rule(&tokenbrokerv1.AcceptCredentialRequest{}, "destinations").GetRepeated().GetMaxItems(); got != mostFlows {
		t.Errorf("got %d destinations, and a definition has %d", got, mostFlows)
	}
	if got := rule(&tokenbrokerv1.Destination{}, "place").GetString().GetMaxLen(); got != longestPlace {
		t.Errorf("got a place of %d, and a definition has one of %d", got, longestPlace)
	}
}
