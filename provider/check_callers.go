package provider

import (
	"slices"
	"strings"
)

// refreshTokensKept: what callers get is no refresh token, under whichever name it is taken, and nothing that one is in.
func (c *checker) refreshTokensKept() {
	qs, shown := slices.Concat(c.d.obtain, c.d.refresh), c.d.visibleToCallers()
	kept := refreshTokensOf(qs)
	for _, q := range qs {
		for _, t := range q.take {
			beside := kept // what is in the same answer, as far as one knows; a token may come of any
			if t.name != "token" {
				beside = refreshTokensOf([]*request{q})
			}
			spots := t.where.spots(nil)
			switch {
			case !shown[t.name] || t.name == "refresh_token":
			case slices.ContainsFunc(spots, func(s spot) bool { return s.namesRefreshToken() || slices.ContainsFunc(kept, s.sameAs) }):
				c.Wrong(t.at, "take.%s: callers would get the refresh token: take it as refresh_token alone, and write refresh for how it is used", t.name)
			case slices.ContainsFunc(spots, func(s spot) bool { return s.whole() && len(beside) > 0 || slices.ContainsFunc(beside, s.holds) }),
				slices.ContainsFunc(kept, func(s spot) bool { return s.of == t.name }):
				c.Wrong(t.at, "take.%s: callers would get what the refresh token is in: write where in the answer it is alone, as in take: {token: access_token}", t.name)
			}
		}
	}
}

// refreshTokensOf are where refresh tokens are taken.
func refreshTokensOf(qs []*request) (kept []spot) {
	for _, q := range qs {
		for _, t := range q.take {
			if t.name == "refresh_token" {
				kept = append(kept, t.where.spots(nil)...)
			}
		}
	}
	return kept
}

// A spot is one of the places in an answer that something is taken from.
type spot struct {
	*where
	// steps lead to it in a JSON document, through lists whatever is looked for in them; json: it is in one. list are those to the list that match is of.
	steps []step
	json  bool
	list  []step
}

// spots are all of them. before are the steps to where it begins.
func (w *where) spots(before []step) (all []spot) {
	for _, x := range w.anyOf {
		all = append(all, x.spots(before)...)
	}
	if len(w.anyOf) > 0 {
		return all
	}
	steps := slices.Clone(before)
	var list []step
	if w.each != nil {
		list = slices.Concat(before, w.each.steps)
		steps = append(slices.Clone(list), step{indexed: true, index: -1})
	}
	switch {
	case w.within != nil:
		return w.within.spots(steps)
	case w.path != nil:
		return []spot{{w, append(steps, w.path.steps...), true, list}}
	}
	return []spot{{w, nil, false, nil}}
}

// whole reports whether it is all of an answer, or of its cookies: of a text nobody can tell the parts from each other.
func (s spot) whole() bool { return s.text || s.cookies || s.json && len(s.steps) == 0 }

// sameAs reports whether it may be the same spot as another.
func (s spot) sameAs(other spot) bool {
	same := s.written == other.written || s.json && other.json && slices.EqualFunc(s.steps, other.steps, mayBeOne)
	return same && !s.toldApart(other)
}

// toldApart reports whether both are of the first element of a list that has a value, and want another one each.
func (s spot) toldApart(other spot) bool {
	return slices.Equal(s.list, other.list) && slices.ContainsFunc(s.match, func(m match) bool {
		return slices.ContainsFunc(other.match, func(o match) bool {
			return slices.Equal(m.path.steps, o.path.steps) && m.literal() && o.literal() && writtenAs(m.field.values[0].parts) != writtenAs(o.field.values[0].parts)
		})
	})
}

// literal reports whether what it wants is written in the file, and one value.
func (m match) literal() bool { return len(m.field.values) == 1 && len(m.field.values[0].names()) == 0 }

// holds reports whether the other is a part of it.
func (s spot) holds(other spot) bool {
	if s.header != "" {
		cookie := other.cookie != "" && strings.EqualFold(s.header, "Set-Cookie")
		return cookie || s.pattern == nil && strings.EqualFold(s.header, other.header)
	}
	n := len(s.steps)
	return s.json && other.json && len(other.steps) > n && slices.EqualFunc(s.steps, other.steps[:n], mayBeOne)
}

// mayBeOne reports whether two steps may lead to the same: an index that counts from the end may be any.
func mayBeOne(a, b step) bool {
	return a == b || a.indexed && b.indexed && (a.index < 0 || b.index < 0)
}

// namesRefreshToken reports whether it is called a refresh token there: the last member of a path, a header, or a cookie.
func (s spot) namesRefreshToken() bool {
	name := s.header + s.cookie
	if n := len(s.steps); n > 0 {
		name = s.steps[n-1].member
	}
	name = strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(name))
	return name == "refreshtoken" || s.header != "" && name == "xrefreshtoken"
}
