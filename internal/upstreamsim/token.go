package upstreamsim

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// accessToken is an access token or a login cookie; guarded by Sim.mu.
type accessToken struct {
	value     string
	account   *account
	scope     string // sorted, joined by spaces
	audience  string
	expires   time.Time
	userAgent string // DocuWare's cookies: that of the login
	browser   string // and the cookie that goes with it
}

func (s *Sim) valid(t *accessToken) bool { return s.now().Before(t.expires) && !t.account.disabled }

// left is how long a token still lives.
func (s *Sim) left(t *accessToken) time.Duration { return t.expires.Sub(s.now()) }

// issueAccess returns an access token for the account of x; s.mu is held.
func (s *Sim) issueAccess(x *exchange, scopes []string, audience string) *accessToken {
	a, scope := x.account, strings.Join(scopes, " ")
	if x.odd(OddSameToken) {
		var same *accessToken
		for _, t := range s.access {
			if t.account == a && t.scope == scope && t.audience == audience && s.valid(t) && s.left(t) > time.Minute &&
				(same == nil || t.expires.After(same.expires)) {
				same = t
			}
		}
		if same != nil {
			return same
		}
	}
	s.issued++
	if s.issued%1024 == 0 {
		for value, t := range s.access {
			if !s.now().Before(t.expires) {
				delete(s.access, value)
			}
		}
	}
	t := &accessToken{value: newToken("at."), account: a, scope: scope, audience: audience, expires: s.now().Add(a.lifetime)}
	s.access[t.value] = t
	x.count(func(c *counters) { c.access++ })
	x.record(Event{Kind: KindAccess, Scope: scope})
	return t
}

// client authenticates a client or user by its identifier and secret, as systems may have it that share an endpoint. The
// account is charged with the request either way.
func (s *Sim) client(x *exchange, login, secret string, systems ...System) *answer {
	a := s.lookUp(login, systems...)
	if a == nil {
		return new(x.refuse(http.StatusUnauthorized, "invalid_client", ReasonCredential, "unknown client"))
	}
	x.account = a
	if secret != a.secret {
		return new(x.refuse(http.StatusUnauthorized, "invalid_client", ReasonCredential, "wrong secret"))
	}
	if a.disabled {
		return new(x.refuse(http.StatusUnauthorized, "invalid_client", ReasonDisabled, ""))
	}
	return nil
}

// lookUp finds the account of a login in one of the systems; nil when there is none.
func (s *Sim) lookUp(login string, systems ...System) *account {
	for _, a := range s.accounts {
		if a.login == login && slices.Contains(systems, a.system) {
			return a
		}
	}
	return nil
}

// scopes judges the scope parameter; absent is none. The result is sorted.
func (x *exchange) scopes(text string, present bool) ([]string, *answer) {
	if !present {
		return nil, nil
	}
	scopes := strings.Split(text, " ")
	slices.Sort(scopes)
	if slices.Contains(scopes, "") || len(slices.Compact(slices.Clone(scopes))) != len(scopes) {
		return nil, new(x.refuse(http.StatusBadRequest, "invalid_scope", ReasonScope, "malformed scope"))
	}
	if !x.account.mayHave(scopes) {
		return nil, new(x.refuse(http.StatusBadRequest, "invalid_scope", ReasonScope, "more than the account may have"))
	}
	return scopes, nil
}

// stateExpiry puts the token's expiry into the answer under the vendor's name for it, or what an oddity makes of it. Vendors
// whose documentation knows no expiry state none, unless an oddity asks for it.
func (x *exchange) stateExpiry(body map[string]any, name string, left time.Duration, documented bool) {
	seconds := int64((left + 100*time.Millisecond) / time.Second) // down, but the time since it was issued does not count
	raw := func(text string) { body[name] = json.RawMessage(text) }
	switch {
	case x.odd(OddExpiresMissing):
	case x.odd(OddExpiresText):
		body[name] = strconv.FormatInt(seconds, 10)
	case x.odd(OddExpiresMilliseconds):
		body[name] = left.Milliseconds()
	case x.odd(OddExpiresFractional):
		raw(strconv.FormatInt(seconds, 10) + ".5")
	case x.odd(OddExpiresNegative):
		body[name] = -seconds
	case x.odd(OddExpiresZero):
		body[name] = 0
	case x.odd(OddExpiresHuge):
		raw("123456789012345678901234567890")
	case x.odd(OddExpiresAt):
		key := "expires_at"
		if name == "expiresIn" {
			key = "expiresAt"
		}
		body[key] = x.date().Add(left).UTC().Format(time.RFC3339)
	default:
		if value := x.oddValue(OddExpiresValue); value != "" {
			raw(value)
		} else if documented {
			body[name] = seconds
		}
	}
}

// oauthAnswer is the answer of RFC 6749 section 5.1. The scope is stated where there is one.
func (x *exchange) oauthAnswer(t *accessToken, left time.Duration) answer {
	body := map[string]any{"access_token": t.value, "token_type": "Bearer"}
	x.stateExpiry(body, "expires_in", left, true)
	if t.scope != "" {
		body["scope"] = t.scope
	}
	return tokenAnswer(body)
}

// tokenAnswer is a JSON answer that must not be cached.
func tokenAnswer(body map[string]any) answer {
	ans := jsonAnswer(http.StatusOK, body)
	ans.header.Set("Cache-Control", "no-store")
	return ans
}
