package provider

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

var methods = map[string]string{"get": http.MethodGet, "post": http.MethodPost, "put": http.MethodPut, "delete": http.MethodDelete}

func (r *reader) request(n *yaml.Node, what string, d *definition, place broker.Run) *request {
	q := &request{at: at(n)}
	w := r.words(n, what, &requestWords)
	var chosen []string
	for _, word := range []string{"oauth2", "get", "post", "put", "delete"} {
		if it, ok := w[word]; ok {
			chosen = append(chosen, word)
			if word != "oauth2" {
				q.method, q.url = methods[word], r.url(it.Value, what+"."+word)
			}
		}
	}
	if len(chosen) != 1 && n.Kind == yaml.MappingNode {
		r.Wrong(at(n), "%s: write exactly one of oauth2, get, post, put, delete, with the URL; here are %d", what, len(chosen))
	}
	r.bodyOf(q, w, what)
	if it, ok := w["query"]; ok {
		q.query = r.fields(it.Value, what+".query")
	}
	if it, ok := w["headers"]; ok {
		q.headers = r.fields(it.Value, what+".headers")
	}
	q.body.as = kindOfText(d.headers, q.headers)
	if it, ok := w["cookies"]; ok {
		q.cookies = r.cookies(it.Value, what+".cookies")
	}
	q.withToken = r.yes(w["with_token"], what)
	if it, ok := w["answer"]; ok {
		q.answer = r.oneOf(it, what, &requestWords)
	}
	if it, ok := w["ok"]; ok {
		codes := []string{it.Value.Value}
		if it.Value.Kind != yaml.ScalarNode {
			codes = r.Texts(it.Value, what+".ok")
		}
		for _, s := range codes {
			code, good := statusOf(s)
			if !good {
				r.Wrong(at(it.Value), "%s.ok: this is not an HTTP status; write one from 100 to 599, or a list of them", what)
			}
			q.ok = append(q.ok, code)
		}
	}
	if it, ok := w["error"]; ok {
		q.errors = r.errorRules(it.Value, what+".error")
	}
	if it, ok := w["expect"]; ok {
		for _, e := range r.Items(it.Value, what+".expect") {
			p, err := parsePath(e.Key)
			if err != nil {
				r.Wrong(e.At, "%s.expect: %v", what, err)
				continue
			}
			q.expect = append(q.expect, expectation{p, r.test(e.Value, what+".expect."+e.Key)})
		}
	}
	nulled := r.takes(q, w, what)
	q.untaken = nulled
	if it, ok := w["auth"]; ok {
		q.auth = r.auth(it.Value, what+".auth", d)
	} else if _, ok := w["oauth2"]; ok {
		q.auth = secretAuth(secretPost, d)
	}
	if it, ok := w["oauth2"]; ok {
		r.oauth2(q, it, w, what, d, place, nulled)
	} else {
		for _, word := range []string{"grant", "send", "params"} {
			if it, ok := w[word]; ok {
				r.Wrong(it.At, "%s: %s goes with oauth2 only; write what is sent under query, form or json", what, word)
			}
		}
	}
	switch {
	case q.auth.kind == secretPost:
		addSecretPost(q)
	case q.auth.kind == noAuth && q.oauth2 && gives(d, "client_id"): // a public client says who it is (RFC 6749 section 3.2.1)
		addParam(q, "client_id", nameText("client_id"))
	}
	return q
}

// statusOf reads an HTTP status, as RFC 9110 section 15 has them.
func statusOf(s string) (int, bool) {
	code, err := strconv.Atoi(s)
	return code, err == nil && code >= 100 && code <= 599 && strconv.Itoa(code) == s
}

func isStatus(s string) bool {
	_, good := statusOf(s)
	return good
}

