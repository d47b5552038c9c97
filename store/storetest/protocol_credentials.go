package storetest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
)

// deeply compares what the store returns, secrets by their values.
var deeply = cmp.Options{
	cmpopts.IgnoreFields(broker.Credential{}, "Revision"), cmpopts.IgnoreFields(broker.Grant{}, "UsedFor"),
	cmp.Comparer(func(a, b broker.Secret) bool { return a.Reveal() == b.Reveal() }),
	cmp.Comparer(func(a, b broker.Set) bool { return a == b }),
	cmp.Comparer(func(a, b broker.Pairs) bool { return a == b }),
	cmpopts.EquateEmpty(),
}

func testCredentials(t *testing.T, _ Config, b *bench) {
	_, err := b.Credential(ctx, "a")
	b.want("read of none", err, broker.NotFound)
	b.want("save of none", b.SaveCredential(ctx, broker.NewID(), credential("a"), nil), broker.NotFound)
	b.want("delete of none", b.DeleteCredential(ctx, "a", broker.ID{}), broker.NotFound)
	_, err = b.Read(ctx, plain("a", 1), "")
	b.want("read of a token of none", err, broker.NotFound)
	_, err = Status(ctx, b.Store, "a")
	b.want("status of none", err, broker.NotFound)

	c := b.created("a", "")
	b.want("create of one that is there", b.CreateCredential(ctx, credential("a"), nil), broker.AlreadyExists)
	got, err := b.Credential(ctx, "a")
	if diff := cmp.Diff(c, got, deeply); err != nil || diff != "" {
		t.Errorf("read: %v (-want +got):\n%s", err, diff)
	}

	next := changed(c, true)
	next.Labels = map[string]string{"team": "x"}
	b.want("save with another etag", b.SaveCredential(ctx, broker.NewID(), next, nil), broker.EtagMismatch)
	b.want("save of another incarnation", b.SaveCredential(ctx, c.Etag, credential("a"), nil), broker.EtagMismatch)
	b.saved(c, next, nil)
	got, err = b.Credential(ctx, "a")
	if diff := cmp.Diff(next, got, deeply); err != nil || diff != "" {
		t.Errorf("read after save: %v (-want +got):\n%s", err, diff)
	}
	b.want("save with the former etag", b.SaveCredential(ctx, c.Etag, changed(c, true), nil), broker.EtagMismatch)

	b.want("delete with another etag", b.DeleteCredential(ctx, "a", c.Etag), broker.EtagMismatch)
	b.want("delete", b.DeleteCredential(ctx, "a", next.Etag), nil)
	_, err = b.Credential(ctx, "a")
	b.want("read of one that was deleted", err, broker.NotFound)
	again := b.created("a", "")
	if again.Incarnation == c.Incarnation {
		t.Fatal("two incarnations are equal")
	}
	b.want("delete with any etag", b.DeleteCredential(ctx, "a", broker.ID{}), nil)
}

