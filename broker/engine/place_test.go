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
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// turning is a definition that asks nobody for a credential with the label "static".
type turning struct{ *upstream }

func (d turning) Definition(name string) (broker.Definition, error) {
	_, err := d.upstream.Definition(name)
	return d, err
}

func (d turning) Host(c broker.Credential, _ broker.Selection) string {
	if c.Labels["static"] != "" {
		return ""
	}
	return d.host
}

// TestAPlaceIsGivenBackWhereNobodyIsAskedAnyMore: credentials that wait for an upstream's turn become such that no upstream is asked. Others get it.
func TestAPlaceIsGivenBackWhereNobodyIsAskedAnyMore(t *testing.T) {
	bubble(t, func(t *testing.T) {
		next, wait := issues(time.Hour), make(chan struct{})
		up := &upstream{answer: func(ctx context.Context, x broker.Exchange) (broker.Answer, error) {
			<-wait
			return next(ctx, x)
		}}
		w := newWorld(t, up, func(s *engine.Settings) { s.Upstream = turning{up} })
		for _, name := range []string{"a", "b", "well"} {
			w.create(name, nil)
		}
		for _, name := range []string{"a", "b"} {
			for i := range 30 {
				go w.get(name, scopes(t, fmt.Sprint("s", i)))
			}
		}
		synctest.Wait()
		for _, name := range []string{"a", "b"} {
			w.update(name, func(d *engine.Draft) { d.Labels = map[string]string{"static": "yes"} })
		}
		close(wait)
		sleep(2 * time.Minute) // whatever was waiting has ended
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := w.Token(ctx, local, engine.Request{Credential: "well"}); err != nil {
			t.Errorf("another credential of that upstream: %v", err)
		}
	})
}

// TestAFlightThatIsAlwaysTooLateEnds: the store is so slow that no exchange has time left.
func TestAFlightThatIsAlwaysTooLateEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var applied atomic.Int64
		up := &upstream{answer: issues(time.Hour)}
		w := newReplicas(t, 1, up, func(x *engine.Settings) { x.ExchangeTimeout = 500 * time.Millisecond })[0]
		w.create("main", nil)
		w.backend.Set(slow(&applied, 600*time.Millisecond))
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		_, err := w.Token(ctx, local, engine.Request{Credential: "main"})
		wantKind(t, err, broker.UpstreamSlow)
		if n := applied.Load(); n > 500 {
			t.Errorf("it has written %d times", n)
		}
		w.backend.Set(slow(&applied, 0))
	})
}

func slow(n *atomic.Int64, d time.Duration) storetest.Hooks {
	return storetest.Hooks{AfterApply: func(context.Context, store.Batch) error {
		n.Add(1)
		sleep(d)
		return nil
	}}
}