func (r *reader) bodyOf(q *request, w map[string]item, what string) {
	var bodies []string
	for _, word := range []string{"form", "json", "text", "multipart"} {
		it, ok := w[word]
		if !ok {
			continue
		}
		bodies = append(bodies, word)
		switch word {
		case "form":
			q.body = body{kind: formBody, fields: r.fields(it.Value, what+".form")}
		case "multipart":
			q.body = body{kind: multipartBody, fields: r.fields(it.Value, what+".multipart")}
		case "json":
			q.body = body{kind: jsonBody, json: r.tree(it.Value, what+".json")}
		case "text":
			q.body = body{kind: textBody, text: r.text(it.Value, what+".text")}
		}
		if q.method == http.MethodGet || q.method == http.MethodDelete {
			r.Wrong(it.At, "%s: %s has no body; write it under query, or use post", what, strings.ToLower(q.method))
		}
	}
	if len(bodies) > 1 {
		r.Wrong(w[bodies[1]].At, "%s: one body at most, and here are %s; leave one out", what, strings.Join(bodies, " and "))
	}
}

func (r *reader) auth(n *yaml.Node, what string, d *definition) auth {
	if n.Kind == yaml.ScalarNode {
		if n.Value == "basic" {
			r.Wrong(at(n), "%s: basic of what? write {basic: [\"{{username}}\", \"{{password}}\"]}, or client_secret_basic for the client's id and secret", what)
			return auth{}
		}
		switch r.choice(n, what, requestWords.values("auth")) {
		case "client_secret_basic":
			return secretAuth(secretBasic, d)
		case "client_secret_post":
			return secretAuth(secretPost, d)
		}
		return auth{}
	}
	w := r.words(n, what, &authWords)
	if len(w) != 1 {
		r.Wrong(at(n), "%s: write exactly one of basic, client_secret_basic, client_secret_post", what)
	}
	for word, it := range w {
		what += "." + word
		if word == "basic" {
			if it.Value.Kind != yaml.SequenceNode || len(it.Value.Content) != 2 {
				r.Wrong(at(it.Value), "%s: write a list of user and password, as [\"{{username}}\", \"{{password}}\"]", what)
				return auth{}
			}
			return auth{kind: rawBasic, id: r.text(it.Value.Content[0], what), secret: r.text(it.Value.Content[1], what)}
		}
		a := secretAuth(map[string]authKind{"client_secret_basic": secretBasic, "client_secret_post": secretPost}[word], d)
		in := r.words(it.Value, what, &pairWords)
		if x, ok := in["id"]; ok {
			a.id = r.text(x.Value, what+".id")
		}
		if x, ok := in["secret"]; ok {
			a.secret = r.text(x.Value, what+".secret")
		}
		return a
	}
	return auth{}
}

// secretAuth uses the inputs client_id and client_secret.
func secretAuth(k authKind, _ *definition) auth {
	return auth{kind: k, id: nameText("client_id"), secret: nameText("client_secret")}
}

// gives reports whether an input, a parameter or a let has this name.
func gives(d *definition, name string) bool {
	return d.inputs[name] != nil || d.parameters[name] != nil || d.let[name] != nil
}

// addSecretPost puts id and secret where the other parameters go (RFC 6749 section 2.3.1), unless they were written.
func addSecretPost(q *request) {
	addParam(q, "client_id", q.auth.id)
	addParam(q, "client_secret", q.auth.secret)
}

// addParam puts a parameter where the others go, unless it was written, or removed by null.
func addParam(q *request, name string, t text) {
	if t.at == (position{}) {
		t.at, t.implied = q.at, true
	}
	if q.unsent[name] {
		return
	}
	switch q.body.kind {
	case jsonBody:
		if q.body.json.kind == treeObject && !slices.ContainsFunc(q.body.json.members, func(m member) bool { return m.name == name }) {
			q.body.json.members = append(q.body.json.members, member{name, &tree{leaf: &t}})
		}
	case formBody, multipartBody:
		q.body.fields = addField(q.body.fields, field{name: name, values: []text{t}, at: q.at})
	case noBody, textBody:
		q.query = addField(q.query, field{name: name, values: []text{t}, at: q.at})
	}
}

// addField adds a field unless one of its name is there, or was removed by null.
func addField(fields []field, f field) []field {
	if slices.ContainsFunc(fields, func(x field) bool { return x.name == f.name }) {
		return fields
	}
	return append(fields, f)
}

