package engine_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// counting counts how often watches look.
type counting struct {
	broker.LocalOnly
	looks *atomic.Int64
}

// Changes is asked by each watch, each time that it looks.
func (a counting) Changes() <-chan struct{} {
	a.looks.Add(1)
	return nil
}

// TestMadeUpRejectionsWakeNoWatches: a caller who makes up ids of rejected tokens has everybody's watches of the credential look again, each time: of a token that is the same.
func TestMadeUpRejectionsWakeNoWatches(t *testing.T) {
	bubble(t, func(t *testing.T) {
		looks := &atomic.Int64{}
		w := newReplicas(t, 1, &upstream{answer: issues(time.Hour)}, func(s *engine.Settings) { s.Authorizer = counting{looks: looks} })[0]
		w.create("main", nil)
		ctx, cancel := context.WithCancel(t.Context())
		for range 200 {
			go func() {
				_ = w.Watch(ctx, broker.NewCaller(broker.Local, "", "", broker.ProofNone, "watcher"), engine.Request{Credential: "main"}, "", func(engine.Event) error { return nil })
			}()
		}
		synctest.Wait()
		sleep(3 * time.Second)
		before := looks.Load()
		for i := range 200 {
			w.mustGet("main", rejected(fmt.Sprint("made-up-", i)))
			synctest.Wait()
		}
		if n := looks.Load() - before; n > 1000 {
			t.Errorf("200 calls of one caller had 200 watches look %d times", n)
		}
		cancel()
		synctest.Wait()
	})
}

// TestAWatchHearsOfATokenThatOnlyThisProcessHas: the store can be read and takes no commits.
func TestAWatchHearsOfATokenThatOnlyThisProcessHas(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newReplicas(t, 1, &upstream{answer: issues(time.Hour)}, grace(time.Hour))[0]
		w.create("main", nil)
		first := w.mustGet("main")
		got := make(chan string, 10)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() {
			_ = w.Watch(ctx, local, engine.Request{Credential: "main"}, "", func(e engine.Event) error {
				if e.Token != nil {
					got <- e.Token.ID
				}
				return nil
			})
		}()
		<-got
		sleep(20 * time.Minute)
		w.mustGet("main")
		w.backend.Set(storetest.Hooks{BeforeApply: takesNoCommits})
		select {
		case <-got:
			if !time.Now().Before(first.Token.ExpireTime) {
				t.Error("it is told after the former one has ended")
			}
		case <-time.After(2 * time.Hour):
			t.Error("never")
		}
	})
}
