package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

// A test is an access, and what is to come of it.
type test struct {
	access broker.Access
	// rule is the one that is to allow it; empty: it is to be denied.
	rule string
	at   position
}

// A TestResult is what came of a test.
type TestResult struct {
	// Name says which one it is: its number, caller, operation and credential.
	Name string
	// Line is where in the file it begins.
	Line int
	// Wrong is what was decided instead, and why; empty: it passes.
	Wrong string
}

func (r *reader) tests(n *yaml.Node) {
	for i, c := range r.list(n, "tests") {
		if i == mostTests {
			r.Wrong(at(c), "tests: this is test %d, and a file has %d at most", i+1, mostTests)
			return
		}
		if t, ok := r.test(c, "tests["+strconv.Itoa(i)+"]"); ok {
			r.p.tests = append(r.p.tests, t)
		}
	}
}

func (r *reader) test(n *yaml.Node, what string) (test, bool) {
	before := len(r.Problems)
	w := r.Words(n, what, append([]string{"caller", "proof", "listener", "uid", "gid", "claims", "credential", "labels", "operation", "rule", "denied"}, selecting...)...)
	if n.Kind != yaml.MappingNode {
		return test{}, false
	}
	out := test{at: at(n)}
	out.access.Known = broker.Stored
	out.access.Caller = r.testCaller(w, n, what)
	if it, ok := r.need(w, n, what, "operation", "write one of "+strings.Join(operationNames(), ", ")); ok {
		s, _ := r.choice(it.Value, what+".operation", operationNames())
		out.access.Operation = broker.Operation(s)
	}
	if it, ok := w["credential"]; ok {
		if s, ok := r.Text(it.Value, what+".credential"); ok && r.name(at(it.Value), s, what+".credential") {
			out.access.Credential = broker.CredentialName(s)
		}
	} else if out.access.Operation != broker.ReadProvider && out.access.Operation != "" {
		r.Wrong(at(n), "%s: credential is missing; write which one %s is about", what, out.access.Operation)
	}
	out.access.Labels = r.texts(w, what, "labels")
	if out.access.Operation != "" && !out.access.Operation.Selects() {
		for _, word := range selecting {
			if it, ok := w[word]; ok {
				r.Wrong(it.At, "%s.%s: %s is not about a token, so that nothing is selected; leave it out", what, word, out.access.Operation)
			}
		}
	}
	out.access.Selection = broker.Selection{
		Scopes: r.set(w, what, "scopes"), Resources: r.set(w, what, "resources"), Parameters: broker.NewPairs(r.texts(w, what, "parameters")),
	}
	if it, ok := w["audience"]; ok {
		out.access.Selection.Audience, _ = r.Text(it.Value, what+".audience")
	}
	r.expected(&out, w, n, what)
	return out, len(r.Problems) == before
}

func (r *reader) testCaller(w map[string]item, n *yaml.Node, what string) *broker.Caller {
	it, ok := r.need(w, n, what, "caller", "write its identity, as spiffe://corp.example/ns/shop/sa/cart")
	if !ok {
		return nil
	}
	var d Description
	for word, to := range map[string]*string{"caller": &d.Identity, "proof": &d.Proof, "listener": &d.Listener, "gid": &d.GID} {
		it, ok := w[word]
		if !ok {
			continue
		}
		if *to, ok = r.Text(it.Value, what+"."+word); !ok {
			return nil
		}
	}
	d.Claims = r.texts(w, what, "claims")
	c, err := d.Caller()
	if err != nil {
		r.Wrong(at(it.Value), "%s: %v", what, err)
		return nil
	}
	if it, ok := w["uid"]; ok {
		if s, ok := r.id(it.Value, what+".uid"); ok && (c.Kind != broker.Unix || s != c.Name) {
			r.Wrong(at(it.Value), "%s.uid: it is not the caller's, whose identity says it; leave it out", what)
		}
	}
	return c
}

