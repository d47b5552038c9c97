package provider

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

// A checker holds what names mean while a definition is checked.
type checker struct {
	*reader
	d *definition
	// everything are all names; nil: not gathered yet.
	everything map[string]bool
	meanings   map[string]meaning
	// given is where only inputs hold.
	given *place
}

// check finds what is wrong with a definition whose words are all right: names that nothing gives, values that depend on
// themselves, secrets in places where they would be seen.
func (r *reader) check(d *definition) {
	c := &checker{reader: r, d: d, meanings: map[string]meaning{}}
	if c.tooLarge() {
		return
	}
	c.given = placeOf(c.inputNames())
	c.namespace()
	c.cycles()
	former := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(d.inputs)) {
		in := d.inputs[name]
		switch {
		case in.was == "":
		case d.inputs[in.was] != nil:
			c.Wrong(in.at, "inputs: was: %q is an input of its own; leave one of them out", in.was)
		case former[in.was]:
			c.Wrong(in.at, "inputs: was: another input was %q too; leave one of them out", in.was)
		}
		former[in.was] = true
		c.listed(in, "inputs")
		c.defaulted(in, "inputs")
	}
	for _, in := range d.parameters {
		c.listed(in, "parameters")
		c.defaulted(in, "parameters")
	}
	if d.audience != nil {
		c.listed(d.audience, "audience")
		c.defaulted(d.audience, "audience")
	}
	for _, s := range []*set{d.scopes, d.resources} {
		if s != nil {
			for _, t := range s.defaults {
				c.chosen(t, "default")
			}
		}
	}
	if d.resources != nil {
		c.withoutFragments(d.resources)
	}
	c.fields(d.headers, "headers", placeOf(c.base()), true)
	for i, q := range d.obtain {
		c.request(q, requestNamed("obtain", i, d.obtain), placeOf(c.known(d.obtain[:i])))
	}
	for i, q := range d.refresh {
		known := c.known(d.refresh[:i])
		known["refresh_token"] = true
		for _, t := range d.held() {
			known[t] = true
		}
		c.request(q, requestNamed("refresh", i, d.refresh), placeOf(known))
	}
	if d.token != nil {
		c.text(*d.token, "token", placeOf(c.base()))
		c.tokenOf(*d.token)
	}
	c.seeds()
	c.refreshTokensKept()
	c.tokenTaken("obtain", d.obtain)
	c.tokenTaken("refresh", d.refresh)
	c.presents()
	c.literals()
	c.reaches()
	c.tooManyFlows()
	anywhere := placeOf(c.anywhere())
	for _, name := range slices.Sorted(maps.Keys(d.let)) {
		x := d.let[name]
		c.computed(x, "let."+name, anywhere)
		c.wrapped(x, "let."+name, true)
	}
	if len(yamldoc.Errors(c.Problems)) == 0 {
		c.hosts()
	}
}

// hosts finds hosts that are none, whatever a credential has: made of what the file itself says.
func (c *checker) hosts() {
	v := newValues(c.d.let)
	c.d.give(v, broker.Credential{}, broker.Selection{})
	for _, u := range c.d.urls() {
		names := c.d.named([]text{{parts: namesOf(u.hostNames())}})
		if len(names) == 0 || !c.d.allCertain(u.hostNames()) {
			continue
		}
		open := false
		for n := range names {
			in := c.d.inputs[n]
			open = open || in != nil && !in.hasDefault
		}
		if open {
			continue
		}
		err := error(nil)
		if u.whole == "" {
			_, err = c.d.url(u.place(), v)
		} else if x, bad := v.get(u.whole); bad != nil {
			err = bad
		} else if _, bad := wholeURL(x.String()); bad != nil {
			err = nameText(u.whole).bad("{{%s}} is no URL: %v", u.whole, bad)
		}
		if why := (*badValue)(nil); errors.As(err, &why) { // which schemes are allowed is a setting
			c.Wrong(u.written.at, "a URL that nobody can ask: %v; write another, or make it of inputs", why)
		}
	}
}

// withoutFragments: what could never be asked for stands in no default and in no one_of.
func (c *checker) withoutFragments(s *set) {
	all := slices.Clone(s.oneOf)
	for _, t := range s.defaults {
		all = append(all, withNames(t.parts, ""))
	}
	if slices.ContainsFunc(all, hasFragment) {
		c.Wrong(s.at, "resources: a resource has no fragment (#…) by RFC 8707 section 2; leave it out")
	}
}

// requestNamed is what a request of a run is called.
func requestNamed(run string, i int, qs []*request) string {
	if len(qs) == 1 {
		return run
	}
	return fmt.Sprintf("%s[%d]", run, i)
}

// listed checks that what one_of allows is allowed by pattern and format.
func (c *checker) listed(in *input, what string) {
	for i, s := range in.oneOf {
		if why := in.misdeclared(s); why != "" {
			c.Wrong(in.at, "%s: one_of: value %d %s", what, i+1, why)
		}
	}
}

