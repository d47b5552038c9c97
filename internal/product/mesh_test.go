package product

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/policy"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/devcerts"
	"github.com/tokenbroker/tokenbroker/internal/installed"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/server/authn"
)

const (
	gateway = "spiffe://corp.example/mesh/gateway"
	shop    = "spiffe://corp.example/ns/web/sa/shop"
)

// meshPolicy lets workloads of the web use and reject tokens by way of the mesh, those of the batch without it, and the Envoys those of their own, and nobody else.
const meshPolicy = `
version: 1
callers:
  envoys: [{spiffe: "corp.example/mesh/gateway"}]
  web: [{via: mesh, spiffe: "corp.example/ns/web/sa/*"}]
  batch: [{spiffe: "corp.example/ns/batch/sa/*"}]
  ops: [{local: machine}]
rules:
  - {name: batch, callers: [batch], credentials: {names: ["*-main"]}, operations: [get_token, invalidate], scopes: ["*"]}
  - {name: web, callers: [web], credentials: {names: ["*-main"]}, operations: [get_token, invalidate], scopes: ["*"]}
  - {name: own, callers: [envoys], credentials: {names: ["own-*"]}, operations: [get_token, invalidate], scopes: ["*"]}
  - {name: envoys, callers: [envoys], credentials: {names: ["*-main"]}, operations: [watch], scopes: ["*"]}
  - name: ops
    callers: [ops]
    credentials: {names: ["*"]}
    operations: [get_token, watch, invalidate, credential.read, credential.write, credential.delete, credential.test, provider.read]
    scopes: ["*"]
`

// A meshRig is a broker with a door for an Envoy, which is a proxy that may call for the workloads of the web.
type meshRig struct {
	*rig
	options rigOptions
	ca      *devcerts.Authority
}

