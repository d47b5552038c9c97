package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/installed"
)

const dashboardFile = "../../deploy/grafana/tokenbroker.json"

// A dashboard is what the tests look at in Grafana's JSON.
type dashboard struct {
	ID     *int   `json:"id"`
	UID    string `json:"uid"`
	Panels []struct {
		Type, Title, Description string
		ID                       int `json:"id"`
		GridPos                  struct{ H, W, X, Y int }
		Datasource               struct{ UID string }
		Targets                  []struct {
			Expr       string
			Datasource struct{ UID string }
		}
	}
	Templating struct{ List []struct{ Name, Type string } }
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	text, err := os.ReadFile(dashboardFile)
	if err == nil {
		err = json.Unmarshal(text, &d)
	}
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestTheDashboardIsWhole: it names no data source of anybody's, each panel says what it shows, and none lies on another.
func TestTheDashboardIsWhole(t *testing.T) {
	t.Parallel()
	d := readDashboard(t)
	if d.ID != nil || d.UID != "tokenbroker" || len(d.Templating.List) == 0 || d.Templating.List[0].Name != "datasource" {
		t.Errorf("got id %v, uid %q, variables %v", d.ID, d.UID, d.Templating.List)
	}
	taken, ids, panels := map[[2]int]string{}, map[int]bool{}, 0
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("%s: another panel has its id", p.Title)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other := taken[at]; other != "" || at[0] >= 24 {
					t.Fatalf("%s lies on %q, or beside the page", p.Title, other)
				}
				taken[at] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		panels++
		if !strings.HasSuffix(p.Description, ".") || len(p.Targets) == 0 || p.Datasource.UID != "${datasource}" {
			t.Errorf("%s: got description %q, %d queries, data source %q", p.Title, p.Description, len(p.Targets), p.Datasource.UID)
		}
		for _, q := range p.Targets {
			if q.Datasource.UID != "${datasource}" {
				t.Errorf("%s: a query of data source %q", p.Title, q.Datasource.UID)
			}
		}
	}
	if panels < 20 {
		t.Errorf("found %d panels", panels)
	}
}

// TestTheDashboardShowsSomething: a real Prometheus scrapes real brokers while callers ask and watch, an upstream fails and another has revoked a grant. Each query is answered, and has had series.
func TestTheDashboardShowsSomething(t *testing.T) {
	t.Parallel()
	program := installed.Tool(t, "prometheus")
	left := map[string]string{} // panels by their queries
	for _, panel := range readDashboard(t).Panels {
		for _, q := range panel.Targets {
			left[q.Expr] = panel.Title
		}
	}
	i := newInstallation(t, false)
	i.put("prometheus.yaml", prometheusConfig(i))
	ports, err := freePorts(1)
	i.must(err)
	at := "127.0.0.1:" + ports[0]
	p := startCommand(t, exec.Command(program, "--config.file", i.path("prometheus.yaml"), "--storage.tsdb.path", i.path("tsdb"), "--web.listen-address", at))
	p.waitFor("Server is ready to receive web requests")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	_, err = i.tokens[0].WatchToken(ctx, &tokenbrokerv1.WatchTokenRequest{Credential: "main-own"})
	i.must(err)
	i.revoke(1)
	i.refreshFails()
	i.also = func() { i.wants("main-seeded-7") } // an exchange each time
	for began := time.Now(); len(left) > 0; <-time.After(100 * time.Millisecond) {
		i.load()
		i.stir()
		for query := range left {
			series, err := ask(t.Context(), at, query)
			i.must(err)
			if series > 0 {
				delete(left, query)
			}
		}
		if time.Since(began) > patience {
			t.Fatalf("these show nothing: %v", left)
		}
	}
}

// prometheusConfig scrapes an installation's brokers often.
func prometheusConfig(i *installation) []byte {
	var b strings.Builder
	rules, err := filepath.Abs(alertsFile)
	i.must(err)
	fmt.Fprintf(&b, "global: {scrape_interval: 500ms, scrape_timeout: 500ms, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs:\n  - job_name: tokenbroker\n    static_configs:\n", rules)
	for n, at := range i.metrics {
		fmt.Fprintf(&b, "      - {targets: [%q], labels: {instance: broker-%d}}\n", strings.TrimPrefix(at, "http://"), n)
	}
	return []byte(b.String())
}

// ask has Prometheus answer a query of the dashboard, and counts the series. What is no number is none: a share of nothing.
func ask(ctx context.Context, at, query string) (series int, err error) {
	query = strings.NewReplacer("$job", ".*", "$__rate_interval", "10s").Replace(query)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at+"/api/v1/query?query="+url.QueryEscape(query), http.NoBody)
	if err != nil {
		return 0, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	var said struct {
		Status, Error string
		Data          struct{ Result []struct{ Value []any } }
	}
	if err := json.NewDecoder(res.Body).Decode(&said); err != nil {
		return 0, err
	}
	if said.Status != "success" {
		return 0, fmt.Errorf("%s: %s", said.Status, said.Error)
	}
	for _, s := range said.Data.Result {
		if len(s.Value) == 2 && s.Value[1] != "NaN" {
			series++
		}
	}
	return series, nil
}
