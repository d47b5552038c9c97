package engine_test

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/bolt"
)

// TestAFailureByAClockThatWasAheadIsNotRemembered: a machine starts with a clock that is a day ahead; the upstream cannot be asked for that very reason (certificates, assertions). The clock is set
// right, and the broker is restarted.
func TestAFailureByAClockThatWasAheadIsNotRemembered(t *testing.T) {
	for name, refusal := range map[string]broker.UpstreamError{
		"the credential": {Level: broker.LevelCredential, Status: 401, Code: "invalid_client", InvalidClient: true},
		"the answer":     {Level: broker.LevelResponse, Status: 200},
		"the upstream":   {Level: broker.LevelUpstream, Status: 503},
	} {
		t.Run(name, func(t *testing.T) {
			var ahead atomic.Int64
			ahead.Store(int64(24 * time.Hour))
			wall := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
			fine := false
			next := issues(time.Hour)
			up := &upstream{answer: func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
				if fine {
					a, err := next(ctx, x)
					a.Expiry.SentAt = wall()
					return a, err
				}
				e := refusal
				return broker.Answer{}, &e
			}}
			up.complete()
			keys, path := newKeys(t), filepath.Join(t.TempDir(), "db")
			start := func() (*world, func()) {
				began := time.Now()
				clock := broker.NewClock(func() (time.Time, time.Duration) { return wall(), time.Since(began) })
				db, err := bolt.Open(path, bolt.Options{Now: wall})
				if err != nil {
					t.Fatal(err)
				}
				s, err := store.New(db, keys, store.Options{Clock: clock})
				if err != nil {
					t.Fatal(err)
				}
				w := &world{t: t, up: up, store: s}
				w.start(func(x *engine.Settings) { x.Clock = clock })
				return w, func() { _ = w.Close(context.Background()); _ = db.Close() }
			}
			w, shut := start()
			w.create("main", nil)
			if _, err := w.get("main"); err == nil {
				t.Fatal("it works at first")
			}
			shut()
			ahead.Store(0)
			fine = true
			w, shut = start()
			defer shut()
			for _, later := range []time.Duration{time.Minute, time.Hour, 12 * time.Hour, 23 * time.Hour} {
				ahead.Store(int64(later))
				if _, err := w.get("main"); err != nil {
					t.Errorf("%v later, with an upstream that is well: %v", later, err)
				}
			}
		})
	}
}
