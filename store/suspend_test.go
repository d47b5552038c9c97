package store_test

import (
	"context"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// meanwhile has something happen once, before a change of the row that says that a group is suspended.
type meanwhile struct {
	store.Shared
	group store.Group
	// deleted: before it is deleted; else before it is put.
	deleted bool
	happens func()
	once    atomic.Bool
}

func (m *meanwhile) Apply(ctx context.Context, b store.Batch) error {
	put := len(b.Puts) == 1 && b.Puts[0].Key.Kind == "suspended"
	deleted := len(b.Deletes) == 1 && b.Deletes[0].Kind == "suspended"
	if b.Group == m.group && (m.deleted && deleted || !m.deleted && put) && !m.once.Swap(true) {
		m.happens()
	}
	return m.Shared.Apply(ctx, b)
}

// TestWhatIsSuspendedIsKnownOf, in whichever order exports and a resume get on: a credential is suspended only where the store says so, and all are where an
// export can be used.
func TestWhatIsSuspendedIsKnownOf(t *testing.T) {
	resume := func(t *testing.T, s *store.Store) {
		if _, err := s.Resume(t.Context()); err != nil {
			t.Error(err)
		}
	}
	export := func(t *testing.T, s *store.Store) {
		if err := s.Export(t.Context(), io.Discard, nil); err != nil {
			t.Error(err)
		}
	}
	for name, test := range map[string]struct {
		first           func(*store.Store, *testing.T) error
		of              broker.CredentialName // empty: the store's own row
		deleted         bool
		second          func(*testing.T, *store.Store)
		fails, suspends bool
	}{
		"resumed while it is suspended":                 {first: exporting, of: "b", second: resume, fails: true},
		"resumed before all else":                       {first: exporting, of: "a", second: resume, fails: true},
		"exported while it is suspended":                {first: exporting, of: "b", second: export, fails: true, suspends: true},
		"exported and resumed while it is suspended":    {first: exporting, of: "b", second: func(t *testing.T, s *store.Store) { export(t, s); resume(t, s) }, fails: true},
		"resumed and exported while it is suspended":    {first: exporting, of: "b", second: func(t *testing.T, s *store.Store) { resume(t, s); export(t, s) }, fails: true, suspends: true},
		"exported while the first is resumed":           {first: resuming, of: "a", deleted: true, second: export},
		"exported while the last is resumed":            {first: resuming, of: "b", deleted: true, second: export},
		"exported before the note is deleted":           {first: resuming, deleted: true, second: export},
		"resumed by another before the note is deleted": {first: resuming, deleted: true, second: resume},
	} {
		t.Run(name, func(t *testing.T) {
			shared, k := storetest.NewReplicas(1)[0], newKeyring(t)
			m := &meanwhile{Shared: shared, group: "meta", deleted: test.deleted}
			s, other := newStore(t, m, k), newStore(t, shared, k)
			for _, name := range []broker.CredentialName{"a", "b"} {
				create(t, s, newCredential(name), "r")
			}
			if test.deleted {
				export(t, other)
			}
			if test.of != "" {
				m.group = s.GroupFor(test.of)
			}
			m.happens = func() { test.second(t, other) }
			if err := test.first(s, t); (err != nil) != test.fails {
				t.Errorf("got %v, want that it fails: %v", err, test.fails)
			}
			if !m.once.Load() {
				t.Fatal("nothing happened meanwhile")
			}
			if since, err := s.Suspended(t.Context()); err != nil || since.IsZero() == test.suspends {
				t.Errorf("suspended since %v, %v; want that it is: %v", since, err, test.suspends)
			}
			for _, name := range []broker.CredentialName{"a", "b"} {
				if _, err := mustRead(t, s, name).Acquire(t.Context(), time.Minute, true); (err != nil) != test.suspends {
					t.Errorf("%s: got %v, want that it is suspended: %v", name, err, test.suspends)
				}
			}
		})
	}
}

func exporting(s *store.Store, t *testing.T) error { return s.Export(t.Context(), io.Discard, nil) }

func resuming(s *store.Store, t *testing.T) error {
	_, err := s.Resume(t.Context())
	return err
}
