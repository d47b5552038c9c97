package daemon

import (
	"errors"
	"log/slog"
	"math"
	"runtime/debug"
	"testing"

	"github.com/KimMachineGun/automemlimit/memlimit"

	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/server"
)

func TestPlanMemory(t *testing.T) {
	const mib = 1 << 20
	limited := func(n uint64) func() (uint64, error) { return func() (uint64, error) { return n, nil } }
	fails := func(err error) func() (uint64, error) { return func() (uint64, error) { return 0, err } }
	unreadable := errors.New("permission denied")
	for _, test := range []struct {
		name        string
		env         map[string]string
		current     int64
		ofContainer func() (uint64, error)
		want        memoryPlan
	}{
		{"no limit", nil, math.MaxInt64, fails(memlimit.ErrNoLimit), memoryPlan{floor: 64 * mib}},
		{"no container", nil, math.MaxInt64, fails(memlimit.ErrNoCgroup), memoryPlan{floor: 64 * mib}},
		{"another system", nil, math.MaxInt64, fails(memlimit.ErrCgroupsNotSupported), memoryPlan{floor: 64 * mib}},
		{"64 MiB", nil, math.MaxInt64, limited(64 * mib), memoryPlan{limit: 54 * mib, floor: 27 * mib, tokens: 3456, flights: 432}},
		{"1 GB", nil, math.MaxInt64, limited(1e9), memoryPlan{limit: 9e8, floor: 64 * mib, tokens: 54931, flights: 4000}},
		{"16 MiB", nil, math.MaxInt64, limited(16 * mib), memoryPlan{limit: 8 * mib, floor: 4 * mib, tokens: 512, flights: 64}},
		{"nothing", nil, math.MaxInt64, limited(0), memoryPlan{tokens: 1, flights: 16}},
		{"more than there are numbers", nil, math.MaxInt64, limited(math.MaxUint64), memoryPlan{limit: math.MaxInt64 - math.MaxInt64/10, floor: 64 * mib, tokens: (math.MaxInt64 - math.MaxInt64/10) / 2 / engine.TokenBytes, flights: 4000}},
		{"GOGC", map[string]string{"GOGC": "50"}, math.MaxInt64, limited(64 * mib), memoryPlan{limit: 54 * mib, tokens: 3456, flights: 432}},
		{"GOGC, no limit", map[string]string{"GOGC": "off"}, math.MaxInt64, fails(memlimit.ErrNoLimit), memoryPlan{}},
		{"GOMEMLIMIT", map[string]string{"GOMEMLIMIT": "40MB"}, 40e6, limited(64 * mib), memoryPlan{floor: 20e6, tokens: 2441, flights: 305}},
		{"GOMEMLIMIT, unreadable", map[string]string{"GOMEMLIMIT": "40MB"}, 40e6, fails(unreadable), memoryPlan{floor: 20e6, tokens: 2441, flights: 305}},
		{"GOMEMLIMIT is off", map[string]string{"GOMEMLIMIT": "off"}, math.MaxInt64, limited(64 * mib), memoryPlan{floor: 64 * mib}},
		{"both", map[string]string{"GOGC": "50", "GOMEMLIMIT": "40MB"}, 40e6, limited(64 * mib), memoryPlan{tokens: 2441, flights: 305}},
		{"unreadable", nil, math.MaxInt64, fails(unreadable), memoryPlan{unread: unreadable}},
	} {
		got := planMemory(func(name string) string { return test.env[name] }, test.current, test.ofContainer)
		if limited := got.capacity != (server.Capacity{}); limited != (got.tokens > 0) {
			t.Errorf("%s: there is room for %+v", test.name, got.capacity)
		}
		if got.capacity = (server.Capacity{}); got != test.want {
			t.Errorf("%s: got %+v, want %+v", test.name, got, test.want)
		}
	}
}

// TestWhatFitsIntoLittleMemory: a container of 64 MiB has room for connections, calls and their bytes beside its cache.
func TestWhatFitsIntoLittleMemory(t *testing.T) {
	if got, want := server.CapacityIn(54<<20), (server.Capacity{Connections: 128, Calls: 1152, Unread: 54 << 20 / 10}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := server.CapacityIn(math.MaxInt64); got != (server.Capacity{Connections: 2000, Calls: 32768, Unread: 128 << 20}) {
		t.Errorf("got %+v", got)
	}
}

// TestUseMemory: whatever holds here, the process has it, and the collector is as before in the end.
func TestUseMemory(t *testing.T) {
	t.Setenv("GOGC", "")
	t.Setenv("GOMEMLIMIT", "")
	limit, percent := debug.SetMemoryLimit(-1), debug.SetGCPercent(77)
	defer func() {
		debug.SetMemoryLimit(limit)
		debug.SetGCPercent(percent)
	}()
	_, stop := useMemory(slog.New(slog.DiscardHandler))
	stop()
	if got := debug.SetGCPercent(77); got != 77 {
		t.Errorf("the percentage is %d, want 77 again", got)
	}
	t.Setenv("GOGC", "77")
	_, stop = useMemory(slog.New(slog.DiscardHandler))
	defer stop()
	if got := debug.SetGCPercent(77); got != 77 {
		t.Errorf("with GOGC: the percentage is %d, want 77", got)
	}
}