func testCredentialPages(t *testing.T, _ Config, b *bench) {
	var want []string
	for _, n := range []broker.CredentialName{"a", "a-b", "a.b", "a0", "ab", "b"} {
		b.created(n, "")
		want = append(want, string(n))
	}
	for limit := 1; limit <= len(want)+1; limit++ {
		var got []string
		after := broker.CredentialName("")
		for {
			page, err := b.Credentials(ctx, after, limit)
			if err != nil {
				t.Fatalf("credentials: %v", err)
			}
			for _, c := range page {
				got, after = append(got, string(c.Name)), c.Name
			}
			if len(page) < limit {
				break
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("pages of %d (-want +got):\n%s", limit, diff)
		}
	}
	// A page stays full where the index has entries without a record.
	apply(t, b.faults, store.Batch{Group: "c:none", List: &store.Listing{Name: "a-"}})
	if page, err := b.Credentials(ctx, "a", 2); err != nil || len(page) != 2 {
		t.Errorf("a page over an entry without a record: got %d, %v", len(page), err)
	}
	b.want("delete", b.DeleteCredential(ctx, "a.b", broker.ID{}), nil)
	page, err := b.Credentials(ctx, "a-b", 1)
	if err != nil || len(page) != 1 || page[0].Name != "a0" {
		t.Errorf("the page after a deleted one: got %v, %v", page, err)
	}
}

// testCredentialsRepeated: an answer was lost, and the call is made again.
func testCredentialsRepeated(t *testing.T, _ Config, b *bench) {
	lost := Hooks{AfterApply: func(_ context.Context, _ store.Batch) error { return store.Unavailable("the answer was lost") }}
	twice := func(what string, call func() error) {
		t.Helper()
		b.faults.Set(lost)
		b.want(what, call(), broker.StoreUnavailable)
		b.faults.Set(Hooks{})
		b.want(what+" again", call(), nil)
	}
	c := credential("a")
	twice("create", func() error { return b.CreateCredential(ctx, c, seedOf("r1")) })
	generation := b.view(spending("a", 1)).Grant.Generation
	next := changed(c, true)
	twice("save", func() error { return b.SaveCredential(ctx, c.Etag, next, seedOf("r2")) })
	b.wantGrant(spending("a", 1), "r2")
	if b.view(spending("a", 1)).Grant.Generation == generation {
		t.Error("a new seed kept the generation")
	}
	// A deletion whose answer was lost finds nothing the second time.
	b.faults.Set(lost)
	b.want("delete", b.DeleteCredential(ctx, "a", next.Etag), broker.StoreUnavailable)
	b.faults.Set(Hooks{})
	b.want("delete again", b.DeleteCredential(ctx, "a", next.Etag), broker.NotFound)
}

func testSaveKeeps(t *testing.T, _ Config, b *bench) {
	c := b.created("a", "r1")
	k := spending("a", 1)
	b.committed(b.acquired(k, true), broker.Outcome{Token: issued("t1"), RefreshToken: broker.NewSecret("r2")})

	labels := changed(c, false)
	b.saved(c, labels, nil)
	b.wantToken(k, "t1")
	b.wantGrant(k, "r2")

	// All tokens are invalidated after the credential was read and before it is saved.
	stale := changed(labels, false)
	if _, err := b.Drop(ctx, "a", broker.Match{Epoch: broker.NewID()}); err != nil {
		t.Fatalf("drop: %v", err)
	}
	epoch := b.view(k).Credential.Epoch
	b.saved(labels, stale, nil)
	if got := b.view(k).Credential.Epoch; got != epoch {
		t.Error("a save brought back a former epoch")
	}
	b.committed(b.acquired(k, true), broker.Outcome{Token: issued("t2")})
	version := changed(stale, true)
	b.saved(stale, version, nil)
	b.wantToken(k, "")
	b.wantGrant(k, "r2")

	seeded := changed(version, true)
	b.saved(version, seeded, seedOf("another seed"))
	g := b.view(k).Grant
	if g.RefreshToken.Reveal() != "another seed" || g.MayBeSpent() || g.Generation.IsZero() {
		t.Errorf("the grant of another seed: got %+v", g)
	}
}

// testSaveElsewhere: what was obtained at one place is not there at another, whenever it comes.
func testSaveElsewhere(t *testing.T, _ Config, b *bench) {
	for name, seed := range map[broker.CredentialName]*broker.Grant{"obtained": nil, "seeded": seedOf("of the new place")} {
		c := b.created(name, "r1")
		own, key, fresh := spending(name, 1), spending(name, 2), spending(name, 3)
		key.Grant, fresh.Grant = key.Selection, fresh.Selection
		b.committed(b.acquired(own, true), broker.Outcome{Token: issued("t1"), RefreshToken: broker.NewSecret("r2"), Held: map[string]broker.HeldValue{"x": {Value: broker.NewSecret("held"), TakenBy: "a take"}}})
		b.committed(b.acquired(key, false), broker.Outcome{Token: issued("t2"), RefreshToken: broker.NewSecret("of a key")})
		late := []broker.Lease{b.acquired(own, true), b.acquired(key, true), b.acquired(fresh, false)}
		next := changed(c, true)
		next.Place = broker.NewID()
		b.saved(c, next, seed)
		want := ""
		if seed != nil {
			want = "of the new place"
		}
		wantNothing := func(when string) {
			t.Helper()
			b.wantGrant(own, want)
			for _, k := range []broker.TokenKey{key, fresh} {
				b.wantGrant(k, "")
			}
			for _, k := range []broker.TokenKey{own, key, fresh} {
				if v := b.view(k); v.Token != nil || v.Credential.Place != next.Place || len(v.Grant.Held) > 0 {
					t.Errorf("%s, %s: got %+v", name, when, v)
				}
			}
		}
		wantNothing("saved")
		for i, l := range late {
			if done := b.committed(l, broker.Outcome{Token: issued("late"), RefreshToken: broker.NewSecret(fmt.Sprint("late ", i))}); done.Grant || done.Token {
				t.Errorf("%s: what exchange %d has brought of the former place was stored: %+v", name, i, done)
			}
		}
		wantNothing("after what was under way has ended")
		b.committed(b.acquired(fresh, false), broker.Outcome{Token: issued("here"), RefreshToken: broker.NewSecret("here")})
		b.wantGrant(fresh, "here")
		again := changed(next, true)
		b.saved(next, again, nil)
		b.wantGrant(fresh, "here")
	}
}

func testRoundTrip(t *testing.T, config Config, b *bench) {
	odd := broker.NewSecret("not UTF-8: \xff\x00, and \"quoted\" <&>")
	scopes, _ := broker.ParseSet("scopes", []string{"b", "a"})
	c := credential("a")
	c.Inputs = map[string]string{"server": "https://x.example"}
	c.Secrets["key"] = broker.SecretInput{Value: odd, SetTime: now(), Former: broker.NewSecret("old"), FormerUntil: now().Add(time.Hour)}
	c.DefaultScopes, c.DefaultAudience, c.Disabled, c.Place = scopes, "audience", true, broker.NewID()
	c.Destinations = []broker.Destination{{Use: broker.API, Place: "https://api.example.com"}, {Use: broker.Requests, Place: "https://login.example.com"}}
	c.Labels = map[string]string{"a": "b"}
	c.Seeds = map[string]broker.Seed{"refresh_token": {Hash: broker.NewID(), SetTime: now()}}
	c.Requests = map[string]broker.Request{"request": {At: now(), Contents: broker.NewID()}, "of a former broker": {At: now()}}
	seed := &broker.Grant{RefreshToken: odd, Held: map[string]broker.HeldValue{"instance": {Value: odd, TakenBy: "a take"}}, GivenAt: now()}
	if err := b.CreateCredential(ctx, c, seed); err != nil {
		t.Fatalf("create: %v", err)
	}
	k := spending("a", 1)
	v := b.view(k)
	if diff := cmp.Diff(c, v.Credential, deeply); diff != "" {
		t.Errorf("credential (-want +got):\n%s", diff)
	}
	want := *seed
	want.Generation = v.Grant.Generation
	if diff := cmp.Diff(want, v.Grant, deeply); diff != "" || v.Grant.Generation.IsZero() {
		t.Errorf("grant (-want +got):\n%s", diff)
	}
	token := &broker.Issued{
		ID: "id", Values: map[string]broker.Secret{"token": odd, "other": broker.NewSecret("x")},
		Headers: []broker.Field{{Name: "X-Device", Value: odd}}, TokenType: "Bearer",
		Audience: "audience", Granted: []string{"b", "a"}, SentAt: now(), ExpireAt: now().Add(time.Hour),
		RefreshAt: now().Add(time.Minute), Source: broker.ExpiryNone, Unread: "expires_at", SameCount: 3, AskAgainAt: now().Add(10 * time.Second), Rejected: true,
		RejectedCount: 4, ReplaceAt: now().Add(20 * time.Second),
	}
	l := b.acquired(k, true)
	b.committed(l, broker.Outcome{Token: token, RefreshToken: odd})
	if diff := cmp.Diff(token, b.view(k).Token, deeply, config.clocks()); diff != "" {
		t.Errorf("token (-want +got):\n%s", diff)
	}
	for _, source := range []broker.ExpirySource{
		broker.ExpiryUnknown, broker.ExpiryUpstream, broker.ExpiryToken, broker.ExpiryDefinition, broker.ExpiryNone,
	} {
		other := issued(fmt.Sprint(source))
		other.Source = source
		other.ExpireAt = time.Unix(1<<40, 0) // far beyond the year 9999
		b.committed(b.acquired(k, false), broker.Outcome{Token: other})
		if got := b.view(k).Token; got == nil || got.Source != source || !got.ExpireAt.Equal(other.ExpireAt) {
			t.Errorf("source %d: got %+v", source, got)
		}
	}
}

// testHostileNames: the store trusts no name to be a valid one.
func testHostileNames(t *testing.T, _ Config, b *bench) {
	var names []broker.CredentialName
	for _, n := range []string{
		"a", "a:", "c:a", "a}", "{a}", "../a", "a/b", "a\x00", "a\n", "a\xff", "meta", "*", "%s", "a b", "é", strings.Repeat("n", 4000),
	} {
		names = append(names, broker.CredentialName(n))
	}
	for _, n := range names {
		if strings.Contains(string(n), "\x00") {
			continue // no name holds a zero byte, and the order of the index may rely on it
		}
		c := b.created(n, "seed of "+string(n))
		k := spending(n, 1)
		b.wantGrant(k, "seed of "+string(n))
		if got := b.view(k).Credential; got.Incarnation != c.Incarnation || got.Name != n {
			t.Errorf("%q: got the credential %q", n, got.Name)
		}
	}
	b.want("delete", b.DeleteCredential(ctx, "a", broker.ID{}), nil)
	for _, n := range names[1:] {
		if _, err := b.Credential(ctx, n); err != nil && !errors.Is(err, broker.NotFound) || err != nil && !strings.Contains(string(n), "\x00") {
			t.Errorf("%q after another one was deleted: %v", n, err)
		}
	}
	for _, u := range []string{"h", "host:443", "a\x00b", "c:a"} {
		want := broker.Backoff{Failures: len(u) + 1}
		b.want("save backoff", b.SaveBackoff(ctx, u, want), nil)
		if got, err := b.upstream(u); err != nil || got.Failures != want.Failures {
			t.Errorf("backoff of %q: got %+v, %v", u, got, err)
		}
	}
}
