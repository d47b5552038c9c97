package provider

import (
	"slices"
	"strings"
)

// refreshTokensKept: what callers get is no refresh token, under whichever name it is taken, and no answer that holds one.
func (c *checker) refreshTokensKept() {
	qs, shown := slices.Concat(c.d.obtain, c.d.refresh), c.d.visibleToCallers()
	var kept []string // where refresh tokens are
	for _, q := range qs {
		for _, t := range q.take {
			if t.name == "refresh_token" {
				kept = append(kept, t.where.written)
			}
		}
	}
	for _, q := range qs {
		for _, t := range q.take {
			switch {
			case t.name != "token" && !shown[t.name] || t.name == "refresh_token":
			case t.where.reads(func(w *where) bool {
				return slices.Contains(kept, w.written) || w.path != nil && w.path.endsInRefreshToken()
			}):
				c.Wrong(t.at, "take.%s: callers would get the refresh token: take it as refresh_token alone, and write refresh for how it is used", t.name)
			case t.name == "token" && len(kept) > 0 && t.where.reads(func(w *where) bool { return w.text || w.cookies || w.path != nil && len(w.path.steps) == 0 }):
				c.Wrong(t.at, "take.token: callers would get the whole answer, and a refresh token is in it: write where in the answer the token is, as in take: {token: access_token}")
			}
		}
	}
}

// reads reports whether it looks at such a place, whatever else it looks at.
func (w *where) reads(such func(*where) bool) bool {
	return such(w) || w.within != nil && w.within.reads(such) || slices.ContainsFunc(w.anyOf, func(x *where) bool { return x.reads(such) })
}

// endsInRefreshToken reports whether the last member of a path is called a refresh token.
func (p *path) endsInRefreshToken() bool {
	if len(p.steps) == 0 {
		return false
	}
	name := strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(p.steps[len(p.steps)-1].member))
	return name == "refreshtoken"
}
