package main

import (
	"bytes"
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
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"go.yaml.in/yaml/v4"
	"google.golang.org/grpc"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/doctor"
	"github.com/tokenbroker/tokenbroker/internal/devcerts"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
)

// A deployment is one of those of deploy/ and of the examples, with its files in a directory of the test.
type deployment struct {
	t                *testing.T
	dir              string
	settings, policy string // where these files are in the project
	ca               *devcerts.Authority
	// instead are the texts of the settings that are another one here.
	instead []string
}

func newDeployment(t *testing.T, settings, policy, trustDomain string) *deployment {
	t.Helper()
	ca, err := devcerts.NewAuthority("company", trustDomain, 90*24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return &deployment{t: t, dir: shortDir(t), settings: settings, policy: policy, ca: ca}
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

// serve starts a broker with the deployment's settings, of which nothing is changed but where files, other machines and its own addresses are.
func (d *deployment) serve() *proc {
	d.t.Helper()
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join("../..", name))
		if err != nil {
			d.t.Fatal(err)
		}
		return string(data)
	}
	here := []string{
		"/etc/tokenbroker", d.dir + "/etc", "/var/lib/tokenbroker", d.dir + "/data", "/var/log/tokenbroker", d.dir + "/log", "/run/spire", d.dir + "/spire", "/run/credentials/tokenbroker.service", d.dir + "/etc",
		"127.0.0.1:7420", "127.0.0.1:0", "127.0.0.1:7421", "127.0.0.1:0", `":7422"`, `"127.0.0.1:0"`, `":7430"`, `"127.0.0.1:0"`, `":7431"`, `"127.0.0.1:0"`, "10.0.0.5:7430", "127.0.0.1:0", "10.0.0.5:7431", "127.0.0.1:0",
	}
	settings := read(d.settings)
	for i := 0; i < len(d.instead); i += 2 {
		if !strings.Contains(settings, d.instead[i]) {
			d.t.Errorf("there is no %s in it", d.instead[i])
		}
	}
	policy := "etc/policy.yaml"
	if strings.Contains(settings, "/policy/policy.yaml") {
		policy = "etc/policy/policy.yaml"
	}
	d.write(policy, []byte(read(d.policy)))
	d.write("etc/providers/static.yaml", []byte("name: static\ninputs:\n  api_key: {secret: true, handed_out: true}\ntoken: \"{{api_key}}\"\nlifetime: 1h\n"))
	d.write("secret", []byte("s3cret\n"))
	for _, dir := range []string{"etc/kek", "log"} {
		if err := os.MkdirAll(filepath.Join(d.dir, dir), 0o700); err != nil {
			d.t.Fatal(err)
		}
	}
	settings = strings.NewReplacer(append(d.instead, here...)...).Replace(settings)
	if kek := keyOf.FindStringSubmatch(settings); kek != nil {
		command(d.t, "keys", "create", kek[1])
	}
	config := d.write("settings.yaml", []byte(settings))
	if p := start(d.t, "config", "check", config); p.code() != 0 {
		d.t.Fatalf("config check: %s", p.output())
	}
	return start(d.t, "serve", "--config", config, "--metrics-listen", "none") // whose port another broker of this machine may have
}

// keyOf finds the file with the key that wraps the keys.
var keyOf = regexp.MustCompile(`kek: "file://([^"]+)"`)

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
	d := newDeployment(t, "examples/deployments/one-machine/settings.yaml", "examples/deployments/one-machine/policy.yaml", "")
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

// svid makes a certificate one with this SPIFFE ID, for this machine.
func svid(t *testing.T, id string) func(*x509.Certificate) {
	t.Helper()
	named, err := devcerts.SPIFFE(id)
	if err != nil {
		t.Fatal(err)
	}
	return func(c *x509.Certificate) { named(c); devcerts.Loopback(c) }
}

const ownID = "spiffe://corp.example/ns/tokenbroker/sa/tokenbroker"

func TestTheDeploymentOnKubernetes(t *testing.T) {
	t.Parallel()
	t.Run("with SPIFFE", func(t *testing.T) {
		t.Parallel()
		d := newDeployment(t, "deploy/overlays/spiffe/settings.yaml", "deploy/base/policy.yaml", "corp.example")
		own, err := d.ca.Issue(time.Hour, svid(t, ownID))
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
			SpiffeId: ownID, X509Svid: der(own.Certificate), X509SvidKey: der(own.Key), Bundle: der(d.ca.PEM()),
		}}}})
		go func() { _ = srv.Serve(l) }()
		t.Cleanup(srv.Stop)
		d.onKubernetes()
	})
	t.Run("with certificates in a Secret", func(t *testing.T) {
		t.Parallel()
		d := newDeployment(t, "deploy/base/settings.yaml", "deploy/base/policy.yaml", "corp.example")
		d.secretTLS("etc/tls", ownID)
		d.onKubernetes()
	})
}

