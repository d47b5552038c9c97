package provider

import (
	"net/http"
	"slices"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/jsondoc"
)

// oauth2 turns the shorthand into an ordinary request: POST, the grant's parameters as a form, and the answer of RFC 6749
// section 5.1. What is written in params wins over what is added, and null removes it.
func (r *reader) oauth2(q *request, it item, w map[string]item, what string, d *definition, place broker.Run, nulled map[string]bool) {
	q.oauth2, q.method = true, http.MethodPost
	if it.Value.Kind == yaml.MappingNode {
		in := r.words(it.Value, what+".oauth2", &issuerWords)
		if i, ok := in["issuer"]; ok {
			t := r.url(i.Value, what+".oauth2.issuer")
			q.issuer = &t
		} else {
			r.Wrong(at(it.Value), "%s.oauth2: write a URL, or {issuer: URL}", what)
		}
	} else {
		q.url = r.url(it.Value, what+".oauth2")
	}
	if q.body.kind != noBody {
		r.Wrong(it.At, "%s: oauth2 makes the body; write what is sent besides under params", what)
	}
	send := "form"
	if s, ok := w["send"]; ok {
		send = r.oneOf(s, what, &requestWords)
	}
	params := r.params(w, what)
	add := func(name string, t text) {
		t.at, t.implied = q.at, true
		if !slices.ContainsFunc(params, func(m member) bool { return m.name == name }) {
			params = append(params, member{name, &tree{leaf: &t}})
		}
	}
	grant := literalText("client_credentials")
	if place == broker.Refresh {
		grant = literalText("refresh_token")
	}
	if g, ok := w["grant"]; ok {
		grant = r.text(g.Value, what+".grant")
	}
	if !isNone(grant) {
		n := len(params)
		if add("grant_type", grant); len(params) > n {
			_, own := w["grant"]
			params[n].tree.leaf.implied = !own
		}
	}
	switch {
	case place == broker.Refresh:
		add("refresh_token", nameText("refresh_token"))
	default:
		if d.scopes != nil {
			add("scope", nameText("scope"))
		}
		if d.audience != nil {
			add("audience", nameText("audience"))
		}
		if d.resources != nil {
			add("resource", nameText("resources"))
		}
		if len(grant.parts) == 1 && grant.parts[0].literal == "password" {
			add("username", nameText("username"))
			add("password", nameText("password"))
		}
	}
	q.body = r.sendParams(q, send, params, what)
	for _, n := range []string{"access_token:token", "token_type", "expires_in", "refresh_token", "scope"} {
		addTake(q, n, nulled)
	}
}

func isNone(t text) bool { return len(t.parts) == 1 && t.parts[0].literal == "none" }

// params reads params in the order written; null stays as a mark that removes.
func (r *reader) params(w map[string]item, what string) []member {
	it, ok := w["params"]
	if !ok {
		return nil
	}
	var out []member
	for _, p := range r.Items(it.Value, what+".params") {
		out = append(out, member{p.Key, r.tree(p.Value, what+".params."+p.Key)})
	}
	return out
}

// sendParams puts the parameters where they go.
func (r *reader) sendParams(q *request, send string, params []member, what string) body {
	kept := slices.DeleteFunc(slices.Clone(params), func(m member) bool { return m.tree.kind == treeRaw && m.tree.raw == nil })
	q.unsent = map[string]bool{}
	for _, m := range params {
		if m.tree.kind == treeRaw && m.tree.raw == nil {
			q.unsent[m.name] = true
		}
	}
	if send == "json" {
		return body{kind: jsonBody, json: &tree{kind: treeObject, members: kept}}
	}
	var fields []field
	for _, m := range params {
		fields = append(fields, r.flat(m, q.at, what))
	}
	if send == "query" {
		q.query = append(q.query, fields...)
		return body{}
	}
	return body{kind: formBody, fields: fields}
}

// flat makes a field of a parameter: a form has texts and lists of them.
func (r *reader) flat(m member, at position, what string) field {
	f := field{name: m.name, at: at}
	leaves := []*tree{m.tree}
	if m.tree.kind == treeList {
		leaves = m.tree.list
	}
	for _, l := range leaves {
		switch {
		case l.kind == treeLeaf && l.leaf != nil:
			f.values = append(f.values, *l.leaf)
		case l.kind == treeRaw && l.raw != nil:
			f.values = append(f.values, literalText(jsondoc.Text(l.raw)))
		case l.kind == treeRaw:
			f.remove = true
		default:
			r.Wrong(at, "%s.params.%s: only JSON can have a structure; write send: json, or a text", what, m.name)
		}
	}
	return f
}

// addTake takes one of RFC 6749's names, optionally called otherwise here, unless the definition says otherwise.
func addTake(q *request, names string, nulled map[string]bool) {
	as := names
	from := names
	for i := range names {
		if names[i] == ':' {
			from, as = names[:i], names[i+1:]
		}
	}
	if nulled[as] || slices.ContainsFunc(q.take, func(t take) bool { return t.name == as }) {
		return
	}
	q.take = append(q.take, take{name: as, at: q.at, where: &where{
		path: &path{steps: []step{{member: from}}, as: from}, optional: as != "token", written: from, source: from,
	}})
}
