package storetest

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// runKeys runs what is done with keys that a KEK wraps.
func runKeys(t *testing.T, c Config) {
	for name, test := range map[string]func(*testing.T, Config, *wrappedBench){
		"a rewrap changes nothing but the key":   testRewrap,
		"a rewrap between Acquire and Commit":    testRewrapBetween,
		"a commit between reading and sealing":   testCommitWithinRewrap,
		"retired between Acquire and Commit":     testRetiredBetween,
		"a rewrap that ends goes on elsewhere":   testRewrapGoesOn,
		"a rewrap leaves what cannot be read":    testRewrapUnreadable,
		"what needs a key keeps it":              testNeeded,
		"a backoff under a retired key is none":  testBackoffRetired,
		"who is quicker at the start":            testFirstStarts,
		"a rewrap beside commits":                testRewrapBeside,
		"a key file's store is not begun anew":   testKeyFileThere,
		"the keys are wrapped by another KEK":    testRewrapped,
		"an export brings its keys":              testExportedKeys,
		"a keyring that is gone or older is put": testPutBack,
	} {
		c.run(t, "keys/"+name, func(t *testing.T, c Config, b store.Backend) { test(t, c, newWrappedBench(t, b)) })
	}
}

// A wrappedBench is a bench whose keys are wrapped.
type wrappedBench struct {
	*bench
	backend store.Backend
	kek     *KEK
}

func newWrappedBench(t *testing.T, b store.Backend) *wrappedBench {
	t.Helper()
	return wrappedOn(t, b, NewKEK("kek"))
}

func wrappedOn(t *testing.T, b store.Backend, kek *KEK) *wrappedBench {
	t.Helper()
	f := NewFaults(b)
	s, err := store.New(f.Whole(), nil, store.Options{MaxTokens: 20, KEK: kek, Name: "host", RewrapSettles: -1})
	if err != nil {
		t.Fatalf("new: %v", err)
	}
	ended, end := context.WithCancel(ctx)
	var following sync.WaitGroup
	following.Go(func() { s.FollowKeys(ended) })
	t.Cleanup(func() {
		end()
		following.Wait()
	})
	return &wrappedBench{&bench{Store: s, t: t, faults: f}, b, kek}
}

// keyringKey is where the keyring lies.
var (
	metaGroup  store.Group = "meta"
	keyringKey             = store.Key{Kind: "keyring"}
	checkKey               = store.Key{Kind: "check"}
)

// stored is the keyring as it is stored.
func (b *wrappedBench) stored() (*seal.Keyring, store.Revision) {
	b.t.Helper()
	row := one(b.t, b.backend, metaGroup, keyringKey)
	w, err := seal.ParseWrapped(row.Value)
	if err != nil {
		b.t.Fatal(err)
	}
	k, err := w.Unwrap(ctx, b.kek)
	if err != nil {
		b.t.Fatal(err)
	}
	return k, row.Revision
}

// replace stores what change makes of the keyring, as another broker would whose clock the test does not wait for, and has this one notice.
func (b *wrappedBench) replace(change func(*seal.Keyring) (*seal.Keyring, error)) {
	b.t.Helper()
	k, was := b.stored()
	next, err := change(k)
	if err != nil {
		b.t.Fatal(err)
	}
	value, err := next.Wrap(ctx, b.kek)
	if err != nil {
		b.t.Fatal(err)
	}
	p := store.Put{Key: keyringKey, Revision: revision(), Value: value}
	apply(b.t, b.backend, store.Batch{Group: metaGroup, Conditions: []store.Condition{{Key: keyringKey, Revision: was}}, Puts: []store.Put{p}})
	b.notice()
}

func (b *wrappedBench) notice() {
	b.t.Helper()
	if _, err := b.Store.Keys(ctx); err != nil {
		b.t.Fatalf("keys: %v", err)
	}
}

// another key seals from an hour ago on; that of before is returned.
func (b *wrappedBench) promoted() (former string) {
	b.t.Helper()
	b.replace(func(k *seal.Keyring) (*seal.Keyring, error) {
		former = k.ID()
		next, id, err := k.Rotated(now().Add(-2 * time.Hour))
		if err != nil {
			return nil, err
		}
		return next.Promoted(id, now().Add(-time.Hour))
	})
	return former
}

