package store_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// A forgetfulBackend does not list the credential "lost" before Relist.
type forgetfulBackend struct {
	store.Shared
	forgot atomic.Bool
	// again is how many times it forgets it anew once it was listed again, and others that it is not this Relist that lists it, but another broker's just before.
	again  atomic.Int32
	others atomic.Bool
	// refuses: nobody may look for what is lost.
	refuses atomic.Bool
}

func (b *forgetfulBackend) Scan(ctx context.Context, key store.Key, after store.Listing, limit int) ([]store.Listed, error) {
	page, err := b.Shared.Scan(ctx, key, after, limit)
	if b.forgot.Load() {
		page = slices.DeleteFunc(page, func(l store.Listed) bool { return l.Name == "lost" })
	}
	return page, err
}

func (b *forgetfulBackend) Relist(ctx context.Context) (int, error) {
	if b.refuses.Load() {
		return 0, store.Unavailable("nobody may look")
	}
	if !b.forgot.Swap(b.again.Add(-1) >= 0) || b.others.Load() {
		return b.Shared.Relist(ctx)
	}
	return 1, nil
}

// loses has it forget the credential now, and so many times again.
func (b *forgetfulBackend) loses(again int32) {
	b.again.Store(again)
	b.forgot.Store(true)
}

// following is a store whose keys are wrapped, and followed until the test ends.
func following(t *testing.T, b store.Backend, log slog.Handler) (*store.Store, context.Context) {
	t.Helper()
	s := must[*store.Store](t)(store.New(b, nil, store.Options{KEK: storetest.NewKEK("kek"), Name: "host", Log: slog.New(log)}))
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() { s.FollowKeys(ctx) })
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
	return s, ctx
}

// anotherKey has another key seal, and returns the former one's id.
func anotherKey(t *testing.T, s *store.Store) string {
	t.Helper()
	pass(time.Minute)
	former := must[store.Keys](t)(s.Keys(t.Context())).Keys[0].ID
	must[string](t)(s.RotateKey(t.Context()))
	pass(2 * time.Minute)
	must[string](t)(s.PromoteKey(t.Context()))
	pass(time.Minute)
	return former
}

// TestWhatIsAboutAllCredentialsIsAboutThoseThatTheIndexLost: they are exported, suspended and resumed, sealed anew, and keep their key from being retired.
func TestWhatIsAboutAllCredentialsIsAboutThoseThatTheIndexLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &forgetfulBackend{Shared: storetest.NewReplicas(1)[0]}
		var log bytes.Buffer
		s, ctx := following(t, b, slog.NewTextHandler(&log, nil))
		create(t, s, newCredential("kept"), "r1")
		create(t, s, newCredential("lost"), "r2")
		first := anotherKey(t, s)

		b.loses(0)
		wantRefused(t, "retire", s.RetireKey(ctx, first), "record")
		b.loses(0)
		rewrapped := must[store.Rewrap](t)(s.Rewrap(ctx, 0, nil))
		if rewrapped.Rows < 4 || rewrapped.Unreadable > 0 {
			t.Errorf("got %+v, want the rows of two credentials", rewrapped)
		}
		pass(time.Minute)
		b.loses(0)
		wantNoError(t, "retire", s.RetireKey(ctx, first))
		if _, err := s.Credential(ctx, "lost"); err != nil {
			t.Errorf("the credential that the index lost: %v", err)
		}

		b.loses(0)
		var out bytes.Buffer
		wantNoError(t, "export", s.Export(ctx, &out, nil))
		if n := strings.Count(out.String(), "\n"); n != 4 { // header, two credentials, end
			t.Errorf("the export has %d lines", n)
		}
		b.loses(0)
		if resumed := must[bool](t)(s.Resume(ctx)); !resumed {
			t.Error("nothing was resumed")
		}
		v := must[broker.View](t)(s.Read(ctx, broker.TokenKey{Credential: "lost", Token: [32]byte{1}, Selection: [32]byte{2}, Digest: "d", Spends: true}, ""))
		if _, err := v.Acquire(ctx, time.Minute, false); err != nil {
			t.Errorf("an exchange of the credential that the index lost, after the export was resumed: %v", err)
		}
		if !strings.Contains(log.String(), "listed again") {
			t.Errorf("nobody is told: %s", log.String())
		}
	})
}

// TestWhatTheIndexLosesMeanwhile: an entry goes while all credentials are gone over, and another broker may be the one that lists it again.
func TestWhatTheIndexLosesMeanwhile(t *testing.T) {
	for name, lose := range map[string]func(*forgetfulBackend){
		"and again, once it is listed again":     func(b *forgetfulBackend) { b.loses(1) },
		"and another broker has listed it again": func(b *forgetfulBackend) { b.others.Store(true); b.loses(0) },
	} {
		t.Run(name, func(t *testing.T) {
			b, k := &forgetfulBackend{Shared: storetest.NewReplicas(1)[0]}, newKeyring(t)
			s := newStore(t, b, k)
			for _, name := range []broker.CredentialName{"kept", "lost", "other"} {
				create(t, s, newCredential(name), "r")
			}
			lose(b)
			var out bytes.Buffer
			wantNoError(t, "export", s.Export(t.Context(), &out, func(done, _ int) {
				if done == 0 {
					b.loses(0) // while leases are waited for
				}
			}))
			if e := must[*store.Exported](t)(store.ReadExport(bytes.NewReader(out.Bytes()), k)); e.Credentials != 3 {
				t.Errorf("%d credentials are exported, want 3", e.Credentials)
			}

			b.loses(0)
			must[int](t)(b.Relist(t.Context()))
			wantNoError(t, "export", s.Export(t.Context(), io.Discard, nil)) // of all, in any case
			lose(b)
			if resumed := must[bool](t)(s.Resume(t.Context())); !resumed {
				t.Error("nothing was resumed")
			}
			for _, name := range []broker.CredentialName{"kept", "lost", "other"} {
				if _, err := mustRead(t, s, name).Acquire(t.Context(), time.Minute, true); err != nil {
					t.Errorf("an exchange of %s after the store was resumed: %v", name, err)
				}
			}
		})
	}
}

