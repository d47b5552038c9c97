package redistest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

func TestClusterFailsOver(t *testing.T) {
	t.Parallel()
	c := StartCluster(t)
	if len(c.Addrs()) != 6 || len(c.Nodes()) != 6 {
		t.Fatalf("%d addresses", len(c.Addrs()))
	}
	db := redis.NewClusterClient(&redis.ClusterOptions{
		Addrs: c.Addrs(),
		// Otherwise it takes a minute to learn of the failover: a master that refuses connections tells it nothing.
		ClusterStateReloadInterval: 500 * time.Millisecond,
		MaintNotificationsConfig:   &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	defer db.Close()
	owners := map[*Server]bool{}
	for i := range 30 {
		key := fmt.Sprint("key-", i)
		if err := db.Set(t.Context(), key, "value", 0).Err(); err != nil {
			t.Fatal(err)
		}
		owner := c.MasterFor(key)
		owners[owner] = true
		if got := get(t, owner, key); got != "value" {
			t.Errorf("%s: got %v from its master", key, got)
		}
	}
	if len(owners) != 3 {
		t.Errorf("30 keys lie on %d masters", len(owners))
	}
	old := c.MasterFor("key-0")
	replica := c.ReplicaOf(old)
	if replica == nil || replica == old {
		t.Fatal("the master has no replica")
	}
	old.Kill()
	if now := c.AwaitFailover("key-0", old); now != replica {
		t.Error("another than the replica took its place")
	}
	await(t, "the client", func() error { return db.Set(t.Context(), "key-0", "new", 0).Err() })
	old.Restart()
	await(t, "the old master to follow", func() error {
		if c.ReplicaOf(replica) != old {
			return errors.New("it does not")
		}
		return following(old)
	})
}
