package storetest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tokenbroker/tokenbroker/broker"
)

func remembered(count int) broker.Remembered {
	return broker.Remembered{
		Kind: broker.ScopeRefused, At: now(), RetryAt: now().Add(time.Minute), Count: count, UpstreamStatus: 400, UpstreamError: "invalid_scope", Detail: "a sentence of ours",
	}
}

func testFailLevels(t *testing.T, c Config, b *bench) {
	for level := broker.LevelUpstream; level <= broker.LevelGrant; level++ {
		n := broker.CredentialName("a" + string(rune('0'+level)))
		cred := b.created(n, "r1")
		k := spending(n, 1)
		failure := remembered(int(level) + 1)
		b.failed(b.acquired(k, true), broker.FailureRecord{Level: level, Failure: failure, Presented: true, Now: now()})
		v := b.view(k)
		var wantKey, wantCredential, wantGrant *broker.Remembered
		switch level {
		case broker.LevelResponse, broker.LevelScope, broker.LevelTarget, broker.LevelRequest:
			wantKey = &failure
		case broker.LevelCredential:
			wantCredential = &failure
		case broker.LevelGrant:
			wantGrant = &failure
		case broker.LevelUpstream, broker.LevelRateLimited:
		}
		for what, p := range map[string]struct{ want, got *broker.Remembered }{
			"key": {wantKey, v.KeyFailure}, "credential": {wantCredential, v.CredentialFailure}, "grant": {wantGrant, v.Grant.Refused},
		} {
			if diff := cmp.Diff(p.want, p.got, c.clocks()); diff != "" {
				t.Errorf("level %d, failure of the %s (-want +got):\n%s", level, what, diff)
			}
		}
		if v.LeaseLeft != 0 || v.Grant.MayBeSpent() {
			t.Errorf("level %d: lease %v, grant %+v; want it released and known unspent", level, v.LeaseLeft, v.Grant)
		}
		other := b.view(spending(n, 2))
		if other.KeyFailure != nil || (other.CredentialFailure != nil) != (wantCredential != nil) {
			t.Errorf("level %d: another key sees %v, %v", level, other.KeyFailure, other.CredentialFailure)
		}
		if diff := cmp.Diff(wantCredential, b.status(n).Failure, c.clocks()); diff != "" {
			t.Errorf("level %d: status (-want +got):\n%s", level, diff)
		}
		// A version later neither the key's nor the credential's is left, nor recorded; the grant's belongs to its generation.
		late := b.acquired(k, true)
		b.saved(cred, changed(cred, true), nil)
		if v := b.view(k); v.KeyFailure != nil || v.CredentialFailure != nil {
			t.Errorf("level %d: a failure of the former version shows", level)
		}
		newer := remembered(100)
		b.failed(b.acquired(plain(n, 1), false), broker.FailureRecord{Level: level, Failure: newer, Now: now()})
		b.failed(late, broker.FailureRecord{Level: level, Failure: failure, Presented: true, Now: now()})
		if v := b.view(k); v.KeyFailure != nil && v.KeyFailure.Count != newer.Count ||
			v.CredentialFailure != nil && v.CredentialFailure.Count != newer.Count ||
			(v.KeyFailure != nil) != (wantKey != nil) || (v.CredentialFailure != nil) != (wantCredential != nil) {
			t.Errorf("level %d: a failure of the former version has replaced one of this: %v, %v", level, v.KeyFailure, v.CredentialFailure)
		}
		if v := b.view(k); (v.Grant.Refused != nil) != (wantGrant != nil) {
			t.Errorf("level %d: the refusal of the grant: got %v", level, v.Grant.Refused)
		}
	}
}

