package provider

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/broker"
)

// mostBytes bounds a definition's file.
const mostBytes = 1 << 20

var definitionName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

var definitionWords = []string{
	"language", "name", "override", "title", "docs", "inputs", "parameters", "scopes", "audience", "resources", "let", "headers", "error",
	"obtain", "token", "refresh", "refresh_token_reuse", "refresh_token_lifetime", "lifetime", "margin", "rate", "when_store_is_away",
	"present", "attributes", "base_url",
}

// parse reads and checks one definition. It returns everything that is wrong, and a definition only when nothing is.
func parse(file string, data []byte) (*definition, []Problem) {
	r := &reader{file: file}
	root := r.document(data)
	if root == nil {
		return nil, r.problems
	}
	d := r.definition(root)
	if d != nil && !r.namesUnknown {
		r.check(d)
	}
	if len(r.problems) > 0 {
		sortProblems(r.problems)
		return d, r.problems
	}
	d.digest = digest(root)
	d.facts = d.makeFacts()
	return d, nil
}

// document reads the one document of a file.
func (r *reader) document(data []byte) *yaml.Node {
	if len(data) > mostBytes {
		r.wrong(position{}, "larger than %d bytes", mostBytes)
		return nil
	}
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	var doc, more yaml.Node
	if err := dec.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			r.wrong(position{}, "the file is empty")
		} else {
			r.wrong(yamlPosition(err), "not YAML: %s", yamlMessage(err))
		}
		return nil
	}
	if err := dec.Decode(&more); !errors.Is(err, io.EOF) {
		r.wrong(position{more.Line, more.Column}, "one definition a file: this is a second document")
		return nil
	}
	if doc.Kind != yaml.DocumentNode || len(doc.Content) != 1 {
		r.wrong(position{}, "the file is empty")
		return nil
	}
	if r.aliases(doc.Content[0]); len(r.problems) > 0 {
		return nil
	}
	return doc.Content[0]
}

// aliases finds them wherever they are: a few can stand for any number of nodes.
func (r *reader) aliases(n *yaml.Node) {
	if n.Kind == yaml.AliasNode {
		r.wrong(at(n), "an alias: aliases are not allowed, write it out")
	}
	for _, c := range n.Content {
		r.aliases(c)
	}
}

var yamlLine = regexp.MustCompile(`line (\d+)(?:, column (\d+))?`)

func yamlPosition(err error) position {
	m := yamlLine.FindStringSubmatch(err.Error())
	if m == nil {
		return position{}
	}
	line, _ := strconv.Atoi(m[1])
	column, _ := strconv.Atoi(m[2])
	return position{line, max(column, 1)}
}

func yamlMessage(err error) string {
	s := strings.TrimPrefix(err.Error(), "yaml: ")
	return clip(strings.TrimLeft(yamlLine.ReplaceAllString(s, ""), ": "))
}

