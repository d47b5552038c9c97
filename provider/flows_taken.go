package provider

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"maps"
	"slices"
	"strings"
)

// takenBy is a take of a request. Comparable.
type takenBy struct {
	*take
	q *request
}

// A provenance is how a name may have come by its value: by a take, unless one of the later ones in the same exchange brought one. kept: in a
// former exchange.
type provenance struct {
	takenBy
	unless []takenBy
	kept   bool
}

// provenances are those of each name, at one moment of an exchange.
type provenances map[string][]provenance

// through follows the names through the requests of an exchange that begins with what was kept. A name has the value of the last answer that
// brings it: which that is decides the order of the requests.
func (f *flows) through(qs []*request, kept provenances) provenances {
	now := provenances{}
	maps.Copy(now, kept)
	brought := map[string]bool{}
	for _, q := range qs {
		f.before[q] = maps.Clone(now)
		for i := range q.take {
			t := takenBy{&q.take[i], q}
			f.chains[t.name] = f.chains[t.name] || brought[t.name]
			brought[t.name] = true
			var others []provenance
			if t.mayBeAbsent() {
				for _, o := range now[t.name] {
					if !o.kept {
						o.unless = append(slices.Clip(o.unless), t)
					}
					others = append(others, o)
				}
			}
			now[t.name] = append(others, provenance{takenBy: t})
		}
	}
	return now
}

// mayBeAbsent: an answer without it leaves what the name had.
func (t takenBy) mayBeAbsent() bool {
	return t.where.optional || t.inherited || builtinNames[t.name] && t.name != "token"
}

// kept are those that names have which are kept from one of these exchanges to the next: refresh tokens, and a definition's own values.
func kept(ends ...provenances) provenances {
	all := provenances{}
	for _, end := range ends {
		for n, from := range end {
			for _, o := range from {
				if o.kept = true; !builtinNames[n] || n == "refresh_token" {
					all[n] = append(all[n], o)
				}
			}
		}
	}
	return all
}

// known are the digests of how values were taken that are kept, by name.
func (f *flows) known(kept provenances) map[string][]string {
	all := map[string][]string{}
	for n, from := range kept {
		for _, o := range from {
			o.by = f.digest(o.takenBy)
			all[n] = append(all[n], o.by)
		}
	}
	return all
}

// needed are the names by which a refresh may use what was kept: to ask, to take what it is for, or for what callers see in the end.
func (f *flows) needed(end provenances, visible map[string]bool) map[string]bool {
	needs := map[string]bool{}
	add := func(at provenances, names map[string]bool) {
		for n := range names {
			if slices.ContainsFunc(at[n], func(o provenance) bool { return o.kept }) {
				needs[n] = true
			}
		}
	}
	for _, q := range f.d.refresh {
		texts := f.d.sent(q)
		for _, t := range q.take {
			looksInto(t.where, &texts)
		}
		add(f.before[q], f.d.named(texts))
	}
	add(end, visible)
	return needs
}

// standard reports whether a value is where RFC 6749 section 5.1 has it, in the answer that brings a token.
func (t takenBy) standard() bool {
	name := t.name
	if name == "token" {
		name = "access_token"
	}
	w := t.where
	return w.path != nil && w.each == nil && w.pattern == nil && w.path.as == name && takesToken(t.q) && (t.q.oauth2 || t.name != "token")
}

// called is what a value of an answer is called where it goes.
func (f *flows) called(o provenance) string {
	s := f.taken(o.takenBy)
	for _, t := range o.unless {
		s += "; unless " + f.taken(t)
	}
	return shortened(s, longestPlace/2) // the rest is for where it goes
}

// digest stands for a value that is taken so: two definitions that take the same have the same one.
func (f *flows) digest(t takenBy) string {
	h := sha256.Sum256([]byte(f.taken(t)))
	return base64.RawURLEncoding.EncodeToString(h[:])
}

// A mention is a name in a request as it is sent, or in what is taken from its answer.
type mention struct {
	name  string
	q     *request
	taken bool
}

// taken is a value of an answer: its name, where in the answer it is, which answer that is, and all that the file makes of the names in these.
func (f *flows) taken(t takenBy) string {
	var b strings.Builder
	told := map[string]bool{}
	seen, met := map[takenBy]bool{}, map[mention]bool{}
	var next []mention
	of := func(names []string, q *request, taken bool) {
		for _, n := range names {
			next = append(next, mention{n, q, taken})
		}
	}
	one := func(t takenBy) {
		seen[t] = true
		b.WriteString(t.name + ", taken from " + t.where.source + " of " + f.d.asks(t.q))
		var texts []text
		looksInto(t.where, &texts)
		for _, x := range texts {
			of(x.names(), t.q, true)
		}
		for _, x := range f.d.address(t.q) {
			of(x.names(), t.q, false)
		}
	}
	for one(t); len(next) > 0; {
		m := next[0]
		if next = next[1:]; met[m] {
			continue
		}
		met[m] = true
		n := m.name
		first := !told[n]
		told[n] = true
		if n == "token" && !f.chains[n] { // of one alone, where that is taken is a flow of its own; but not whether it is there
			if first && len(f.before[m.q][n]) > 0 {
				b.WriteString("; token")
			}
			continue
		}
		if x := f.d.let[n]; x != nil {
			if first {
				b.WriteString("; " + n + " is " + x.source)
			}
			of(x.names(), m.q, m.taken)
		}
		if in := cmp.Or(f.d.inputs[n], f.d.parameters[n]); in != nil && first {
			if in.oneOf != nil {
				b.WriteString("; " + n + " is one of " + strings.Join(in.oneOf, ", "))
			}
			if in.hasDefault {
				b.WriteString("; " + n + " is by default " + writtenAs(in.fallback.parts))
				of(in.fallback.names(), m.q, m.taken)
			}
		}
		for _, t := range f.mentioned(m) {
			if !seen[t] {
				b.WriteString("; ")
				one(t)
			}
		}
	}
	return b.String()
}

// mentioned are the takes that a name may have its value of.
func (f *flows) mentioned(m mention) (all []takenBy) {
	for _, o := range f.before[m.q][m.name] {
		all = append(all, o.takenBy)
	}
	for i := range m.q.take {
		if t := &m.q.take[i]; m.taken && t.name == m.name {
			all = append(all, takenBy{t, m.q})
		}
	}
	return all
}

// address are the texts that say which answer a request is given.
func (d *definition) address(q *request) []text {
	return append([]text{q.target().written}, textsOf(d.asked(q))...)
}

// asked is the query as the definition has it, and the token's where that is shown there. What oauth2 adds to it says to nobody which answer it is:
// that has one meaning.
func (d *definition) asked(q *request) (own []field) {
	for _, f := range q.query {
		if !slices.ContainsFunc(f.values, func(t text) bool { return t.implied }) {
			own = append(own, f)
		}
	}
	if q.withToken {
		own = append(own, d.present.query...)
	}
	return own
}

// asks is how a request is named: by its method and its URL with the query.
func (d *definition) asks(q *request) string {
	s := q.method + " "
	if q.issuer != nil {
		s += "as told by "
	}
	s += writtenAs(q.target().written.parts)
	separator := "?"
	if strings.Contains(s, "?") {
		separator = "&"
	}
	for _, f := range d.asked(q) {
		for _, t := range f.values {
			s += separator + inQuery.Replace(f.name) + "=" + inQuery.Replace(writtenAs(t.parts))
			separator = "&"
		}
	}
	return s
}

// inQuery keeps a parameter of a query from looking like several.
var inQuery = strings.NewReplacer("%", "%25", "&", "%26", "=", "%3D")

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
