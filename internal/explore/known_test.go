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
	// All of these need a failover without wait_replicas; docs/redis.md says so.
	{spentByOther, []string{"failover", "lapse"}, "a failover that undoes a marker leaves nothing that says so"},
	{spentStored, []string{"failover", "lapse"}, "a failover that undoes a marker leaves nothing that says so"},
	{servedInvalid, []string{"failover", "lapse"}, "whoever has invalidated it is stopped, or another broker has its commit"},
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
