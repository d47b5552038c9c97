package upstreamsim

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// GrantPolicy says how an account's refresh tokens are treated. The zero value is the strictest: every refresh spends the
// presented token and issues another, and a spent token that is presented again revokes its family, the newest refresh token
// included (RFC 9700 section 4.14.2). Access tokens outlive their family.
type GrantPolicy struct {
	Static    bool          // refresh tokens are never spent, and no answer to a refresh brings another
	Grace     time.Duration // a spent token is good again for so long after its first use; each use issues another token
	Supersede bool          // a new grant for the same scopes revokes the former one
}

// family is the refresh tokens that descend from one grant; guarded by Sim.mu.
type family struct {
	account *account
	number  int
	scopes  []string // sorted
	tokens  []*refreshToken
	revoked bool
}

type refreshToken struct {
	family *family
	number int
	spent  bool
	used   time.Time // first
}

// newFamily begins a grant.
func (s *Sim) newFamily(a *account, scopes []string) *family {
	f := &family{account: a, number: len(a.families) + 1, scopes: scopes}
	if a.policy.Supersede {
		for _, former := range a.families {
			if slices.Equal(former.scopes, scopes) {
				s.revokeFamily(former, "superseded")
			}
		}
	}
	a.families = append(a.families, f)
	return f
}

// newRefreshToken issues the family's next token.
func (s *Sim) newRefreshToken(f *family, request int64, detail string) (string, *refreshToken) {
	t := &refreshToken{family: f, number: len(f.tokens) + 1}
	f.tokens = append(f.tokens, t)
	value := newToken("rt.")
	s.refresh[value] = t
	s.recordToken(t, KindIssued, request, detail)
	return value, t
}

func (s *Sim) recordToken(t *refreshToken, kind Kind, request int64, detail string) {
	a := t.family.account
	s.record(Event{
		Kind: kind, System: a.system, Account: a.id, Request: request, Family: t.family.number, Token: t.number,
		Scope: strings.Join(t.family.scopes, " "), Detail: detail,
	})
}

// plantSeed begins a grant whose first refresh token reaches the customer by other ways.
func (s *Sim) plantSeed(a *account) {
	a.seed, _ = s.newRefreshToken(s.newFamily(a, nil), 0, "seed")
}

// revokeFamily revokes what of the family is still good, and reports whether anything was.
func (s *Sim) revokeFamily(f *family, detail string) bool {
	if f.revoked {
		return false
	}
	f.revoked = true
	for _, t := range f.tokens {
		if !t.spent {
			s.recordToken(t, KindRevoked, 0, detail)
		}
	}
	return true
}

// presentRefreshToken judges a refresh token that an authenticated client presents, without spending it.
func (s *Sim) presentRefreshToken(x *exchange, value string) (*refreshToken, *answer) {
	t := s.refresh[value]
	if t == nil || t.family.account != x.account {
		x.record(Event{Kind: KindPresented, Detail: "unknown"})
		return nil, new(x.refuse(http.StatusBadRequest, "invalid_grant", ReasonGrant, "unknown refresh token"))
	}
	s.recordToken(t, KindPresented, x.number, "")
	if t.spent && !s.inGrace(t) {
		s.recordToken(t, KindReused, x.number, "")
		s.revokeFamily(t.family, "reuse")
		return nil, new(x.refuse(http.StatusBadRequest, "invalid_grant", ReasonGrant, "spent refresh token"))
	}
	if t.family.revoked {
		return nil, new(x.refuse(http.StatusBadRequest, "invalid_grant", ReasonGrant, "revoked refresh token"))
	}
	return t, nil
}

func (s *Sim) inGrace(t *refreshToken) bool {
	return s.now().Before(t.used.Add(t.family.account.policy.Grace))
}

// useRefreshToken spends a presented token as the policy says. It returns the next one with its value, or nothing if there is
// none.
func (s *Sim) useRefreshToken(x *exchange, t *refreshToken) (string, *refreshToken) {
	if x.account.policy.Static {
		return "", nil
	}
	detail := "grace"
	if !t.spent {
		t.spent, t.used = true, s.now()
		s.recordToken(t, KindSpent, x.number, "")
		detail = ""
	}
	return s.newRefreshToken(t.family, x.number, detail)
}
