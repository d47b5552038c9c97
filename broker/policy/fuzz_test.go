package policy

import (
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

// FuzzPolicy: whatever is in a file, it is a policy that decides, or something is wrong with it, and each problem has a place that is in the file.
func FuzzPolicy(f *testing.F) {
	f.Add(good, "occtoo-main")
	for _, s := range []string{"", "version: 1", "version: 1\ncallers: {c: [{unix: 1}]}\nrules: [{name: r, callers: [c], operations: [provider.read]}]", "rules: [[]]", "callers: {a: {b: c}}", "tests: [{}]", "version: &a 1\nblocked: *a"} {
		f.Add(s, "a")
	}
	for line := range strings.Lines(good) {
		f.Add(strings.Replace(good, line, "", 1), "occtoo-main")
	}
	c, err := Description{Identity: "spiffe://corp.example/ns/shop/sa/cart"}.Caller()
	if err != nil {
		f.Fatal(err)
	}
	unix, err := Description{Identity: "unix:1001", GID: "2000"}.Caller()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text, name string) {
		p, problems := Parse("f", []byte(text))
		if (p == nil) != (len(yamldoc.Errors(problems)) > 0) {
			t.Fatalf("got %v and %v", p != nil, problems)
		}
		lines := strings.Count(strings.NewReplacer("\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n").Replace(text), "\n") + 2
		for _, x := range problems {
			if x.Line < 0 || x.Line > lines || x.Line > 0 && x.Column < 1 || x.Message == "" {
				t.Errorf("got %+v, of %d lines", x, lines)
			}
		}
		if results, wrong := Test("f", []byte(text)); p != nil && (len(results) != len(p.tests) || len(yamldoc.Errors(wrong)) > 0) {
			t.Errorf("got %v %v, and it is a policy", results, wrong)
		}
		if p == nil {
			return
		}
		if len(p.rules) > mostRules {
			t.Errorf("got %d rules", len(p.rules))
		}
		for _, who := range []*broker.Caller{c, unix, nil} {
			for _, o := range broker.Operations() {
				a := broker.Access{Caller: who, Operation: o, Credential: broker.CredentialName(name)}
				u := p.Decide(a)
				a.Known, a.Labels = broker.Stored, map[string]string{"env": "prod"}
				a.Selection.Audience = name
				s := p.Decide(a)
				if s.Effect == broker.Depends || s.Effect == broker.Allowed && u.Effect == broker.Denied && name != "" || s.Effect == broker.Denied && u.Effect == broker.Allowed {
					t.Errorf("got %v of what is unread and %v of what is stored: %s %s", u, s, who, o)
				}
				if (s.Effect == broker.Allowed) != (s.Rule != "") || who == nil && s.Effect != broker.Denied {
					t.Errorf("got %v for %s", s, who)
				}
				p.Explain(a)
			}
		}
	})
}
