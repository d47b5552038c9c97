package explore

// The promises, as what is not so.
const (
	hotLoop       = "hot loop"
	spentByHolder = "presented a spent refresh token whose successor it holds"
	spentByOther  = "presented a spent refresh token whose successor another broker holds"
	spentStored   = "presented a spent refresh token whose successor is stored"
	gaveUp        = "gave up the answer to a refresh"
	denied        = "denied although a valid token is there"
	servedInvalid = "served after it was invalidated"
	servedDeleted = "served after the credential was deleted"
	wentBack      = "an older token replaced a newer one"
	servedLate    = "served past its end"
	waitsLong     = "waits too long"
	lostCommitted = "lost a committed refresh token"
	gaveRejected  = "gave the rejected token"
	watchTells    = "a watch tells without end"
	noToken       = "no token in the end"
	rowsLeft      = "something is left of a deleted credential"
	hangs         = "something hangs"
	noStop        = "does not stop"
)

// What a failover without wait_replicas has done in a schedule, after which nobody can keep a promise; docs/redis.md says so.
const (
	// markerUndone is of who presents a refresh token, or of who presented it before.
	markerUndone = "a failover has undone the marker that says that it is presented"
	// chainUndone: whoever keeps the first of them is to make it again before anybody else knows that it was made.
	chainUndone = "a failover has undone more than two commits of refresh tokens, and another broker that keeps the first has not made it again yet"
	// keeperAway: whoever would make it again is dead, or had no time since.
	keeperAway = "a failover has undone the invalidation, and the broker that keeps it is away"
	// commitUndone: the token was not stored when it was invalidated, so there was nothing to be kept.
	commitUndone = "a failover has undone the commit of the token when it was invalidated, or of its successor, and another broker keeps that"
	// deletionUndone: what was dropped was dropped of the credential that came after.
	deletionUndone = "a failover has undone a deletion, and with it what came after"
)
