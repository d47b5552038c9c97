package policy

import (
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A rule is what some callers may do.
type rule struct {
	name string
	// callers are indexes of groups.
	callers    []int
	operations operations
	names      patterns
	// labels are nil where any will do.
	labels                      []named
	scopes, audience, resources patterns
	// parameters are those that may be chosen; anyParameters: all, with any value.
	parameters    []named
	anyParameters bool
	// rate is how often each caller may be given a token.
	rate broker.Rate
}

// A named is a label or a parameter, with what its value is to be.
type named struct {
	name   string
	values patterns
}

// A dimension is one thing about an access that a rule has a word on.
type dimension int

const (
	byNothing dimension = iota
	byOperation
	byName
	byLabels
	byScopes
	byAudience
	byResources
	byParameters
	dimensions
)

// A request is an access, while it is decided.
type request struct {
	broker.Access
	operation operations
	selects   bool
	// valueless: of the parameters only the names are known.
	valueless bool

	// What is listed once, and only if a rule wants to see it.
	listed                     [dimensions]bool
	scopes, granted, resources []string
	parameters                 map[string]string
}

func ask(a broker.Access) request {
	return request{Access: a, operation: operationSet(a.Operation), selects: a.Operation.Selects()}
}

// first reports whether a dimension is looked at for the first time.
func (q *request) first(d dimension) bool {
	was := q.listed[d]
	q.listed[d] = true
	return !was
}

// decide holds an access against the rule, but for its caller. by is what denies it, or what it depends on.
func (r *rule) decide(q *request) (effect broker.Effect, by dimension) {
	if r.operations&q.operation == 0 {
		return broker.Denied, byOperation
	}
	if q.Operation == broker.ReadProvider {
		return broker.Allowed, byNothing
	}
	if q.Known < broker.Unread || q.Known > broker.Stored {
		return broker.Denied, byName
	}
	if q.Credential == "" {
		if q.Operation == broker.ReadCredential && q.Known == broker.Unread {
			return broker.Depends, byName
		}
		return broker.Denied, byName
	}
	effect = broker.Allowed
	for d := byName; d < dimensions; d++ {
		switch e := r.weigh(d, q); {
		case e == broker.Denied:
			return broker.Denied, d
		case e < effect:
			effect, by = e, d
		}
	}
	return effect, by
}

func (r *rule) weigh(d dimension, q *request) broker.Effect {
	if d >= byScopes && !q.selects {
		return broker.Allowed
	}
	switch d {
	case byName:
		return allowedIf(r.names.matches(string(q.Credential)))
	case byLabels:
		return r.weighLabels(q)
	case byScopes:
		if r.scopes.any {
			return broker.Allowed
		}
		if q.first(d) {
			q.scopes, q.granted = q.Selection.Scopes.List(), q.Granted
		}
		if _, ok := r.scopes.matchEach(q.granted); !ok {
			return broker.Denied // a token has them, whatever is found out yet
		}
		return q.weighTexts(&r.scopes, q.scopes, len(q.granted) > 0)
	case byAudience:
		if r.audience.any {
			return broker.Allowed
		}
		if q.Selection.Audience == "" {
			return q.weighTexts(&r.audience, nil, false)
		}
		one := [1]string{q.Selection.Audience}
		return q.weighTexts(&r.audience, one[:], false)
	case byResources:
		if r.resources.any {
			return broker.Allowed
		}
		if q.first(d) {
			if q.resources = q.Selection.Resources.List(); q.resources != nil {
				for i, s := range q.resources {
					q.resources[i] = lowerHost(s)
				}
			}
		}
		return q.weighTexts(&r.resources, q.resources, false)
	default:
		return r.weighParameters(q)
	}
}

func allowedIf(ok bool) broker.Effect {
	if ok {
		return broker.Allowed
	}
	return broker.Denied
}

// weighTexts weighs what was chosen of a dimension in which not everything may be. more: the token has others, which have been looked at.
func (q *request) weighTexts(p *patterns, chosen []string, more bool) broker.Effect {
	if p.leftOut() && len(chosen) > 0 {
		return broker.Denied
	}
	if q.Known == broker.Unread {
		return broker.Depends
	}
	if _, ok := p.matchEach(chosen); !ok {
		return broker.Denied
	}
	if q.Known == broker.Missing || p.leftOut() {
		return broker.Allowed
	}
	return allowedIf(more || len(chosen) > 0)
}

func (r *rule) weighLabels(q *request) broker.Effect {
	switch {
	case r.labels == nil:
		return broker.Allowed
	case q.Known == broker.Unread:
		return broker.Depends
	case q.Known == broker.Missing:
		return broker.Denied
	}
	_, ok := r.wrongLabel(q.Labels)
	return allowedIf(ok)
}

// wrongLabel is the first that a credential's labels do not satisfy.
func (r *rule) wrongLabel(labels map[string]string) (wrong *named, ok bool) {
	for i := range r.labels {
		l := &r.labels[i]
		if v, there := labels[l.name]; !there || !l.values.matches(v) {
			return l, false
		}
	}
	return nil, true
}

func (r *rule) weighParameters(q *request) broker.Effect {
	if r.anyParameters {
		return broker.Allowed
	}
	if q.first(byParameters) {
		q.parameters = q.Selection.Parameters.Map()
	}
	if name, _ := r.wrongParameter(q); name != "" {
		return broker.Denied
	}
	if q.Known == broker.Unread || r.certain(q) != nil {
		return broker.Depends
	}
	return broker.Allowed
}

// certain is a parameter of which only the name is known, and of which the rule allows certain values; nil: there is none.
func (r *rule) certain(q *request) *named {
	for i := range r.parameters {
		if _, there := q.parameters[r.parameters[i].name]; there && q.valueless && !r.parameters[i].values.any {
			return &r.parameters[i]
		}
	}
	return nil
}

// wrongParameter is one that the rule does not allow, the first by name, and why; empty: it allows them, as far as they are known.
func (r *rule) wrongParameter(q *request) (name, why string) {
	note := func(n, because string) {
		if name == "" || n < name {
			name, why = n, because
		}
	}
	for n, value := range q.parameters {
		i := slices.IndexFunc(r.parameters, func(p named) bool { return p.name == n })
		switch {
		case value == "" && q.Known != broker.Stored && !q.valueless: // as if it were not chosen
		case i < 0:
			note(n, "the rule does not name it")
		case q.Known != broker.Unread && !q.valueless && !r.parameters[i].values.matches(value):
			note(n, "the rule does not allow its value")
		}
	}
	for i := range r.parameters {
		p := &r.parameters[i]
		if _, there := q.parameters[p.name]; !there && !p.values.any && q.Known == broker.Stored {
			note(p.name, "it is not there, and the rule allows certain values only")
		}
	}
	return name, why
}

// lowerHost is a resource with its host in lower case, which is the same place. What names somebody before the host stays as it is.
func lowerHost(s string) string {
	at := strings.Index(s, "://")
	if at < 0 {
		return s
	}
	at += len("://")
	end := len(s)
	if i := strings.IndexAny(s[at:], "/?#"); i >= 0 {
		end = at + i
	}
	host := s[at:end]
	if strings.Contains(host, "@") || !strings.ContainsFunc(host, capital) {
		return s
	}
	return s[:at] + lower(host) + s[end:]
}

func capital(r rune) bool { return 'A' <= r && r <= 'Z' }

// lower folds A to Z alone, as names of hosts are compared (RFC 4343). To strings.ToLower some letters of other alphabets are those, such as the Turkish İ: somebody else's name.
func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if capital(r) {
			r += 'a' - 'A'
		}
		return r
	}, s)
}
