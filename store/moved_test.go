package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/leaktest"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func writeFile(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// full creates a credential that has a row of every kind.
func full(t *testing.T, s *store.Store, name broker.CredentialName) broker.TokenKey {
	t.Helper()
	create(t, s, newCredential(name), "the seed of "+string(name))
	k := broker.TokenKey{Credential: name, Token: [32]byte{1}, Selection: [32]byte{2}, Grant: [32]byte{2}, Digest: "d", Spends: true}
	acquire := func(k broker.TokenKey) broker.Lease {
		v, err := s.Read(t.Context(), k, "")
		if err != nil {
			t.Fatal(err)
		}
		l, err := v.Acquire(t.Context(), time.Minute, false)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	now := time.Now()
	failed := broker.Remembered{Kind: broker.ScopeRefused, RetryAt: now.Add(time.Minute)}
	commit := broker.Outcome{
		Token: &broker.Issued{
			ID: "t", Values: map[string]broker.Secret{"token": broker.NewSecret("the access token of " + string(name))},
			Headers: []broker.Field{{Name: "X-Device", Value: broker.NewSecret("the device of " + string(name))}}, ExpireAt: now.Add(time.Hour),
		},
		RefreshToken: broker.NewSecret("the refresh token of " + string(name)),
		Held:         map[string]broker.HeldValue{"h": {Value: broker.NewSecret("what is held of " + string(name))}}, Now: now,
	}
	if done, err := acquire(k).Commit(t.Context(), commit); err != nil || !done.Grant || !done.Token {
		t.Fatalf("commit: %+v, %v", done, err)
	}
	for _, level := range []broker.Level{broker.LevelScope, broker.LevelCredential} {
		if err := acquire(k).Fail(t.Context(), broker.FailureRecord{Level: level, Failure: failed, Now: now}); err != nil {
			t.Fatal(err)
		}
	}
	acquire(k)
	plain := k
	plain.Spends = false
	acquire(plain)
	if err := s.SaveBackoff(t.Context(), "host of "+string(name), broker.Backoff{Failures: 1}); err != nil {
		t.Fatal(err)
	}
	return k
}

// TestMovedRowsAreRefused puts sealed rows where they do not belong.
func TestMovedRowsAreRefused(t *testing.T) {
	type where struct {
		group store.Group
		key   store.Key
	}
	for name, move := range map[string]func(s *store.Store, a, b broker.TokenKey) (from, to where){
		"a credential to another": func(s *store.Store, _, _ broker.TokenKey) (from, to where) {
			return where{s.GroupFor("a"), store.CredentialKey}, where{s.GroupFor("b"), store.CredentialKey}
		},
		"a key's grant to another credential": func(s *store.Store, a, b broker.TokenKey) (from, to where) {
			return where{s.GroupFor("a"), store.GrantKey(a)}, where{s.GroupFor("b"), store.GrantKey(b)}
		},
		"the own grant to a key": func(s *store.Store, _, b broker.TokenKey) (from, to where) {
			return where{s.GroupFor("b"), store.OwnGrantKey}, where{s.GroupFor("b"), store.GrantKey(b)}
		},
		"a token to another credential": func(s *store.Store, a, b broker.TokenKey) (from, to where) {
			return where{s.GroupFor("a"), store.TokenKey(a)}, where{s.GroupFor("b"), store.TokenKey(b)}
		},
		"a token to another key": func(s *store.Store, _, b broker.TokenKey) (from, to where) {
			other := b
			other.Token[5] = 1
			return where{s.GroupFor("b"), store.TokenKey(other)}, where{s.GroupFor("b"), store.TokenKey(b)}
		},
		"a failure to another credential": func(s *store.Store, a, b broker.TokenKey) (from, to where) {
			return where{s.GroupFor("a"), store.FailureKey(a)}, where{s.GroupFor("b"), store.FailureKey(b)}
		},
		"the health of another credential": func(s *store.Store, _, _ broker.TokenKey) (from, to where) {
			return where{s.GroupFor("a"), store.HealthKey}, where{s.GroupFor("b"), store.HealthKey}
		},
		"a lease to another credential": func(s *store.Store, a, b broker.TokenKey) (from, to where) {
			return where{s.GroupFor("a"), store.LeaseKey(a)}, where{s.GroupFor("b"), store.LeaseKey(b)}
		},
		"a grant to a token": func(s *store.Store, _, b broker.TokenKey) (from, to where) {
			return where{s.GroupFor("b"), store.GrantKey(b)}, where{s.GroupFor("b"), store.TokenKey(b)}
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := storetest.NewMemory()
			s := newStore(t, m, newKeyring(t))
			a, b := full(t, s, "a"), full(t, s, "b")
			other := b
			other.Token[5] = 1
			v, err := s.Read(t.Context(), other, "")
			if err != nil {
				t.Fatal(err)
			}
			_ = v
			from, to := move(s, a, b)
			if from.key == store.TokenKey(other) {
				copyRow(t, m, to.group, to.key, from.group, from.key)
				b = other
			} else {
				copyRow(t, m, from.group, from.key, to.group, to.key)
			}
			_, err = s.Read(t.Context(), b, "")
			wantUnreadable(t, "read", err, "credential b", "belongs elsewhere")
			if _, err := s.Read(t.Context(), a, ""); err != nil {
				t.Errorf("read of what was not touched: %v", err)
			}
		})
	}
}

