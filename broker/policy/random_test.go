package policy

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

// What follows is a second implementation, of a model that is written as a file: it knows nothing of the first one, but the form of files. It decides
// only what is Stored; what is Unread or Missing is held against all that may be stored.

type modelEntry struct {
	word, value, certificate, proof, listener, gid string
	// sub and claim are of a jwt, whose value is the issuer.
	sub   string
	claim []string
}

func (e modelEntry) yaml() string {
	out := fmt.Sprintf("%s: %q", e.word, e.value)
	for _, x := range [][2]string{{"certificate", e.certificate}, {"proof", e.proof}, {"listener", e.listener}, {"gid", e.gid}} {
		if x[1] != "" {
			out += fmt.Sprintf(", %s: %q", x[0], x[1])
		}
	}
	if e.sub != "" {
		out += fmt.Sprintf(", sub: %q", e.sub)
	}
	if e.claim != nil {
		out += ", claims: {role: " + quoted(e.claim) + "}"
	}
	return "{" + out + "}"
}

func (e modelEntry) has(c *broker.Caller) bool {
	name, value := c.Name, e.value
	switch e.word {
	case "spiffe":
		name = c.Authority + "/" + c.Name
	case "k8s":
		name, e.certificate = c.Authority+"/"+c.Name, c.Authority
	case "jwt":
		value, e.certificate = e.sub, value
		if e.claim != nil && !slices.ContainsFunc(c.Attributes["role"], func(v string) bool {
			return slices.ContainsFunc(e.claim, func(p string) bool { return like(p, v, "") })
		}) {
			return false
		}
	case "local":
		name = c.Listener
	}
	return string(c.Kind) == e.word && (e.word == "spiffe" || c.Authority == e.certificate) && (e.proof == "" || e.proof == string(c.Proof)) &&
		(e.listener == "" || e.listener == c.Listener) && (e.gid == "" || slices.Contains(c.Attributes["gid"], e.gid)) &&
		(e.word == "unix" && value == "*" || like(value, name, map[string]string{"spiffe": "/", "k8s": "/", "dns": ".", "uri": "/:", "jwt": "/:"}[e.word]))
}

// like tries all that wildcards may stand for.
func like(p, s, separators string) bool {
	switch {
	case p == "":
		return s == ""
	case p == "**":
		slashed := strings.Map(func(r rune) rune {
			if strings.ContainsRune(separators, r) {
				return '/'
			}
			return r
		}, s)
		for _, segment := range strings.Split(slashed, "/") {
			if segment == "" || strings.Contains(separators, "/") && (segment == "." || segment == "..") {
				return false
			}
		}
		return s != ""
	case p[0] == '*':
		for n := 1; n <= len(s) && !strings.Contains(separators, s[n-1:n]); n++ {
			if like(p[1:], s[n:], separators) {
				return true
			}
		}
		return false
	}
	return s != "" && s[0] == p[0] && like(p[1:], s[1:], separators)
}

type modelRule struct {
	name                        string
	groups                      []string
	operations                  []broker.Operation
	names                       []string
	labels                      map[string][]string
	scopes, audience, resources []string
	parameters                  map[string][]string
}

type model struct {
	groups  map[string][]modelEntry
	blocked []modelEntry
	rules   []modelRule
}

func quoted(all []string) string {
	var out []string
	for _, s := range all {
		out = append(out, fmt.Sprintf("%q", s))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

func quotedMap(m map[string][]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, fmt.Sprintf("%q: %s", k, quoted(m[k])))
	}
	return "{" + strings.Join(out, ", ") + "}"
}

func (m model) yaml() string {
	var b strings.Builder
	entries := func(all []modelEntry) string {
		var out []string
		for _, e := range all {
			out = append(out, e.yaml())
		}
		return "[" + strings.Join(out, ", ") + "]"
	}
	b.WriteString("version: 1\ncallers:\n")
	for _, g := range slices.Sorted(maps.Keys(m.groups)) {
		fmt.Fprintf(&b, "  %s: %s\n", g, entries(m.groups[g]))
	}
	fmt.Fprintf(&b, "blocked: %s\nrules:\n", entries(m.blocked))
	for _, r := range m.rules {
		var operations []string
		for _, o := range r.operations {
			operations = append(operations, string(o))
		}
		fmt.Fprintf(&b, "- name: %s\n  callers: %s\n  operations: %s\n", r.name, quoted(r.groups), quoted(operations))
		if r.names != nil {
			fmt.Fprintf(&b, "  credentials:\n    names: %s\n", quoted(r.names))
			if r.labels != nil {
				fmt.Fprintf(&b, "    labels: %s\n", quotedMap(r.labels))
			}
		}
		for _, x := range []struct {
			word string
			all  []string
		}{{"scopes", r.scopes}, {"audience", r.audience}, {"resources", r.resources}} {
			if x.all != nil {
				fmt.Fprintf(&b, "  %s: %s\n", x.word, quoted(x.all))
			}
		}
		if r.parameters != nil {
			fmt.Fprintf(&b, "  parameters: %s\n", quotedMap(r.parameters))
		}
	}
	return b.String()
}

