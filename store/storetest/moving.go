package storetest

import (
	"bytes"
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

// runMoving runs exports into another backend of the same kind.
func runMoving(t *testing.T, c Config) {
	for name, test := range map[string]func(*testing.T, Config, *bench){
		"round trip":                         testMoved,
		"tokens end when they would have":    testMovedTokensEnd,
		"suspended":                          testSuspended,
		"a lease is waited for":              testExportWaits,
		"a lease or the suspension is first": testSuspensionRaces,
		"what is there is left alone":        testImportConflicts,
		"interrupted":                        testImportInterrupted,
	} {
		c.run(t, "moving/"+name, func(t *testing.T, c Config, b store.Backend) {
			test(t, c, newBench(t, b, store.Options{MaxTokens: 20}))
		})
	}
}

// another is a store on an empty backend, with the same keys.
func (b *bench) another(c Config) *bench {
	b.t.Helper()
	f := NewFaults(c.Open(b.t))
	s, err := store.New(f.Whole(), b.keys, store.Options{MaxTokens: 20})
	if err != nil {
		b.t.Fatalf("new: %v", err)
	}
	return &bench{Store: s, t: b.t, faults: f, keys: b.keys}
}

func (b *bench) exported() []byte {
	b.t.Helper()
	var out bytes.Buffer
	if err := b.Export(ctx, &out, nil); err != nil {
		b.t.Fatalf("export: %v", err)
	}
	return out.Bytes()
}

func (b *bench) readExport(export []byte) *store.Exported {
	b.t.Helper()
	e, err := store.ReadExport(bytes.NewReader(export), b.keys)
	if err != nil {
		b.t.Fatalf("read the export: %v", err)
	}
	return e
}

func (b *bench) imported(export []byte, want store.Imported) {
	b.t.Helper()
	got, err := b.Import(ctx, b.readExport(export), nil)
	if err != nil {
		b.t.Fatalf("import: %v", err)
	}
	b.wantImported(got, want)
}

func (b *bench) wantImported(got, want store.Imported) {
	b.t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		b.t.Errorf("imported (-want +got):\n%s", diff)
	}
}

// furnished makes credentials with every kind of row, and returns the keys of their tokens.
func (b *bench) furnished() []broker.TokenKey {
	b.t.Helper()
	var keys []broker.TokenKey
	for _, name := range []broker.CredentialName{"a", "b/ü", "c"} {
		b.created(name, "seed of "+string(name))
		own := spending(name, 1)
		b.committed(b.acquired(own, true), broker.Outcome{
			Token: issued("own"), RefreshToken: broker.NewSecret("second of " + string(name)),
			Attempts: []broker.Attempt{{Start: now(), Host: "h", Status: 200}},
		})
		single := spending(name, 2)
		single.Grant = single.Selection
		b.committed(b.acquired(single, false), broker.Outcome{Token: issued("single"), RefreshToken: broker.NewSecret("single of " + string(name))})
		bad, worse := plain(name, 3), plain(name, 4)
		b.failed(b.acquired(bad, false), broker.FailureRecord{
			Level: broker.LevelScope, Now: now(),
			Failure: broker.Remembered{Kind: broker.ScopeRefused, At: now(), RetryAt: now().Add(time.Hour)},
		})
		b.failed(b.acquired(worse, false), broker.FailureRecord{
			Level: broker.LevelCredential, Now: now(),
			Failure: broker.Remembered{Kind: broker.CredentialMisconfigured, At: now(), RetryAt: now().Add(time.Hour)},
		})
		keys = append(keys, own, single, bad, worse)
	}
	return keys
}

// about compares what two stores return: what is left of a token's life differs by the time that moving takes.
func about(c Config) cmp.Options {
	return cmp.Options{deeply, cmpopts.EquateApproxTime(2*time.Second + 2*c.Resolution), cmpopts.IgnoreFields(broker.View{}, "Lessor")}
}

