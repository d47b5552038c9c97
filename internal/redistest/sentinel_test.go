package redistest

import (
	"errors"
	"fmt"
	"testing"

	"github.com/redis/go-redis/v9"
)

func TestSentinelFailsOver(t *testing.T) {
	t.Parallel()
	s := StartSentinel(t)
	if len(s.SentinelAddrs()) != 3 || len(s.Replicas()) != 2 {
		t.Fatalf("%d sentinels, %d replicas", len(s.SentinelAddrs()), len(s.Replicas()))
	}
	c := redis.NewFailoverClient(&redis.FailoverOptions{
		MasterName: s.MasterName(), SentinelAddrs: s.SentinelAddrs(),
	})
	defer c.Close()
	if err := c.Set(t.Context(), "key", "value", 0).Err(); err != nil {
		t.Fatal(err)
	}
	for _, r := range s.Replicas() {
		await(t, "the replica", func() error {
			if get(t, r, "key") != "value" {
				return errors.New("it has not followed")
			}
			return nil
		})
	}
	old := s.KillMaster()
	if s.AwaitFailover(old) == old {
		t.Fatal("the master is who it was")
	}
	// Sentinels of a busy machine may fail over once more, at any time.
	await(t, "the client", func() error { return c.Set(t.Context(), "key", "new", 0).Err() })
	await(t, "a new master to have it", func() error {
		if got, err := s.Master().Do("GET", "key"); got != "new" {
			return fmt.Errorf("it has %v, %w", got, err)
		}
		return nil
	})
	old.Restart()
	await(t, "the old master to follow", func() error { return replicated(s.Master(), 2) })
}
