package upstreamsim

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

type pair struct{ name, value string }

// spec is a request that tests take apart.
type spec struct {
	method, url string
	json        bool
	fields      []pair // of the body, or of the query of a GET
	raw         string // instead of fields
	header      http.Header
}

func (s spec) clone() spec {
	s.fields, s.header = slices.Clone(s.fields), s.header.Clone()
	return s
}

func (s spec) without(name string) spec {
	s = s.clone()
	s.fields = slices.DeleteFunc(s.fields, func(p pair) bool { return p.name == name })
	return s
}

func (s spec) with(name, value string) spec {
	s = s.clone()
	s.fields = append(s.fields, pair{name, value})
	return s
}

func (s spec) set(name, value string) spec {
	s = s.clone()
	for i := range s.fields {
		if s.fields[i].name == name {
			s.fields[i].value = value
		}
	}
	return s
}

func (s spec) head(name, value string) spec {
	s = s.clone()
	s.header.Set(name, value)
	return s
}

func (s spec) encode() string {
	if s.raw != "" {
		return s.raw
	}
	parts := make([]string, len(s.fields))
	for i, p := range s.fields {
		if s.json {
			name, _ := json.Marshal(p.name)
			value, _ := json.Marshal(p.value)
			parts[i] = string(name) + ":" + string(value)
		} else {
			parts[i] = url.QueryEscape(p.name) + "=" + url.QueryEscape(p.value)
		}
	}
	if s.json {
		return "{" + strings.Join(parts, ",") + "}"
	}
	return strings.Join(parts, "&")
}

func (s spec) request(ctx context.Context) (*http.Request, error) {
	target, body := s.url, io.Reader(nil)
	if encoded := s.encode(); s.method == http.MethodGet && encoded != "" {
		target += "?" + encoded
	} else if s.method != http.MethodGet {
		body = strings.NewReader(encoded)
	}
	r, err := http.NewRequestWithContext(ctx, s.method, target, body)
	if err != nil {
		return nil, err
	}
	for name, values := range s.header {
		r.Header[name] = values
	}
	return r, nil
}

// issuing is the request that makes the account's system hand out a token.
func issuing(a Account) spec {
	form := http.Header{"User-Agent": {testAgent}, "Content-Type": {"application/x-www-form-urlencoded"}}
	get := http.Header{"User-Agent": {testAgent}}
	secret := a.Secrets["client_secret"]
	id := a.Inputs["client_id"]
	credentials := []pair{{"grant_type", "client_credentials"}, {"client_id", id}, {"client_secret", secret}}
	scope := pair{"scope", strings.Join(a.Scopes, " ")}
	post := func(target string, fields ...pair) spec {
		return spec{method: http.MethodPost, url: target, fields: fields, header: form}
	}
	switch a.System {
	case OcctooDestination:
		s := post("https://destinations.occtoo.com/destinations/"+a.Inputs["destination_id"]+"/token",
			pair{"clientId", id}, pair{"clientSecret", secret}).head("Content-Type", "application/json")
		s.json = true
		return s
	case OcctooIngest:
		s := post("https://ingest.occtoo.com/dataProviders/tokens",
			pair{"id", a.Inputs["provider_id"]}, pair{"secret", a.Secrets["provider_secret"]}).
			head("Content-Type", "application/json; charset=utf-8")
		s.json = true
		return s
	case OfficeRnD:
		return post("https://identity.officernd.com/oauth/token", append(credentials, scope)...)
	case OchnoOperated:
		return post("https://operated.ochno.com/identity/oauth/v2/token", append(credentials, scope)...)
	case Snov:
		return post("https://api.snov.io/v1/oauth/access_token", credentials...)
	case SnovGet:
		return spec{method: http.MethodGet, url: "https://api.snov.io/v1/oauth/access_token", fields: credentials, header: get}
	case DocuWareCookie:
		return post(a.Inputs["server"]+"/DocuWare/Platform/Account/Logon",
			pair{"UserName", a.Inputs["username"]}, pair{"Password", a.Secrets["password"]}, pair{"Organization", a.Inputs["organization"]},
			pair{"LoginType", "DocuWare"}, pair{"RedirectToMyselfInCaseOfError", "false"}, pair{"RememberMe", "false"})
	case DocuWare:
		return post(docuWareIssuer+"/connect/token",
			pair{"grant_type", "password"}, pair{"scope", "docuware.platform"}, pair{"client_id", "docuware.platform.net.client"},
			pair{"username", a.Inputs["username"]}, pair{"password", a.Secrets["password"]})
	case ClientCredentials:
		return post(a.Inputs["token_url"], append(credentials, scope)...)
	case ClientBasic:
		return post(a.Inputs["issuer"]+"/connect/token", pair{"grant_type", "client_credentials"}).
			head("Authorization", basic(url.QueryEscape(id), url.QueryEscape(secret)))
	default:
		return refreshing(a, a.Secrets["refresh_token"])
	}
}

// refreshing is a refresh request of Ochno or of the server for refresh tokens.
func refreshing(a Account, refreshToken string) spec {
	s := spec{
		method: http.MethodPost, url: a.Inputs["token_url"],
		header: http.Header{"User-Agent": {testAgent}, "Content-Type": {"application/x-www-form-urlencoded"}},
		fields: []pair{{"grant_type", "refresh_token"}, {"client_id", a.Inputs["client_id"]},
			{"client_secret", a.Secrets["client_secret"]}, {"refresh_token", refreshToken}},
	}
	if a.System == OchnoOperated {
		s.url = "https://operated.ochno.com/identity/oauth/v2/token"
		s = s.with("redirect_uri", a.Inputs["redirect_uri"])
	}
	return s
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
}
