package policy

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

func (r *reader) rules(n *yaml.Node) {
	names := map[string]bool{}
	for i, c := range r.list(n, "rules") {
		if i == mostRules {
			r.Wrong(at(c), "rules: this is rule %d, and a file has %d at most; put callers into groups, or use wildcards", i+1, mostRules)
			return
		}
		rule := r.rule(c, "rules["+strconv.Itoa(i)+"]", names)
		r.p.rules = append(r.p.rules, rule)
	}
}

// selecting are the words of what only operations on a token have.
var selecting = []string{"scopes", "audience", "resources", "parameters"}

func (r *reader) rule(n *yaml.Node, what string, names map[string]bool) *rule {
	out := &rule{}
	w := r.Words(n, what, append([]string{"name", "callers", "credentials", "operations", "rate"}, selecting...)...)
	if n.Kind != yaml.MappingNode {
		return out
	}
	if it, ok := r.need(w, n, what, "name", "it is what logs and tests call the rule"); ok {
		if s, ok := r.Text(it.Value, what+".name"); ok && r.name(at(it.Value), s, what+".name") {
			if names[s] {
				r.Wrong(at(it.Value), "%s.name: another rule is called %q; each has a name of its own", what, s)
			} else {
				names[s], out.name = true, s
			}
		}
	}
	if it, ok := r.need(w, n, what, "callers", "write names of callers, as [shop]"); ok {
		out.callers = r.groupNames(it.Value, what+".callers")
	}
	var operations []broker.Operation
	if it, ok := r.need(w, n, what, "operations", "write some of "+strings.Join(operationNames(), ", ")); ok {
		operations = r.operations(it.Value, what+".operations")
		out.operations = operationSet(operations...)
	}
	// What is not understood in a list of operations may be what the other words are for.
	understood := len(operations) > 0 && len(operations) == len(w["operations"].Value.Content)
	if it, ok := w["credentials"]; ok {
		r.credentials(out, it.Value, what+".credentials")
		if understood && out.operations == operationSet(broker.ReadProvider) {
			r.Wrong(it.At, "%s.credentials: provider.read is about no credential; leave it out", what)
		}
	} else if understood && out.operations != operationSet(broker.ReadProvider) {
		r.Wrong(at(n), "%s: credentials is missing, and a rule without it can never match; write {names: [PATTERN]}; any is [\"*\"]", what)
	}
	if understood && !slices.ContainsFunc(operations, broker.Operation.Selects) {
		for _, word := range selecting {
			if it, ok := w[word]; ok {
				r.Wrong(it.At, "%s.%s: none of its operations is about a token, so that nothing is selected; leave it out", what, word)
			}
		}
	}
	for word, of := range map[string]struct {
		out *patterns
		d   dialect
	}{"scopes": {&out.scopes, scopes}, "audience": {&out.audience, audiences}, "resources": {&out.resources, resources}} {
		if it, ok := w[word]; ok {
			*of.out = r.values(it.Value, what+"."+word, of.d)
		}
	}
	if it, ok := w["parameters"]; ok {
		r.parameters(out, it.Value, what+".parameters")
	}
	if it, ok := w["rate"]; ok {
		if s, ok := r.Text(it.Value, what+".rate"); ok {
			out.rate = r.rate(at(it.Value), s, what+".rate")
		}
		if understood && !slices.Contains(operations, broker.GetToken) {
			r.Wrong(it.At, "%s.rate: it counts get_token, which the rule does not allow; leave it out", what)
		}
	}
	return out
}

// mostTimes bounds a rate.
const mostTimes = 1_000_000

// rate reads one, such as 50/s.
func (r *reader) rate(p position, s, what string) broker.Rate {
	times, per, _ := strings.Cut(s, "/")
	n, err := strconv.Atoi(times)
	unit := map[string]time.Duration{"s": time.Second, "m": time.Minute, "h": time.Hour}[per]
	if err != nil || strconv.Itoa(n) != times || n < 1 || n > mostTimes || unit == 0 {
		r.Wrong(p, "%s: so many a second, a minute or an hour are wanted, from 1 to %d, as 50/s, 600/m or 1000/h", what, mostTimes)
		return broker.Rate{}
	}
	return broker.Rate{Times: n, Per: unit}
}

func (r *reader) groupNames(n *yaml.Node, what string) []int {
	var out []int
	for _, c := range r.list(n, what) {
		s, ok := r.Text(c, what)
		if !ok {
			continue
		}
		i, known := r.byName[s]
		switch {
		case !known && !r.groupsUnknown:
			r.Unknown(at(c), what+": no callers are called "+strconv.Quote(yamldoc.Clip(s)), s, r.groupNamed)
		case !known:
		case slices.Contains(out, i):
			r.Warn(at(c), "%s: %q is there twice", what, s)
		default:
			r.p.groups[i].used = true
			out = append(out, i)
		}
	}
	return out
}

func operationNames() []string {
	var out []string
	for _, o := range broker.Operations() {
		out = append(out, string(o))
	}
	return out
}

// operations reads a list of them; one that is there twice is there twice.
func (r *reader) operations(n *yaml.Node, what string) []broker.Operation {
	var out []broker.Operation
	for _, c := range r.list(n, what) {
		s, ok := r.choice(c, what, operationNames())
		if !ok {
			continue
		}
		if slices.Contains(out, broker.Operation(s)) {
			r.Warn(at(c), "%s: %q is there twice", what, s)
		}
		out = append(out, broker.Operation(s))
	}
	return out
}

func (r *reader) credentials(out *rule, n *yaml.Node, what string) {
	w := r.Words(n, what, "names", "labels")
	if n.Kind != yaml.MappingNode {
		return
	}
	if it, ok := r.need(w, n, what, "names", `a rule without them can never match; any is ["*"]`); ok {
		out.names = r.values(it.Value, what+".names", credentialNames)
	}
	if it, ok := w["labels"]; ok {
		out.labels = r.named(it.Value, what+".labels", labelValues, func(p position, key string) bool {
			return r.name(p, key, what+".labels") // no label has another
		})
	}
}

// named reads names with the patterns of their values.
func (r *reader) named(n *yaml.Node, what string, d dialect, good func(position, string) bool) []named {
	if n.Kind == yaml.MappingNode && len(n.Content) == 0 {
		r.Wrong(at(n), "%s: there is nothing in it; leave it out, or write {NAME: [PATTERN]}", what)
	}
	var out []named
	for _, it := range r.Items(n, what) {
		values := r.values(it.Value, what+"."+it.Key, d)
		if good(it.At, it.Key) {
			out = append(out, named{it.Key, values})
		}
	}
	return out
}

// mostName bounds the name of a parameter, as the contract does.
const mostName = 128

func (r *reader) parameters(out *rule, n *yaml.Node, what string) {
	all := r.named(n, what, parameterValues, func(p position, key string) bool {
		switch {
		case key == "*":
		case hasWildcard(key):
			r.Wrong(p, "%s: a name is no pattern; write each, or {\"*\": [\"*\"]} for any parameters", what)
			return false
		case key == "" || len(key) > mostName:
			r.Wrong(p, "%s: no parameter has this name", what)
			return false
		}
		return true
	})
	i := slices.IndexFunc(all, func(p named) bool { return p.name == "*" })
	if i < 0 {
		out.parameters = all
		return
	}
	if len(all) > 1 || !all[i].values.any {
		r.Wrong(at(n), "%s: * is any parameter with any value, and nothing beside it; write {\"*\": [\"*\"]}, or name each", what)
	}
	out.anyParameters = true
}