func testFailGrant(t *testing.T, _ Config, b *bench) {
	for name, test := range map[string]struct {
		record          broker.FailureRecord
		uncertain, used bool
	}{
		"nothing was sent":        {broker.FailureRecord{}, false, false},
		"answered, known unspent": {broker.FailureRecord{Presented: true}, false, true},
		"the answer was lost":     {broker.FailureRecord{Presented: true, Uncertain: true}, true, true},
		"refused":                 {broker.FailureRecord{Presented: true, Level: broker.LevelGrant}, false, true},
	} {
		n := broker.CredentialName(name)
		b.created(n, "r1")
		k := spending(n, 1)
		generation := b.view(k).Grant.Generation
		l := b.acquired(k, true)
		for range 2 { // the second is a repetition
			b.failed(l, test.record)
		}
		g := b.view(k).Grant
		if g.Generation != generation || !g.Marker.IsZero() || g.Uncertain != test.uncertain ||
			g.UsedAt.IsZero() == test.used || (g.Refused != nil) != (test.record.Level == broker.LevelGrant) {
			t.Errorf("%s: got %+v", name, g)
		}
		b.failed(b.acquired(k, true), broker.FailureRecord{Presented: true, Uncertain: true})
		before := b.view(k).Grant
		if !before.Uncertain {
			t.Errorf("%s, then lost: got %+v, want uncertain", name, before)
		}
		// An exchange that presented nothing says nothing about the grant.
		b.failed(b.acquired(k, false), broker.FailureRecord{Level: broker.LevelGrant, Presented: true, Uncertain: true})
		after := b.view(k).Grant
		before.UsedFor, after.UsedFor = 0, 0
		if diff := cmp.Diff(before, after, deeply); diff != "" {
			t.Errorf("%s: an obtain that failed has changed the grant (-want +got):\n%s", name, diff)
		}
	}
}

func testFailNil(t *testing.T, _ Config, b *bench) {
	b.created("a", "r1")
	k := spending("a", 1)
	l := b.acquired(k, true)
	b.released(l)
	if v := b.view(k); v.LeaseLeft != 0 || v.Grant.MayBeSpent() || !v.Grant.UsedAt.IsZero() {
		t.Errorf("after a release: %v left, grant %+v", v.LeaseLeft, v.Grant)
	}
	next := b.acquired(k, true)
	marker := b.view(k).Grant.Marker
	b.released(l)
	b.failed(l, broker.FailureRecord{Presented: true, Now: now()})
	if v := b.view(k); v.LeaseLeft == 0 || v.Grant.Marker != marker || marker.IsZero() {
		t.Error("a release by a former owner has released the lease of the next")
	}
	b.want("delete", b.DeleteCredential(ctx, "a", broker.ID{}), nil)
	b.released(next)
	b.failed(next, broker.FailureRecord{Level: broker.LevelCredential, Now: now()})
	_, err := b.Credential(ctx, "a")
	b.want("read after a failure came for a deleted credential", err, broker.NotFound)
	b.created("a", "r1")
	b.failed(next, broker.FailureRecord{Level: broker.LevelCredential, Attempts: []broker.Attempt{{}}, Now: now()})
	if st := b.status("a"); st.Failure != nil || len(st.Attempts) != 0 {
		t.Error("a failure of a former incarnation was recorded")
	}
}

func testTooManyFailures(t *testing.T, _ Config, b *bench) {
	b.created("a", "")
	for n := range byte(25) {
		f := remembered(1)
		f.RetryAt = now().Add(time.Duration(100-n) * time.Minute) // the last one ends first
		b.failed(b.acquired(plain("a", n), false), broker.FailureRecord{Level: broker.LevelScope, Failure: f, Now: now()})
	}
	kept := 0
	for n := range byte(25) {
		if b.view(plain("a", n)).KeyFailure != nil {
			kept++
		}
	}
	if kept != 20 || b.view(plain("a", 0)).KeyFailure == nil || b.view(plain("a", 24)).KeyFailure == nil {
		t.Errorf("got %d failures of keys, want 20, the one that lasts longest and the newest among them", kept)
	}
}