func (m model) in(c *broker.Caller, all []modelEntry) bool {
	return c != nil && slices.ContainsFunc(all, func(e modelEntry) bool { return e.has(c) })
}

var anything = []string{"*"}

// covers: each value is like one of the patterns, and there is one where patterns are; any is any.
func covers(patterns, values []string, separators string) bool {
	if slices.Equal(patterns, anything) {
		return true
	}
	if len(values) == 0 {
		return len(patterns) == 0
	}
	for _, v := range values {
		if !slices.ContainsFunc(patterns, func(p string) bool { return like(p, v, separators) }) {
			return false
		}
	}
	return true
}

// allowing are the rules that allow what is stored.
func (m model) allowing(a broker.Access) []string {
	if a.Caller == nil || m.in(a.Caller, m.blocked) {
		return nil
	}
	var out []string
	for _, r := range m.rules {
		if m.allows(r, a) {
			out = append(out, r.name)
		}
	}
	return out
}

func (m model) allows(r modelRule, a broker.Access) bool {
	if !slices.ContainsFunc(r.groups, func(g string) bool { return m.in(a.Caller, m.groups[g]) }) || !slices.Contains(r.operations, a.Operation) {
		return false
	}
	if a.Operation == broker.ReadProvider {
		return true
	}
	if a.Credential == "" || !covers(r.names, []string{string(a.Credential)}, "") {
		return false
	}
	for k, patterns := range r.labels {
		if v, ok := a.Labels[k]; !ok || !covers(patterns, []string{v}, "") {
			return false
		}
	}
	if !slices.Contains([]broker.Operation{broker.GetToken, broker.Watch}, a.Operation) {
		return true
	}
	var audience []string
	if a.Selection.Audience != "" {
		audience = []string{a.Selection.Audience}
	}
	if !covers(r.scopes, append(a.Selection.Scopes.List(), a.Granted...), "") || !covers(r.audience, audience, "/") || !covers(r.resources, a.Selection.Resources.List(), "/") {
		return false
	}
	given := a.Selection.Parameters.Map()
	if slices.Equal(r.parameters["*"], anything) {
		return true
	}
	for name, v := range given {
		if patterns, ok := r.parameters[name]; !ok || !covers(patterns, []string{v}, "") {
			return false
		}
	}
	for name, patterns := range r.parameters {
		if _, ok := given[name]; !ok && !slices.Equal(patterns, anything) {
			return false
		}
	}
	return true
}

// A dice makes models and accesses that often have to do with each other.
type dice struct{ *rand.Rand }

func (d dice) of(all ...string) string { return all[d.IntN(len(all))] }

// some are a few of all, in any order, none twice.
func (d dice) some(least, most int, all ...string) []string {
	all = slices.Clone(all)
	d.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:min(len(all), least+d.IntN(most-least+1))]
}

func (d dice) patterns(all ...string) []string {
	if d.IntN(3) == 0 {
		return anything
	}
	return d.some(1, 3, all...)
}

func (d dice) maybe(all []string) []string {
	if d.IntN(3) == 0 {
		return nil
	}
	return all
}

var (
	namePatterns      = []string{"a", "a*", "*b", "a-*-b", "b"}
	labelPatterns     = []string{"prod", "p*", "*", "d*v"}
	scopePatterns     = []string{"read", "r*", "*.read", "x.*", "write"}
	audiencePatterns  = []string{"api", "a*", "https://h/*", "https://h/**", "h/x"}
	resourcePatterns  = []string{"https://h/x", "https://h/*", "https://h/**", "https://h/x/**", "urn:x*"}
	parameterPatterns = []string{"one", "o*", "t*o"}

	someNames      = []string{"a", "b", "ab", "a-1-b", "a-b", "c"}
	someScopes     = []string{"read", "r", "x.read", "x.y", "write", "rest"}
	someResources  = []string{"https://h/x", "https://h/x/y", "https://h/../x", "https://g/x", "urn:xy"}
	someAudiences  = []string{"api", "https://h/x", "https://h/x/y", "h/x", "other"}
	someParameters = []string{"one", "two", "o", "on"}
)