func newMeshRig(t *testing.T, more ...func(*rigOptions)) *meshRig {
	t.Helper()
	ca, err := devcerts.NewAuthority("corp", "corp.example", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	m := &meshRig{ca: ca}
	m.options.doors = func(r *rig) ([]server.Door, broker.Authorizer) {
		m.rig = r
		own := m.svid("spiffe://corp.example/tokenbroker")
		r.write("broker.pem", string(own.Certificate))
		r.write("broker.key", string(own.Key))
		r.write("corp.pem", string(ca.PEM()))
		r.write("policy.yaml", meshPolicy)
		rules, err := policy.New(filepath.Join(r.dir, "policy.yaml"), nil)
		if err != nil {
			t.Fatal(err)
		}
		certificates, err := authn.New(t.Context(), authn.Settings{
			Listener: "services", CertFile: filepath.Join(r.dir, "broker.pem"), KeyFile: filepath.Join(r.dir, "broker.key"),
			Trust: []authn.Trust{{Name: "corp", CAFile: filepath.Join(r.dir, "corp.pem"), TrustDomain: "corp.example"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(certificates.Close)
		proxies, err := authn.NewProxies("services", []authn.Proxy{{Name: "mesh", Callers: []string{gateway}, Forwards: []string{"corp.example/ns/**"}}})
		if err != nil {
			t.Fatal(err)
		}
		return []server.Door{{Name: "services", TokensOnly: true, Authenticate: certificates, Forwarders: proxies}}, rules
	}
	for _, option := range more {
		option(&m.options)
	}
	newRig(t, m.options)
	return m
}

// svid is a certificate of a workload, which it can show as a server, too.
func (m *meshRig) svid(id string) devcerts.Pair {
	u, err := url.Parse(id)
	if err != nil {
		panic(err)
	}
	p, err := m.ca.Issue(time.Hour, func(c *x509.Certificate) {
		devcerts.Loopback(c)
		c.URIs, c.ExtKeyUsage = []*url.URL{u}, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	})
	if err != nil {
		panic(err)
	}
	return p
}

// envoy starts one by an example's configuration, whose names stand for what is here, and returns where it listens. It brings tokens of a credential to a host of an API, which is
// at an address. instead are pairs of what else is replaced by what.
func (m *meshRig) envoy(t *testing.T, example, credential, host, api string, instead ...[2]string) string {
	t.Helper()
	return m.envoyOf(t, example, installed.EnvoyExample(t, example), credential, host, api, instead...)
}

// envoyOf is envoy by a configuration of a name.
func (m *meshRig) envoyOf(t *testing.T, example, config, credential, host, api string, instead ...[2]string) string {
	t.Helper()
	own := m.svid(gateway)
	m.write("envoy.pem", string(own.Certificate))
	m.write("envoy.key", string(own.Key))
	in := func(name string) string { return filepath.Join(m.dir, name) }
	name := example + "." + credential + ".yaml"
	m.write(name, installed.Instead(t, example, config, append([][2]string{
		{"{address: app.officernd.com, port_value: 443}", installed.Socket(t, api)},
		{"app.officernd.com", host},
		{"officernd-main", credential},
		{"{address: tokenbroker.infra.internal, port_value: 7430}", installed.Socket(t, m.doors["services"])},
		{"{address: 0.0.0.0, port_value: 8443}", installed.Socket(t, "127.0.0.1:0")},
		{"port_value: 9901", "port_value: 0"},
		{"/etc/envoy/svid.pem", in("envoy.pem")},
		{"/etc/envoy/svid.key", in("envoy.key")},
		{"/etc/envoy/ca.pem", in("corp.pem")},
		{"/etc/ssl/certs/ca-certificates.crt", in("ca.pem")},
	}, instead...)...))
	return installed.Envoy(t, in(name))
}

// as is a client of an Envoy, with the certificate of a workload.
func (m *meshRig) as(id string) *http.Client {
	m.t.Helper()
	p := m.svid(id)
	return m.showing(&p)
}

// showing is a client that shows a certificate; nil: none.
func (m *meshRig) showing(p *devcerts.Pair) *http.Client {
	m.t.Helper()
	config := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	config.RootCAs.AppendCertsFromPEM(m.ca.PEM())
	if p != nil {
		own, err := tls.X509KeyPair(p.Certificate, p.Key)
		if err != nil {
			m.t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{own}
	}
	base := &http.Transport{TLSClientConfig: config, MaxIdleConnsPerHost: 50}
	m.t.Cleanup(base.CloseIdleConnections)
	return &http.Client{Transport: base}
}

// answered is what a client of an Envoy gets.
type answered struct {
	status int
	header http.Header
	body   string
}

func (m *meshRig) ask(c *http.Client, method, url string, body string, headers ...string) answered {
	m.t.Helper()
	req, err := http.NewRequestWithContext(m.t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		m.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header[headers[i]] = append(req.Header[headers[i]], headers[i+1]) // as it is written
	}
	res, err := c.Do(req)
	if err != nil {
		m.t.Error(err)
		return answered{}
	}
	defer res.Body.Close()
	data, _ := io.ReadAll(res.Body)
	return answered{res.StatusCode, res.Header, string(data)}
}

// refused is why an Envoy has not let a request pass; empty: it has.
func (a answered) refused() string { return a.header.Get("X-Tokenbroker-Reason") }

// scopes has an Envoy ask for those that an account needs.
func (m *meshRig) scopes(a upstreamsim.Account, credential string) [][2]string {
	if len(a.Scopes) == 0 {
		return nil
	}
	return [][2]string{{"credential: " + credential, fmt.Sprintf("credential: %s, scopes: %q", credential, strings.Join(a.Scopes, " "))}}
}

var ways = []string{"ext-proc.yaml", "ext-authz.yaml"}

// TestAMeshCallsEveryAPI: a client that knows nothing of tokens is let in by each API, however its tokens are shown.
func TestAMeshCallsEveryAPI(t *testing.T) {
	m := newMeshRig(t)
	client := m.as(shop)
	for _, a := range m.sim.Accounts() {
		name := string(a.System) + "-main"
		m.create(name, a)
		u, err := url.Parse(a.APIURL)
		if err != nil {
			t.Fatal(err)
		}
		for _, way := range ways {
			t.Run(string(a.System)+" "+way, func(t *testing.T) {
				at := m.envoy(t, way, name, u.Host, m.sim.Addr(), m.scopes(a, name)...)
				if got := m.ask(client, http.MethodGet, "https://"+at+u.RequestURI(), "", "Authorization", "Bearer mine"); got.status != http.StatusOK {
					t.Errorf("got %d %s", got.status, got.body)
				}
			})
		}
	}
}

// officernd is an account of the mesh's example, and the path of its API.
func (m *meshRig) officernd() (upstreamsim.Account, *url.URL) {
	m.t.Helper()
	a := m.account(upstreamsim.OfficeRnD)
	m.create("officernd-main", a)
	u, err := url.Parse(a.APIURL)
	if err != nil {
		m.t.Fatal(err)
	}
	return a, u
}

// TestAMeshDoesNotSeeATokenRefused: while the API revokes its tokens twice, 1,000 requests of twenty clients go well, and the upstream is asked once for each next token. Bodies come along.
func TestAMeshDoesNotSeeATokenRefused(t *testing.T) {
	m := newMeshRig(t)
	a, u := m.officernd()
	at := m.envoy(t, "ext-proc.yaml", "officernd-main", u.Host, m.sim.Addr())
	client := m.as(shop)
	ask := func() answered { return m.ask(client, http.MethodGet, "https://"+at+u.RequestURI(), "") }
	if got := ask(); got.status != http.StatusOK {
		t.Fatalf("got %d %s", got.status, got.body)
	}
	before := m.sim.SystemStats(a.System).Total()
	var done, failed atomic.Int64
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			for range 50 {
				if got := ask(); got.status != http.StatusOK {
					failed.Add(1)
					t.Log(got.status, got.body)
				}
				if n := done.Add(1); n == 300 || n == 700 {
					if revoked, err := m.sim.RejectTokens(a.ID); err != nil || revoked != 1 {
						t.Errorf("%d tokens were revoked, %v", revoked, err)
					}
				}
			}
		})
	}
	all.Wait()
	if n := failed.Load(); n != 0 {
		t.Errorf("%d of 1000 requests failed", n)
	}
	if n := m.sim.SystemStats(a.System).Total() - before; n != 2 {
		t.Errorf("the upstream was asked %d times for a token, want 2", n)
	}
}

// TestAMeshSeesARefusalOnce: an Envoy that asks for a token once for a request does not repeat it, and the client sees that it was refused; the next one has another token.
func TestAMeshSeesARefusalOnce(t *testing.T) {
	const policy = "/securitypolicy/egress/tokens"
	for filters, instead := range map[string][][2]string{
		"by Envoy's names": nil,
		"by those that Envoy Gateway gives": {
			{"name: envoy.filters.http.ext_authz", "name: envoy.filters.http.ext_authz" + policy},
			{"envoy.filters.http.ext_authz:", "envoy.filters.http.ext_authz" + policy + ":"},
			{"name: envoy.filters.http.ext_proc", "name: envoy.filters.http.ext_proc/envoyextensionpolicy/egress/tokens/extproc/0"},
		},
	} {
		t.Run(filters, func(t *testing.T) {
			m := newMeshRig(t)
			a, u := m.officernd()
			at := m.envoy(t, "ext-authz.yaml", "officernd-main", u.Host, m.sim.Addr(), instead...)
			client := m.as(shop)
			var got []int
			for n := range 9 {
				if n == 3 || n == 6 {
					if _, err := m.sim.RejectTokens(a.ID); err != nil {
						t.Fatal(err)
					}
				}
				got = append(got, m.ask(client, http.MethodGet, "https://"+at+u.RequestURI(), "").status)
			}
			if want := []int{200, 200, 200, 401, 200, 200, 401, 200, 200}; !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// TestWhatAMeshPutsOnARequest: the API sees the broker's token once, whatever the client has sent, and nothing of what the client has proven itself with.
func TestWhatAMeshPutsOnARequest(t *testing.T) {
	m := newMeshRig(t)
	_, u := m.officernd()
	var seen []http.Header
	api := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen = append(seen, r.Header.Clone())
		_, _ = io.Copy(w, r.Body)
	}))
	api.StartTLS()
	defer api.Close()
	m.write("api.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})))
	client := m.as(shop)
	for _, way := range ways {
		t.Run(way, func(t *testing.T) {
			at := m.envoy(t, way, "officernd-main", u.Host, api.Listener.Addr().String(), [2]string{filepath.Join(m.dir, "ca.pem"), filepath.Join(m.dir, "api.pem")},
				[2]string{"exact: " + u.Host, "exact: example.com"}, [2]string{"sni: " + u.Host, "sni: example.com"})
			seen = nil
			got := m.ask(client, http.MethodPost, "https://"+at+"/x?access_token=mine", "a body", "Authorization", "Bearer mine", "authorization", "Bearer mine", "AUTHORIZATION", "Basic mine",
				"x-tokenbroker-credential", "another-main", "credential", "another-main", "authorization_", "mine", "x_api_key", "mine", "X-Forwarded-Client-Cert", "By="+gateway+";URI=spiffe://corp.example/ns/web/sa/admin")
			token := m.mustGet("officernd-main")
			if got.status != http.StatusOK || got.body != "a body" || len(seen) != 1 || !slices.Equal(seen[0]["Authorization"], []string{"Bearer " + token.GetAccessToken()}) {
				t.Errorf("got %d %s, and the API %v", got.status, got.body, seen)
			}
			for _, h := range seen {
				for name := range h {
					if strings.Contains(name, "_") {
						t.Errorf("the API is sent %s, which some servers read with hyphens", name)
					}
				}
			}
		})
	}
}

// TestWhatAClientSendsByATokensName: an API reads of it nothing but the token, whatever it takes for a separator.
func TestWhatAClientSendsByATokensName(t *testing.T) {
	const definition = `
inputs: {client_id: {}, client_secret: {secret: true}}
scopes: {join: " ", default: [officernd.api.read], required: true}
obtain: {oauth2: "https://identity.officernd.com/oauth/token"}
lifetime: 60m
base_url: https://app.officernd.com/api/v1
present: `
	m := newMeshRig(t, func(o *rigOptions) {
		o.definitions = map[string]string{
			"by-query":  "name: by-query" + definition + `{query: {access_token: "{{token}}"}}`,
			"by-cookie": "name: by-cookie" + definition + `{cookies: {session: "{{token}}"}}`,
		}
	})
	a, u := m.officernd()
	var seen []string
	api := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen = append(seen, fmt.Sprint(r.RequestURI, " ", r.Header["Cookie"]))
	}))
	api.StartTLS()
	defer api.Close()
	m.write("api.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})))
	client := m.as(shop)
	for _, provider := range []string{"by-query", "by-cookie"} {
		do(t, m.credentials.CreateCredential, &tokenbrokerv1.CreateCredentialRequest{
			Credential: &tokenbrokerv1.Credential{Name: provider + "-main", Provider: provider, Inputs: a.Inputs}, Secrets: a.Secrets,
		})
		for _, way := range ways {
			at := m.envoy(t, way, provider+"-main", u.Host, api.Listener.Addr().String(), [2]string{filepath.Join(m.dir, "ca.pem"), filepath.Join(m.dir, "api.pem")},
				[2]string{"exact: " + u.Host, "exact: example.com"}, [2]string{"sni: " + u.Host, "sni: example.com"})
			token := m.mustGet(provider + "-main").GetAccessToken()
			for _, c := range []struct {
				of, query string
				cookies   []string
				want      string // TOKEN stands for it
			}{
				{"by-query", "?x=1;access_token=mine", nil, "/x?x=1&access_token=TOKEN []"},
				{"by-query", "?access_token=mine&%61ccess_token=mine;access%5Ftoken=mine&y=%zz;z", nil, "/x?y=%zz;z&access_token=TOKEN []"},
				{"by-query", "?&?access_token=mine&acce%C5%BFs_token=mine", nil, "/x?access_token=TOKEN []"},
				{"by-query", "", nil, "/x?access_token=TOKEN []"},
				{"by-cookie", "?x=1;y", []string{"a=b", "session=mine"}, "/x?x=1;y [a=b; session=TOKEN]"},
				{"by-cookie", "", []string{"session=mine", "a=b; session=mine"}, "/x [a=b; session=TOKEN]"},
				{"by-cookie", "", []string{"a=b, session=mine"}, "/x [a=b; session=TOKEN]"},
			} {
				if c.of != provider {
					continue
				}
				seen = nil
				var headers []string
				for _, line := range c.cookies {
					headers = append(headers, "Cookie", line)
				}
				got := m.ask(client, http.MethodGet, "https://"+at+"/x"+c.query, "", headers...)
				for i := range seen {
					seen[i] = strings.NewReplacer(url.QueryEscape(token), "TOKEN", token, "TOKEN").Replace(seen[i])
				}
				if got.status != http.StatusOK || !slices.Equal(seen, []string{c.want}) {
					t.Errorf("%s, %q %q: got %d, and the API %q, want %q", way, c.query, c.cookies, got.status, seen, c.want)
				}
			}
		}
	}
}

// TestAClientWhomNobodyCanName: an Envoy does not say whether its client has shown no certificate, or one without a name. It gets no token of the Envoy's, unless the Envoy's
// configuration says that the Envoy is the caller.
func TestAClientWhomNobodyCanName(t *testing.T) {
	m := newMeshRig(t)
	a, u := m.officernd()
	for _, name := range []string{"own-strict", "own-open", "own-caller"} {
		m.create(name, a)
	}
	uris := func(all ...string) (out []*url.URL) {
		for _, s := range all {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, u)
		}
		return out
	}
	for _, way := range ways {
		anybody := [2]string{"require_client_certificate: true", "require_client_certificate: false"}
		strict := m.envoy(t, way, "own-strict", u.Host, m.sim.Addr())
		open := m.envoy(t, way, "own-open", u.Host, m.sim.Addr(), anybody)
		itself := m.envoy(t, way, "own-caller", u.Host, m.sim.Addr(), anybody, [2]string{"credential: own-caller", "credential: own-caller, caller: envoy"})
		for name, edit := range map[string]func(*x509.Certificate){
			"no certificate":              nil,
			"no name at all":              func(*x509.Certificate) {},
			"an address":                  func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} },
			"a mailbox":                   func(c *x509.Certificate) { c.EmailAddresses = []string{"a@corp.example"} },
			"an empty URI":                func(c *x509.Certificate) { c.URIs = uris("") },
			"an empty URI before another": func(c *x509.Certificate) { c.URIs = uris("", shop) },
			"an empty DNS name":           func(c *x509.Certificate) { c.DNSNames = []string{""} },
			"a subject":                   func(c *x509.Certificate) { c.Subject.CommonName = shop },
		} {
			t.Run(way+" "+name, func(t *testing.T) {
				client, at := m.showing(nil), open
				if edit != nil {
					p, err := m.ca.Issue(time.Hour, func(c *x509.Certificate) {
						c.Subject, c.DNSNames, c.URIs, c.IPAddresses, c.ExtKeyUsage = pkix.Name{}, nil, nil, nil, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
						edit(c)
					})
					if err != nil {
						t.Fatal(err)
					}
					client, at = m.showing(&p), strict
				}
				if got := m.ask(client, http.MethodGet, "https://"+at+u.RequestURI(), ""); got.status != http.StatusForbidden || got.refused() != "CALLER_UNAUTHENTICATED" {
					t.Errorf("got %d %s", got.status, got.body)
				}
			})
		}
		var got []int
		for n := range 3 {
			if n == 1 {
				if _, err := m.sim.RejectTokens(a.ID); err != nil {
					t.Fatal(err)
				}
			}
			got = append(got, m.ask(m.showing(nil), http.MethodGet, "https://"+itself+u.RequestURI(), "").status)
		}
		if want := map[string][]int{"ext-proc.yaml": {200, 200, 200}, "ext-authz.yaml": {200, 401, 200}}[way]; !slices.Equal(got, want) {
			t.Errorf("%s: an Envoy that asks for itself: got %v, want %v", way, got, want)
		}
	}
}

