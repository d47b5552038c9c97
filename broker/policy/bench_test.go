package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

// thousand is a policy of a thousand rules, of which five are about each caller; extra goes into each rule.
func thousand(tb testing.TB, extra string) *Policy {
	var b strings.Builder
	b.WriteString("version: 1\ncallers:\n")
	for i := range 200 {
		fmt.Fprintf(&b, "  g%d: [{spiffe: \"td/ns/n%d/sa/*\"}]\n", i, i)
	}
	b.WriteString("rules:\n")
	for i := range 1000 {
		fmt.Fprintf(&b, "- {name: r%d, callers: [g%d], operations: [get_token, watch], credentials: {names: [\"c%d-*\"], labels: {env: [prod]}}%s}\n", i, i/5, i%5, extra)
	}
	return parse(tb, b.String())
}

// BenchmarkDecide: among a thousand rules, the last of the caller's five.
func BenchmarkDecide(b *testing.B) {
	c := caller(b, "spiffe://td/ns/n123/sa/cart")
	a := broker.Access{Caller: c, Operation: broker.GetToken, Credential: "c4-main", Known: broker.Stored, Labels: map[string]string{"env": "prod", "team": "shop"}}
	for _, x := range []struct {
		name, extra string
		selection   broker.Selection
	}{
		{"defaults", "", broker.Selection{}},
		{"scopes", ", scopes: [read, \"write*\"]", broker.Selection{Scopes: set([]string{"read", "write-all"})}},
		{"all", `, scopes: [read], audience: [a], resources: ["https://h/**"], parameters: {p: ["a*"]}`, broker.Selection{
			Scopes: set([]string{"read"}), Audience: "a", Resources: set([]string{"https://h/x"}), Parameters: broker.NewPairs(map[string]string{"p": "ab"}),
		}},
	} {
		b.Run(x.name, func(b *testing.B) {
			p := thousand(b, x.extra)
			a := a
			a.Selection = x.selection
			b.ReportAllocs()
			for b.Loop() {
				if p.Decide(a).Rule != "r619" {
					b.Fatal(p.Explain(a))
				}
			}
		})
	}
}

// BenchmarkDecideOfNew is of callers that nothing is remembered of.
func BenchmarkDecideOfNew(b *testing.B) {
	p := thousand(b, "")
	a := broker.Access{Operation: broker.GetToken, Credential: "c4-main"}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		a.Caller = &broker.Caller{Kind: broker.SPIFFE, Authority: "td", Name: fmt.Sprintf("ns/n123/sa/c%d", i), Proof: broker.ProofX509}
		if p.Decide(a).Effect != broker.Depends {
			b.Fatal("not decided")
		}
	}
}

// BenchmarkWorst is the worst that can be asked of the worst file: as many scopes as there can be, each of which only the last pattern matches.
func BenchmarkWorst(b *testing.B) {
	var all strings.Builder
	for i := range mostPatterns - 3 {
		fmt.Fprintf(&all, "\"*a*%d*b\",", i)
	}
	p := parse(b, "version: 1\ncallers: {c: [{unix: 1}]}\nrules:\n- {name: r, callers: [c], operations: [watch], credentials: {names: [a]}, scopes: ["+all.String()+"\"a*\"]}\n")
	elements := func(n, bytes int) broker.Set {
		var s []string
		for i := range n {
			s = append(s, fmt.Sprintf("%s%04d", strings.Repeat("a", bytes-4), i))
		}
		return set(s)
	}
	a := broker.Access{Caller: caller(b, "unix:1"), Operation: broker.Watch, Credential: "a", Known: broker.Stored, Granted: elements(1000, 64).List()}
	a.Selection.Scopes = elements(100, 256)
	for b.Loop() {
		if p.Decide(a).Effect != broker.Allowed {
			b.Fatal("not allowed")
		}
	}
}

// BenchmarkParse is of a file with as much in it as there can be.
func BenchmarkParse(b *testing.B) {
	var text strings.Builder
	text.WriteString("version: 1\ncallers: {c: [{unix: \"*\"}]}\nrules:\n")
	for i := range mostRules {
		fmt.Fprintf(&text, "- {name: r%d, callers: [c], operations: [watch], credentials: {names: [a]}, scopes: [\"*a\",\"*b\",\"*c\",\"*d\",\"*e\",\"*f\",\"*g\"]}\n", i)
	}
	text.WriteString("tests:\n")
	for i := range mostTests {
		fmt.Fprintf(&text, "- {caller: \"unix:%d\", operation: watch, credential: a, scopes: [x], denied: true}\n", i)
	}
	if text.Len() > MostBytes {
		b.Fatalf("%d bytes", text.Len())
	}
	b.SetBytes(int64(text.Len()))
	for b.Loop() {
		if p, problems := Parse("", []byte(text.String())); p == nil {
			b.Fatal(problems[0])
		}
	}
}
