package policy

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/filewatch"
)

// allowing is a policy that lets one user look at providers.
func allowing(uid string) string {
	return "version: 1\ncallers: {c: [{unix: " + uid + "}]}\nrules: [{name: r" + uid + ", callers: [c], operations: [provider.read]}]\n"
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func writeFile(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// policyIn loads a file with a policy for user 1.
func policyIn(t *testing.T) (f *File, name string, log *syncBuffer) {
	t.Helper()
	log = &syncBuffer{}
	name = filepath.Join(t.TempDir(), "policy.yaml")
	writeFile(t, name, allowing("1"))
	f, err := New(name, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	f.lookEvery = time.Hour // so that it is notifications that are tested
	return f, name, log
}

// mayOnly says which of the users 1 to 3 may look at providers.
func mayOnly(t *testing.T, f *File) string {
	t.Helper()
	out := ""
	for _, uid := range []string{"1", "2", "3"} {
		if f.Decide(broker.Access{Caller: caller(t, "unix:"+uid), Operation: broker.ReadProvider}).Effect == broker.Allowed {
			out += uid
		}
	}
	return out
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestAFileThatIsBrokenAtStartIsAnError(t *testing.T) {
	name := filepath.Join(t.TempDir(), "policy.yaml")
	if f, err := New(name, nil); f != nil || err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("got %v of a file that is not there", err)
	}
	writeFile(t, name, strings.Replace(allowing("1"), "rules", "rulez", 1))
	if f, err := New(name, nil); f != nil || err == nil || !strings.Contains(err.Error(), name+`:3:1: policy: unknown word "rulez"; did you mean "rules"?`) {
		t.Errorf("got %v of a broken file", err)
	}
	if f, err := New(filepath.Dir(name), nil); f != nil || err == nil {
		t.Errorf("got %v of a directory", err)
	}
	pipe := filepath.Join(filepath.Dir(name), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if f, err := New(pipe, nil); f != nil || err == nil {
		t.Errorf("got %v of a pipe", err)
	}
}

func TestABrokenFileKeepsTheFormerPolicyAndSaysSoOnce(t *testing.T) {
	f, name, log := policyIn(t)
	first := f.Status()
	generation, changes := f.Generation(), f.Changes()
	if first.Problem != nil || !strings.HasPrefix(first.Digest, "sha256:") || len(first.Digest) != len("sha256:")+64 || first.Loaded.IsZero() || first.Rules != 1 {
		t.Errorf("got %+v", first)
	}
	said := func() int { return strings.Count(log.String(), "is not used") }
	broken := allowing("2") + "rulez: []\n"
	failing := allowing("2") + "tests: [{caller: 'unix:1', operation: provider.read, rule: r2}]\n"
	steps := []struct {
		what string
		do   func()
		says string
	}{
		{"broken", func() { writeFile(t, name, broken) }, `unknown word "rulez"`},
		{"a failing test", func() { writeFile(t, name, failing) }, "it is denied, and is to be allowed by r2"},
		{"nothing in it", func() { writeFile(t, name, "") }, "there is nothing in it"},
		{"too large", func() { writeFile(t, name, allowing("2")+strings.Repeat("#", MostBytes)) }, "larger than"},
		{"others may write it", func() {
			writeFile(t, name, allowing("2"))
			if err := os.Chmod(name, 0o620); err != nil {
				t.Fatal(err)
			}
		}, "run chmod go-w"},
		{"all may write it", func() {
			if err := os.Chmod(name, 0o602); err != nil {
				t.Fatal(err)
			}
		}, "run chmod go-w"},
		{"gone", func() {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}, "no such file"},
	}
	for i, x := range steps {
		x.do()
		for range 3 {
			if err := f.Reload(); err == nil || !strings.Contains(err.Error(), x.says) {
				t.Errorf("%s: got %v, want %s", x.what, err, x.says)
			}
		}
		if got := f.Status(); got.Problem == nil || !strings.Contains(got.Problem.Error(), x.says) || got.Digest != first.Digest || got.Loaded != first.Loaded {
			t.Errorf("%s: got %+v", x.what, got)
		}
		if said() != i+1 {
			t.Errorf("%s: it was said %d times, want %d\n%s", x.what, said(), i+1, log)
		}
		if got := mayOnly(t, f); got != "1" || f.Generation() != generation || closed(changes) {
			t.Errorf("%s: %s may, at generation %d, want the former policy", x.what, got, f.Generation())
		}
	}
	writeFile(t, name, allowing("1"))
	if err := f.Reload(); err != nil || f.Status() != first || f.Generation() != generation || closed(changes) || !strings.Contains(log.String(), "again the one that is loaded") {
		t.Errorf("got %v, %+v of a file that is as it was", err, f.Status())
	}
	writeFile(t, name, allowing("2"))
	if err := f.Reload(); err != nil || mayOnly(t, f) != "2" || f.Generation() == generation || !closed(changes) || closed(f.Changes()) {
		t.Errorf("got %v, %s of a good file, generation %d", err, mayOnly(t, f), f.Generation())
	}
	if got := f.Status(); got.Problem != nil || got.Digest == first.Digest {
		t.Errorf("got %+v", got)
	}
	writeFile(t, name, broken)
	if err := f.Reload(); err == nil || said() != len(steps)+1 {
		t.Errorf("got %v, said %d times, want once more: it was well meanwhile", err, said())
	}
	writeFile(t, name, allowing("3"))
	if err := f.Reload(); err != nil || mayOnly(t, f) != "3" {
		t.Errorf("got %v of a good file", err)
	}
	writeFile(t, name, broken)
	if err := f.Reload(); err == nil || said() != len(steps)+2 || f.Status().Problem == nil {
		t.Errorf("got %v, said %d times, of a file that was broken before, and well meanwhile", err, said())
	}
}

// TestWarningsAreSaid: the file is used.
func TestWarningsAreSaid(t *testing.T) {
	f, name, log := policyIn(t)
	writeFile(t, name, strings.Replace(allowing("2"), "callers: {", "callers: {spare: [{unix: 9}], ", 1))
	if err := f.Reload(); err != nil || mayOnly(t, f) != "2" || !strings.Contains(log.String(), "callers.spare: no rule names it") {
		t.Errorf("got %v\n%s", err, log)
	}
}

// watched changes what a file is in several ways, each of which is seen.
func watched(t *testing.T, f *File, change func(uid string)) {
	t.Helper()
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	done := make(chan error, 1)
	go func() { f.Watch(ctx); done <- nil }()
	for _, uid := range []string{"2", "3", "1"} {
		for changes := f.Changes(); mayOnly(t, f) != uid; changes = f.Changes() {
			change(uid) // the watch may begin after it: again until it is seen
			if mayOnly(t, f) == uid {
				break
			}
			select {
			case <-ctx.Done():
				t.Fatalf("the change to %s was not seen", uid)
			case <-changes:
			case <-time.After(5 * filewatch.Settle):
			}
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestAFileThatIsWrittenIsReadAgain(t *testing.T) {
	f, name, _ := policyIn(t)
	watched(t, f, func(uid string) { writeFile(t, name, allowing(uid)) })
}

func TestAFileThatTakesThePlaceOfAnotherIsReadAgain(t *testing.T) {
	f, name, _ := policyIn(t)
	watched(t, f, func(uid string) {
		writeFile(t, name+"~", allowing(uid))
		if err := os.Rename(name+"~", name); err != nil {
			t.Fatal(err)
		}
	})
}

// kubernetes mounts a config map: policy.yaml is a link into ..data, which is a link to a directory that another takes the place of.
type kubernetes struct {
	t   *testing.T
	dir string
	n   int
}

func (k *kubernetes) put(text string) {
	k.t.Helper()
	k.n++
	data := fmt.Sprintf("..2026_%d", k.n)
	was, _ := os.Readlink(filepath.Join(k.dir, "..data"))
	for _, err := range []error{
		os.Mkdir(filepath.Join(k.dir, data), 0o755),
		os.WriteFile(filepath.Join(k.dir, data, "policy.yaml"), []byte(text), 0o644),
		os.Symlink(data, filepath.Join(k.dir, "..data_tmp")),
		os.Rename(filepath.Join(k.dir, "..data_tmp"), filepath.Join(k.dir, "..data")),
	} {
		if err != nil {
			k.t.Fatal(err)
		}
	}
	if was == "" {
		if err := os.Symlink("..data/policy.yaml", filepath.Join(k.dir, "policy.yaml")); err != nil {
			k.t.Fatal(err)
		}
		return
	}
	if err := os.RemoveAll(filepath.Join(k.dir, was)); err != nil {
		k.t.Fatal(err)
	}
}

func TestAConfigMapThatChangesIsReadAgain(t *testing.T) {
	k := &kubernetes{t: t, dir: t.TempDir()}
	k.put(allowing("1"))
	f, err := New(filepath.Join(k.dir, "policy.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	f.lookEvery = time.Hour
	watched(t, f, func(uid string) { k.put(allowing(uid)) })
}

// TestWhatNobodyTellsOfIsSeen: what is behind a link to another directory changes without a notification.
func TestWhatNobodyTellsOfIsSeen(t *testing.T) {
	far := filepath.Join(t.TempDir(), "far.yaml")
	name := filepath.Join(t.TempDir(), "policy.yaml")
	writeFile(t, far, allowing("1"))
	if err := os.Symlink(far, name); err != nil {
		t.Fatal(err)
	}
	f, err := New(name, nil)
	if err != nil {
		t.Fatal(err)
	}
	f.lookEvery = 10 * time.Millisecond
	watched(t, f, func(uid string) { writeFile(t, far, allowing(uid)) })
}

// TestADirectoryThatAnotherTakesThePlaceOf is watched again.
func TestADirectoryThatAnotherTakesThePlaceOf(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "d")
	put := func(uid string) {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, "policy.yaml"), allowing(uid))
	}
	put("1")
	f, err := New(filepath.Join(dir, "policy.yaml"), nil)
	if err != nil {
		t.Fatal(err)
	}
	f.lookEvery = 50 * time.Millisecond
	watched(t, f, put)
}

// TestADirectoryInWhichSomethingChangesAllTheTime keeps nobody from seeing the file.
func TestADirectoryInWhichSomethingChangesAllTheTime(t *testing.T) {
	f, name, _ := policyIn(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(filewatch.Settle / 10)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				_ = os.WriteFile(name+".other", nil, 0o600)
			}
		}
	})
	watched(t, f, func(uid string) { writeFile(t, name+"~", allowing(uid)); _ = os.Rename(name+"~", name) })
	close(stop)
	wg.Wait()
}

// TestDecidingWhileItChanges is for the race detector.
func TestDecidingWhileItChanges(t *testing.T) {
	f, name, _ := policyIn(t)
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		wg.Go(func() {
			for !closed(stop) {
				mayOnly(t, f)
				f.Generation()
				f.Changes()
				f.Status()
			}
		})
	}
	for i := range 30 {
		writeFile(t, name, allowing(fmt.Sprint(1+i%3)))
		if err := f.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
}

// TestWhoHasSeenAGenerationDecidesByIt, or by a later one.
func TestWhoHasSeenAGenerationDecidesByIt(t *testing.T) {
	f, _, _ := policyIn(t)
	const n = 64
	number := map[*Policy]uint64{}
	var all []*Policy
	for i := range uint64(n) {
		all = append(all, &Policy{})
		number[all[i]] = i
	}
	f.use(all[0], Status{})
	start := f.Generation()
	changes := 200_000
	if testing.Short() {
		changes /= 4
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for !closed(stop) {
				// Few changes fit between the two, unless the system lets this one wait: then nothing is to be seen.
				before := f.generation.Load()
				by := number[f.policy.Load()]
				if f.generation.Load()-before < n/2 && (by-(before-start))%n > n/2 {
					t.Errorf("decided by %d after generation %d was seen", by, before-start)
					return
				}
			}
		})
	}
	for i := range changes {
		f.use(all[(i+1)%n], Status{})
	}
	close(stop)
	wg.Wait()
}
