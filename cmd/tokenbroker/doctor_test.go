package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/doctor"
	"github.com/tokenbroker/tokenbroker/internal/devcerts"
	"github.com/tokenbroker/tokenbroker/internal/installed"
	"github.com/tokenbroker/tokenbroker/internal/redistest"
)

// nobody is the user that a broker of these tests runs as, where root runs them.
const nobody = 65534

// A patient is a broker that runs, with its files as an administrator would lay them out: what it is started with is root's, and what it writes its own.
type patient struct {
	*proc
	t   *testing.T
	dir string
	// uid is the user it runs as; 0: the one of the test.
	uid uint32
	ca  *devcerts.Authority
	// redis is its store; nil: that is a file.
	redis *redistest.Server
	// settings and policy are the texts of the files, which a test may change before it starts.
	settings, policy string
}

const patientSettings = `data_dir: DIR/data
listen: [127.0.0.1:0]
metrics_listen: none
policy_file: DIR/etc/policy.yaml
providers_dir: DIR/etc/providers
audit: {file: DIR/log/audit.jsonl}
keys: {kek: "file://DIR/etc/kek.json"}
services: {listen: ["127.0.0.1:0"], cert_file: DIR/etc/tls.crt, key_file: DIR/etc/tls.key, trust: [company], issuers: [ci], proxies: [mesh]}
trust: {company: {ca_file: DIR/ca/ca.pem, dns: ["*.company.example"]}}
issuers: {ci: {issuer: "https://issuer.invalid", audience: [tokenbroker], jwks_file: DIR/etc/jwks.json}}
proxies: {mesh: {callers: ["spiffe://corp.example/mesh"], forwards: ["corp.example/ns/web/**"]}}
`

const patientPolicy = `version: 1
callers:
  shop: [{certificate: company, dns: shop.company.example}]
  pipelines: [{jwt: ci, sub: "pipeline:shop:*"}]
  operators: [{unix: "*"}]
rules:
  - {name: shop, callers: [shop, pipelines], credentials: {names: ["shop-*"]}, operations: [get_token], scopes: ["*"]}
  - {name: operators, callers: [operators], credentials: {names: ["*"]}, operations: [get_token, credential.read, credential.write], scopes: ["*"]}
`

func newPatient(t *testing.T) *patient {
	t.Helper()
	p := &patient{t: t, dir: shortDir(t), settings: patientSettings, policy: patientPolicy}
	if os.Geteuid() == 0 {
		p.uid = nobody
	}
	if err := os.Chmod(p.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	var err error
	if p.ca, err = devcerts.NewAuthority("company", "", 90*24*time.Hour); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"data", "log"} {
		if err := os.Mkdir(p.at(dir), 0o700); err != nil {
			t.Fatal(err)
		}
		p.give(dir)
	}
	p.certify(time.Now(), 30*24*time.Hour)
	p.write("ca/ca.pem", p.ca.PEM(), 0o644)
	issuer, err := devcerts.NewIssuer("https://issuer.invalid")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := issuer.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	p.write("etc/jwks.json", keys, 0o644)
	p.write("etc/providers/static.yaml", []byte("name: static\ninputs:\n  api_key: {secret: true, handed_out: true}\ntoken: \"{{api_key}}\"\nlifetime: 1h\n"), 0o644)
	command(t, "keys", "create", p.at("etc/kek.json"))
	p.give("etc/kek.json")
	return p
}

func (p *patient) at(name string) string { return filepath.Join(p.dir, name) }

func (p *patient) write(name string, data []byte, mode fs.FileMode) {
	p.t.Helper()
	if err := os.MkdirAll(filepath.Dir(p.at(name)), 0o755); err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(p.at(name), data, mode); err != nil {
		p.t.Fatal(err)
	}
}

// give makes a file the broker's own.
func (p *patient) give(name string) { p.giveTo(name, int(p.uid)) }

func (p *patient) giveTo(name string, uid int) {
	p.t.Helper()
	if uid != 0 {
		if err := os.Lchown(p.at(name), uid, uid); err != nil {
			p.t.Fatal(err)
		}
	}
}

func (p *patient) mode(name string, mode fs.FileMode) {
	p.t.Helper()
	if err := os.Chmod(p.at(name), mode); err != nil {
		p.t.Fatal(err)
	}
}

