package upstreamsim

import (
	"net/http"
	"slices"
	"strings"
)

// System names one simulated system. It is also the name of the catalog's definition that is meant to work with it.
// The zero value stands for every system where a method allows that, and is invalid elsewhere.
type System string

// The simulated systems.
const (
	OcctooDestination System = "occtoo-destination"
	OcctooIngest      System = "occtoo-ingest"
	OfficeRnD         System = "officernd"
	OchnoOperated     System = "ochno-operated"
	Snov              System = "snov"
	SnovGet           System = "snov-get"
	DocuWareCookie    System = "docuware-cookie"
	DocuWare          System = "docuware"
	ClientCredentials System = "oauth2-client-credentials"
	ClientBasic       System = "oauth2-client-credentials-basic"
	RefreshToken      System = "oauth2-refresh-token"
)

// Systems returns every simulated system in the order of the package comment. The slice is the caller's.
func Systems() []System {
	return []System{
		OcctooDestination, OcctooIngest, OfficeRnD, OchnoOperated, Snov, SnovGet, DocuWareCookie, DocuWare,
		ClientCredentials, ClientBasic, RefreshToken,
	}
}

func (s System) known() bool { return slices.Contains(Systems(), s) }

// Endpoint names what a request was for, the same in every system. The zero value is a request to no known endpoint, or, in
// a [Fault], the endpoints that hand out tokens.
type Endpoint string

// The endpoints. EndpointLogon is DocuWare's cookie login, EndpointIdentity its IdentityServiceInfo. EndpointAny is for
// faults only.
const (
	EndpointToken     Endpoint = "token"
	EndpointLogon     Endpoint = "logon"
	EndpointLogoff    Endpoint = "logoff"
	EndpointIdentity  Endpoint = "identity"
	EndpointDiscovery Endpoint = "discovery"
	EndpointRevoke    Endpoint = "revoke"
	EndpointAPI       Endpoint = "api"
	EndpointAny       Endpoint = "*"
)

// issues says whether the endpoint hands out tokens.
func (e Endpoint) issues() bool { return e == EndpointToken || e == EndpointLogon }

const (
	hostOcctooDestination = "destinations.occtoo.com"
	hostOcctooAPI         = "global.occtoo.com"
	hostOcctooIngest      = "ingest.occtoo.com"
	hostOfficeRnD         = "identity.officernd.com"
	hostOfficeRnDAPI      = "app.officernd.com"
	hostOchno             = "operated.ochno.com"
	hostSnov              = "api.snov.io"
	hostDocuWare          = "acme.docuware.cloud"
	hostDocuWareLogin     = "login-emea.docuware.cloud"
	hostAuth              = "auth.example.com"
	hostIssuer            = "issuer.example.com"
	hostLogin             = "login.example.com"

	pathDocuWare = "/DocuWare/Platform"
	// docuWareTenant stands where DocuWare Cloud has the organization's GUID in the URL of its identity service.
	docuWareTenant = "1f0d7b52-5c0e-4a53-9a37-0f6a5e1f7c11"
)

// hostSystems says which systems each host serves. The first one is charged with requests that match no route.
var hostSystems = map[string][]System{
	hostOcctooDestination: {OcctooDestination},
	hostOcctooAPI:         {OcctooDestination},
	hostOcctooIngest:      {OcctooIngest},
	hostOfficeRnD:         {OfficeRnD},
	hostOfficeRnDAPI:      {OfficeRnD},
	hostOchno:             {OchnoOperated},
	hostSnov:              {Snov, SnovGet},
	hostDocuWare:          {DocuWareCookie, DocuWare},
	hostDocuWareLogin:     {DocuWare},
	hostAuth:              {ClientCredentials},
	hostIssuer:            {ClientBasic},
	hostLogin:             {RefreshToken},
}

// route is one endpoint and what may be in a request to it.
type route struct {
	host   string
	path   string // "{id}" matches one segment
	system System
	// systemOf tells the systems apart that share an endpoint; nil: system.
	systemOf      func(*http.Request) System
	endpoint      Endpoint
	methods       []string
	body          bodyKind
	query         bool // a GET may carry a query
	authorization bool // the Authorization header is allowed
	cookies       bool // cookies are allowed
	handle        func(*Sim, *exchange) answer
}

// match reports whether the escaped path is the route's, and what stands for its "{id}".
func (r *route) match(path string) (id string, ok bool) {
	before, after, variable := strings.Cut(r.path, "{id}")
	if !variable {
		return "", path == r.path
	}
	id, ok = strings.CutPrefix(path, before)
	if !ok {
		return "", false
	}
	id, ok = strings.CutSuffix(id, after)
	return id, ok && id != "" && !strings.Contains(id, "/")
}

