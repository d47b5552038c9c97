package provider

import "slices"

// behind adds a name and all that it is computed of.
func (d *definition) behind(name string, out map[string]bool) {
	if out[name] {
		return
	}
	out[name] = true
	if x, ok := d.let[name]; ok {
		for _, n := range x.names() {
			d.behind(n, out)
		}
	}
}

// named are the names in texts, and all that they are computed of.
func (d *definition) named(texts []text) map[string]bool {
	out := map[string]bool{}
	for _, t := range texts {
		for _, n := range t.names() {
			d.behind(n, out)
		}
	}
	return out
}

// uses reports whether a request names something.
func (d *definition) uses(q *request, name string) bool { return d.named(d.sent(q))[name] }

// sent are the texts of a request that are sent.
func (d *definition) sent(q *request) []text {
	texts := append(textsOf(d.headers, q.headers, q.query, q.cookies.fields, q.body.fields), q.target().written, q.body.text)
	if q.cookies.whole != nil {
		texts = append(texts, *q.cookies.whole)
	}
	if q.auth.kind == secretBasic || q.auth.kind == rawBasic {
		texts = append(texts, q.auth.id, q.auth.secret)
	}
	if q.withToken {
		texts = append(texts, d.presented()...)
	}
	var walk func(t *tree)
	walk = func(t *tree) {
		if t == nil {
			return
		}
		if t.leaf != nil {
			texts = append(texts, *t.leaf)
		}
		for _, x := range t.list {
			walk(x)
		}
		for _, m := range t.members {
			walk(m.tree)
		}
	}
	walk(q.body.json)
	return texts
}

// presented are the texts by which a token is shown.
func (d *definition) presented() []text {
	texts := textsOf(d.present.headers, d.present.query, d.present.cookies.fields)
	if d.present.cookies.whole != nil {
		texts = append(texts, *d.present.cookies.whole)
	}
	return texts
}

// shownToCallers are the names that callers are told: of an answer the token, its type and its scopes always.
func (d *definition) shownToCallers() map[string]bool {
	texts := append(d.presented(), textsOf(d.headers)...)
	if d.baseURL != nil {
		texts = append(texts, d.baseURL.written)
	}
	out := map[string]bool{"token": true, "token_type": true, "scope": true}
	for _, t := range texts {
		for _, n := range t.names() {
			out[n] = true
		}
	}
	for _, a := range d.attributes {
		out[a] = true
	}
	return out
}

// visibleToCallers are those, and all that they are computed of.
func (d *definition) visibleToCallers() map[string]bool {
	out := map[string]bool{}
	for n := range d.shownToCallers() {
		d.behind(n, out)
	}
	return out
}

// sentBy are the names that a run sends, or that a token which is not asked for is made of.
func (d *definition) sentBy(qs []*request) map[string]bool {
	var texts []text
	for _, q := range qs {
		texts = append(texts, d.sent(q)...)
	}
	return d.named(texts)
}

func textsOf(all ...[]field) []text {
	var out []text
	for _, f := range slices.Concat(all...) {
		out = append(out, f.values...)
	}
	return out
}