// links has the first name lead to the second, that to the third, and so on.
func (p *patient) links(names ...string) {
	p.t.Helper()
	for i, name := range names {
		if err := os.MkdirAll(filepath.Dir(p.at(name)), 0o755); err != nil {
			p.t.Fatal(err)
		}
		if i == 0 {
			continue
		}
		if err := os.Symlink(p.at(name), p.at(names[i-1])); err != nil {
			p.t.Fatal(err)
		}
	}
}

// sticky lets a group write to a directory, each of them what is their own. Where everybody may, the kernel follows no link of others.
func (p *patient) sticky(name string, gid int) {
	p.t.Helper()
	if err := os.Chown(p.at(name), 0, gid); err != nil {
		p.t.Fatal(err)
	}
	p.mode(name, fs.ModeSticky|0o775)
}

// rootGives makes a file root's, and lets users read it by its access control list.
func (p *patient) rootGives(name string, uids ...int) {
	p.t.Helper()
	if err := os.Chown(p.at(name), 0, 0); err != nil {
		p.t.Fatal(err)
	}
	p.mode(name, 0o600)
	listFor(p.t, p.at(name), 4, uids...)
}

// certify writes the broker's own certificate.
func (p *patient) certify(from time.Time, life time.Duration) {
	p.t.Helper()
	own, err := p.ca.Issue(life, func(c *x509.Certificate) {
		devcerts.Loopback(c)
		c.NotBefore, c.NotAfter = from.Add(-time.Minute), from.Add(life)
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.write("etc/tls.crt", own.Certificate, 0o644)
	p.write("etc/tls.key", own.Key, 0o600)
	p.give("etc/tls.key")
}

// authority writes a certificate of an authority, and has upstreams be believed by it.
func (p *patient) authority(curve elliptic.Curve, from, until time.Time) {
	p.t.Helper()
	p.aged("etc/upstreams", curve, from, until)
	p.settings += "upstream: {ca_file: DIR/etc/upstreams.pem}\n"
}

// aged writes a certificate of an authority, and its key.
func (p *patient) aged(name string, curve elliptic.Curve, from, until time.Time) {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "another"}, NotBefore: from, NotAfter: until, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		p.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(name+".pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
	p.write(name+".key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600)
	p.give(name + ".key")
}

// replace changes a text that has to be there.
func (p *patient) replace(in *string, former, now string) {
	p.t.Helper()
	if !strings.Contains(*in, former) {
		p.t.Fatalf("there is no %q in\n%s", former, *in)
	}
	*in = strings.ReplaceAll(*in, former, now)
}

func (p *patient) set(former, now string) { p.t.Helper(); p.replace(&p.settings, former, now) }

// alone leaves out the listeners of others, and the policy.
func (p *patient) alone() {
	before, _, _ := strings.Cut(p.settings, "services:")
	p.settings = before
	p.set("policy_file: DIR/etc/policy.yaml\n", "")
}

// onRedis has a Redis for a store, with TLS and the user that docs/redis.md describes. rights: others than those.
func (p *patient) onRedis(rights string) {
	p.t.Helper()
	if rights == "" {
		rights = documentedRights(p.t)
	}
	p.redis = redistest.Start(p.t, redistest.Options{TLS: true, Users: []string{"default off", "broker on >the-password " + rights}, Args: []string{"--tls-auth-clients", "no"}})
	authority, err := os.ReadFile(p.redis.CAFile)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write("etc/redis.pem", authority, 0o644)
	p.write("etc/redis.password", []byte("the-password\n"), 0o600)
	p.give("etc/redis.password")
	p.settings += "store: rediss://" + p.redis.Addr() + "/0\nredis: {username: broker, password_file: DIR/etc/redis.password, ca_file: DIR/etc/redis.pem}\n"
}

// documentedRights are those of the user in docs/redis.md.
func documentedRights(t *testing.T) string {
	t.Helper()
	page, err := os.ReadFile("../../docs/redis.md")
	if err != nil {
		t.Fatal(err)
	}
	return firstGroup(t.Fatalf, `(?m)^user broker on >PASSWORD (~tokenbroker:\* .*)$`, string(page))
}

// plainRedis has a Redis without TLS.
func (p *patient) plainRedis(o redistest.Options, more string) {
	p.t.Helper()
	p.redis = redistest.Start(p.t, o)
	p.settings += "store: redis://" + p.redis.Addr() + "/0\n"
	if o.Password != "" {
		p.write("etc/redis.password", []byte(o.Password+"\n"), 0o600)
		p.give("etc/redis.password")
		p.settings += "redis: {password_file: DIR/etc/redis.password}\n"
	}
	p.settings += more
}

// begin starts the broker.
func (p *patient) begin() {
	p.t.Helper()
	p.write("etc/policy.yaml", []byte(p.policy), 0o644)
	p.write("etc/settings.yaml", []byte(strings.ReplaceAll(p.settings, "DIR", p.dir)), 0o644)
	p.proc = startAs(p.t, p.uid, "serve", "--config", p.at("etc/settings.yaml"))
	p.waitFor(`answering on `)
}

// examine asks the doctor, as a script does.
func (p *patient) examine() (doctor.Report, int) {
	p.t.Helper()
	path, err := binary()
	if err != nil {
		p.t.Fatal(err)
	}
	r, code := examined(p.t, path, "--data-dir", p.at("data"))
	if said := fmt.Sprint(r); strings.Contains(said, "the-password") {
		p.t.Errorf("it tells a password: %s", said)
	}
	return r, code
}

func examined(t *testing.T, path string, flags ...string) (r doctor.Report, code int) {
	t.Helper()
	out, failed := outcome(t, path, append([]string{"doctor", "-o", "json"}, flags...)...)
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	return r, failed
}

// allCodes are those of a report, but for what a user who is not root cannot help: the files of the test are the broker's own.
func allCodes(r doctor.Report) []doctor.Code {
	var out []doctor.Code
	for _, f := range r.Findings {
		if !slices.Contains(out, f.Code) && (f.Code != doctor.SelfWritable || os.Geteuid() == 0) {
			out = append(out, f.Code)
		}
	}
	return out
}

// A row is a broker that has something unsafe about it.
type row struct {
	code doctor.Code
	name string
	// says is in the sentence about it, where DIR is the patient's directory.
	says string
	// before is done before it starts, after while it runs.
	before, after func(p *patient)
	// also comes with it.
	also []doctor.Code
	// root: nobody else can make it so.
	root bool
}

// rows have at least one of each code. That a code is not found where there is no reason for it is what TestADoctorWhoFindsNothing and each other row say.
var rows = []row{
	{code: doctor.SecretReadable, name: "a key of TLS", says: "others may read the key DIR/etc/tls.key (mode 0644)", before: func(p *patient) { p.mode("etc/tls.key", 0o644) }},
	{code: doctor.SecretReadable, name: "since the start", says: "the key that wraps the keys DIR/etc/kek.json", after: func(p *patient) { p.mode("etc/kek.json", 0o640) }},
	{code: doctor.SecretReadable, name: "settings with a password", says: "the settings, with the password of Redis in them, DIR/etc/settings.yaml", before: func(p *patient) {
		p.onRedis("")
		p.set("rediss://", "rediss://broker:the-password@")
	}},
	{code: doctor.SecretReadable, name: "by an access control list", says: "the key that wraps the keys DIR/etc/kek.json (mode 0640)", root: true, after: func(p *patient) { p.rootGives("etc/kek.json", nobody, 12345) }},
	{code: doctor.FileWritable, name: "by an access control list", says: "others may write an authority DIR/ca/ca.pem (mode 0664)", root: true, before: func(p *patient) {
		p.mode("ca/ca.pem", 0o664) // root's group is no other
		listFor(p.t, p.at("ca/ca.pem"), 6, 12345)
	}},
	{code: doctor.FileWritable, name: "an authority", says: "others may write an authority DIR/ca/ca.pem (mode 0666)", before: func(p *patient) { p.mode("ca/ca.pem", 0o666) }},
	{code: doctor.ProvidersWritable, name: "a definition", says: "DIR/etc/providers/static.yaml (mode 0666)", also: []doctor.Code{doctor.SelfWritable}, before: func(p *patient) { p.mode("etc/providers/static.yaml", 0o666) }},
	{code: doctor.DirectoryWritable, name: "above an authority", says: "the directory DIR/ca (mode 0777), above DIR/ca/ca.pem", before: func(p *patient) { p.mode("ca", 0o777) }},
	{code: doctor.DirectoryWritable, name: "in the middle of the way", says: "the directory DIR/shared (mode 0777), above DIR/etc/policy.yaml", also: []doctor.Code{doctor.SelfWritable}, before: func(p *patient) {
		p.links("etc/policy.yaml", "shared/current", "real/policy.yaml")
		p.mode("shared", 0o777)
	}},
	{code: doctor.DirectoryWritable, name: "on the way to a definition", says: "the directory DIR/shared (mode 0777), above DIR/etc/providers/more.yaml", also: []doctor.Code{doctor.SelfWritable}, before: func(p *patient) {
		p.links("etc/providers/more.yaml", "shared/current", "real/more.yaml")
		p.write("real/more.yaml", []byte("name: more\ninputs:\n  api_key: {secret: true, handed_out: true}\ntoken: \"{{api_key}}\"\nlifetime: 1h\n"), 0o644)
		p.mode("shared", 0o777)
	}},
	{code: doctor.DirectoryWritable, name: "the data directory", says: "the directory DIR/data (mode 0722)", after: func(p *patient) { p.mode("data", 0o722) }},
	{code: doctor.ForeignOwner, name: "an authority", says: "an authority DIR/ca/ca.pem belongs to the user 12345", root: true, before: func(p *patient) { p.giveTo("ca/ca.pem", 12345) }},
	{code: doctor.ForeignOwner, name: "a link among others", says: "the link DIR/shared/current, by which DIR/etc/policy.yaml is found, belongs to the user 12345", root: true, before: func(p *patient) {
		p.links("etc/policy.yaml", "shared/current", "real/policy.yaml")
		p.giveTo("shared/current", 12345)
		p.sticky("shared", 12345)
	}},
	{code: doctor.ForeignOwner, name: "a directory in the middle of the way", says: "the directory DIR/shared belongs to the user 12345", root: true, before: func(p *patient) {
		p.links("etc/policy.yaml", "shared/current", "real/policy.yaml")
		p.giveTo("shared", 12345)
	}},
	{code: doctor.SocketOpen, name: "admin", says: "DIR/data/admin.sock (mode 0666)", after: func(p *patient) { p.mode("data/admin.sock", 0o666) }},
	{code: doctor.RedisNoPassword, name: "nobody needs one", says: "without a password", before: func(p *patient) { p.plainRedis(redistest.Options{}, "") }},
	{code: doctor.RedisNoPassword, name: "the broker has one, and others need none", says: "without a password", before: func(p *patient) {
		p.onRedis("")
		if _, err := p.redis.Do("ACL", "SETUSER", "default", "on", "nopass", "~*", "+@read", "+@connection"); err != nil {
			p.t.Fatal(err)
		}
	}},
	{code: doctor.RedisPlain, name: "another host", says: "Redis at redis.invalid:6379 is asked without TLS", before: func(p *patient) { p.settings += "store: redis://redis.invalid\n" }},
	{code: doctor.UpstreamPlain, name: "a host", says: "plain.invalid", before: func(p *patient) { p.settings += "upstream: {allow_http: [plain.invalid, 127.0.0.1]}\n" }},
	{code: doctor.KeyBesideData, name: "as a first start makes it", says: "the key DIR/data/key.json lies in the data directory DIR/data", before: func(p *patient) { p.set(`keys: {kek: "file://DIR/etc/kek.json"}`+"\n", "") }},
	{code: doctor.KEKBesideData, name: "a copy", says: "the key DIR/data/kek.json lies in the data directory", before: func(p *patient) {
		if err := os.Rename(p.at("etc/kek.json"), p.at("data/kek.json")); err != nil {
			p.t.Fatal(err)
		}
		p.set("DIR/etc/kek.json", "DIR/data/kek.json")
	}},
	{code: doctor.PolicyNone, name: "on loopback", says: "there is no policy, and the broker answers on 127.0.0.1:", before: func(p *patient) { p.alone() }},
	{code: doctor.PolicyWide, name: "all of an authority", says: "rule shop of the policy lets everybody for whom the trust company vouches (callers.shop) use all credentials with any scopes", before: func(p *patient) {
		p.replace(&p.policy, "dns: shop.company.example", `dns: "**"`)
		p.replace(&p.policy, `["shop-*"]`, `["*"]`)
	}},
	{code: doctor.PolicyWide, name: "all of a machine", says: "lets whoever is on this machine (callers.operators) use all credentials with any scopes, and change them", before: func(p *patient) {
		p.replace(&p.policy, `unix: "*"`, "local: machine")
	}},
	{code: doctor.PolicyEverybody, name: "all of an issuer", says: "rule shop of the policy is for everybody whom the issuer ci knows (callers.pipelines)", before: func(p *patient) {
		p.replace(&p.policy, `"pipeline:shop:*"`, `"**"`)
	}},
	{code: doctor.ProxyWide, name: "a trust domain", says: "the proxy mesh may call for everybody of corp.example/**", before: func(p *patient) { p.set("corp.example/ns/web/**", "corp.example/**") }},
	{code: doctor.AuditLost, name: "a syslog that is away", says: "no sink of the audit log can be written", also: []doctor.Code{doctor.AuditUnconfirmed}, before: func(p *patient) {
		ports, err := freePorts(1)
		if err != nil {
			p.t.Fatal(err)
		}
		p.set("file: DIR/log/audit.jsonl", "syslog: tcp://127.0.0.1:"+ports[0])
	}},
	{code: doctor.RunsAsRoot, name: "with files of root's", says: "the broker runs as root", root: true, before: func(p *patient) {
		p.uid = 0
		for _, name := range []string{"data", "log", "etc/kek.json", "etc/tls.key"} {
			if err := os.Lchown(p.at(name), 0, 0); err != nil {
				p.t.Fatal(err)
			}
		}
	}},
	{code: doctor.RedisDefaultUser, name: "with a password", says: "the broker is the user default", before: func(p *patient) { p.plainRedis(redistest.Options{Password: "the-password"}, "") }},
	{code: doctor.RedisUserWide, name: "everything", says: "commands of administrators (LASTSAVE) and keys of others", before: func(p *patient) { p.onRedis("~* &* +@all") }},
	{code: doctor.RedisUserWide, name: "keys of others", says: "may use keys of others", before: func(p *patient) {
		p.onRedis("")
		if _, err := p.redis.Do("ACL", "SETUSER", "broker", "~*"); err != nil {
			p.t.Fatal(err)
		}
	}},
	{code: doctor.RedisLoses, name: "accepted", says: "appendonly no", before: func(p *patient) {
		p.onRedis("")
		p.set("username: broker", "username: broker, accept_loss: true")
		if _, err := p.redis.Do("CONFIG", "SET", "appendonly", "no"); err != nil {
			p.t.Fatal(err)
		}
	}},
	{code: doctor.RedisEvicts, name: "since the start", says: "maxmemory-policy allkeys-lru", before: func(p *patient) { p.onRedis("") }, after: func(p *patient) {
		p.waitServing()
		if _, err := p.redis.Do("CONFIG", "SET", "maxmemory-policy", "allkeys-lru"); err != nil {
			p.t.Fatal(err)
		}
	}},
	{code: doctor.PolicyStale, name: "broken since", says: "the policy's file DIR/etc/policy.yaml is not the one that is in force (sha256:", after: func(p *patient) { p.write("etc/policy.yaml", []byte("version: 2\n"), 0o644) }},
	{code: doctor.PolicyNobody, name: "an authority that there is not", says: "rule shop of the policy can match nobody: no listener of the settings lets in the callers of shop (dns other/shop.company.example)", before: func(p *patient) {
		p.replace(&p.policy, "certificate: company", "certificate: other")
		p.replace(&p.policy, "[shop, pipelines]", "[shop]")
		p.replace(&p.policy, "  pipelines: [{jwt: ci, sub: \"pipeline:shop:*\"}]\n", "")
	}},
	{code: doctor.PolicyNobody, name: "a name that nobody vouches for", says: "dns company/shop.elsewhere.example", before: func(p *patient) {
		p.replace(&p.policy, "shop.company.example", "shop.elsewhere.example")
		p.replace(&p.policy, "[shop, pipelines]", "[shop]")
		p.replace(&p.policy, "  pipelines: [{jwt: ci, sub: \"pipeline:shop:*\"}]\n", "")
	}},
	{code: doctor.CertificateStale, name: "broken since", says: "the listener services goes on with former certificates", after: func(p *patient) { p.write("etc/tls.crt", []byte("none\n"), 0o644) }},
	{code: doctor.AuthorityNested, name: "an issuing one and its root", says: "the authority \"CN=issuing\" of the trust batch is signed by one of the trust company, and the listener services believes both", before: func(p *patient) {
		issuing, err := p.ca.Below("issuing", 90*24*time.Hour)
		if err != nil {
			p.t.Fatal(err)
		}
		p.write("ca/issuing.pem", issuing.PEM(), 0o644)
		p.set("trust: [company]", "trust: [company, batch]")
		p.set("trust: {company:", `trust: {batch: {ca_file: DIR/ca/issuing.pem, dns: ["*.batch.example"]}, company:`)
	}},
	{code: doctor.CertificateEnds, name: "the broker's own", says: "the certificate of the listener services ends at ", before: func(p *patient) { p.certify(time.Now().Add(-20*24*time.Hour), 25*24*time.Hour) }},
	{code: doctor.CertificateEnds, name: "what Redis is shown", says: "the certificate that is shown to Redis, DIR/etc/client.pem, ends at ", before: func(p *patient) {
		p.onRedis("")
		p.aged("etc/client", elliptic.P256(), time.Now().Add(-20*24*time.Hour), time.Now().Add(5*24*time.Hour))
		p.set("username: broker", "username: broker, cert_file: DIR/etc/client.pem, key_file: DIR/etc/client.key")
	}},
	{code: doctor.AuthorityEnds, name: "of a listener", says: "the authority old of the listener services ends at ", before: func(p *patient) {
		p.aged("etc/old", elliptic.P256(), time.Now().Add(-300*24*time.Hour), time.Now().Add(29*24*time.Hour))
		p.set("trust: [company]", "trust: [company, old]")
		p.set("trust: {company:", `trust: {old: {ca_file: DIR/etc/old.pem, dns: ["*.old.example"]}, company:`)
	}},
	{code: doctor.AuthorityEnds, name: "of upstreams", says: "the authority of upstreams, DIR/etc/upstreams.pem, ends at ", before: func(p *patient) {
		p.authority(elliptic.P256(), time.Now().Add(-300*24*time.Hour), time.Now().Add(29*24*time.Hour))
	}},
	{code: doctor.AuthorityEnds, name: "has ended", says: "has ended", before: func(p *patient) {
		p.authority(elliptic.P256(), time.Now().Add(-300*24*time.Hour), time.Now().Add(-time.Hour))
	}},
	{code: doctor.RevocationListEnds, name: "was not followed by another", says: "of the listener services a revocation list ends at ", before: func(p *patient) {
		list, err := p.ca.Revoke(time.Hour, func(l *x509.RevocationList) { l.ThisUpdate = l.ThisUpdate.Add(-9 * time.Hour) })
		if err != nil {
			p.t.Fatal(err)
		}
		p.write("ca/revoked.pem", list, 0o644)
		p.set("ca_file: DIR/ca/ca.pem, ", "ca_file: DIR/ca/ca.pem, crl_file: DIR/ca/revoked.pem, ")
	}},
	{code: doctor.DiskLow, name: "where the audit log is", says: "of the file system of the audit log, DIR/log, 0 MiB of 4 are free", root: true, before: func(p *patient) { lowOn(p, "log") }},
	{code: doctor.CertificateWeak, name: "of upstreams", says: "has a key on P-224", before: func(p *patient) {
		p.authority(elliptic.P224(), time.Now().Add(-time.Hour), time.Now().Add(300*24*time.Hour))
	}},
	{code: doctor.IssuerPlain, name: "on this machine", says: "the keys of the issuer ci are fetched from http://127.0.0.1:", before: func(p *patient) {
		keys, err := os.ReadFile(p.at("etc/jwks.json"))
		if err != nil {
			p.t.Fatal(err)
		}
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(keys) }))
		p.t.Cleanup(s.Close)
		p.set("jwks_file: DIR/etc/jwks.json", "jwks_uri: "+s.URL)
	}},
	{code: doctor.AuditOff, name: "none", says: "there is no audit log", before: func(p *patient) { p.set("audit: {file: DIR/log/audit.jsonl}\n", "") }},
	{code: doctor.AuditPlain, name: "another host", says: "tcp://syslog.invalid:601 over plain TCP", before: func(p *patient) {
		p.set("file: DIR/log/audit.jsonl", "file: DIR/log/audit.jsonl, syslog: tcp://syslog.invalid:601")
	}},
	{code: doctor.TracesPlain, name: "another host", says: "traces go to collector.invalid:4317 without TLS", before: func(p *patient) { p.settings += "traces: {collector: \"HTTP://collector.invalid:4317\"}\n" }},
	{code: doctor.AuditUnconfirmed, name: "a syslog alone", says: "which acknowledges nothing", before: func(p *patient) {
		p.set("file: DIR/log/audit.jsonl", "syslog: tcp://"+swallower(p.t))
	}},
	{code: doctor.CoreDumps, name: "turned on since", says: "may dump core", after: func(p *patient) { dumpCore(p.t, p.cmd.Process.Pid, p.uid) }},
	{code: doctor.SelfWritable, name: "its settings", says: "so change its settings", root: true, after: func(p *patient) { p.giveTo("etc/settings.yaml", nobody) }},
	{code: doctor.SelfWritable, name: "a directory further above", says: "may write DIR, or give itself the right, and so change its settings", root: true, after: func(p *patient) { p.giveTo("", nobody) }},
	{code: doctor.SelfWritable, name: "a definition", says: "may write DIR/etc/providers/static.yaml, or give itself the right, and so change its definitions", root: true, after: func(p *patient) { p.giveTo("etc/providers/static.yaml", nobody) }},
	{code: doctor.SelfWritable, name: "a directory that a link leads through", says: "may write DIR/shared, or give itself the right, and so change its policy", root: true, before: func(p *patient) {
		p.links("etc/policy.yaml", "shared/current", "real/policy.yaml")
		p.giveTo("shared", nobody)
	}},
	{code: doctor.SelfWritable, name: "a link among others", says: "may write DIR/shared/current, or give itself the right, and so change its policy", root: true, before: func(p *patient) {
		p.links("etc/policy.yaml", "shared/current", "real/policy.yaml")
		p.giveTo("shared/current", nobody)
		p.sticky("shared", nobody)
	}},
	{code: doctor.DataDirOpen, name: "entered", says: "others may enter the data directory DIR/data (mode 0711)", after: func(p *patient) { p.mode("data", 0o711) }},
}

