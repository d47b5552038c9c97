package provider

import (
	"fmt"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
)

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

// A slot is a part of a request, and what stands in it.
type slot struct {
	text
	// where it is, for people, and name what it is called there; empty: nothing.
	where, name string
	// inList: it is in a list with others. Where one of them is absent, what comes after stands in its place.
	inList bool
	// client: it is the secret of client authentication (RFC 6749 section 2.3.1). url: it is the URL, but for its query. query: it is in that, which
	// others write down.
	client, url, query bool
}

const (
	inHeader  = "the header "
	inQueryAs = "the query, as "
)

// slots are the parts of a request.
func (d *definition) slots(q *request) (all []slot) {
	named := false // the body's Content-Type is made of names
	post := func(name string) bool { return q.auth.kind == secretPost && name == "client_secret" }
	add := func(fields []field, where string) {
		for _, f := range fields {
			s := slot{where: where + plainly(f.name), name: f.name, client: post(f.name)}
			s.query = where == inQueryAs
			if where == inHeader {
				s.where = where + textproto.CanonicalMIMEHeaderKey(f.name)
			}
			for i, t := range f.values {
				if s.text = t; len(f.values) > 1 {
					s.where, s.name, s.inList = fmt.Sprintf("%s%s[%d]", where, plainly(f.name), i), "", true
				}
				all = append(all, s)
			}
		}
	}
	add(d.headers, inHeader)
	add(q.headers, inHeader)
	add(q.query, inQueryAs)
	add(q.cookies.fields, "the cookie ")
	kind := "" // others may read a body by what the header says
	for _, f := range slices.Concat(d.headers, q.headers) {
		for _, t := range f.values {
			if strings.EqualFold(f.name, "Content-Type") {
				kind += " of Content-Type " + strconv.Quote(inLines(writtenAs(t.parts)))
				named = named || len(t.names()) > 0
			}
		}
	}
	body := "the body" + kind
	add(q.body.fields, body+", as ")
	if q.cookies.whole != nil {
		all = append(all, slot{text: *q.cookies.whole, where: "the cookies"})
	}
	before, behind := atQuery(q.target().written)
	all = append(all, slot{text: before, where: "the URL", url: true}, slot{text: behind, where: "the URL's query", query: true}, slot{text: q.body.text, where: body, inList: named})
	if q.auth.kind == secretBasic || q.auth.kind == rawBasic {
		all = append(all, slot{text: q.auth.id, where: "HTTP Basic, as the user"}, slot{text: q.auth.secret, where: "HTTP Basic", client: true})
	}
	if q.withToken {
		add(d.present.headers, inHeader)
		add(d.present.query, inQueryAs)
		add(d.present.cookies.fields, "the cookie ")
		if d.present.cookies.whole != nil {
			all = append(all, slot{text: *d.present.cookies.whole, where: "the cookies"})
		}
	}
	var walk func(t *tree, at string, in slot)
	walk = func(t *tree, at string, in slot) {
		if t == nil {
			return
		}
		if t.leaf != nil {
			in.text, in.where, in.name, in.client = *t.leaf, body+", as "+at, at, post(at)
			all = append(all, in)
		}
		in.inList = in.inList || t.choosesPlace()
		for i, x := range t.list {
			walk(x, fmt.Sprintf("%s[%d]", at, i), in)
		}
		for _, m := range t.members {
			walk(m.tree, strings.TrimPrefix(at+"."+plainly(m.name), "."), in)
		}
	}
	walk(q.body.json, "", slot{inList: named})
	return all
}

// choosesPlace reports whether it is a list in which what stands where depends on what is there.
func (t *tree) choosesPlace() bool {
	return len(t.list) > 1 || len(t.list) == 1 && t.list[0].leaf == nil
}

// plainly is a member's name, in quotes where it could be taken for several.
func plainly(name string) string {
	if name == "" || strings.ContainsAny(name, ".[]\"") {
		return strconv.Quote(name)
	}
	return name
}

// atQuery cuts a URL at its query.
func atQuery(u text) (before, behind text) {
	before, behind = u, text{at: u.at}
	for i, p := range u.parts {
		if path, query, ok := strings.Cut(p.literal, "?"); ok {
			before.parts = append(slices.Clip(u.parts[:i]), part{literal: path})
			behind.parts = append([]part{{literal: query}}, u.parts[i+1:]...)
			break
		}
	}
	return before, behind
}

// sent are the texts of a request that are sent.
func (d *definition) sent(q *request) (texts []text) {
	for _, s := range d.slots(q) {
		texts = append(texts, s.text)
	}
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
