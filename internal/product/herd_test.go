package product

import (
	"context"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// herd asks from so many callers on 100 connections, each call in its own goroutine, and returns what each got.
func (r *rig) herd(callers int, ask func(ctx context.Context, c tokenbrokerv1.TokenBrokerServiceClient, i int) error) []error {
	r.t.Helper()
	const connections = 100
	var clients []tokenbrokerv1.TokenBrokerServiceClient
	for range connections {
		conn := r.dial()
		defer conn.Close()
		clients = append(clients, tokenbrokerv1.NewTokenBrokerServiceClient(conn))
	}
	ctx := testContext(r.t)
	errs := make([]error, callers)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() { errs[i] = ask(ctx, clients[i%connections], i) })
	}
	wg.Wait()
	return errs
}

func TestTenThousandCallersOnAHundredConnectionsCostOneExchange(t *testing.T) {
	r := newRig(t, rigOptions{timeout: time.Minute}) // of the exchange that waits for all of them
	a := r.account(upstreamsim.OfficeRnD)
	r.create("main", a)
	gate := r.sim.Hold(upstreamsim.OfficeRnD)
	first, cancel := context.WithCancel(testContext(t))
	gone := make(chan error, 1)
	go func() {
		_, err := r.tokens.GetToken(first, &tokenbrokerv1.GetTokenRequest{Credential: "main"})
		gone <- err
	}()
	if err := gate.WaitArrived(testContext(t), 1); err != nil {
		t.Fatal(err)
	}
	cancel() // the first caller goes away in the middle of its exchange
	if got := status.Code(<-gone); got != codes.Canceled {
		t.Errorf("the first caller got %v, want Canceled", got)
	}
	var mu sync.Mutex
	waiting, ids := 0, map[string]int{}
	release := sync.OnceFunc(gate.Release)
	errs := r.herd(10_000, func(ctx context.Context, c tokenbrokerv1.TokenBrokerServiceClient, _ int) error {
		mu.Lock()
		if waiting++; waiting == 10_000 {
			release()
		}
		mu.Unlock()
		res, err := c.GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: "main"})
		mu.Lock()
		ids[res.GetToken().GetTokenId()]++
		mu.Unlock()
		return err
	})
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(ids) != 1 || r.sim.Stats(a.ID).Total() != 1 {
		t.Errorf("got %d tokens and %d requests, want one of each", len(ids), r.sim.Stats(a.ID).Total())
	}
}

func TestAFailureIsSharedWithReasonAndRetryInfo(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.OfficeRnD)
	r.create("main", a)
	if _, err := r.sim.AddFault(upstreamsim.Fault{Kind: upstreamsim.FaultBadGateway, System: upstreamsim.OfficeRnD}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, err := range r.herd(10_000, func(ctx context.Context, c tokenbrokerv1.TokenBrokerServiceClient, _ int) error {
		_, err := c.GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: "main"})
		return err
	}) {
		wantStatus(t, err, codes.Unavailable, "UPSTREAM_UNAVAILABLE", true)
	}
	// The herd may take longer than the first backoffs, which double: then one of it finds out that nothing has changed.
	most := 1
	for waited, backoff := time.Second, 2*time.Second; waited <= time.Since(began); waited, backoff = waited+backoff, 2*backoff {
		most++
	}
	if n := r.sim.Stats(a.ID).Total(); n < 1 || n > most {
		t.Errorf("got %d requests, want one, and one more for each backoff that went by: %d at most", n, most)
	}
}

func TestAThousandInvalidationsOverTheWireCostOneExchange(t *testing.T) {
	r := newRig(t, rigOptions{})
	a := r.account(upstreamsim.OfficeRnD)
	r.create("main", a)
	bad := r.mustGet("main").GetTokenId()
	check := func(errs []error) {
		t.Helper()
		for _, err := range errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	check(r.herd(1000, func(ctx context.Context, c tokenbrokerv1.TokenBrokerServiceClient, _ int) error {
		_, err := c.Invalidate(ctx, &tokenbrokerv1.InvalidateRequest{Credential: "main", Target: &tokenbrokerv1.InvalidateRequest_TokenId{TokenId: bad}})
		return err
	}))
	for _, reject := range []string{"", bad} {
		check(r.herd(1000, func(ctx context.Context, c tokenbrokerv1.TokenBrokerServiceClient, _ int) error {
			res, err := c.GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: "main", RejectedTokenId: reject})
			if res.GetToken().GetTokenId() == bad {
				t.Error("got the rejected token")
			}
			return err
		}))
	}
	if n := r.sim.Stats(a.ID).Total(); n != 2 {
		t.Errorf("got %d requests, want 2: one more than before", n)
	}
}

// wantStatus holds an error against code, reason and whether it says when to retry, and finds no upstream text in it.
func wantStatus(t testing.TB, err error, code codes.Code, reason string, retry bool) *errdetails.ErrorInfo {
	t.Helper()
	s := status.Convert(err)
	var info *errdetails.ErrorInfo
	var again *errdetails.RetryInfo
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			info = d
		case *errdetails.RetryInfo:
			again = d
		}
	}
	if s.Code() != code || info.GetReason() != reason {
		t.Fatalf("got %v %s (%s), want %v %s", s.Code(), info.GetReason(), s.Message(), code, reason)
	}
	if retry != (again != nil) || retry && again.GetRetryDelay().AsDuration() > 2*time.Hour {
		t.Fatalf("got RetryInfo %v, want %v", again, retry)
	}
	return info
}