func (d dice) entry() modelEntry {
	e := modelEntry{word: d.of("spiffe", "spiffe", "dns", "uri", "cn", "jwt", "jwt", "k8s", "unix", "local")}
	switch e.word {
	case "spiffe":
		e.value = d.of("td/a/b", "td/a/*", "td/**", "td/*/b", "other/a/b", "td/a/b*")
	case "dns":
		e.value, e.certificate = d.of("a.corp", "*.corp", "a.**", "b*.corp"), d.of("one", "two")
	case "uri":
		e.value, e.certificate = d.of("urn:a", "urn:*", "urn:a:**"), d.of("one", "two")
	case "cn":
		e.value, e.certificate = d.of("A", "*", "A*"), d.of("one", "two")
	case "jwt":
		if e.value, e.sub = d.of("one", "two"), d.of("a", "a:*", "**", "a/**"); d.IntN(2) == 0 {
			e.claim = d.some(1, 2, "admin", "st*", "x")
		}
	case "k8s":
		e.value = d.of("one/a/b", "one/a/*", "two/**", "one/*/b")
	case "unix":
		if e.value = d.of("*", "1", "2"); d.IntN(2) == 0 {
			e.gid = d.of("7", "8")
		}
	case "local":
		e.value = d.of("services", "operators")
		return e
	}
	if d.IntN(4) == 0 {
		e.proof = d.of(map[string][]string{"unix": {"peer"}, "jwt": {"jwt"}, "k8s": {"jwt"}, "spiffe": {"x509", "jwt"}, "dns": {"x509"}, "uri": {"x509"}, "cn": {"x509"}}[e.word]...)
	}
	if d.IntN(4) == 0 {
		e.listener = d.of("services", "operators")
	}
	return e
}

func (d dice) caller() *broker.Caller {
	proof, listener := broker.ProofX509, d.of("services", "operators")
	switch d.IntN(15) {
	case 0:
		return nil
	case 12, 13:
		c := broker.NewCaller(broker.JWT, d.of("one", "two"), d.of("a", "a:b", "a/b", "a:b:c", "b"), broker.ProofJWT, listener)
		c.Attributes = map[string][]string{"role": d.some(0, 2, "admin", "staff", "xx", "adminstaff")}
		return c
	case 14:
		return broker.NewCaller(broker.Kubernetes, d.of("one", "two"), d.of("a/b", "a/c", "c/b"), broker.ProofJWT, listener)
	case 1, 2:
		c := broker.NewCaller(broker.Unix, "", d.of("1", "2", "3"), broker.ProofPeer, listener)
		c.Attributes = map[string][]string{"gid": d.some(0, 2, "7", "8", "9")}
		return c
	case 3:
		return broker.NewCaller(broker.Local, "", "", broker.ProofNone, listener)
	case 4:
		return broker.NewCaller(broker.DNS, d.of("one", "two"), d.of("a.corp", "b.corp", "bb.corp", "a.b.corp"), proof, listener)
	case 5:
		return broker.NewCaller(broker.URI, d.of("one", "two"), d.of("urn:a", "urn:a:b", "urn:a:b:c"), proof, listener)
	case 6:
		return broker.NewCaller(broker.CommonName, d.of("one", "two"), d.of("A", "AB", "B"), proof, listener)
	}
	return broker.NewCaller(broker.SPIFFE, d.of("td", "td", "other"), d.of("a/b", "a/c", "a/bc", "a", "a/b/c"), d.proof(), listener)
}

// proof is now and then one that no such caller has today.
func (d dice) proof() broker.Proof {
	switch d.IntN(10) {
	case 0:
		return broker.ProofNone
	case 1, 2, 3:
		return broker.ProofJWT
	}
	return broker.ProofX509
}