func (r *reader) definition(root *yaml.Node) *definition {
	w := r.words(root, "definition", definitionWords...)
	for _, p := range r.problems {
		switch p.Suggestion {
		case "inputs", "parameters", "scopes", "audience", "resources", "let", "obtain", "refresh":
			r.namesUnknown = r.namesUnknown || w[p.Suggestion].value == nil
		}
	}
	if root.Kind != yaml.MappingNode {
		return nil
	}
	d := &definition{inputs: map[string]*input{}, parameters: map[string]*input{}, let: map[string]*compute{}}
	has := func(word string) bool { _, ok := w[word]; return ok }
	if l := w["language"]; l.value != nil && l.value.Value != "1" {
		r.wrong(at(l.value), "language: this broker reads language 1")
	}
	if n := w["name"]; n.value == nil {
		r.wrong(at(root), "definition: name is missing")
	} else if s, ok := r.scalar(n.value, "name"); ok {
		d.name = s
		if !definitionName.MatchString(s) {
			r.wrong(at(n.value), "name: %q is not 1 to 63 of a-z 0-9 and -, a letter or digit first and last", clip(s))
		} else if base := strings.TrimSuffix(filepath.Base(r.file), ".yaml"); r.file != "" && strings.HasSuffix(r.file, ".yaml") && base != s {
			r.wrong(at(n.value), "name: %q is in a file of another name: call it %s.yaml", s, s)
		}
	}
	d.override = r.yes(w["override"], "definition")
	if has("title") {
		d.title, _ = r.scalar(w["title"].value, "title")
	}
	if has("docs") {
		d.docs, _ = r.scalar(w["docs"].value, "docs")
	}
	if has("inputs") {
		d.inputs = r.inputs(w["inputs"].value, "inputs", true)
	}
	if has("parameters") {
		d.parameters = r.inputs(w["parameters"].value, "parameters", false)
	}
	if has("scopes") {
		d.scopes = r.set(w["scopes"].value, "scopes", " ")
	}
	if has("resources") {
		d.resources = r.set(w["resources"].value, "resources", " ")
	}
	if has("audience") {
		d.audience = r.input(w["audience"], "audience", false)
	}
	if has("let") {
		for _, it := range r.items(w["let"].value, "let") {
			r.nameOK(it, "let")
			d.let[it.key] = r.compute(it.value, "let."+it.key)
		}
	}
	if has("headers") {
		d.headers = r.fields(w["headers"].value, "headers")
	}
	if has("error") {
		d.errors = r.errorRules(w["error"].value, "error")
	}
	if has("when_store_is_away") {
		d.whenAway = r.oneOf(w["when_store_is_away"].value, "when_store_is_away", "obtain", "fail")
	}
	r.runs(d, w, root)
	r.times(d, w)
	r.shown(d, w)
	return d
}

// runs reads how a token comes about: exactly one of obtain, token, and refresh with a seed.
func (r *reader) runs(d *definition, w map[string]item, root *yaml.Node) {
	o, hasObtain := w["obtain"]
	t, hasToken := w["token"]
	f, hasRefresh := w["refresh"]
	seeded := false
	for _, in := range d.inputs {
		seeded = seeded || in.seed
	}
	switch {
	case hasObtain && hasToken:
		r.wrong(t.at, "token: obtain is there already; a token is either asked for or computed")
	case hasToken && hasRefresh:
		r.wrong(f.at, "refresh: a token that is computed is never refreshed")
	case !hasObtain && !hasToken && !hasRefresh:
		r.wrong(at(root), "definition: how does a token come about? obtain, token, or refresh with an input that is a seed")
	case hasRefresh && !hasObtain && !seeded:
		r.wrong(f.at, "refresh: without obtain an input must be the first refresh token: seed: true")
	case seeded && !hasRefresh:
		r.wrong(at(root), "definition: an input is a seed, and there is no refresh that would use it")
	}
	if hasObtain {
		d.obtain = r.run(o.value, d, broker.Obtain)
	}
	if hasToken {
		x := r.text(t.value, "token")
		d.token = &x
	}
	if hasRefresh {
		d.refresh = r.run(f.value, d, broker.Refresh)
		inheritTakes(d)
	}
}

// tokenRequest is the request of a run that brings the token.
func tokenRequest(qs []*request) *request {
	for _, q := range slices.Backward(qs) {
		if takesToken(q) {
			return q
		}
	}
	return qs[len(qs)-1]
}

// inheritTakes: without a take of its own a refresh takes what obtain takes, and oauth2 the names of RFC 6749 besides. One
// that has a take inherits only what has a meaning: where the refresh token is, for instance.
func inheritTakes(d *definition) {
	if len(d.obtain) == 0 || len(d.refresh) == 0 {
		return
	}
	last, first := tokenRequest(d.refresh), tokenRequest(d.obtain)
	written := last.takeWritten
	own := last.take
	if !written {
		last.take = nil
	}
	for _, t := range first.take {
		there := slices.ContainsFunc(last.take, func(x take) bool { return x.name == t.name })
		if !there && !last.untaken[t.name] && (!written || builtinNames[t.name]) {
			t.inherited = true
			last.take = append(last.take, t)
		}
	}
	if written {
		return
	}
	for _, t := range own {
		if !slices.ContainsFunc(last.take, func(x take) bool { return x.name == t.name }) {
			last.take = append(last.take, t)
		}
	}
}

