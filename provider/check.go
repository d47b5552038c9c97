package provider

import (
	"fmt"
	"maps"
	"net/textproto"
	"slices"
	"strings"

	"github.com/tokenbroker/tokenbroker/internal/suggest"
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
			c.wrong(in.at, "inputs: was: %q is an input of its own", in.was)
		}
		if in.hasDefault {
			if why := in.wrongValue(in.fallback); why != "" {
				c.wrong(in.at, "inputs: the default %s", why)
			}
		}
	}
	for _, s := range []*set{d.scopes, d.resources} {
		if s != nil {
			for _, t := range s.defaults {
				c.text(t, "default", c.inputNames())
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
	c.tokenTaken("obtain", d.obtain)
	c.tokenTaken("refresh", d.refresh)
	c.presents()
	for name, x := range d.let {
		c.computed(x, "let."+name, c.anywhere())
	}
}

func (c *checker) tokenTaken(run string, qs []*request) {
	if len(qs) == 0 {
		return
	}
	last := qs[len(qs)-1]
	if !slices.ContainsFunc(last.take, func(t take) bool { return t.name == "token" }) {
		c.wrong(last.at, "%s: the last request takes no token; write take: {token: …}", run)
	}
}

// namespace: inputs, parameters, let, takes and built-ins are one; a clash is an error.
func (c *checker) namespace() {
	seen := map[string]string{}
	claim := func(name, what string, p position) {
		if builtinNames[name] && what != "take" {
			c.wrong(p, "%s: %q is a name of the language; choose another", what, name)
			return
		}
		if was, ok := seen[name]; ok && was != what {
			c.wrong(p, "%s: %q is among %s already", what, name, was)
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
			c.wrong(x.at, "let.%s: it is computed from itself", name)
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
func (d *definition) held() []string {
	var out []string
	for _, q := range d.obtain {
		for _, t := range q.take {
			if !builtinNames[t.name] {
				out = append(out, t.name)
			}
		}
	}
	return out
}

func (c *checker) text(t text, what string, known map[string]bool) {
	for _, n := range t.names() {
		if !known[n] {
			p := Problem{
				File: c.file, Line: t.at.line, Column: t.at.column,
				Message:    fmt.Sprintf("%s: nothing gives {{%s}} here", what, n),
				Suggestion: suggest.Nearest(n, slices.Collect(maps.Keys(known))),
			}
			if n == "subject_token" || n == "actor_token" || n == "subject_token_type" {
				p.Message = fmt.Sprintf("%s: this version does not know {{%s}} yet", what, n)
			}
			c.problems = append(c.problems, p)
		}
	}
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
		c.wrong(f.at, "%s: %q is no header's name", what, clip(f.name))
		return
	}
	switch textproto.CanonicalMIMEHeaderKey(f.name) {
	case "Content-Length", "Transfer-Encoding", "Connection", "Host", "Cookie", "Upgrade", "Te", "Trailer":
		c.wrong(f.at, "%s: %s is the transport's (use cookies for Cookie)", what, f.name)
	}
}

func validHeaderName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`()<>@,;:\"/[]?={}`, r)
	})
}

func (c *checker) request(q *request, what string, known map[string]bool) {
	if q.issuer != nil {
		c.url(*q.issuer, what+".issuer", known)
	} else {
		c.url(q.url, what+".url", known)
	}
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
		c.wrong(q.at, "%s: with_token: no request before this one takes a token", what)
	}
	taken := map[string]bool{}
	for _, t := range q.take {
		c.takes(t.where, t.at, what+".take."+t.name, taken)
		taken[t.name] = true
	}
}

