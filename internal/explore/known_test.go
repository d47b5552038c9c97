package explore

import "slices"

// A known is a promise that is broken today. Whoever mends it takes its line out, and empties the last column of the schedules in
// regressions_test.go that show it.
type known struct {
	promise string
	// with: one of these has to have happened, a verb or a whole action, or to be the scenario; none: whatever happened. The first
	// line that fits counts.
	with []string
	why  string
}

var knownToday = []known{
	{hotLoop, []string{"call delete"}, "a watch of a credential that was deleted finds each time that something has changed"},
	{hotLoop, []string{"watch", "call watch"}, "a flight that fails wakes the watch that waits for it"},
	{spentByHolder, []string{"failover 1 70s"}, "what is kept is forgotten after a minute, also while the store is away"},
	{spentByHolder, []string{"failover", "lapse"}, "what is kept is made again beside whoever presents, and not before"},
	{spentByOther, []string{"failover", "lapse"}, "a failover that undoes a marker leaves nothing that says so"},
	{spentStored, []string{"failover", "lapse"}, "a failover that undoes a marker leaves nothing that says so"},
	{gaveUp, nil, "an answer is waited for until the exchange's deadline only"},
	{denied, []string{"call stale", "call reject"}, "a rejection that the store cannot hear of ends the grace of the whole credential"},
	{denied, []string{"call drop", "call invalidate", "call rotate", "call recreate", "call seed"}, "what was asked for before a change is not kept, also if it was issued after"},
	{servedInvalid, []string{"failover", "lapse"}, "an invalidation is not made again after a failover"},
	{servedInvalid, []string{"readonly"}, "a token that is not stored cannot be invalidated"},
	{servedInvalid, []string{"fail", "lose", "away", "cut", "hold", "stop", "late"}, "an entry that was once unreached is not confirmed any more"},
	{servedDeleted, []string{"fail", "lose", "away", "cut", "hold", "stop", "late", "readonly"}, "an entry that was once unreached is not confirmed any more"},
	{wentBack, nil, "a commit does not look when the stored token was sent"},
	{servedLate, []string{"late", "hold", "stop"}, "a commit says how long the token has left, and not when it ends"},
	{waitsLong, []string{"fail", "lose", "late"}, "a commit that failed leaves its lease"},
}

// knows reports whether a shrunk run shows this.
func (k known) knows(r Run) bool {
	if r.Violations[0].Promise != k.promise {
		return false
	}
	if len(k.with) == 0 || slices.Contains(k.with, r.Schedule.Scenario) {
		return true
	}
	return slices.ContainsFunc(r.Schedule.Deviations, func(d Deviation) bool {
		return slices.Contains(k.with, d.Do.Verb()) || slices.Contains(k.with, string(d.Do))
	})
}

// isKnown is the known that a shrunk run shows; -1: none.
func isKnown(r Run) int {
	return slices.IndexFunc(knownToday, func(k known) bool { return k.knows(r) })
}
