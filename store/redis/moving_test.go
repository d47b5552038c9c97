package redis_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/bolt"
	"github.com/tokenbroker/tokenbroker/store/seal"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// TestMoving: from the embedded store into Redis, into another Redis, and back: what a broker reads stays the same.
func TestMoving(t *testing.T) {
	t.Parallel()
	keys, err := seal.New()
	if err != nil {
		t.Fatal(err)
	}
	url := redistest.Start(t, redistest.Options{}).URL()
	embedded := func() store.Backend {
		db, err := bolt.Open(filepath.Join(t.TempDir(), "db"), bolt.Options{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db
	}
	newStore := func(b store.Backend) *store.Store {
		s, err := store.New(b, keys, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	const many = 150 // more than a page
	first := newStore(embedded())
	var tokens []broker.TokenKey
	for n := range many {
		tokens = append(tokens, furnish(t, first, broker.CredentialName(fmt.Sprint("credential-", n)))...)
	}
	crowd(t, first, "crowded", 900)

	last := first
	for i, b := range []store.Backend{open(t, url), open(t, url), embedded()} {
		var export bytes.Buffer
		if err := last.Export(t.Context(), &export, nil); err != nil {
			t.Fatal(err)
		}
		e, err := store.ReadExport(bytes.NewReader(export.Bytes()), keys)
		if err != nil {
			t.Fatal(err)
		}
		next := newStore(b)
		if got, err := next.Import(t.Context(), e, nil); err != nil || got.Made != many+1 || len(got.Conflicts)+got.There+got.Ended > 0 {
			t.Fatalf("import %d: got %+v, %v", i, got, err)
		}
		last = next
	}
	same := cmp.Options{
		cmp.Comparer(func(a, b broker.Secret) bool { return a.Reveal() == b.Reveal() }), cmp.Comparer(func(a, b broker.Set) bool { return a == b }),
		cmp.Comparer(func(a, b broker.Pairs) bool { return a == b }), cmpopts.EquateEmpty(),
		cmpopts.EquateApproxTime(30 * time.Second), cmpopts.IgnoreFields(broker.View{}, "Lessor"), cmpopts.IgnoreFields(broker.Grant{}, "UsedFor"),
	}
	for _, k := range tokens {
		was, err := first.Read(t.Context(), k, "")
		if err != nil {
			t.Fatal(err)
		}
		is, err := last.Read(t.Context(), k, "")
		if diff := cmp.Diff(was, is, same); err != nil || diff != "" {
			t.Fatalf("%s: %v (-first +last):\n%s", k.Credential, err, diff)
		}
		before, err := storetest.Status(t.Context(), first, k.Credential)
		if err != nil {
			t.Fatal(err)
		}
		after, err := storetest.Status(t.Context(), last, k.Credential)
		if diff := cmp.Diff(before, after, same); err != nil || diff != "" {
			t.Fatalf("status of %s: %v (-first +last):\n%s", k.Credential, err, diff)
		}
	}
	if st, err := storetest.Status(t.Context(), last, "crowded"); err != nil || len(st.Tokens) != 900 {
		t.Errorf("crowded: got %d tokens, %v, want 900", len(st.Tokens), err)
	}
}

// furnish makes a credential with a grant, a token and a failure.
func furnish(t *testing.T, s *store.Store, name broker.CredentialName) []broker.TokenKey {
	t.Helper()
	now := time.Now()
	create(t, s, name)
	own := broker.TokenKey{Credential: name, Token: [32]byte{1}, Digest: "d", Spends: true}
	bad := broker.TokenKey{Credential: name, Token: [32]byte{2}, Digest: "d"}
	commit(t, s, own, true, broker.Outcome{
		Token:        &broker.Issued{ID: "t", Values: map[string]broker.Secret{"token": broker.NewSecret("token of " + string(name))}, ExpireAt: now.Add(time.Hour)},
		RefreshToken: broker.NewSecret("second of " + string(name)), Now: now, Attempts: []broker.Attempt{{Start: now, Host: "h", Status: 200}},
	})
	if err := acquire(t, s, bad, false).Fail(t.Context(), broker.FailureRecord{
		Level: broker.LevelScope, Now: now, Failure: broker.Remembered{Kind: broker.ScopeRefused, At: now, RetryAt: now.Add(time.Hour)},
	}); err != nil {
		t.Fatal(err)
	}
	return []broker.TokenKey{own, bad}
}

// crowd makes a credential with many tokens.
func crowd(t *testing.T, s *store.Store, name broker.CredentialName, n int) {
	t.Helper()
	create(t, s, name)
	for i := range n {
		k := broker.TokenKey{Credential: name, Token: [32]byte{1, byte(i), byte(i >> 8)}, Digest: "d"}
		commit(t, s, k, false, broker.Outcome{Token: &broker.Issued{ID: fmt.Sprint(i), ExpireAt: time.Now().Add(time.Hour)}, Now: time.Now()})
	}
}

func create(t *testing.T, s *store.Store, name broker.CredentialName) {
	t.Helper()
	c := broker.Credential{
		Name: name, Provider: "p", Incarnation: broker.NewID(), Version: broker.NewID(), Epoch: broker.NewID(), Etag: broker.NewID(),
		Secrets: map[string]broker.SecretInput{"client_secret": {Value: broker.NewSecret("secret of " + string(name))}},
	}
	if err := s.CreateCredential(t.Context(), c, &broker.Grant{RefreshToken: broker.NewSecret("seed")}); err != nil {
		t.Fatal(err)
	}
}

func acquire(t *testing.T, s *store.Store, k broker.TokenKey, spend bool) broker.Lease {
	t.Helper()
	v, err := s.Read(t.Context(), k, "")
	if err != nil {
		t.Fatal(err)
	}
	l, err := v.Acquire(t.Context(), time.Minute, spend)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func commit(t *testing.T, s *store.Store, k broker.TokenKey, spend bool, o broker.Outcome) {
	t.Helper()
	if _, err := acquire(t, s, k, spend).Commit(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}
