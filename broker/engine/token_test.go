package engine_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

func TestTenThousandCallersCostOneExchange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{}
		fresh := issues(time.Hour)
		up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			sleep(3 * time.Second)
			return fresh(ctx, x)
		}
		w := newWorld(t, up)
		w.create("main", nil)
		ids := together(10_000, func(int) (string, error) {
			r, err := w.get("main")
			if err != nil {
				return "", err
			}
			return r.Token.ID, nil
		})
		for _, r := range ids {
			if r.err != nil || r.id != ids[0].id {
				t.Fatalf("got %v %v, want %v for all", r.id, r.err, ids[0].id)
			}
		}
		w.wantExchanges(1)
	})
}

func TestACallerThatGivesUpLeavesTheExchangeRunning(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{}
		fresh := issues(time.Hour)
		up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			select {
			case <-time.After(5 * time.Second):
				return fresh(ctx, x)
			case <-ctx.Done():
				return broker.Answer{}, &broker.UpstreamError{Lost: true}
			}
		}
		w := newWorld(t, up)
		w.create("main", nil)
		ctx, cancel := context.WithCancel(context.Background())
		first := make(chan error, 1)
		go func() {
			_, err := w.Token(ctx, local, engine.Request{Credential: "main"})
			first <- err
		}()
		synctest.Wait()
		second := make(chan error, 1)
		go func() {
			_, err := w.get("main")
			second <- err
		}()
		synctest.Wait()
		cancel()
		wantKind(t, <-first, broker.Canceled)
		if err := <-second; err != nil {
			t.Fatal(err)
		}
		w.wantExchanges(1)
	})
}

func TestACallersDeadlineEndsItsOwnWaitOnly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{}
		fresh := issues(time.Hour)
		up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			sleep(5 * time.Second)
			return fresh(ctx, x)
		}
		w := newWorld(t, up)
		w.create("main", nil)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := w.Token(ctx, local, engine.Request{Credential: "main"})
		f := wantKind(t, err, broker.UpstreamSlow)
		if f.RetryAt.IsZero() {
			t.Error("got no retry time: the exchange goes on, and asking again helps")
		}
		w.mustGet("main")
		w.wantExchanges(1)
	})
}

func TestAFailureIsSharedByAllWaiters(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
			sleep(time.Second)
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Status: 502}
		}}
		w := newWorld(t, up)
		w.create("main", nil)
		for _, r := range together(10_000, func(int) (string, error) { _, err := w.get("main"); return "", err }) {
			f := wantKind(t, r.err, broker.UpstreamUnavailable)
			if !f.RetryAt.After(time.Now().Add(-time.Second)) || f.UpstreamStatus != 502 {
				t.Fatalf("got %+v, want a retry time and the status", f)
			}
		}
		w.wantExchanges(1)
		// Who asks within the backoff gets the same, and costs nothing.
		_, err := w.get("main")
		wantKind(t, err, broker.UpstreamUnavailable)
		w.wantExchanges(1)
	})
}

func TestAHitAsksNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)})
		w.create("main", nil)
		first := w.mustGet("main")
		w.backend.Away()
		if again := w.mustGet("main"); again.Token != first.Token {
			t.Error("got another token")
		}
		w.wantExchanges(1)
	})
}

func TestAnExpiredTokenIsNeverServed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Minute)}
		w := newWorld(t, up)
		w.create("main", nil)
		first := w.mustGet("main")
		up.answer = func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream}
		}
		sleep(time.Until(first.Token.ExpireTime) - time.Nanosecond)
		if r := w.mustGet("main"); r.Token.ID != first.Token.ID {
			t.Error("a nanosecond before expiry: got another token")
		}
		sleep(time.Nanosecond)
		_, err := w.get("main")
		wantKind(t, err, broker.UpstreamUnavailable)
	})
}

