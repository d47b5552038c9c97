package upstreamsim

import "net/http"

// ochno is the token endpoint of Ochno Operated's server-to-server integrations, by its integration guide: client_credentials
// brings an access token and a refresh token, and a refresh brings two new ones. No expiry is documented. What the guide leaves
// open is decided strictly: a refresh token is good once, and every grant is a family of its own.
func (s *Sim) ochno(x *exchange) answer {
	switch x.value("grant_type") {
	case "refresh_token":
		return s.ochnoRefresh(x)
	default:
		return s.ochnoObtain(x)
	}
}

func (s *Sim) ochnoObtain(x *exchange) answer {
	f, bad := x.fields(fieldSet{required: []string{"client_id", "client_secret", "grant_type", "scope"}})
	if bad != nil {
		return *bad
	}
	if bad := x.want(f, "grant_type", "client_credentials", "unsupported_grant_type"); bad != nil {
		return *bad
	}
	if bad := s.client(x, f["client_id"], f["client_secret"], OchnoOperated); bad != nil {
		return *bad
	}
	scopes, bad := x.scopes(f["scope"], true)
	if bad != nil {
		return *bad
	}
	value, refresh := s.newRefreshToken(s.newFamily(x.account, scopes), x.number, "")
	return s.ochnoAnswer(x, scopes, value, refresh)
}

func (s *Sim) ochnoRefresh(x *exchange) answer {
	f, bad := x.fields(fieldSet{required: []string{"client_id", "client_secret", "grant_type", "redirect_uri", "refresh_token"}})
	if bad != nil {
		return *bad
	}
	if bad := s.client(x, f["client_id"], f["client_secret"], OchnoOperated); bad != nil {
		return *bad
	}
	if f["redirect_uri"] != x.account.inputs["redirect_uri"] {
		return x.refuse(http.StatusBadRequest, "invalid_grant", ReasonValue, "redirect_uri")
	}
	presented, bad := s.presentRefreshToken(x, f["refresh_token"])
	if bad != nil {
		return *bad
	}
	scopes := presented.family.scopes
	if !x.account.mayHave(scopes) {
		return x.refuse(http.StatusBadRequest, "invalid_scope", ReasonScope, "more than the account may have")
	}
	value, refresh := s.useRefreshToken(x, presented)
	return s.ochnoAnswer(x, scopes, value, refresh)
}

func (s *Sim) ochnoAnswer(x *exchange, scopes []string, value string, refresh *refreshToken) answer {
	t := s.issueAccess(x, scopes, "")
	body := map[string]any{"access_token": t.value}
	if value != "" {
		body["refresh_token"] = value
	}
	x.stateExpiry(body, "expires_in", s.left(t), false)
	ans := tokenAnswer(body)
	ans.grant = refresh
	return ans
}
