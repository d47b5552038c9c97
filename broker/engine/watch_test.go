package engine_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// watching collects a watch's events until the test ends it.
func watching(w *world, known string) (events chan engine.Event, ended chan error, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	events, ended = make(chan engine.Event, 100), make(chan error, 1)
	go func() {
		ended <- w.Watch(ctx, local, engine.Request{Credential: "main"}, known, func(e engine.Event) error {
			events <- e
			return nil
		})
	}()
	return events, ended, cancel
}

func TestAWatchGetsEachSuccessorBeforeItsPredecessorExpires(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(10 * time.Minute)})
		w.create("main", nil)
		events, ended, stop := watching(w, "")
		before := (<-events).Token
		for range 20 {
			e := <-events
			if e.Token == nil || e.Token.ID == before.ID || !time.Now().Before(before.ExpireTime) {
				t.Fatalf("got %+v at %v, want a successor before %v", e, time.Now(), before.ExpireTime)
			}
			before = e.Token
		}
		stop()
		wantKind(t, <-ended, broker.Canceled)
		w.wantExchanges(21)
	})
}

func TestAWatchTellsOfAnInvalidationAndThenOfTheSuccessor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour)}
		w := newWorld(t, up)
		w.create("main", nil)
		events, _, stop := watching(w, "")
		defer stop()
		first := (<-events).Token
		inner := up.answer
		up.script(func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			time.Sleep(5 * time.Second) //nolint:forbidigo // the upstream's own time, in a bubble
			return inner(ctx, x)
		})
		if _, err := w.Invalidate(context.Background(), local, engine.Invalidation{Credential: "main", TokenID: first.ID}); err != nil {
			t.Fatal(err)
		}
		before := time.Now()
		if e := <-events; e.InvalidatedID != first.ID || time.Since(before) > time.Second {
			t.Fatalf("got %+v after %v, want the invalidation at once", e, time.Since(before))
		}
		if e := <-events; e.Token == nil || e.Token.ID == first.ID {
			t.Fatalf("got %+v, want the successor", e)
		}
	})
}

func TestAWatchTellsHowTheSupplyIsDoing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(10 * time.Minute)}
		w := newWorld(t, up)
		w.create("main", nil)
		events, _, stop := watching(w, "")
		defer stop()
		<-events
		good := up.answer
		up.script(func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream}
		})
		if e := <-events; e.Supply == nil || !e.Supply.Degraded || e.Supply.Failure == nil || e.Supply.Failure.Kind != broker.UpstreamUnavailable {
			t.Fatalf("got %+v, want degraded with its reason", e)
		}
		up.script(good)
		for e := range events {
			if e.Token != nil {
				break
			}
		}
		if e := <-events; e.Supply == nil || e.Supply.Degraded || e.Supply.Failure != nil {
			t.Fatalf("got %+v, want all well again", e)
		}
	})
}

func TestAWatchTellsAtTheExpiryThatThereIsNoToken(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(30 * time.Second)}
		w := newWorld(t, up)
		w.create("main", nil)
		events, _, stop := watching(w, "")
		defer stop()
		held := (<-events).Token
		up.script(func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelUpstream}
		})
		for e := range events {
			if e.Supply == nil || e.Supply.Degraded {
				continue
			}
			if late := time.Since(held.ExpireTime); late < 0 || late > 100*time.Millisecond {
				t.Errorf("told %v after the expiry, want at once", late)
			}
			break
		}
	})
}

func TestAWatchKeepsQuietAboutTheTokenThatIsKnown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)})
		w.create("main", nil)
		id := w.mustGet("main").Token.ID
		events, _, stop := watching(w, id)
		defer stop()
		synctest.Wait()
		if len(events) != 0 {
			t.Fatalf("got %+v, want nothing", <-events)
		}
		if e := <-events; e.Token == nil || e.Token.ID == id {
			t.Fatalf("got %+v, want the successor", e)
		}
	})
}

func TestAWatchEndsWhenSomebodyHasToChangeSomething(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)})
		w.create("main", nil)
		events, ended, stop := watching(w, "")
		defer stop()
		<-events
		if err := w.DeleteCredential(context.Background(), local, "main", broker.ID{}); err != nil {
			t.Fatal(err)
		}
		wantKind(t, <-ended, broker.NotFound)
	})
}

func TestAWatchEndsWhenTheUpstreamRefusesTheCredential(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: func(context.Context, broker.Exchange) (broker.Answer, error) {
			return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: "invalid_client"}
		}})
		w.create("main", nil)
		_, ended, stop := watching(w, "")
		defer stop()
		wantKind(t, <-ended, broker.CredentialMisconfigured)
	})
}

func TestClosingEndsWatches(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, &upstream{answer: issues(time.Hour)})
		w.create("main", nil)
		events, ended, stop := watching(w, "")
		defer stop()
		<-events
		synctest.Wait()
		if err := w.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		wantKind(t, <-ended, broker.ShuttingDown)
	})
}
