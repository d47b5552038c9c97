package engine

import (
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestPlan adds one thing after the other that a flight may know, from the last that counts to the first: each changes the plan, whatever else is so.
func TestPlan(t *testing.T) {
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	s := situation{
		target: target{
			lookup: lookup{name: "c"}, facts: &broker.Facts{Name: "p", Digest: "d", Refreshes: true}, credential: broker.Credential{Name: "c", Provider: "p"},
		},
		now: now, shared: true, mayTake: true,
	}
	living := &broker.Issued{ID: "old", SentAt: now.Add(-time.Hour), ExpireAt: now.Add(time.Hour), RefreshAt: now.Add(-time.Minute)}
	marker := broker.NewID()
	for _, one := range []struct {
		name string
		when func()
		step step
		run  broker.Run
		kind broker.Kind
	}{
		{"there is no grant", func() {}, fail, 0, broker.ReauthorizationRequired},
		{"there is one", func() { s.view.Grant.RefreshToken = broker.NewSecret("r") }, ask, broker.Refresh, 0},
		{"this definition cannot present what is kept", func() { s.unfit = true }, ask, broker.Refresh, 0},
		{"and obtains", func() { s.facts.Obtains = true }, ask, broker.Obtain, 0},
		{"it presents it, after all", func() { s.unfit = false }, ask, broker.Refresh, 0},
		{"it may be spent", func() { s.view.Grant.Uncertain = true }, ask, broker.Obtain, 0},
		{"its upstream takes it again for a while", func() { s.facts.Reuse.Within, s.view.Grant.UsedFor = time.Minute, time.Second }, ask, broker.Refresh, 0},
		{"that is over", func() { s.view.Grant.UsedFor = time.Minute }, ask, broker.Obtain, 0},
		{"nobody obtains", func() { s.facts.Obtains = false }, ask, broker.Refresh, 0},
		{"whoever presents it may come back", func() { s.view.Grant.Marker = marker }, askWhenAbandoned, broker.Refresh, 0},
		{"nobody else is there who could", func() { s.shared = false }, ask, broker.Refresh, 0},
		{"the old token serves", func() { s.shared, s.view.Token = true, living }, fail, 0, broker.RefreshUncertain},
		{"an operator tries now", func() { s.need.force = true }, askWhenAbandoned, broker.Refresh, 0},
		{"the upstream has refused it", func() {
			s.view.Grant.Refused, s.view.Grant.RefusedBy = &broker.Remembered{RetryAt: now.Add(time.Hour)}, "d"
		}, ask, broker.Refresh, 0},
		{"also now", func() { s.asked = true }, fail, 0, broker.ReauthorizationRequired},
		{"its upstream takes any again", func() { s.facts.Reuse.Allowed = true }, fail, 0, broker.ReauthorizationRequired},
		{"another definition's request was refused, a while ago", func() { s.view.Grant.RefusedBy, s.view.Grant.Refused.RetryAt = "e", now }, ask, broker.Refresh, 0},
		{"the record does not say where it goes", func() { s.astray = true }, noteDestinations, broker.Refresh, 0},
		{"somebody has the lease", func() { s.view.LeaseLeft = time.Second }, awaitLease, 0, 0},
		{"a commit goes on", func() { s.committing = true }, awaitCommit, 0, 0},
		{"the store took nothing, and may by now", func() { s.unstored = &broker.Failure{Kind: broker.StoreUnavailable} }, awaitCommit, 0, 0},
		{"it is this broker's own", func() { s.shared = false }, fail, 0, broker.StoreUnavailable},
		{"another key has the turn", func() { s.mayTake = false }, awaitTurn, 0, 0},
		{"what is rejected is not replaced yet, and an operator tries", func() {
			rejected := *living
			rejected.Rejected, rejected.ReplaceAt = true, now.Add(time.Minute)
			s.view.Token = &rejected
		}, awaitTurn, 0, 0},
		{"a caller asks", func() { s.need.force = false }, fail, 0, broker.FreshTokensRejected},
		{"the key has failed", func() {
			s.view.KeyFailure = &broker.Remembered{Kind: broker.UpstreamResponseInvalid, RetryAt: now.Add(time.Minute)}
		}, fail, 0, broker.UpstreamResponseInvalid},
		{"the credential has", func() {
			s.view.CredentialFailure = &broker.Remembered{Kind: broker.CredentialMisconfigured, RetryAt: now.Add(time.Minute)}
		}, fail, 0, broker.CredentialMisconfigured},
		{"that was a while ago", func() { s.view.CredentialFailure.RetryAt = now }, fail, 0, broker.UpstreamResponseInvalid},
		{"this process has a token", func() { s.local = true }, serveLocal, 0, 0},
		{"the store has one", func() { s.good = true }, serveStored, 0, 0},
	} {
		one.when()
		got := s.plan()
		if got.step != one.step || got.run != one.run || (got.failure != nil) != (one.step == fail) || got.failure != nil && got.failure.Kind != one.kind {
			t.Errorf("%s: got %+v, want step %d, run %v, %v", one.name, got, one.step, one.run, one.kind)
		}
	}
}
