package store_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/seal"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

func newKeyring(t testing.TB) *seal.Keyring {
	t.Helper()
	k, err := seal.New()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newStore(t testing.TB, b store.Backend, k *seal.Keyring) *store.Store {
	t.Helper()
	s, err := store.New(b, k, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newCredential(name broker.CredentialName) broker.Credential {
	return broker.Credential{
		Name: name, Provider: "p", Incarnation: broker.NewID(), Version: broker.NewID(), Epoch: broker.NewID(), Etag: broker.NewID(),
		Secrets: map[string]broker.SecretInput{"client_secret": {Value: broker.NewSecret("the secret of " + string(name))}},
	}
}

func create(t testing.TB, s *store.Store, c broker.Credential, refreshToken string) {
	t.Helper()
	if err := s.CreateCredential(t.Context(), c, &broker.Grant{RefreshToken: broker.NewSecret(refreshToken)}); err != nil {
		t.Fatal(err)
	}
}

func wantUnreadable(t testing.TB, what string, err error, says ...string) {
	t.Helper()
	if !errors.Is(err, broker.RecordUnreadable) {
		t.Errorf("%s: got %v, want a failure that is RecordUnreadable", what, err)
		return
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%s: got %q, want it to say %q", what, err, s)
		}
	}
}

func TestStartWithAnotherKey(t *testing.T) {
	m, k := storetest.NewMemory(), newKeyring(t)
	create(t, newStore(t, m, k), newCredential("a"), "r1")
	newStore(t, m, k) // a second replica, or a restart
	other := newKeyring(t)
	_, err := store.New(m, other, store.Options{})
	wantUnreadable(t, "another key", err, k.ID(), other.ID())

	// The check is gone, and the credential still tells.
	m2 := storetest.NewMemory()
	create(t, newStore(t, m2, k), newCredential("a"), "r1")
	deleteCheck(t, m2)
	_, err = store.New(m2, other, store.Options{})
	wantUnreadable(t, "another key, without a check", err, k.ID())
	newStore(t, m2, k)
}

func deleteCheck(t *testing.T, b store.Backend) {
	t.Helper()
	if err := b.Apply(t.Context(), store.Batch{Group: store.MetaGroup, Deletes: []store.Key{store.CheckKey}}); err != nil {
		t.Fatal(err)
	}
}

func TestStartWithAnotherFingerprintKey(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	k, err := seal.Create(a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.Create(b); err != nil {
		t.Fatal(err)
	}
	mixed := filepath.Join(dir, "mixed")
	mixFiles(t, a, b, mixed)
	half, err := seal.Load(mixed)
	if err != nil || half.ID() != k.ID() {
		t.Fatalf("load: %v, %v", half, err)
	}
	m := storetest.NewMemory()
	newStore(t, m, k)
	_, err = store.New(m, half, store.Options{})
	wantUnreadable(t, "another fingerprint key", err, "fingerprint key", mixed)
}

func TestDataOfANewerBroker(t *testing.T) {
	m, k := storetest.NewMemory(), newKeyring(t)
	newStore(t, m, k)
	var check map[string]any
	if err := json.Unmarshal(rowOf(t, m, store.MetaGroup, store.CheckKey).Value, &check); err != nil {
		t.Fatal(err)
	}
	check["schema"] = 2
	newer, err := json.Marshal(check)
	if err != nil {
		t.Fatal(err)
	}
	for says, value := range map[string][]byte{"schema 2": newer, "damaged": []byte("{"), "the record of their keys": []byte("{}")} {
		put := store.Put{Key: store.CheckKey, Revision: store.Revision(broker.NewID()), Value: value}
		if err := m.Apply(t.Context(), store.Batch{Group: store.MetaGroup, Puts: []store.Put{put}}); err != nil {
			t.Fatal(err)
		}
		_, err = store.New(m, k, store.Options{})
		wantUnreadable(t, says, err, says)
	}
}

func TestLoadKeyring(t *testing.T) {
	ctx, m, path := t.Context(), storetest.NewMemory(), filepath.Join(t.TempDir(), "key")
	k, err := store.LoadKeyring(ctx, m, path)
	if err != nil {
		t.Fatalf("the first start: %v", err)
	}
	again, err := store.LoadKeyring(ctx, m, path)
	if err != nil || again.ID() != k.ID() {
		t.Errorf("the second start: %v, %v", again, err)
	}
	s := newStore(t, m, k)
	_, err = store.LoadKeyring(ctx, m, path+".lost")
	wantUnreadable(t, "a lost key file", err, k.ID(), path+".lost", "restore")
	create(t, s, newCredential("a"), "r")
	deleteCheck(t, m)
	_, err = store.LoadKeyring(ctx, m, path+".lost")
	wantUnreadable(t, "a lost key file and check", err, path+".lost")
	if _, err := seal.Load(path + ".lost"); err == nil {
		t.Error("a key file was created for data of other keys")
	}
	away := storetest.NewFaults(m)
	away.Away()
	if _, err := store.LoadKeyring(ctx, away, path+".lost"); !errors.Is(err, broker.StoreUnavailable) {
		t.Errorf("a lost key file while the database is away: got %v", err)
	}
	if _, err := store.New(away, k, store.Options{}); !errors.Is(err, broker.StoreUnavailable) {
		t.Errorf("new while the database is away: got %v", err)
	}
}

// mixFiles writes a key file with the sealing keys of a and the fingerprint key of b.
func mixFiles(t *testing.T, a, b, to string) {
	t.Helper()
	files := make([]map[string]json.RawMessage, 2)
	for i, p := range []string{a, b} {
		if err := json.Unmarshal(readFile(t, p), &files[i]); err != nil {
			t.Fatal(err)
		}
	}
	files[0]["fingerprints"] = files[1]["fingerprints"]
	data, err := json.Marshal(files[0])
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, to, data)
}

// copyRow puts what is in one place into another.
func copyRow(t *testing.T, b store.Backend, from store.Group, fromKey store.Key, to store.Group, toKey store.Key) {
	t.Helper()
	put := store.Put{Key: toKey, Revision: store.Revision(broker.NewID()), Value: bytes.Clone(rowOf(t, b, from, fromKey).Value)}
	if err := b.Apply(context.Background(), store.Batch{Group: to, Puts: []store.Put{put}}); err != nil {
		t.Fatal(err)
	}
}
