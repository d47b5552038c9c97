package upstreamsim

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
)

// issuerDiscovery is the metadata of the server that takes client_secret_basic only (OpenID Connect Discovery 1.0).
func (s *Sim) issuerDiscovery(*exchange) answer {
	const issuer = "https://" + hostIssuer
	return jsonAnswer(http.StatusOK, map[string]any{
		"issuer":                                     issuer,
		"token_endpoint":                             issuer + "/connect/token",
		"revocation_endpoint":                        issuer + "/connect/revocation",
		"grant_types_supported":                      []string{"client_credentials"},
		"token_endpoint_auth_methods_supported":      []string{"client_secret_basic"},
		"revocation_endpoint_auth_methods_supported": []string{"client_secret_basic"},
	})
}

// issuerToken is RFC 6749 section 4.4 with the client in the Authorization header, and nowhere else (section 2.3).
func (s *Sim) issuerToken(x *exchange) answer {
	f, bad := x.fields(fieldSet{required: []string{"grant_type"}, optional: []string{"scope"}})
	if bad != nil {
		return *bad
	}
	if bad := x.want(f, "grant_type", "client_credentials", "unsupported_grant_type"); bad != nil {
		return *bad
	}
	if bad := s.basicClient(x); bad != nil {
		return *bad
	}
	scopes, bad := x.scopes(f["scope"], f["scope"] != "")
	if bad != nil {
		return *bad
	}
	t := s.issueAccess(x, scopes, "")
	return x.oauthAnswer(t, s.left(t))
}

// issuerRevoke is RFC 7009: an unknown token is no error, and one of another client is not revoked.
func (s *Sim) issuerRevoke(x *exchange) answer {
	f, bad := x.fields(fieldSet{required: []string{"token"}, optional: []string{"token_type_hint"}})
	if bad != nil {
		return *bad
	}
	if bad := s.basicClient(x); bad != nil {
		return *bad
	}
	if t := s.access[f["token"]]; t != nil && t.account == x.account {
		delete(s.access, f["token"])
		x.record(Event{Kind: KindEnded, Detail: "revoked"})
	}
	return newAnswer(http.StatusOK, "", nil)
}

// basicClient authenticates by the Authorization header. RFC 6749 section 2.3.1: user name and password are form-encoded
// before they are joined, so that neither has a raw character that its encoding would have escaped.
func (s *Sim) basicClient(x *exchange) *answer {
	malformed := func(detail string) *answer {
		return new(x.challenge(x.refuse(http.StatusUnauthorized, "invalid_client", ReasonAuthorization, detail)))
	}
	scheme, encoded, ok := strings.Cut(x.r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Basic") {
		return malformed("no Basic credentials")
	}
	joined, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return malformed("not base64")
	}
	login, secret, ok := strings.Cut(string(joined), ":")
	if !ok {
		return malformed("no colon")
	}
	login, ok1 := formDecode(login)
	secret, ok2 := formDecode(secret)
	if !ok1 || !ok2 {
		return malformed("not form-encoded")
	}
	if bad := s.client(x, login, secret, ClientBasic); bad != nil {
		return new(x.challenge(*bad))
	}
	return nil
}

// challenge adds what a 401 to an Authorization header must have (RFC 6749 section 5.2).
func (x *exchange) challenge(ans answer) answer {
	ans.header.Set("WWW-Authenticate", `Basic realm="`+hostIssuer+`"`)
	return ans
}

// formDecode decodes one form-encoded value that has nothing left unescaped.
func formDecode(text string) (string, bool) {
	for _, c := range []byte(text) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', strings.IndexByte("-._~*%+", c) >= 0:
		default:
			return "", false
		}
	}
	value, err := url.QueryUnescape(text)
	return value, err == nil
}
