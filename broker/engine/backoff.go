package engine

import (
	"math/rand/v2"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

const (
	// backoffFirst is how long after a first failure of an upstream it is left alone.
	backoffFirst = time.Second
	// backoffMost bounds the doubling of that, and retryAfterMost what an upstream may ask for.
	backoffMost    = 5 * time.Minute
	retryAfterMost = time.Hour
	// permanentFirst is how long a refused credential or selection is not tried again, at first; it grows fourfold up to
	// permanentMost, so that a dead credential costs its upstream a handful of requests a day.
	permanentFirst = time.Minute
	permanentMost  = 6 * time.Hour
	// muteMost bounds that for the first muteTries, some three hours, where the upstream does not say why: a proxy may have answered, which
	// passes; what lasts longer is taken for a refusal.
	muteMost  = 15 * time.Minute
	muteTries = 14
)

// transientWait is the wait after so many failures in a row of an upstream (the first is 1).
func transientWait(failures int, retryAfter time.Duration, jitter float64) time.Duration {
	wait := min(backoffFirst<<min(max(failures, 1)-1, 20), backoffMost)
	wait += time.Duration(jitter * float64(wait) / 4)
	return max(wait, min(retryAfter, retryAfterMost))
}

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
	r := broker.Remembered{Kind: e.Kind(), At: now, Count: 1, UpstreamStatus: e.Status, UpstreamError: e.Code, Detail: e.Detail}
	passes := e.Level <= broker.LevelResponse
	if before != nil && before.Kind.Passes() == passes { // what may pass says nothing of what was refused, nor the other way round
		r.Count = before.Count + 1
	}
	wait := max(e.RetryAfter, e.Wait)
	switch {
	case passes:
		wait = transientWait(r.Count, wait, rand.Float64()) //nolint:gosec // jitter needs no secrecy
	case e.Mute && r.Count <= muteTries: // nothing says that it is for ever
		wait = max(min(permanentWait(r.Count, 0), muteMost), min(wait, retryAfterMost))
	default:
		wait = permanentWait(r.Count, wait)
	}
	r.RetryAt = now.Add(wait)
	return r
}

// share makes the Failure that everybody gets who asks while it is remembered.
func share(r *broker.Remembered, c broker.Credential) *broker.Failure {
	return &broker.Failure{
		Kind: r.Kind, Credential: c.Name, Provider: c.Provider, RetryAt: r.RetryAt,
		UpstreamStatus: r.UpstreamStatus, UpstreamError: r.UpstreamError, Detail: r.Detail,
	}
}
