// Package engine makes a broker of the words in package broker: it decides who may have which token, when it is fetched, shared,
// refreshed and invalidated, and what is done while the store cannot be asked.
//
// It knows no transport, no database and no provider's name: those are behind broker.Upstream, broker.Store and
// broker.Authorizer.
//
// What becomes of an upstream's answer, in order:
//
//	broker.Answer   what the definition's run brought                     (exchange.go)
//	broker.Issued   what is decided of it when it came, and what is stored (freshness.go)
//	offer           that, the credential and the definition that it came
//	                by, and how it is shown to callers: immutable          (target.go)
//	entry           an offer in the cache: when the store last confirmed
//	                it, and how its refresh is doing                       (cache.go)
//	Result          what a caller gets                                     (token.go)
package engine
