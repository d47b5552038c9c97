// Package upstreamsim is a hostile stand-in for the systems whose tokens are brokered. It decides what each of them answers
// to a token request, judging the request by the vendor's documentation rather than by our definitions: method, path, query,
// Content-Type, the exact set of fields, User-Agent, cookies. Whatever the vendor does not document is refused, with a
// recorded reason. It knows nothing of the broker, its catalog or its stores, and imports none of them.
//
// A [Sim] is one TLS server (HTTP/1.1 and HTTP/2) on a loopback address. It answers for all host names below with
// certificates of its own authority, [Sim.CA]. A client reaches it by dialling [Sim.Addr] for every entry of [Sim.Hosts].
//
// # Systems
//
// A [System] has the name of the catalog's definition for it. Every system has one protected API endpoint, which answers
// 200 to a token that is valid at that moment, presented as the vendor wants it, and 401 otherwise. The paths of these
// endpoints, and the wording of errors where no OAuth standard gives it, are ours: only the way to a token is the vendor's.
//
//	occtoo-destination   POST https://destinations.occtoo.com/destinations/{destination id}/token      JSON
//	                     GET  https://global.occtoo.com/acme/{destination}/v1/products
//	occtoo-ingest        POST https://ingest.occtoo.com/dataProviders/tokens                           JSON
//	                     GET  https://ingest.occtoo.com/dataProviders/sources
//	officernd            POST https://identity.officernd.com/oauth/token                               form
//	                     GET  https://app.officernd.com/api/v1/organizations/acme/members
//	ochno-operated       POST https://operated.ochno.com/identity/oauth/v2/token                       form; refreshes too
//	                     GET  https://operated.ochno.com/api/v1/hubs
//	snov                 POST https://api.snov.io/v1/oauth/access_token                                form
//	snov-get             GET  https://api.snov.io/v1/oauth/access_token                                query
//	                     GET  https://api.snov.io/v1/get-balance                                       both
//	docuware-cookie      POST https://acme.docuware.cloud/DocuWare/Platform/Account/Logon              form
//	                     GET  https://acme.docuware.cloud/DocuWare/Platform/Account/Logoff             cookies
//	                     GET  https://acme.docuware.cloud/DocuWare/Platform/Organizations              cookies
//	docuware             GET  https://acme.docuware.cloud/DocuWare/Platform/Home/IdentityServiceInfo
//	                     GET  https://login-emea.docuware.cloud/{tenant}/.well-known/openid-configuration
//	                     POST https://login-emea.docuware.cloud/{tenant}/connect/token                 form
//	                     GET  https://acme.docuware.cloud/DocuWare/Platform/Organizations              Bearer
//	oauth2-client-credentials
//	                     POST https://auth.example.com/oauth/token                                     form, client_secret_post
//	                     GET  https://auth.example.com/api/v1/items
//	oauth2-client-credentials-basic
//	                     GET  https://issuer.example.com/.well-known/openid-configuration
//	                     POST https://issuer.example.com/connect/token                                 form, client_secret_basic
//	                     POST https://issuer.example.com/connect/revocation                            form, RFC 7009
//	                     GET  https://issuer.example.com/api/v1/items
//	oauth2-refresh-token POST https://login.example.com/oauth2/token                                   form; refreshes only
//	                     GET  https://login.example.com/api/v1/me
//
// # Control
//
// In the same process, the methods of [Sim] add accounts and change them, inject a [Fault], hold requests with a [Gate] and
// read [Stats], the ledger of refresh tokens and the refusals. From outside, the same listener answers plain JSON to the hosts
// localhost and 127.0.0.1, for which its certificate is valid too. NAME is a [System], ID an [AccountID]. What is in the query
// may as well be in the body, as a JSON object. A web page's request is refused:
//
//	GET  /stats                     counters of every system and account, and of connections
//	GET  /ledger?system=NAME        refresh-token events of the system's accounts, in order; without system: of all
//	GET  /refusals?system=NAME      refused requests with their reasons, in order; without system: of all
//	POST /fault?kind=KIND           injects a [Fault]; more fields: system, account, endpoint, count, after=true, code,
//	                                retry_after=30s, skew=-2h, interval=50ms, size=1000, value=JSON
//	POST /clear                     ends every fault and releases what hangs
//	POST /down?system=NAME          without system: all of them
//	POST /up?system=NAME
//	POST /reject?system=NAME        ends the access tokens of the system, of account=ID, or without either all of them
//
// No answer of these, no [Event] and no error holds a secret or a token.
package upstreamsim
