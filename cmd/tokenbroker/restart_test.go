package main

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tokenbroker/tokenbroker/client"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
)

// TestNobodyNoticesARestart: while three brokers on one Redis are stopped and started one after the other, and then killed with -9, all that ask by the Go client's connection go on: no call fails.
// TOKENBROKER_RESTARTS says for how long (2,000 calls a second then), and that the figures are printed.
func TestNobodyNoticesARestart(t *testing.T) {
	lasts, every := 4*time.Second, 40*time.Millisecond
	if given := os.Getenv("TOKENBROKER_RESTARTS"); given != "" {
		var err error
		if lasts, err = time.ParseDuration(given); err != nil {
			t.Fatal(err)
		}
		every = 8 * time.Millisecond
	} else {
		t.Parallel()
	}
	u := startUpstream(t)
	r := redistest.Start(t, redistest.Options{})
	key := filepath.Join(shortDir(t), "key.json")
	ports, err := freePorts(3)
	if err != nil {
		t.Fatal(err)
	}
	brokers := make([]*served, len(ports))
	start := func(i int) { brokers[i] = u.replica(key, r.URL(), "--listen", "127.0.0.1:"+ports[i]) }
	for i := range brokers {
		start(i)
	}
	brokers[0].apply(u)
	c, err := client.New("127.0.0.1:" + ports[0] + ",127.0.0.1:" + ports[1] + ",127.0.0.1:" + ports[2])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	tokens := tokenbrokerv1.NewTokenBrokerServiceClient(c.Conn())
	if _, err := c.Source(ochno).Token(t.Context()); err != nil {
		t.Fatal(err)
	}

	round := func(how string, end func(*served)) {
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		var calls, failed atomic.Int64
		var mu sync.Mutex
		var took []time.Duration
		for range 16 {
			all.Go(func() {
				for tick := time.NewTicker(every); ; {
					began := time.Now()
					_, err := tokens.GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: ochno})
					if ctx.Err() != nil {
						return
					}
					calls.Add(1)
					mu.Lock()
					took = append(took, time.Since(began))
					mu.Unlock()
					if err != nil && failed.Add(1) < 5 {
						t.Errorf("%s: %v", how, err)
					}
					select {
					case <-tick.C:
					case <-ctx.Done():
						return
					}
				}
			})
		}
		times := 0
		for until := time.Now().Add(lasts); time.Now().Before(until) || times < len(brokers); times++ {
			i := times % len(brokers)
			end(brokers[i])
			start(i)
			<-time.After(time.Second) // as any orchestrator does, and more
		}
		stop()
		all.Wait()
		slices.Sort(took)
		if len(took) > 0 {
			t.Logf("%s: %d calls, %d failed, %d times; p99 %s, the longest %s", how, calls.Load(), failed.Load(), times, took[len(took)*99/100].Round(10*time.Microsecond), took[len(took)-1].Round(10*time.Microsecond))
		}
		if n := failed.Load(); n > 0 {
			t.Errorf("%s: %d of %d calls failed", how, n, calls.Load())
		}
	}
	round("stopped", func(s *served) {
		s.signal(syscall.SIGTERM)
		if code := s.code(); code != 0 {
			t.Errorf("a broker has ended with %d", code)
		}
	})
	round("killed", (*served).kill)
	if _, err := tokens.GetToken(t.Context(), &tokenbrokerv1.GetTokenRequest{Credential: "nobody"}); status.Code(err) != codes.NotFound {
		t.Errorf("got %v", err)
	}
}
