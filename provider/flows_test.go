package provider

import (
	"slices"
	"strings"
	"testing"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// ways are where a definition sends and shows secrets with these inputs, beside what is only asked.
func ways(d *definition, inputs map[string]string) (out []string) {
	for _, x := range d.Destinations(credential(inputs)) {
		if x.Use != broker.Release && x.Use != broker.Requests && x.Use != broker.How {
			out = append(out, string(x.Use)+" "+x.Place)
		}
	}
	return out
}

// TestWhatGoesWhere: each secret to each place, and those that callers get.
func TestWhatGoesWhere(t *testing.T) {
	v := newVendor(t, nil)
	const client = "inputs: {client_id: {}, client_secret: {secret: true}}\n"
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"the normal case": {client + "scopes: {}\nobtain: {oauth2: \"https://a.e.com/t\"}\nrefresh: {oauth2: \"https://a.e.com/r\"}", []string{
			"carried https://a.e.com: client_secret", "carried https://a.e.com: refresh_token",
		}},
		"a public client":      {"inputs: {client_id: {}}\nobtain: {oauth2: \"https://a.e.com/t\", auth: none}", nil},
		"a token of the input": {"inputs: {key: {secret: true, handed_out: true}}\ntoken: \"{{key}}\"", []string{"callers key"}},
		"what is computed":     {"inputs: {user: {}, pass: {secret: true, was: password}}\nlet: {both: {base64: \"{{user}}:{{pass}}\"}}\nobtain: {post: \"https://a.e.com/t\", form: {b: \"{{both}}\"}, take: {token: d.t}}", []string{"carried https://a.e.com: pass, formerly password"}},
		"another host of the chain": {"inputs: {s: {format: url}, key: {secret: true}}\nobtain:\n- {get: \"{{s}}/a\", headers: {K: \"{{key}}\"}, take: {token: t, refresh_token: refresh_token}}\n" +
			"- {get: \"https://b.e.com/c\", with_token: true, query: {r: \"{{refresh_token}}\"}, take: {unused: u}}", []string{"carried https://a.e.com: key", "carried https://b.e.com: refresh_token"}},
		"where the token is shown": {"inputs: {key: {secret: true, handed_out: true}}\nobtain:\n- {get: \"https://a.e.com/a\", take: {token: t}}\n" +
			"- {get: \"https://b.e.com/c\", with_token: true, take: {unused: u}}\npresent: {headers: {T: \"{{token}}\", K: \"{{key}}\"}}", []string{"callers key", "carried https://b.e.com: key"}},
		"a list in a body": {"inputs: {key: {secret: true}}\nobtain: {post: \"https://a.e.com/t\", json: {a: [{b: \"<{{key}}>\"}]}, take: {token: t}}", []string{"carried https://a.e.com: key"}},
		"HTTP Basic, and cookies": {"inputs: {a: {secret: true}, b: {secret: true}, c: {secret: true}}\nobtain: {post: \"https://a.e.com/t\", auth: {basic: [\"{{a}}\", \"{{b}}\"]}, cookies: \"c={{c}}\", take: {token: t}}", []string{
			"carried https://a.e.com: a", "carried https://a.e.com: b", "carried https://a.e.com: c",
		}},
		"the first refresh token": {"inputs: {first: {secret: true, seed: true}}\nrefresh: {oauth2: \"https://a.e.com/t\", auth: none}", []string{"carried https://a.e.com: refresh_token, first first"}},
		"an issuer":               {client + "obtain: {oauth2: {issuer: \"https://a.e.com/x\"}}", []string{"carried as told by https://a.e.com/x: client_secret"}},
	} {
		if got, want := ways(v.define(c.text), map[string]string{"s": "https://a.e.com/base"}), slices.Sorted(slices.Values(c.want)); !slices.Equal(got, want) {
			t.Errorf("%s: got\n%s\nwant\n%s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	d := v.define("inputs: {key: {secret: true}}\nobtain:\n- {get: \"https://a.e.com/a\", take: {next: n}}\n- {post: \"{{next}}/t\", form: {k: \"{{key}}\"}, take: {token: t}}")
	if got, want := ways(d, nil), []string{"carried {next by " + d.how + "}: key"}; !slices.Equal(got, want) {
		t.Errorf("an address in an answer: got %v, want %v", got, want)
	}
}

// TestAPlaceIsOneThatSomebodyCanAccept, however long what it is made of.
func TestAPlaceIsOneThatSomebodyCanAccept(t *testing.T) {
	v := newVendor(t, nil)
	long := func(end string) string { return strings.Repeat("ü", longestPlace) + end }
	of := func(text string) string {
		d := v.define(text)
		d.how = ""
		all := ways(d, nil)
		if i := slices.IndexFunc(all, func(s string) bool { return len(s) > longestPlace }); i >= 0 {
			t.Errorf("got a place of %d bytes", len(all[i]))
		}
		return strings.Join(all, "\n")
	}
	a := of("inputs: {k: {secret: true}, client_id: {}}\nobtain: {oauth2: {issuer: \"https://e.com/" + long("a") + "\"}, auth: none, params: {k: \"{{k}}\"}}")
	b := of("inputs: {k: {secret: true}, client_id: {}}\nobtain: {oauth2: {issuer: \"https://e.com/" + long("b") + "\"}, auth: none, params: {k: \"{{k}}\"}}")
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
