package bolt_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/bolt"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

const (
	// crashingEnv makes the test binary a process that commits until it is killed; its value is the data directory.
	crashingEnv = "TOKENBROKER_TEST_CRASHING"
	kills       = 60
)

func crashKey(n int) broker.TokenKey {
	return broker.TokenKey{Credential: "a", Token: [32]byte{byte(n >> 8), byte(n)}, Spends: true}
}

func crashPaths(dir string) (data, key string) {
	return filepath.Join(dir, "tokenbroker.db"), filepath.Join(dir, "key")
}

// crashing commits one rotation after the other, and says so after each: "r7" is in place.
func crashing() {
	die := func(what string, err error) {
		if err != nil {
			fmt.Println(what, err)
			os.Exit(1)
		}
	}
	ctx := context.Background()
	data, key := crashPaths(os.Getenv(crashingEnv))
	d, err := bolt.Open(data, bolt.Options{})
	die("open", err)
	keys, err := seal.Load(key)
	die("load", err)
	s, err := store.New(d, keys, store.Options{MaxTokens: 1 << 16})
	die("new", err)
	for {
		v, err := s.Read(ctx, crashKey(0), "")
		die("read", err)
		n, err := strconv.Atoi(strings.TrimPrefix(v.Grant.RefreshToken.Reveal(), "r"))
		die("number", err)
		n++
		k := crashKey(n)
		v, err = s.Read(ctx, k, "")
		die("read", err)
		l, err := v.Acquire(ctx, time.Minute, true)
		die("acquire", err)
		done, err := l.Commit(ctx, broker.Outcome{
			Token:        &broker.Issued{ID: fmt.Sprint("t", n), ExpireAt: time.Now().Add(24 * time.Hour)},
			RefreshToken: broker.NewSecret(fmt.Sprint("r", n)), Now: time.Now(),
		})
		die("commit", err)
		if !done.Grant || !done.Token {
			die("commit", fmt.Errorf("stored %+v", done))
		}
		fmt.Println("r", n)
	}
}

// TestKilled kills a process that commits, again and again: whatever it acknowledged is there, and the rest is whole.
func TestKilled(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	data, key := crashPaths(dir)
	keys, err := seal.Create(key)
	if err != nil {
		t.Fatal(err)
	}
	d := open(t, data)
	c := broker.Credential{Name: "a", Incarnation: broker.NewID(), Version: broker.NewID(), Epoch: broker.NewID(), Etag: broker.NewID()}
	if err := newStore(t, d, keys).CreateCredential(ctx, c, &broker.Grant{RefreshToken: broker.NewSecret("r0")}); err != nil {
		t.Fatal(err)
	}
	closeDB(t, d)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for kill := range kills {
		acknowledged := commitUntilKilled(t, self, dir, 1+rand.IntN(12))
		if acknowledged <= total {
			t.Fatalf("kill %d: acknowledged %d after %d", kill, acknowledged, total)
		}
		d := open(t, data)
		s := newStore(t, d, keys)
		v, err := s.Read(ctx, crashKey(0), "")
		if err != nil {
			t.Fatalf("kill %d: %v", kill, err)
		}
		last, err := strconv.Atoi(strings.TrimPrefix(v.Grant.RefreshToken.Reveal(), "r"))
		if err != nil || last < acknowledged {
			t.Fatalf("kill %d: r%d was acknowledged, and %q is there", kill, acknowledged, v.Grant.RefreshToken.Reveal())
		}
		for n := total + 1; n <= last; n++ {
			v, err := s.Read(ctx, crashKey(n), "")
			if err != nil || v.Token == nil || v.Token.ID != fmt.Sprint("t", n) {
				t.Fatalf("kill %d: token %d, acknowledged up to %d: %+v, %v", kill, n, acknowledged, v.Token, err)
			}
		}
		if v, err := s.Read(ctx, crashKey(last+1), ""); err != nil || v.Token != nil {
			t.Fatalf("kill %d: a token without its refresh token: %v", kill, err)
		}
		total = last
		closeDB(t, d)
	}
	t.Logf("%d commits, %d kills", total, kills)
}

// commitUntilKilled runs a process that commits, kills it when it has acknowledged so many, and returns the number of the
// last one that it acknowledged before it was gone.
func commitUntilKilled(t *testing.T, self, dir string, after int) int {
	t.Helper()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), crashingEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	last, seen := 0, 0
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		n, err := strconv.Atoi(strings.TrimPrefix(lines.Text(), "r "))
		if err != nil {
			t.Errorf("the process says %q", lines.Text())
			break
		}
		last = n
		if seen++; seen == after {
			if err := cmd.Process.Kill(); err != nil { // amid the next commit; what it printed before still counts
				t.Fatal(err)
			}
		}
	}
	if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != -1 {
		t.Errorf("the process was not killed: %v", err)
	}
	if seen < after {
		t.Fatalf("the process acknowledged %d, want %d", seen, after)
	}
	return last
}