func (c *checker) takes(w *where, p position, what string, taken map[string]bool) {
	for _, x := range w.anyOf {
		c.takes(x, p, what, taken)
	}
	if w.claim != nil && !taken[w.of] {
		c.wrong(p, "%s: of: nothing was taken as %q before", what, clip(w.of))
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
func (c *checker) url(t text, what string, known map[string]bool) {
	c.text(t, what, known)
	for _, n := range t.names() {
		if c.secret(n, map[string]bool{}) {
			c.wrong(t.at, "%s: %q is a secret: in a URL it may stand under query only, for paths are logged everywhere", what, n)
		}
	}
}

// secret reports whether a name stands for a secret input, or for something computed of one.
func (c *checker) secret(name string, seen map[string]bool) bool {
	if in := c.d.inputs[name]; in != nil {
		return in.secret
	}
	if in := c.d.parameters[name]; in != nil {
		return in.secret
	}
	x, ok := c.d.let[name]
	if !ok || seen[name] {
		return name == "refresh_token" || name == "token"
	}
	seen[name] = true
	return slices.ContainsFunc(x.names(), func(n string) bool { return c.secret(n, seen) })
}

// keptSecret finds a secret input that is not to be handed out behind a name.
func (c *checker) keptSecret(name string, seen map[string]bool) string {
	if in := c.d.inputs[name]; in != nil {
		if in.secret && !in.handedOut {
			return name
		}
		return ""
	}
	if in := c.d.parameters[name]; in != nil && in.secret {
		return name
	}
	if x, ok := c.d.let[name]; ok && !seen[name] {
		seen[name] = true
		for _, n := range x.names() {
			if s := c.keptSecret(n, seen); s != "" {
				return s
			}
		}
	}
	if name == "refresh_token" {
		return name
	}
	return ""
}

// notPresented are headers that a token is never shown in: they are the transport's, or a proxy's.
func notPresented(name string) bool {
	n := strings.ToLower(name)
	switch n {
	case "host", "cookie", "content-length", "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
		"te", "trailer", "transfer-encoding", "upgrade":
		return true
	}
	return strings.HasPrefix(n, ":") || strings.HasPrefix(n, "x-forwarded-") || strings.HasPrefix(n, "x-envoy-")
}

// presents checks what callers will see.
func (c *checker) presents() {
	known := c.known(c.d.obtain)
	maps.Copy(known, c.known(c.d.refresh))
	known["token"] = true
	p := c.d.present
	uses := false
	shown := func(t text, what string) {
		c.text(t, what, known)
		for _, n := range t.names() {
			if s := c.keptSecret(n, map[string]bool{}); s != "" {
				c.wrong(t.at, "%s: callers would see the secret %q; say handed_out: true on it if that is meant", what, s)
			}
			_, static := c.d.inputs[n]
			uses = uses || !static
		}
	}
	all := slices.Concat(p.headers, p.query, p.cookies.fields)
	for _, f := range all {
		for _, t := range f.values {
			shown(t, "present."+f.name)
		}
	}
	if p.cookies.whole != nil {
		shown(*p.cookies.whole, "present.cookies")
	}
	for _, f := range slices.Concat(p.headers, c.d.headers) {
		if notPresented(f.name) || !validHeaderName(f.name) {
			c.wrong(f.at, "present: the header %s cannot be handed out", clip(f.name))
		}
	}
	for _, f := range c.d.headers {
		for _, t := range f.values {
			for _, n := range t.names() {
				if s := c.keptSecret(n, map[string]bool{}); s != "" {
					c.wrong(t.at, "headers.%s: headers are handed out with the token, and callers would see the secret %q; put it into the request's own headers", f.name, s)
				}
			}
		}
	}
	if p.declared && !p.nothing && !uses && len(all) > 0 {
		c.wrong(all[0].at, "present: nothing of it names a value that was taken, such as {{token}}")
	}
	if c.d.baseURL != nil {
		c.text(*c.d.baseURL, "base_url", known)
		for _, n := range c.d.baseURL.names() {
			if s := c.keptSecret(n, map[string]bool{}); s != "" {
				c.wrong(c.d.baseURL.at, "base_url: callers would see the secret %q", s)
			}
		}
	}
	for _, a := range c.d.attributes {
		if !slices.Contains(c.d.held(), a) && !builtinNames[a] || a == "refresh_token" || a == "token" {
			c.problems = append(c.problems, Problem{
				File: c.file, Message: fmt.Sprintf("attributes: nothing is taken as %q", clip(a)), Suggestion: suggest.Nearest(a, c.d.held()),
			})
		}
	}
}
