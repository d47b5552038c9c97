package storetest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tokenbroker/tokenbroker/broker"
)

func testCommitGrant(t *testing.T, c Config, b *bench) {
	b.created("a", "r1")
	k := spending("a", 1)
	first := b.view(k).Grant
	if !c.RealTime {
		c.pass(time.Minute)
	}
	l := b.acquired(k, true)
	o := broker.Outcome{
		Token: issued("t1"), RefreshToken: broker.NewSecret("r2"), Held: map[string]broker.HeldValue{"x": {Value: broker.NewSecret("held"), TakenBy: "a take"}}, Now: now(),
	}
	if done := b.committed(l, o); !done.Grant || !done.Token {
		t.Fatalf("commit: got %+v, want both stored", done)
	}
	g := b.view(k).Grant
	want := broker.Grant{
		Generation: g.Generation, RefreshToken: o.RefreshToken, Held: o.Held,
		GivenAt: first.GivenAt, UsedAt: o.Now, UsedFor: g.UsedFor,
	}
	if g.UsedFor <= 0 || g.UsedFor > time.Minute {
		t.Errorf("used %v ago, want a moment", g.UsedFor)
	}
	if diff := cmp.Diff(want, g, deeply); diff != "" || g.Generation.IsZero() || g.Generation == first.Generation {
		t.Errorf("rotated grant (-want +got):\n%s", diff)
	}
	if v := b.view(k); v.LeaseLeft != 0 {
		t.Errorf("the lease is still held: %v", v.LeaseLeft)
	}
	b.wantToken(k, "t1")

	b.committed(b.acquired(k, true), broker.Outcome{Token: issued("t2")})
	kept := b.view(k).Grant
	if kept.RefreshToken.Reveal() != "r2" || kept.Held["x"].Value.Reveal() != "held" || kept.MayBeSpent() || kept.Generation == g.Generation {
		t.Errorf("a grant that was presented and not replaced: got %+v, want the same refresh token, and another generation", kept)
	}

	b.committed(b.acquired(k, false), broker.Outcome{Token: issued("t3")})
	if got := b.view(k).Grant; got.Generation != kept.Generation {
		t.Error("a commit that has nothing to do with the grant has moved its generation")
	}

	if done := b.committed(b.acquired(k, false), broker.Outcome{Token: issued("t4"), DropGrant: true}); !done.Grant {
		t.Errorf("drop: got %+v", done)
	}
	b.wantGrant(k, "")
	b.wantToken(k, "t4")

	own := obtaining(2)
	b.committed(b.acquired(own, false), broker.Outcome{Token: issued("t5"), RefreshToken: broker.NewSecret("obtained")})
	b.wantGrant(own, "obtained")
	b.wantGrant(k, "")
	if g := b.view(own).Grant; g.GivenAt.IsZero() || !g.UsedAt.IsZero() {
		t.Errorf("a grant that was obtained: got %+v, want the first of its line, never used", g)
	}
}

// testCommitLate: a commit after the lease ran out counts like any other.
func testCommitLate(t *testing.T, c Config, b *bench) {
	b.created("a", "r1")
	k := spending("a", 1)
	generation := b.view(k).Grant.Generation
	late := b.acquiredFor(c.ending(), k, true)
	c.pass(c.ending())
	second := b.acquired(k, true)
	b.failed(second, broker.FailureRecord{Level: broker.LevelGrant, Uncertain: true, Presented: true, Now: now()})
	g := b.view(k).Grant
	if g.Generation != generation || !g.Uncertain || g.Refused == nil {
		t.Errorf("a refusal in doubt: got %+v, want the same generation", g)
	}
	if done := b.committed(late, broker.Outcome{Token: issued("t1"), RefreshToken: broker.NewSecret("r2")}); !done.Grant || !done.Token {
		t.Errorf("late commit: got %+v, want both stored", done)
	}
	g = b.view(k).Grant
	if g.RefreshToken.Reveal() != "r2" || g.MayBeSpent() || g.Refused != nil {
		t.Errorf("grant after a late commit: got %+v", g)
	}

	// Another has won meanwhile, and holds the lease again.
	late = b.acquiredFor(c.ending(), k, true)
	c.pass(c.ending())
	b.committed(b.acquired(k, true), broker.Outcome{Token: issued("t2"), RefreshToken: broker.NewSecret("r3")})
	b.acquired(k, true)
	marker := b.view(k).Grant.Marker
	if done := b.committed(late, broker.Outcome{Token: issued("t3"), RefreshToken: broker.NewSecret("lost")}); done.Grant || done.Token {
		t.Errorf("a commit that lost: got %+v, want nothing of it stored", done)
	}
	b.wantToken(k, "t2")
	v := b.view(k)
	if v.Grant.RefreshToken.Reveal() != "r3" || v.Grant.Marker != marker || v.LeaseLeft == 0 {
		t.Errorf("after a commit that lost: got %+v, %v left; want the winner's, held by the next", v.Grant, v.LeaseLeft)
	}
	b.failed(late, broker.FailureRecord{Level: broker.LevelGrant, Presented: true, Now: now()})
	if g := b.view(k).Grant; g.Refused != nil || g.Marker != marker {
		t.Error("the refusal of a former generation was recorded")
	}
}

