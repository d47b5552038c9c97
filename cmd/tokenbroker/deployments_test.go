package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/doctor"
	"github.com/tokenbroker/tokenbroker/internal/devcerts"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
)

// A deployment is one of the examples, with its files in a directory of the test.
type deployment struct {
	t    *testing.T
	dir  string
	name string
	ca   *devcerts.Authority
	// instead are the texts of the settings that are another one here.
	instead []string
}

func newDeployment(t *testing.T, name, trustDomain string) *deployment {
	t.Helper()
	ca, err := devcerts.NewAuthority("company", trustDomain, 90*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return &deployment{t: t, dir: shortDir(t), name: name, ca: ca}
}

// write puts a file where the settings will name it.
func (d *deployment) write(path string, data []byte) string {
	d.t.Helper()
	path = filepath.Join(d.dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		d.t.Fatal(err)
	}
	return path
}

// issue writes a certificate and its key, and returns the flags by which a command shows it.
func (d *deployment) issue(name string, edit func(*x509.Certificate)) []string {
	d.t.Helper()
	pair, err := d.ca.Issue(time.Hour, edit)
	if err != nil {
		d.t.Fatal(err)
	}
	return []string{
		"--tls-ca-file", d.write("ca.pem", d.ca.PEM()), "--tls-cert-file", d.write(name+".crt", pair.Certificate), "--tls-key-file", d.write(name+".key", pair.Key),
	}
}

// serve starts a broker with the example's settings, of which nothing is changed but where files, other machines and its own addresses are.
func (d *deployment) serve() *proc {
	d.t.Helper()
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join("../../examples/deployments", d.name, name))
		if err != nil {
			d.t.Fatal(err)
		}
		return string(data)
	}
	here := []string{
		"/etc/tokenbroker", d.dir + "/etc", "/var/lib/tokenbroker", d.dir + "/data", "/var/log/tokenbroker", d.dir + "/log", "/run/spire", d.dir + "/spire", "/run/credentials/tokenbroker.service", d.dir + "/etc",
		"127.0.0.1:7420", "127.0.0.1:0", "127.0.0.1:7421", "127.0.0.1:0", `":7422"`, `"127.0.0.1:0"`, `":7430"`, `"127.0.0.1:0"`, `":7431"`, `"127.0.0.1:0"`, "10.0.0.5:7430", "127.0.0.1:0", "10.0.0.5:7431", "127.0.0.1:0",
	}
	settings := read("settings.yaml")
	for i := 0; i < len(d.instead); i += 2 {
		if !strings.Contains(settings, d.instead[i]) {
			d.t.Errorf("there is no %s in it", d.instead[i])
		}
	}
	policy := "etc/policy.yaml"
	if strings.Contains(settings, "/policy/policy.yaml") {
		policy = "etc/policy/policy.yaml"
	}
	d.write(policy, []byte(read("policy.yaml")))
	d.write("etc/providers/static.yaml", []byte("name: static\ninputs:\n  api_key: {secret: true, handed_out: true}\ntoken: \"{{api_key}}\"\nlifetime: 1h\n"))
	d.write("secret", []byte("s3cret\n"))
	for _, dir := range []string{"etc/key", "log"} {
		if err := os.MkdirAll(filepath.Join(d.dir, dir), 0o700); err != nil {
			d.t.Fatal(err)
		}
	}
	if strings.Contains(settings, "/run/credentials/tokenbroker.service/kek.json") {
		command(d.t, "keys", "create", filepath.Join(d.dir, "etc/kek.json"))
	}
	config := d.write("settings.yaml", []byte(strings.NewReplacer(append(d.instead, here...)...).Replace(settings)))
	if p := start(d.t, "config", "check", config); p.code() != 0 {
		d.t.Fatalf("config check: %s", p.output())
	}
	return start(d.t, "serve", "--config", config)
}

// by runs the command as somebody, and wants this exit code.
func (d *deployment) by(flags []string, want int, args ...string) string {
	d.t.Helper()
	p := start(d.t, append(args, flags...)...)
	if got := p.code(); got != want {
		d.t.Errorf("%v: got exit code %d and\n%swant %d", args, got, p.output(), want)
	}
	return p.output()
}

