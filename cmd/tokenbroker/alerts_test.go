package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/internal/installed"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

const alertsFile = "../../deploy/prometheus/alerts.yaml"

// A rule is an alert of the file, or what alerts are made of.
type rule struct {
	Alert, Record, Expr, For string
	Labels, Annotations      map[string]string
}

// rules are those of the file.
func rules(t testing.TB) (all []rule) {
	t.Helper()
	text, err := os.ReadFile(alertsFile)
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Groups []struct{ Rules []rule } }
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	if len(all) < 20 {
		t.Fatalf("found %d rules", len(all))
	}
	return all
}

// Labels are those of an alert, beside its severity and the job, which is the same here for all.
type labels = map[string]string

// of are the labels of what concerns a provider, at those of one broker.
func of(provider upstreamsim.System) labels { return labels{"provider": string(provider)} }

var atFirst = labels{"instance": "broker-0"}

// TestAlerts: each failure is brought about with real brokers, what they expose before and while it lasts is what Prometheus' own tool is given, and it says that the alerts of this failure fire and no
// others, and none before.
func TestAlerts(t *testing.T) {
	t.Parallel()
	promtool := installed.Tool(t, "promtool")
	runs(t, promtool, "check", "rules", alertsFile)
	all := rules(t)
	fired := map[string]bool{}
	var running sync.WaitGroup
	places := make(chan struct{}, 6) // more than there are processors: most of them wait most of the time
	for name, f := range failures {
		for alert := range f.fires {
			fired[alert] = true
		}
		running.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			t.Run(name, func(t *testing.T) {
				i := newInstallation(t, f.replica)
				before := i.record()
				f.bring(i)
				i.await(before, f.until)
				after := i.record()
				for series, v := range f.as {
					if _, there := after.first[series]; !there {
						t.Fatalf("there is no %s", series)
					}
					after.second[series] = v
				}
				i.judge(promtool, all, before, after, f.fires)
			})
		})
	}
	running.Wait()
	for _, r := range all {
		if r.Alert != "" && !fired[r.Alert] {
			t.Errorf("nothing here has %s fire", r.Alert)
		}
	}
}

// TestAlertsSayWhatToDo: each has all that whoever is called needs, and the commands are those of tokenbroker.
func TestAlertsSayWhatToDo(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	commands := 0
	for _, r := range rules(t) {
		if r.Alert == "" {
			continue
		}
		if s := r.Labels["severity"]; s != "page" && s != "ticket" || len(r.Labels) != 1 || r.Annotations["summary"] == "" || len(r.Annotations) != 2 {
			t.Errorf("%s: got labels %v, annotations %v", r.Alert, r.Labels, r.Annotations)
		}
		if row := "| `" + r.Alert + "` | " + r.Labels["severity"] + " |"; !strings.Contains(string(page), row) {
			t.Errorf("docs/metrics.md has no row %s", row)
		}
		said := regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(expanded(t, r.Annotations["description"], labels{"job": "j", "instance": "i", "listener": "l", "provider": "p"}), -1)
		if len(said) == 0 {
			t.Errorf("%s: no command in its description", r.Alert)
		}
		for _, c := range said {
			if words, ours := strings.CutPrefix(c[1], "tokenbroker "); ours {
				commands++
				// With --help a command says what it would do, and still wants to know each flag.
				cmd := exec.CommandContext(t.Context(), "sh", "-c", `"$0" `+words+" --help", path)
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Errorf("%s: %s: %v\n%s", r.Alert, c[1], err, out)
				}
			}
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| `(Tokenbroker[A-Za-z]+)`").FindAllStringSubmatch(string(page), -1) {
		if !slices.ContainsFunc(rules(t), func(r rule) bool { return r.Alert == row[1] }) {
			t.Errorf("docs/metrics.md has %s, which is no alert", row[1])
		}
	}
	if commands < 15 {
		t.Errorf("found %d commands", commands)
	}
}

