package redis_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/installed"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/redis"
)

// onEach runs a test on the system's Redis, and on a server that is newer: they differ in what a connection waits for, and in what they say of a script.
func onEach(t *testing.T, f func(t *testing.T, program string)) {
	t.Helper()
	t.Run("Redis", func(t *testing.T) { f(t, "") })
	t.Run("Valkey", func(t *testing.T) { f(t, installed.Tool(t, "valkey-server")) })
}

// TestWithReplicasTheLostAnswerConfirmsNothing: the replica hangs, and the connection is lost by which the lease is taken. Asked once more, by another
// connection, Redis has made it before; and the replica still does not know that the refresh token is presented.
func TestWithReplicasTheLostAnswerConfirmsNothing(t *testing.T) {
	onEach(t, func(t *testing.T, program string) {
		t.Parallel()
		master := redistest.Start(t, redistest.Options{Program: program})
		replication, asked := redistest.NewProxy(t, master.Addr()), redistest.NewProxy(t, master.Addr())
		_, port, _ := net.SplitHostPort(replication.Addr())
		redistest.Start(t, redistest.Options{Program: program, Args: []string{"--replicaof", "127.0.0.1 " + port}})
		master.AwaitReplicated()
		r := newRig(t, "redis://"+asked.Addr(), func(o *redis.Options) { o.WaitReplicas, o.Timeout = 1, 3*time.Second })
		k := r.create("main")
		acquire := func(v broker.View) <-chan error {
			done := make(chan error, 1)
			go func() {
				_, err := v.Acquire(context.Background(), time.Minute, true)
				done <- err
			}()
			eventually(t, "the lease is taken", func() bool {
				there, err := master.Do("KEYS", "*:grantlease*")
				return err == nil && len(there.([]any)) > 0
			})
			return done
		}
		v, err := r.Read(t.Context(), k, "")
		if err != nil {
			t.Fatal(err)
		}
		replication.BlackHole()
		asked.DropAnswers()
		done := acquire(v)
		asked.Reset()
		if err := <-done; !errors.Is(err, broker.StoreUnavailable) || !strings.Contains(err.Error(), "too few replicas") {
			t.Errorf("got %v, want that too few replicas confirm", err)
		}
		if r.unconfirmed != 1 {
			t.Errorf("counted %d, want 1", r.unconfirmed)
		}
	})
}

// TestWhatWasMadeBeforeStaysAsItIs: it is written once more, and ends when it would have.
func TestWhatWasMadeBeforeStaysAsItIs(t *testing.T) {
	onEach(t, func(t *testing.T, program string) {
		t.Parallel()
		db := open(t, redistest.Start(t, redistest.Options{Program: program}).URL())
		ends, stays := store.Key{Kind: "ends"}, store.Key{Kind: "stays"}
		batch := store.Batch{Group: "g", Conditions: []store.Condition{{Key: ends}}, Puts: []store.Put{
			{Key: ends, Revision: store.Revision{1}, Value: []byte("a"), TTL: time.Minute},
			{Key: stays, Revision: store.Revision{2}, Value: []byte("b")},
		}}
		state := func() string {
			t.Helper()
			read, err := db.Read(t.Context(), store.Ask{Group: "g", Keys: []store.Key{ends, stays}})
			if err != nil {
				t.Fatal(err)
			}
			said := ""
			for _, row := range read[0].Rows {
				said += fmt.Sprintf("%s %x %s ends: %v, in a minute: %v\n", row.Key.Kind, row.Revision, row.Value, row.Left > 0, row.Left <= time.Minute)
			}
			return said
		}
		if err := db.Apply(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		want := state()
		if err := db.Apply(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		if got := state(); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
	})
}