func (d dice) model() model {
	m := model{groups: map[string][]modelEntry{}}
	for _, g := range []string{"g0", "g1", "g2"} {
		for range 1 + d.IntN(3) {
			m.groups[g] = append(m.groups[g], d.entry())
		}
	}
	if d.IntN(4) == 0 {
		e := d.entry()
		e.claim = nil // nobody is blocked by what they claim
		m.blocked = append(m.blocked, e)
	}
	for i := range 1 + d.IntN(5) {
		r := modelRule{name: fmt.Sprintf("r%d", i), groups: d.some(1, 3, "g0", "g1", "g2")}
		all := broker.Operations()
		d.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		r.operations = all[:1+d.IntN(5)]
		selects := slices.ContainsFunc(r.operations, broker.Operation.Selects)
		if len(r.operations) > 1 || r.operations[0] != broker.ReadProvider {
			if r.names = d.patterns(namePatterns...); d.IntN(3) == 0 {
				r.labels = map[string][]string{}
				for _, k := range d.some(1, 2, "env", "team") {
					r.labels[k] = d.patterns(labelPatterns[0], labelPatterns[1], labelPatterns[3])
				}
			}
		}
		if selects {
			r.scopes, r.audience = d.maybe(d.patterns(scopePatterns...)), d.maybe(d.patterns(audiencePatterns...))
			r.resources = d.maybe(d.patterns(resourcePatterns...))
			if d.IntN(4) == 0 {
				r.scopes, r.audience, r.resources = anything, anything, anything
			}
			switch d.IntN(3) {
			case 0:
				r.parameters = map[string][]string{"*": anything}
			case 1:
				r.parameters = map[string][]string{}
				for _, k := range d.some(1, 2, "p", "q") {
					r.parameters[k] = d.patterns(parameterPatterns...)
				}
			}
		}
		m.rules = append(m.rules, r)
	}
	return m
}

func set(all []string) broker.Set {
	s, err := broker.ParseSet("", all)
	if err != nil {
		panic(err)
	}
	return s
}

func (d dice) texts(most int, names, values []string) map[string]string {
	out := map[string]string{}
	for _, k := range d.some(0, most, names...) {
		out[k] = d.of(values...)
	}
	return out
}

func (d dice) labels() map[string]string {
	return d.texts(2, []string{"env", "team"}, []string{"prod", "dev", "", "p"})
}

func (d dice) access() broker.Access {
	a := broker.Access{Caller: d.caller(), Operation: broker.Operation(d.of(operationNames()...)), Known: broker.Stored, Labels: d.labels()}
	if d.IntN(3) == 0 {
		a.Operation = broker.GetToken
	}
	if d.IntN(20) > 0 {
		a.Credential = broker.CredentialName(d.of(someNames...))
	}
	if d.IntN(3) > 0 {
		a.Selection.Scopes = set(d.some(0, 2, someScopes...))
		a.Selection.Resources = set(d.some(0, 2, someResources...))
		a.Selection.Parameters = broker.NewPairs(d.texts(2, []string{"p", "q", "r"}, someParameters))
		if d.IntN(2) == 0 {
			a.Selection.Audience = d.of(someAudiences...)
		}
	}
	if d.IntN(4) == 0 {
		a.Granted = d.some(1, 2, someScopes...)
	}
	return a
}

// completion is what may be stored, and selected in the end, where somebody asked for this.
func (d dice) completion(a broker.Access) broker.Access {
	a.Known, a.Labels = broker.Stored, d.labels()
	another := func(s broker.Set, all []string) broker.Set {
		if s.Empty() && d.IntN(2) == 0 || !s.Empty() && d.IntN(2) == 0 {
			return s
		}
		return set(d.some(1, 3, all...))
	}
	a.Selection.Scopes, a.Selection.Resources = another(a.Selection.Scopes, someScopes), another(a.Selection.Resources, someResources)
	if d.IntN(2) == 0 {
		a.Selection.Audience = d.of(someAudiences...)
	}
	given := a.Selection.Parameters.Map()
	for k := range given {
		if d.IntN(2) == 0 {
			given[k] = d.of(someParameters...)
		}
	}
	for k, v := range d.texts(2, []string{"p", "q", "r"}, someParameters) {
		if _, ok := given[k]; !ok {
			if given == nil {
				given = map[string]string{}
			}
			given[k] = v
		}
	}
	a.Selection.Parameters = broker.NewPairs(given)
	if len(a.Granted) == 0 && d.IntN(2) == 0 {
		a.Granted = d.some(1, 2, someScopes...)
	}
	return a
}

// witness is what would have to be stored for the rule to allow it, if anything: of what was asked for, only what is not there is chosen, but
// with instead everything.
func (d dice) witness(r modelRule, a broker.Access, instead bool) broker.Access {
	instance := func(patterns []string) string {
		return strings.ReplaceAll(strings.ReplaceAll(patterns[0], "**", "x"), "*", "x")
	}
	a.Known, a.Labels = broker.Stored, map[string]string{}
	for k, p := range r.labels {
		a.Labels[k] = instance(p)
	}
	chosen := func(s broker.Set, p []string) broker.Set {
		if len(p) > 0 && !slices.Equal(p, anything) && (s.Empty() || instead) {
			return set([]string{instance(p)})
		}
		return s
	}
	a.Selection.Scopes, a.Selection.Resources = chosen(a.Selection.Scopes, r.scopes), chosen(a.Selection.Resources, r.resources)
	if (a.Selection.Audience == "" || instead) && len(r.audience) > 0 {
		a.Selection.Audience = instance(r.audience)
	}
	given := a.Selection.Parameters.Map()
	if given == nil {
		given = map[string]string{}
	}
	for k, p := range r.parameters {
		if _, ok := given[k]; k != "*" && (!ok || instead) {
			given[k] = instance(p)
		}
	}
	a.Selection.Parameters = broker.NewPairs(given)
	return a
}

