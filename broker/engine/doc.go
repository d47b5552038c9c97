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
//	                it, and how its refresh is doing                       (entry.go)
//	Result          what a caller gets                                     (token.go)
//
// What a miss goes through has these names:
//
//	lookup      what a caller asked for, as it said it                     (target.go)
//	target      that, with the credential and the definition that decide   (target.go)
//	flight      what callers of the same share: one goroutine              (flight.go)
//	pursuit     a flight at work: what it has done, and what it holds      (round.go)
//	round       one look at everything, and one step                       (round.go)
//	plan        which step: a table of what is known                       (plan.go)
//	slot        where a token's entry is, for all names that callers have  (names.go)
//	line        what this process knows of a credential beside its tokens  (line.go)
//	moves       what was dropped of it while somebody reads                (moves.go)
//	turn        the right to go for a grant: one flight at a time          (line.go)
//	place       at an upstream's gate, from the first wait to the answer   (package gate)
//	mark        what the store tells a token by
//	marker      in the store: who presents a refresh token just now
//	pending     the end of an exchange on its way to the store             (commit_pending.go)
//	solo        what came of it when this process obtained for itself      (alone.go)
//	trial       a test of a credential                                     (trial.go)
package engine