// TestFormerIncarnation: a row of a credential that was deleted does not open for the next one of that name.
func TestFormerIncarnation(t *testing.T) {
	m, k := storetest.NewMemory(), newKeyring(t)
	s := newStore(t, m, k)
	key := full(t, s, "a")
	old := storetest.NewMemory()
	copyRow2(t, m, old, s.GroupFor("a"), store.GrantKey(key))
	if err := s.DeleteCredential(t.Context(), "a", broker.ID{}); err != nil {
		t.Fatal(err)
	}
	full(t, s, "a")
	copyRow2(t, old, m, s.GroupFor("a"), store.GrantKey(key))
	_, err := s.Read(t.Context(), key, "")
	wantUnreadable(t, "a grant of a former incarnation", err, "the grant record")
}

// rowOf reads one row, which must be there.
func rowOf(t *testing.T, b store.Backend, g store.Group, k store.Key) store.Row {
	t.Helper()
	read, err := b.Read(context.Background(), store.Ask{Group: g, Keys: []store.Key{k}})
	if err != nil || len(read[0].Rows) != 1 {
		t.Fatalf("read %s: %v, %v", k.Kind, read, err)
	}
	return read[0].Rows[0]
}

func copyRow2(t *testing.T, from, to store.Backend, g store.Group, k store.Key) {
	t.Helper()
	row := rowOf(t, from, g, k)
	put := store.Put{Key: k, Revision: row.Revision, Value: row.Value}
	if err := to.Apply(t.Context(), store.Batch{Group: g, Puts: []store.Put{put}}); err != nil {
		t.Fatal(err)
	}
}