func (b *wrappedBench) rewrapped() store.Rewrap {
	b.t.Helper()
	r, err := b.Rewrap(ctx, 0, nil)
	if err != nil || !r.Done {
		b.t.Fatalf("rewrap: got %+v, %v", r, err)
	}
	return r
}

// refuses wants a refusal that says this.
func (b *wrappedBench) refuses(what string, err error, says string) {
	b.t.Helper()
	var r *store.Refused
	if !errors.As(err, &r) || !strings.Contains(r.Why, says) {
		b.t.Errorf("%s: got %v, want a refusal that says %q", what, err, says)
	}
}

// A sealedRow is a row of a credential, wherever it is.
type sealedRow struct {
	kind     store.Kind
	revision store.Revision
	left     time.Duration
}

// sealedRows are the rows of these groups, by the key that they are sealed with.
func (b *wrappedBench) sealedRows(kinds []store.Kind, names ...broker.CredentialName) map[string][]sealedRow {
	b.t.Helper()
	out := map[string][]sealedRow{}
	for _, name := range names {
		rows, err := listOf(ctx, b.backend, b.GroupOf(name), kinds...)
		if err != nil {
			b.t.Fatal(err)
		}
		for _, r := range rows {
			with := seal.SealedWith(r.Value)
			out[with] = append(out[with], sealedRow{r.Key.Kind, r.Revision, r.Left})
		}
	}
	return out
}

// testNeeded: nothing is retired or destroyed that somebody needs.
func testNeeded(t *testing.T, _ Config, b *wrappedBench) {
	b.created("a", "r1")
	before := one(t, b.backend, b.GroupOf("a"), store.Key{Kind: "grant"})
	b.refuses("retire the primary", b.RetireKey(ctx, mustID(b)), "promote another")
	former := b.promoted()
	b.refuses("retire what seals the check", b.RetireKey(ctx, former), "the store's check record")
	b.refuses("retire what there is not", b.RetireKey(ctx, "00000000"), "no such key")
	b.refuses("retire what is no id", b.RetireKey(ctx, "nonsense, or a secret"), "no key's id")
	b.rewrapped()
	b.committed(b.acquired(spending("a", 1), true), broker.Outcome{RefreshToken: broker.NewSecret("r2"), Token: issued("t")})
	// One row has the former key again, as a commit that was on its way would leave it.
	group, key := b.GroupOf("a"), store.Key{Kind: "grant"}
	is := one(t, b.backend, group, key)
	apply(t, b.backend, store.Batch{Group: group, Puts: []store.Put{{Key: key, Revision: revision(), Value: before.Value}}})
	b.refuses("retire what seals a grant", b.RetireKey(ctx, former), "the grant record of credential a")
	apply(t, b.backend, store.Batch{Group: group, Puts: []store.Put{{Key: key, Revision: revision(), Value: is.Value}}})
	b.want("retire", b.RetireKey(ctx, former), nil)
	b.refuses("retire twice", b.RetireKey(ctx, former), "already")
	b.refuses("destroy at once", b.DestroyKey(ctx, former), "can be destroyed from")
	b.want("restore", b.RestoreKey(ctx, former), nil)
	b.refuses("restore twice", b.RestoreKey(ctx, former), "not retired")
	b.refuses("destroy what is not retired", b.DestroyKey(ctx, former), "retire it first")
	b.want("retire again", b.RetireKey(ctx, former), nil)
	b.replace(func(k *seal.Keyring) (*seal.Keyring, error) {
		next, err := k.Restored(former)
		if err != nil {
			return nil, err
		}
		return next.Retired(former, now().Add(-8*24*time.Hour))
	})
	put := func(row store.Row) {
		apply(t, b.backend, store.Batch{Group: group, Puts: []store.Put{{Key: key, Revision: revision(), Value: row.Value}}})
	}
	put(before)
	b.refuses("destroy what seals a grant", b.DestroyKey(ctx, former), "the grant record of credential a")
	put(is)
	b.want("destroy", b.DestroyKey(ctx, former), nil)
	b.refuses("destroy twice", b.DestroyKey(ctx, former), "no such key")
	if k, _ := b.stored(); len(k.Keys()) != 1 {
		t.Errorf("keys: got %v, want one", k.Keys())
	}
	wrappedOn(t, b.backend, b.kek).wantGrant(spending("a", 1), "r2") // a broker that starts
}

