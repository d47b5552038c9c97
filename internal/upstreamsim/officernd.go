package upstreamsim

import "time"

// officeRnD issues tokens: https://developer.officernd.com/docs/authentication. All four fields are documented as needed, and
// more scopes than the application has are an error. The page states 3599 for an hour.
func (s *Sim) officeRnD(x *exchange) answer {
	f, bad := x.fields(fieldSet{required: []string{"client_id", "client_secret", "grant_type", "scope"}})
	if bad != nil {
		return *bad
	}
	if bad := x.want(f, "grant_type", "client_credentials", "unsupported_grant_type"); bad != nil {
		return *bad
	}
	if bad := s.client(x, f["client_id"], f["client_secret"], OfficeRnD); bad != nil {
		return *bad
	}
	scopes, bad := x.scopes(f["scope"], true)
	if bad != nil {
		return *bad
	}
	t := s.issueAccess(x, scopes, "")
	left := s.left(t)
	if left > 2*time.Second {
		left -= time.Second
	}
	return x.oauthAnswer(t, left)
}