// takes reads take, and returns the names that were removed by null.
func (r *reader) takes(q *request, w map[string]item, what string) (nulled map[string]bool) {
	nulled = map[string]bool{}
	it, ok := w["take"]
	if !ok {
		return nulled
	}
	q.takeWritten = true
	for _, t := range r.Items(it.Value, what+".take") {
		r.nameOK(t, what+".take")
		if yamldoc.IsNull(t.Value) {
			nulled[t.Key] = true
			continue
		}
		q.take = append(q.take, take{name: t.Key, where: r.where(t.Value, what+".take."+t.Key), at: t.At})
	}
	return nulled
}

func (r *reader) where(n *yaml.Node, what string) *where {
	w := &where{source: asWritten(n)}
	switch n.Kind {
	case yaml.SequenceNode:
		var all []string
		for _, c := range n.Content {
			x := r.where(c, what)
			w.anyOf = append(w.anyOf, x)
			all = append(all, x.written)
		}
		w.written = strings.Join(all, " or ")
		if len(w.anyOf) == 0 {
			r.Wrong(at(n), "%s: an empty list takes nothing; write a path, as data.token", what)
		}
		return w
	case yaml.MappingNode:
	default:
		w.path = r.path(n, what)
		w.written = n.Value
		return w
	}
	in := r.words(n, what, &whereWords)
	var chosen []string
	for _, word := range []string{"path", "header", "cookie", "cookies", "text", "claim"} {
		if it, ok := in[word]; ok {
			chosen = append(chosen, word)
			w.written = word + " " + it.Value.Value
		}
	}
	if len(chosen) != 1 {
		r.Wrong(at(n), "%s: write exactly one of path, header, cookie, cookies, text, claim", what)
	}
	if it, ok := in["path"]; ok {
		r.pathOrList(w, it.Value, what+".path")
	}
	if it, ok := in["header"]; ok {
		w.header, _ = r.Text(it.Value, what+".header")
	}
	if it, ok := in["cookie"]; ok {
		w.cookie, _ = r.Text(it.Value, what+".cookie")
	}
	if it, ok := in["cookies"]; ok {
		w.cookies = r.oneOf(it, what, &whereWords) == "all"
	}
	w.text = r.yes(in["text"], what)
	if it, ok := in["claim"]; ok {
		w.claim = r.path(it.Value, what+".claim")
		if _, ok := in["of"]; !ok {
			r.Wrong(it.At, "%s.claim: of which token? of is missing; write of: token", what)
		}
	}
	if it, ok := in["of"]; ok {
		w.of, _ = r.Text(it.Value, what+".of")
		if w.claim == nil {
			r.Wrong(it.At, "%s.of: goes with claim; write claim: NAME beside it, or leave it out", what)
		}
	}
	r.eachWhere(w, in, what)
	if it, ok := in["unit"]; ok {
		w.unit = r.oneOf(it, what, &whereWords)
	}
	if it, ok := in["layout"]; ok {
		w.layout = r.layout(it.Value, what+".layout")
	}
	if it, ok := in["pattern"]; ok {
		w.pattern, _ = r.regexp(it.Value, what+".pattern", false)
		if w.pattern != nil && w.pattern.NumSubexp() < 1 {
			r.Wrong(at(it.Value), "%s.pattern: a group ( ) says what to take; write one, as in id=([0-9]+)", what)
		}
	}
	w.optional = r.yes(in["optional"], what)
	return w
}

// pathOrList reads a path or, of the element that was found, a list in which another is looked for.
func (r *reader) pathOrList(w *where, n *yaml.Node, what string) {
	if n.Kind != yaml.MappingNode {
		w.path, w.written = r.path(n, what), n.Value
		return
	}
	w.within = &where{}
	in := r.words(n, what, &withinWords)
	if it, ok := in["path"]; ok {
		r.pathOrList(w.within, it.Value, what+".path")
	}
	if len(in) < 3 {
		r.Wrong(at(n), "%s: a list in a list has path, each and where; write all three", what)
		return
	}
	w.written = w.within.written
	r.eachWhere(w.within, in, what)
}

