package bolt_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/bolt"
	"github.com/tokenbroker/tokenbroker/store/seal"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// roles are what the test binary does instead of testing, when this environment variable is set: tests run it as another
// process.
var roles = map[string]func(){crashingEnv: crashing}

func TestMain(m *testing.M) {
	for env, role := range roles {
		if os.Getenv(env) != "" {
			role()
			return
		}
	}
	goleak.VerifyTestMain(m)
}

func open(t testing.TB, path string) *bolt.DB {
	t.Helper()
	d, err := bolt.Open(path, bolt.Options{})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	t.Cleanup(func() { closeDB(t, d) })
	return d
}

func closeDB(t testing.TB, d *bolt.DB) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

func newPath(t testing.TB) string { return filepath.Join(t.TempDir(), "data", "tokenbroker.db") }

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

func put(n int, ttl time.Duration) store.Put {
	k := store.Key{Kind: "token", ID: [32]byte{byte(n >> 8), byte(n)}}
	return store.Put{Key: k, Revision: store.Revision(broker.NewID()), Value: []byte(fmt.Sprint("value ", n)), TTL: ttl}
}

func apply(t testing.TB, b store.Backend, puts ...store.Put) {
	t.Helper()
	if err := b.Apply(context.Background(), store.Batch{Group: "c:a", Puts: puts}); err != nil {
		t.Fatalf("apply: %v", err)
	}
}

func count(t testing.TB, b store.Backend) int {
	t.Helper()
	all, err := b.List(context.Background(), []store.Group{"c:a"}, "token")
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	return len(all[0].Rows)
}

func TestSuite(t *testing.T) {
	storetest.Run(t, storetest.Config{Open: func(t *testing.T) store.Backend { return open(t, newPath(t)) }})
}

func TestFilesArePrivate(t *testing.T) {
	path := newPath(t)
	d := open(t, path)
	wantMode := func(p string, want os.FileMode) {
		t.Helper()
		info, err := os.Stat(p)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: got %v, %v, want %v", p, info.Mode(), err, want)
		}
	}
	wantMode(filepath.Dir(path), 0o700)
	files, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(files) != 2 {
		t.Errorf("files: got %v, %v, want the data and the lock", files, err)
	}
	for _, f := range files {
		wantMode(filepath.Join(filepath.Dir(path), f.Name()), 0o600)
	}
	closeDB(t, d)
	if err := os.Chmod(path, 0o664); err != nil { // as a volume's group ownership makes it
		t.Fatal(err)
	}
	open(t, path)
	wantMode(path, 0o600)
}

func TestSurvivesARestart(t *testing.T) {
	path := newPath(t)
	d := open(t, path)
	apply(t, d, put(1, 0), put(2, time.Hour))
	closeDB(t, d)
	again := open(t, path)
	if n := count(t, again); n != 2 {
		t.Errorf("after a restart: %d rows, want 2", n)
	}
	closeDB(t, again)
	// A process that was killed while it created its file leaves one behind that nobody needs.
	fresh := newPath(t)
	if err := os.Mkdir(filepath.Dir(fresh), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(fresh+".new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := count(t, open(t, fresh)); n != 0 {
		t.Errorf("a fresh file: %d rows", n)
	}
}

func TestOneProcess(t *testing.T) {
	path := newPath(t)
	d := open(t, path)
	started := time.Now()
	_, err := bolt.Open(path, bolt.Options{})
	if !errors.Is(err, broker.StoreUnavailable) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) ||
		!strings.Contains(err.Error(), path) {
		t.Errorf("a second open: got %v, want one that names the holder", err)
	}
	if waited := time.Since(started); waited > 10*time.Second {
		t.Errorf("a second open waited for %v", waited)
	}
	closeDB(t, d)
	open(t, path)
}

