package policy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

// A Use is something that a caller has done, or wanted to.
type Use struct {
	// Caller is a Description's, without claims and groups.
	Caller     *broker.Caller
	Operation  broker.Operation
	Credential broker.CredentialName
	// Scopes are those that were asked for, and those that the token had.
	Scopes    []string
	Audience  string
	Resources []string
	// Parameters are their names.
	Parameters []string
	// Rule is the one that allowed it; empty: none did.
	Rule string
}

// Literal reports whether nothing of it would be a pattern in a policy.
func (u Use) Literal() bool {
	return !slices.ContainsFunc(slices.Concat(u.Scopes, u.Resources, u.Parameters, []string{u.Audience}), hasWildcard)
}

// Sayable reports whether a policy can have it: callers choose what they ask for, and some texts are none that a policy has.
func (u Use) Sayable() bool {
	_, err := Suggest([]Use{u})
	return err == nil
}

// Suggest writes a policy that allows all of these, and as little else as rules can say: of scopes and resources that came together any of them, and of a
// parameter any value. What is alike is one rule. Patterns are proposed in comments, and nowhere else: all uses are Literal. It fails where that is no policy, which
// is, where all are Sayable, where there is more of it than a policy may have.
func Suggest(uses []Use) ([]byte, error) {
	s := suggestion{callers: map[string]*suggested{}}
	for _, u := range uses {
		s.add(u)
	}
	text := s.text()
	p, problems := Parse("suggested", text)
	if p == nil {
		return nil, fmt.Errorf("what was done makes no policy: %w", yamldoc.Together(yamldoc.Errors(problems)))
	}
	for _, u := range uses {
		if p.Decide(u.access()).Effect != broker.Allowed {
			return nil, fmt.Errorf("what %s has done (%s of %s) cannot be written as a rule", u.Caller, u.Operation, u.Credential)
		}
	}
	return text, nil
}

// access is the use as it was decided on.
func (u Use) access() broker.Access {
	scopes, _ := broker.ParseSet("scope", u.Scopes)
	resources, _ := broker.ParseSet("resource", u.Resources)
	parameters := map[string]string{}
	for _, name := range u.Parameters {
		parameters[name] = "x"
	}
	return broker.Access{
		Caller: u.Caller, Operation: u.Operation, Credential: u.Credential, Known: broker.Stored,
		Selection: broker.Selection{Scopes: scopes, Audience: u.Audience, Resources: resources, Parameters: broker.NewPairs(parameters)},
	}
}

// A suggestion is what is gathered, by caller.
type suggestion struct{ callers map[string]*suggested }

// suggested is what one caller has done.
type suggested struct {
	caller *broker.Caller
	// of are the selections of each operation on each credential; of operations that select nothing there is one, which is empty.
	of map[broker.CredentialName]map[broker.Operation]map[string]selection
	// rules are those that allowed it.
	rules map[string]bool
}

// A selection is which token was asked for, each list sorted and each text once.
type selection struct {
	Scopes     []string
	Audience   string
	Resources  []string
	Parameters []string
}

func sorted(all []string) []string { return slices.Compact(slices.Sorted(slices.Values(all))) }

func (s selection) key() string {
	b, _ := json.Marshal(s) // texts only
	return string(b)
}

// within reports whether a rule for the other one allows this one.
func (s selection) within(o selection) bool {
	some := func(of, all []string) bool {
		return !slices.ContainsFunc(of, func(x string) bool { return !slices.Contains(all, x) })
	}
	none := func(a, b []string) bool { return (len(a) == 0) == (len(b) == 0) }
	return some(s.Scopes, o.Scopes) && none(s.Scopes, o.Scopes) && some(s.Resources, o.Resources) && none(s.Resources, o.Resources) &&
		s.Audience == o.Audience && some(s.Parameters, o.Parameters)
}

func (s *suggestion) add(u Use) {
	id := u.Caller.Identity + " " + string(u.Caller.Proof)
	c := s.callers[id]
	if c == nil {
		c = &suggested{u.Caller, map[broker.CredentialName]map[broker.Operation]map[string]selection{}, map[string]bool{}}
		s.callers[id] = c
	}
	if u.Rule != "" {
		c.rules[u.Rule] = true
	}
	if c.of[u.Credential] == nil {
		c.of[u.Credential] = map[broker.Operation]map[string]selection{}
	}
	if c.of[u.Credential][u.Operation] == nil {
		c.of[u.Credential][u.Operation] = map[string]selection{}
	}
	var is selection
	if u.Operation.Selects() {
		is = selection{sorted(u.Scopes), u.Audience, sorted(u.Resources), sorted(u.Parameters)}
	}
	c.of[u.Credential][u.Operation][is.key()] = is
}

