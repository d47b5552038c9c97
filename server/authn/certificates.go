package authn

import (
	"bytes"
	"context"
	"crypto/rsa"
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
	// Trust says who is believed. At least one, unless Optional.
	Trust []Trust
	// Optional: callers may leave their certificate out. They are nobody then, until their calls bring tokens. Without Trust none is asked for.
	Optional bool
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

	// reading lets one at a time read, so that what was read last counts.
	reading sync.Mutex

	mu      sync.Mutex
	changes chan struct{}
	problem string // that was told last
}

var _ server.Authenticator = (*Certificates)(nil)

// material is what is believed, and shown, at one moment. Immutable.
type material struct {
	own   *tls.Certificate
	trust []authority
	// digest is of all of it, and authorities of the authorities alone.
	digest, authorities [sha256.Size]byte
}

const (
	// fileMost bounds a file with certificates.
	fileMost = 1 << 20
	// namesakesMost bounds the authorities of one name in a trust: each of them is tried for whoever shows a certificate that says it is that name's. Partners choose what theirs are called.
	namesakesMost = 16
)

// New reads everything, and asks the Workload API until ctx ends. It fails if anything of it is missing or wrong, but for the authorities that the Workload API has: partners make theirs, and
// keep no broker from beginning. Whoever has made it runs Follow.
func New(ctx context.Context, s Settings) (*Certificates, error) {
	c := &Certificates{settings: s, log: s.Log, now: s.Now, changes: make(chan struct{})}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.now == nil {
		c.now = time.Now
	}
	for _, f := range append([]string{s.CertFile, s.KeyFile}, trustFiles(s.Trust)...) {
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
	m, wrong, given := c.read(nil)
	if wrong != nil {
		c.Close()
		return nil, wrong
	}
	c.is.Store(m)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tell(given)
	return c, nil
}

// Close ends what New has begun.
func (c *Certificates) Close() {
	if c.source != nil {
		_ = c.source.Close()
	}
}

func trustFiles(all []Trust) (files []string) {
	for _, t := range all {
		files = append(files, t.CAFile, t.CRLFile)
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

// reload reads everything again. What is wrong leaves what was there of that part, and of no other, and is said once.
func (c *Certificates) reload() {
	c.reading.Lock()
	defer c.reading.Unlock()
	m, wrong, given := c.read(c.is.Load())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tell(errors.Join(wrong, given))
	if m.digest == c.is.Load().digest {
		return
	}
	c.is.Store(m)
	close(c.changes)
	c.changes = make(chan struct{})
	c.log.Info("certificates reloaded", "listener", c.settings.Listener, "own_ends", m.own.Leaf.NotAfter)
}

// tell says what is wrong, once. It is called with the lock.
func (c *Certificates) tell(wrong error) {
	problem := ""
	if wrong != nil {
		problem = wrong.Error()
	}
	if c.problem != problem && problem != "" {
		c.log.Error("certificates not reloaded: what is wrong stays as it was", "listener", c.settings.Listener, "error", problem)
	}
	c.problem = problem
}

// Status tells how they are.
func (c *Certificates) Status() server.Certificates {
	c.mu.Lock()
	defer c.mu.Unlock()
	is := c.is.Load()
	s := server.Certificates{Began: is.own.Leaf.NotBefore, Ends: is.own.Leaf.NotAfter, Stale: c.problem != ""}
	if l := soonest(is.trust, c.now()); l != nil {
		s.ListBegan, s.ListEnds = l.ThisUpdate, l.NextUpdate
	}
	return s
}

// Changes implements server.Authenticator.
func (c *Certificates) Changes() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changes
}

// read reads everything. What is wrong of it is an error, given of what the Workload API has of authorities, and former has that part as it was: an authority that is taken away is not trusted
// on because something else is broken. A former that is nil has nothing.
func (c *Certificates) read(former *material) (m *material, wrong, given error) {
	m = &material{}
	if former == nil {
		former = &material{}
	}
	var err error
	if m.own, err = c.own(); err != nil {
		wrong, m.own = err, former.own
	}
	for i, t := range c.settings.Trust {
		a, err := newAuthority(t)
		if err != nil {
			wrong = errors.Join(wrong, err)
			continue
		}
		var was authority
		if i < len(former.trust) {
			was = former.trust[i]
		}
		if a.certificates, err = c.certificates(a); err != nil {
			a.certificates = was.certificates
			if t.CAFile == "" && c.source != nil {
				given = errors.Join(given, err)
			} else {
				wrong = errors.Join(wrong, err)
			}
		}
		if t.CRLFile != "" {
			if a.lists, err = listsIn("trust "+t.Name, t.CRLFile); err != nil {
				wrong, a.lists = errors.Join(wrong, err), was.lists
			}
		}
		a.roots = x509.NewCertPool()
		for _, r := range a.certificates {
			a.roots.AddCert(r)
		}
		m.trust = append(m.trust, a)
	}
	if len(c.settings.Trust) == 0 && !c.settings.Optional {
		wrong = errors.Join(wrong, errors.New("nobody is trusted: name a trust"))
	}
	withFallen(m.trust, c.now())
	m.digest, m.authorities = m.sums()
	return m, wrong, given
}

// sums are digests: of all of it, and of the authorities alone.
func (m *material) sums() (all, authorities [sha256.Size]byte) {
	h := sha256.New()
	for _, a := range m.trust {
		h.Write([]byte(a.Name + "\x00"))
		for _, r := range a.certificates {
			h.Write(r.Raw)
		}
	}
	h.Sum(authorities[:0])
	if m.own != nil {
		for _, raw := range m.own.Certificate {
			h.Write(raw)
		}
	}
	for _, a := range m.trust {
		h.Write([]byte(a.Name + "\x00"))
		for _, l := range a.lists {
			h.Write(l.Raw)
		}
	}
	h.Sum(all[:0])
	return all, authorities
}

// own is the broker's own certificate, which has not ended.
func (c *Certificates) own() (*tls.Certificate, error) {
	own, err := c.shown()
	if err != nil {
		return nil, err
	}
	if end := own.Leaf.NotAfter; !c.now().Before(end) {
		return nil, fmt.Errorf("the broker's own certificate has ended, at %s: put its successor there", end.UTC().Format(time.RFC3339))
	}
	return own, nil
}

// shown is the broker's own certificate, whatever its dates.
func (c *Certificates) shown() (*tls.Certificate, error) {
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

// certificates are an authority's. A trust domain of which the Workload API knows nothing has none: it was told so.
func (c *Certificates) certificates(a authority) ([]*x509.Certificate, error) {
	if a.CAFile == "" {
		if c.source == nil {
			return nil, fmt.Errorf("trust %s: there is neither a ca_file nor a Workload API", a.Name)
		}
		if b, err := c.source.GetX509BundleForTrustDomain(a.domain); err == nil {
			all := b.X509Authorities()
			return all, bearable(fmt.Sprintf("trust %s: what the Workload API has for %s", a.Name, a.TrustDomain), all)
		}
		c.log.Warn("the Workload API does not know a trust domain: nobody of it is let in; has the broker's entry been told to federate with it?",
			"listener", c.settings.Listener, "trust", a.Name, "trust_domain", a.TrustDomain)
		return nil, nil
	}
	all, err := authoritiesIn("trust "+a.Name, a.CAFile)
	if err != nil {
		return nil, err
	}
	return all, bearable(fmt.Sprintf("trust %s: %s", a.Name, a.CAFile), all)
}

// bearable says why authorities would cost too much to try.
func bearable(whose string, all []*x509.Certificate) error {
	of := map[string]int{}
	for _, c := range all {
		if of[string(c.RawSubject)]++; of[string(c.RawSubject)] > namesakesMost {
			return fmt.Errorf("%s has more than %d authorities of the name %.100q: each of them would be tried for whoever shows a certificate of that name's", whose, namesakesMost, c.Subject)
		}
		if k, ok := c.PublicKey.(*rsa.PublicKey); ok && k.N.BitLen() > rsaMost {
			return fmt.Errorf("%s has an authority %.100q with an RSA key of %d bits: %d are the most", whose, c.Subject, k.N.BitLen(), rsaMost)
		}
	}
	return nil
}

// authoritiesIn reads certificates of authorities from a file in PEM. It fails if there is anything else in it.
func authoritiesIn(whose, file string) ([]*x509.Certificate, error) {
	data, err := readFile("authority", file)
	if err != nil {
		return nil, err
	}
	dashes := bytes.Count(data, []byte("-----"))
	var all []*x509.Certificate
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("%s: %s has a block %.40q in it: certificates in PEM are wanted, and nothing else", whose, file, block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("%s: a certificate in %s cannot be read: %w", whose, file, err)
		}
		if !cert.IsCA {
			return nil, fmt.Errorf("%s: a certificate in %s is none of an authority", whose, file)
		}
		all = append(all, cert)
	}
	if len(all) == 0 || dashes != 4*len(all) { // package pem passes over what is damaged; each of the others begins and ends with a line of its own
		return nil, fmt.Errorf("%s: %s has %d certificates in PEM that can be read, and more that cannot, or none", whose, file, len(all))
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

// certificatesMost and certificatesBytes bound what a caller may show: to verify a chain costs more, the more there may be to go by.
const (
	certificatesMost  = 6
	certificatesBytes = 32 << 10
)

func bounded(chain []*x509.Certificate) error {
	size := 0
	for _, c := range chain {
		size += len(c.Raw)
	}
	if len(chain) > certificatesMost || size > certificatesBytes {
		return fmt.Errorf("%d certificates of %d bytes were shown: a caller shows its own and those between it and its root, %d and %d at most", len(chain), size, certificatesMost, certificatesBytes)
	}
	return nil
}

// Authenticate implements server.Authenticator: a TLS handshake in which both sides show a certificate. There is no resumption: a session that is resumed
// would be let in by what was trusted before.
func (c *Certificates) Authenticate(ctx context.Context, raw net.Conn) (server.Peer, error) {
	var found *standing
	asks := tls.RequireAnyClientCert // verified below, against what is trusted then
	switch {
	case c.settings.Optional && len(c.settings.Trust) == 0:
		asks = tls.NoClientCert
	case c.settings.Optional:
		asks = tls.RequestClientCert
	}
	conn := tls.Server(raw, &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}, SessionTicketsDisabled: true,
		ClientAuth:     asks,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.is.Load().own, nil },
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 && c.settings.Optional {
				return nil
			}
			if err := bounded(s.PeerCertificates); err != nil {
				return err
			}
			is := c.is.Load()
			id, err := identify(s.PeerCertificates, is.trust, c.now())
			found = &standing{id, is.authorities}
			return err
		},
	})
	if err := conn.HandshakeContext(ctx); err != nil {
		return server.Peer{}, err
	}
	if conn.ConnectionState().NegotiatedProtocol != "h2" {
		return server.Peer{}, errors.New("the client does not speak HTTP/2 (ALPN h2)")
	}
	if found == nil {
		return server.Peer{Conn: conn}, nil
	}
	var of atomic.Pointer[standing]
	of.Store(found)
	caller := broker.NewCaller(found.kind, found.authority, found.name, broker.ProofX509, c.settings.Listener)
	return server.Peer{Conn: conn, Authenticated: server.Authenticated{Caller: caller, Until: found.until, Still: func() error { return c.still(&of) }}}, nil
}

