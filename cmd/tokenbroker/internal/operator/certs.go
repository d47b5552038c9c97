package operator

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
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
	Dev certsDevCommand `cmd:"" help:"Make an authority and an issuer, certificates and tokens to throw away, with settings and a policy that use them: to try mutual TLS and JWTs on this machine."`
}

type certsDevCommand struct {
	console.Format
	Dir         string        `arg:"" help:"Directory to make; it must not be there, or be empty."`
	Workloads   []string      `arg:"" optional:"" help:"Services to make certificates for, such as shop. Default: shop. One for operators, ops, is always made."`
	TrustDomain string        `default:"example.org" help:"Whose SPIFFE IDs they have: spiffe://TRUST_DOMAIN/WORKLOAD."`
	Life        time.Duration `default:"168h" help:"How long the certificates live, from 1m to 8760h."`
}

// Help implements kong.HelpProvider.
func (*certsDevCommand) Help() string {
	return "The keys of the authority and of the issuer are kept nowhere, so nobody can make more of them; make another directory. None of it is for a deployment: use your company's authority, or SPIFFE."
}

var workloadForm = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// Run makes them.
func (c *certsDevCommand) Run(p *console.Process) error {
	if len(c.Workloads) == 0 {
		c.Workloads = []string{"shop"}
	}
	for i, w := range c.Workloads {
		if !workloadForm.MatchString(w) || w == "broker" || w == "ca" || w == "ops" || slices.Contains(c.Workloads[:i], w) {
			return console.BadInput("workload %.70q: a name of a-z 0-9 . _ - is wanted that is not there twice, and not broker, ca or ops", w)
		}
	}
	if c.Life < time.Minute || c.Life > 8760*time.Hour {
		return console.BadInput("--life: must be from 1m to 8760h")
	}
	if td, err := spiffeid.TrustDomainFromString(c.TrustDomain); err != nil || td.Name() != c.TrustDomain {
		return console.BadInput("--trust-domain: %.80q is none; write one such as example.org", c.TrustDomain)
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return err
	}
	switch there, err := os.ReadDir(dir); {
	case err == nil && len(there) > 0:
		return console.BadInput("%s is not empty: name a directory that is not there yet", c.Dir)
	case err != nil && !os.IsNotExist(err):
		return console.WrongInput(err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return console.WrongInput(err)
	}
	if i, err := os.Lstat(dir); err != nil || !i.IsDir() || i.Mode().Perm()&0o022 != 0 {
		return console.BadInput("%s: others may write there, or it is a link: name a directory that is not there yet", c.Dir)
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
	for _, w := range append([]string{"broker", "ops"}, c.Workloads...) {
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
			if w == "broker" {
				devcerts.Loopback(cert)
			}
		})
		if err == nil {
			err = cmp.Or(write(w+".pem", pair.Certificate), write(w+".key", pair.Key))
		}
		if err == nil && w != "broker" {
			var token string
			if token, err = issuer.Token(w, "tokenbroker", c.Life); err == nil {
				err = write(w+".jwt", []byte(token+"\n"))
			}
		}
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
		return console.JSON(p.Stdout, struct {
			Directory   string   `json:"directory"`
			TrustDomain string   `json:"trust_domain"`
			Workloads   []string `json:"workloads"`
		}{dir, c.TrustDomain, append([]string{"ops"}, c.Workloads...)})
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

// issuer is what the tokens say who issued them.
func (c *certsDevCommand) issuer() string { return "https://" + c.TrustDomain }

// settings are those of a broker of this machine that uses the certificates.
func (c *certsDevCommand) settings(dir string) []byte {
	at := func(name string) string { return fmt.Sprintf("%q", filepath.Join(dir, name)) }
	return fmt.Appendf(nil, `# Made by tokenbroker certs dev, to try mutual TLS and JWTs.
data_dir: %s
policy_file: %s
trust:
  dev: {ca_file: %s, trust_domain: %s}
issuers:
  dev: {issuer: %q, audience: [tokenbroker], jwks_file: %s}
services:                        # tokens, for services
  listen: ["127.0.0.1:7430"]
  cert_file: %s
  key_file: %s
  trust: [dev]
  issuers: [dev]
operators:                       # everything, for operators
  listen: ["127.0.0.1:7431"]
  cert_file: %s
  key_file: %s
  trust: [dev]
  issuers: [dev]
`, at("data"), at("policy.yaml"), at("ca.pem"), c.TrustDomain, c.issuer(), at("jwks.json"), at("broker.pem"), at("broker.key"), at("broker.pem"), at("broker.key"))
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
