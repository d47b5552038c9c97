package upstreamsim

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// clientCredentials is a standard server: RFC 6749 section 4.4 with client_secret_post, an audience, and resources by RFC 8707.
func (s *Sim) clientCredentials(x *exchange) answer {
	f, bad := x.fields(fieldSet{
		required:   []string{"client_id", "client_secret", "grant_type"},
		optional:   []string{"scope", "audience"},
		repeatable: []string{"resource"},
	})
	if bad != nil {
		return *bad
	}
	if bad := x.want(f, "grant_type", "client_credentials", "unsupported_grant_type"); bad != nil {
		return *bad
	}
	if bad := s.client(x, f["client_id"], f["client_secret"], ClientCredentials); bad != nil {
		return *bad
	}
	scopes, bad := x.scopes(f["scope"], f["scope"] != "")
	if bad != nil {
		return *bad
	}
	audience := slices.Clone(x.values["resource"])
	for _, resource := range audience {
		// RFC 8707 section 2: an absolute URI without a fragment.
		if u, err := url.Parse(resource); err != nil || !u.IsAbs() || strings.Contains(resource, "#") {
			return x.refuse(http.StatusBadRequest, "invalid_target", ReasonValue, "resource")
		}
	}
	if f["audience"] != "" {
		audience = append(audience, f["audience"])
	}
	slices.Sort(audience)
	t := s.issueAccess(x, scopes, strings.Join(audience, " "))
	return x.oauthAnswer(t, s.left(t))
}

// refreshTokenServer only refreshes (RFC 6749 section 6): its grants begin with a seed. What happens to a refresh token is the
// account's GrantPolicy.
func (s *Sim) refreshTokenServer(x *exchange) answer {
	f, bad := x.fields(fieldSet{required: []string{"client_id", "client_secret", "grant_type", "refresh_token"}})
	if bad != nil {
		return *bad
	}
	if bad := x.want(f, "grant_type", "refresh_token", "unsupported_grant_type"); bad != nil {
		return *bad
	}
	if bad := s.client(x, f["client_id"], f["client_secret"], RefreshToken); bad != nil {
		return *bad
	}
	presented, bad := s.presentRefreshToken(x, f["refresh_token"])
	if bad != nil {
		return *bad
	}
	value, refresh := s.useRefreshToken(x, presented)
	t := s.issueAccess(x, presented.family.scopes, "")
	body := map[string]any{"access_token": t.value, "token_type": "Bearer"}
	if value != "" {
		body["refresh_token"] = value
	}
	x.stateExpiry(body, "expires_in", s.left(t), true)
	ans := tokenAnswer(body)
	ans.grant = refresh
	return ans
}
