package provider

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
)

var definitionName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// parse reads and checks one definition. It returns everything that is wrong, and warnings besides.
func parse(file string, data []byte) (*definition, []Problem) {
	r := newReader(file)
	root := r.Document(data)
	if root == nil && len(r.Problems) == 0 {
		r.Wrong(position{}, "the file is empty: write a definition, or let tokenbroker provider new write one")
	}
	if root == nil {
		return nil, r.Problems
	}
	if !looksLike(root) {
		r.Wrong(at(root), "it is no definition: it has none of the words of one; begin with name: NAME") // and nothing of it is quoted: it may be any file
		return nil, r.Problems
	}
	if deep := deeper(root, mostDepth); deep != nil {
		r.Wrong(at(deep), "definition: nested deeper than %d levels; write it flatter", mostDepth)
		return nil, r.Problems
	}
	if words, references := size(root); words > mostWords || references > mostReferences {
		r.Wrong(position{}, "definition: it has %d words and values, and names something %d times; %d and %d are the most, leave some out", words, references, mostWords, mostReferences)
		return nil, r.Problems
	}
	d := r.definition(root)
	if d != nil {
		d.digest, d.how = digest(root), how(root)
	}
	if d != nil && !r.namesUnknown {
		r.check(d)
	}
	sortProblems(r.Problems)
	if wrong := yamldoc.Errors(r.Problems); len(wrong) > 0 { // and no warnings: what is wrong may be why something seems unused
		return d, yamldoc.First(wrong)
	}
	d.facts, d.endpoints = d.makeFacts(), newEndpoints()
	d.keeping()
	return d, r.Problems
}

// deeper finds what stands deeper than a number of levels; nil: nothing does.
func deeper(n *yaml.Node, levels int) *yaml.Node {
	if levels == 0 {
		return n
	}
	for _, x := range n.Content {
		if deep := deeper(x, levels-1); deep != nil {
			return deep
		}
	}
	return nil
}

// size is how many words, values, lists and mappings there are, and how often something is named.
func size(n *yaml.Node) (words, references int) {
	words, references = 1, strings.Count(n.Value, "{{")
	for _, x := range n.Content {
		w, r := size(x)
		words, references = words+w, references+r
	}
	return words, references
}

// looksLike reports whether a document has a word of a definition.
func looksLike(root *yaml.Node) bool {
	words := definitionWords.names()
	for i := 0; root.Kind == yaml.MappingNode && i < len(root.Content); i += 2 {
		if slices.Contains(words, root.Content[i].Value) {
			return true
		}
	}
	return false
}

