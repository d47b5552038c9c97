package upstreamsim

import (
	"net/http"
	"slices"
	"strings"
)

// bearer is the token of a Bearer Authorization header (RFC 6750 section 2.1).
func bearer(r *http.Request) (string, bool) {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", false
	}
	return token, true
}

// bearerAPI answers an API request that carries its token in the Authorization header.
func (s *Sim) bearerAPI(x *exchange) answer {
	token, ok := bearer(x.r)
	if !ok {
		return x.refuse(http.StatusUnauthorized, "", ReasonToken, "no Bearer token")
	}
	t := s.access[token]
	switch {
	case t == nil || !s.valid(t) || !slices.Contains(hostSystems[apiIssuer(x.host)], t.account.system):
		return x.refuse(http.StatusUnauthorized, "", ReasonToken, "unknown, expired or ended")
	case x.system == DocuWare && t.account.system != DocuWare:
		return x.refuse(http.StatusUnauthorized, "", ReasonToken, "a cookie as Bearer token")
	case x.id != "" && x.id != t.account.inputs["destination_id"]:
		return x.refuse(http.StatusUnauthorized, "", ReasonToken, "for another destination")
	}
	x.account = t.account
	return x.accept(t)
}

// Valid reports whether the value is a live access token or .DWPLATFORMAUTH cookie of the system (empty: of any). It counts
// nothing: to see a token accepted as the vendor wants it presented, GET [Account.APIURL].
func (s *Sim) Valid(system System, token string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.access[token]
	return t != nil && s.valid(t) && (system == "" || t.account.system == system)
}

// apiIssuer is the host whose systems issue the tokens for an API host.
func apiIssuer(host string) string {
	switch host {
	case hostOfficeRnDAPI:
		return hostOfficeRnD
	case hostOcctooAPI:
		return hostOcctooDestination
	}
	return host
}

// accept answers an API request that was shown a valid token.
func (x *exchange) accept(t *accessToken) answer {
	x.count(func(c *counters) { c.accepted++ })
	x.record(Event{Kind: KindAccepted, Scope: t.scope})
	body := map[string]any{"system": x.system, "account": t.account.id}
	if t.scope != "" {
		body["scope"] = t.scope
	}
	if t.audience != "" {
		body["audience"] = t.audience
	}
	return jsonAnswer(http.StatusOK, body)
}