// TestLeasesEndWithTheProcess: its leases are released at the next start; what it was presenting stays in doubt.
func TestLeasesEndWithTheProcess(t *testing.T) {
	ctx, path, keys := t.Context(), newPath(t), newKeyring(t)
	d := open(t, path)
	s := newStore(t, d, keys)
	c := broker.Credential{Name: "a", Incarnation: broker.NewID(), Version: broker.NewID(), Epoch: broker.NewID(), Etag: broker.NewID()}
	if err := s.CreateCredential(ctx, c, &broker.Grant{RefreshToken: broker.NewSecret("r1")}); err != nil {
		t.Fatal(err)
	}
	spending := broker.TokenKey{Credential: "a", Token: [32]byte{1}, Spends: true}
	plain := broker.TokenKey{Credential: "a", Token: [32]byte{2}}
	view := func(s *store.Store, k broker.TokenKey) broker.View {
		t.Helper()
		v, err := s.Read(ctx, k, "")
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, k := range []broker.TokenKey{spending, plain} {
		if _, err := view(s, k).Acquire(ctx, time.Hour, k.Spends); err != nil {
			t.Fatal(err)
		}
	}
	marker := view(s, spending).Grant.Marker
	closeDB(t, d)
	next := newStore(t, open(t, path), keys)
	if v := view(next, plain); v.LeaseLeft != 0 {
		t.Errorf("a key's lease lasts %v longer", v.LeaseLeft)
	}
	if v := view(next, spending); v.LeaseLeft != 0 || v.Grant.Marker != marker || !v.Grant.MayBeSpent() {
		t.Errorf("the grant: %v left, marker %v; want no lease and the marker", v.LeaseLeft, v.Grant.Marker)
	}
}

func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, err := bolt.Open(newPath(t), bolt.Options{SweepEvery: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		defer closeDB(t, d)
		const many = bolt.SweepAtOnce + 500
		puts := []store.Put{put(60000, 0), put(60001, time.Hour)}
		for n := range many {
			puts = append(puts, put(n, 10*time.Second))
		}
		apply(t, d, puts...)
		apply(t, d, put(0, 0), put(1, time.Hour), put(2, 20*time.Second)) // they live longer now
		<-time.After(10 * time.Second)
		if n := count(t, d); n != 5 {
			t.Errorf("%d rows live, want 5", n)
		}
		if n, err := d.Sweep(); n != bolt.SweepAtOnce || err != nil {
			t.Errorf("one sweep: got %d, %v, want it bounded", n, err)
		}
		if n, err := d.Sweep(); n != many-3-bolt.SweepAtOnce || err != nil {
			t.Errorf("another: got %d, %v, want the rest", n, err)
		}
		if n, err := d.Sweep(); n != 0 || err != nil {
			t.Errorf("a third: got %d, %v, want nothing", n, err)
		}
		<-time.After(50 * time.Second) // until the sweeper's turn
		synctest.Wait()
		if rows, ends := d.Stored(); rows != 4 || ends != 2 {
			t.Errorf("%d rows are stored, %d of them to end; want 4 and 2", rows, ends)
		}
		<-time.After(2 * time.Hour)
		synctest.Wait()
		if rows, ends := d.Stored(); rows != 2 || ends != 0 {
			t.Errorf("%d rows are stored, %d of them to end; want 2 and 0", rows, ends)
		}
	})
}

// TestClockIsGiven: the time is the one that the options say.
func TestClockIsGiven(t *testing.T) {
	now := time.Unix(1000, 0)
	d, err := bolt.Open(newPath(t), bolt.Options{Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer closeDB(t, d)
	apply(t, d, put(1, time.Second))
	now = now.Add(time.Second - 1)
	if count(t, d) != 1 {
		t.Error("gone before its end")
	}
	now = now.Add(1)
	if count(t, d) != 0 {
		t.Error("there at its end")
	}
}

// TestGivingUpWhileWaiting: a change that is not begun when its context ends is not made.
func TestGivingUpWhileWaiting(t *testing.T) {
	d := open(t, newPath(t))
	outcomes := make(chan error)
	const many = 200
	for n := range many {
		go func() {
			ctx, cancel := context.WithCancel(context.Background())
			go cancel()
			outcomes <- d.Apply(ctx, store.Batch{Group: "c:a", Puts: []store.Put{put(n, 0)}})
		}()
	}
	made := 0
	for range many {
		switch err := <-outcomes; {
		case err == nil:
			made++
		case !errors.Is(err, context.Canceled) || !errors.Is(err, broker.StoreUnavailable):
			t.Errorf("apply: %v", err)
		}
	}
	if n := count(t, d); n != made {
		t.Errorf("%d changes were acknowledged and %d were made", made, n)
	}
}

func TestCloseWhileWriting(t *testing.T) {
	path := newPath(t)
	d := open(t, path)
	outcomes := make(chan error)
	const many = 100
	for n := range many {
		go func() {
			outcomes <- d.Apply(context.Background(), store.Batch{Group: "c:a", Puts: []store.Put{put(n, 0)}})
		}()
	}
	made := 0
	for n := range many {
		if n == many/4 {
			go func() { _ = d.Close() }() // the result is the same at the end of the test
		}
		switch err := <-outcomes; {
		case err == nil:
			made++
		case !errors.Is(err, broker.StoreUnavailable):
			t.Errorf("apply: %v", err)
		}
	}
	closeDB(t, d)
	if n := count(t, open(t, path)); n != made {
		t.Errorf("%d changes were acknowledged and %d are there", made, n)
	}
}

func TestTooBigARow(t *testing.T) {
	d := open(t, newPath(t))
	big := put(1, 0)
	big.Value = make([]byte, 17<<20)
	if err := d.Apply(t.Context(), store.Batch{Group: "c:a", Puts: []store.Put{big}}); !errors.Is(err, broker.StoreUnavailable) {
		t.Errorf("got %v", err)
	}
}
