package upstreamsim

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
)

func TestConcurrencyIsCounted(t *testing.T) {
	bothProtocols(t, Options{}, func(t *testing.T, sim *Sim, client *http.Client, h2 bool) {
		const n = 8
		a := defaultAccount(t, sim, OfficeRnD)
		for range 3 { // one after the other
			obtain(t, client, a)
		}
		if got := sim.Stats(a.ID).MaxConcurrent; got != 1 {
			t.Errorf("got %d at a time, want 1", got)
		}
		b, err := sim.AddAccount(OfficeRnD)
		if err != nil {
			t.Fatal(err)
		}
		gate := sim.Hold(OfficeRnD)
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				who := a
				if i%2 == 1 {
					who = b
				}
				if r, err := send(t.Context(), client, issuing(who)); err != nil || r.status != http.StatusOK {
					t.Errorf("got %d, %v", r.status, err)
				}
			})
		}
		if err := gate.WaitArrived(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		if got := sim.SystemStats(OfficeRnD); got.InFlight != n || got.AccessTokens != 3 {
			t.Errorf("held: got %d in flight and %d tokens, want %d and 3", got.InFlight, got.AccessTokens, n)
		}
		if got := gate.Arrived(); got != n {
			t.Errorf("got %d arrived, want %d", got, n)
		}
		gate.Release()
		wg.Wait()
		for id, want := range map[AccountID]int{a.ID: n / 2, b.ID: n / 2} {
			if got := sim.Stats(id); got.MaxConcurrent != want || got.InFlight != 0 {
				t.Errorf("%s: got %d at a time, %d in flight; want %d, 0", id, got.MaxConcurrent, got.InFlight, want)
			}
		}
		got := sim.SystemStats(OfficeRnD)
		if got.MaxConcurrent != n || got.Requests[EndpointToken] != n+3 || got.Total() != n+3 {
			t.Errorf("got %+v", got)
		}
		connections := sim.Connections()
		if connections.Accepted > n || h2 && connections.Accepted != 1 || connections.Handshakes[hostOfficeRnD] != connections.Accepted {
			t.Errorf("got %+v", connections)
		}
	})
}

// An answer can be held after its effect, so that a test can end a client at that very moment.
func TestHoldAnswers(t *testing.T) {
	events := newWatch()
	sim := start(t, Options{OnEvent: events.note})
	client := newClient(t, sim, true)
	a := defaultAccount(t, sim, RefreshToken)
	gate := sim.HoldAnswers(RefreshToken, EndpointToken)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := send(ctx, client, issuing(a))
		done <- err
	}()
	if err := gate.WaitArrived(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if got := story(sim.Ledger(a.ID)); got[len(got)-1] != "issued 1.2" {
		t.Errorf("got ledger %v, want the token rotated", got)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want it cancelled", err)
	}
	events.await(t, KindLost)
	gate.Release()
	gate.Release()
}

func TestWaitArrivedEnds(t *testing.T) {
	sim := start(t, Options{})
	gate := sim.Hold("")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := gate.WaitArrived(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	if err := gate.WaitArrived(ctx, 0); err != nil {
		t.Errorf("got %v, want nil", err)
	}
	done := make(chan error)
	go func() { done <- gate.WaitArrived(t.Context(), 1) }()
	sim.Close()
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want ErrClosed", err)
	}
}

// Close ends what waits, and nothing is left; goleak looks when all tests are done.
func TestCloseEndsWaitingRequests(t *testing.T) {
	bothProtocols(t, Options{}, func(t *testing.T, sim *Sim, client *http.Client, _ bool) {
		gate := sim.Hold(Snov)
		done := make(chan error)
		go func() {
			_, err := send(context.Background(), client, issuing(defaultAccount(t, sim, Snov)))
			done <- err
		}()
		if err := gate.WaitArrived(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		if err := sim.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; err == nil {
			t.Error("a held request was answered")
		}
		if err := sim.Start(); err == nil {
			t.Error("a closed Sim was started")
		}
		if got := sim.Connections().Open; got != 0 {
			t.Errorf("got %d open connections, want 0", got)
		}
	})
}