func TestARefreshIsEarlyAndNobodyWaitsForIt(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{}
		fresh := issues(time.Hour)
		up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			sleep(2 * time.Second)
			return fresh(ctx, x)
		}
		w := newWorld(t, up)
		w.create("main", nil)
		first := w.mustGet("main")
		sleep(time.Until(first.Token.RefreshTime))
		for range 100 {
			before := time.Now()
			if r := w.mustGet("main"); r.Token.ID != first.Token.ID || time.Now() != before {
				t.Fatal("a caller waited for the refresh")
			}
		}
		sleep(3 * time.Second)
		if r := w.mustGet("main"); r.Token.ID == first.Token.ID {
			t.Error("got the old token after the refresh")
		}
		w.wantExchanges(2)
	})
}

func TestWhileATokenIsValidAFailingRefreshIsNotTheCallersProblem(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour)}
		w := newWorld(t, up)
		w.create("main", nil)
		first := w.mustGet("main")
		good := up.answer
		up.answer = func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream, Status: 500}
		}
		sleep(time.Until(first.Token.RefreshTime))
		w.mustGet("main")
		synctest.Wait()
		for range 1000 {
			r := w.mustGet("main")
			if !r.Degraded || r.Token.ID != first.Token.ID {
				t.Fatalf("got %+v, want the valid token, degraded", r)
			}
		}
		synctest.Wait()
		w.wantExchanges(2)
		up.answer = good
		sleep(10 * time.Second)
		w.mustGet("main")
		synctest.Wait()
		if r := w.mustGet("main"); r.Degraded || r.Token.ID == first.Token.ID {
			t.Errorf("got %+v, want a new token, not degraded", r)
		}
	})
}

func TestAPanicIsReleasedToTheWaitersAsAnError(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) { panic("secret-in-a-panic") }}
		w := newWorld(t, up)
		w.create("main", nil)
		for _, r := range together(50, func(int) (string, error) { _, err := w.get("main"); return "", err }) {
			wantKind(t, r.err, broker.Internal)
		}
	})
}

func TestNobodyElseIsAllowed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)})
		w.create("main", nil)
		w.mustGet("main")
		for _, name := range []broker.CredentialName{"main", "missing"} {
			_, err := w.Token(context.Background(), broker.NewCaller(broker.SPIFFE, "far.example", "far", broker.ProofX509, "services"), engine.Request{Credential: name})
			wantKind(t, err, broker.CallerNotAllowed)
		}
	})
}

func TestWhatIsMissingOrSwitchedOffSaysSo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour)}
		w := newWorld(t, up)
		_, err := w.get("missing")
		wantKind(t, err, broker.NotFound)
		w.create("main", nil)
		w.mustGet("main")
		if _, err := w.UpdateCredential(context.Background(), local, engine.Change{Name: "main", Edit: func(d *engine.Draft) error {
			d.Disabled = true
			return nil
		}}); err != nil {
			t.Fatal(err)
		}
		_, err = w.get("main")
		wantKind(t, err, broker.CredentialDisabled)
		w.create("other", nil)
		up.check = func(broker.Credential) []broker.Violation {
			return []broker.Violation{{Field: "credential.inputs.server", Description: "is required"}}
		}
		_, err = w.get("other")
		if f := wantKind(t, err, broker.CredentialIncomplete); len(f.Violations) != 1 {
			t.Errorf("got %v, want the violation", f)
		}
	})
}

type outcome struct {
	id  string
	err error
}

// together runs f so many times at once.
func together(n int, f func(i int) (string, error)) []outcome {
	out := make([]outcome, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { out[i].id, out[i].err = f(i) })
	}
	wg.Wait()
	return out
}

func TestClosingLetsFlightsCommitAndRefusesNewOnes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{}
		fresh := issues(time.Hour)
		up.answer = func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			sleep(5 * time.Second)
			return fresh(ctx, x)
		}
		w := newWorld(t, up)
		w.create("main", nil)
		w.create("other", nil)
		got := make(chan error, 1)
		go func() {
			_, err := w.get("main")
			got <- err
		}()
		synctest.Wait()
		closed := make(chan error, 1)
		go func() { closed <- w.Close(context.Background()) }()
		synctest.Wait()
		_, err := w.get("other")
		wantKind(t, err, broker.ShuttingDown)
		if err := errors.Join(<-got, <-closed); err != nil {
			t.Fatal(err)
		}
		w.start()
		w.mustGet("main")
		w.wantExchanges(1)
	})
}