// A proposal is a rule without its callers.
type proposal struct {
	Names      []broker.CredentialName
	Operations []broker.Operation
	Selection  selection
}

// proposals are the rules of a caller, in an order of their own.
func (c *suggested) proposals() []proposal {
	type rule struct {
		Operations []broker.Operation
		Selection  selection
	}
	alike := map[string][]broker.CredentialName{} // credentials of which the same was done
	rules := map[string][]rule{}
	for _, name := range slices.Sorted(maps.Keys(c.of)) {
		by := map[string]*rule{}
		for _, op := range broker.Operations() {
			for key, is := range c.of[name][op] {
				covered := false
				for other, o := range c.of[name][op] {
					covered = covered || other != key && is.within(o)
				}
				if covered {
					continue
				}
				if by[key] == nil {
					by[key] = &rule{Selection: is}
				}
				by[key].Operations = append(by[key].Operations, op)
			}
		}
		var all []rule
		for _, key := range slices.Sorted(maps.Keys(by)) {
			all = append(all, *by[key])
		}
		b, _ := json.Marshal(all)
		rules[string(b)] = all
		alike[string(b)] = append(alike[string(b)], name)
	}
	var out []proposal
	for key, names := range alike {
		for _, r := range rules[key] {
			out = append(out, proposal{names, r.Operations, r.Selection})
		}
	}
	slices.SortFunc(out, func(a, b proposal) int {
		return cmp.Or(slices.Compare(a.Names, b.Names), strings.Compare(a.Selection.key(), b.Selection.key()), slices.Compare(a.Operations, b.Operations))
	})
	return out
}

// text writes the policy.
func (s *suggestion) text() []byte {
	groups, rules, allowed := map[string][]*broker.Caller{}, map[string][]proposal{}, map[string]map[string]bool{} // callers who have done the same
	for _, id := range slices.Sorted(maps.Keys(s.callers)) {
		all := s.callers[id].proposals()
		b, _ := json.Marshal(all)
		groups[string(b)] = append(groups[string(b)], s.callers[id].caller)
		rules[string(b)] = all
		if allowed[string(b)] == nil {
			allowed[string(b)] = map[string]bool{}
		}
		maps.Copy(allowed[string(b)], s.callers[id].rules)
	}
	keys := slices.SortedFunc(maps.Keys(groups), func(a, b string) int { return strings.Compare(groups[a][0].Identity, groups[b][0].Identity) })
	var callers, ruled strings.Builder
	var tests []string
	taken, named := map[string]bool{}, map[string]bool{}
	for _, key := range keys {
		group := groupName(groups[key][0], taken)
		fmt.Fprintf(&callers, "  %s:", group)
		if by := slices.Sorted(maps.Keys(allowed[key])); len(by) > 0 {
			fmt.Fprintf(&callers, "   # allowed by %s", list(by))
		}
		callers.WriteString("\n")
		for _, c := range groups[key] {
			fmt.Fprintf(&callers, "    - %s\n", entryText(c, c.Name, true))
		}
		if of, ok := wider(groups[key]); ok {
			fmt.Fprintf(&callers, "    # or, of all beside them: - %s\n", of)
		}
		for i, p := range rules[key] {
			name := group
			if len(rules[key]) > 1 {
				name = fmt.Sprintf("%s-%d", group, i+1)
			}
			if test := p.write(&ruled, unique(name, named), group, groups[key][0]); test != "" && len(tests) < mostTests {
				tests = append(tests, test)
			}
		}
	}
	out := "version: 1\ncallers:\n" + callers.String() + "rules:\n" + ruled.String()
	if len(tests) > 0 {
		out += "tests:\n" + strings.Join(tests, "")
	}
	return []byte(out)
}

