package provider

import (
	"cmp"
	"fmt"
	"maps"
	"net/textproto"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/internal/suggest"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

// A checker holds what names mean while a definition is checked.
type checker struct {
	*reader
	d     *definition
	names map[string]bool
}

// check finds what is wrong with a definition whose words are all right: names that nothing gives, values that depend on
// themselves, secrets in places where they would be seen.
func (r *reader) check(d *definition) {
	c := &checker{reader: r, d: d, names: map[string]bool{}}
	c.namespace()
	c.cycles()
	for _, in := range d.inputs {
		if in.was != "" && d.inputs[in.was] != nil {
			c.Wrong(in.at, "inputs: was: %q is an input of its own", in.was)
		}
		c.defaulted(in, "inputs")
	}
	for _, in := range d.parameters {
		c.defaulted(in, "parameters")
	}
	if d.audience != nil {
		c.defaulted(d.audience, "audience")
	}
	for _, s := range []*set{d.scopes, d.resources} {
		if s != nil {
			for _, t := range s.defaults {
				c.chosen(t, "default")
			}
		}
	}
	c.fields(d.headers, "headers", c.base(), true)
	for i, q := range d.obtain {
		c.request(q, fmt.Sprintf("obtain[%d]", i), c.known(d.obtain[:i]))
	}
	for i, q := range d.refresh {
		known := c.known(d.refresh[:i])
		known["refresh_token"] = true
		for _, t := range d.held() {
			known[t] = true
		}
		c.request(q, fmt.Sprintf("refresh[%d]", i), known)
	}
	if d.token != nil {
		c.text(*d.token, "token", c.base())
	}
	c.seeds()
	c.tokenTaken("obtain", d.obtain)
	c.tokenTaken("refresh", d.refresh)
	c.presents()
	for _, name := range slices.Sorted(maps.Keys(d.let)) {
		x := d.let[name]
		c.computed(x, "let."+name, c.anywhere())
		c.wrapped(x, "let."+name, true)
	}
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
	if why := in.wrongValue(s); s != "" && why != "" {
		c.Wrong(in.at, "%s: the default %s", what, why)
	}
}

// chosen checks a default of what a caller may choose. It names inputs, and no secret one: what is chosen is shown.
func (c *checker) chosen(t text, what string) {
	c.text(t, what, c.inputNames())
	for _, n := range t.names() {
		if c.secret(n, map[string]bool{}) {
			c.Wrong(t.at, "%s: %q is a secret, and what was asked for is shown", what, n)
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
			c.Wrong(in.at, "inputs: %s and %s are both seeds; a credential has one refresh token", first, name)
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

// namespace: inputs, parameters, let, takes and built-ins are one; a clash is an error.
func (c *checker) namespace() {
	seen := map[string]string{}
	claim := func(name, what string, p position) {
		if builtinNames[name] && what != "take" {
			c.Wrong(p, "%s: %q is a name of the language; choose another", what, name)
			return
		}
		if was, ok := seen[name]; ok && was != what {
			c.Wrong(p, "%s: %q is among %s already", what, name, was)
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
			c.Wrong(x.at, "let.%s: it is computed from itself", name)
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

func (c *checker) inputNames() map[string]bool {
	out := map[string]bool{}
	for n, in := range c.d.inputs {
		if !in.seed {
			out[n] = true
		}
	}
	return out
}

// base are the names that hold before anything was asked.
func (c *checker) base() map[string]bool {
	out := c.inputNames()
	for n := range c.d.parameters {
		out[n] = true
	}
	for n := range c.d.let {
		out[n] = true
	}
	if c.d.scopes != nil {
		out["scope"] = true
	}
	if c.d.audience != nil {
		out["audience"] = true
	}
	if c.d.resources != nil {
		out["resources"] = true
	}
	return out
}

// known are the names that hold after some requests of a run.
func (c *checker) known(before []*request) map[string]bool {
	out := c.base()
	for _, q := range before {
		for _, t := range q.take {
			out[t.name] = true
		}
	}
	return out
}

// anywhere are all names: a let is computed where it is used, from what holds there.
func (c *checker) anywhere() map[string]bool {
	out := c.known(c.d.obtain)
	maps.Copy(out, c.known(c.d.refresh))
	out["refresh_token"], out["token"] = true, true
	return out
}

// held are the own values of the last answer, that a refresh may name.
func (d *definition) held() []string { return ownOf(d.obtain) }

// own are the own values that any run takes.
func (d *definition) own() []string { return ownOf(slices.Concat(d.obtain, d.refresh)) }

func ownOf(qs []*request) []string {
	var out []string
	for _, q := range qs {
		for _, t := range q.take {
			if !builtinNames[t.name] && !slices.Contains(out, t.name) {
				out = append(out, t.name)
			}
		}
	}
	return out
}

func (c *checker) text(t text, what string, known map[string]bool) {
	for _, n := range t.names() {
		if through := c.lacks(n, known, map[string]bool{}); through != "" {
			c.Wrong(t.at, "%s: {{%s}} is computed of {{%s}}, and nothing gives that here", what, n, through)
		}
		if !known[n] {
			p := Problem{
				File: c.File, Line: t.at.Line, Column: t.at.Column,
				Message:    fmt.Sprintf("%s: nothing gives {{%s}} here", what, n),
				Suggestion: suggest.Nearest(n, slices.Collect(maps.Keys(known))),
			}
			if n == "subject_token" || n == "actor_token" || n == "subject_token_type" {
				p.Message = fmt.Sprintf("%s: this version does not know {{%s}} yet", what, n)
			}
			c.Problems = append(c.Problems, p)
		}
	}
}

// lacks finds what a let value is computed of and nothing gives at a place; empty: nothing. Of alternatives one is enough.
func (c *checker) lacks(name string, known, seen map[string]bool) string {
	x, ok := c.d.let[name]
	if !ok || seen[name] {
		return ""
	}
	seen[name] = true
	return c.lacking(x, known, seen)
}

func (c *checker) lacking(x *compute, known, seen map[string]bool) string {
	if x.text != nil {
		for _, n := range x.text.names() {
			if s := c.lacks(n, known, seen); s != "" {
				return s
			}
			if c.anywhere()[n] && !known[n] {
				return n // what is given nowhere is said where the value is declared
			}
		}
	}
	if x.of != nil {
		return c.lacking(x.of, known, seen)
	}
	for i, a := range x.any {
		if s := c.lacking(a, known, seen); s == "" || i == len(x.any)-1 {
			return s
		}
	}
	return ""
}

func (c *checker) computed(x *compute, what string, known map[string]bool) {
	if x.text != nil {
		t := *x.text
		t.at = x.at
		c.text(t, what, known)
	}
	if x.of != nil {
		c.computed(x.of, what, known)
	}
	for _, a := range x.any {
		c.computed(a, what, known)
	}
}

// wrapped: digests and random bytes are no text, and cannot be sent as one.
func (c *checker) wrapped(x *compute, what string, asText bool) {
	if asText && x.op != "first" && x.binary() {
		c.Wrong(x.at, "%s: %s gives bytes; wrap it in hex, base64 or base64url", what, x.op)
	}
	if x.of != nil {
		switch x.op {
		case "lower", "upper", "split", "field", "from_base64", "from_base64url", "from_hex":
			c.wrapped(x.of, what, true)
		default:
			c.wrapped(x.of, what, false)
		}
	}
	for _, a := range x.any {
		c.wrapped(a, what, asText)
	}
}

func (c *checker) fields(fs []field, what string, known map[string]bool, headers bool) {
	for _, f := range fs {
		if headers {
			c.headerName(f, what)
		}
		for _, t := range f.values {
			c.text(t, what+"."+f.name, known)
		}
	}
}

func (c *checker) headerName(f field, what string) {
	if !validHeaderName(f.name) {
		c.Wrong(f.at, "%s: %q is not a header name", what, yamldoc.Clip(f.name))
		return
	}
	switch textproto.CanonicalMIMEHeaderKey(f.name) {
	case "Content-Length", "Transfer-Encoding", "Connection", "Host", "Cookie", "Upgrade", "Te", "Trailer":
		c.Wrong(f.at, "%s: %s is the transport's (use cookies for Cookie)", what, f.name)
	}
}

func validHeaderName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`()<>@,;:\"/[]?={}`, r)
	})
}

func (c *checker) request(q *request, what string, known map[string]bool) {
	c.url(q.target(), what+".url", known)
	c.fields(q.query, what+".query", known, false)
	c.fields(q.headers, what+".headers", known, true)
	c.fields(q.body.fields, what+".body", known, false)
	c.text(q.body.text, what+".text", known)
	c.tree(q.body.json, what+".json", known)
	c.fields(q.cookies.fields, what+".cookies", known, false)
	if q.cookies.whole != nil {
		c.text(*q.cookies.whole, what+".cookies", known)
	}
	if q.auth.kind == secretBasic || q.auth.kind == rawBasic {
		for _, t := range []text{q.auth.id, q.auth.secret} {
			if t.at == (position{}) {
				t.at = q.at
			}
			c.text(t, what+".auth", known)
		}
	}
	if q.withToken && !known["token"] {
		c.Wrong(q.at, "%s: with_token: no request before this one takes a token", what)
	}
	taken := maps.Clone(known)
	for _, t := range q.take {
		taken[t.name] = true
	}
	for _, t := range q.take {
		c.takes(t.where, t.at, what+".take."+t.name, t.name, taken)
	}
}

func (c *checker) takes(w *where, p position, what, name string, taken map[string]bool) {
	for _, x := range w.anyOf {
		c.takes(x, p, what, name, taken)
	}
	for _, m := range w.match {
		for _, t := range m.field.values {
			c.text(t, what+".where."+m.field.name, taken)
		}
	}
	if w.claim != nil && (!taken[w.of] || w.of == name) {
		c.Wrong(p, "%s: of: nothing was taken as %q", what, yamldoc.Clip(w.of))
	}
}

func (c *checker) tree(t *tree, what string, known map[string]bool) {
	if t == nil {
		return
	}
	if t.leaf != nil {
		c.text(*t.leaf, what, known)
	}
	for _, x := range t.list {
		c.tree(x, what, known)
	}
	for _, m := range t.members {
		c.tree(m.tree, what+"."+m.name, known)
	}
}

// url: a secret may stand in a URL only under query, and a name that makes the host is an input.
func (c *checker) url(u urlTemplate, what string, known map[string]bool) {
	at := u.written.at
	c.text(u.written, what, known)
	for _, n := range u.names() {
		if c.secret(n, map[string]bool{}) {
			c.Wrong(at, "%s: %q is a secret: in a URL it may stand under query only, for paths are logged everywhere", what, n)
		}
	}
	c.fits(u, what)
	for _, n := range u.hostNames() {
		if s := c.callers(n, map[string]bool{}); s != "" {
			c.Wrong(at, "%s: callers choose %q, and could send the credential's secrets to themselves: make the host of inputs, or say one_of", what, s)
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
				c.Wrong(u.written.at, "%s: {{%s}} may be %q, and %s", what, n, yamldoc.Clip(value), why)
			}
		}
	}
}

// callers finds what a caller is free to choose behind a name; empty: nothing.
func (c *checker) callers(name string, seen map[string]bool) string {
	if in := c.d.parameters[name]; in != nil && in.oneOf == nil {
		return name
	}
	switch name {
	case "audience":
		if c.d.audience != nil && c.d.audience.oneOf == nil {
			return name
		}
	case "scope":
		if c.d.scopes != nil && c.d.scopes.oneOf == nil {
			return name
		}
	case "resources":
		if c.d.resources != nil && c.d.resources.oneOf == nil {
			return name
		}
	}
	if x, ok := c.d.let[name]; ok && !seen[name] {
		seen[name] = true
		for _, n := range x.names() {
			if s := c.callers(n, seen); s != "" {
				return s
			}
		}
	}
	return ""
}
