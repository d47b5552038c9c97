package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
)

// An Explanation is a decision, with what each rule says of it.
type Explanation struct {
	Decision broker.Decision
	// Why is the decision in a sentence, where no rule has a part in it; empty otherwise.
	Why string
	// Rules are those whose callers the caller is one of; if there is none, all. In the order of the file.
	Rules []Reason
}

// A Reason is what a rule says of an access.
type Reason struct {
	Rule   string
	Effect broker.Effect
	// Why is in which dimension it fails, or on what it depends, in a sentence; of what is Allowed it says that. It has no value of a parameter: those may be
	// secret.
	Why string
}

// Explain says how an access is decided, for people.
func (p *Policy) Explain(a broker.Access) Explanation { return p.explain(ask(a)) }

// ExplainNames is Explain where of the parameters only the names are known: what hangs on a value Depends, also where the rest is Stored. Those of the
// access do not count.
func (p *Policy) ExplainNames(a broker.Access, parameters []string) Explanation {
	q := ask(a)
	q.valueless, q.parameters = true, map[string]string{}
	for _, name := range parameters {
		q.parameters[name] = ""
	}
	q.listed[byParameters] = true
	return p.explain(q)
}

func (p *Policy) explain(q request) Explanation {
	var e Explanation
	if q.Caller == nil {
		e.Why = "nobody asks, and nobody is allowed anything"
		return e
	}
	v := p.viewOf(q.Caller)
	if v.blocked {
		e.Why = "the caller is blocked"
		return e
	}
	if len(v.rules) == 0 {
		e.Why = "no rule is about this caller"
		for _, r := range p.rules {
			e.Rules = append(e.Rules, Reason{Rule: r.name, Why: p.notAmong(r)})
		}
		return e
	}
	for _, r := range v.rules {
		effect, by := r.decide(&q)
		e.Rules = append(e.Rules, Reason{Rule: r.name, Effect: effect, Why: r.why(&q, effect, by)})
		e.Decision = r.better(e.Decision, effect, q.Operation)
	}
	return e
}

// notAmong says who a rule's callers are.
func (p *Policy) notAmong(r *rule) string {
	var names []string
	for _, i := range r.callers[:min(len(r.callers), mostShown)] {
		names = append(names, p.groups[i].name)
	}
	if len(r.callers) > mostShown {
		names = append(names, "…")
	}
	return "its callers are " + strings.Join(names, ", ") + ", and the caller is none of them"
}

// why is a decision of the rule in a sentence.
func (r *rule) why(q *request, effect broker.Effect, by dimension) string {
	if effect == broker.Allowed {
		if q.Operation == broker.GetToken && r.rate != (broker.Rate{}) {
			return "it allows this, " + r.rate.String() + " to each caller"
		}
		return "it allows this"
	}
	depends := effect == broker.Depends
	switch by {
	case byOperation:
		return fmt.Sprintf("operation: it allows %s, and not %s", r.operations, q.Operation)
	case byName:
		switch {
		case depends:
			return "credentials: each of the list is decided by itself"
		case q.Credential == "":
			return "credentials: none is named"
		}
		return fmt.Sprintf("credentials: it allows %s, and %s is none of them", &r.names, q.Credential)
	case byLabels:
		return r.whyLabels(q, depends)
	case byScopes:
		return q.whyTexts("scopes", &r.scopes, slices.Concat(q.scopes, q.granted), depends)
	case byAudience:
		var all []string
		if q.Selection.Audience != "" {
			all = []string{q.Selection.Audience}
		}
		return q.whyTexts("audience", &r.audience, all, depends)
	case byResources:
		return q.whyTexts("resources", &r.resources, q.resources, depends)
	default:
		if c := r.certain(q); c != nil && q.Known != broker.Unread && depends {
			return fmt.Sprintf("parameters: it depends on the value of %q, for which it allows %s", c.name, &c.values)
		}
		if depends {
			return "parameters: which there are, is known when the credential is read"
		}
		name, why := r.wrongParameter(q)
		return fmt.Sprintf("parameters: %q: %s", name, why)
	}
}

func (r *rule) whyLabels(q *request, depends bool) string {
	if depends {
		return "labels: the credential's are not known yet"
	}
	if q.Known == broker.Missing {
		return "labels: there is no credential that has them"
	}
	l, _ := r.wrongLabel(q.Labels)
	if v, there := q.Labels[l.name]; there {
		return fmt.Sprintf("labels: %s is %q, and it allows %s", l.name, v, &l.values)
	}
	return fmt.Sprintf("labels: the credential has none called %s, and it wants %s", l.name, &l.values)
}

// whyTexts says why what was chosen of a dimension is denied, or what it depends on.
func (q *request) whyTexts(word string, p *patterns, chosen []string, depends bool) string {
	wrong, ok := p.matchEach(chosen)
	switch {
	case depends:
		return word + ": which there are, is known when the credential is read"
	case p.leftOut() && len(chosen) > 0:
		return fmt.Sprintf("%s: %q is there, and the rule, which leaves the word out, allows none", word, wrong)
	case !ok:
		return fmt.Sprintf("%s: it allows %s, and %q is none of them", word, p, wrong)
	default:
		return fmt.Sprintf("%s: there are none, and the rule wants some of %s", word, p)
	}
}

// String is the operations' names.
func (s operations) String() string {
	var names []string
	for _, o := range broker.Operations() {
		if s&operationSet(o) != 0 {
			names = append(names, string(o))
		}
	}
	return strings.Join(names, ", ")
}