// TestWhomAMeshRefuses: whoever may not have a token gets none, and the API hears nothing of them; what they are told is in words of HTTP.
func TestWhomAMeshRefuses(t *testing.T) {
	m := newMeshRig(t)
	a, u := m.officernd()
	for _, way := range ways {
		at := m.envoy(t, way, "officernd-main", u.Host, m.sim.Addr())
		none := m.envoy(t, way, "nobody-main", u.Host, m.sim.Addr())
		wrong := m.envoy(t, way, "typo-main", u.Host, m.sim.Addr(), [2]string{"credential: typo-main", "credential: officernd-main, scope: all"})
		empty := m.envoy(t, way, "empty-main", u.Host, m.sim.Addr(), [2]string{"credential: empty-main", "scopes: all"})
		for _, c := range []struct {
			name, as, at string
			status       int
			reason       string
		}{
			{"whom no rule allows", "spiffe://corp.example/ns/bank/sa/teller", at, http.StatusForbidden, "CALLER_NOT_ALLOWED"},
			{"whom the proxy may not forward", "spiffe://corp.example/mesh/other", at, http.StatusForbidden, "CALLER_UNAUTHENTICATED"},
			{"the proxy itself", gateway, at, http.StatusForbidden, "CALLER_UNAUTHENTICATED"},
			{"a credential that there is not", shop, none, http.StatusInternalServerError, "NOT_FOUND"},
			{"a word that is none", shop, wrong, http.StatusInternalServerError, "REQUEST_INVALID"},
			{"no credential", shop, empty, http.StatusInternalServerError, "REQUEST_INVALID"},
		} {
			t.Run(way+" "+c.name, func(t *testing.T) {
				got := m.ask(m.as(c.as), http.MethodGet, "https://"+c.at+u.RequestURI(), "", "Authorization", "Bearer mine")
				var said struct{ Reason, Message string }
				if err := json.Unmarshal([]byte(got.body), &said); err != nil || got.status != c.status || got.refused() != c.reason || said.Reason != c.reason || said.Message == "" {
					t.Errorf("got %d %q %s", got.status, got.refused(), got.body)
				}
			})
		}
	}
	if n := m.sim.SystemStats(a.System).Total(); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
	if n := strings.Count(string(m.log.Bytes()), `"reason":"CALLER_NOT_ALLOWED","request_id":`); n == 0 || n != strings.Count(string(m.log.Bytes()), `"caller":"via:mesh/spiffe://corp.example/ns/bank/sa/teller"`) {
		t.Errorf("the log does not say who was refused:\n%s", m.log.Bytes())
	}
}