// TestDamagedRows: each damaged row is refused by those who need it, and does not stand in the way of those who do not.
func TestDamagedRows(t *testing.T) {
	damage := func(t *testing.T, m store.Backend, g store.Group, k store.Key) {
		t.Helper()
		row := rowOf(t, m, g, k)
		put := store.Put{Key: k, Revision: store.Revision(broker.NewID()), Value: row.Value[:len(row.Value)-1]}
		if err := m.Apply(t.Context(), store.Batch{Group: g, Puts: []store.Put{put}}); err != nil {
			t.Fatal(err)
		}
	}
	begin := func(t *testing.T) (*storetest.Memory, *store.Store, broker.TokenKey) {
		m := storetest.NewMemory()
		s := newStore(t, m, newKeyring(t))
		return m, s, full(t, s, "a")
	}
	t.Run("credential", func(t *testing.T) {
		m, s, key := begin(t)
		full(t, s, "b")
		damage(t, m, s.GroupFor("a"), store.CredentialKey)
		_, err := s.Credentials(t.Context(), "", 10)
		wantUnreadable(t, "listing", err, "credential a")
		_, err = s.Read(t.Context(), key, "")
		wantUnreadable(t, "read", err, "credential a")
		_, err = s.Drop(t.Context(), "a", broker.Match{Epoch: broker.NewID()})
		wantUnreadable(t, "drop", err)
		wantUnreadable(t, "delete with an etag", s.DeleteCredential(t.Context(), "a", broker.NewID()))
		if err := s.CreateCredential(t.Context(), newCredential("a"), nil); !errors.Is(err, broker.AlreadyExists) {
			t.Errorf("create: got %v", err)
		}
		if err := s.DeleteCredential(t.Context(), "a", broker.ID{}); err != nil {
			t.Errorf("delete: %v", err)
		}
		if all, err := s.Credentials(t.Context(), "", 10); err != nil || len(all) != 1 {
			t.Errorf("listing after the deletion: got %d, %v", len(all), err)
		}
	})
	t.Run("history", func(t *testing.T) {
		m, s, _ := begin(t)
		v, err := s.Read(t.Context(), broker.TokenKey{Credential: "a"}, "")
		if err != nil {
			t.Fatal(err)
		}
		damage(t, m, s.GroupFor("a"), store.HistoryKey)
		if st, err := storetest.Status(t.Context(), s, "a"); err != nil || len(st.Attempts) != 0 || len(st.Grants) != 2 {
			t.Errorf("status: %d attempts, %d grants, %v", len(st.Attempts), len(st.Grants), err)
		}
		l, err := v.Acquire(t.Context(), time.Minute, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := l.Commit(t.Context(), broker.Outcome{Now: time.Now()}); err != nil {
			t.Errorf("commit: %v", err)
		}
	})
	t.Run("token", func(t *testing.T) {
		m, s, key := begin(t)
		damage(t, m, s.GroupFor("a"), store.TokenKey(key))
		_, err := storetest.Status(t.Context(), s, "a")
		wantUnreadable(t, "status", err, "the token record")
		_, err = s.Drop(t.Context(), "a", broker.Match{TokenID: "t"})
		wantUnreadable(t, "drop of one", err)
		if _, err := s.Drop(t.Context(), "a", broker.Match{Epoch: broker.NewID()}); err != nil {
			t.Errorf("drop of all: %v", err)
		}
		if _, err := storetest.Status(t.Context(), s, "a"); err != nil {
			t.Errorf("status after all were dropped: %v", err)
		}
	})
	t.Run("backoff", func(t *testing.T) {
		m, s, key := begin(t)
		damage(t, m, s.UpstreamGroupFor("host of a"), store.BackoffKey)
		if v, err := s.Read(t.Context(), key, "host of a"); err != nil || !v.UpstreamUnknown {
			t.Errorf("read: unknown %v, %v; want what there is, without what is only advice", v.UpstreamUnknown, err)
		}
		if err := s.SaveBackoff(t.Context(), "host of a", broker.Backoff{Failures: 2}); err != nil {
			t.Errorf("save: %v", err)
		}
	})
}

// TestErrorsHoldNoSecrets prints every failure that can be had in every way.
func TestErrorsHoldNoSecrets(t *testing.T) {
	m := storetest.NewMemory()
	f := storetest.NewFaults(m)
	s := newStore(t, f, newKeyring(t))
	key := full(t, s, "a")
	secrets := []string{"the secret of a", "the seed of a", "the access token of a", "the device of a", "the refresh token of a", "what is held of a"}
	foreign := errors.New("EVALSHA failed with the refresh token of a")
	for _, hooks := range []storetest.Hooks{
		{BeforeRead: func(context.Context) error { return foreign }},
		{BeforeApply: func(context.Context, store.Batch) error { return foreign }},
	} {
		f.Set(hooks)
		_, errRead := s.Read(t.Context(), key, "")
		errSave := s.SaveBackoff(t.Context(), "h", broker.Backoff{Failures: 1})
		_, errStatus := storetest.Status(t.Context(), s, "a")
		for _, err := range []error{errRead, errSave, errStatus} {
			if err != nil && !errors.Is(err, broker.StoreUnavailable) {
				t.Errorf("got %v, want a failure that is StoreUnavailable", err)
			}
			if found := leaktest.Find([]byte(fmt.Sprintf("%v %+v %#v", err, err, err)), secrets); found != nil {
				t.Errorf("%v", found)
			}
		}
	}
	f.Set(storetest.Hooks{})
	v, err := s.Read(t.Context(), key, "")
	if err != nil || v.Grant.RefreshToken.Reveal() != secrets[4] {
		t.Fatalf("read: %v", err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v"} {
		for _, printed := range []any{v, v.Lessor, s} {
			if found := leaktest.Find([]byte(fmt.Sprintf(verb, printed)), secrets); found != nil {
				t.Errorf("%T prints a secret: %v", printed, found)
			}
		}
	}
}