// misdeclared says what is wrong with a value that the definition itself gives an input, without quoting the definition; empty: nothing.
func (in *input) misdeclared(s string) string {
	switch {
	case s == "":
		return ""
	case in.oneOf != nil && !slices.Contains(in.oneOf, s):
		return "is none of one_of"
	case in.pattern != nil && !in.pattern.MatchString(s):
		return "does not match pattern"
	}
	return in.wrongValue(s)
}

// defaulted checks a default: as a value where it names nothing, else what it names.
func (c *checker) defaulted(in *input, what string) {
	if !in.hasDefault {
		return
	}
	if len(in.fallback.names()) > 0 {
		c.chosen(in.fallback, what+": the default")
		return
	}
	s := in.byDefault(newValues(nil))
	if what != "inputs" && len(s) > longestDefault {
		c.Wrong(in.at, "%s: the default is longer than %d bytes; write a shorter one", what, longestDefault)
	} else if why := in.misdeclared(s); why != "" {
		c.Wrong(in.at, "%s: the default %s", what, why)
	}
}

// chosen checks a default of what a caller may choose. It names inputs, and no secret one: what is chosen is shown.
func (c *checker) chosen(t text, what string) {
	c.text(t, what, c.given)
	for _, n := range t.names() {
		if c.meaning(n).secret {
			c.Wrong(t.at, "%s: %q is a secret, and what was asked for is shown; name an input that is none", what, n)
		}
	}
}

// seeds: a credential has one grant.
func (c *checker) seeds() {
	first := ""
	for _, name := range slices.Sorted(maps.Keys(c.d.inputs)) {
		switch in := c.d.inputs[name]; {
		case !in.seed:
		case first != "":
			c.Wrong(in.at, "inputs: %s and %s are both seeds; a credential has one refresh token; leave seed out of one", first, name)
		default:
			first = name
		}
	}
}

func (c *checker) tokenTaken(run string, qs []*request) {
	if len(qs) > 0 && !slices.ContainsFunc(qs, takesToken) {
		c.Wrong(qs[len(qs)-1].at, "%s: no request takes a token; write take: {token: …}", run)
	}
}

func takesToken(q *request) bool {
	return slices.ContainsFunc(q.take, func(t take) bool { return t.name == "token" })
}

func takesRefreshToken(q *request) bool {
	return slices.ContainsFunc(q.take, func(t take) bool { return t.name == "refresh_token" })
}

// namespace: inputs, parameters, let, takes and built-ins are one; a clash is an error.
func (c *checker) namespace() {
	seen := map[string]string{}
	claim := func(name, what string, p position) {
		if builtinNames[name] && what != "take" {
			c.Wrong(p, "%s: %q is a name of the language; choose another", what, name)
			return
		}
		if was, ok := seen[name]; ok && was != what {
			c.Wrong(p, "%s: %q is among %s already; choose another name", what, name, was)
		}
		seen[name] = what
	}
	for _, name := range slices.Sorted(maps.Keys(c.d.inputs)) {
		in := c.d.inputs[name]
		if in.seed && name == "refresh_token" {
			seen[name] = "inputs"
			continue // the natural name of a seed
		}
		claim(name, "inputs", in.at)
	}
	for _, name := range slices.Sorted(maps.Keys(c.d.parameters)) {
		claim(name, "parameters", c.d.parameters[name].at)
	}
	for _, name := range slices.Sorted(maps.Keys(c.d.let)) {
		claim(name, "let", c.d.let[name].at)
	}
	for _, qs := range [][]*request{c.d.obtain, c.d.refresh} {
		for _, q := range qs {
			for _, t := range q.take {
				if !builtinNames[t.name] {
					claim(t.name, "take", t.at)
				}
			}
		}
	}
}

// cycles finds let values that are computed from themselves.
func (c *checker) cycles() {
	const busy, done = 1, 2
	state := map[string]int{}
	var visit func(name string)
	visit = func(name string) {
		x, ok := c.d.let[name]
		if !ok || state[name] == done {
			return
		}
		if state[name] == busy {
			c.Wrong(x.at, "let.%s: it is computed from itself; name something else in it", name)
			return
		}
		state[name] = busy
		for _, n := range x.names() {
			visit(n)
		}
		state[name] = done
	}
	for _, name := range slices.Sorted(maps.Keys(c.d.let)) {
		visit(name)
	}
}

func (c *checker) computed(x *compute, what string, here *place) {
	if x.text != nil {
		t := *x.text
		t.at = x.at
		c.text(t, what, here)
	}
	if x.of != nil {
		c.computed(x.of, what, here)
	}
	for _, a := range x.any {
		c.computed(a, what, here)
	}
}

// wrapped: digests and random bytes are no text, and cannot be sent as one.
func (c *checker) wrapped(x *compute, what string, asText bool) {
	if asText && x.op != "first" && x.binary() {
		c.Wrong(x.at, "%s: %s gives bytes; wrap it in hex, base64 or base64url", what, x.op)
	}
	if x.of != nil {
		switch x.op {
		case "lower", "upper", "split", "field", "from_base64", "from_base64url", "from_hex", "from_percent", "query", "quote":
			c.wrapped(x.of, what, true)
		default:
			c.wrapped(x.of, what, false)
		}
	}
	for _, a := range x.any {
		c.wrapped(a, what, asText)
	}
}