// A standing is who somebody is, as of the authorities by which that was found.
type standing struct {
	identity
	authorities [sha256.Size]byte
}

// still says why somebody would not be let in any more who was let in before. Where the authorities are who they were when that was found last, their signatures are not verified again: there
// may be thousands of connections to be looked at when a list changes. Whoever stores an older standing, because two have looked at once, has it found again.
func (c *Certificates) still(of *atomic.Pointer[standing]) error {
	was, is, now := of.Load(), c.is.Load(), c.now()
	if is.authorities == was.authorities {
		last := slices.DeleteFunc(slices.Clone(was.chains), func(chain []*x509.Certificate) bool { return !now.Before(endOf(chain)) })
		if len(last) == 0 {
			return errors.New("the certificate has ended")
		}
		_, err := unrevoked(last, is.trust, was.trust, now)
		return err
	}
	again, err := identify(was.shown, is.trust, now)
	if err != nil {
		return err
	}
	if again.kind != was.kind || again.authority != was.authority || again.name != was.name {
		return errors.New("its certificate is another caller's by now")
	}
	of.Store(&standing{again, is.authorities})
	return nil
}

// Shown are the broker's own certificate and those of each trust, by its name, as they are used now. Nobody changes them.
func (c *Certificates) Shown() (own *x509.Certificate, trusted map[string][]*x509.Certificate) {
	m := c.is.Load()
	trusted = map[string][]*x509.Certificate{}
	for _, a := range m.trust {
		trusted[a.Name] = a.certificates
	}
	return m.own.Leaf, trusted
}