// failures are what is brought about, what a scrape shows of it, and which alerts fire. until is a series and its value, or a series alone that has another value than
// before; * is each broker.
var failures = map[string]struct {
	replica bool
	bring   func(*installation)
	until   string
	// as is what a series had become, where to bring it about would take a test too long.
	as    map[string]float64
	fires map[string][]labels
}{
	"the upstream revokes most grants": {
		bring: func(i *installation) { i.revoke(6) },
		until: `tokenbroker_credentials{instance="*", job="tokenbroker", provider="oauth2-refresh-token", state="reauthorization_required"} 6`,
		fires: map[string][]labels{"TokenbrokerGrantsDieTogether": {of(upstreamsim.RefreshToken)}},
	},
	"the upstream revokes one grant": {
		bring: func(i *installation) { i.revoke(1) },
		until: `tokenbroker_credentials{instance="*", job="tokenbroker", provider="oauth2-refresh-token", state="reauthorization_required"} 1`,
		fires: map[string][]labels{"TokenbrokerGrantNeedsAuthorization": {of(upstreamsim.RefreshToken)}},
	},
	"a secret was changed at the upstream": {
		bring: func(i *installation) {
			_, err := i.sim.ChangeSecret(i.account(upstreamsim.OfficeRnD).ID)
			i.must(err)
			i.invalidate("main-officernd")
		},
		until: `tokenbroker_credentials{instance="*", job="tokenbroker", provider="officernd", state="misconfigured"} 1`,
		fires: map[string][]labels{"TokenbrokerCredentialMisconfigured": {of(upstreamsim.OfficeRnD)}},
	},
	"a definition leads elsewhere": {
		bring: func(i *installation) {
			i.put("providers/own.yaml", fmt.Appendf(nil, ownDefinition, "elsewhere.example.com"))
		},
		until: `tokenbroker_credentials{instance="*", job="tokenbroker", provider="own", state="held"} 1`,
		fires: map[string][]labels{"TokenbrokerCredentialHeld": {of("own")}},
	},
	"a definition is broken": {
		bring: func(i *installation) { i.put("providers/other.yaml", []byte("name: other\nobtain: nonsense\n")) },
		until: `tokenbroker_definitions_invalid{instance="*", job="tokenbroker"} 1`,
		fires: map[string][]labels{"TokenbrokerDefinitionInvalid": {atFirst, {"instance": "broker-1"}}},
	},
	"the upstream answers 500": {
		bring: func(i *installation) {
			i.refreshFails()
			i.create("main-without", i.account(upstreamsim.OfficeRnD))
		},
		until: `tokenbroker_tokens_failing{instance="broker-0", job="tokenbroker", provider="officernd"} 1`,
		fires: map[string][]labels{
			"TokenbrokerUpstreamFails": {of(upstreamsim.OfficeRnD)}, "TokenbrokerTokenEnds": {of(upstreamsim.OfficeRnD)}, "TokenbrokerCallersRefused": {of(upstreamsim.OfficeRnD)},
		},
	},
	"Redis is away": {
		bring: func(i *installation) { i.redis.Kill() },
		until: `tokenbroker_store_away{instance="*", job="tokenbroker"} 1`,
		fires: map[string][]labels{"TokenbrokerStoreAway": {{}}},
	},
	"the replica hangs": {
		replica: true,
		bring: func(i *installation) {
			i.replica.Stop()
			i.also = func() { i.wants("main-seeded-0") }
		},
		until: `tokenbroker_store_unconfirmed_total{instance="broker-0", job="tokenbroker"}`,
		fires: map[string][]labels{"TokenbrokerStoreUnconfirmed": {{}}},
	},
	"another KEK wraps the keys": {
		bring: func(i *installation) {
			other := filepath.Join(i.dir, "other.json")
			command(i.t, "keys", "create", other)
			command(i.t, "keys", "wrap", "--config", i.path("settings-0.yaml"), "--former-kek", "file://"+i.path("kek.json"), "--keys-kek", "file://"+other)
		},
		until: `tokenbroker_keys_stale{instance="*", job="tokenbroker"} 1`,
		fires: map[string][]labels{"TokenbrokerKeysStale": {atFirst, {"instance": "broker-1"}}},
	},
	"a certificate is not renewed": {
		bring: func(i *installation) { i.shows(9 * 24 * time.Hour) },
		until: `tokenbroker_listener_certificate_start_timestamp_seconds{instance="*", job="tokenbroker", listener="services"}`,
		fires: map[string][]labels{"TokenbrokerCertificateEnds": {services("broker-0"), services("broker-1")}},
	},
	"a certificate is about to end": {
		bring: func(i *installation) { i.shows(2 * 24 * time.Hour) },
		until: `tokenbroker_listener_certificate_start_timestamp_seconds{instance="*", job="tokenbroker", listener="services"}`,
		fires: map[string][]labels{
			"TokenbrokerCertificateEnds": {services("broker-0"), services("broker-1")}, "TokenbrokerCertificateEndsNow": {services("broker-0"), services("broker-1")},
		},
	},
	"a revocation list is not renewed": {
		bring: func(i *installation) { i.revokes(24*time.Hour, 4*time.Hour) },
		until: `tokenbroker_listener_revocation_list_expiry_timestamp_seconds{instance="*", job="tokenbroker", listener="services"}`,
		fires: map[string][]labels{"TokenbrokerRevocationListEnds": {services("broker-0"), services("broker-1")}},
	},
	"authorities are broken": {
		bring: func(i *installation) { i.put("ca.pem", []byte("nonsense")) },
		until: `tokenbroker_listener_stale{instance="*", job="tokenbroker", listener="services"} 1`,
		fires: map[string][]labels{"TokenbrokerListenerStale": {services("broker-0"), services("broker-1")}},
	},
	"the policy is broken": {
		bring: func(i *installation) { i.put("policy.yaml", []byte("version: 1\nrules: nonsense\n")) },
		until: `tokenbroker_policy_stale{instance="*", job="tokenbroker"} 1`,
		fires: map[string][]labels{"TokenbrokerPolicyStale": {atFirst, {"instance": "broker-1"}}},
	},
	"a caller asks for too much": {
		bring: func(i *installation) { i.create("limited", i.account(upstreamsim.OfficeRnD)) },
		until: `tokenbroker_failures_total{instance="broker-0", job="tokenbroker", operation="get_token", outcome="caller_limited", provider="officernd"}`,
		fires: map[string][]labels{"TokenbrokerCallerLimited": {{}}},
	},
	"the syslog is away": {
		bring: func(i *installation) {
			i.syslog.Close()
			i.wants("main-own")
		},
		until: `tokenbroker_audit_away{instance="*", job="tokenbroker"} 1`,
		as:    map[string]float64{`tokenbroker_audit_lost{instance="broker-0", job="tokenbroker"}`: 3}, // after 64,000 lines
		fires: map[string][]labels{"TokenbrokerAuditAway": {atFirst, {"instance": "broker-1"}}, "TokenbrokerAuditLost": {atFirst}},
	},
	"stored records cannot be read": {
		bring: func(i *installation) { i.misplace() },
		until: `tokenbroker_rpc_seconds_count{code="DataLoss", instance="broker-0", job="tokenbroker", method="TokenBrokerService/GetToken"}`,
		fires: map[string][]labels{"TokenbrokerFails": {{}}},
	},
	"a broker is killed": {
		bring: func(i *installation) { i.brokers[0].kill() },
		until: `up{instance="broker-0", job="tokenbroker"} 0`,
		fires: map[string][]labels{"TokenbrokerDown": {atFirst}},
	},
	"all brokers are killed": {
		bring: func(i *installation) {
			for _, b := range i.brokers {
				b.kill()
			}
		},
		until: `up{instance="*", job="tokenbroker"} 0`,
		fires: map[string][]labels{"TokenbrokerDown": {atFirst, {"instance": "broker-1"}}, "TokenbrokerGone": {{}}},
	},
}

func services(broker string) labels { return labels{"instance": broker, "listener": "services"} }
