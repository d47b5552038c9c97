package settings

import (
	"strconv"
	"time"

	"github.com/alecthomas/kong"

	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// What durations and numbers may be at most. Beyond it nobody is served better, and the sums that are made of them do not hold.
const (
	shutdownMost      = time.Hour
	exchangeMost      = 10 * time.Minute
	cacheBoundMost    = time.Hour
	outageGraceMost   = 7 * 24 * time.Hour
	connectionAgeMost = 30 * 24 * time.Hour

	// What they may be at least: in less nothing is done, and no client gets through.
	shutdownLeast      = time.Millisecond
	exchangeLeast      = 100 * time.Millisecond
	connectionAgeLeast = time.Second

	concurrencyMost  = 10_000
	streamsMost      = 100_000
	waitReplicasMost = 100
	// messageBytesMost bounds what a request may be: one that is read is in memory whole.
	messageBytesMost = 64 << 20
)

// boundVars are what help says of them.
func boundVars(v kong.Vars) kong.Vars {
	return v.CloneWith(kong.Vars{
		"shutdown_least": written(shutdownLeast), "exchange_least": written(exchangeLeast), "connection_age_least": written(connectionAgeLeast),
		"shutdown_most": written(shutdownMost), "exchange_most": written(exchangeMost), "cache_bound_most": written(cacheBoundMost),
		"outage_grace_most": written(outageGraceMost), "connection_age_most": written(connectionAgeMost), "concurrency_most": strconv.Itoa(concurrencyMost),
		"streams_most": strconv.Itoa(streamsMost), "wait_replicas_most": strconv.Itoa(waitReplicasMost), "message_bytes_most": strconv.Itoa(messageBytesMost),
		"keys_timeout_most": written(keysTimeoutMost), "caller_rate_most": strconv.Itoa(engine.CallerRateMost),
	})
}

// boundProblems hands every duration and number to bad that is none for its setting, but for those of Redis alone.
func (s *Settings) boundProblems(bad func(setting, format string, args ...any)) {
	for _, d := range []struct {
		setting            string
		value, least, most time.Duration
	}{
		{"shutdown_timeout", s.ShutdownTimeout, shutdownLeast, shutdownMost},
		{"shutdown_grace", s.ShutdownGrace, 0, shutdownMost},
		{"exchange_timeout", s.ExchangeTimeout, exchangeLeast, exchangeMost},
		{"limits.connection_age", s.LimitsConnectionAge, connectionAgeLeast, connectionAgeMost},
		{"cache_bound", s.CacheBound, 0, cacheBoundMost},
		{"outage_grace", s.OutageGrace, 0, outageGraceMost},
	} {
		if d.value < d.least || d.value > d.most {
			least := "0"
			if d.least > 0 {
				least = written(d.least)
			}
			bad(d.setting, "must be %s or more, and at most %s: write how long, as 30s or 5m", least, written(d.most))
		}
	}
	for _, n := range []struct {
		setting            string
		value, least, most int64
	}{
		{"upstream.concurrency", int64(s.UpstreamConcurrency), 1, concurrencyMost},
		{"limits.concurrent_streams", int64(s.LimitsConcurrentStreams), 1, streamsMost},
		{"limits.caller_rate", int64(s.LimitsCallerRate), 0, engine.CallerRateMost},
		{"limits.message_bytes", int64(s.LimitsMessageBytes), 1024, messageBytesMost},
	} {
		if n.value < n.least || n.value > n.most {
			bad(n.setting, "must be from %d to %d", n.least, n.most)
		}
	}
}