func mustID(b *wrappedBench) string {
	k, _ := b.stored()
	return k.ID()
}

func testBackoffRetired(t *testing.T, _ Config, b *wrappedBench) {
	b.created("a", "r1")
	b.want("save", b.SaveBackoff(ctx, "u", broker.Backoff{Failures: 3, Until: now().Add(time.Hour)}), nil)
	former := b.promoted()
	b.rewrapped()
	read := func() broker.View {
		v, err := b.Read(ctx, plain("a", 1), "u")
		b.want("read", err, nil)
		return v
	}
	if v := read(); v.Upstream.Failures != 3 {
		t.Errorf("before: got %+v", v.Upstream)
	}
	b.want("retire", b.RetireKey(ctx, former), nil)
	if v := read(); v.Upstream != (broker.Backoff{}) || v.UpstreamUnknown {
		t.Errorf("after: got %+v, unknown %v; want none", v.Upstream, v.UpstreamUnknown)
	}
}

// testFirstStarts: of brokers that start on an empty store at once, one draws the keys.
func testFirstStarts(t *testing.T, c Config, b *wrappedBench) {
	empty := c.Open(t)
	const n = 4
	type result struct {
		s   *store.Store
		err error
	}
	started := make(chan result, n)
	for range n {
		go func() {
			s, err := store.New(empty, nil, store.Options{KEK: b.kek})
			started <- result{s, err}
		}()
	}
	prints := map[[32]byte]bool{}
	for range n {
		r := <-started
		if r.err != nil {
			t.Fatal(r.err)
		}
		prints[r.s.Fingerprint("p")] = true
	}
	if len(prints) != 1 {
		t.Errorf("%d sets of keys were drawn", len(prints))
	}
}

// testKeyFileThere: with a KEK nobody begins on data that a key file has sealed, and without one nobody on wrapped keys.
func testKeyFileThere(t *testing.T, c Config, b *wrappedBench) {
	filed := newBench(t, c.Open(t), store.Options{})
	backend := filed.faults.Backend
	_, err := store.New(backend, nil, store.Options{KEK: b.kek})
	wantUnreadable(t, "a KEK on a key file's data", err, "tokenbroker keys wrap")
	apply(t, backend, store.Batch{Group: metaGroup, Deletes: []store.Key{checkKey}})
	filed.created("a", "")
	_, err = store.New(backend, nil, store.Options{KEK: b.kek})
	wantUnreadable(t, "the same without a check", err, "tokenbroker keys wrap")
	_, err = store.New(b.backend, filed.keys, store.Options{})
	wantUnreadable(t, "a key file on wrapped keys", err, b.kek.URI())
	_, err = store.LoadKeyring(ctx, b.backend, t.TempDir()+"/none")
	wantUnreadable(t, "no key file on wrapped keys", err, b.kek.URI())
	_, err = store.New(c.Open(t), nil, store.Options{KEK: b.kek, KeyFile: "/data/key.json"})
	wantUnreadable(t, "a KEK beside a key file", err, "/data/key.json")
	_, err = store.New(b.backend, nil, store.Options{KEK: NewKEK("other")})
	wantUnreadable(t, "another KEK", err, b.kek.URI())
}

func wantUnreadable(t *testing.T, what string, err error, says string) {
	t.Helper()
	var f *broker.Failure
	if !errors.As(err, &f) || f.Kind != broker.RecordUnreadable || !strings.Contains(f.Detail, says) {
		t.Errorf("%s: got %v, want RecordUnreadable that says %q", what, err, says)
	}
}

