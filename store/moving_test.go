package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/leaktest"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/seal"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// exportOf exports a store of these credentials.
func exportOf(t testing.TB, k *seal.Keyring, names ...broker.CredentialName) string {
	t.Helper()
	s := newStore(t, storetest.NewMemory(), k)
	for _, n := range names {
		create(t, s, newCredential(n), "refresh token of "+string(n))
	}
	var out bytes.Buffer
	if err := s.Export(t.Context(), &out, nil); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func wantBadExport(t testing.TB, what, export string, k *seal.Keyring) {
	t.Helper()
	var bad *store.BadExport
	if _, err := store.ReadExport(strings.NewReader(export), k); !errors.As(err, &bad) {
		t.Errorf("%s: got %v, want a bad export", what, err)
	}
}

// TestReadExportNotAsWritten: whatever byte is missing or another one, it is found out before anything is imported.
func TestReadExportNotAsWritten(t *testing.T) {
	k := newKeyring(t)
	export := exportOf(t, k, "a", "b", "c")
	if e, err := store.ReadExport(strings.NewReader(export), k); err != nil || e.Credentials != 3 || time.Since(e.Time).Abs() > time.Minute {
		t.Fatalf("got %+v, %v, want three credentials", e, err)
	}
	for n := range len(export) {
		wantBadExport(t, fmt.Sprint("cut off after ", n, " bytes"), export[:n], k)
		if n%7 != 0 {
			continue
		}
		for _, other := range []string{"", "x", "0", "\n", string([]byte{export[n] ^ 1})} {
			if altered := export[:n] + other + export[n+1:]; altered != export {
				wantBadExport(t, fmt.Sprintf("%q at %d", other, n), altered, k)
			}
		}
	}
	lines := strings.SplitAfter(export, "\n")
	wantBadExport(t, "a line is missing", lines[0]+strings.Join(lines[2:], ""), k)
	wantBadExport(t, "a line twice", lines[0]+lines[1]+strings.Join(lines[1:], ""), k)
	wantBadExport(t, "lines in another order", lines[0]+lines[2]+lines[1]+strings.Join(lines[3:], ""), k)
	wantBadExport(t, "more", export+"\n", k)
	wantBadExport(t, "twice", export+export, k)
	wantBadExport(t, "of another one", lines[0]+lines[1]+strings.SplitAfter(exportOf(t, k, "b"), "\n")[1]+strings.Join(lines[3:], ""), k)
	wantBadExport(t, "newer", strings.Replace(export, `"version":1`, `"version":2`, 1), k)
}

// TestReadExportOfOtherKeys: the keys are named, and the target is not asked.
func TestReadExportOfOtherKeys(t *testing.T) {
	k, other := newKeyring(t), newKeyring(t)
	_, err := store.ReadExport(strings.NewReader(exportOf(t, k, "a")), other)
	wantUnreadable(t, "another key", err, k.IDs()[0], other.IDs()[0], "give the key file that belongs to them")
}

// TestImportOfAnotherFile: the file is read twice, and must be the same each time.
func TestImportOfAnotherFile(t *testing.T) {
	k := newKeyring(t)
	f := &changingFile{texts: []string{exportOf(t, k, "a"), exportOf(t, k, "b")}}
	e, err := store.ReadExport(f, k)
	if err != nil {
		t.Fatal(err)
	}
	var bad *store.BadExport
	if got, err := newStore(t, storetest.NewMemory(), k).Import(t.Context(), e, nil); !errors.As(err, &bad) || got.Made != 0 {
		t.Errorf("got %+v, %v, want a bad export and nothing imported", got, err)
	}
}

// A changingFile has another text whenever it is read again.
type changingFile struct {
	texts []string
	io.Reader
}

func (f *changingFile) Seek(int64, int) (int64, error) {
	f.Reader, f.texts = strings.NewReader(f.texts[0]), f.texts[1:]
	return 0, nil
}

func TestImportFromTheFuture(t *testing.T) {
	k := newKeyring(t)
	e, err := store.ReadExport(strings.NewReader(exportOf(t, k, "a")), k)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	behind := broker.NewClock(func() (time.Time, time.Duration) { return time.Now().Add(-time.Hour), time.Since(began) })
	s, err := store.New(storetest.NewMemory(), k, store.Options{Clock: behind})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Import(t.Context(), e, nil); err == nil || got.Made != 0 || !strings.Contains(err.Error(), "set the clock") {
		t.Errorf("got %+v, %v, want a refusal", got, err)
	}
}

// TestExportResumedMeanwhile: what was copied may have been spent since.
func TestExportResumedMeanwhile(t *testing.T) {
	s := newStore(t, storetest.NewMemory(), newKeyring(t))
	create(t, s, newCredential("a"), "r")
	var out bytes.Buffer
	err := s.Export(t.Context(), &out, func(done, _ int) {
		if done == 1 {
			if _, err := s.Resume(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
	if err == nil || !strings.Contains(err.Error(), "was resumed") {
		t.Errorf("got %v, want that it was resumed", err)
	}
	wantBadExport(t, "what was written until then", out.String(), newKeyring(t))
}

// TestExportUnconfirmed: a suspension that a failover may undo is none. A credential that was imported, and may be lost, is
// counted.
func TestExportUnconfirmed(t *testing.T) {
	k := newKeyring(t)
	export := exportOf(t, k, "a")
	f := storetest.NewFaults(storetest.NewMemory())
	s := newStore(t, f, k)
	create(t, s, newCredential("b"), "r")
	unconfirmed := func(_ context.Context, b store.Batch) error {
		if !b.Keep {
			return nil
		}
		return store.ErrUnconfirmed
	}
	f.Set(storetest.Hooks{AfterApply: unconfirmed})
	if err := s.Export(t.Context(), io.Discard, nil); !errors.Is(err, broker.StoreUnavailable) || !strings.Contains(err.Error(), "too few replicas") {
		t.Errorf("the store's: got %v, want that too few replicas confirm", err)
	}
	f.Set(storetest.Hooks{AfterApply: func(ctx context.Context, b store.Batch) error {
		if b.Group == store.MetaGroup {
			return nil
		}
		return unconfirmed(ctx, b)
	}})
	if err := s.Export(t.Context(), io.Discard, nil); !errors.Is(err, broker.StoreUnavailable) || !strings.Contains(err.Error(), "too few replicas") {
		t.Errorf("a credential's: got %v, want that too few replicas confirm", err)
	}
	if was, err := s.Resume(t.Context()); err != nil || !was {
		t.Errorf("resume: got %v, %v", was, err)
	}
	e, err := store.ReadExport(strings.NewReader(export), k)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Import(t.Context(), e, nil); err != nil || got.Made != 1 || got.Unconfirmed != 1 {
		t.Errorf("import: got %+v, %v, want one that is made and not confirmed", got, err)
	}
}

// TestExportOfDamage: a credential that nobody can read stops the export, which names it.
func TestExportOfDamage(t *testing.T) {
	m, k := storetest.NewMemory(), newKeyring(t)
	s := newStore(t, m, k)
	for _, n := range []broker.CredentialName{"a", "b"} {
		create(t, s, newCredential(n), "r")
	}
	err := m.Apply(t.Context(), store.Batch{Group: s.GroupFor("b"), Puts: []store.Put{{Key: store.CredentialKey, Revision: store.Revision{1}, Value: []byte("x")}}})
	if err != nil {
		t.Fatal(err)
	}
	wantUnreadable(t, "export", s.Export(t.Context(), io.Discard, nil), "credential b:")
	if was, err := s.Resume(t.Context()); err != nil || !was {
		t.Errorf("resume: got %v, %v", was, err)
	}
	l, err := mustRead(t, s, "a").Acquire(t.Context(), time.Second, true)
	if err != nil || l == nil {
		t.Errorf("acquire after resume: %v", err)
	}
}

func mustRead(t testing.TB, s *store.Store, name broker.CredentialName) broker.View {
	t.Helper()
	v, err := s.Read(t.Context(), broker.TokenKey{Credential: name, Token: [32]byte{1}, Spends: true}, "")
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestNothingLeaksIntoExports plants secrets in every record that can hold one.
func TestNothingLeaksIntoExports(t *testing.T) {
	var planted []string
	plant := func(what string) broker.Secret {
		planted = append(planted, fmt.Sprintf("planted %s no. %d: /+&=%%\"é", what, len(planted)))
		return broker.NewSecret(planted[len(planted)-1])
	}
	s := newStore(t, storetest.NewMemory(), newKeyring(t))
	for _, name := range []broker.CredentialName{"a", "b"} {
		c := newCredential(name)
		c.Secrets = map[string]broker.SecretInput{"client_secret": {Value: plant("secret"), Former: plant("former")}}
		create(t, s, c, plant("seed").Reveal())
		for range 2 {
			l, err := mustRead(t, s, name).Acquire(t.Context(), time.Minute, true)
			if err != nil {
				t.Fatal(err)
			}
			_, err = l.Commit(t.Context(), broker.Outcome{
				Token: &broker.Issued{
					ID: "t", Values: map[string]broker.Secret{"token": plant("access token")}, Headers: []broker.Field{{Name: "X", Value: plant("header")}},
					Audience: plant("audience").Reveal(),
					ExpireAt: time.Now().Add(time.Hour),
				},
				RefreshToken: plant("refresh token"), Held: map[string]broker.HeldValue{"h": {Value: plant("held")}}, Now: time.Now(),
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	var out bytes.Buffer
	if err := s.Export(t.Context(), &out, nil); err != nil {
		t.Fatal(err)
	}
	if found := leaktest.Find(out.Bytes(), planted); found != nil || strings.Count(out.String(), `"kind":"token"`) != 2 {
		t.Errorf("the export has %v", found)
	}
}

// FuzzReadExport: no file does harm, nor what is said of it.
func FuzzReadExport(f *testing.F) {
	k, err := seal.New()
	if err != nil {
		f.Fatal(err)
	}
	export := exportOf(f, k, "a", "b")
	f.Add(export)
	f.Add(export[:len(export)/2])
	f.Add("{}\n{}\n")
	f.Fuzz(func(t *testing.T, text string) {
		e, err := store.ReadExport(strings.NewReader(text), k)
		var bad *store.BadExport
		if err != nil && !errors.As(err, &bad) && !errors.Is(err, broker.RecordUnreadable) {
			t.Fatalf("got %v", err)
		}
		if err == nil && e.Credentials < 0 {
			t.Fatal("no export")
		}
	})
}

// TestAnExportHasTheSuccessorOfWhatWasOnItsWay: an answer is waited for ten seconds beyond the exchange's deadline, its lease outlives that by two; what was on its way when the store is exported is
// committed there, and the copy has what it spent.
func TestAnExportHasTheSuccessorOfWhatWasOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys, _ := seal.New()
		s := newShared(t, keys, storetest.NewReplicas(1)[0], 0)
		s.create()
		l := s.acquire() // for a minute
		answered := make(chan struct{})
		go func() {
			<-time.After(64 * time.Second) // the broker waits for the answer until 68 s
			s.commit(l, 1, time.Now())
			close(answered)
		}()
		var out bytes.Buffer
		if err := s.Export(t.Context(), &out, nil); err != nil {
			t.Fatal(err)
		}
		<-answered
		s.want("refresh-1", "access-1") // the old store has the successor
		e, err := store.ReadExport(bytes.NewReader(out.Bytes()), keys)
		if err != nil {
			t.Fatal(err)
		}
		to := newShared(t, keys, storetest.NewReplicas(1)[0], 0)
		if _, err := to.Import(t.Context(), e, nil); err != nil {
			t.Fatal(err)
		}
		v, err := to.Read(t.Context(), keptKey, "")
		if err != nil {
			t.Fatal(err)
		}
		if got := v.Grant.RefreshToken.Reveal(); got != "refresh-1" {
			t.Errorf("the copy has %s, marked %v, and the vendor has taken it", got, !v.Grant.Marker.IsZero())
		}
	})
}

// TestAnExportThatWaitsSuspendsNothingAgain: somebody resumes while it waits for an answer that will not come.
func TestAnExportThatWaitsSuspendsNothingAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys, _ := seal.New()
		s := newShared(t, keys, storetest.NewReplicas(1)[0], 0)
		s.create()
		_ = s.acquire() // for a minute, and its holder is killed
		failed := make(chan error, 1)
		go func() { failed <- s.Export(t.Context(), io.Discard, nil) }()
		<-time.After(65 * time.Second)
		if resumed, err := s.Resume(t.Context()); !resumed || err != nil {
			t.Fatal(resumed, err)
		}
		if err := <-failed; err == nil {
			t.Error("it has succeeded")
		}
		v, err := s.Read(t.Context(), keptKey, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Acquire(t.Context(), time.Minute, true); err != nil {
			t.Errorf("after the resume: %v", err)
		}
	})
}
