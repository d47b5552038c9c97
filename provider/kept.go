package provider

import (
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// keeping finds how a definition takes what is kept from one exchange to the next, and which of that a refresh may use: to ask, to take what it
// is for, or for what callers see in the end.
func (d *definition) keeping() {
	d.keeps, d.needs = map[string][]string{}, map[string]bool{}
	for _, q := range slices.Concat(d.obtain, d.refresh) {
		for i := range q.take {
			t := &q.take[i]
			t.by = d.takenBy(t, q)
			d.keeps[t.name] = append(d.keeps[t.name], t.by)
		}
	}
	brought := map[string]bool{}
	need := func(names map[string]bool) {
		for n := range names {
			d.needs[n] = d.needs[n] || !brought[n]
		}
	}
	for _, q := range d.refresh {
		texts := d.sent(q)
		for _, t := range q.take {
			looksInto(t.where, &texts)
		}
		need(d.named(texts))
		for _, t := range q.take {
			brought[t.name] = brought[t.name] || !t.mayBeAbsent()
		}
	}
	need(d.visibleToCallers())
}

// mayBeAbsent: an answer without it leaves what the name had.
func (t take) mayBeAbsent() bool {
	return t.where.optional || t.inherited || builtinNames[t.name] && t.name != "token"
}

// takenBy stands for a value that is taken so: where in which answer it is, and what is computed for that. Two definitions that take the same have the same one.
func (d *definition) takenBy(t *take, q *request) string {
	u := q.target().written
	texts := append(textsOf(q.query), u)
	looksInto(t.where, &texts)
	says := []string{t.name + ", taken from " + t.where.source + " of " + q.method + " " + writtenAs(u.parts)}
	for _, f := range q.query {
		for _, x := range f.values {
			says = append(says, f.name+"="+writtenAs(x.parts))
		}
	}
	for _, n := range slices.Sorted(maps.Keys(d.named(texts))) {
		if x := d.let[n]; x != nil {
			says = append(says, n+" is "+x.source)
		}
	}
	h := sha256.Sum256([]byte(strings.Join(says, "; ")))
	return base64.RawURLEncoding.EncodeToString(h[:])
}

// asWritten is a part of a file as takenBy compares it.
func asWritten(n *yaml.Node) string {
	return written(n, nil, func(string, []string) bool { return false })
}

// writtenAs writes a template as it stands in a file.
func writtenAs(parts []part) string {
	var b strings.Builder
	for _, p := range parts {
		if p.name != "" {
			b.WriteString("{{" + p.name + "}}")
		}
		b.WriteString(strings.ReplaceAll(p.literal, "{{", "{{{{"))
	}
	return b.String()
}