// swallower listens, and reads what comes.
func swallower(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(io.Discard, c); c.Close() }()
		}
	}()
	return l.Addr().String()
}

func (p *patient) waitServing() {
	p.t.Helper()
	if err := waitServing(p.t.Context(), "unix:"+p.at("data/tokenbroker.sock")); err != nil {
		p.t.Fatal(err)
	}
}

// TestTheDoctor has a broker for each code of which something is unsafe, and finds that, and nothing else.
func TestTheDoctor(t *testing.T) {
	t.Parallel()
	for _, x := range rows {
		t.Run(fmt.Sprintf("%s, %s", x.code, x.name), func(t *testing.T) {
			t.Parallel()
			if x.root && os.Geteuid() != 0 {
				installed.Without(t, "root alone can make it so")
			}
			p := newPatient(t)
			if x.before != nil {
				x.before(p)
			}
			p.begin()
			if x.after != nil {
				x.after(p)
			}
			want := append([]doctor.Code{x.code}, x.also...)
			r, code := p.examine()
			for began := time.Now(); time.Since(began) < patience && !says(r, x.code, ""); r, code = p.examine() {
				<-time.After(100 * time.Millisecond) // what is followed is noticed a little later
			}
			if code != console.ExitPrecondition || !says(r, x.code, strings.ReplaceAll(x.says, "DIR", p.dir)) {
				t.Errorf("got %+v, exit code %d; want %s: %s", r.Findings, code, x.code, x.says)
			}
			for _, c := range allCodes(r) {
				if !slices.Contains(want, c) {
					t.Errorf("got %s as well: %+v", c, r.Findings)
				}
			}
		})
	}
	for _, c := range doctor.Codes() {
		if !slices.ContainsFunc(rows, func(x row) bool { return x.code == c }) {
			t.Errorf("%s has no row", c)
		}
	}
}

