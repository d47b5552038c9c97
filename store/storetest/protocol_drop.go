package storetest

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tokenbroker/tokenbroker/broker"
)

func (b *bench) dropped(name broker.CredentialName, m broker.Match) broker.Dropped {
	b.t.Helper()
	d, err := b.Drop(ctx, name, m)
	if err != nil {
		b.t.Fatalf("drop: %v", err)
	}
	return d
}

func (b *bench) wantDropped(what string, got broker.Dropped, count int, current string) {
	b.t.Helper()
	if got.Count != count || got.CurrentID != current {
		b.t.Errorf("%s: got %+v, want %d, and %q is current", what, got, count, current)
	}
}

func testDrop(t *testing.T, _ Config, b *bench) {
	b.wantDropped("of no credential", b.dropped("none", broker.Match{TokenID: "t1"}), 0, "")
	for _, m := range []broker.Match{{}, {TokenID: "t", Epoch: broker.NewID()}, {Selection: &[32]byte{}, TokenID: "t"}} {
		_, err := b.Drop(ctx, "none", m)
		b.want(fmt.Sprintf("%+v", m), err, broker.Internal)
	}
	b.created("a", "")
	one, same, two := plain("a", 1), plain("a", 1), plain("a", 2)
	same.Token[2] = 1 // the same selection, by another definition
	for k, id := range map[broker.TokenKey]string{one: "t1", same: "t1b", two: "t2"} {
		b.committed(b.acquired(k, false), broker.Outcome{Token: issued(id)})
	}
	b.wantDropped("of an id that nobody has, among several", b.dropped("a", broker.Match{TokenID: "t0"}), 0, "")
	b.wantDropped("t1", b.dropped("a", broker.Match{TokenID: "t1"}), 1, "t1b")
	v := b.view(one)
	if v.Token == nil || !v.Token.Rejected || v.Token.ID != "t1" {
		t.Errorf("a token that was rejected: got %+v, want it kept and marked", v.Token)
	}
	b.wantDropped("t1 again", b.dropped("a", broker.Match{TokenID: "t1"}), 0, "")
	b.wantDropped("t1b", b.dropped("a", broker.Match{TokenID: "t1b"}), 1, "")
	b.wantDropped("t1 again, with one left", b.dropped("a", broker.Match{TokenID: "t1"}), 0, "t2")
	if v := b.view(two); v.Token == nil || v.Token.Rejected {
		t.Error("another token was rejected as well")
	}
	b.committed(b.acquired(one, false), broker.Outcome{Token: issued("t3")})
	b.wantDropped("t1, when there is a new one", b.dropped("a", broker.Match{TokenID: "t1"}), 0, "")
	b.wantDropped("a selection", b.dropped("a", broker.Match{Selection: &one.Selection}), 2, "")
	b.wantToken(one, "")
	b.wantToken(same, "")
	b.wantToken(two, "t2")
	b.wantDropped("a selection again", b.dropped("a", broker.Match{Selection: &one.Selection}), 0, "")
	young := issued("young")
	young.ReplaceAt = now().Add(time.Minute)
	b.committed(b.acquired(one, false), broker.Outcome{Token: young})
	if got := b.dropped("a", broker.Match{TokenID: "young", Spare: true}); !got.Matched || got.Count != 0 || got.Spared.Sub(young.ReplaceAt).Abs() > 2*time.Second {
		t.Errorf("one that is not to be replaced yet: got %+v, want it spared until %v", got, young.ReplaceAt)
	}
	b.wantToken(one, "young")
	b.committed(b.acquired(same, false), broker.Outcome{Token: issued("young")}) // one token, of which another key knows nothing
	if got := b.dropped("a", broker.Match{TokenID: "young", Spare: true}); got.Count != 0 || got.Spared.IsZero() || b.view(same).Token.Rejected {
		t.Errorf("one that one key spares and another does not: got %+v, want it spared under both", got)
	}
	b.wantDropped("the same, whatever it is to be", b.dropped("a", broker.Match{TokenID: "young"}), 2, "")
}

func testDropAll(t *testing.T, _ Config, b *bench) {
	c := b.created("a", "r1")
	for n := range byte(3) {
		k := plain("a", n)
		b.committed(b.acquired(k, false), broker.Outcome{Token: issued(fmt.Sprint(n))})
	}
	k := spending("a", 1)
	l := b.acquired(k, true)
	epoch := broker.NewID()
	b.wantDropped("all", b.dropped("a", broker.Match{Epoch: epoch}), 3, "")
	b.wantDropped("all again", b.dropped("a", broker.Match{Epoch: epoch}), 0, "")
	got := b.view(k).Credential
	if got.Epoch != epoch || got.Version != c.Version || got.Etag != c.Etag {
		t.Errorf("credential: got %+v, want another epoch and nothing else", got)
	}
	if done := b.committed(l, broker.Outcome{Token: issued("void"), RefreshToken: broker.NewSecret("r2")}); done.Token || !done.Grant {
		t.Errorf("a flight that ran meanwhile: got %+v, want its refresh token kept and its access token void", done)
	}
	for n := range byte(3) {
		b.wantToken(plain("a", n), "")
	}
	b.wantGrant(k, "r2")
}