func testCommitClears(t *testing.T, _ Config, b *bench) {
	c := b.created("a", "r1")
	k, other := plain("a", 1), plain("a", 2)
	fail := func(k broker.TokenKey, level broker.Level) {
		b.failed(b.acquired(k, false), broker.FailureRecord{Level: level, Failure: remembered(1), Now: now()})
	}
	fail(k, broker.LevelScope)
	fail(other, broker.LevelTarget)
	fail(other, broker.LevelCredential)
	b.committed(b.acquired(k, false), broker.Outcome{Token: issued("t")})
	if v := b.view(k); v.KeyFailure != nil || v.CredentialFailure != nil {
		t.Errorf("after success: got %v, %v", v.KeyFailure, v.CredentialFailure)
	}
	if v := b.view(other); v.KeyFailure == nil {
		t.Error("success of one key has cleared the failure of another")
	}

	// What another definition failed with is not cleared, and neither is what another version did.
	newer := k
	newer.Digest = "d2"
	fail(newer, broker.LevelCredential)
	b.committed(b.acquired(k, false), broker.Outcome{Token: issued("t")})
	if v := b.view(newer); v.CredentialFailure == nil {
		t.Error("success by one definition has cleared the failure of another")
	}
	if v := b.view(k); v.CredentialFailure != nil {
		t.Error("the failure of one definition shows for another")
	}
	late := b.acquired(k, false)
	next := changed(c, true)
	b.saved(c, next, nil)
	if v := b.view(newer); v.CredentialFailure != nil || v.KeyFailure != nil {
		t.Error("a failure of the former version shows")
	}
	fail(k, broker.LevelCredential)
	fail(k, broker.LevelScope)
	b.committed(late, broker.Outcome{Token: issued("void"), UsedFormer: true})
	if v := b.view(k); v.CredentialFailure == nil || v.KeyFailure == nil || v.FormerWorked || v.Token != nil {
		t.Errorf("a commit for the former version: got %+v, want nothing of it", v)
	}
}

func testFormer(t *testing.T, _ Config, b *bench) {
	c := credential("a")
	c.Secrets = map[string]broker.SecretInput{
		"rotated": {Value: broker.NewSecret("new"), Former: broker.NewSecret("old")},
		"other":   {Value: broker.NewSecret("x")},
	}
	if err := b.CreateCredential(ctx, c, nil); err != nil {
		t.Fatalf("create: %v", err)
	}
	k := plain("a", 1)
	at := now()
	b.committed(b.acquired(k, false), broker.Outcome{Token: issued("t"), UsedFormer: true, Now: at})
	v := b.view(k)
	s := v.Credential.Secrets
	if !v.FormerWorked || !s["rotated"].FormerUsedTime.Equal(at) || !s["other"].FormerUsedTime.IsZero() {
		t.Errorf("after the former secret worked: got %v, %+v", v.FormerWorked, s)
	}
	if v.Credential.Version != c.Version || v.Credential.Etag != c.Etag || v.Token == nil {
		t.Error("noting the use of a former secret has changed the credential")
	}
	// A save that was prepared before does not forget it.
	labels := changed(c, false)
	b.saved(c, labels, nil)
	if got := b.view(k).Credential.Secrets["rotated"].FormerUsedTime; !got.Equal(at) {
		t.Errorf("after a save: got %v, want %v", got, at)
	}
	if st := b.status("a"); !st.FormerWorked {
		t.Error("status: the former secret worked last")
	}
	b.committed(b.acquired(k, false), broker.Outcome{Token: issued("t")})
	if b.view(k).FormerWorked || b.status("a").FormerWorked {
		t.Error("after the new secret worked: the former is still preferred")
	}
}

func testTokenEnds(t *testing.T, c Config, b *bench) {
	b.created("a", "")
	k := plain("a", 1)
	short := issued("t")
	short.ExpireAt = now().Add(2 * time.Second)
	b.committed(b.acquired(k, false), broker.Outcome{Token: short})
	b.wantToken(k, "t")
	if !c.RealTime {
		wait(2*time.Second - c.Resolution - 1)
		b.wantToken(k, "t")
		wait(1)
	} else {
		wait(2 * time.Second)
	}
	b.wantToken(k, "") // whatever the backend's resolution
	if st := b.status("a"); len(st.Tokens) != 0 {
		t.Error("status shows a token that has ended")
	}
	for _, at := range []time.Duration{0, -time.Hour} {
		b.committed(b.acquired(k, false), broker.Outcome{Token: issued("before")})
		over := issued("over")
		over.ExpireAt = now().Add(at)
		if done := b.committed(b.acquired(k, false), broker.Outcome{Token: over}); !done.Token {
			t.Error("a token that ended before it was stored counts as a conflict")
		}
		b.wantToken(k, "")
	}
}

func testGrantsMakeRoom(t *testing.T, c Config, b *bench) {
	apart := time.Second // grants are told apart by their times
	if c.RealTime {
		apart = 10 * time.Millisecond
	}
	b.created("a", "own")
	for n := range byte(25) {
		k := obtaining(n)
		c.pass(apart)
		b.committed(b.acquired(k, false), broker.Outcome{RefreshToken: broker.NewSecret("r")})
		switch n {
		case 8:
			b.acquired(obtaining(0), true) // presented
		case 10: // used again
			b.committed(b.acquired(obtaining(1), true), broker.Outcome{RefreshToken: broker.NewSecret("r")})
		}
	}
	b.wantGrant(spending("a", 1), "own")
	b.wantGrant(obtaining(0), "r")
	b.wantGrant(obtaining(1), "r")
	b.wantGrant(obtaining(24), "r")
	b.wantGrant(obtaining(2), "")
	if n := len(b.status("a").Grants); n != 21 {
		t.Errorf("got %d grants, want 20 of keys and the credential's own", n)
	}
}
