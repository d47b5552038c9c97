package settings

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"

	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/server"
)

// spoken is a duration as the documents write it: 2 s.
func spoken(d time.Duration) string {
	s := written(d)
	return s[:len(s)-1] + " " + s[len(s)-1:]
}

// What the documents and the contract say of defaults is what they are.
func TestDocumentsSayTheDefaults(t *testing.T) {
	def := func(flag string) string { return knownSettings()[flag].Default }
	for _, x := range []struct{ file, want string }{
		{"ARCHITECTURE.md", fmt.Sprintf("at most %d exchanges at a time", engine.DefaultUpstreamConcurrency)},
		{"docs/redis.md", fmt.Sprintf("relied on for `cache_bound` (%s)", spoken(engine.DefaultCacheBound))},
		{"docs/redis.md", "outage_grace: " + def("outage-grace")},
		{"README.md", map[time.Duration]string{2 * time.Second: "gone from all of them within two\n  seconds"}[engine.DefaultCacheBound]},
		{"README.md", "listen: [" + DefaultAddress + "]"},
		{"README.md", "grpcurl -plaintext " + DefaultAddress},
		{"README.md", "http://" + defaultMetrics + "/metrics"},
		{"proto/tokenbroker/v1/token_broker_service.proto", fmt.Sprintf("a call without one gets %s", spoken(server.DefaultDeadline))},
	} {
		text, err := os.ReadFile("../../../../" + x.file)
		if err != nil {
			t.Fatal(err)
		}
		if x.want == "" || !strings.Contains(string(text), x.want) {
			t.Errorf("%s does not say %q", x.file, x.want)
		}
	}
}

// A setting that nobody sets is what its package takes a zero value for.
func TestDefaultsAreOfWhatTheyAreTheDefaultOf(t *testing.T) {
	var s struct{ Settings }
	k := kong.Must(&s, Options("d"), kong.Exit(func(int) {}))
	if err := WithoutEnvironment(k, func(string) bool { return true }); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Parse(nil); err != nil {
		t.Fatal(err)
	}
	for name, x := range map[string]struct{ got, want any }{
		"exchange_timeout":          {s.ExchangeTimeout, engine.DefaultExchangeTimeout},
		"upstream.concurrency":      {s.UpstreamConcurrency, engine.DefaultUpstreamConcurrency},
		"cache_bound":               {s.CacheBound, engine.DefaultCacheBound},
		"limits.concurrent_streams": {s.LimitsConcurrentStreams, uint32(server.DefaultConcurrentStreams)},
		"limits.message_bytes":      {s.LimitsMessageBytes, server.DefaultMessageBytes},
		"limits.connection_age":     {s.LimitsConnectionAge, server.DefaultConnectionAge},
	} {
		if x.got != x.want {
			t.Errorf("%s: got %v, want %v", name, x.got, x.want)
		}
	}
}

func TestWritten(t *testing.T) {
	for d, want := range map[time.Duration]string{
		30 * time.Minute: "30m", 2 * time.Second: "2s", time.Hour: "1h", 90 * time.Second: "1m30s", 100 * time.Second: "1m40s",
		time.Hour + time.Second: "1h0m1s", 90 * time.Minute: "1h30m", 10 * time.Hour: "10h", 20 * time.Minute: "20m", 0: "0s",
	} {
		if got := written(d); got != want {
			t.Errorf("%v: got %s, want %s", d, got, want)
		}
	}
}