// isSafe asks the doctor, who finds nothing but what a test cannot help: it runs the broker as the user that it runs as itself, with files of that user's.
func (d *deployment) isSafe(data string) {
	d.t.Helper()
	path, err := binary()
	if err != nil {
		d.t.Fatal(err)
	}
	want := doctor.SelfWritable
	if os.Geteuid() == 0 {
		want = doctor.RunsAsRoot
	}
	r, code := examined(d.t, path, "--data-dir", filepath.Join(d.dir, data))
	for _, f := range r.Findings {
		if f.Code != want {
			d.t.Errorf("the doctor finds %+v", f)
		}
	}
	if len(r.Findings) == 0 || len(r.Unseen) > 0 || code != console.ExitPrecondition {
		d.t.Errorf("got %+v, exit code %d; want %s", r, code, want)
	}
}

func (d *deployment) create(flags []string, names ...string) {
	d.t.Helper()
	for _, name := range names {
		d.by(flags, 0, "credential", "create", name, "--provider", "static", "--secret", "api_key=@"+filepath.Join(d.dir, "secret"), "--label", "for=machine")
	}
}

func TestTheExampleOfOneMachine(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, "one-machine", "")
	p := d.serve()
	services := []string{"--address", p.waitFor(`answering on (127\.0\.0\.1:\d+)`)}
	operators := []string{"--data-dir", d.dir + "/data"}
	d.by(operators, 0, "health", "--wait", "30s")
	d.create(operators, "mail")
	if out := d.by(services, 0, "token", "get", "mail"); !strings.Contains(out, "s3cret") {
		t.Errorf("got %s", out)
	}
	d.by(services, console.ExitNotAllowed, "credential", "list")
	d.by(operators, 0, "credential", "list")
	if log, err := os.ReadFile(filepath.Join(d.dir, "log/audit.jsonl")); err != nil || !strings.Contains(string(log), `"event":"credential.created"`) {
		t.Errorf("the audit log: %s, %v", log, err)
	}
	d.isSafe("data")
}

// agent is a SPIFFE Workload API by the published stub.
type agent struct {
	workload.UnimplementedSpiffeWorkloadAPIServer
	is *workload.X509SVIDResponse
}

func (a *agent) FetchX509SVID(_ *workload.X509SVIDRequest, s grpc.ServerStreamingServer[workload.X509SVIDResponse]) error {
	if err := s.Send(a.is); err != nil {
		return err
	}
	<-s.Context().Done()
	return s.Context().Err()
}

func der(data []byte) (out []byte) {
	for b, rest := pem.Decode(data); b != nil; b, rest = pem.Decode(rest) {
		out = append(out, b.Bytes...)
	}
	return out
}

func TestTheExampleOfKubernetes(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, "kubernetes", "corp.example")
	svid := func(id string) func(*x509.Certificate) {
		named, err := devcerts.SPIFFE(id)
		if err != nil {
			t.Fatal(err)
		}
		return func(c *x509.Certificate) { named(c); devcerts.Loopback(c) }
	}
	own, err := d.ca.Issue(time.Hour, svid("spiffe://corp.example/ns/tokenbroker/sa/tokenbroker"))
	if err != nil {
		t.Fatal(err)
	}
	d.write("spire/here", nil)
	l, err := net.Listen("unix", filepath.Join(d.dir, "spire/agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	workload.RegisterSpiffeWorkloadAPIServer(srv, &agent{is: &workload.X509SVIDResponse{Svids: []*workload.X509SVID{{
		SpiffeId: "spiffe://corp.example/ns/tokenbroker/sa/tokenbroker", X509Svid: der(own.Certificate), X509SvidKey: der(own.Key), Bundle: der(d.ca.PEM()),
	}}}})
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(srv.Stop)
	d.onRedis("redis.tokenbroker.svc:6379", "etc/redis/password", "etc/redis/ca.crt")

	p := d.serve()
	operator, cart, other := d.issue("operator", svid("spiffe://corp.example/ns/tokenbroker/sa/operator")), d.issue("cart", svid("spiffe://corp.example/ns/shop/sa/cart")), d.issue("other", svid("spiffe://corp.example/ns/bank/sa/other"))
	d.asks(p, operator, map[string][]string{"cart": cart}, map[string][]string{"other": other})
	socket := []string{"--data-dir", d.dir + "/data/data"}
	d.by(socket, 0, "credential", "list")
	res, err := http.Get("http://" + p.waitFor(`probes on http://(127\.0\.0\.1:\d+)`) + "/readyz")
	if err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("/readyz: %v, %v", res, err)
	} else {
		_ = res.Body.Close()
	}
	if !strings.Contains(p.output(), `"event":"token.issued"`) {
		t.Error("there is no audit log in its output")
	}
	d.isSafe("data/data")
}

