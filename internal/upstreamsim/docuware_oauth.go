package upstreamsim

import "net/http"

const docuWareIssuer = "https://" + hostDocuWareLogin + "/" + docuWareTenant

// docuWareIdentity tells where the identity service is: the first of the three requests of DocuWare's OAuth.
func (s *Sim) docuWareIdentity(*exchange) answer {
	return jsonAnswer(http.StatusOK, map[string]any{"IdentityServiceUrl": docuWareIssuer, "RefreshTokenLifetime": 30})
}

// docuWareDiscovery is the second, OpenID Connect Discovery 1.0.
func (s *Sim) docuWareDiscovery(*exchange) answer {
	return jsonAnswer(http.StatusOK, map[string]any{
		"issuer":                docuWareIssuer,
		"token_endpoint":        docuWareIssuer + "/connect/token",
		"grant_types_supported": []string{"password", "authorization_code", "refresh_token"},
		"scopes_supported":      []string{"docuware.platform"},
	})
}

// docuWareToken is the third, a password grant of a public client. Wrong logins count towards the same kind of lockout as
// those of the cookie login.
func (s *Sim) docuWareToken(x *exchange) answer {
	f, bad := x.fields(fieldSet{required: []string{"grant_type", "scope", "client_id", "username", "password"}})
	if bad != nil {
		return *bad
	}
	if bad := x.want(f, "grant_type", "password", "unsupported_grant_type"); bad != nil {
		return *bad
	}
	if bad := x.want(f, "client_id", "docuware.platform.net.client", "invalid_client"); bad != nil {
		return *bad
	}
	if bad := x.want(f, "scope", "docuware.platform", "invalid_scope"); bad != nil {
		return *bad
	}
	a := s.lookUp(f["username"], DocuWare)
	if a == nil {
		return x.refuse(http.StatusBadRequest, "invalid_grant", ReasonCredential, "unknown client")
	}
	x.account = a
	switch {
	case s.now().Before(a.locked):
		return x.refuse(http.StatusBadRequest, "invalid_grant", ReasonLockedOut, "")
	case a.disabled:
		return x.refuse(http.StatusBadRequest, "invalid_grant", ReasonDisabled, "")
	case f["password"] != a.secret:
		defer s.countWrong(x)
		return x.refuse(http.StatusBadRequest, "invalid_grant", ReasonCredential, "wrong secret")
	}
	a.wrong = 0
	t := s.issueAccess(x, []string{"docuware.platform"}, "")
	return x.oauthAnswer(t, s.left(t))
}
