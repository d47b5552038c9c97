package store_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/seal"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// A cutBackend has two parts, of which one has the store's own rows. Either may be out of reach.
type cutBackend struct {
	store.Shared
	meta, rest atomic.Bool
}

func (b *cutBackend) Shard(g store.Group) string {
	if g == store.MetaGroup {
		return "meta"
	}
	return "rest"
}

func (b *cutBackend) away(g store.Group) error {
	if g == store.MetaGroup && b.meta.Load() || g != store.MetaGroup && b.rest.Load() {
		return store.Unavailable("it is out of reach")
	}
	return nil
}

func (b *cutBackend) Read(ctx context.Context, asks ...store.Ask) ([]store.Reading, error) {
	if err := b.away(asks[0].Group); err != nil {
		return nil, err
	}
	return b.Shared.Read(ctx, asks...)
}

func (b *cutBackend) Apply(ctx context.Context, batch store.Batch) error {
	if err := b.away(batch.Group); err != nil {
		return err
	}
	return b.Shared.Apply(ctx, batch)
}

// keyFiles starts a broker with a key file, on one of two replicas.
func keyFiles(t *testing.T) (s *store.Store, at *cutBackend, other *storetest.Replica, file *seal.Keyring) {
	t.Helper()
	r := storetest.NewReplicas(2)
	file, at = newKeyring(t), &cutBackend{Shared: r[0]}
	s = must[*store.Store](t)(store.New(at, file, store.Options{Name: "file"}))
	create(t, s, newCredential("main"), "r1")
	ctx, cancel := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() { s.FollowKeys(ctx) })
	t.Cleanup(func() { cancel(); following.Wait() })
	return s, at, r[1], file
}

// TestAKeyFilesBrokerThatIsCutOffSealsWithNoRetiredKey, whether it knows that its keys are wrapped or not, while it is cut off and when it is back. It looks again and again
// meanwhile, in vain.
func TestAKeyFilesBrokerThatIsCutOffSealsWithNoRetiredKey(t *testing.T) {
	retired := map[string]func(t *testing.T, other *storetest.Replica, file *seal.Keyring, cut func()){
		"it does not know that they are wrapped": func(t *testing.T, other *storetest.Replica, file *seal.Keyring, cut func()) {
			cut()
			kek := storetest.NewKEK("kek")
			wantNoError(t, "wrap", store.WrapKeyring(t.Context(), other, file, nil, kek))
			h := hold(t, other, kek, "host")
			pass(time.Minute)
			h.next(t)
		},
		"it knows that they are wrapped": func(t *testing.T, other *storetest.Replica, file *seal.Keyring, cut func()) {
			kek := storetest.NewKEK("kek")
			wantNoError(t, "wrap", store.WrapKeyring(t.Context(), other, file, nil, kek))
			h := hold(t, other, kek, "host")
			former := h.primary(t)
			must[string](t)(h.RotateKey(t.Context()))
			pass(2 * time.Minute)
			cut()
			pass(31 * time.Second) // nobody waits for it any more
			must[string](t)(h.PromoteKey(t.Context()))
			must[store.Rewrap](t)(h.Rewrap(t.Context(), 0, nil))
			pass(31 * time.Second)
			wantNoError(t, "retire", h.RetireKey(t.Context(), former))
		},
	}
	for knows, retire := range retired {
		for from, whole := range map[string]bool{"from the store": true, "from the part with the keyring": false} {
			t.Run(knows+", "+from, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s, at, other, file := keyFiles(t)
					pass(30 * time.Second)
					retire(t, other, file, func() { at.meta.Store(true); at.rest.Store(whole) })
					tries := func() (err error) {
						for i := range 20 {
							name := broker.CredentialName(fmt.Sprint("n", i))
							if err = s.CreateCredential(t.Context(), newCredential(name), nil); broker.KindOf(err) != broker.StoreUnavailable {
								t.Errorf("%s is sealed with a key that was retired: %v", name, err)
							}
							<-time.After(100 * time.Millisecond)
						}
						return err
					}
					if err := tries(); !whole && !strings.Contains(fmt.Sprint(err), "could not confirm its keys") {
						t.Errorf("while it is cut off: got %v", err)
					}
					at.meta.Store(false)
					at.rest.Store(false)
					if err := tries(); !strings.Contains(fmt.Sprint(err), "restart it with keys.kek") {
						t.Errorf("when it is back: got %v", err)
					}
				})
			})
		}
	}
}

// TestAKeyFilesBrokerThatCannotLook seals for as long as others wait for it. What its exchanges bring later is stored, at once if their lease is held, and else when it can look
// again. Then it seals as before.
func TestAKeyFilesBrokerThatCannotLook(t *testing.T) {
	for name, tt := range map[string]struct {
		wrapped bool
		seals   time.Duration
	}{"keys of a file": {false, 90 * time.Second}, "keys that are wrapped": {true, 30 * time.Second}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, at, other, file := keyFiles(t)
				if tt.wrapped {
					wantNoError(t, "wrap", store.WrapKeyring(t.Context(), other, file, nil, storetest.NewKEK("kek")))
				}
				create(t, s, newCredential("short"), "r1")
				short := keptKey
				short.Credential = "short"
				pass(60*time.Second + 100*time.Millisecond) // it has just looked
				at.meta.Store(true)
				pass(tt.seals - time.Second)
				create(t, s, newCredential("in time"), "r")
				lease := func(k broker.TokenKey, ttl time.Duration) broker.Lease {
					return must[broker.Lease](t)(must[broker.View](t)(s.Read(t.Context(), k, "")).Acquire(t.Context(), ttl, true))
				}
				held, ended := lease(keptKey, 10*time.Minute), lease(short, 10*time.Second)
				brought := broker.Outcome{RefreshToken: broker.NewSecret("r2"), Now: time.Now()}
				pass(3 * time.Minute)
				if err := s.CreateCredential(t.Context(), newCredential("too late"), nil); broker.KindOf(err) != broker.StoreUnavailable {
					t.Errorf("sealed with keys that may be retired: %v", err)
				}
				must[broker.Credential](t)(s.Credential(t.Context(), "in time"))
				must[broker.Committed](t)(held.Commit(t.Context(), brought))
				if _, err := ended.Commit(t.Context(), brought); broker.KindOf(err) != broker.StoreUnavailable {
					t.Errorf("the commit of a lease that has ended: %v", err)
				}
				at.meta.Store(false)
				pass(2 * time.Second)
				must[broker.Committed](t)(ended.Commit(t.Context(), brought))
				for _, k := range []broker.TokenKey{keptKey, short} {
					if got := must[broker.View](t)(s.Read(t.Context(), k, "")).Grant.RefreshToken.Reveal(); got != "r2" {
						t.Errorf("%s: there is %q", k.Credential, got)
					}
				}
				create(t, s, newCredential("again"), "r")
			})
		})
	}
}