// write writes the rule, and returns a test of it; empty: there is none.
func (p proposal) write(ruled *strings.Builder, name, group string, c *broker.Caller) string {
	fmt.Fprintf(ruled, "  - name: %s\n    callers: [%s]\n", name, group)
	if len(p.Names) > 0 && p.Names[0] != "" {
		fmt.Fprintf(ruled, "    credentials: {names: %s}\n", list(p.Names))
	}
	fmt.Fprintf(ruled, "    operations: [%s]\n", operationSet(p.Operations...))
	s := p.Selection
	test := fmt.Sprintf("{caller: %s, operation: %s", asYAML(c.Identity), p.Operations[0])
	if len(proofsOf(c.Kind, c.Via)) > 1 {
		test += ", proof: " + string(c.Proof)
	}
	if len(p.Names) > 0 && p.Names[0] != "" {
		test += ", credential: " + asYAML(string(p.Names[0]))
	}
	for _, of := range []struct {
		word  string
		texts []string
	}{{"scopes", s.Scopes}, {"resources", s.Resources}} {
		if len(of.texts) > 0 {
			fmt.Fprintf(ruled, "    %s: %s\n", of.word, list(of.texts))
			test += fmt.Sprintf(", %s: %s", of.word, list(of.texts))
		}
	}
	if s.Audience != "" {
		fmt.Fprintf(ruled, "    audience: [%s]\n", asYAML(s.Audience))
		test += ", audience: " + asYAML(s.Audience)
	}
	if len(s.Parameters) > 0 {
		var all []string
		for _, n := range s.Parameters {
			all = append(all, asYAML(n)+`: ["*"]`)
		}
		fmt.Fprintf(ruled, "    parameters: {%s}   # their values are not in the audit log: narrow them\n", strings.Join(all, ", "))
		return "" // what it would say of them, nobody knows
	}
	return fmt.Sprintf("  - %s, rule: %s}\n", test, name)
}

// asYAML is a text as YAML reads it, whatever is in it: Go's escapes are YAML's (YAML 1.2, section 5.7).
func asYAML(s string) string { return strconv.Quote(s) }

func list[T ~string](all []T) string {
	out := make([]string, len(all))
	for i, s := range all {
		out[i] = asYAML(string(s))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// entryText is an entry of a caller, by this name of it, or a pattern.
func entryText(c *broker.Caller, name string, proof bool) string {
	var out string
	switch c.Kind {
	case broker.SPIFFE:
		if out = "spiffe: " + asYAML(c.Authority+"/"+name); c.Via != "" {
			out = "via: " + asYAML(c.Via) + ", " + out
		} else if proof {
			out += ", proof: " + string(c.Proof)
		}
	case broker.Kubernetes:
		out = "k8s: " + asYAML(c.Authority+"/"+name)
	case broker.JWT:
		out = "jwt: " + asYAML(c.Authority) + ", sub: " + asYAML(name)
	case broker.DNS, broker.URI, broker.CommonName:
		out = "certificate: " + asYAML(c.Authority) + ", " + string(c.Kind) + ": " + asYAML(name)
	case broker.Local:
		out = "local: " + c.Listener
	default:
		out = string(c.Kind) + ": " + asYAML(name)
	}
	return "{" + out + "}"
}

// groupName names callers by the first of them.
func groupName(c *broker.Caller, taken map[string]bool) string {
	name := c.Name
	if c.Kind == broker.Unix || c.Kind == broker.Local {
		name = strings.ReplaceAll(c.Identity, ":", "-")
	}
	if i := strings.LastIndexAny(name, "/:"); i >= 0 && i+1 < len(name) {
		name = name[i+1:]
	}
	name = strings.Trim(strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r - 'A' + 'a'
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			return r
		}
		return '-'
	}, name), ".-_")
	if name = strings.Trim(name[:min(len(name), 40)], ".-_"); name == "" || strings.Trim(name, "0123456789.") == "" {
		name = strings.Trim("caller-"+name, "-")
	}
	return unique(name, taken)
}

// unique is a name that was not taken, and is now.
func unique(name string, taken map[string]bool) string {
	for n, first := 2, name; taken[name]; n++ {
		name = fmt.Sprintf("%s-%d", first, n)
	}
	taken[name] = true
	return name
}

// proposeFrom is of how many callers that stand beside each other a pattern is proposed.
const proposeFrom = 3

// wider is an entry for all callers beside these, where they differ in the last segment of a SPIFFE ID or a service account alone.
func wider(all []*broker.Caller) (string, bool) {
	if len(all) < proposeFrom {
		return "", false
	}
	first := all[0]
	parent := func(c *broker.Caller) string { return c.Name[:strings.LastIndex(c.Name, "/")+1] }
	if first.Kind != broker.SPIFFE && first.Kind != broker.Kubernetes || parent(first) == "" {
		return "", false
	}
	for _, c := range all[1:] {
		if c.Kind != first.Kind || c.Authority != first.Authority || c.Via != first.Via || c.Proof != first.Proof || parent(c) != parent(first) {
			return "", false
		}
	}
	return entryText(first, parent(first)+"*", true), true
}