// TestAKeyIsNeededByWhatTheIndexLosesMeanwhile: it is neither retired nor destroyed.
func TestAKeyIsNeededByWhatTheIndexLosesMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &forgetfulBackend{Shared: storetest.NewReplicas(1)[0]}
		s, ctx := following(t, b, slog.DiscardHandler)
		create(t, s, newCredential("lost"), "r")
		lost := must[[]store.Reading](t)(b.Shared.List(ctx, []store.Group{s.GroupFor("lost")}, "grant"))[0].Rows[0]
		first := anotherKey(t, s)
		must[store.Rewrap](t)(s.Rewrap(ctx, 0, nil))
		pass(time.Minute)

		// One row is as it was, which nobody but this credential needs the key for.
		formerly := store.Batch{Group: s.GroupFor("lost"), Puts: []store.Put{{Key: lost.Key, Revision: store.Revision{1}, Value: lost.Value}}}
		sealedAnew := must[[]store.Reading](t)(b.Shared.List(ctx, []store.Group{s.GroupFor("lost")}, "grant"))[0].Rows[0]
		wantNoError(t, "put", b.Shared.Apply(ctx, formerly))
		b.loses(1)
		wantRefused(t, "retire", s.RetireKey(ctx, first), "credential lost")
		wantNoError(t, "put", b.Shared.Apply(ctx, store.Batch{Group: s.GroupFor("lost"), Puts: []store.Put{{Key: lost.Key, Revision: store.Revision{2}, Value: sealedAnew.Value}}}))
		wantNoError(t, "retire", s.RetireKey(ctx, first))
		pass(8 * 24 * time.Hour)
		formerly.Puts[0].Revision = store.Revision{3}
		wantNoError(t, "put", b.Shared.Apply(ctx, formerly))
		b.loses(1)
		wantRefused(t, "destroy", s.DestroyKey(ctx, first), "credential lost")
	})
}

// TestARewrapSealsAnewWhatTheIndexLosesMeanwhile: it is not done before, whoever lists it again.
func TestARewrapSealsAnewWhatTheIndexLosesMeanwhile(t *testing.T) {
	for name, lose := range map[string]func(*forgetfulBackend){
		"and again, once it is listed again":     func(b *forgetfulBackend) { b.loses(2) },
		"and another broker has listed it again": func(b *forgetfulBackend) { b.others.Store(true); b.loses(0) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &forgetfulBackend{Shared: storetest.NewReplicas(1)[0]}
				s, ctx := following(t, b, slog.DiscardHandler)
				create(t, s, newCredential("lost"), "r")
				group := s.GroupFor("lost")
				lost := must[[]store.Reading](t)(b.List(ctx, []store.Group{group}, "grant"))[0].Rows[0]
				first := anotherKey(t, s)
				must[store.Rewrap](t)(s.Rewrap(ctx, 0, nil))
				// One row is as it was, so that a pass which misses it finds nothing.
				wantNoError(t, "put", b.Apply(ctx, store.Batch{Group: group, Puts: []store.Put{{Key: lost.Key, Revision: store.Revision{1}, Value: lost.Value}}}))
				lose(b)
				if r := must[store.Rewrap](t)(s.Rewrap(ctx, 0, nil)); r.Rows != 1 {
					t.Errorf("got %+v, want the one row", r)
				}
				pass(time.Minute)
				wantNoError(t, "retire", s.RetireKey(ctx, first))
				if _, err := s.Credential(ctx, "lost"); err != nil {
					t.Errorf("after its key was retired: %v", err)
				}
			})
		})
	}
}

// TestWhereNobodyMayLookForWhatIsLost: nothing is suspended for an export that cannot be made, and what a former one has suspended is resumed as far as it is listed.
func TestWhereNobodyMayLookForWhatIsLost(t *testing.T) {
	b := &forgetfulBackend{Shared: storetest.NewReplicas(1)[0]}
	s := newStore(t, b, newKeyring(t))
	create(t, s, newCredential("a"), "r")
	wantUnsure := func(what string, err error, says string) {
		t.Helper()
		if broker.KindOf(err) != broker.StoreUnavailable || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "nobody may look") {
			t.Errorf("%s: got %v, want %q and why", what, err, says)
		}
	}
	since := func() time.Time { return must[time.Time](t)(s.Suspended(t.Context())) }
	b.refuses.Store(true)
	wantUnsure("export", s.Export(t.Context(), io.Discard, nil), "credentials that the list of all lacks")
	if !since().IsZero() {
		t.Error("the store is suspended, and there is no export")
	}

	b.refuses.Store(false)
	wantNoError(t, "export", s.Export(t.Context(), io.Discard, nil))
	b.refuses.Store(true)
	resumed, err := s.Resume(t.Context())
	wantUnsure("resume", err, "others may still be suspended")
	if !resumed {
		t.Error("nothing was resumed")
	}
	if _, err := mustRead(t, s, "a").Acquire(t.Context(), time.Minute, true); err != nil {
		t.Errorf("an exchange of what is listed: %v", err)
	}
	if since().IsZero() {
		t.Error("the note is gone, and it is not known whether all are resumed")
	}
	b.refuses.Store(false)
	wantNoError(t, "resume", func() error { _, err := s.Resume(t.Context()); return err }())
	if !since().IsZero() {
		t.Error("all are resumed, and the note is there")
	}
}
