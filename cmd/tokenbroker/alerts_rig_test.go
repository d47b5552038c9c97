package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"text/template"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v4"
	"google.golang.org/protobuf/types/known/durationpb"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/devcerts"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// An installation is two brokers with everything that can fail: a Redis, a KEK, a policy, a listener with certificates and revocation lists, definitions of their own, and an audit log.
type installation struct {
	t       *testing.T
	dir     string
	sim     *upstreamsim.Sim
	redis   *redistest.Server
	replica *redistest.Server // nil: there is none
	syslog  net.Listener
	// serving signs what the brokers show, ca what callers do.
	serving, ca *devcerts.Authority
	brokers     []*served
	metrics     []string // where each broker's are
	tokens      []tokenbrokerv1.TokenBrokerServiceClient
	credentials tokenbrokerv1.CredentialServiceClient
	names       []string // of the credentials, each of which is asked for by load
	seeded      []upstreamsim.Account
	stirred     int
	also        func() // what load does first; nil: nothing
}

// ownDefinition is one whose tokens are for this host.
const ownDefinition = `name: own
inputs:
  api_key: {secret: true, handed_out: true}
token: "{{api_key}}"
lifetime: 1h
base_url: https://%s
`

func newInstallation(t *testing.T, replica bool) *installation {
	t.Helper()
	i := &installation{t: t, dir: shortDir(t)}
	var err error
	i.sim, err = upstreamsim.New(upstreamsim.Options{})
	i.must(err)
	i.must(i.sim.Start())
	t.Cleanup(func() { _ = i.sim.Close() })
	i.redis = redistest.Start(t, redistest.Options{})
	more := ""
	if replica {
		host, port, _ := net.SplitHostPort(i.redis.Addr())
		i.replica = redistest.Start(t, redistest.Options{Args: []string{"--replicaof", host, port}})
		i.redis.AwaitReplicated()
		more = "redis: {wait_replicas: 1}\n"
	}
	i.syslog, err = net.Listen("unix", i.path("syslog"))
	i.must(err)
	t.Cleanup(func() { i.syslog.Close() })
	i.certify()
	i.put("upstream-ca.pem", i.sim.CA())
	i.put("providers/own.yaml", fmt.Appendf(nil, ownDefinition, "api.example.com"))
	i.put("policy.yaml", []byte(`version: 1
callers: {all: [{local: machine}]}
rules:
  - {name: main, callers: [all], credentials: {names: ["main-*"]}, scopes: ["*"], operations: [get_token, watch, invalidate.all]}
  - {name: limited, callers: [all], credentials: {names: [limited]}, scopes: ["*"], operations: [get_token], rate: 1/h}
  - {name: operator, callers: [all], credentials: {names: ["*"]}, operations: [credential.read, credential.write]}
`))
	command(t, "keys", "create", i.path("kek.json"))
	var places strings.Builder
	for _, h := range i.sim.Hosts() {
		fmt.Fprintf(&places, "    %q: %q\n", h, i.sim.Addr())
	}
	for n := range 2 {
		name := fmt.Sprintf("settings-%d.yaml", n)
		i.put(name, fmt.Appendf(nil, `data_dir: %[1]s/%[2]d
listen: ["127.0.0.1:0"]
metrics_listen: 127.0.0.1:0
store: %[3]s
%[4]skeys: {kek: "file://%[1]s/kek.json"}
policy_file: %[1]s/policy.yaml
providers_dir: %[1]s/providers
audit: {syslog: "unix://%[1]s/syslog"}
upstream:
  ca_file: %[1]s/upstream-ca.pem
  connect_to:
%[5]strust:
  corp: {ca_file: %[1]s/ca.pem, crl_file: %[1]s/revoked.pem, trust_domain: corp.example}
services: {listen: ["127.0.0.1:0"], cert_file: %[1]s/tls.crt, key_file: %[1]s/tls.key, trust: [corp]}
`, i.dir, n, i.redis.URL(), more, places.String()))
		b := &served{proc: start(t, "serve", "--config", i.path(name))}
		b.address = b.waitFor(`answering on (127\.0\.0\.1:\d+)`)
		i.brokers = append(i.brokers, b)
		i.metrics = append(i.metrics, b.waitFor(`metrics on (http://127\.0\.0\.1:\d+)`))
		command(t, "health", "--wait", patience.String(), "--address", b.address) // it may have to look for its store again
		conn, err := dial(b.address)
		i.must(err)
		t.Cleanup(func() { conn.Close() })
		i.tokens = append(i.tokens, tokenbrokerv1.NewTokenBrokerServiceClient(conn))
		if n == 0 {
			i.credentials = tokenbrokerv1.NewCredentialServiceClient(conn)
		}
	}
	i.create("main-officernd", i.account(upstreamsim.OfficeRnD))
	i.create("main-own", upstreamsim.Account{System: "own", Secrets: map[string]string{"api_key": "s3cret"}})
	for n := range 8 {
		a, err := i.sim.AddAccount(upstreamsim.RefreshToken)
		i.must(err)
		i.seeded = append(i.seeded, a)
		i.create(fmt.Sprintf("main-seeded-%d", n), a)
	}
	i.await(record{}, `tokenbroker_credentials{instance="*", job="tokenbroker", provider="oauth2-refresh-token", state="ready"} 8`)
	return i
}

