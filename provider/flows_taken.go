package provider

import (
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"strings"
)

// takenBy is a take of a request.
type takenBy struct {
	take
	q *request
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

// taken is a value of an answer: its name, where in the answer it is, which answer that is, and all that the file makes of the names in these.
func (f *flows) taken(t takenBy) string {
	var b strings.Builder
	seen := map[string]bool{"token": true} // where that is taken is a flow of its own
	var next []string
	one := func(t takenBy) {
		b.WriteString(t.name + ", taken from " + t.where.source + " of " + t.q.asks())
		seen[t.name] = true
		var texts []text
		looksInto(t.where, &texts)
		for _, x := range append(texts, t.q.address()...) {
			next = append(next, x.names()...)
		}
	}
	for one(t); len(next) > 0; {
		n := next[0]
		if next = next[1:]; seen[n] {
			continue
		}
		seen[n] = true
		if x := f.d.let[n]; x != nil {
			b.WriteString("; " + n + " is " + x.source)
			next = append(next, x.names()...)
		}
		if in := cmp.Or(f.d.inputs[n], f.d.parameters[n]); in != nil {
			if in.oneOf != nil {
				b.WriteString("; " + n + " is one of " + strings.Join(in.oneOf, ", "))
			}
			if in.hasDefault {
				b.WriteString("; " + n + " is by default " + writtenAs(in.fallback.parts))
				next = append(next, in.fallback.names()...)
			}
		}
		for _, t := range f.takes[n] {
			b.WriteString("; ")
			one(t)
		}
	}
	return shortened(b.String(), longestPlace/2) // the rest is for where it goes
}

// digest stands for a value that is taken so: two definitions that take the same have the same one.
func (f *flows) digest(t takenBy) string {
	h := sha256.Sum256([]byte(f.taken(t)))
	return base64.RawURLEncoding.EncodeToString(h[:])
}

// address are the texts that say which answer a request is given.
func (q *request) address() []text {
	return append([]text{q.target().written}, textsOf(q.asked())...)
}

// asked is the query as the definition has it. What oauth2 adds to it says to nobody which answer it is: that has one meaning.
func (q *request) asked() []field {
	if !q.oauth2 {
		return q.query
	}
	var own []field
	for _, f := range q.query {
		if f.at != q.at {
			own = append(own, f)
		}
	}
	return own
}

// asks is how a request is named: by its method and its URL with the query.
func (q *request) asks() string {
	s := q.method + " "
	if q.issuer != nil {
		s += "as told by "
	}
	s += writtenAs(q.target().written.parts)
	separator := "?"
	if strings.Contains(s, "?") {
		separator = "&"
	}
	for _, f := range q.asked() {
		for _, t := range f.values {
			s += separator + f.name + "=" + writtenAs(t.parts)
			separator = "&"
		}
	}
	return s
}

// writtenAs writes a template as it stands in a file.
func writtenAs(parts []part) string {
	var b strings.Builder
	for _, p := range parts {
		if p.name != "" {
			b.WriteString("{{" + p.name + "}}")
		}
		b.WriteString(p.literal)
	}
	return b.String()
}