func (r *reader) definition(root *yaml.Node) *definition {
	w := r.words(root, "definition", &definitionWords)
	for _, p := range r.Problems {
		switch p.Suggestion {
		case "inputs", "parameters", "scopes", "audience", "resources", "let", "obtain", "refresh":
			r.namesUnknown = r.namesUnknown || w[p.Suggestion].Value == nil
		}
	}
	if root.Kind != yaml.MappingNode {
		return nil
	}
	d := &definition{inputs: map[string]*input{}, parameters: map[string]*input{}, let: map[string]*compute{}}
	has := func(word string) bool { _, ok := w[word]; return ok }
	if l := w["language"]; l.Value != nil && l.Value.Value != "1" {
		r.Wrong(at(l.Value), "language: this broker reads language 1; write 1, or leave it out")
	}
	if n := w["name"]; n.Value == nil {
		r.Wrong(at(root), "definition: name is missing; write name: NAME, as the file NAME.yaml is called")
	} else if s, ok := r.Text(n.Value, "name"); ok {
		d.name = s
		if !definitionName.MatchString(s) {
			r.Wrong(at(n.Value), "name: it is not 1 to 63 of a-z 0-9 and -, a letter or digit first and last, as in my-api")
		} else if base := strings.TrimSuffix(filepath.Base(r.File), ".yaml"); r.File != "" && strings.HasSuffix(r.File, ".yaml") && base != s {
			r.Wrong(at(n.Value), "name: it is not the file's: write name: %s, or call the file as the definition", yamldoc.Clip(base))
		}
	}
	d.override = r.yes(w["override"], "definition")
	if has("title") {
		d.title, _ = r.Text(w["title"].Value, "title")
	}
	if has("docs") {
		d.docs, _ = r.Text(w["docs"].Value, "docs")
	}
	if has("inputs") {
		d.inputs = r.inputs(w["inputs"].Value, "inputs", true)
	}
	if has("parameters") {
		d.parameters = r.inputs(w["parameters"].Value, "parameters", false)
	}
	if has("scopes") {
		d.scopes = r.set(w["scopes"].Value, "scopes", " ")
	}
	if has("resources") {
		d.resources = r.set(w["resources"].Value, "resources", " ")
	}
	if has("audience") {
		d.audience = r.input(w["audience"], "audience", false)
	}
	if has("let") {
		for _, it := range r.Items(w["let"].Value, "let") {
			r.nameOK(it, "let")
			d.let[it.Key] = r.compute(it.Value, "let."+it.Key)
			d.let[it.Key].source = asWritten(it.Value)
		}
	}
	if has("headers") {
		d.headers = r.fields(w["headers"].Value, "headers")
	}
	if has("error") {
		d.errors = r.errorRules(w["error"].Value, "error")
	}
	if has("when_store_is_away") {
		d.whenAway = r.choice(w["when_store_is_away"].Value, "when_store_is_away", definitionWords.values("when_store_is_away"))
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
		r.Wrong(t.At, "token: obtain is there already; a token is either asked for or computed; leave one of them out")
	case hasToken && hasRefresh:
		r.Wrong(f.At, "refresh: a token that is computed is never refreshed; leave it out")
	case !hasObtain && !hasToken && !hasRefresh:
		r.Wrong(at(root), "definition: how does a token come about? Write obtain, token, or refresh with an input that is a seed")
	case hasRefresh && !hasObtain && !seeded:
		r.Wrong(f.At, "refresh: without obtain an input must be the first refresh token: write inputs: {refresh_token: {secret: true, seed: true}}")
	case seeded && !hasRefresh:
		r.Wrong(at(root), "definition: an input is a seed, and there is no refresh that would use it; write refresh, or leave seed out")
	}
	if hasObtain {
		d.obtain = r.run(o.Value, d, broker.Obtain)
	}
	if hasToken {
		x := r.text(t.Value, "token")
		d.token = &x
	}
	if hasRefresh {
		d.refresh = r.run(f.Value, d, broker.Refresh)
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
		if l.Value.Value == "until_rejected" {
			d.untilRejected = true
		} else {
			d.lifetime = r.positive(l.Value, "lifetime")
		}
	}
	if m, ok := w["margin"]; ok {
		d.margin = r.duration(m.Value, "margin")
	}
	if x, ok := w["rate"]; ok {
		s, _ := r.Text(x.Value, "rate")
		count, period, found := strings.Cut(s, "/")
		n, err := strconv.Atoi(count)
		p, good := parseDuration(period)
		if !found || err != nil || n < 1 || !good || p <= 0 {
			r.Wrong(at(x.Value), "rate: it is not a rate; write 60/1m")
		}
		d.rateRequests, d.ratePeriod = n, p
	}
	if x, ok := w["refresh_token_reuse"]; ok {
		switch x.Value.Value {
		case "forbidden":
		case "allowed":
			d.reuse.Allowed = true
		default:
			d.reuse.Within = r.duration(x.Value, "refresh_token_reuse")
		}
		r.needsRefresh(d, x)
	}
	if x, ok := w["refresh_token_lifetime"]; ok {
		in := r.words(x.Value, "refresh_token_lifetime", &lifetimeWords)
		if i, ok := in["idle"]; ok {
			d.idle = r.positive(i.Value, "refresh_token_lifetime.idle")
		}
		if a, ok := in["absolute"]; ok {
			d.absolute = r.positive(a.Value, "refresh_token_lifetime.absolute")
		}
		r.needsRefresh(d, x)
	}
}

func (r *reader) needsRefresh(d *definition, it item) {
	if len(d.refresh) == 0 {
		r.Wrong(it.At, "%s: there is no refresh; write one, or leave %s out", it.Key, it.Key)
	}
}

// shown reads how the token is presented.
func (r *reader) shown(d *definition, w map[string]item) {
	if p, ok := w["present"]; ok {
		d.present.declared = true
		if p.Value.Kind == yaml.ScalarNode {
			d.present.nothing = r.choice(p.Value, "present", definitionWords.values("present")) == "nothing"
		} else {
			in := r.words(p.Value, "present", &presentWords)
			if h, ok := in["headers"]; ok {
				d.present.headers = r.fields(h.Value, "present.headers")
			}
			if q, ok := in["query"]; ok {
				d.present.query = r.fields(q.Value, "present.query")
			}
			if c, ok := in["cookies"]; ok {
				d.present.cookies = r.cookies(c.Value, "present.cookies")
			}
			if len(in) == 0 {
				r.Wrong(p.At, "present: write headers, query or cookies, as in {headers: {X-Api-Key: \"{{token}}\"}}, or the word nothing")
			}
		}
	}
	if a, ok := w["attributes"]; ok {
		if a.Value.Kind != yaml.SequenceNode {
			r.Wrong(at(a.Value), "attributes: a list is wanted, not %s; write [name, name]", yamldoc.KindName(a.Value))
		}
		for _, n := range a.Value.Content {
			if s, ok := r.Text(n, "attributes"); ok {
				d.attributes, d.attributesAt = append(d.attributes, s), append(d.attributesAt, at(n))
			}
		}
	}
	if b, ok := w["base_url"]; ok {
		t := r.url(b.Value, "base_url")
		d.baseURL = &t
	}
}