// clocks compares ends that come back by the backend's clock: where that is another than this process's, a round trip lies between.
func (c Config) clocks() cmp.Option {
	if c.RealTime {
		return cmpopts.EquateApproxTime(2*time.Second + 2*c.Resolution)
	}
	return cmp.Options{}
}

func (b *bench) wantSame(c Config, other *bench, keys []broker.TokenKey) {
	b.t.Helper()
	for _, k := range keys {
		if diff := cmp.Diff(b.view(k), other.view(k), about(c)); diff != "" {
			b.t.Errorf("view of %s (-here +there):\n%s", k.Credential, diff)
		}
		if diff := cmp.Diff(b.status(k.Credential), other.status(k.Credential), about(c)); diff != "" {
			b.t.Errorf("status of %s (-here +there):\n%s", k.Credential, diff)
		}
	}
}

func testMoved(t *testing.T, c Config, b *bench) {
	keys := b.furnished()
	export := b.exported()
	there := b.another(c)
	var calls []string
	got, err := there.Import(ctx, there.readExport(export), func(done, total int) { calls = append(calls, fmt.Sprint(done, "/", total)) })
	b.want("import", err, nil)
	there.wantImported(got, store.Imported{Made: 3})
	if want := "0/3 1/3 2/3 3/3"; strings.Join(calls, " ") != want {
		t.Errorf("progress: got %v, want %s", calls, want)
	}
	b.wantSame(c, there, keys)
	if all, err := there.Credentials(ctx, "", 10); err != nil || len(all) != 3 || all[1].Name != "b/ü" {
		t.Errorf("credentials: got %d, %v", len(all), err)
	}
	if at, err := there.Suspended(ctx); err != nil || !at.IsZero() {
		t.Errorf("the target is suspended: %v, %v", at, err)
	}
	there.imported(export, store.Imported{There: 3})

	// It goes on there, and from there.
	own := keys[0]
	there.committed(there.acquired(own, true), broker.Outcome{Token: issued("third"), RefreshToken: broker.NewSecret("third")})
	there.imported(export, store.Imported{There: 3, Moved: []broker.CredentialName{"a"}})
	there.wantGrant(own, "third")
	back := there.another(c)
	back.imported(there.exported(), store.Imported{Made: 3})
	there.wantSame(c, back, keys)
	back.wantToken(own, "third")

	_, err = b.Import(ctx, b.readExport(export), nil)
	if err == nil || !strings.Contains(err.Error(), "was itself exported") {
		t.Errorf("import into an exported store: got %v, want a refusal", err)
	}
}

func testMovedTokensEnd(_ *testing.T, c Config, b *bench) {
	b.created("a", "")
	short, long := plain("a", 1), plain("a", 2)
	for _, x := range []struct {
		k    broker.TokenKey
		life time.Duration
	}{{short, time.Second}, {long, 3 * time.Second}} {
		token := issued("t")
		token.ExpireAt, token.RefreshAt = now().Add(x.life+c.Resolution), now().Add(x.life)
		b.committed(b.acquired(x.k, false), broker.Outcome{Token: token})
	}
	export := b.exported()
	c.pass(2 * time.Second)
	there := b.another(c)
	there.imported(export, store.Imported{Made: 1, Ended: 1})
	there.wantToken(short, "")
	there.wantToken(long, "t")
	c.pass(time.Second + c.Resolution)
	there.wantToken(long, "")
}

