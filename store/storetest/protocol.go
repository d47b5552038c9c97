package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// runProtocol runs what store.Store makes of a backend.
func runProtocol(t *testing.T, c Config) {
	for name, test := range map[string]func(*testing.T, Config, *bench){
		"credentials/create, save, delete":          testCredentials,
		"credentials/pages":                         testCredentialPages,
		"credentials/repeated":                      testCredentialsRepeated,
		"credentials/a save keeps what it must":     testSaveKeeps,
		"credentials/another place":                 testSaveElsewhere,
		"read/everything as it was given":           testRoundTrip,
		"read/hostile names":                        testHostileNames,
		"acquire/one holder":                        testAcquire,
		"acquire/anything that moved is a conflict": testAcquireMoved,
		"acquire/its answer is lost":                testAcquireLost,
		"acquire/a lease of a void token":           testAcquireVoid,
		"acquire/too many tokens":                   testTooManyTokens,
		"acquire/a foreign marker stays in doubt":   testForeignMarker,
		"commit/rotate, keep, drop":                 testCommitGrant,
		"commit/late":                               testCommitLate,
		"commit/clears failures":                    testCommitClears,
		"commit/former secret":                      testFormer,
		"commit/tokens end":                         testTokenEnds,
		"commit/grants of keys make room":           testGrantsMakeRoom,
		"fail/each level":                           testFailLevels,
		"fail/each meaning for the grant":           testFailGrant,
		"fail/only releases":                        testFailNil,
		"fail/too many failures":                    testTooManyFailures,
		"drop":                                      testDrop,
		"drop/everything":                           testDropAll,
		"status":                                    testStatus,
		"status/of several":                         testStatuses,
		"backoff":                                   testBackoff,
		"contention/an unbroken line":               testUnbrokenLine,
		"contention/one lease":                      testOneLease,
		"context/ended":                             testStoreCanceled,
	} {
		c.run(t, "store/"+name, func(t *testing.T, c Config, b store.Backend) {
			test(t, c, newBench(t, b, store.Options{MaxTokens: 20}))
		})
	}
	runInterleavings(t, c)
}

// A bench is a store on a backend that can be made to fail.
type bench struct {
	*store.Store
	t      *testing.T
	faults *Faults
	keys   *seal.Keyring
}

func newBench(t *testing.T, b store.Backend, o store.Options) *bench {
	t.Helper()
	keys, err := seal.New()
	if err != nil {
		t.Fatalf("draw keys: %v", err)
	}
	f := NewFaults(b)
	s, err := store.New(f.Whole(), keys, o)
	if err != nil {
		t.Fatalf("new: %v", err)
	}
	return &bench{Store: s, t: t, faults: f, keys: keys}
}

var ctx = context.Background()

// credential returns a new one.
func credential(name broker.CredentialName) broker.Credential {
	return broker.Credential{
		Name: name, Provider: "provider", Incarnation: broker.NewID(), Version: broker.NewID(), Epoch: broker.NewID(), Etag: broker.NewID(),
		Secrets: map[string]broker.SecretInput{"client_secret": {Value: broker.NewSecret("client secret of " + string(name))}},
		Number:  1, CreateTime: now(), UpdateTime: now(),
	}
}

func now() time.Time { return time.Now().Round(0).UTC() }

func seedOf(refreshToken string) *broker.Grant {
	return &broker.Grant{RefreshToken: broker.NewSecret(refreshToken), GivenAt: now()}
}

// created returns a credential that was created, with a grant if seed is not empty.
func (b *bench) created(name broker.CredentialName, seed string) broker.Credential {
	b.t.Helper()
	c := credential(name)
	var g *broker.Grant
	if seed != "" {
		g = seedOf(seed)
		c.Seeds = map[string]broker.Seed{"refresh_token": {Hash: broker.NewID(), SetTime: now()}}
	}
	if err := b.CreateCredential(ctx, c, g); err != nil {
		b.t.Fatalf("create: %v", err)
	}
	return c
}

// changed returns the credential with a new etag, and after it a new version where one is wanted.
func changed(c broker.Credential, version bool) broker.Credential {
	c = c.Clone()
	c.Etag = broker.NewID()
	if version {
		c.Version = broker.NewID()
		c.Number++
	}
	return c
}

// spending is the key of a token that is had with the credential's own grant; obtaining that of one of "a" with a grant of
// its own; plain that of one without.
func spending(name broker.CredentialName, n byte) broker.TokenKey {
	return broker.TokenKey{Credential: name, Token: [32]byte{n, 1}, Selection: [32]byte{n, 2}, Digest: "d1", Spends: true}
}

