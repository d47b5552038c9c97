package daemon

import (
	"context"
	"errors"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/server"
)

// countEvery is how often the credentials are counted, for the metrics.
const countEvery = time.Minute

// count counts the credentials until ctx ends, and at once when definitions have been read again. While the store is away the metrics stay as they are.
func (r *Running) count(ctx context.Context, again <-chan struct{}, metrics *server.Metrics) {
	tick := time.NewTicker(countEvery)
	defer tick.Stop()
	for said := map[string]bool{}; ; {
		if all, err := r.broker.Count(ctx); err == nil {
			metrics.Counted(all)
			r.sayLost(all, said)
		}
		select {
		case <-tick.C:
		case <-again:
		case <-ctx.Done():
			return
		}
	}
}

// sayLost says of each provider that has credentials and no definition how many they are, once until it has one again.
func (r *Running) sayLost(all map[engine.Counted]int, said map[string]bool) {
	of := map[string]int{}
	for x, n := range all {
		of[x.Provider] += n
	}
	for name, n := range of {
		_, err := r.catalog.Definition(name)
		if err != nil && !said[name] {
			why := &broker.Failure{}
			errors.As(err, &why)
			r.log.Warn("credentials have no definition that loads", "provider", name, "credentials", n, "what_to_do", why.Detail)
		}
		said[name] = err != nil
	}
}