func testSuspended(t *testing.T, _ Config, b *bench) {
	b.created("a", "seed")
	k := spending("a", 1)
	b.committed(b.acquired(k, true), broker.Outcome{Token: issued("t"), RefreshToken: broker.NewSecret("second")})
	if at, err := b.Suspended(ctx); err != nil || !at.IsZero() {
		t.Errorf("suspended before: %v, %v", at, err)
	}
	b.exported()
	if at, err := b.Suspended(ctx); err != nil || time.Since(at).Abs() > time.Minute {
		t.Errorf("suspended: got %v, %v, want now", at, err)
	}
	refused := func(k broker.TokenKey, spend bool) {
		t.Helper()
		_, err := b.view(k).Acquire(ctx, time.Minute, spend)
		b.want("acquire", err, broker.StoreUnavailable)
		if err == nil || !strings.Contains(err.Error(), "`tokenbroker store export --resume`") {
			t.Errorf("acquire: got %v, want what undoes it", err)
		}
	}
	refused(k, true)
	refused(k, false)
	refused(spending("a", 2), false)
	refused(obtaining(3), false)
	b.wantToken(k, "t")
	b.wantGrant(k, "second")
	if g := b.view(k).Grant; !g.Marker.IsZero() || g.Uncertain {
		t.Error("the grant is in doubt")
	}
	b.saved(b.view(k).Credential, changed(b.view(k).Credential, true), seedOf("new"))
	refused(k, true)
	b.exported()
	refused(k, true)

	// What spends no grant goes on, and no export waits for it.
	simple := plain("a", 4)
	b.committed(b.acquired(simple, false), broker.Outcome{Token: issued("simple")})
	b.wantToken(simple, "simple")
	lease := b.acquired(simple, false)
	_, err := b.view(simple).Acquire(ctx, time.Minute, false)
	b.want("acquire of what is held", err, broker.ErrConflict)
	b.exported()
	b.released(lease)

	// What is new after that was in no export.
	b.created("b", "seed")
	b.released(b.acquired(spending("b", 1), true))
	b.created("c", "")
	b.want("delete", b.DeleteCredential(ctx, "c", broker.ID{}), nil)

	for _, want := range []bool{true, false} {
		if was, err := b.Resume(ctx); err != nil || was != want {
			t.Errorf("resume: got %v, %v, want %v", was, err, want)
		}
		if at, err := b.Suspended(ctx); err != nil || !at.IsZero() {
			t.Errorf("suspended after: %v, %v", at, err)
		}
	}
	b.committed(b.acquired(k, true), broker.Outcome{Token: issued("t2"), RefreshToken: broker.NewSecret("third")})
	b.wantGrant(k, "third")
}

// testExportWaits: what a flight that has begun brings is in the export; one that is never heard of again is in doubt there.
func testExportWaits(t *testing.T, c Config, b *bench) {
	b.created("a", "seed")
	b.created("b", "seed")
	k, lost := spending("a", 1), spending("b", 1)
	lease := b.acquired(k, true)
	if _, err := b.view(lost).Acquire(ctx, 2*time.Second, true); err != nil {
		t.Fatal(err)
	}
	type result struct {
		export []byte
		err    error
	}
	done := make(chan result, 1)
	go func() {
		var out bytes.Buffer
		err := b.Export(ctx, &out, nil)
		done <- result{out.Bytes(), err}
	}()
	c.pass(time.Second)
	select {
	case r := <-done:
		t.Fatalf("the export does not wait: %d bytes, %v", len(r.export), r.err)
	default:
	}
	b.committed(lease, broker.Outcome{Token: issued("t"), RefreshToken: broker.NewSecret("successor")})
	r := <-done
	b.want("export", r.err, nil)
	there := b.another(c)
	there.imported(r.export, store.Imported{Made: 2})
	there.wantGrant(k, "successor")
	there.wantToken(k, "t")
	there.wantGrant(lost, "seed")
	if there.view(lost).Grant.Marker.IsZero() {
		t.Error("the grant whose answer was lost is not in doubt in the export")
	}

	if _, err := b.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	b.acquired(k, true)
	ended, cancel := context.WithCancel(ctx)
	suspended := make(chan struct{})
	go func() {
		<-suspended
		c.pass(500 * time.Millisecond)
		cancel()
	}()
	err := b.Export(ended, &bytes.Buffer{}, func(int, int) { close(suspended) })
	b.want("an export that is given up while it waits", err, context.Canceled)
	_, err = b.view(lost).Acquire(ctx, time.Second, true)
	b.want("acquire after an export that was given up", err, broker.StoreUnavailable)
}