// secretTLS writes what a Secret of cert-manager's has.
func (d *deployment) secretTLS(dir, id string) {
	d.t.Helper()
	pair, err := d.ca.Issue(time.Hour, svid(d.t, id))
	if err != nil {
		d.t.Fatal(err)
	}
	d.write(dir+"/tls.crt", pair.Certificate)
	d.write(dir+"/tls.key", pair.Key)
	d.write(dir+"/ca.crt", d.ca.PEM())
}

// onKubernetes starts the broker and does there what people and the Job do.
func (d *deployment) onKubernetes() {
	t := d.t
	t.Helper()
	d.onRedis("redis.tokenbroker.svc:6379", "etc/redis/password", "etc/redis/ca.crt")
	p := d.serve()
	operator, cart, other := d.issue("operator", svid(t, "spiffe://corp.example/ns/tokenbroker/sa/operator")), d.issue("cart", svid(t, "spiffe://corp.example/ns/shop/sa/cart")), d.issue("other", svid(t, "spiffe://corp.example/ns/bank/sa/other"))
	d.asks(p, operator, map[string][]string{"cart": cart}, map[string][]string{"other": other})
	d.appliesAgain(p)
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

// appliesAgain runs what the Job of credentials runs, with the identity that the Job has: the first run makes the credential, and further ones change something only where something has changed.
func (d *deployment) appliesAgain(p *proc) {
	t := d.t
	t.Helper()
	d.secretTLS("job/tls", "spiffe://corp.example/ns/tokenbroker/sa/tokenbroker-credentials")
	declared, err := os.ReadFile("../../deploy/components/credentials/credentials.yaml")
	if err != nil {
		t.Fatal(err)
	}
	d.write("job/credentials/credentials.yaml", []byte(strings.ReplaceAll(string(declared), "/etc/tokenbroker", d.dir+"/job")))
	d.write("job/secrets/officernd", []byte("s3cret\n"))
	var args []string
	for _, arg := range jobsArguments(t) {
		arg = strings.ReplaceAll(arg, "/etc/tokenbroker", d.dir+"/job")
		args = append(args, strings.Replace(arg, "tokenbroker-operators.tokenbroker.svc:7431", "localhost:"+p.waitFor(`operators on 127\.0\.0\.1:(\d+)`), 1))
	}
	changes := func() int { return strings.Count(p.output(), `"event":"credential.`) }
	if out := d.by(nil, 0, args...); !strings.Contains(out, "1 created, 0 changed, 0 deleted, 0 unchanged") {
		t.Errorf("got %s", out)
	}
	before := changes()
	if out := d.by(nil, 0, args...); !strings.Contains(out, "0 created, 0 changed, 0 deleted, 1 unchanged") {
		t.Errorf("again: got %s", out)
	}
	if before == 0 || changes() != before {
		t.Errorf("%d changes of credentials were written down, and %d after a run that has none", before, changes())
	}
	d.write("job/secrets/officernd", []byte("an0ther\n"))
	if out := d.by(nil, 0, args...); !strings.Contains(out, "0 created, 1 changed, 0 deleted, 0 unchanged") {
		t.Errorf("with another secret: got %s", out)
	}
	d.by(nil, console.ExitNotAllowed, append([]string{"credential", "delete", "shop-officernd", "--yes"}, args[3:]...)...)
}

// jobsArguments are those of the Job that applies credentials.
func jobsArguments(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("../../deploy/components/credentials/job.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for d := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var object struct {
			Kind string
			Spec struct {
				Template struct {
					Spec struct{ Containers []struct{ Args []string } }
				}
			}
		}
		if err := d.Decode(&object); err != nil {
			t.Fatalf("there is no Job: %v", err)
		}
		if object.Kind == "Job" {
			return object.Spec.Template.Spec.Containers[0].Args
		}
	}
}

func TestTheExampleOfVirtualMachines(t *testing.T) {
	t.Parallel()
	d := newDeployment(t, "examples/deployments/virtual-machines/settings.yaml", "examples/deployments/virtual-machines/policy.yaml", "")
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