// eachWhere reads `each` with `where`: of a list, the first element that has these values.
func (r *reader) eachWhere(w *where, in map[string]item, what string) {
	each, hasEach := in["each"]
	wanted, hasWanted := in["where"]
	if !hasEach && !hasWanted && w.within == nil {
		return
	}
	if !hasEach || !hasWanted || w.path == nil && w.within == nil {
		r.Wrong(in["path"].At, "%s: each and where go together, with path; write {each: items, where: {name: a}, path: id}", what)
		return
	}
	w.each = r.path(each.Value, what+".each")
	for _, f := range r.fields(wanted.Value, what+".where") {
		p, err := parsePath(f.name)
		if err != nil {
			r.Wrong(f.at, "%s.where: %v", what, err)
		}
		w.match = append(w.match, match{p, f})
	}
}

func (r *reader) test(n *yaml.Node, what string) test {
	t := test{}
	switch n.Kind {
	case yaml.SequenceNode:
		t.is = r.scalars(n, what)
	case yaml.MappingNode:
		w := r.words(n, what, &testWords)
		if it, ok := w["present"]; ok {
			yes := it.Value.Value == "true"
			if !yes && it.Value.Value != "false" {
				r.Wrong(at(it.Value), "%s.present: write true or false", what)
			}
			t.present = &yes
		}
		if it, ok := w["not"]; ok {
			t.not = r.scalars(it.Value, what+".not")
		}
		if len(w) != 1 {
			r.Wrong(at(n), "%s: write a value, a list of values, {present: true} or {not: …}", what)
		}
	default:
		t.is = r.scalars(n, what)
	}
	return t
}

// scalars reads a value or a list of values to compare with; null is absence.
func (r *reader) scalars(n *yaml.Node, what string) []any {
	if n.Kind != yaml.SequenceNode {
		if yamldoc.IsNull(n) {
			return []any{nil}
		}
		s, _ := r.Text(n, what)
		return []any{s}
	}
	var out []any
	for _, c := range n.Content {
		out = append(out, r.scalars(c, what)...)
	}
	if len(out) == 0 {
		r.Wrong(at(n), "%s: an empty list has nothing to compare with; write a value", what)
	}
	return out
}

func (r *reader) errorRules(n *yaml.Node, what string) *errorRules {
	e := &errorRules{}
	w := r.words(n, what, &errorWords)
	for word, to := range map[string]**where{"code": &e.code, "message": &e.message, "retry_after": &e.retryAfter} {
		if it, ok := w[word]; ok {
			*to = r.where(it.Value, what+"."+word)
		}
	}
	rules, ok := w["rules"]
	if !ok {
		return e
	}
	if rules.Value.Kind != yaml.SequenceNode {
		r.Wrong(at(rules.Value), "%s.rules: a list is wanted, not %s; write [{status: 401, means: credential}]", what, yamldoc.KindName(rules.Value))
		return e
	}
	for i, c := range rules.Value.Content {
		where := fmt.Sprintf("%s.rules[%d]", what, i)
		in := r.words(c, where, &ruleWords)
		var x rule
		if it, ok := in["status"]; ok {
			t := r.test(it.Value, where+".status")
			x.status = &t
			for _, v := range slices.Concat(t.is, t.not) {
				if s, _ := v.(string); !isStatus(s) {
					r.Wrong(at(it.Value), "%s.status: a value is no HTTP status; write 401, or a list of some from 100 to 599", where)
				}
			}
		}
		if it, ok := in["code"]; ok {
			t := r.test(it.Value, where+".code")
			x.code = &t
		}
		if x.status == nil && x.code == nil {
			r.Wrong(at(c), "%s: status or code says when it applies; write one, as in {status: 401, means: credential}", where)
		}
		if it, ok := in["wait"]; ok {
			x.wait = r.duration(it.Value, where+".wait")
		}
		if it, ok := in["means"]; ok {
			x.means = r.oneOf(it, where, &ruleWords)
		} else {
			r.Wrong(at(c), "%s: means is missing; write means: credential, or upstream, rate_limited, request, grant", where)
		}
		e.rules = append(e.rules, x)
	}
	return e
}