func says(r doctor.Report, c doctor.Code, part string) bool {
	return slices.ContainsFunc(r.Findings, func(f doctor.Finding) bool {
		return f.Code == c && strings.Contains(f.Is, part) && f.Risk != "" && f.Do != "" && f.Severity != ""
	})
}

// TestADoctorWhoFindsNothing says at what was looked, and ends with 0.
func TestADoctorWhoFindsNothing(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(p *patient){
		"a file": func(*patient) {}, "Redis": func(p *patient) { p.onRedis("") },
		"a key that root gives to the broker's group": func(p *patient) {
			if p.uid != 0 {
				if err := os.Chown(p.at("etc/kek.json"), 0, int(p.uid)); err != nil {
					p.t.Fatal(err)
				}
				p.mode("etc/kek.json", 0o440)
			}
		},
		"a key that root gives to the broker by a list": func(p *patient) {
			if p.uid != 0 {
				p.rootGives("etc/kek.json", int(p.uid))
			}
		},
		"links in directories of root's, whoever's they are": func(p *patient) {
			p.links("etc/policy.yaml", "shared/current", "real/current", "real/policy.yaml")
			p.give("shared/current")
			if p.uid != 0 {
				p.giveTo("real/current", 12345)
			}
		},
		"two trusts of one authority, for other names": func(p *patient) {
			p.set("trust: [company]", "trust: [company, batch]")
			p.set("trust: {company:", `trust: {batch: {ca_file: DIR/ca/ca.pem, dns: ["*.batch.example"]}, company:`)
		},
		"no policy, and the socket alone": func(p *patient) { p.alone(); p.set("listen: [127.0.0.1:0]", "listen: none") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			before(p)
			p.begin()
			p.waitServing()
			r, code := p.examine()
			if got := allCodes(r); len(got) > 0 || len(r.Unseen) > 0 || len(r.Looked) < 5 {
				t.Errorf("got %+v", r)
			}
			if os.Geteuid() == 0 && code != console.ExitOK {
				t.Errorf("got exit code %d", code)
			}
		})
	}
}

