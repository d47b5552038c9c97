package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/devcerts"
	"github.com/tokenbroker/tokenbroker/internal/installed"
)

// TestEnvoysWhoseBrokerIsKilled with -9, and stopped, and started again, while clients ask through each of docs/mesh.md's ways: the API sees the broker's token and nothing else, not even once, whatever the clients
// send; who waits for the broker is answered 503, and an Envoy that has the token itself goes on.
func TestEnvoysWhoseBrokerIsKilled(t *testing.T) {
	t.Parallel()
	u := startUpstream(t)
	dir := shortDir(t)
	ca, err := devcerts.NewAuthority("corp", "corp.example", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	put := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	issue := func(id string, hosts ...string) tls.Certificate {
		t.Helper()
		p, err := ca.Issue(time.Hour, func(c *x509.Certificate) {
			devcerts.Loopback(c)
			c.URIs, c.ExtKeyUsage = []*url.URL{{Scheme: "spiffe", Host: "corp.example", Path: id}}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
			c.DNSNames = append(c.DNSNames, hosts...)
		})
		if err != nil {
			t.Fatal(err)
		}
		name := strings.ReplaceAll(strings.Trim(id, "/"), "/", "-")
		put(name+".pem", string(p.Certificate))
		put(name+".key", string(p.Key))
		pair, err := tls.X509KeyPair(p.Certificate, p.Key)
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	put("ca.pem", string(ca.PEM()))
	issue("/tokenbroker")
	issue("/mesh/gateway")
	put("policy.yaml", `version: 1
callers:
  envoys: [{spiffe: "corp.example/mesh/gateway"}]
  web: [{via: mesh, spiffe: "corp.example/ns/web/sa/*"}]
  ops: [{local: machine}]
rules:
  - {name: web, callers: [web], credentials: {names: [officernd-1]}, operations: [get_token, invalidate], scopes: ["*"]}
  - {name: sds, callers: [envoys], credentials: {names: [officernd-1]}, operations: [watch], scopes: ["*"]}
  - {name: ops, callers: [ops], credentials: {names: ["*"]}, operations: [get_token, credential.read, credential.write, provider.read], scopes: ["*"]}
`)
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	services := "127.0.0.1:" + ports[0]
	base, err := os.ReadFile(filepath.Join(u.dir, "settings.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	settings := put("settings.yaml", fmt.Sprintf(`%[1]s
policy_file: %[2]s/policy.yaml
services: {listen: [%[3]q], cert_file: %[2]s/tokenbroker.pem, key_file: %[2]s/tokenbroker.key, trust: [corp], proxies: [mesh]}
trust: {corp: {ca_file: %[2]s/ca.pem, trust_domain: corp.example}}
proxies: {mesh: {callers: ["spiffe://corp.example/mesh/gateway"], forwards: ["corp.example/ns/**"]}}
`, base, dir, services))
	broker := func() *served { return u.serve("--config", settings, "--data-dir", filepath.Join(dir, "data")) }
	b := broker()
	b.apply(u)
	token := strings.TrimPrefix(strings.TrimSpace(command(t, "token", "get", "officernd-1", "--header", "--address", b.address)), "Authorization: Bearer ")

	var mu sync.Mutex
	saw := map[string]int{} // by Authorization
	api := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		saw[strings.Join(r.Header.Values("Authorization"), ", ")]++
	}))
	api.TLS = &tls.Config{Certificates: []tls.Certificate{issue("/api", "app.officernd.com")}, MinVersion: tls.VersionTLS12}
	api.StartTLS()
	defer api.Close()

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca.PEM())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{issue("/ns/web/sa/shop")}, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	at := map[string]string{}
	for _, way := range []string{"ext-proc", "ext-authz", "sds"} {
		at[way] = installed.Envoy(t, put(way+".yaml", installed.EnvoyExample(t, way+".yaml", [][2]string{
			{"{address: app.officernd.com, port_value: 443}", installed.Socket(t, api.Listener.Addr().String())}, {"officernd-main", "officernd-1"},
			{"{address: tokenbroker.infra.internal, port_value: 7430}", installed.Socket(t, services)}, {"{address: 0.0.0.0, port_value: 8443}", installed.Socket(t, "127.0.0.1:0")},
			{"port_value: 9901", "port_value: 0"}, {"/etc/envoy/svid.pem", dir + "/mesh-gateway.pem"}, {"/etc/envoy/svid.key", dir + "/mesh-gateway.key"},
			{"/etc/envoy/ca.pem", dir + "/ca.pem"}, {"/etc/ssl/certs/ca-certificates.crt", dir + "/ca.pem"},
		}...)))
	}
	ask := func(way string) int {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+at[way]+"/api/v1/members", nil)
		if err != nil {
			t.Error(err)
			return 0
		}
		r.Header.Set("Authorization", "Bearer mine")
		res, err := client.Do(r)
		if err != nil {
			t.Error(err)
			return 0
		}
		_ = res.Body.Close()
		return res.StatusCode
	}
	becomes := func(way string, want int) {
		t.Helper()
		for began := time.Now(); ask(way) != want; <-time.After(20 * time.Millisecond) {
			if time.Since(began) > patience {
				t.Fatalf("%s: it does not become %d", way, want)
			}
		}
	}
	for way := range at {
		becomes(way, http.StatusOK)
	}

	done := make(chan struct{})
	var all sync.WaitGroup
	for way := range at {
		for range 2 {
			all.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
					}
					if got := ask(way); got != http.StatusOK && (got != http.StatusServiceUnavailable || way == "sds") {
						t.Errorf("%s: a client is answered %d", way, got)
					}
				}
			})
		}
	}
	quiet := func() {
		if strings.Contains(b.output(), `"code":"Internal"`) {
			t.Error("an Envoy that is done with a stream is taken for a failure of the broker's")
		}
	}
	for round := range 4 {
		quiet()
		if round%2 == 0 {
			b.kill()
		} else {
			b.signal(syscall.SIGTERM)
			if code := b.code(); code != 0 {
				t.Errorf("the broker has ended with %d", code)
			}
		}
		becomes("ext-proc", http.StatusServiceUnavailable)
		becomes("ext-authz", http.StatusServiceUnavailable)
		b = broker()
		for way := range at {
			becomes(way, http.StatusOK)
		}
	}
	close(done)
	all.Wait()
	quiet()
	mu.Lock()
	defer mu.Unlock()
	if len(saw) != 1 || saw["Bearer "+token] == 0 {
		for what, n := range saw {
			t.Errorf("the API saw %d times the broker's token: %v, the client's own: %v", n, what == "Bearer "+token, strings.Contains(what, "mine"))
		}
	}
}
