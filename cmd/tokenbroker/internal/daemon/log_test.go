package daemon

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
)

// TestTheLogSaysNothingWithoutEnd: the same is said so often, what else there is to say is said all the same, and what was left out is counted.
func TestTheLogSaysNothingWithoutEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := newLog(&console.Process{Stderr: &out}, "info", "json").With("a", "b")
		for range 10_000 {
			log.Info("call refused", "reason", "NOT_FOUND", "took", 1500*time.Millisecond)
		}
		log.Error("call refused", "reason", "INTERNAL")
		log.Info("something else")
		if n := strings.Count(out.String(), "\n"); n != 52 {
			t.Fatalf("got %d lines, want 52", n)
		}
		if !strings.Contains(out.String(), `"took":"1.5s"`) {
			t.Errorf("got %s, want durations as people write them", out.String())
		}
		out.Reset()
		<-time.After(time.Second)
		log.Info("call refused", "reason", "NOT_FOUND")
		var line map[string]any
		if err := json.Unmarshal(out.Bytes(), &line); err != nil || line["left_out_before"] != 9950.0 {
			t.Errorf("got %s, want how many were left out", out.String())
		}
	})
}

// TestAnOutageThatOutlastsTheGraceIsSaid: in the log and by health, and so is its end.
func TestAnOutageThatOutlastsTheGraceIsSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		serving := []bool{}
		o := &outage{log: slog.New(slog.NewTextHandler(&out, nil)), grace: time.Minute, serving: func(s bool) { serving = append(serving, s) }}
		o.away(true)
		<-time.After(59 * time.Second)
		o.away(false)
		<-time.After(time.Hour)
		if out.Len() != 0 || len(serving) != 0 {
			t.Errorf("got %s and %v, want nothing of an outage within the grace", out.String(), serving)
		}
		o.away(true)
		<-time.After(61 * time.Second)
		o.away(false)
		if got := out.String(); !strings.Contains(got, "grace") || len(serving) != 2 || serving[0] || !serving[1] {
			t.Errorf("got %s and %v, want it said that the grace is over, and health to follow", got, serving)
		}
	})
}
