// Package broker is the domain: who may have which token, when it is fetched, shared, refreshed and invalidated.
//
// It decides freshness, who asks an upstream, what a failure means and for how long it is remembered. It knows no
// transport, no database and no provider's name: what it needs of those it declares as small interfaces (Upstream, Store,
// Authorizer) and takes the Caller as an argument of every operation.
package broker
