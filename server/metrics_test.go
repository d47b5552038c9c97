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
	"github.com/tokenbroker/tokenbroker/server"
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
	s.metrics.Certificates("services", server.Certificates{Began: time.Now(), Ends: time.Now(), ListBegan: time.Now(), ListEnds: time.Now()})
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
}

// usedMetric is one in an expression, with its matchers; what recording rules make has colons in its name, and is none of ours.
var usedMetric = regexp.MustCompile(`[\w:]*tokenbroker_[\w:]+(?:\{([^}]*)\})?`)

// TestWhatIsShownIsThere: the alerts and the dashboard are about metrics of the document, with labels that these have, or that Prometheus adds.
func TestWhatIsShownIsThere(t *testing.T) {
	text, err := os.ReadFile("../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	has := map[string][]string{}
	for _, row := range metricRow.FindAllStringSubmatch(string(text), -1) {
		has[row[1]] = append(regexp.MustCompile("[a-z_]+").FindAllString(row[3], -1), "job", "instance")
		if row[2] == "histogram" {
			has[row[1]+"_count"], has[row[1]+"_bucket"] = has[row[1]], append(slices.Clone(has[row[1]]), "le")
		}
	}
	shown := map[string]bool{}
	for name, expr := range map[string]*regexp.Regexp{
		"../deploy/prometheus/alerts.yaml":   regexp.MustCompile(`(?s)expr: (.*?)\n\s+(?:- record|- alert|for|labels):`),
		"../deploy/grafana/tokenbroker.json": regexp.MustCompile(`"expr": ("(?:[^"\\]|\\.)*")`),
	} {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		found := expr.FindAllStringSubmatch(string(text), -1)
		if len(found) < 20 {
			t.Errorf("%s: found %d expressions", name, len(found))
		}
		for _, e := range found {
			query := strings.ReplaceAll(e[1], `\"`, `"`)
			var labels []string // of any of its metrics
			for _, use := range usedMetric.FindAllStringSubmatch(query, -1) {
				metric, _, _ := strings.Cut(use[0], "{")
				if strings.Contains(metric, ":") {
					labels = append(labels, "job", "provider")
					continue
				}
				shown[metric] = true
				if has[metric] == nil {
					t.Errorf("%s: %s is not there", name, metric)
				}
				labels = append(labels, has[metric]...)
				for _, l := range regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)`).FindAllStringSubmatch(use[1], -1) {
					if !slices.Contains(has[metric], l[1]) {
						t.Errorf("%s: %s has no label %s", name, metric, l[1])
					}
				}
			}
			for _, by := range regexp.MustCompile(`(?:by|on) \(([^)]*)\)`).FindAllStringSubmatch(query, -1) {
				for _, l := range regexp.MustCompile(`\w+`).FindAllString(by[1], -1) {
					if !slices.Contains(labels, l) {
						t.Errorf("%s: %s: nothing has a label %s", name, query, l)
					}
				}
			}
		}
	}
	for metric := range has {
		if base := strings.TrimSuffix(strings.TrimSuffix(metric, "_count"), "_bucket"); !shown[base] && !shown[base+"_count"] && !shown[base+"_bucket"] {
			t.Errorf("nothing shows %s", metric)
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
	s.upstream.life.Store(int64(10 * time.Second)) // past its refresh time soon, and a busy machine has two seconds from then on
	s.get()
	s.upstream.fail.Store(true)
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); <-time.After(10 * time.Millisecond) {
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