// testSuspensionRaces: flights begin and end all the time while exports are made. Whatever refresh token is in an export is
// the last of its line at the source, until it is resumed.
func testSuspensionRaces(t *testing.T, c Config, b *bench) {
	b.created("a", "seed 0")
	k := spending("a", 1)
	stop, done := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { done <- n }()
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
			v, err := b.Read(ctx, k, "")
			if err != nil {
				t.Errorf("read: %v", err)
				return
			}
			l, err := v.Acquire(ctx, time.Minute, true)
			if errors.Is(err, broker.StoreUnavailable) || errors.Is(err, broker.ErrConflict) {
				continue
			}
			if err != nil {
				t.Errorf("acquire: %v", err)
				return
			}
			n++
			if _, err := l.Commit(ctx, broker.Outcome{RefreshToken: broker.NewSecret(fmt.Sprint("seed ", n)), Now: now()}); err != nil {
				t.Errorf("commit: %v", err)
				return
			}
		}
	}()
	for range 8 {
		c.pass(20 * time.Millisecond)
		export := b.exported()
		there := b.another(c)
		there.imported(export, store.Imported{Made: 1})
		c.pass(20 * time.Millisecond)
		b.wantGrant(k, there.view(k).Grant.RefreshToken.Reveal())
		if g := there.view(k).Grant; !g.Marker.IsZero() || g.Uncertain {
			t.Error("the grant is in doubt in the export")
		}
		if _, err := b.Resume(ctx); err != nil {
			t.Errorf("resume: %v", err)
		}
	}
	close(stop)
	if n := <-done; n < 8 {
		t.Errorf("only %d exchanges were made", n)
	}
}

func testImportConflicts(_ *testing.T, c Config, b *bench) {
	for _, n := range []broker.CredentialName{"a", "b", "c", "d"} {
		b.created(n, "seed")
	}
	export := b.exported()
	there := b.another(c)
	other := there.created("b", "precious")
	there.imported(export, store.Imported{Made: 3, Conflicts: []store.Conflict{
		{Name: "b", Why: "here is another one of this name, created " + other.CreateTime.Format(time.RFC3339)},
	}})
	there.wantGrant(spending("b", 1), "precious")
	there.wantGrant(spending("d", 1), "seed")
	v := there.view(spending("c", 1))
	there.saved(v.Credential, changed(v.Credential, true), nil)
	want := store.Imported{There: 2, Conflicts: []store.Conflict{
		{Name: "b", Why: "here is another one of this name, created " + other.CreateTime.Format(time.RFC3339)},
		{Name: "c", Why: "it was changed after the export, here or there"},
	}}
	there.imported(export, want)
	there.imported(export, want)
}

func testImportInterrupted(t *testing.T, c Config, b *bench) {
	keys := b.furnished()
	export := b.exported()
	there := b.another(c)
	ended, cancel := context.WithCancel(ctx)
	got, err := there.Import(ended, there.readExport(export), func(done, _ int) {
		if done == 1 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("import: got %v, want %v", err, context.Canceled)
	}
	there.wantImported(got, store.Imported{Made: 1})

	// The answer to the second is lost: it may be made or not.
	lost := 0
	there.faults.Set(Hooks{AfterApply: func(context.Context, store.Batch) error {
		lost++
		return store.Unavailable("the answer was lost, for a test")
	}})
	_, err = there.Import(ctx, there.readExport(export), nil)
	b.want("import", err, broker.StoreUnavailable)
	there.faults.Set(Hooks{})
	if lost != 1 {
		t.Errorf("%d answers were lost, want 1", lost)
	}
	there.imported(export, store.Imported{Made: 1, There: 2})
	b.wantSame(c, there, keys)
}
