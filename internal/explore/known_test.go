package explore

import "slices"

// A known is a promise that is broken today. Whoever mends it takes its line out, and the last column of the schedules in
// regressions_test.go that show it.
type known struct {
	promise string
	// with: one of these has to have happened, or be the scenario; none: whatever happened.
	with []string
	why  string
}

var knownToday = []known{
	{hotLoop, []string{"watch", "call watch"}, "a flight that fails wakes the watch that waits for it"},
	{"a watch tells without end", nil, "each new time to try again counts as news"},
	{"presented a spent refresh token whose successor it holds", []string{"failover", "lapse"}, "kept commits are made again beside whoever presents, and are forgotten while the store is away"},
	{"presented a spent refresh token whose successor another broker holds", []string{"failover", "lapse"}, "a failover that undoes a marker leaves nothing that says so"},
	{"gave up the answer to a refresh", nil, "an answer is waited for until the exchange's deadline only"},
	{"denied although a valid token is there", []string{"call stale", "call reject"}, "a rejection that the store cannot hear of moves the whole credential"},
	{"served after it was invalidated", []string{"call invalidate", "call drop", "fail", "away", "cut", "readonly", "hold"}, "an entry that was once unreached, and one that is not stored, are not looked after"},
	{"served after it was invalidated", []string{"failover", "lapse"}, "an invalidation is not made again after a failover"},
	{"an older token replaced a newer one", nil, "a commit does not look when the stored token was sent"},
	{"served past its end", []string{"late"}, "a commit gives the token's remaining life, not its end"},
	{"waits too long", []string{"fail", "lose", "late"}, "a commit that failed leaves its lease"},
}

// knows reports whether a shrunk run shows this.
func (k known) knows(r Run) bool {
	if r.Violations[0].Promise != k.promise {
		return false
	}
	if len(k.with) == 0 || slices.Contains(k.with, r.Schedule.Scenario) {
		return true
	}
	return slices.ContainsFunc(r.Schedule.Deviations, func(d Deviation) bool { return slices.Contains(k.with, d.Do.Verb()) })
}

// isKnown is the known that a shrunk run shows; -1: none.
func isKnown(r Run) int {
	return slices.IndexFunc(knownToday, func(k known) bool { return k.knows(r) })
}
