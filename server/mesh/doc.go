// Package mesh gives tokens to requests that pass an Envoy: as its external authorization (ext_authz), which is asked once for a request, and as its external
// processor (ext_proc), which sees each try and what the API answers. To an Envoy that puts
// on tokens by itself it gives them as secrets (SDS). It puts into Envoy's messages what the contract says, and decides nothing about tokens.
package mesh