// TestAgainstASecondImplementation: many policies and accesses, each decided twice.
func TestAgainstASecondImplementation(t *testing.T) {
	policies := 1000
	if testing.Short() {
		policies = 200
	}
	d := dice{rand.New(rand.NewPCG(1, 2))}
	count := map[string]int{}
	for n := range policies {
		m := d.model()
		p, problems := Parse("", []byte(m.yaml()))
		if p == nil {
			t.Fatalf("policy %d: %v\n%s", n, problems, m.yaml())
		}
		for range 40 {
			a := d.access()
			if r := m.rules[d.IntN(len(m.rules))]; d.IntN(4) > 0 { // most have something to do with a rule
				a.Operation = r.operations[d.IntN(len(r.operations))]
				for range 10 {
					if !slices.ContainsFunc(r.groups, func(g string) bool { return m.in(a.Caller, m.groups[g]) }) {
						a.Caller = d.caller()
					}
				}
			}
			got, want := p.Decide(a), m.allowing(a)
			switch {
			case got.Effect == broker.Depends, (got.Effect == broker.Allowed) != (len(want) > 0), got.Effect == broker.Allowed && got.Rule != want[0], got.Effect == broker.Denied && got.Rule != "":
				t.Fatalf("got %v, want one of %q, of %s %+v\n%s\n%+v", got, want, a.Caller, a, m.yaml(), p.Explain(a))
			}
			count[fmt.Sprint("stored ", got.Effect)]++
			e := p.Explain(a)
			if e.Decision != got {
				t.Fatalf("got %v, and it is explained by %+v", got, e)
			}
			for _, r := range e.Rules {
				if (r.Effect == broker.Allowed) != slices.Contains(want, r.Rule) || r.Why == "" {
					t.Fatalf("%s is explained by %+v, want %q", a.Caller, e, want)
				}
			}
			unread := a
			unread.Known, unread.Labels = broker.Unread, nil
			missing := unread
			missing.Known = broker.Missing
			u, miss := p.Decide(unread), p.Decide(missing)
			count[fmt.Sprint("unread ", u.Effect)]++
			count[fmt.Sprint("missing ", miss.Effect)]++
			if u.Effect != broker.Allowed && u.Rule != "" || miss.Effect == broker.Depends {
				t.Fatalf("got %v, %v of %+v", u, miss, unread)
			}
			if a.Credential == "" {
				continue // of a list there is nothing to complete
			}
			if u.Effect == broker.Denied && miss.Effect != broker.Denied || u.Effect == broker.Allowed && miss.Effect != broker.Allowed {
				t.Fatalf("got %v of what is unread, and %v of what is missing: %+v\n%s", u, miss, unread, m.yaml())
			}
			for range 5 {
				c := d.completion(unread)
				if s := m.allowing(c); u.Effect == broker.Denied && len(s) > 0 || u.Effect == broker.Allowed && len(s) == 0 {
					t.Fatalf("got %v of what is unread, and %q of what was stored: %+v, %+v\n%s", u, s, unread, c, m.yaml())
				}
			}
			may, mayMissing := false, false
			for _, r := range m.rules {
				if m.in(a.Caller, m.blocked) || a.Caller == nil {
					break
				}
				may = may || m.allows(r, d.witness(r, unread, true))
				mayMissing = mayMissing || (r.labels == nil || a.Operation == broker.ReadProvider) && m.allows(r, d.witness(r, unread, false))
			}
			if (u.Effect != broker.Denied) != may && len(unread.Granted) == 0 {
				t.Fatalf("got %v of what is unread, and something that could be stored is allowed: %v, of %s %+v\n%s", u, may, a.Caller, unread, m.yaml())
			}
			if (miss.Effect == broker.Allowed) != mayMissing && len(unread.Granted) == 0 {
				t.Fatalf("got %v of what is missing, want %v, of %s %+v\n%s", miss, mayMissing, a.Caller, unread, m.yaml())
			}
		}
	}
	t.Log(count)
	for _, what := range []string{"stored 0", "stored 2", "unread 0", "unread 1", "unread 2", "missing 0", "missing 2"} {
		if count[what] < policies/10 {
			t.Errorf("%s was decided %d times only: %v", what, count[what], count)
		}
	}
}
