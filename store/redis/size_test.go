package redis_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/seal"
)

// TestSize shows what so many credentials cost beside a few: `make size`, or with another number CREDENTIALS=100000.
func TestSize(t *testing.T) {
	most, err := strconv.Atoi(os.Getenv("CREDENTIALS"))
	if err != nil {
		most = 300
	}
	server := redistest.Start(t, redistest.Options{})
	keys, err := seal.New()
	if err != nil {
		t.Fatal(err)
	}
	db := open(t, server.URL())
	s, err := store.New(db, keys, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "credentials\tcreated/s\tB each\tB a token\tstart\tread p50\tp99\tacquire+commit p50\tp99\tpage of 100\t")
	made := 0
	for _, n := range []int{10, most} {
		before, began := memory(t, server), time.Now()
		parallel(made, n, func(i int) {
			if err := s.CreateCredential(context.Background(), sized(i), nil); err != nil {
				t.Error(err)
			}
		})
		rate := float64(n-made) / time.Since(began).Seconds()
		each := (memory(t, server) - before) / (n - made)

		tokens := min(n, 10_000)
		before = memory(t, server)
		commits := make([]time.Duration, tokens)
		parallel(0, tokens, func(i int) {
			began := time.Now()
			commitSized(t, s, i*(n/tokens))
			commits[i] = time.Since(began)
		})
		token := (memory(t, server) - before) / tokens

		began = time.Now()
		fresh, err := store.New(db, keys, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		start := time.Since(began)
		reads := make([]time.Duration, 2000)
		for i := range reads {
			began := time.Now()
			if _, err := fresh.Read(context.Background(), sizedKey(i*7919%n), ""); err != nil {
				t.Fatal(err)
			}
			reads[i] = time.Since(began)
		}
		began = time.Now()
		page, err := s.Credentials(context.Background(), sized(n/2).Name, 100)
		if err != nil || n >= 300 && len(page) != 100 {
			t.Fatalf("page: %d, %v", len(page), err)
		}
		listed := time.Since(began)
		fmt.Fprintf(out, "%d\t%.0f\t%d\t%d\t%v\t%v\t%v\t%v\t%v\t%v\t\n", n, rate, each, token, start.Round(time.Microsecond),
			at(reads, 50), at(reads, 99), at(commits, 50), at(commits, 99), listed.Round(time.Microsecond))
		made = n
	}
	if err := out.Flush(); err != nil {
		t.Fatal(err)
	}
}

// parallel calls f for each number from one up to another, 32 at a time.
func parallel(from, to int, f func(int)) {
	var next atomic.Int64
	next.Store(int64(from))
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < to; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}

// sized is a credential of the usual size: two inputs, one secret, two scopes.
func sized(i int) broker.Credential {
	id := broker.ID{15: 1, 0: byte(i), 1: byte(i >> 8), 2: byte(i >> 16), 3: byte(i >> 24)}
	now := time.Now()
	return broker.Credential{
		Name: broker.CredentialName(fmt.Sprintf("customer-%07d-main", i)), Provider: "officernd",
		Inputs:  map[string]string{"client_id": fmt.Sprintf("client-%036d", i)},
		Secrets: map[string]broker.SecretInput{"client_secret": {Value: broker.NewSecret(fmt.Sprintf("%048d", i)), SetTime: now}},
		Labels:  map[string]string{"team": "integrations"}, Incarnation: id, Version: id, Epoch: id, Etag: id, Number: 1,
		CreateTime: now, UpdateTime: now,
	}
}

func sizedKey(i int) broker.TokenKey {
	return broker.TokenKey{Credential: sized(i).Name, Token: [32]byte{1}, Selection: [32]byte{2}, Grant: [32]byte{2}, Digest: "d"}
}

// commitSized stores a token of the usual size, a JWT of 700 bytes.
func commitSized(t *testing.T, s *store.Store, i int) {
	ctx, now := context.Background(), time.Now()
	v, err := s.Read(ctx, sizedKey(i), "")
	if err != nil {
		t.Error(err)
		return
	}
	if v.Token != nil {
		return
	}
	l, err := v.Acquire(ctx, time.Minute, false)
	if err != nil {
		t.Error(err)
		return
	}
	_, err = l.Commit(ctx, broker.Outcome{Now: now, Token: &broker.Issued{
		ID: fmt.Sprintf("%032d", i), Values: map[string]broker.Secret{"token": broker.NewSecret(strings.Repeat("x", 700))}, TokenType: "Bearer",
		SentAt: now, ExpireAt: now.Add(time.Hour), RefreshAt: now.Add(50 * time.Minute),
	}, Attempts: []broker.Attempt{{Start: now, Duration: time.Second, Host: "identity.example.com:443", Status: 200, Taken: []string{"token"}}}})
	if err != nil {
		t.Error(err)
	}
}

func memory(t *testing.T, s *redistest.Server) int {
	t.Helper()
	info, err := s.Do("INFO", "memory")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(fmt.Sprint(info)) {
		if v, ok := strings.CutPrefix(line, "used_memory:"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(v))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatal("no used_memory")
	return 0
}

// at is a percentile.
func at(d []time.Duration, percent int) time.Duration {
	slices.Sort(d)
	return d[len(d)*percent/100].Round(time.Microsecond)
}
