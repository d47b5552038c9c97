package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tokenbroker/tokenbroker/broker"
)

const (
	killedEnv = "TOKENBROKER_TEST_AUDIT_KILLED"
	noRoomEnv = "TOKENBROKER_TEST_AUDIT_NO_ROOM"
)

func init() { roles[killedEnv], roles[noRoomEnv] = killed, noRoom }

func as(t *testing.T, role, dir string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), role+"="+dir)
	return cmd
}

// killed has eight write intents as fast as they can, and says which are acknowledged.
func killed(dir string) {
	l, err := New(Settings{File: filepath.Join(dir, "audit.log")})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := 0; ; n++ {
				r := change()
				r.Detail = fmt.Sprint(i, "-", n)
				if i == 0 {
					r.Detail += strings.Repeat("x", 900)
				}
				done, err := l.Intend(context.Background(), r)
				if err != nil {
					os.Exit(1)
				}
				fmt.Println(r.Detail) // a system call by itself
				done(0, nil)
			}
		})
	}
	all.Wait()
}

// TestWhatWasAcknowledgedIsInTheFileOfAProcessThatIsKilled: each time the next process goes on in the same file. That the disk has it, too, is
// TestAnIntentIsSyncedBeforeAnythingIsDone.
func TestWhatWasAcknowledgedIsInTheFileOfAProcessThatIsKilled(t *testing.T) {
	dir := t.TempDir()
	var acknowledged []string
	for round := range 4 {
		cmd := as(t, killedEnv, dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		s := bufio.NewScanner(out)
		for n := 0; s.Scan(); n++ {
			acknowledged = append(acknowledged, s.Text())
			if n == 200+37*round {
				_ = cmd.Process.Kill()
			}
		}
		_ = cmd.Wait()
	}
	// A process that is killed in the middle of a write leaves a part of a line; this one for certain.
	path := filepath.Join(dir, "audit.log")
	if f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0); err != nil {
		t.Fatal(err)
	} else if _, err = f.WriteString(`{"v":1,"time":"2026`); err != nil || f.Close() != nil {
		t.Fatal(err)
	}
	l := an(t, Settings{File: path})
	intends(t, l)
	l.Close()
	text, err := readText(path)
	if err != nil {
		t.Fatal(err)
	}
	there := map[string]int{}
	torn := 0
	var whole []told
	for raw := range strings.Lines(text) {
		if !strings.HasSuffix(raw, "}\n") {
			torn++
			continue
		}
		is := readLine(t, raw)
		whole = append(whole, is)
		if is.Outcome == intent {
			there[is.Detail]++
		}
	}
	inOrder(t, whole)
	if torn < 1 || torn > 5 {
		t.Errorf("%d lines are torn", torn)
	}
	wanted := map[string]int{}
	for _, a := range acknowledged {
		wanted[a]++
	}
	if len(acknowledged) < 800 {
		t.Errorf("only %d are acknowledged", len(acknowledged))
	}
	for a, n := range wanted {
		if there[a] < n {
			t.Fatalf("%.20q is acknowledged %d times, and there %d times", a, n, there[a])
		}
	}
}

// TestAFileThatCannotGrowRefusesChanges: the system's own refusal, in a process of its own because the limit is the whole process's.
func TestAFileThatCannotGrowRefusesChanges(t *testing.T) {
	if out, err := as(t, noRoomEnv, t.TempDir()).CombinedOutput(); err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
}

func noRoom(dir string) {
	check := func(ok bool, what string, args ...any) {
		if !ok {
			fmt.Printf(what+"\n", args...)
			os.Exit(1)
		}
	}
	signal.Ignore(syscall.SIGXFSZ)
	path := filepath.Join(dir, "audit.log")
	l, err := New(Settings{File: path})
	check(err == nil, "open: %v", err)
	intend := func() error {
		done, err := l.Intend(context.Background(), change())
		if err == nil {
			done(0, nil)
		}
		return err
	}
	check(intend() == nil, "an intent")
	var before unix.Rlimit
	check(unix.Getrlimit(unix.RLIMIT_FSIZE, &before) == nil, "getrlimit")
	check(unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 1500, Max: before.Max}) == nil, "setrlimit")
	made := 1
	for ; made < 100; made++ {
		if err = intend(); err != nil {
			break
		}
	}
	check(broker.KindOf(err) == broker.AuditUnavailable, "no room: %v", err)
	s := l.Status()
	check(s.Away && strings.Contains(s.Problem, "file too large"), "%+v", s)
	check(unix.Setrlimit(unix.RLIMIT_FSIZE, &before) == nil, "setrlimit")
	for deadline := time.Now().Add(10 * time.Second); ; {
		if err = intend(); err == nil {
			break
		}
		check(time.Now().Before(deadline), "it does not heal: %v", err)
	}
	l.Close()
	text, err := os.ReadFile(path)
	check(err == nil, "%v", err)
	intents, undone := 0, 0
	for raw := range strings.Lines(string(text)) {
		switch {
		case !strings.HasSuffix(raw, "}\n"): // torn
		case strings.Contains(raw, `"outcome":"intent"`):
			intents++
		case strings.Contains(raw, `"reason":"audit_unavailable"`):
			undone++
		}
	}
	check(undone >= 1 && intents == made+1+undone, "%d intents, %d undone, %d acknowledged:\n%s", intents, undone, made+1, text)
}

// TestADirectoryThatTakesNothingRefusesChanges, once the file is gone: nobody may write there, but for root.
func TestADirectoryThatTakesNothingRefusesChanges(t *testing.T) {
	if os.Getuid() == 0 {
		asNobody(t)
		return
	}
	base := t.TempDir()
	dir, shut := filepath.Join(base, "log"), filepath.Join(base, "shut")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Mkdir(shut, 0o500)); err != nil {
		t.Fatal(err)
	}
	l := an(t, Settings{File: filepath.Join(dir, "audit.log")})
	intends(t, l)
	// At no time in between may the file be made anew: it is looked for now and then.
	if err := errors.Join(os.Rename(dir, filepath.Join(base, "gone")), os.Rename(shut, dir)); err != nil {
		t.Fatal(err)
	}
	refuses(t, l)
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	heals(t, l)
}

// asNobody runs the test in a child that is not root.
func asNobody(t *testing.T) {
	t.Helper()
	const nobody = 65534
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(exe) // where it lies nobody else may go
	if err != nil {
		t.Fatal(err)
	}
	its := filepath.Join(dir, "test")
	if err := errors.Join(os.WriteFile(its, program, 0o755), os.Chown(dir, nobody, nobody), os.Chmod(filepath.Dir(dir), 0o711)); err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), its, "-test.run=^"+t.Name()+"$", "-test.v")
	child.Dir, child.Env = dir, append(os.Environ(), "TMPDIR="+dir)
	child.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	if said, err := child.CombinedOutput(); err != nil || !strings.Contains(string(said), "--- PASS: "+t.Name()) {
		t.Errorf("%v: %s", err, said)
	}
}
