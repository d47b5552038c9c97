package provider

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

func TestWhatIsNotDeclaredIsRefusedAndDefaultsAreApplied(t *testing.T) {
	v := newVendor(t, nil)
	none := v.define("inputs: {sub: {}}\ntoken: \"{{sub}}\"")
	set := func(s ...string) broker.Set {
		x, err := broker.ParseSet("x", s)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	for field, sel := range map[string]broker.Selection{
		"scopes": {Scopes: set("a")}, "audience": {Audience: "a"}, "resources": {Resources: set("https://r")}, "parameters.p": {Parameters: broker.NewPairs(map[string]string{"p": "1"})},
	} {
		_, err := none.Select(credential(nil), sel)
		f, ok := err.(*broker.Failure) //nolint:errorlint // the interface promises it
		if !ok || f.Kind != broker.ParameterNotDeclared || f.Violations[0].Field != field {
			t.Errorf("%s: got %v", field, err)
		}
	}
	d := v.define(`
inputs: {tenant: {optional: true}}
scopes: {default: [read, "{{tenant}}.all"], one_of: [read, write, "t.all"]}
resources: {}
audience: {pattern: "https://.*"}
parameters: {p: {one_of: ["1", "2"], default: "1"}, q: {}, r: {optional: true}}
token: "{{p}}{{q}}{{r}} {{scope}} {{audience}} {{resources}}"`)
	q := broker.NewPairs(map[string]string{"q": "x"})
	got, err := d.Select(credential(map[string]string{"tenant": "t"}), broker.Selection{Audience: "https://a", Parameters: q})
	if err != nil || got.Scopes.String() != "read t.all" || got.Parameters.Map()["p"] != "1" {
		t.Errorf("got %v %v", got, err)
	}
	c := credential(nil)
	c.DefaultScopes, c.DefaultAudience = set("write"), "https://own"
	if got, err = d.Select(c, broker.Selection{Parameters: q}); err != nil || got.Scopes.String() != "write" || got.Audience != "https://own" {
		t.Errorf("got %v %v, want the credential's own defaults", got, err)
	}
	for want, sel := range map[broker.Kind]broker.Selection{
		broker.ParameterRequired:    {Audience: "https://a"},
		broker.RequestInvalid:       {Audience: "ftp://a", Parameters: q},
		broker.ParameterNotDeclared: {Audience: "https://a", Parameters: broker.NewPairs(map[string]string{"q": "1", "z": "1"})},
	} {
		if _, err := d.Select(credential(nil), sel); broker.KindOf(err) != want {
			t.Errorf("got %v, want %s", err, want.Name())
		}
	}
	if _, err := d.Select(credential(nil), broker.Selection{Parameters: q}); broker.KindOf(err) != broker.ParameterRequired {
		t.Errorf("got %v, want an audience to be required", err)
	}
	if _, err := d.Select(c, broker.Selection{Scopes: set("admin"), Parameters: q}); broker.KindOf(err) != broker.RequestInvalid {
		t.Errorf("got %v of a scope that is none of one_of", err)
	}
	if _, err := d.Select(c, broker.Selection{Parameters: broker.NewPairs(map[string]string{"q": "1", "p": "3"})}); broker.KindOf(err) != broker.RequestInvalid {
		t.Errorf("got %v of a parameter that is none of one_of", err)
	}
}

// TestARequiredScopeIsAskedForBeforeAnythingIsSent, and the refusal says what there is to choose from.
func TestARequiredScopeIsAskedForBeforeAnythingIsSent(t *testing.T) {
	v := newVendor(t, nil)
	d := v.define(`
scopes: {required: true, known: {hubs:read: read hubs, sub: ""}}
obtain: {oauth2: https://example.com/t, auth: none}`)
	_, err := d.Select(credential(nil), broker.Selection{})
	if broker.KindOf(err) != broker.ParameterRequired || !strings.Contains(err.Error(), "scopes: at least one is needed: hubs:read (read hubs), sub") {
		t.Errorf("got %v", err)
	}
	one, err := broker.ParseSet("scopes", []string{"another"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.Select(credential(nil), broker.Selection{Scopes: one}); err != nil || got.Scopes != one {
		t.Errorf("got %v %v: others than the known may exist", got, err)
	}
	c := credential(nil)
	c.DefaultScopes = one
	if _, err := d.Select(c, broker.Selection{}); err != nil {
		t.Errorf("got %v", err)
	}
	strict := v.define(`
scopes: {required: true, one_of: [a, b], known: {a: the first}}
obtain: {oauth2: https://example.com/t, auth: none}`)
	if _, err := strict.Select(credential(nil), broker.Selection{}); err == nil || !strings.Contains(err.Error(), "a (the first), b") {
		t.Errorf("got %v", err)
	}
	with, without := v.define("scopes: {required: true, known: {a: x}}\nobtain: {oauth2: https://example.com/t, auth: none}"), v.define("scopes: {}\nobtain: {oauth2: https://example.com/t, auth: none}")
	if with.digest != without.digest {
		t.Error("what is for people, or keeps a request from being made, changed the revision")
	}
}

// TestScopesInOneTextAreSeveral: what is sent alike is one key.
func TestScopesInOneTextAreSeveral(t *testing.T) {
	d := newVendor(t, nil).define("scopes: {one_of: [a, b]}\nobtain: {oauth2: https://example.com/t, auth: none}")
	joined, err := broker.SetOf([]string{"b a"}) // as credentials of before have them
	if err != nil {
		t.Fatal(err)
	}
	apart, err := broker.ParseSet("scopes", []string{"a", "b"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.Select(credential(nil), broker.Selection{Scopes: joined}); err != nil || got.Scopes != apart {
		t.Errorf("got %v %v, want two scopes", got.Scopes, err)
	}
}

// TestASeparatorIsOneWithoutItsBlanks: an upstream that reads them generously takes one for two.
func TestASeparatorIsOneWithoutItsBlanks(t *testing.T) {
	d := newVendor(t, nil).define("scopes: {join: ', '}\nobtain: {oauth2: https://example.com/t, auth: none}")
	joined, err := broker.ParseSet("scopes", []string{"b,a"})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.Select(credential(nil), broker.Selection{Scopes: joined}); err != nil || !slices.Equal(got.Scopes.List(), []string{"a", "b"}) {
		t.Errorf("got %v %v, want two scopes", got.Scopes, err)
	}
	for _, blank := range []string{" ", "\u00a0", "\u2003", "\u3000", "\u2028"} {
		if got, err := broker.ParseSet("scopes", []string{"a" + blank + "b"}); err == nil {
			t.Errorf("%q is taken for %v", blank, got.List())
		}
	}
}

// TestWhatIsOffered: a refusal lists what there is, as much as somebody reads, and what was probably meant first.
func TestWhatIsOffered(t *testing.T) {
	v := newVendor(t, says(400, "application/json", `{"error": "invalid_scope"}`))
	asking := func(scope string) broker.Selection {
		s, err := broker.ParseSet("scopes", []string{scope})
		if err != nil {
			t.Fatal(err)
		}
		return broker.Selection{Scopes: s}
	}
	many := ""
	for i := range 150 {
		many += fmt.Sprintf("scope%03d, ", i)
	}
	strict := v.define("scopes: {one_of: [" + many + "], known: {scope001: the second}}\nobtain: {oauth2: https://example.com/t, auth: none}")
	_, err := strict.Select(credential(nil), asking("scope07"))
	if err == nil || !strings.Contains(err.Error(), `"scope07" is none of scope007, scope000, scope001 (the second), scope002, `) || !strings.HasSuffix(err.Error(), "scope019, and 130 more") {
		t.Errorf("got %v", err)
	}
	d := v.define("scopes: {known: {hubs:read: read hubs, hubs:write: change hubs}}\nobtain: {oauth2: https://example.com/t, auth: none}")
	_, err = v.obtain(d, credential(nil), asking("hubs:wite"))
	if e := upstreamError(t, err); e.Level != broker.LevelScope || e.Detail != "the definition knows hubs:write (change hubs), hubs:read (read hubs)" {
		t.Errorf("got %+v", e)
	}
	silent := v.define("scopes: {}\nobtain: {oauth2: https://example.com/t, auth: none}")
	_, err = v.obtain(silent, credential(nil), asking("a"))
	if e := upstreamError(t, err); e.Level != broker.LevelScope || e.Detail != "" {
		t.Errorf("got %+v", e)
	}
}

// TestAResourceHasNoFragment (RFC 8707 section 2): whose failure it is tells where it comes from.
func TestAResourceHasNoFragment(t *testing.T) {
	v := newVendor(t, nil)
	const after = "\nobtain: {oauth2: 'https://example.com/t', auth: none}"
	set := func(s string) broker.Set {
		x, err := broker.ParseSet("resources", []string{"https://good", s})
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	d := v.define("resources: {}" + after)
	for resource, good := range map[string]bool{"https://r": true, "https://r/?a=b": true, "https://r/%23a": true, "https://r/#a": false, "https://r#": false} {
		_, err := d.Select(credential(nil), broker.Selection{Resources: set(resource)})
		if good != (err == nil) || !good && (broker.KindOf(err) != broker.RequestInvalid || !strings.Contains(err.Error(), "a resource has no fragment")) {
			t.Errorf("%s: got %v", resource, err)
		}
	}
	d = v.define("inputs: {i: {}}\nresources: {default: ['https://r/{{i}}']}" + after)
	if _, err := d.Select(credential(map[string]string{"i": "#a"}), broker.Selection{}); broker.KindOf(err) != broker.CredentialIncomplete {
		t.Errorf("what an input makes: got %v", err)
	}
	for _, set := range []string{"default: ['https://r/#a']", "default: ['https://{{i}}/#']", "one_of: ['https://r', 'https://r/#a']"} {
		found := yamldoc.Errors(Check("", []byte("name: x\ninputs: {i: {}}\nresources: {"+set+"}"+strings.ReplaceAll(after, "/t'", "/t{{i}}'"))))
		if len(found) != 1 || !strings.Contains(found[0].Message, "no fragment") || found[0].Line != 3 {
			t.Errorf("%s: got %v", set, found)
		}
	}
}
