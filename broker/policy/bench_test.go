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

// BenchmarkParse is of files with as much in them as there can be, of what takes longest.
func BenchmarkParse(b *testing.B) {
	head := "version: 1\ncallers: {c: [{unix: \"*\"}]}\nrules:\n"
	repeat := func(n int, line func(i int) string) string {
		var out strings.Builder
		for i := range n {
			out.WriteString(line(i))
		}
		return out.String()
	}
	rules := func(extra string) string {
		return head + repeat(mostRules, func(i int) string {
			return fmt.Sprintf("- {name: r%d, callers: [c], operations: [watch], credentials: {names: [a]}%s}\n", i, extra)
		})
	}
	one := func(scopes string) string {
		return head + "- {name: r, callers: [c], operations: [watch], credentials: {names: [a]}, scopes: [" + scopes + "]}\n"
	}
	for name, text := range map[string]string{
		"rules": rules(`, scopes: ["*a","*b","*c","*d","*e","*f","*g"]`) + "tests:\n" + repeat(mostTests, func(i int) string {
			return fmt.Sprintf("- {caller: \"unix:%d\", operation: watch, credential: a, scopes: [x], denied: true}\n", i)
		}),
		"failing": rules("") + "tests:\n" + repeat(mostTests, func(i int) string {
			return fmt.Sprintf("- {caller: \"unix:%d\", operation: get_token, credential: a, rule: r999}\n", i)
		}),
		// Each test has as many scopes as there is room for, and each of them matches the last pattern only.
		"tests": one(repeat(mostPatterns-3, func(i int) string { return fmt.Sprintf("\"*%03x*\",", i) })+"\"x*\"") + "tests:\n" + repeat(mostTests, func(int) string {
			return "- {caller: 'unix:1',operation: watch,credential: a,scopes: [xa,xb,xc,xd,xe,xf,xg,xh,xi],rule: r}\n"
		}),
		"groups": "version: 1\ncallers:\n" + repeat(6500, func(i int) string { return fmt.Sprintf(" g%d: [{unix: 1}]\n", i) }) +
			"rules:\n- {name: r, callers: [" + repeat(19_000, func(i int) string { return fmt.Sprintf("h%d,", i) }) + "], operations: [watch]}\n",
		"nested":  strings.Repeat("[", MostBytes/2),
		"mapping": repeat(20_000, func(i int) string { return fmt.Sprintf("a%d: b\n", i) }),
		"words":   one("") + repeat(6000, func(i int) string { return fmt.Sprintf("- {nam: r%d, operations: [w]}\n", i) }),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			for b.Loop() {
				if _, problems := Parse("", []byte(text)); len(problems) > 0 && len(text) > MostBytes {
					b.Fatal(problems[0])
				}
			}
		})
	}
}