func (r *reader) times(d *definition, w map[string]item) {
	if l, ok := w["lifetime"]; ok {
		if l.value.Value == "until_rejected" {
			d.untilRejected = true
		} else {
			d.lifetime = r.duration(l.value, "lifetime")
		}
	}
	if m, ok := w["margin"]; ok {
		d.margin = r.duration(m.value, "margin")
	}
	if x, ok := w["rate"]; ok {
		s, _ := r.scalar(x.value, "rate")
		count, period, found := strings.Cut(s, "/")
		n, err := strconv.Atoi(count)
		p, good := parseDuration(period)
		if !found || err != nil || n < 1 || !good || p <= 0 {
			r.wrong(at(x.value), "rate: %q is no rate; write 60/1m", clip(s))
		}
		d.rateRequests, d.ratePeriod = n, p
	}
	if x, ok := w["refresh_token_reuse"]; ok {
		switch x.value.Value {
		case "forbidden":
		case "allowed":
			d.reuse.Allowed = true
		default:
			d.reuse.Within = r.duration(x.value, "refresh_token_reuse")
		}
		r.needsRefresh(d, x)
	}
	if x, ok := w["refresh_token_lifetime"]; ok {
		in := r.words(x.value, "refresh_token_lifetime", "idle", "absolute")
		if i, ok := in["idle"]; ok {
			d.idle = r.duration(i.value, "refresh_token_lifetime.idle")
		}
		if a, ok := in["absolute"]; ok {
			d.absolute = r.duration(a.value, "refresh_token_lifetime.absolute")
		}
		r.needsRefresh(d, x)
	}
}

func (r *reader) needsRefresh(d *definition, it item) {
	if len(d.refresh) == 0 {
		r.wrong(it.at, "%s: there is no refresh", it.key)
	}
}

// shown reads how the token is presented.
func (r *reader) shown(d *definition, w map[string]item) {
	if p, ok := w["present"]; ok {
		d.present.declared = true
		if p.value.Kind == yaml.ScalarNode {
			d.present.nothing = r.oneOf(p.value, "present", "nothing") == "nothing"
		} else {
			in := r.words(p.value, "present", "headers", "query", "cookies")
			if h, ok := in["headers"]; ok {
				d.present.headers = r.fields(h.value, "present.headers")
			}
			if q, ok := in["query"]; ok {
				d.present.query = r.fields(q.value, "present.query")
			}
			if c, ok := in["cookies"]; ok {
				d.present.cookies = r.cookies(c.value, "present.cookies")
			}
			if len(in) == 0 {
				r.wrong(p.at, "present: headers, query, cookies, or the word nothing")
			}
		}
	}
	if a, ok := w["attributes"]; ok {
		if a.value.Kind != yaml.SequenceNode {
			r.wrong(at(a.value), "attributes: a list is wanted, not %s", kindName(a.value))
		}
		for _, n := range a.value.Content {
			if s, ok := r.scalar(n, "attributes"); ok {
				d.attributes, d.attributesAt = append(d.attributes, s), append(d.attributesAt, at(n))
			}
		}
	}
	if b, ok := w["base_url"]; ok {
		t := r.url(b.value, "base_url")
		d.baseURL = &t
	}
}

func (r *reader) nameOK(it item, what string) {
	if !nameWord.MatchString(it.key) {
		r.wrong(it.at, "%s: %q is no name: a-z, then a-z 0-9 and _", what, clip(it.key))
	}
}

var inputFormats = []string{"host", "url", "uuid", "email", "pem", "jwk", "json", "integer", "boolean"}