func (r *reader) nameOK(it item, what string) {
	if !nameWord.MatchString(it.Key) {
		r.Wrong(it.At, "%s: %q is not a name: a-z, then a-z 0-9 and _, as in client_id", what, yamldoc.Clip(it.Key))
	}
}

// hostPathFormat is of an input that is a host with a path, or without: what people copy of an address, without its scheme.
const hostPathFormat = "host_path"

func (r *reader) inputs(n *yaml.Node, what string, stored bool) map[string]*input {
	out := map[string]*input{}
	for _, it := range r.Items(n, what) {
		r.nameOK(it, what)
		out[it.Key] = r.input(it, what+"."+it.Key, stored)
	}
	return out
}

func (r *reader) input(it item, what string, stored bool) *input {
	in := &input{at: it.At}
	vocabulary := &parameterWords
	if stored {
		vocabulary = &inputWords
	}
	w := r.words(it.Value, what, vocabulary)
	in.secret = r.yes(w["secret"], what)
	in.optional = r.yes(w["optional"], what)
	in.handedOut = r.yes(w["handed_out"], what)
	in.seed = r.yes(w["seed"], what)
	if d, ok := w["default"]; ok {
		in.hasDefault = true
		in.fallback = r.text(d.Value, what+".default")
		if stored && len(in.fallback.names()) > 0 {
			r.Wrong(at(d.Value), "%s.default: an input's default names nothing; write the value itself (a parameter's may name inputs)", what)
		}
		if in.optional || in.secret {
			r.Wrong(d.At, "%s: a default goes with neither optional nor secret; leave one of them out", what)
		}
	}
	if o, ok := w["one_of"]; ok {
		if in.oneOf = r.Texts(o.Value, what+".one_of"); len(in.oneOf) == 0 && o.Value.Kind == yaml.SequenceNode {
			r.Wrong(at(o.Value), "%s.one_of: an empty list allows nothing; write the values, or leave it out", what)
		}
	}
	if p, ok := w["pattern"]; ok {
		in.pattern, in.patternText = r.regexp(p.Value, what+".pattern", true)
	}
	for word, to := range map[string]*string{"prefix": &in.prefix, "suffix": &in.suffix} {
		if x, ok := w[word]; ok {
			*to, _ = r.Text(x.Value, what+"."+word)
		}
	}
	if f, ok := w["format"]; ok {
		in.format = r.oneOf(f, what, &inputWords)
	}
	if x, ok := w["was"]; ok {
		in.was, _ = r.Text(x.Value, what+".was")
	}
	if in.seed && !in.secret {
		r.Wrong(it.At, "%s: a seed is a refresh token, and those are secret: write secret: true", what)
	}
	return in
}

func (r *reader) set(n *yaml.Node, what, join string) *set {
	s := &set{join: join, at: at(n)}
	w := r.words(n, what, &setWords)
	if j, ok := w["join"]; ok {
		s.join, _ = r.Text(j.Value, what+".join")
	}
	if d, ok := w["default"]; ok {
		if d.Value.Kind != yaml.SequenceNode {
			r.Wrong(at(d.Value), "%s.default: a list is wanted, not %s; write [read, write]", what, yamldoc.KindName(d.Value))
		}
		for _, c := range d.Value.Content {
			s.defaults = append(s.defaults, r.text(c, what+".default"))
		}
	}
	if o, ok := w["one_of"]; ok {
		s.oneOf = r.Texts(o.Value, what+".one_of")
	}
	s.required = r.yes(w["required"], what)
	if k, ok := w["known"]; ok {
		for _, it := range r.Items(k.Value, what+".known") {
			meaning, _ := r.Text(it.Value, what+".known."+it.Key)
			s.known = append(s.known, known{it.Key, meaning})
		}
	}
	return s
}

// url reads a template of a URL.
func (r *reader) url(n *yaml.Node, what string) urlTemplate {
	before := len(r.Problems)
	t := r.text(n, what)
	u, err := parseURL(t)
	if err != nil && len(r.Problems) == before { // a template that is none has been said
		r.Wrong(at(n), "%s: %v", what, err)
	}
	return u
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
		r.Wrong(at(n), "%s: an empty list asks nobody; write a request, as {oauth2: URL}", place)
	}
	return out
}
