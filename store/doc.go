// Package store keeps what the broker decides: credentials, grants, tokens, leases and failures, sealed, above any backend.
//
// It decides when a write still applies (every write is conditional on what was read), what a record looks like, how it is
// sealed and what it is bound to. It implements broker.Store. It knows nothing of databases, which implement Backend and
// see sealed rows only, and nothing of upstreams or freshness, which are the broker's.
//
// Every change is read, decide, apply: the rows of one credential are read as of one moment, the decision is made here,
// and a Batch applies it under the condition that the rows which decided are unchanged. A Batch whose conditions fail is
// decided again; so replicas need no lock, and the lease only saves work.
//
// What this package decides beyond the comments of broker.Store:
//
//   - Acquire deletes the token that ends first when it begins an exchange for a new token key of a credential that has Options.MaxTokens live
//     ones: a token that is asked for is obtained anew before it ends, so that one is mostly of the least use. It is looked at
//     before the exchange, and not at Commit: flights that run at the same time may overshoot by their number.
//   - Acquire fails with broker.StoreUnavailable where a grant could be spent, once the store was exported: see suspend.go.
//   - A lease that is not on a grant counts only for the credential version and epoch that it was taken for: after a change
//     or an invalidation nobody waits for an exchange whose token would be void.
//   - Release says that nothing was presented: it removes the owner's marker along with the lease. Whoever does not know
//     whether something was sent records Uncertain.
//   - Acquire draws the owner. Where it does not know whether the lease was taken it returns it beside the failure, and a Release of one
//     that was not taken does nothing.
//   - A failure of LevelGrant sets Refused, and Uncertain sets Uncertain; a record may say both.
//   - Every commit of a grant that was presented has a new generation, the id of its owner, also where the refresh token stays
//     the same.
//   - A Commit that is repeated sees that it was made: the grant's generation, or the token's owner, is its own. Where both have been
//     replaced or dropped since, nothing of it is stored, and it says so. A token that hangs on no grant is stored only while the
//     lease is held: whoever has lost it cannot know whether it was stored, and dropped since.
//     A Fail that is repeated says the same again.
//   - SaveCredential keeps the stored epoch, whatever the credential given says: an update that was read before all tokens
//     were invalidated must not make them valid again.
//   - Grants of single keys, which were obtained without a human, are bounded like tokens; the one that was used least
//     recently makes room. Failures of single keys end a day after their retry time, backoffs likewise.
//   - A method that ends because its context did is StoreUnavailable, and matches the context's error too.
package store