// testExportedKeys: an empty store adopts the keys of an export; one with the same fingerprint key has to have the keys of its rows; another refuses it.
func testExportedKeys(t *testing.T, c Config, b *wrappedBench) {
	b.created("a", "r1")
	k := spending("a", 1)
	first := mustID(b)
	old := one(t, b.backend, b.GroupOf("a"), store.Key{Kind: "grant"})
	export := b.exported()
	if _, err := b.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	var refused *store.Refused
	if _, err := store.ReadWrappedExport(ctx, bytes.NewReader(export), NewKEK("other")); !errors.As(err, &refused) || !strings.Contains(refused.Why, b.kek.URI()) {
		t.Errorf("another KEK: got %v", err)
	}
	empty := c.Open(t)
	e, err := store.ReadWrappedExport(ctx, bytes.NewReader(export), b.kek)
	if err != nil {
		t.Fatal(err)
	}
	b.want("adopt", store.AdoptKeyring(ctx, empty, e), nil)
	there := wrappedOn(t, empty, b.kek)
	if _, err := there.Import(ctx, e, nil); err != nil {
		t.Fatal(err)
	}
	there.wantGrant(k, "r1")
	b.want("adopt over keys", store.AdoptKeyring(ctx, empty, e), nil)
	if mine, _ := there.stored(); mine.ID() != first {
		t.Errorf("key %s, want that of the export, %s", mine.ID(), first)
	}

	_, err = wrappedOn(t, c.Open(t), b.kek).ReadExport(bytes.NewReader(export))
	wantUnreadable(t, "into a store with keys of its own", err, first)

	b.promoted()
	b.rewrapped()
	later := b.exported()
	_, err = there.ReadExport(bytes.NewReader(later))
	wantUnreadable(t, "an export under a key that came later", err, mustID(b))
	if _, err := b.ReadExport(bytes.NewReader(export)); err != nil {
		t.Errorf("an export from before, while its key is there: %v", err)
	}
	is := one(t, b.backend, b.GroupOf("a"), old.Key)
	put := func(row store.Row) {
		apply(t, b.backend, store.Batch{Group: b.GroupOf("a"), Puts: []store.Put{{Key: row.Key, Revision: revision(), Value: row.Value}}})
	}
	put(old)
	mixed := b.exported()
	put(is)
	b.want("retire", b.RetireKey(ctx, first), nil)
	_, err = b.ReadExport(bytes.NewReader(mixed))
	wantUnreadable(t, "an export of which one row has a key that is retired", err, first)
	_, err = b.ReadExport(bytes.NewReader(export))
	wantUnreadable(t, "an export from before, whose key is retired", err, first)
	b.replace(func(k *seal.Keyring) (*seal.Keyring, error) { return k.Destroyed(first) })
	_, err = b.ReadExport(bytes.NewReader(export))
	wantUnreadable(t, "an export from before, whose key is destroyed", err, first)

	filed := newBench(t, c.Open(t), store.Options{})
	filed.created("a", "r1")
	if _, err := store.ReadWrappedExport(ctx, bytes.NewReader(filed.exported()), b.kek); !errors.As(err, &refused) {
		t.Errorf("an export of a key file's store: got %v", err)
	}
}

// testPutBack: a keyring that a failover has undone, or that somebody has put back or taken away, is not gone on from.
func testPutBack(t *testing.T, _ Config, b *wrappedBench) {
	b.created("a", "r1")
	first := one(t, b.backend, metaGroup, keyringKey)
	former := b.promoted()
	b.rewrapped()
	k, _ := b.stored()
	for name, batch := range map[string]store.Batch{
		"older": {Group: metaGroup, Puts: []store.Put{{Key: keyringKey, Revision: revision(), Value: first.Value}}},
		"gone":  {Group: metaGroup, Deletes: []store.Key{keyringKey}},
	} {
		apply(t, b.backend, batch)
		b.notice()
		if is, _ := b.stored(); is.Generation() != k.Generation() || is.ID() != k.ID() {
			t.Errorf("%s: got generation %d, want %d", name, is.Generation(), k.Generation())
		}
		b.wantGrant(spending("a", 1), "r1")
	}
	b.want("retire", b.RetireKey(ctx, former), nil)

	// That of another store is not taken, whatever its generation.
	other := NewMemory()
	there := wrappedOn(t, other, b.kek)
	for range 4 {
		there.promoted()
	}
	foreign := one(t, other, metaGroup, keyringKey)
	apply(t, b.backend, store.Batch{Group: metaGroup, Puts: []store.Put{{Key: keyringKey, Revision: revision(), Value: foreign.Value}}})
	if _, err := b.Store.Keys(ctx); !errors.Is(err, broker.RecordUnreadable) {
		t.Errorf("another store's: got %v", err)
	}
	b.wantGrant(spending("a", 1), "r1")
}
