package upstreamsim

import (
	"context"
	"testing"
	"time"
)

// Every kind that there is can be injected, at every system that it makes sense for, happens as often as asked and is counted.
func TestEveryFaultKind(t *testing.T) {
	if len(FaultKinds()) == 0 {
		t.Fatal("there are no kinds")
	}
	hung := newWatch()
	sim := start(t, Options{OnEvent: func(e Event) {
		if e.Kind == KindFault && e.Detail == string(FaultHang) {
			hung.note(e)
		}
	}})
	client := newClient(t, sim, true)
	for _, kind := range FaultKinds() {
		injected := 0
		for _, a := range sim.Accounts() {
			f := Fault{Kind: kind, System: a.System, Count: 1, Code: "invalid_request", Size: 1000, Interval: time.Microsecond,
				Skew: time.Hour, Value: "null"}
			clear, err := sim.AddFault(f)
			if err != nil {
				if a.System != DocuWareCookie {
					t.Errorf("%s: %s: %v", a, kind, err)
				}
				continue
			}
			injected++
			if kind == FaultHang {
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() {
					defer close(done)
					_, _ = send(ctx, client, issuing(a))
				}()
				hung.await(t, KindFault)
				cancel()
				<-done
			} else {
				_, _ = send(t.Context(), client, issuing(a)) // what it meets is the business of other tests
			}
			clear()
			if a.System == RefreshToken {
				if a, err = sim.Reseed(a.ID); err != nil {
					t.Fatal(err)
				}
			}
			obtain(t, client, a)
			if a.System == RefreshToken {
				if _, err = sim.Reseed(a.ID); err != nil {
					t.Fatal(err)
				}
			}
			if got := sim.Stats(a.ID).Faults[kind]; got != 1 {
				t.Errorf("%s: got %d of %s, want 1", a, got, kind)
			}
		}
		if injected < len(Systems())-1 {
			t.Errorf("%s: injected at %d systems only", kind, injected)
		}
	}
}
