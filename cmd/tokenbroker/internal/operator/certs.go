package operator

import (
	"cmp"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/internal/devcerts"
	"github.com/tokenbroker/tokenbroker/internal/newfile"
)

// CertsCommands are for whoever tries mutual TLS or JWTs.
type CertsCommands struct {
	Dev certsDevCommand `cmd:"" help:"Make an authority and an issuer, certificates and tokens to throw away, with settings and a policy that use them: to try mutual TLS and JWTs."`
}

type certsDevCommand struct {
	console.Format
	Dir         string        `arg:"" help:"Directory to make; it must not be there, or be empty."`
	Workloads   []string      `arg:"" optional:"" help:"Services to make certificates for, such as shop. Default: shop. One for operators, ops, is always made."`
	TrustDomain string        `default:"example.org" help:"Whose SPIFFE IDs they have: spiffe://TRUST_DOMAIN/WORKLOAD."`
	Life        time.Duration `default:"168h" help:"How long the certificates live, from 1m to 8760h."`
	Host        []string      `help:"Names or addresses by which other machines reach brokers: their certificate has them, and they listen for others. Default: this machine's alone."`
	Store       string        `help:"Address of a Redis with TLS that the brokers share, as rediss://redis:6379/0: its certificate and ACL are made too, and a password, so that it lets in nobody else."`
	Once        bool          `help:"Leave a directory alone that was made before, instead of refusing it."`
}

// Help implements kong.HelpProvider.
func (*certsDevCommand) Help() string {
	return "The keys of the authority and of the issuer are kept nowhere, so nobody can make more of them; make another directory. None of it is for a deployment: use your company's authority, or SPIFFE."
}

var hostForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)

var workloadForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// Run makes them.
func (c *certsDevCommand) Run(p *console.Process) error {
	if len(c.Workloads) == 0 {
		c.Workloads = []string{"shop"}
	}
	for i, w := range c.Workloads {
		if !workloadForm.MatchString(w) || w == "broker" || w == "ca" || w == "ops" || w == "redis" || slices.Contains(c.Workloads[:i], w) {
			return console.BadInput("workload %.70q: a name of a-z 0-9 . _ - is wanted that is not there twice, and not broker, ca, ops or redis", w)
		}
	}
	if c.Life < time.Minute || c.Life > 8760*time.Hour {
		return console.BadInput("--life: must be from 1m to 8760h")
	}
	if td, err := spiffeid.TrustDomainFromString(c.TrustDomain); err != nil || td.Name() != c.TrustDomain {
		return console.BadInput("--trust-domain: %.80q is none; write one such as example.org", c.TrustDomain)
	}
	for _, h := range c.Host {
		if net.ParseIP(h) == nil && !hostForm.MatchString(h) {
			return console.BadInput("--host: %.80q is neither an address nor a name of a machine; ports are 7430 and 7431", h)
		}
	}
	redis, err := redisHost(c.Store)
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return err
	}
	if err := c.own(dir); err != nil && !errors.Is(err, fs.ErrNotExist) { // before anything in it is believed
		return err
	}
	switch there, err := os.ReadDir(dir); {
	case err == nil && c.Once && slices.ContainsFunc(there, func(f fs.DirEntry) bool { return f.Name() == "settings.yaml" }): // it is written last
		if !c.JSON() {
			console.Printf(p.Stdout, "%s was made before, and is left as it is\n", c.Dir)
			return nil
		}
		return c.told(p, dir)
	case err == nil && len(there) > 0:
		return console.BadInput("%s is not empty: name a directory that is not there yet", c.Dir)
	case err != nil && !os.IsNotExist(err):
		return console.WrongInput(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return console.WrongInput(err)
	}
	if err := c.own(dir); err != nil {
		return err
	}
	ca, err := devcerts.NewAuthority("tokenbroker certs dev", c.TrustDomain, c.Life)
	if err != nil {
		return err
	}
	write := func(name string, data []byte) error {
		return newfile.Write(filepath.Join(dir, name), func(f *os.File) error {
			_, err := f.Write(data)
			return err
		})
	}
	issuer, err := devcerts.NewIssuer(c.issuer())
	if err != nil {
		return err
	}
	jwks, err := issuer.JWKS()
	if err != nil {
		return err
	}
	err = cmp.Or(write("ca.pem", ca.PEM()), write("jwks.json", jwks))
	who := append([]string{"broker", "ops"}, c.Workloads...)
	if redis != "" {
		who = append(who, "redis")
	}
	for _, w := range who {
		if err != nil {
			break
		}
		var spiffe func(*x509.Certificate)
		if spiffe, err = devcerts.SPIFFE("spiffe://" + c.TrustDomain + "/" + w); err != nil {
			break
		}
		var pair devcerts.Pair
		pair, err = ca.Issue(c.Life, func(cert *x509.Certificate) {
			spiffe(cert)
			switch w {
			case "broker":
				devcerts.Loopback(cert)
				devcerts.Hosts(cert, c.Host...)
			case "redis":
				devcerts.Loopback(cert)
				devcerts.Hosts(cert, redis)
			}
		})
		if err == nil {
			err = cmp.Or(write(w+".pem", pair.Certificate), write(w+".key", pair.Key))
		}
		if err == nil && w != "broker" && w != "redis" {
			var token string
			if token, err = issuer.Token(w, "tokenbroker", c.Life); err == nil {
				err = write(w+".jwt", []byte(token+"\n"))
			}
		}
	}
	if err == nil && redis != "" {
		password := rand.Text()
		err = cmp.Or(write("redis.password", []byte(password+"\n")), write("redis.acl", redisACL(password)))
	}
	if err == nil {
		err = cmp.Or(write("policy.yaml", c.policy()), write("settings.yaml", c.settings(dir)))
	}
	if errors.Is(err, fs.ErrExist) {
		return console.BadInput("%s: somebody else writes there", c.Dir)
	}
	if err != nil {
		return err
	}
	if c.JSON() {
		return c.told(p, dir)
	}
	at := func(name string) string { return filepath.Join(c.Dir, name) }
	console.Printf(p.Stdout, "made %s: an authority and an issuer, certificates and tokens for ops and %s, settings and a policy\n\n", c.Dir, strings.Join(c.Workloads, ", "))
	console.Printf(p.Stdout, "tokenbroker serve --config %s\n", at("settings.yaml"))
	console.Printf(p.Stdout, "tokenbroker credential list --address localhost:7431 --tls-ca-file %s --tls-cert-file %s --tls-key-file %s\n", at("ca.pem"), at("ops.pem"), at("ops.key"))
	first := c.Workloads[0]
	console.Printf(p.Stdout, "tokenbroker token get NAME --address localhost:7430 --tls-ca-file %s --tls-cert-file %s --tls-key-file %s\n", at("ca.pem"), at(first+".pem"), at(first+".key"))
	console.Printf(p.Stdout, "tokenbroker token get NAME --address localhost:7430 --tls-ca-file %s --bearer-token-file %s\n", at("ca.pem"), at(first+".jwt"))
	return nil
}

// own fails with fs.ErrNotExist where there is no directory, and as a bad input where others may put things into it.
func (c *certsDevCommand) own(dir string) error {
	i, err := os.Lstat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return err
	case err != nil:
		return console.WrongInput(err)
	case !i.IsDir() || i.Mode().Perm()&0o022 != 0:
		return console.BadInput("%s: others may write there, or it is a link: name a directory that is not there yet", c.Dir)
	}
	if uid, ok := ownerOf(dir); ok && uid != os.Geteuid() && uid != 0 {
		return console.BadInput("%s belongs to another user (%d), who could put keys and settings there: name a directory that is not there yet", c.Dir, uid)
	}
	return nil
}

// told is what is told in JSON.
func (c *certsDevCommand) told(p *console.Process, dir string) error {
	return console.JSON(p.Stdout, struct {
		Directory   string   `json:"directory"`
		TrustDomain string   `json:"trust_domain"`
		Workloads   []string `json:"workloads"`
	}{dir, c.TrustDomain, append([]string{"ops"}, c.Workloads...)})
}