// TestAMeshWhileThereIsNoToken: a client is told when it may help to ask again, and a broker that is away lets nothing pass.
func TestAMeshWhileThereIsNoToken(t *testing.T) {
	m := newMeshRig(t)
	a, u := m.officernd()
	var at []string
	for _, way := range ways {
		at = append(at, m.envoy(t, way, "officernd-main", u.Host, m.sim.Addr()))
	}
	client := m.as(shop)
	each := func(what string, want func(answered) bool) {
		t.Helper()
		for i, at := range at {
			if got := m.ask(client, http.MethodGet, "https://"+at+u.RequestURI(), "", "Authorization", "Bearer mine"); !want(got) {
				t.Errorf("%s, %s: got %d %v %s", what, ways[i], got.status, got.header, got.body)
			}
		}
	}
	wellAgain := func() {
		t.Helper()
		for until := time.Now().Add(30 * time.Second); ; <-time.After(100 * time.Millisecond) {
			if !slices.ContainsFunc(at, func(at string) bool {
				return m.ask(client, http.MethodGet, "https://"+at+u.RequestURI(), "").status != http.StatusOK
			}) {
				return
			}
			if time.Now().After(until) {
				t.Fatal("an Envoy does not go on")
			}
		}
	}
	clear, err := m.sim.AddFault(upstreamsim.Fault{Kind: upstreamsim.FaultServerError, Account: a.ID})
	if err != nil {
		t.Fatal(err)
	}
	each("the upstream fails", func(got answered) bool {
		return got.status == http.StatusServiceUnavailable && got.refused() == "UPSTREAM_UNAVAILABLE" && got.header.Get("Retry-After") != ""
	})
	clear()
	wellAgain()
	m.stop()
	each("the broker is away", func(got answered) bool { return got.status == http.StatusServiceUnavailable })
	m.start(m.options)
	wellAgain()
}