func (i *installation) must(err error) {
	i.t.Helper()
	if err != nil {
		i.t.Fatal(err)
	}
}

func (i *installation) path(name string) string { return filepath.Join(i.dir, name) }

// put replaces a file as a whole.
func (i *installation) put(name string, data []byte) {
	i.t.Helper()
	i.must(os.MkdirAll(filepath.Dir(i.path(name)), 0o700))
	i.must(os.WriteFile(i.path(name+".new"), data, 0o600))
	i.must(os.Rename(i.path(name+".new"), i.path(name)))
}

// certify makes certificates that last.
func (i *installation) certify() {
	i.t.Helper()
	var err error
	i.serving, err = devcerts.NewAuthority("serving", "", 365*24*time.Hour)
	i.must(err)
	i.ca, err = devcerts.NewAuthority("callers", "corp.example", 365*24*time.Hour)
	i.must(err)
	i.put("ca.pem", i.ca.PEM())
	i.shows(89 * 24 * time.Hour)
	i.revokes(7*24*time.Hour, 7*24*time.Hour)
}

// shows has the brokers show a certificate of ninety days, of which so much is left.
func (i *installation) shows(left time.Duration) {
	i.t.Helper()
	p, err := i.serving.Issue(left, func(c *x509.Certificate) {
		devcerts.Loopback(c)
		c.NotBefore = c.NotAfter.Add(-90 * 24 * time.Hour)
	})
	i.must(err)
	i.put("tls.key", p.Key)
	i.put("tls.crt", p.Certificate)
}

// revokes has a list of revoked certificates with so long a life, and so much of it left.
func (i *installation) revokes(life, left time.Duration) {
	i.t.Helper()
	list, err := i.ca.Revoke(left, func(l *x509.RevocationList) { l.ThisUpdate = l.NextUpdate.Add(-life) })
	i.must(err)
	i.put("revoked.pem", list)
}

func (i *installation) account(system upstreamsim.System) upstreamsim.Account {
	i.t.Helper()
	a, err := i.sim.Default(system)
	i.must(err)
	return a
}

func (i *installation) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), patience)
}

func (i *installation) create(name string, a upstreamsim.Account) {
	i.t.Helper()
	ctx, cancel := i.context()
	defer cancel()
	_, err := i.credentials.CreateCredential(ctx, &tokenbrokerv1.CreateCredentialRequest{
		Credential: &tokenbrokerv1.Credential{Name: name, Provider: string(a.System), Inputs: a.Inputs}, Secrets: a.Secrets,
	})
	i.must(err)
	i.names = append(i.names, name)
}

// invalidate drops the tokens of a credential, so that the upstream is asked again.
func (i *installation) invalidate(name string) {
	i.t.Helper()
	ctx, cancel := i.context()
	defer cancel()
	_, err := i.tokens[0].Invalidate(ctx, &tokenbrokerv1.InvalidateRequest{Credential: name, Target: &tokenbrokerv1.InvalidateRequest_All{All: true}})
	i.must(err)
}

// wants has somebody want a change of each broker, which may refuse it.
func (i *installation) wants(name string) {
	ctx, cancel := i.context()
	defer cancel()
	for _, b := range i.tokens {
		_, _ = b.Invalidate(ctx, &tokenbrokerv1.InvalidateRequest{Credential: name, Target: &tokenbrokerv1.InvalidateRequest_All{All: true}})
	}
}