func (r *reader) inputs(n *yaml.Node, what string, stored bool) map[string]*input {
	out := map[string]*input{}
	for _, it := range r.items(n, what) {
		r.nameOK(it, what)
		out[it.key] = r.input(it, what+"."+it.key, stored)
	}
	return out
}

func (r *reader) input(it item, what string, stored bool) *input {
	in := &input{at: it.at}
	words := []string{"title", "hint", "secret", "optional", "default", "one_of", "pattern", "prefix", "suffix", "format"}
	if stored {
		words = append(words, "was", "handed_out", "seed")
	}
	w := r.words(it.value, what, words...)
	in.secret = r.yes(w["secret"], what)
	in.optional = r.yes(w["optional"], what)
	in.handedOut = r.yes(w["handed_out"], what)
	in.seed = r.yes(w["seed"], what)
	if d, ok := w["default"]; ok {
		in.hasDefault = true
		in.fallback = r.text(d.value, what+".default")
		if stored && len(in.fallback.names()) > 0 {
			r.wrong(at(d.value), "%s.default: an input's default names nothing; a parameter's may", what)
		}
		if in.optional || in.secret {
			r.wrong(d.at, "%s: a default goes with neither optional nor secret", what)
		}
	}
	if o, ok := w["one_of"]; ok {
		if in.oneOf = r.strings(o.value, what+".one_of"); len(in.oneOf) == 0 && o.value.Kind == yaml.SequenceNode {
			r.wrong(at(o.value), "%s.one_of: an empty list allows nothing", what)
		}
	}
	if p, ok := w["pattern"]; ok {
		in.pattern, in.patternText = r.regexp(p.value, what+".pattern", true)
	}
	for word, to := range map[string]*string{"prefix": &in.prefix, "suffix": &in.suffix} {
		if x, ok := w[word]; ok {
			*to, _ = r.scalar(x.value, what+"."+word)
		}
	}
	if f, ok := w["format"]; ok {
		in.format = r.oneOf(f.value, what+".format", inputFormats...)
	}
	if x, ok := w["was"]; ok {
		in.was, _ = r.scalar(x.value, what+".was")
	}
	if in.seed && !in.secret {
		r.wrong(it.at, "%s: a seed is a refresh token: secret: true", what)
	}
	return in
}

func (r *reader) set(n *yaml.Node, what, join string) *set {
	s := &set{join: join}
	w := r.words(n, what, "join", "default", "one_of")
	if j, ok := w["join"]; ok {
		s.join, _ = r.scalar(j.value, what+".join")
	}
	if d, ok := w["default"]; ok {
		if d.value.Kind != yaml.SequenceNode {
			r.wrong(at(d.value), "%s.default: a list is wanted, not %s", what, kindName(d.value))
		}
		for _, c := range d.value.Content {
			s.defaults = append(s.defaults, r.text(c, what+".default"))
		}
	}
	if o, ok := w["one_of"]; ok {
		s.oneOf = r.strings(o.value, what+".one_of")
	}
	return s
}

// url reads a template of a URL: it begins with https://, http:// or a name.
func (r *reader) url(n *yaml.Node, what string) text {
	t := r.text(n, what)
	switch {
	case len(t.parts) == 0:
		r.wrong(at(n), "%s: a URL is wanted", what)
	case t.parts[0].name == "" && !strings.HasPrefix(t.parts[0].literal, "https://") && !strings.HasPrefix(t.parts[0].literal, "http://"):
		r.wrong(at(n), "%s: a URL begins with https:// or with {{name}}", what)
	}
	return t
}

func (r *reader) run(n *yaml.Node, d *definition, place broker.Run) []*request {
	if n.Kind != yaml.SequenceNode {
		return []*request{r.request(n, place.String(), d, place)}
	}
	var out []*request
	for i, c := range n.Content {
		out = append(out, r.request(c, fmt.Sprintf("%s[%d]", place, i), d, place))
	}
	if len(out) == 0 {
		r.wrong(at(n), "%s: no request", place)
	}
	return out
}