// TestAMeshHasTheTokenItself: an Envoy that has the token as a secret asks nobody for a request, has the next one as soon as the broker has, goes on while the broker is away, and has
// nothing any more once it may not.
func TestAMeshHasTheTokenItself(t *testing.T) {
	m := newMeshRig(t)
	_, u := m.officernd()
	at := m.envoy(t, "sds.yaml", "officernd-main", u.Host, m.sim.Addr())
	client := m.as(shop)
	ask := func() int {
		return m.ask(client, http.MethodGet, "https://"+at+u.RequestURI(), "", "Authorization", "Bearer mine").status
	}
	becomes := func(want int) {
		t.Helper()
		for until := time.Now().Add(30 * time.Second); ask() != want; <-time.After(10 * time.Millisecond) {
			if time.Now().After(until) {
				t.Fatalf("it does not become %d", want)
			}
		}
	}
	becomes(http.StatusOK)
	for range 2 {
		token := m.mustGet("officernd-main")
		if !m.sim.RejectToken(token.GetAccessToken()) {
			t.Fatal("it was not valid")
		}
		if got := ask(); got != http.StatusUnauthorized {
			t.Errorf("got %d, want what the API says", got)
		}
		m.invalidate("officernd-main", token.GetTokenId())
		becomes(http.StatusOK)
	}
	m.stop()
	for range 20 {
		if got := ask(); got != http.StatusOK {
			t.Errorf("got %d while the broker is away", got)
		}
	}
	m.start(m.options)
	if _, err := m.credentials.DeleteCredential(t.Context(), &tokenbrokerv1.DeleteCredentialRequest{Name: "officernd-main"}); err != nil {
		t.Fatal(err)
	}
	becomes(http.StatusUnauthorized)
}