// revoke has the upstream revoke so many grants.
func (i *installation) revoke(n int) {
	i.t.Helper()
	for n, a := range i.seeded[:n] {
		_, err := i.sim.RevokeGrants(a.ID)
		i.must(err)
		i.invalidate(fmt.Sprintf("main-seeded-%d", n))
	}
	i.load()
}

// refreshFails has an upstream fail that has given a token. A caller to whom that is soon too short, long before its refresh is due, has it asked for another.
func (i *installation) refreshFails() {
	i.t.Helper()
	a := i.account(upstreamsim.OfficeRnD)
	i.must(i.sim.SetLifetime(a.ID, time.Minute))
	i.invalidate("main-officernd")
	ctx, cancel := i.context()
	defer cancel()
	_, err := i.tokens[0].GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: "main-officernd"})
	i.must(err)
	_, err = i.sim.AddFault(upstreamsim.Fault{Kind: upstreamsim.FaultServerError, System: a.System})
	i.must(err)
	i.also = func() {
		ctx, cancel := i.context()
		defer cancel()
		_, _ = i.tokens[0].GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: "main-officernd", MinTtl: durationpb.New(54 * time.Second)})
	}
}

// misplace puts one credential's record where the others' are, where nothing opens it.
func (i *installation) misplace() {
	i.t.Helper()
	found, err := i.redis.Do("KEYS", "*:credential")
	i.must(err)
	keys, _ := found.([]any)
	if len(keys) != len(i.names) {
		i.t.Fatalf("found %v", found)
	}
	for _, k := range keys[1:] {
		_, err := i.redis.Do("COPY", fmt.Sprint(keys[0]), fmt.Sprint(k), "REPLACE")
		i.must(err)
	}
}

// load has callers ask each broker for a token of every credential. That is refused, or does not answer soon, where something has failed.
func (i *installation) load() {
	if i.also != nil {
		i.also()
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var all sync.WaitGroup
	for _, b := range i.tokens {
		for _, name := range i.names {
			all.Go(func() { _, _ = b.GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: name}) })
		}
	}
	all.Wait()
}

// stir has the brokers count their credentials, which they do when definitions have changed, and each minute.
func (i *installation) stir() {
	i.stirred++
	text := strings.Replace(ownDefinition, "own", "stirred", 1)
	i.put("providers/stirred.yaml", fmt.Appendf(nil, text, fmt.Sprintf("api-%d.example.com", i.stirred)))
}

// A scrape is what Prometheus makes of a job's targets: each sample with the labels that it adds, and up.
type scrape map[string]float64

func (i *installation) scrape() scrape {
	i.t.Helper()
	all := scrape{}
	for n, at := range i.metrics {
		added := model.LabelSet{"job": "tokenbroker", "instance": model.LabelValue(fmt.Sprintf("broker-%d", n))}
		put := func(m model.Metric, v float64) {
			all[model.Metric(model.LabelSet(m).Merge(added)).String()] = v
		}
		samples, err := i.samples(at)
		put(model.Metric{model.MetricNameLabel: "up"}, map[bool]float64{true: 1}[err == nil])
		for _, s := range samples {
			put(s.Metric, float64(s.Value))
		}
	}
	return all
}

func (i *installation) samples(at string) (model.Vector, error) {
	i.t.Helper()
	res, err := http.Get(at + "/metrics")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(res.Body)
	i.must(err)
	samples, err := expfmt.ExtractSamples(&expfmt.DecodeOptions{Timestamp: model.Now()}, slices.Collect(maps.Values(families))...)
	i.must(err)
	return samples, nil
}

// A record is two scrapes, and what callers did in between.
type record struct {
	at            time.Time
	first, second scrape
}

func (i *installation) record() record {
	i.t.Helper()
	first := i.scrape()
	i.load()
	return record{time.Now(), first, i.scrape()}
}

