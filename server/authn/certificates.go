package authn

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/filewatch"
	"github.com/tokenbroker/tokenbroker/internal/readfile"
	"github.com/tokenbroker/tokenbroker/server"
)

// Settings are what Certificates are made of.
type Settings struct {
	// Listener is the name of the listener, as its callers have it.
	Listener string
	// CertFile and KeyFile are the broker's own certificate, with those between it and its root, and its key, in PEM.
	CertFile, KeyFile string
	// WorkloadAPI is the address of the SPIFFE Workload API instead, such as unix:///run/spire/agent.sock: it gives the broker's certificate, and the
	// authorities of trust domains that have no file. Empty: none.
	WorkloadAPI string
	// Trust says who is believed. At least one.
	Trust []Trust
	// Log gets what becomes of the files. Default: discarded.
	Log *slog.Logger
	// Now is the time of day. Default: time.Now.
	Now func() time.Time
}

// Certificates authenticate callers by mutual TLS. Files and the Workload API are followed: what is broken, or gone, leaves what was read before. It
// implements server.Authenticator.
type Certificates struct {
	settings Settings
	log      *slog.Logger
	now      func() time.Time
	files    []string
	source   *workloadapi.X509Source // nil: none

	is atomic.Pointer[material]

	mu      sync.Mutex
	changes chan struct{}
	problem string // that was told last
}

var _ server.Authenticator = (*Certificates)(nil)

// material is what is believed, and shown, at one moment. Immutable.
type material struct {
	own   *tls.Certificate
	trust []authority
	// digest is of all of it.
	digest [sha256.Size]byte
}

// fileMost bounds a file with certificates.
const fileMost = 1 << 20

// New reads everything, and asks the Workload API until ctx ends. It fails if anything of it is missing or wrong. Whoever has made it runs Follow.
func New(ctx context.Context, s Settings) (*Certificates, error) {
	c := &Certificates{settings: s, log: s.Log, now: s.Now, changes: make(chan struct{})}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.now == nil {
		c.now = time.Now
	}
	for _, f := range append([]string{s.CertFile, s.KeyFile}, caFiles(s.Trust)...) {
		if f != "" {
			c.files = append(c.files, f)
		}
	}
	if s.WorkloadAPI != "" {
		var err error
		if c.source, err = workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(s.WorkloadAPI))); err != nil {
			return nil, fmt.Errorf("the SPIFFE Workload API at %s: %w", s.WorkloadAPI, err)
		}
	}
	m, err := c.read()
	if err != nil {
		c.Close()
		return nil, err
	}
	c.is.Store(m)
	return c, nil
}

// Close ends what New has begun.
func (c *Certificates) Close() {
	if c.source != nil {
		_ = c.source.Close()
	}
}

func caFiles(all []Trust) (files []string) {
	for _, t := range all {
		files = append(files, t.CAFile)
	}
	return files
}

// Follow takes what changes, until ctx ends.
func (c *Certificates) Follow(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	if c.source != nil {
		all.Go(func() {
			for {
				select {
				case <-c.source.Updated():
					c.reload()
				case <-ctx.Done():
					return
				}
			}
		})
	}
	filewatch.Watch(ctx, c.files, filewatch.Every, c.reload)
}

// reload reads everything again. What is wrong leaves what was there, and is said once.
func (c *Certificates) reload() {
	m, err := c.read()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		if c.problem != err.Error() {
			c.problem = err.Error()
			c.log.Error("certificates not reloaded: the former ones stay in use", "listener", c.settings.Listener, "error", c.problem)
		}
		return
	}
	c.problem = ""
	if m.digest == c.is.Load().digest {
		return
	}
	c.is.Store(m)
	close(c.changes)
	c.changes = make(chan struct{})
	c.log.Info("certificates reloaded", "listener", c.settings.Listener, "own_ends", m.own.Leaf.NotAfter)
}

// Changes implements server.Authenticator.
func (c *Certificates) Changes() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changes
}

// read reads everything.
func (c *Certificates) read() (*material, error) {
	m := &material{}
	sum := sha256.New()
	own, err := c.own()
	if err != nil {
		return nil, err
	}
	if end := own.Leaf.NotAfter; !c.now().Before(end) {
		return nil, fmt.Errorf("the broker's own certificate has ended, at %s: put its successor there", end.UTC().Format(time.RFC3339))
	}
	m.own = own
	for _, raw := range own.Certificate {
		sum.Write(raw)
	}
	for _, t := range c.settings.Trust {
		a, err := newAuthority(t)
		if err != nil {
			return nil, err
		}
		roots, err := c.roots(a)
		if err != nil {
			return nil, err
		}
		a.roots = x509.NewCertPool()
		sum.Write([]byte(t.Name + "\x00"))
		for _, r := range roots {
			a.roots.AddCert(r)
			sum.Write(r.Raw)
		}
		m.trust = append(m.trust, a)
	}
	if len(m.trust) == 0 {
		return nil, errors.New("nobody is trusted: name a trust")
	}
	sum.Sum(m.digest[:0])
	return m, nil
}