func testStatus(t *testing.T, _ Config, b *bench) {
	b.created("a", "own")
	if st := b.status("a"); len(st.Attempts) != 0 || !st.LastSuccess.IsZero() || st.Failure != nil || len(st.Grants) != 1 {
		t.Errorf("at first: got %+v", st)
	}
	k := obtaining(1)
	var want []broker.Attempt
	add := func(n int) []broker.Attempt {
		var made []broker.Attempt
		for i := range n {
			a := broker.Attempt{
				Start: now().Add(time.Duration(len(want)) * time.Second), Duration: time.Duration(i) * time.Millisecond, Host: "host:443",
				Status: 200 + len(want), UpstreamError: "e", Reason: "r", Taken: []string{"token"},
			}
			made = append(made, a)
			want = append([]broker.Attempt{a}, want...)
		}
		return made
	}
	at := now()
	b.committed(b.acquired(k, false), broker.Outcome{
		Token: issued("t"), RefreshToken: broker.NewSecret("r1"), Attempts: add(2), Now: at,
	})
	b.failed(b.acquired(k, false), broker.FailureRecord{Level: broker.LevelUpstream, Attempts: add(3), Now: now()})
	check := func() broker.Status {
		t.Helper()
		st := b.status("a")
		if diff := cmp.Diff(want, st.Attempts); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
		if !st.LastSuccess.Equal(at) {
			t.Errorf("last success: got %v, want %v", st.LastSuccess, at)
		}
		return st
	}
	st := check()
	if len(st.Grants) != 2 || st.Grants[0].RefreshToken.Reveal() != "own" || len(st.Tokens) != 1 || st.Tokens[0].ID != "t" {
		t.Errorf("got %d grants and %d tokens, want the credential's own grant first", len(st.Grants), len(st.Tokens))
	}
	b.failed(b.acquired(k, false), broker.FailureRecord{Attempts: add(19), Now: now()})
	want = want[:20]
	check()
}

// testStatuses: those of several are what each of them says, in the order in which they were asked for.
func testStatuses(t *testing.T, c Config, b *bench) {
	if all, err := b.Statuses(ctx, nil); err != nil || len(all) != 0 {
		t.Errorf("of none: got %+v, %v", all, err)
	}
	var names []broker.CredentialName
	for i := range 30 {
		name := broker.CredentialName(fmt.Sprintf("c%02d", 29-i))
		names = append(names, name)
		switch i % 3 {
		case 0: // there is none
		case 1:
			b.created(name, "own of "+string(name))
		default:
			b.created(name, "")
			k := plain(name, byte(i))
			b.committed(b.acquired(k, false), broker.Outcome{Token: issued(string(name)), Attempts: []broker.Attempt{{Host: "h", Start: now()}}, Now: now()})
		}
	}
	names = append(names, names[1])
	all, err := b.Statuses(ctx, names)
	if err != nil || len(all) != len(names) {
		t.Fatalf("got %d, %v, want %d", len(all), err, len(names))
	}
	for i, got := range all {
		want, err := Status(ctx, b.Store, names[i])
		if (got.Err == nil) != (err == nil) || err != nil && !errors.Is(got.Err, broker.NotFound) {
			t.Errorf("%s: got %v, want %v", names[i], got.Err, err)
		}
		got.Err = nil
		// Where the write took its time, a token's times are by the backend's clock at each reading; nothing else may differ.
		tokens := cmp.FilterPath(func(p cmp.Path) bool { return strings.Contains(p.GoString(), ".Tokens[") }, c.clocks())
		if diff := cmp.Diff(want, got, deeply, tokens); diff != "" {
			t.Errorf("%s (-want +got):\n%s", names[i], diff)
		}
	}
	b.faults.Away()
	_, err = b.Statuses(ctx, names)
	wantUnavailable(t, "statuses while the backend is away", err)
	b.faults.Set(Hooks{})
}

func testBackoff(t *testing.T, c Config, b *bench) {
	get := func() broker.Backoff {
		t.Helper()
		got, err := b.upstream("host:443")
		if err != nil {
			t.Fatalf("backoff: %v", err)
		}
		return got
	}
	if got := get(); got != (broker.Backoff{}) {
		t.Errorf("at first: got %+v", got)
	}
	want := broker.Backoff{Failures: 3, Until: now().Add(time.Minute), Last: remembered(3)}
	for range 2 {
		b.want("save", b.SaveBackoff(ctx, "host:443", want), nil)
		if diff := cmp.Diff(want, get(), c.clocks()); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if got, err := b.upstream("other:443"); err != nil || got != (broker.Backoff{}) {
		t.Errorf("of another upstream: got %+v, %v", got, err)
	}
	for range 2 {
		b.want("delete", b.SaveBackoff(ctx, "host:443", broker.Backoff{}), nil)
		if got := get(); got != (broker.Backoff{}) {
			t.Errorf("after it is well: got %+v", got)
		}
	}
	if !c.RealTime {
		b.want("save", b.SaveBackoff(ctx, "host:443", want), nil)
		c.pass(24 * time.Hour)
		if got := get(); got.Failures != 3 {
			t.Error("forgotten too early")
		}
		c.pass(time.Minute)
		if got := get(); got != (broker.Backoff{}) {
			t.Errorf("a day after its end: got %+v", got)
		}
	}
}