// await waits until a scrape shows this, while callers go on: a series and its value, or a series alone that has another value than before; * is each broker.
func (i *installation) await(before record, until string) {
	i.t.Helper()
	series, want, _ := strings.Cut(until, "} ")
	if want != "" {
		series += "}"
	}
	shows := func(got scrape, series string) bool {
		v, ok := got[series]
		if want != "" {
			return ok && want == fmt.Sprint(v)
		}
		was, before := before.second[series]
		return ok && (!before || v != was)
	}
	for began := time.Now(); ; <-time.After(100 * time.Millisecond) {
		i.stir()
		i.load()
		got := i.scrape()
		if shows(got, strings.Replace(series, "*", "broker-0", 1)) && shows(got, strings.Replace(series, "*", "broker-1", 1)) {
			return
		}
		if time.Since(began) > patience {
			i.t.Fatalf("the scrape does not show %s", until)
		}
	}
}

const (
	wellFor, failsFor = 40, 20 // minutes
)

// judge has Prometheus' own tool say which alerts fire.
func (i *installation) judge(promtool string, all []rule, before, after record, fires map[string][]labels) {
	i.t.Helper()
	type series struct {
		Series string `yaml:"series"`
		Values string `yaml:"values"`
	}
	type alert struct {
		Labels      labels `yaml:"exp_labels"`
		Annotations labels `yaml:"exp_annotations"`
	}
	type question struct {
		At     string  `yaml:"eval_time"`
		Alert  string  `yaml:"alertname"`
		Alerts []alert `yaml:"exp_alerts"`
	}
	type test struct {
		Interval string     `yaml:"interval"`
		Series   []series   `yaml:"input_series"`
		Alerts   []question `yaml:"alert_rule_test"`
	}
	rules, err := filepath.Abs(alertsFile)
	i.must(err)
	of := test{Interval: "1m"}
	names := map[string]bool{}
	for _, s := range []scrape{before.first, before.second, after.first, after.second} {
		for name := range s {
			names[name] = names[name] || strings.HasPrefix(name, "tokenbroker_") || strings.HasPrefix(name, "up{")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if names[name] {
			of.Series = append(of.Series, series{name, values(name, before, after)})
		}
	}
	for _, r := range all {
		if r.Alert == "" {
			continue
		}
		of.Alerts = append(of.Alerts, question{fmt.Sprintf("%dm", wellFor-1), r.Alert, nil})
		then := question{fmt.Sprintf("%dm", wellFor+failsFor-1), r.Alert, nil}
		for _, l := range fires[r.Alert] {
			l = maps.Clone(l)
			l["job"] = "tokenbroker"
			a := alert{l, labels{}}
			for name, text := range r.Annotations {
				a.Annotations[name] = expanded(i.t, text, l)
			}
			maps.Copy(l, r.Labels)
			then.Alerts = append(then.Alerts, a)
		}
		of.Alerts = append(of.Alerts, then)
	}
	text, err := yaml.Marshal(map[string]any{"rule_files": []string{rules}, "evaluation_interval": "1m", "tests": []test{of}})
	i.must(err)
	i.put("test.yaml", text)
	if out, err := exec.CommandContext(i.t.Context(), promtool, "test", "rules", i.path("test.yaml")).CombinedOutput(); err != nil {
		i.t.Errorf("%v\n%s", err, out)
	}
}

// values are a series as promtool has it: a sample a minute, as before for a while, then as after. What counts goes on as fast as between two scrapes; a moment is as far from them as it was.
func values(name string, before, after record) string {
	counts := regexp.MustCompile(`^[a-z_]+_(total|count|sum|bucket|lost)\{`).MatchString(name)
	moment := strings.Contains(name, "_timestamp_seconds{")
	reached := 0.0
	part := func(r record, from, steps int) string {
		first, one := r.first[name]
		second, two := r.second[name]
		switch {
		case !one || !two:
			return fmt.Sprintf("_x%d", steps)
		case counts:
			reached = max(reached, first)
			was, grows := reached, second-first
			reached += grows * float64(steps)
			return fmt.Sprintf("%s%+gx%d", number(was), grows, steps-1)
		case moment:
			second += float64(from*60) - float64(r.at.Unix())
		}
		return fmt.Sprintf("%s+0x%d", number(second), steps-1)
	}
	return part(before, 0, wellFor) + " " + part(after, wellFor, failsFor)
}

func number(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

// expanded is an annotation of an alert with these labels.
func expanded(t *testing.T, text string, of labels) string {
	t.Helper()
	var out strings.Builder
	parsed, err := template.New("").Option("missingkey=error").Parse("{{$labels := .}}" + text)
	if err == nil {
		err = parsed.Execute(&out, of)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}