// newRoutes lists every endpoint. It is a function because the handlers refer back to the Sim that holds the routes.
func newRoutes() []route {
	get, post := []string{http.MethodGet}, []string{http.MethodPost}
	api := func(host, path string, system System) route {
		return route{host: host, path: path, system: system, endpoint: EndpointAPI, methods: get, authorization: true, handle: (*Sim).bearerAPI}
	}
	token := func(host, path string, system System, body bodyKind, handle func(*Sim, *exchange) answer) route {
		return route{host: host, path: path, system: system, endpoint: EndpointToken, methods: post, body: body, handle: handle}
	}
	routes := []route{
		token(hostOcctooDestination, "/destinations/{id}/token", OcctooDestination, bodyJSON, (*Sim).occtooDestination),
		api(hostOcctooAPI, "/acme/{id}/v1/products", OcctooDestination),
		token(hostOcctooIngest, "/dataProviders/tokens", OcctooIngest, bodyJSON, (*Sim).occtooIngest),
		api(hostOcctooIngest, "/dataProviders/sources", OcctooIngest),
		token(hostOfficeRnD, "/oauth/token", OfficeRnD, bodyForm, (*Sim).officeRnD),
		api(hostOfficeRnDAPI, "/api/v1/organizations/acme/members", OfficeRnD),
		token(hostOchno, "/identity/oauth/v2/token", OchnoOperated, bodyForm, (*Sim).ochno),
		api(hostOchno, "/api/v1/hubs", OchnoOperated),
		{host: hostSnov, path: "/v1/oauth/access_token", system: Snov, systemOf: snovByMethod, endpoint: EndpointToken,
			methods: []string{http.MethodGet, http.MethodPost}, body: bodyForm, query: true, handle: (*Sim).snov},
		{host: hostSnov, path: "/v1/get-balance", system: Snov, systemOf: nil, endpoint: EndpointAPI, methods: get,
			authorization: true, handle: (*Sim).bearerAPI},
		{host: hostDocuWare, path: pathDocuWare + "/Account/Logon", system: DocuWareCookie, endpoint: EndpointLogon, methods: post,
			body: bodyForm, handle: (*Sim).docuWareLogon},
		{host: hostDocuWare, path: pathDocuWare + "/Account/Logoff", system: DocuWareCookie, endpoint: EndpointLogoff, methods: get,
			cookies: true, handle: (*Sim).docuWareLogoff},
		{host: hostDocuWare, path: pathDocuWare + "/Organizations", system: DocuWareCookie, systemOf: docuWareByHeader,
			endpoint: EndpointAPI, methods: get, cookies: true, authorization: true, handle: (*Sim).docuWareAPI},
		{host: hostDocuWare, path: pathDocuWare + "/Home/IdentityServiceInfo", system: DocuWare, endpoint: EndpointIdentity,
			methods: get, handle: (*Sim).docuWareIdentity},
		{host: hostDocuWareLogin, path: "/" + docuWareTenant + "/.well-known/openid-configuration", system: DocuWare,
			endpoint: EndpointDiscovery, methods: get, handle: (*Sim).docuWareDiscovery},
		token(hostDocuWareLogin, "/"+docuWareTenant+"/connect/token", DocuWare, bodyForm, (*Sim).docuWareToken),
		token(hostAuth, "/oauth/token", ClientCredentials, bodyForm, (*Sim).clientCredentials),
		api(hostAuth, "/api/v1/items", ClientCredentials),
		{host: hostIssuer, path: "/.well-known/openid-configuration", system: ClientBasic, endpoint: EndpointDiscovery,
			methods: get, handle: (*Sim).issuerDiscovery},
		{host: hostIssuer, path: "/connect/token", system: ClientBasic, endpoint: EndpointToken, methods: post, body: bodyForm,
			authorization: true, handle: (*Sim).issuerToken},
		{host: hostIssuer, path: "/connect/revocation", system: ClientBasic, endpoint: EndpointRevoke, methods: post, body: bodyForm,
			authorization: true, handle: (*Sim).issuerRevoke},
		api(hostIssuer, "/api/v1/items", ClientBasic),
		token(hostLogin, "/oauth2/token", RefreshToken, bodyForm, (*Sim).refreshTokenServer),
		api(hostLogin, "/api/v1/me", RefreshToken),
	}
	return routes
}

// findRoute returns the route of a request to a known host, and what stands for its "{id}"; nil when there is none.
func (s *Sim) findRoute(host, path string) (*route, string) {
	for i := range s.routes {
		if r := &s.routes[i]; r.host == host {
			if id, ok := r.match(path); ok {
				return r, id
			}
		}
	}
	return nil, ""
}