// own is the broker's own certificate.
func (c *Certificates) own() (*tls.Certificate, error) {
	if c.settings.CertFile == "" {
		svid, err := c.source.GetX509SVID()
		if err != nil {
			return nil, fmt.Errorf("the SPIFFE Workload API has no certificate for this broker: %w", err)
		}
		own := &tls.Certificate{PrivateKey: svid.PrivateKey, Leaf: svid.Certificates[0]}
		for _, cert := range svid.Certificates {
			own.Certificate = append(own.Certificate, cert.Raw)
		}
		return own, nil
	}
	cert, err := readFile("certificate", c.settings.CertFile)
	if err != nil {
		return nil, err
	}
	key, err := readFile("key", c.settings.KeyFile)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	own, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("the certificate %s and the key %s: %w", c.settings.CertFile, c.settings.KeyFile, err) // it names what is wrong, and quotes nothing
	}
	if own.Leaf == nil {
		return nil, fmt.Errorf("the certificate %s: it cannot be read", c.settings.CertFile)
	}
	return &own, nil
}

// roots are an authority's certificates.
func (c *Certificates) roots(a authority) ([]*x509.Certificate, error) {
	if a.CAFile == "" {
		if c.source == nil {
			return nil, fmt.Errorf("trust %s: there is neither a ca_file nor a Workload API", a.Name)
		}
		b, err := c.source.GetX509BundleForTrustDomain(a.domain)
		if err != nil {
			return nil, fmt.Errorf("trust %s: the Workload API does not know the trust domain %s; has the agent's entry been told to federate with it?", a.Name, a.TrustDomain)
		}
		return b.X509Authorities(), nil
	}
	data, err := readFile("authority", a.CAFile)
	if err != nil {
		return nil, err
	}
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("trust %s: %s has a block %.40q in it: certificates in PEM are wanted, and nothing else", a.Name, a.CAFile, block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("trust %s: a certificate in %s cannot be read: %w", a.Name, a.CAFile, err)
		}
		if !cert.IsCA {
			return nil, fmt.Errorf("trust %s: a certificate in %s is none of an authority", a.Name, a.CAFile)
		}
		all = append(all, cert)
	}
	if rest := bytes.TrimSpace(data); len(all) == 0 || bytes.Contains(rest, []byte("-----BEGIN")) {
		return nil, fmt.Errorf("trust %s: %s has no certificates in PEM that can be read", a.Name, a.CAFile)
	}
	return all, nil
}

func readFile(what, name string) ([]byte, error) {
	data, err := readfile.Read(name, fileMost)
	if err != nil {
		return nil, fmt.Errorf("the %s %s: %w", what, name, readfile.Why(err))
	}
	return data, nil
}

// Authenticate implements server.Authenticator: a TLS handshake in which both sides show a certificate. There is no resumption: a session that is resumed
// would be let in by what was trusted before.
func (c *Certificates) Authenticate(ctx context.Context, raw net.Conn) (server.Peer, error) {
	var id identity
	var chain []*x509.Certificate
	conn := tls.Server(raw, &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, SessionTicketsDisabled: true,
		ClientAuth:     tls.RequireAnyClientCert, // verified below, against what is trusted then
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.is.Load().own, nil },
		VerifyConnection: func(s tls.ConnectionState) (err error) {
			chain = s.PeerCertificates
			id, err = identify(chain, c.is.Load().trust, c.now())
			return err
		},
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		return server.Peer{}, err
	}
	if conn.ConnectionState().NegotiatedProtocol != "h2" {
		return server.Peer{}, errors.New("the client does not speak HTTP/2 (ALPN h2)")
	}
	caller := broker.NewCaller(id.kind, id.authority, id.name, broker.ProofX509, c.settings.Listener)
	return server.Peer{Conn: conn, Caller: caller, Until: id.until, Still: func() error {
		now, err := identify(chain, c.is.Load().trust, c.now())
		if err == nil && (now.kind != id.kind || now.authority != id.authority || now.name != id.name) {
			err = errors.New("its certificate is another caller's by now")
		}
		return err
	}}, nil
}

// Names are the trusts, for the log.
func (c *Certificates) Names() (names []string) {
	for _, t := range c.settings.Trust {
		names = append(names, t.Name)
	}
	slices.Sort(names)
	return names
}
