package redis_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/redis"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// A rig is a store on a Redis, as a broker has it.
type rig struct {
	*store.Store
	t           *testing.T
	unconfirmed int
	log         *lines
}

// lines is a log that can be searched while it is written.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newRig(t *testing.T, address string, more ...func(*redis.Options)) *rig {
	t.Helper()
	keys, err := seal.New()
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, log: &lines{}}
	db := open(t, address, more...)
	r.Store, err = store.New(db, keys, store.Options{
		Unconfirmed: func() { r.unconfirmed++ }, Log: slog.New(slog.NewTextHandler(r.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	listens := make(chan struct{})
	var once sync.Once
	done.Go(func() { r.Watch(ctx, func(broker.Notice) { once.Do(func() { close(listens) }) }) })
	t.Cleanup(func() {
		cancel()
		done.Wait()
	})
	<-listens
	return r
}

func (r *rig) create(name string) broker.TokenKey {
	r.t.Helper()
	c := broker.Credential{
		Name: broker.CredentialName(name), Provider: "p", Incarnation: broker.NewID(), Version: broker.NewID(), Epoch: broker.NewID(),
		Etag: broker.NewID(), Seeds: map[string]broker.Seed{"refresh_token": {}},
	}
	seed := &broker.Grant{Generation: broker.NewID(), RefreshToken: broker.NewSecret("refresh-0")}
	if err := r.CreateCredential(context.Background(), c, seed); err != nil {
		r.t.Fatal(err)
	}
	return broker.TokenKey{Credential: c.Name, Token: [32]byte{1}, Selection: [32]byte{2}, Digest: "d", Spends: true}
}

// refresh takes the lease, and commits the next refresh token. A lease that may have been taken is given back.
func (r *rig) refresh(k broker.TokenKey, next string) error {
	v, err := r.Read(context.Background(), k, "")
	if err != nil {
		return err
	}
	l, err := v.Acquire(context.Background(), time.Minute, true)
	if err != nil && l != nil {
		return errors.Join(err, l.Release(context.Background()))
	}
	if err != nil {
		return err
	}
	return r.commit(l, next)
}

func (r *rig) commit(l broker.Lease, next string) error {
	now := time.Now()
	_, err := l.Commit(context.Background(), broker.Outcome{
		RefreshToken: broker.NewSecret(next), Now: now,
		Token: &broker.Issued{ID: next, Values: map[string]broker.Secret{"token": broker.NewSecret("access-" + next)}, SentAt: now, ExpireAt: now.Add(time.Hour)},
	})
	return err
}

func (r *rig) grant(k broker.TokenKey) string {
	v, err := r.Read(context.Background(), k, "")
	if err != nil {
		return err.Error()
	}
	return v.Grant.RefreshToken.Reveal()
}

// eventually waits for what takes a failover's time.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !done() {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-deadline:
			t.Fatalf("not in a minute: %s", what)
		}
	}
}

// TestNoAcknowledgedCommitIsLostWhenRedisIsKilled, and what could not be acknowledged is repeated with the same effect.
func TestNoAcknowledgedCommitIsLostWhenRedisIsKilled(t *testing.T) {
	s := redistest.Start(t, redistest.Options{})
	r := newRig(t, s.URL())
	const credentials, kills = 8, 3
	var wg sync.WaitGroup
	stop := make(chan struct{})
	acknowledged := make([]int, credentials)
	sent := make([]int, credentials)
	for c := range credentials {
		k := r.create(fmt.Sprint("c", c))
		wg.Go(func() {
			for n := 1; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				sent[c] = n
				if r.refresh(k, fmt.Sprint("refresh-", n)) == nil {
					acknowledged[c] = n
				}
			}
		})
	}
	for range kills {
		<-time.After(400 * time.Millisecond)
		s.Kill()
		s.Restart()
	}
	<-time.After(400 * time.Millisecond)
	close(stop)
	wg.Wait()
	for c := range credentials {
		if acknowledged[c] == 0 {
			t.Errorf("credential %d: nothing was ever acknowledged", c)
		}
		// Any commit that was sent after it may have been made although its answer was lost.
		k := broker.TokenKey{Credential: broker.CredentialName(fmt.Sprint("c", c)), Token: [32]byte{1}, Selection: [32]byte{2}, Digest: "d", Spends: true}
		var n int
		eventually(t, "a grant can be read", func() bool { // the client dials no more than once a second after many failures
			_, err := fmt.Sscanf(r.grant(k), "refresh-%d", &n)
			return err == nil
		})
		if n < acknowledged[c] || n > sent[c] {
			t.Errorf("credential %d: got %d, want one from %d, which was acknowledged last, to %d, which was sent last", c, n, acknowledged[c], sent[c])
		}
	}
}

