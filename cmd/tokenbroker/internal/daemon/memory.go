package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"

	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/internal/heapfloor"
	"github.com/tokenbroker/tokenbroker/server"
)

const (
	// flightBytes is what a token takes that is being fetched: its stack, mostly.
	flightBytes = 64 << 10
	// uncounted is what Go's limit leaves out of the container's at least: the kernel's part, and the binary's data.
	uncounted = 10 << 20
)

// A memoryPlan is how the process uses memory; docs/performance.md says what that brings.
type memoryPlan struct {
	// limit is Go's soft limit for all that it has; 0: it stays as it is.
	limit int64
	// floor is the heap up to which nothing is collected; 0: Go's own way.
	floor int64
	// tokens is how many tokens the cache may have; 0: as many as it has by itself.
	tokens int
	// flights is how many tokens may be fetched at a time; 0: as many as it is by itself.
	flights int
	// capacity is what is kept for those who are connected; zero: as much as by itself.
	capacity server.Capacity
	// unread is why the container's limit is unknown; nil: it is known, or there is none.
	unread error
}

// planMemory decides by the environment, in which GOGC and GOMEMLIMIT win, by the soft limit as it is, and by the container's.
// A tenth of the container's limit, and not too little, is left for what Go does not count. The heap below the floor has half
// of the rest, so that there is as much for stacks, buffers and what is live beyond it. The cache has as many tokens as fit in
// that; others are read from the store when they are asked for. So many are fetched at a time, too, as fit in it. Where the limit cannot be found out, nothing is changed.
func planMemory(env func(string) string, current int64, ofContainer func() (uint64, error)) memoryPlan {
	var p memoryPlan
	limit := current
	if env("GOMEMLIMIT") == "" {
		n, err := ofContainer()
		switch {
		case errors.Is(err, memlimit.ErrNoLimit), errors.Is(err, memlimit.ErrNoCgroup), errors.Is(err, memlimit.ErrCgroupsNotSupported):
		case err != nil:
			return memoryPlan{unread: err}
		default:
			n = min(n, math.MaxInt64)
			p.limit = int64(n - min(n/2, max(n/10, uncounted)))
			limit = p.limit
		}
	}
	if limit < math.MaxInt64 {
		p.tokens = int(max(1, limit/2/engine.TokenBytes))
		p.capacity = server.CapacityIn(limit)
		p.flights = int(min(engine.DefaultFlights, max(16, limit/2/flightBytes)))
	}
	if env("GOGC") == "" {
		p.floor = min(heapfloor.Full, limit/2)
	}
	return p
}

// useMemory sets Go's collector and its soft limit for a broker that is alone in its process, and returns what it may have. stop undoes what is
// set of the collector.
func useMemory(log *slog.Logger) (p memoryPlan, stop func()) {
	p = planMemory(os.Getenv, debug.SetMemoryLimit(-1), memlimit.FromCgroup)
	if p.unread != nil {
		log.Warn("the container's memory limit cannot be read: Go's own settings are used; GOMEMLIMIT says how much there is", "error", p.unread.Error())
		return p, func() {}
	}
	if p.limit > 0 {
		debug.SetMemoryLimit(p.limit)
	}
	if p.tokens > 0 {
		log.Info("memory is limited", "used_at_most", fmt.Sprintf("%d MiB", debug.SetMemoryLimit(-1)>>20), "tokens_in_cache", p.tokens, "fetched_at_a_time", p.flights,
			"connections", p.capacity.Connections, "calls_at_a_time", p.capacity.Calls)
	}
	if p.floor == 0 {
		return p, func() {}
	}
	return p, heapfloor.Keep(p.floor)
}
