package engine

import (
	"math/rand/v2"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/gate"
)

const (
	// retryFirst is how long whoever is told of something that may pass waits at first.
	retryFirst = gate.FirstWait
	// permanentFirst is how long a refused credential or selection is not tried again, at first; it grows fourfold up to
	// permanentMost, so that a dead credential costs its upstream a handful of requests a day.
	permanentFirst = time.Minute
	permanentMost  = 6 * time.Hour
	// muteMost bounds that for the first muteTries, some three hours, where the upstream does not say why: a proxy may have answered, which
	// passes; what lasts longer is taken for a refusal.
	muteMost  = 15 * time.Minute
	muteTries = 14
)

// permanentWait is the wait after so many refusals in a row (the first is 1). said is what the definition or the upstream
// asks for.
func permanentWait(refusals int, said time.Duration) time.Duration {
	wait := permanentFirst
	for range min(max(refusals, 1)-1, 8) {
		wait = min(wait*4, permanentMost)
	}
	return max(wait, min(said, 24*time.Hour))
}

// remember makes the record of a failure, counting on from the one before, nil for none.
func remember(e *broker.UpstreamError, before *broker.Remembered, now time.Time) broker.Remembered {
	r := e.Remembered(now, 1)
	passes := e.Level <= broker.LevelResponse
	if before != nil && before.Kind.Passes() == passes { // what may pass says nothing of what was refused, nor the other way round
		r.Count = before.Count + 1
	}
	wait := max(e.RetryAfter, e.Wait)
	switch {
	case passes:
		wait = gate.WaitAfter(r.Count, wait, rand.Float64()) //nolint:gosec // jitter needs no secrecy
	case e.Mute && r.Count <= muteTries: // nothing says that it is for ever
		wait = max(min(permanentWait(r.Count, 0), muteMost), min(wait, gate.RetryAfterMost))
	default:
		wait = permanentWait(r.Count, wait)
	}
	r.RetryAt = now.Add(wait)
	return r
}
