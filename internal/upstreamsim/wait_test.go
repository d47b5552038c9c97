package upstreamsim

import (
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestSlowBody(t *testing.T) {
	bothProtocols(t, Options{}, func(t *testing.T, sim *Sim, client *http.Client, _ bool) {
		a := defaultAccount(t, sim, RefreshToken)
		addFault(t, sim, Fault{Kind: FaultSlowBody, Interval: time.Microsecond, Count: 1})
		next := mustSend(t, client, issuing(a)).text(t, "refresh_token")

		// A client that leaves midway has lost the answer, and the token is spent.
		addFault(t, sim, Fault{Kind: FaultSlowBody, Interval: time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r, err := refreshing(a, next).request(ctx)
		if err != nil {
			t.Fatal(err)
		}
		gate := sim.HoldAnswers(RefreshToken)
		done := make(chan error)
		go func() {
			response, err := client.Do(r)
			if err == nil {
				_, err = io.ReadAll(response.Body)
				response.Body.Close()
			}
			done <- err
		}()
		if err := gate.WaitArrived(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		gate.Release()
		cancel()
		if err := <-done; err == nil {
			t.Error("the body of a cancelled request was read to its end")
		}
		sim.Close() // waits for the handler
		want := []string{
			"issued 1.1", "presented 1.1", "spent 1.1", "issued 1.2", "delivered 1.2",
			"presented 1.2", "spent 1.2", "issued 1.3", "lost 1.3",
		}
		if diff := cmp.Diff(want, story(sim.Ledger(a.ID))); diff != "" {
			t.Errorf("ledger (-want +got):\n%s", diff)
		}
	})
}

func TestHang(t *testing.T) {
	events := newWatch()
	bothProtocols(t, Options{OnEvent: events.note}, func(t *testing.T, sim *Sim, client *http.Client, _ bool) {
		a := defaultAccount(t, sim, OchnoOperated)
		result := make(chan int, 1)
		try := func(ctx context.Context) {
			r, err := send(ctx, client, issuing(a))
			if err != nil {
				result <- 0
				return
			}
			result <- r.status
		}
		clear := addFault(t, sim, Fault{Kind: FaultHang, Account: a.ID, Count: 1})
		go try(t.Context())
		events.await(t, KindFault)
		if got := sim.Stats(a.ID).InFlight; got != 1 {
			t.Errorf("got %d in flight, want 1", got)
		}
		if got := mustSend(t, client, issuing(a)).status; got != http.StatusOK { // the count is used up
			t.Errorf("the next request: got %d, want 200", got)
		}
		clear()
		if got := <-result; got != http.StatusOK {
			t.Errorf("released: got %d, want 200", got)
		}

		// A client that gives up: before the effect there is none, afterwards the answer is lost.
		for _, after := range []bool{false, true} {
			addFault(t, sim, Fault{Kind: FaultHang, Account: a.ID, Count: 1, After: after})
			ctx, cancel := context.WithCancel(t.Context())
			go try(ctx)
			events.await(t, KindFault)
			if after {
				events.await(t, KindIssued)
			}
			cancel()
			if got := <-result; got != 0 {
				t.Errorf("cancelled: got %d, want an error", got)
			}
		}
		sim.Close()
		want := []string{"issued 1.1", "delivered 1.1", "issued 2.1", "delivered 2.1", "issued 3.1", "lost 3.1"}
		if diff := cmp.Diff(want, story(sim.Ledger(a.ID))); diff != "" {
			t.Errorf("ledger (-want +got):\n%s", diff)
		}
	})
}