func TestTheExampleOfVirtualMachines(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, "virtual-machines", "")
	dns := func(name string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.DNSNames = []string{name} }
	}
	d.write("etc/company.pem", d.ca.PEM())
	own, err := d.ca.Issue(time.Hour, devcerts.Loopback)
	if err != nil {
		t.Fatal(err)
	}
	d.write("etc/tls.crt", own.Certificate)
	d.write("etc/tls.key", own.Key)
	pair, err := tls.X509KeyPair(own.Certificate, own.Key)
	if err != nil {
		t.Fatal(err)
	}
	var issuer string
	var login *devcerts.Issuer
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			_ = json.NewEncoder(w).Encode(map[string]string{"issuer": issuer, "jwks_uri": issuer + "/jwks"})
		case "/jwks":
			keys, err := login.JWKS()
			if err != nil {
				t.Error(err)
			}
			_, _ = w.Write(keys)
		default:
			http.NotFound(w, r)
		}
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	issuer = "https://localhost" + s.Listener.Addr().String()[strings.LastIndexByte(s.Listener.Addr().String(), ':'):]
	if login, err = devcerts.NewIssuer(issuer); err != nil {
		t.Fatal(err)
	}
	s.StartTLS()
	t.Cleanup(s.Close)
	d.instead = append(d.instead, "https://login.company.example", issuer)
	d.onRedis("redis.company.example:6379", "etc/redis.password", "")

	p := d.serve()
	token := func(sub string) []string {
		jwt, err := login.Token(sub, "tokenbroker", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return []string{"--tls-ca-file", filepath.Join(d.dir, "ca.pem"), "--bearer-token-file", d.write(strings.ReplaceAll(sub, ":", "-")+".jwt", []byte(jwt))}
	}
	d.asks(p, d.issue("a", dns("a.ops.company.example")),
		map[string][]string{"shop": d.issue("shop", dns("shop.svc.company.example")), "a pipeline": token("pipeline:shop:main")},
		map[string][]string{"bank": d.issue("bank", dns("bank.svc.company.example")), "another pipeline": token("pipeline:bank:main")})
	if log, err := os.ReadFile(filepath.Join(d.dir, "log/audit.jsonl")); err != nil || !strings.Contains(string(log), `"id":"jwt:login/pipeline:shop:main"`) {
		t.Errorf("the audit log: %s, %v", log, err)
	}
	d.isSafe("data")
}

// onRedis starts the Redis of an example, with TLS and a user. ca is where its authority goes; empty: it is the company's file, to which it is added.
func (d *deployment) onRedis(address, password, ca string) {
	d.t.Helper()
	r := redistest.Start(d.t, redistest.Options{TLS: true, Users: []string{"default off", "tokenbroker on >the-password " + documentedRights(d.t)}, Args: []string{"--tls-auth-clients", "no"}})
	authority, err := os.ReadFile(r.CAFile)
	if err != nil {
		d.t.Fatal(err)
	}
	if ca == "" {
		d.instead = append(d.instead, "ca_file: /etc/tokenbroker/company.pem\npolicy_file", fmt.Sprintf("ca_file: %s\npolicy_file", r.CAFile))
	} else {
		d.write(ca, authority)
	}
	d.write(password, []byte("the-password\n"))
	d.instead = append(d.instead, address, r.Addr())
}

// asks has an operator make credentials, whose tokens some may have and others not.
func (d *deployment) asks(p *proc, operator []string, may, mayNot map[string][]string) {
	d.t.Helper()
	services, operators := "--address=localhost:"+p.waitFor(`services on 127\.0\.0\.1:(\d+)`), "--address=localhost:"+p.waitFor(`operators on 127\.0\.0\.1:(\d+)`)
	operator = append(operator, operators)
	d.by(operator, 0, "health", "--wait", "30s")
	d.create(operator, "shop-mail", "payroll")
	for name, flags := range may {
		if out := d.by(append(flags, services), 0, "token", "get", "shop-mail"); !strings.Contains(out, "s3cret") {
			d.t.Errorf("%s: got %s", name, out)
		}
		d.by(append(flags, services), console.ExitNotAllowed, "token", "get", "payroll")
	}
	for _, flags := range mayNot {
		d.by(append(flags, services), console.ExitNotAllowed, "token", "get", "shop-mail")
	}
}
