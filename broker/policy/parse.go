package policy

import (
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

// The bounds of a file.
const (
	// MostBytes bounds the file.
	MostBytes    = 256 << 10
	mostRules    = 1000
	mostPatterns = 10_000
	// mostTests bounds what reading a file takes: each test may ask each pattern.
	mostTests = 500
)

type (
	position = yamldoc.Position
	item     = yamldoc.Item
)

func at(n *yaml.Node) position { return yamldoc.At(n) }

// A reader reads a policy, and gathers everything that is wrong.
type reader struct {
	yamldoc.Reader
	p *Policy
	// byName are the groups' indexes; groupsUnknown: one was not understood, so that a rule's use of it would seem wrong.
	byName        map[string]int
	groupNamed    []string
	groupsUnknown bool
	patterns      int
}

// Parse reads a policy, and runs its tests; file is what problems call it. The policy is nil if anything is wrong with it but for warnings.
func Parse(file string, data []byte) (*Policy, []yamldoc.Problem) {
	r := read(file, data)
	if len(yamldoc.Errors(r.Problems)) == 0 {
		r.runTests()
	}
	yamldoc.Sort(r.Problems)
	if len(yamldoc.Errors(r.Problems)) > 0 {
		return nil, r.Problems
	}
	return r.p, r.Problems
}

// read reads a policy, and leaves its tests alone. The problems are in their order.
func read(file string, data []byte) *reader {
	r := &reader{Reader: yamldoc.Reader{File: file}, p: &Policy{attributes: []string{"gid"}}, byName: map[string]int{}}
	r.document(data)
	yamldoc.Sort(r.Problems)
	return r
}

func (r *reader) document(data []byte) {
	all := r.Documents(data, MostBytes)
	if len(r.Problems) > 0 {
		return
	}
	switch {
	case len(all) == 0:
		r.Wrong(position{}, "there is nothing in it; a policy has at least version: 1, callers and rules")
		return
	case len(all) > 1:
		r.Wrong(at(all[1]), "one document a file: this is a second one; leave it out")
		return
	}
	const what = "policy"
	w := r.Words(all[0], what, "version", "callers", "blocked", "rules", "tests")
	if all[0].Kind != yaml.MappingNode {
		return
	}
	if it, ok := r.need(w, all[0], what, "version", "write version: 1"); ok {
		if s, ok := r.Text(it.Value, "version"); ok && s != "1" {
			r.Wrong(at(it.Value), "version: this version reads 1 only; write version: 1")
		}
	}
	if it, ok := r.need(w, all[0], what, "callers", "write callers: {NAME: [{spiffe: \"corp.example/ns/shop/sa/*\"}]}"); ok {
		r.groups(it.Value)
	} else {
		r.groupsUnknown = true
	}
	if it, ok := w["blocked"]; ok {
		r.p.blocked = r.entries(it.Value, "blocked", true)
	}
	if it, ok := r.need(w, all[0], what, "rules", "without rules nobody may do anything"); ok {
		r.rules(it.Value)
	}
	if it, ok := w["tests"]; ok {
		r.tests(it.Value)
	}
	for _, g := range r.p.groups {
		if !g.used {
			r.Warn(g.at, "callers.%s: no rule names it", g.name)
		}
	}
}

// need returns a word that has to be there.
func (r *reader) need(w map[string]item, n *yaml.Node, what, word, advice string) (item, bool) {
	it, ok := w[word]
	if !ok && n.Kind == yaml.MappingNode {
		r.Wrong(at(n), "%s: %s is missing; %s", what, word, advice)
	}
	return it, ok
}

// list returns the members of a list that has some.
func (r *reader) list(n *yaml.Node, what string) []*yaml.Node {
	if n.Kind != yaml.SequenceNode {
		r.Wrong(at(n), "%s: a list is wanted, not %s; write [value, value]", what, yamldoc.KindName(n))
		return nil
	}
	if len(n.Content) == 0 {
		r.Wrong(at(n), "%s: an empty list; leave the word out, or write what is allowed", what)
	}
	return n.Content
}

// name reads a name that the file gives to something.
func (r *reader) name(p position, s, what string) bool {
	if broker.IsCredentialName(s) {
		return true
	}
	r.Wrong(p, "%s: a name %s", what, broker.NameForm)
	return false
}

// choice reads one of the values that are known.
func (r *reader) choice(n *yaml.Node, what string, known []string) (string, bool) {
	s, ok := r.Text(n, what)
	if !ok {
		return "", false
	}
	if slices.Contains(known, s) {
		return s, true
	}
	r.Unknown(at(n), fmt.Sprintf("%s: %q is none of %s", what, yamldoc.Clip(s), strings.Join(known, ", ")), s, known)
	return "", false
}

// A dialect is what patterns of a dimension are made of.
type dialect struct {
	form form
	// anything: `*` alone is any value at all.
	anything bool
	// check says why no value can be what a pattern says; empty: one can.
	check func(text string) string
	// canonical is what values are brought to before they are compared; nil: they are as they are.
	canonical func(string) string
}

// values reads the patterns of a dimension.
func (r *reader) values(n *yaml.Node, what string, d dialect) patterns {
	var out patterns
	nodes := r.list(n, what)
	seen := map[string]bool{}
	for _, c := range nodes {
		s, ok := r.Text(c, what)
		if !ok {
			continue
		}
		if s == "*" && d.anything {
			if out.any = true; len(nodes) > 1 {
				r.Wrong(at(c), "%s: * alone is any value at all; leave out the others, or it", what)
			}
			r.patterns++
			continue
		}
		if seen[s] {
			r.Warn(at(c), "%s: %q is there twice", what, yamldoc.Clip(s))
		}
		seen[s] = true
		if p, ok := r.pattern(c, s, what, d); ok {
			out.all = append(out.all, p)
		}
	}
	return out
}

func (r *reader) pattern(n *yaml.Node, s, what string, d dialect) (pattern, bool) {
	if r.patterns++; r.patterns > mostPatterns {
		if r.patterns == mostPatterns+1 {
			r.Wrong(at(n), "%s: this is pattern %d, and a file has %d at most; use wildcards, or fewer rules", what, r.patterns, mostPatterns)
		}
		return pattern{}, false
	}
	if d.canonical != nil {
		s = d.canonical(s)
	}
	p, err := parsePattern(s, d.form)
	if err != nil {
		r.Wrong(at(n), "%s: %q: %v", what, yamldoc.Clip(s), err)
		return pattern{}, false
	}
	if d.check != nil {
		if why := d.check(s); why != "" {
			r.Wrong(at(n), "%s: %q: %s", what, yamldoc.Clip(s), why)
			return pattern{}, false
		}
	}
	return p, true
}
