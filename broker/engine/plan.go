package engine

import (
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// A step is what a flight does about what a round has found.
type step int

// The steps, in the order in which plan looks for them.
const (
	// serveStored: the stored token is what is needed.
	serveStored step = iota
	// serveLocal: the store has none still, and the one that only this process has will do.
	serveLocal
	// fail: there is nothing to be done now.
	fail
	// awaitTurn: another key's flight goes for the grant that all keys of the credential share.
	awaitTurn
	// awaitCommit: what this process was given last is not stored yet.
	awaitCommit
	// awaitLease: somebody makes an exchange.
	awaitLease
	// noteDestinations: the credential's record does not say yet where its definition sends it.
	noteDestinations
	// askWhenAbandoned: the upstream is asked, with a refresh token that may be spent: once nobody can come back any more with what it was spent for.
	askWhenAbandoned
	// ask: the upstream is asked.
	ask
)

// A plan is a step, with why it fails, and what the upstream is asked for.
type plan struct {
	step    step
	failure *broker.Failure
	run     broker.Run
}

// A situation is all that a flight knows when it decides what to do next. Immutable.
type situation struct {
	target
	view broker.View
	need need
	now  time.Time // by the wall clock
	// good: the stored token is what is needed, and can be shown. local: the same of the one that only this process has.
	good, local bool
	// mayTake: it has its turn at the grant, or needs none.
	mayTake bool
	// shared: others change the store too.
	shared bool
	// unstored is why the store has not taken what an exchange brought; nil: it has. committing: that goes on, and hangs on a refresh token.
	unstored   *broker.Failure
	committing bool
	// asked: this flight has asked the upstream already. unfit: this definition cannot present what is kept of the grant.
	asked, unfit bool
}

// plan is the one place where it is decided what a flight does next.
func (s situation) plan() plan {
	remembered, there := s.remembered(), s.view.Token
	switch {
	case s.good:
		return plan{step: serveStored}
	case s.local:
		return plan{step: serveLocal}
	case remembered != nil:
		return plan{step: fail, failure: remembered}
	case !s.need.force && keeps(there, s.now) && (there.Rejected || there.ID == s.need.rejected):
		return plan{step: fail, failure: refusesFresh(s.credential, there)}
	case !s.mayTake:
		return plan{step: awaitTurn}
	case s.unstored != nil && !s.shared: // as the disk itself would say: the next try stores what has come, and no other exchange may
		f := failureOf(s.target, s.unstored.Kind)
		f.Detail, f.RetryAt = s.unstored.Detail, s.now.Add(retryFirst)
		return plan{step: fail, failure: f}
	case s.committing:
		return plan{step: awaitCommit}
	case s.view.LeaseLeft > 0:
		return plan{step: awaitLease}
	}
	next := s.obtainOrRefresh()
	if s.astray && next.step != fail {
		next.step = noteDestinations
	}
	return next
}

// remembered is the failure that is to be shared instead of asking; nil: there is none.
func (s situation) remembered() *broker.Failure {
	if s.need.force {
		return nil // the operator says: try now
	}
	for _, r := range []*broker.Remembered{s.view.CredentialFailure, s.view.KeyFailure} {
		if r != nil && s.now.Before(r.RetryAt) {
			return s.blamed(r.Shared(s.credential.Name, s.credential.Provider))
		}
	}
	return nil
}

// obtainOrRefresh is whether the upstream is asked by obtain or by refresh, and whether a refresh token that may be spent is presented.
func (s situation) obtainOrRefresh() plan {
	f, g, there := s.facts, s.view.Grant, s.view.Token
	refused := g.RefusedFor(f.Digest, s.now)
	surely := !g.MayBeSpent() || f.Reuse.Allowed || g.UsedFor > 0 && g.UsedFor < f.Reuse.Within
	refreshes := f.Refreshes && !g.None()
	switch {
	case refreshes && refused == nil && surely && !(s.unfit && f.Obtains):
		return plan{step: ask, run: broker.Refresh}
	case f.Obtains: // a refresh token that may be spent is never presented again
		return plan{step: ask, run: broker.Obtain}
	case !refreshes:
		return plan{step: fail, failure: failureOf(s.target, broker.ReauthorizationRequired)}
	case refused != nil && s.need.force && !s.asked: // it cannot become worse
		return plan{step: ask, run: broker.Refresh}
	case refused != nil:
		r := *refused
		if r.Kind = broker.ReauthorizationRequired; g.RefusedBy == "" || g.RefusedBy == f.Digest {
			r.RetryAt = time.Time{}
		}
		return plan{step: fail, failure: r.Shared(s.credential.Name, s.credential.Provider)}
	case there != nil && s.now.Before(there.ExpireAt) && !there.Rejected && !s.need.force: // while it serves, nothing is gained by the risk
		uncertain := failureOf(s.target, broker.RefreshUncertain)
		uncertain.RetryAt = there.ExpireAt
		return plan{step: fail, failure: uncertain}
	case s.shared && !g.Marker.IsZero():
		return plan{step: askWhenAbandoned, run: broker.Refresh}
	}
	return plan{step: ask, run: broker.Refresh}
}
