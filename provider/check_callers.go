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
			switch {
			case !shown[t.name] || t.name == "refresh_token":
			case t.where.reads(func(w *where) bool {
				return w.path != nil && w.path.endsInRefreshToken() || slices.ContainsFunc(kept, w.sameAs)
			}):
				c.Wrong(t.at, "take.%s: callers would get the refresh token: take it as refresh_token alone, and write refresh for how it is used", t.name)
			case t.where.reads(func(w *where) bool {
				whole := w.text || w.cookies || w.path != nil && len(w.path.steps) == 0 // a text has no parts that one could tell from each other
				return whole && len(beside) > 0 || slices.ContainsFunc(beside, w.holds)
			}), slices.ContainsFunc(kept, func(w *where) bool { return w.reads(func(w *where) bool { return w.of == t.name }) }):
				c.Wrong(t.at, "take.%s: callers would get what the refresh token is in: write where in the answer it is alone, as in take: {token: access_token}", t.name)
			}
		}
	}
}

// refreshTokensOf are where refresh tokens are taken.
func refreshTokensOf(qs []*request) (kept []*where) {
	for _, q := range qs {
		for _, t := range q.take {
			if t.name == "refresh_token" {
				kept = append(kept, t.where)
			}
		}
	}
	return kept
}

// readsRefreshToken reports whether something that is taken may be a refresh token, or what one is in.
func (d *definition) readsRefreshToken(w *where) bool {
	kept := refreshTokensOf(slices.Concat(d.obtain, d.refresh))
	return w.reads(func(w *where) bool {
		whole := w.text || w.path != nil && len(w.path.steps) == 0
		return whole || w.path != nil && w.path.endsInRefreshToken() || slices.ContainsFunc(kept, w.sameAs) || slices.ContainsFunc(kept, w.holds)
	})
}

// reads reports whether it looks at such a place, whatever else it looks at.
func (w *where) reads(such func(*where) bool) bool {
	return such(w) || w.within != nil && w.within.reads(such) || slices.ContainsFunc(w.anyOf, func(x *where) bool { return x.reads(such) })
}

// sameAs reports whether it looks where another looks, whatever is made of it by a pattern.
func (w *where) sameAs(other *where) bool {
	return other.reads(func(x *where) bool {
		return x.written == w.written || w.path != nil && x.path != nil && slices.EqualFunc(w.path.steps, x.path.steps, mayBeOne)
	})
}

// holds reports whether the other looks at a part of what it takes.
func (w *where) holds(other *where) bool {
	return other.reads(func(x *where) bool {
		switch {
		case w.header != "":
			cookie := x.cookie != "" && strings.EqualFold(w.header, "Set-Cookie")
			return cookie || w.pattern == nil && strings.EqualFold(w.header, x.header)
		case w.path == nil || x.path == nil:
			return false
		}
		n := len(w.path.steps)
		return len(x.path.steps) > n && slices.EqualFunc(w.path.steps, x.path.steps[:n], mayBeOne)
	})
}

// mayBeOne reports whether two steps may lead to the same: an index that counts from the end may be any.
func mayBeOne(a, b step) bool {
	return a == b || a.indexed && b.indexed && (a.index < 0 || b.index < 0)
}

// endsInRefreshToken reports whether the last member of a path is called a refresh token.
func (p *path) endsInRefreshToken() bool {
	if len(p.steps) == 0 {
		return false
	}
	name := strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(p.steps[len(p.steps)-1].member))
	return name == "refreshtoken"
}
