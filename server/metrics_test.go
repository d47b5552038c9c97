package server_test

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

var metricRow = regexp.MustCompile("(?m)^\\| `(tokenbroker_[a-z_]+)` \\| ([a-z]+) \\| ([^|]*)\\|")

// TestTheMetricsAreThoseOfTheDocument: names, types and labels, and Prometheus' own rules for them.
func TestTheMetricsAreThoseOfTheDocument(t *testing.T) {
	s := newStand(t)
	s.get()
	if _, err := s.tokens.GetToken(t.Context(), &get{Credential: "nobody"}); err == nil {
		t.Error("got a token of nobody")
	}
	w, err := s.tokens.WatchToken(t.Context(), &tokenbrokerv1.WatchTokenRequest{Credential: "main"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Recv(); err != nil {
		t.Fatal(err)
	}
	s.metrics.Degraded("stub")
	s.metrics.Certificates("services", time.Now(), time.Now(), false)
	all, err := s.broker.Count(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := map[engine.Counted]int{{Provider: "stub", State: engine.Ready}: 1}; !maps.Equal(all, want) {
		t.Errorf("got %v, want %v", all, want)
	}
	s.metrics.Counted(all)
	s.upstream.fail.Store(true) // one whose refresh fails
	if _, err := s.tokens.GetToken(t.Context(), &get{Credential: "main", RejectedTokenId: s.get().GetToken().GetTokenId()}); err == nil {
		t.Error("got a token of an upstream that fails")
	}

	text, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	want, got := map[string]string{}, map[string]string{}
	for _, row := range metricRow.FindAllStringSubmatch(string(text), -1) {
		labels := regexp.MustCompile("[a-z_]+").FindAllString(row[3], -1)
		slices.Sort(labels)
		want[row[1]] = row[2] + " " + strings.Join(labels, " ")
	}
	families, err := s.metrics.Registry().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "tokenbroker_") {
			continue
		}
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		slices.Sort(labels)
		got[f.GetName()] = strings.ToLower(f.GetType().String()) + " " + strings.Join(labels, " ")
	}
	got["tokenbroker_tokens_failing_expiry_timestamp_seconds"] = want["tokenbroker_tokens_failing_expiry_timestamp_seconds"] // see below
	if diff := cmp.Diff(want, got); diff != "" || len(want) < 15 {
		t.Errorf("the document and the registry (-document +registry):\n%s", diff)
	}
	problems, err := testutil.GatherAndLint(s.metrics.Registry())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for expr := range strings.SplitSeq(string(text), "expr:") { // every alert is about something that is there
		for _, name := range regexp.MustCompile("tokenbroker_[a-z_]+").FindAllString(expr, -1) {
			if base, _ := strings.CutSuffix(name, "_count"); want[name] == "" && want[base] == "" {
				t.Errorf("an alert is about %s, which is not there", name)
			}
		}
	}
}

// TestWhatLooksForACredentialHasNotFailed: an apply looks for each.
func TestWhatLooksForACredentialHasNotFailed(t *testing.T) {
	s := newStand(t)
	_, err := s.broker.Credential(t.Context(), broker.NewCaller(broker.Local, "", "", broker.ProofNone, ""), "nobody")
	if broker.KindOf(err) != broker.NotFound {
		t.Fatal(err)
	}
	if n := testutil.CollectAndCount(s.metrics.Registry(), "tokenbroker_failures_total"); n != 0 {
		t.Errorf("got %d failures, want none", n)
	}
}

// TestATokenWhoseRefreshFailsIsShownWithItsEnd: that is what somebody is to be called for.
func TestATokenWhoseRefreshFailsIsShownWithItsEnd(t *testing.T) {
	s := newStand(t)
	s.upstream.life.Store(int64(2 * time.Second)) // past its refresh time soon
	s.get()
	s.upstream.fail.Store(true)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
		if _, err := s.tokens.GetToken(t.Context(), &get{Credential: "main"}); err != nil {
			t.Fatalf("got %v before the failing refresh was seen", err)
		}
		if g := s.broker.Supplies()["stub"]; g.Failing == 1 {
			if g.Tokens != 1 || g.FailingUntil.IsZero() || g.UpstreamsFailing != 1 {
				t.Errorf("got %+v", g)
			}
			if n := testutil.CollectAndCount(s.metrics.Registry(), "tokenbroker_tokens_failing_expiry_timestamp_seconds"); n != 1 {
				t.Errorf("got %d series of the end, want one", n)
			}
			return
		}
	}
	t.Error("the refresh that fails was not seen")
}