// TestACommitThatAFailoverUndidIsMadeAgain: a replica that did not have it becomes the master.
func TestACommitThatAFailoverUndidIsMadeAgain(t *testing.T) {
	c := redistest.StartCluster(t)
	prefix := "t" + rand.Text()
	r := newRig(t, "redis+cluster://"+strings.Join(c.Addrs(), ","), func(o *redis.Options) { o.Prefix = prefix })
	k := r.create("main")
	if err := r.refresh(k, "refresh-1"); err != nil {
		t.Fatal(err)
	}
	master := c.MasterFor(groupKey(t, c, prefix))
	replica := c.ReplicaOf(master)
	master.AwaitReplicated()
	replica.Kill() // one that is only stopped would still read what the master has sent
	if err := r.refresh(k, "refresh-2"); err != nil {
		t.Fatal(err)
	}
	master.Kill()
	replica.Restart()
	if _, err := replica.Do("CLUSTER", "FAILOVER", "TAKEOVER"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the refresh token is in place again", func() bool { return r.grant(k) == "refresh-2" })
	eventually(t, "the log tells it", func() bool { return strings.Contains(r.log.String(), "in place again") })
	if strings.Contains(r.log.String(), "refresh-2") {
		t.Error("the log shows the refresh token")
	}
	if err := r.refresh(k, "refresh-3"); err != nil {
		t.Errorf("it does not go on: %v", err)
	}
}

// TestWithReplicasNothingUnconfirmedIsPresented: fewer replicas than wanted, and the refresh token is not even sent; and what
// was confirmed survives.
func TestWithReplicasNothingUnconfirmedIsPresented(t *testing.T) {
	c := redistest.StartCluster(t)
	prefix := "t" + rand.Text()
	r := newRig(t, "redis+cluster://"+strings.Join(c.Addrs(), ","), func(o *redis.Options) { o.Prefix, o.WaitReplicas = prefix, 1 })
	k := r.create("main")
	for n := range 5 {
		if err := r.refresh(k, fmt.Sprint("confirmed-", n)); err != nil {
			t.Fatal(err)
		}
	}
	if r.unconfirmed != 0 {
		t.Errorf("%d unconfirmed although the replica is there", r.unconfirmed)
	}
	v, err := r.Read(t.Context(), k, "")
	if err != nil {
		t.Fatal(err)
	}
	lease, err := v.Acquire(t.Context(), time.Minute, true)
	if err != nil {
		t.Fatal(err)
	}
	master := c.MasterFor(groupKey(t, c, prefix))
	replica := c.ReplicaOf(master)
	replica.Stop()
	if err := r.commit(lease, "unconfirmed"); err != nil {
		t.Fatalf("got %v: an exchange that was made is committed all the same", err)
	}
	if r.unconfirmed != 1 {
		t.Errorf("counted %d, want 1", r.unconfirmed)
	}
	if err := r.refresh(k, "never"); err == nil || !strings.Contains(err.Error(), "too few replicas") {
		t.Errorf("acquire: got %v, want that too few replicas confirm", err)
	}
	if v, err := r.Read(t.Context(), k, ""); err != nil || v.LeaseLeft > 0 || !v.Grant.Marker.IsZero() {
		t.Errorf("got lease %v, marker %v, %v; want both released", v.LeaseLeft, v.Grant.Marker, err)
	}
	replica.Kill()
	master.Kill()
	replica.Restart()
	if _, err := replica.Do("CLUSTER", "FAILOVER", "TAKEOVER"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a confirmed one at least is there", func() bool { return strings.Contains(r.grant(k), "confirmed") })
	eventually(t, "the unconfirmed one is in place again", func() bool { return r.grant(k) == "unconfirmed" })
}

// groupKey finds a key of the only credential.
func groupKey(t *testing.T, c *redistest.Cluster, prefix string) string {
	t.Helper()
	for _, s := range c.Nodes()[:3] {
		all, err := s.Do("KEYS", prefix+":1:{c:*}:rows")
		if err != nil {
			t.Fatal(err)
		}
		if found, ok := all.([]any); ok && len(found) > 0 {
			return fmt.Sprint(found[0])
		}
	}
	t.Fatal("no credential is stored")
	return ""
}
