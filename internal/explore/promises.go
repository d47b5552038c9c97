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