func (c *checker) request(q *request, what string, here *place) {
	c.url(q, what+"."+q.word(), here)
	c.fields(q.query, what+".query", here, false)
	c.fields(q.headers, what+".headers", here, true)
	c.fields(q.body.fields, what+"."+q.bodyWord(), here, false)
	c.text(q.body.text, what+".text", here)
	if why := q.body.as.misplaced(q.body.text); why != "" {
		c.Wrong(q.body.text.at, "%s.text: %s", what, why)
	}
	c.tree(q.body.json, what+"."+q.bodyWord(), here)
	c.cookies(q.cookies, what+".cookies", here)
	if q.auth.kind == secretBasic || q.auth.kind == rawBasic {
		for _, t := range []text{q.auth.id, q.auth.secret} {
			if t.at == (position{}) {
				t.at, t.implied = q.at, true
			}
			c.text(t, what+".auth", here)
		}
	}
	if q.withToken && !here.names["token"] {
		c.Wrong(q.at, "%s: with_token: no request before this one takes a token; write it on one behind that", what)
	}
	taken := placeOf(maps.Clone(here.names))
	for _, t := range q.take {
		taken.names[t.name] = true
	}
	for _, t := range q.take {
		c.takes(t.where, t.at, what+".take."+t.name, t.name, taken)
	}
}

func (c *checker) takes(w *where, p position, what, name string, taken *place) {
	for _, x := range w.anyOf {
		c.takes(x, p, what, name, taken)
	}
	if w.within != nil {
		c.takes(w.within, p, what, name, taken)
	}
	for _, m := range w.match {
		for _, t := range m.field.values {
			c.text(t, what+".where."+m.field.name, taken)
			for _, n := range t.names() {
				if s := c.meaning(n).kept; s != "" {
					c.Wrong(p, "%s: what is taken would tell of the secret %q whether it is there; find it by another value", what, s)
				}
			}
		}
	}
	if w.claim != nil && (!taken.names[w.of] || w.of == name || !c.isTaken(w.of)) {
		c.Wrong(p, "%s: of: nothing of this name was taken; write of: token, or another name of take", what)
	}
}

// isTaken reports whether a name is of something that is taken of an answer.
func (c *checker) isTaken(name string) bool {
	return slices.ContainsFunc(slices.Concat(c.d.obtain, c.d.refresh), func(q *request) bool {
		return slices.ContainsFunc(q.take, func(t take) bool { return t.name == name })
	})
}

func (c *checker) tree(t *tree, what string, here *place) {
	if t == nil {
		return
	}
	if t.leaf != nil {
		c.text(*t.leaf, what, here)
	}
	for _, x := range t.list {
		c.tree(x, what, here)
	}
	for _, m := range t.members {
		c.tree(m.tree, what+"."+m.name, here)
	}
}

// url: a secret may stand in a URL only under query, and a name that decides where the request goes is an input.
func (c *checker) url(q *request, what string, here *place) {
	u, leads := q.target(), "host"
	if q.issuer != nil {
		what, leads = what+".issuer", "issuer"
	}
	at := u.written.at
	c.text(u.written, what, here)
	for _, n := range u.names() {
		if c.meaning(n).secret {
			c.Wrong(at, "%s: %q is a secret: in a URL it may stand under query only, for paths are logged everywhere; write query: {name: \"{{%s}}\"}", what, n, n)
		}
	}
	c.fits(u, what)
	for _, n := range q.ledBy() {
		if s := c.meaning(n).chosen; s != "" {
			c.Wrong(at, "%s: callers choose %q, and could send the credential's secrets to themselves: make the %s of inputs, or say one_of", what, s, leads)
		}
	}
}

// fits checks what is known of the names in a URL: that one which begins it is a whole URL, and that what may stand for the
// others can. What answers bring, and what is computed, is held against it when it is used.
func (c *checker) fits(u urlTemplate, what string) {
	for _, n := range u.names() {
		in := cmp.Or(c.d.inputs[n], c.d.parameters[n])
		if n == "audience" {
			in = c.d.audience
		}
		if in == nil {
			continue
		}
		if n == u.whole {
			if in.format != "url" {
				c.Wrong(u.written.at, "%s: {{%s}} begins a URL, and must be a whole one: format: url", what, n)
			}
			continue
		}
		if slices.Contains(u.hostNames(), n) && (in.format == hostPathFormat || in.format == "url") {
			if c.d.inputs[n] == nil || in.format == "url" || u.hostPath() != n {
				c.Wrong(u.written.at, "%s: {{%s}} is %s and stands in a host: begin the URL with {{%s}} and format: url, or write https://{{%s}}/… and format: %s of an input", what, n, in.format, n, n, hostPathFormat)
			}
			continue
		}
		may := in.oneOf
		if in.hasDefault && len(in.fallback.names()) == 0 {
			may = append(slices.Clone(may), withNames(in.fallback.parts, ""))
		}
		for _, value := range may {
			if why := u.misfit(n, value); why != "" {
				c.Wrong(u.written.at, "%s: a value of {{%s}} %s", what, n, why)
			}
		}
	}
}