// TestADoctorWhoCannotLook says so, and that it may be asked again.
func TestADoctorWhoCannotLook(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	p.onRedis("")
	p.begin()
	p.waitServing()
	p.redis.Kill()
	r, code := p.examine()
	if len(allCodes(r)) > 0 || len(r.Unseen) != 1 || !r.Unseen[0].Again {
		t.Errorf("got %+v", r)
	}
	if os.Geteuid() == 0 && code != console.ExitTemporary {
		t.Errorf("got exit code %d", code)
	}
}

// TestAKeyOnTheVolumeOfTheData is in every copy of the volume.
func TestAKeyOnTheVolumeOfTheData(t *testing.T) {
	t.Parallel()
	volume, err := os.MkdirTemp("/dev/shm", "tb-") //nolint:usetesting // that file system is what this is about
	if err != nil {
		installed.Without(t, "there is no file system to be a volume: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(volume) })
	p := newPatient(t)
	p.set("data_dir: DIR/data", "data_dir: "+volume+"/data")
	p.set(`keys: {kek: "file://DIR/etc/kek.json"}`, "key_file: "+volume+"/key.json")
	if p.uid != 0 {
		if err := os.Chown(volume, int(p.uid), int(p.uid)); err != nil {
			t.Fatal(err)
		}
	}
	p.begin()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	r, _ := examined(t, path, "--data-dir", volume+"/data")
	if !says(r, doctor.KeyBesideData, "lie on one volume, /dev/shm") {
		t.Errorf("got %+v", r.Findings)
	}
}

// TestThePageNamesEveryCode: docs/security.md says of each what to do, and names no other.
func TestThePageNamesEveryCode(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, list, found := strings.Cut(string(page), "\n## What the doctor looks for\n")
	if !found {
		t.Fatal("there is no list")
	}
	list, _, _ = strings.Cut(list, "\n## ")
	for _, c := range doctor.Codes() {
		if n := strings.Count(list, "`"+string(c)+"`"); n != 1 {
			t.Errorf("%s is there %d times", c, n)
		}
	}
}