// texts reads names with a value each.
func (r *reader) texts(w map[string]item, what, word string) map[string]string {
	it, ok := w[word]
	if !ok {
		return nil
	}
	out := map[string]string{}
	for _, x := range r.Items(it.Value, what+"."+word) {
		if s, ok := r.Text(x.Value, what+"."+word+"."+x.Key); ok {
			out[x.Key] = s
		}
	}
	return out
}

// set reads scopes or resources; an empty list is none.
func (r *reader) set(w map[string]item, what, word string) broker.Set {
	it, ok := w[word]
	if !ok {
		return broker.Set{}
	}
	s, err := broker.ParseSet(word, r.Texts(it.Value, what+"."+word))
	if err != nil {
		r.Wrong(at(it.Value), "%s.%s: an element that no request can have: it is empty, or has a blank or a control character in it", what, word)
	}
	return s
}

// expected reads what is to come of a test.
func (r *reader) expected(out *test, w map[string]item, n *yaml.Node, what string) {
	it, allowed := w["rule"]
	no, denied := w["denied"]
	switch {
	case allowed == denied:
		r.Wrong(at(n), "%s: what is to be decided has to be there, once; write rule: NAME, or denied: true", what)
	case denied && no.Value.Value != "true":
		r.Wrong(at(no.Value), "%s.denied: only true can be written; write rule: NAME for what is allowed", what)
	case allowed:
		s, ok := r.Text(it.Value, what+".rule")
		if !ok {
			return
		}
		var names []string
		for _, x := range r.p.rules {
			names = append(names, x.name)
		}
		if out.rule = s; !slices.Contains(names, "") && !slices.Contains(names, s) { // one without a name may be meant
			r.Unknown(at(it.Value), fmt.Sprintf("%s.rule: no rule is called %q", what, yamldoc.Clip(s)), s, names)
		}
	}
}

// runTests holds the policy against its tests: one that fails is a problem.
func (r *reader) runTests() {
	for i, t := range r.p.tests {
		if why := r.p.run(t); why != "" {
			r.Wrong(t.at, "tests[%d]: %s", i, why)
		}
	}
}

// run says what was decided instead of what a test wants; empty: it passes. Rules have no order: where several allow it, any of them may be wanted.
func (p *Policy) run(t test) string {
	got := p.Decide(t.access)
	if got.Effect == broker.Denied && t.rule == "" || got.Effect == broker.Allowed && got.Rule == t.rule {
		return ""
	}
	if t.rule == "" {
		return fmt.Sprintf("it is allowed by %s, and is to be denied", got.Rule)
	}
	why := p.whyNot(t.access, t.rule)
	switch {
	case why == "":
		return ""
	case got.Effect == broker.Allowed:
		return fmt.Sprintf("it is allowed by %s, and is to be by %s: %s", got.Rule, t.rule, why)
	default:
		return fmt.Sprintf("it is denied, and is to be allowed by %s: %s", t.rule, why)
	}
}

// whyNot says why a rule does not allow an access; empty: it does.
func (p *Policy) whyNot(a broker.Access, name string) string {
	v, q := p.viewOf(a.Caller), ask(a)
	if v.blocked {
		return "the caller is blocked"
	}
	i := slices.IndexFunc(p.rules, func(r *rule) bool { return r.name == name })
	r := p.rules[i]
	if !slices.Contains(v.rules, r) {
		return p.notAmong(r)
	}
	effect, by := r.decide(&q)
	if effect == broker.Allowed {
		return ""
	}
	return r.why(&q, effect, by)
}

// Test reads a policy and says how each of its tests comes out, in their order. The problems are what keeps it from being tested; a test that
// fails is none of them.
func Test(file string, data []byte) ([]TestResult, []yamldoc.Problem) {
	r := read(file, data)
	if len(yamldoc.Errors(r.Problems)) > 0 {
		return nil, r.Problems
	}
	var out []TestResult
	for i, t := range r.p.tests {
		name := fmt.Sprintf("tests[%d]: %s %s", i, t.access.Caller, t.access.Operation)
		if t.access.Credential != "" {
			name += " " + string(t.access.Credential)
		}
		out = append(out, TestResult{Name: name, Line: t.at.Line, Wrong: r.p.run(t)})
	}
	return out, r.Problems
}