func obtaining(n byte) broker.TokenKey {
	k := spending("a", n)
	k.Grant = k.Selection
	return k
}

func plain(name broker.CredentialName, n byte) broker.TokenKey {
	k := spending(name, n)
	k.Spends = false
	return k
}

func issued(id string) *broker.Issued {
	return &broker.Issued{
		ID: id, Values: map[string]broker.Secret{"token": broker.NewSecret("access token " + id)},
		SentAt: now(), ExpireAt: now().Add(time.Hour), RefreshAt: now().Add(50 * time.Minute), Source: broker.ExpiryUpstream,
	}
}

func (b *bench) view(k broker.TokenKey) broker.View {
	b.t.Helper()
	v, err := b.Read(ctx, k, "")
	if err != nil {
		b.t.Fatalf("read: %v", err)
	}
	return v
}

func (b *bench) acquired(k broker.TokenKey, spend bool) broker.Lease {
	b.t.Helper()
	return b.acquiredFor(leaseTime, k, spend)
}

func (b *bench) acquiredFor(ttl time.Duration, k broker.TokenKey, spend bool) broker.Lease {
	b.t.Helper()
	l, err := b.view(k).Acquire(ctx, ttl, spend)
	if err != nil {
		b.t.Fatalf("acquire: %v", err)
	}
	return l
}

func (b *bench) committed(l broker.Lease, o broker.Outcome) broker.Committed {
	b.t.Helper()
	if o.Now.IsZero() {
		o.Now = now()
	}
	done, err := l.Commit(ctx, o)
	if err != nil {
		b.t.Fatalf("commit: %v", err)
	}
	if m := done.Mark; m != (broker.Mark{}) && b.Shared() {
		b.wantUnchanged(m, true)
	}
	done.Mark = broker.Mark{}
	return done
}

func (b *bench) wantUnchanged(m broker.Mark, want bool) {
	b.t.Helper()
	got, err := b.Unchanged(ctx, []broker.Mark{{}, m})
	if err != nil || len(got) != 2 || got[0] != broker.Changed || (got[1] == broker.Same) != want {
		b.t.Errorf("unchanged: got %v, %v, want %v and %v", got, err, broker.Changed, want)
	}
}

func (b *bench) failed(l broker.Lease, r broker.FailureRecord) {
	b.t.Helper()
	if err := l.Fail(ctx, r); err != nil {
		b.t.Fatalf("fail: %v", err)
	}
}

func (b *bench) released(l broker.Lease) {
	b.t.Helper()
	if err := l.Release(ctx); err != nil {
		b.t.Fatalf("release: %v", err)
	}
}

func (b *bench) saved(c, next broker.Credential, seed *broker.Grant) {
	b.t.Helper()
	if err := b.SaveCredential(ctx, c.Etag, next, seed); err != nil {
		b.t.Fatalf("save: %v", err)
	}
}

func (b *bench) status(name broker.CredentialName) broker.Status {
	b.t.Helper()
	s, err := Status(ctx, b.Store, name)
	if err != nil {
		b.t.Fatalf("status: %v", err)
	}
	return s
}

// Status is what a store knows of one credential.
func Status(ctx context.Context, s broker.Credentials, name broker.CredentialName) (broker.Status, error) {
	all, err := s.Statuses(ctx, []broker.CredentialName{name})
	if err == nil {
		err = all[0].Err
	}
	if err != nil {
		return broker.Status{}, err
	}
	return all[0], nil
}

func (b *bench) want(what string, err, want error) {
	b.t.Helper()
	if !errors.Is(err, want) {
		b.t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

// upstream is what is known of an upstream, as a view of any token tells it.
func (b *bench) upstream(name string) (broker.Backoff, error) {
	if _, err := b.Credential(ctx, "any"); err != nil {
		b.created("any", "")
	}
	v, err := b.Read(ctx, plain("any", 1), name)
	return v.Upstream, err
}

// wantToken: id is empty for no token.
func (b *bench) wantToken(k broker.TokenKey, id string) {
	b.t.Helper()
	got := ""
	if v := b.view(k); v.Token != nil {
		got = v.Token.ID
	}
	if got != id {
		b.t.Errorf("token: got %q, want %q", got, id)
	}
}

func (b *bench) wantGrant(k broker.TokenKey, refreshToken string) {
	b.t.Helper()
	if got := b.view(k).Grant.RefreshToken.Reveal(); got != refreshToken {
		b.t.Errorf("refresh token: got %q, want %q", got, refreshToken)
	}
}
