package provider

import (
	"maps"
	"slices"
)

// reaches: what callers may ask for is sent, wherever a token comes from; else one for something else would be handed out. What
// nothing uses at all is a warning.
func (c *checker) reaches() {
	d := c.d
	type run struct {
		word string
		sent map[string]bool
	}
	var runs []run
	seeded := slices.ContainsFunc(slices.Collect(maps.Values(d.inputs)), func(in *input) bool { return in.seed })
	if len(d.obtain) > 0 {
		runs = append(runs, run{"obtain", d.sentBy(d.obtain)})
	}
	if d.token != nil {
		runs = append(runs, run{"token", d.named(append(textsOf(d.headers), *d.token))})
	}
	if len(d.refresh) > 0 && seeded { // a seed is there before anything was chosen; what obtain brought is of one choice
		runs = append(runs, run{"refresh", d.sentBy(d.refresh)})
	}
	if len(d.refresh) > 0 && !seeded && !slices.ContainsFunc(d.obtain, takesRefreshToken) {
		c.Warn(d.refresh[0].at, "refresh: nothing brings a refresh token, so it never runs: take one in obtain, as in take: {refresh_token: refresh_token}, "+
			"declare an input with seed: true, or leave refresh out")
	}
	shown := d.visibleToCallers()
	asked := func(what, name string, at position, example string) {
		for _, r := range runs {
			if !r.sent[name] {
				c.Wrong(at, "%s: %s does not send {{%s}}, and what a caller asks for would be ignored: send it, as in %s, or leave %s out", what, r.word, name, example, what)
				return
			}
		}
	}
	if d.scopes != nil {
		asked("scopes", "scope", d.scopes.at, `params: {scope: "{{scope}}"}`)
	}
	if d.audience != nil {
		asked("audience", "audience", d.audience.at, `params: {audience: "{{audience}}"}`)
	}
	if d.resources != nil {
		asked("resources", "resources", d.resources.at, `params: {resource: "{{resources}}"}`)
	}
	for _, name := range slices.Sorted(maps.Keys(d.parameters)) {
		if !shown[name] {
			asked("parameters."+name, name, d.parameters[name].at, `query: {`+name+`: "{{`+name+`}}"}`)
		}
	}
	c.unused(shown)
}

// unused warns of inputs, let values and takes that nothing uses.
func (c *checker) unused(used map[string]bool) {
	d := c.d
	maps.Copy(used, d.sentBy(slices.Concat(d.obtain, d.refresh)))
	var texts []text
	if d.token != nil {
		texts = append(texts, *d.token)
	}
	for _, in := range slices.Concat(slices.Collect(maps.Values(d.parameters)), []*input{d.audience}) {
		if in != nil {
			texts = append(texts, in.fallback)
		}
	}
	for _, s := range []*set{d.scopes, d.resources} {
		if s != nil {
			texts = append(texts, s.defaults...)
		}
	}
	for _, q := range slices.Concat(d.obtain, d.refresh) {
		for _, t := range q.take {
			looksInto(t.where, &texts)
		}
	}
	maps.Copy(used, d.named(texts))
	for _, name := range slices.Sorted(maps.Keys(d.inputs)) {
		if in := d.inputs[name]; !used[name] && !in.seed {
			c.Warn(in.at, "inputs.%s: nothing uses it: write {{%s}} where it is wanted, or leave it out", name, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(d.let)) {
		if !used[name] {
			c.Warn(d.let[name].at, "let.%s: nothing uses it: write {{%s}} where it is wanted, or leave it out", name, name)
		}
	}
	for _, q := range slices.Concat(d.obtain, d.refresh) {
		for _, t := range q.take {
			if !used[t.name] && !builtinNames[t.name] && !t.inherited {
				c.Warn(t.at, "take.%s: nothing uses it: name it in attributes where callers are to have it, or leave it out", t.name)
			}
		}
	}
}

// looksInto adds what a take compares with, and which value it looks into.
func looksInto(w *where, texts *[]text) {
	for _, x := range w.anyOf {
		looksInto(x, texts)
	}
	if w.within != nil {
		looksInto(w.within, texts)
	}
	for _, m := range w.match {
		*texts = append(*texts, m.field.values...)
	}
	if w.of != "" {
		*texts = append(*texts, nameText(w.of))
	}
}