// redisHost is the one host of a Redis with TLS; of no address there is none.
func redisHost(address string) (string, error) {
	if address == "" {
		return "", nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "rediss" || u.Hostname() == "" || u.Port() == "" || u.User != nil {
		return "", console.BadInput("--store: %.100q: write the address of one Redis with TLS, as rediss://redis:6379/0", address)
	}
	return u.Hostname(), nil
}

// redisACL lets brokers do what docs/redis.md says, and others ask whether Redis is there.
func redisACL(password string) []byte {
	return fmt.Appendf(nil, "user default on nopass resetkeys resetchannels -@all +ping\nuser broker on >%s ~tokenbroker:* &tokenbroker:* %s\n", password, redisRights)
}

// redisRights are those of docs/redis.md: a test compares them.
const redisRights = "+@connection +eval +evalsha +get +set +del +getrange +pttl +time +scan +zadd +zscore +zrem +zrange +zrangebyscore +zrangebylex +zremrangebyscore +zremrangebylex " +
	"+publish +subscribe +unsubscribe +wait +info +config|get +cluster|slots +cluster|shards +cluster|nodes +cluster|info +readonly"

// issuer is what the tokens say who issued them.
func (c *certsDevCommand) issuer() string { return "https://" + c.TrustDomain }

// settings are those of a broker of this machine that uses the certificates.
func (c *certsDevCommand) settings(dir string) []byte {
	at := func(name string) string { return fmt.Sprintf("%q", filepath.Join(dir, name)) }
	loopback, shared := "127.0.0.1", ""
	if len(c.Host) > 0 {
		loopback = ""
	}
	if c.Store != "" {
		shared = fmt.Sprintf("store: %q\nredis: {username: broker, password_file: %s, ca_file: %s, cert_file: %s, key_file: %s}\n", c.Store, at("redis.password"), at("ca.pem"), at("broker.pem"), at("broker.key"))
	}
	return fmt.Appendf(nil, `# Made by tokenbroker certs dev, to try mutual TLS and JWTs.
data_dir: %s
%spolicy_file: %s
trust:
  dev: {ca_file: %s, trust_domain: %s}
issuers:
  dev: {issuer: %q, audience: [tokenbroker], jwks_file: %s}
services:                        # tokens, for services
  listen: ["%s:7430"]
  cert_file: %s
  key_file: %s
  trust: [dev]
  issuers: [dev]
operators:                       # everything, for operators
  listen: ["%s:7431"]
  cert_file: %s
  key_file: %s
  trust: [dev]
  issuers: [dev]
`, at("data"), shared, at("policy.yaml"), at("ca.pem"), c.TrustDomain, c.issuer(), at("jwks.json"), loopback, at("broker.pem"), at("broker.key"), loopback, at("broker.pem"), at("broker.key"))
}

// policy lets the services have tokens, and operators and this user everything.
func (c *certsDevCommand) policy() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "version: 1\ncallers:\n  services:\n")
	for _, w := range c.Workloads {
		fmt.Fprintf(&b, "    - {spiffe: %q}\n    - {jwt: dev, sub: %q}\n", c.TrustDomain+"/"+w, w)
	}
	fmt.Fprintf(&b, "  operators:\n    - {spiffe: %q}\n    - {jwt: dev, sub: ops}\n    - {unix: %d}                  # whoever made this, by the socket\n", c.TrustDomain+"/ops", os.Getuid())
	b.WriteString(`rules:
  - name: services
    callers: [services]
    credentials: {names: ["*"]}
    operations: [get_token, watch, invalidate]
    scopes: ["*"]
    audience: ["*"]
    resources: ["*"]
    parameters: {"*": ["*"]}
  - name: operators
    callers: [operators]
    credentials: {names: ["*"]}
    operations: [get_token, watch, invalidate, invalidate.all, credential.read, credential.write, credential.delete, credential.test, provider.read]
    scopes: ["*"]
    audience: ["*"]
    resources: ["*"]
    parameters: {"*": ["*"]}
`)
	return []byte(b.String())
}
