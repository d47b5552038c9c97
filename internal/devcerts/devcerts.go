// Package devcerts makes certificate authorities and certificates that are thrown away: to try mutual TLS, and for tests. Nothing of it is for a
// deployment: the authority's key lies in memory, or beside its certificates.
package devcerts

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"
)

// An Authority signs certificates.
type Authority struct {
	// Certificate is its own, self-signed.
	Certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

// A Pair is a certificate with its key, in PEM.
type Pair struct{ Certificate, Key []byte }

// backdated is how long before now certificates begin, for clocks that are behind.
const backdated = time.Minute

// NewAuthority makes one of a name that lives so long. trustDomain is whose SPIFFE IDs it signs, as it says of itself; empty: no SPIFFE IDs.
func NewAuthority(name, trustDomain string, life time.Duration) (*Authority, error) {
	return (*Authority)(nil).signs(name, life, func(c *x509.Certificate) {
		if trustDomain != "" {
			c.URIs = []*url.URL{{Scheme: "spiffe", Host: trustDomain}}
		}
	})
}

// Below makes an authority whose certificate this one signs.
func (a *Authority) Below(name string, life time.Duration) (*Authority, error) {
	return a.signs(name, life, func(*x509.Certificate) {})
}

// signs makes an authority; nil signs none, so that it signs its own.
func (a *Authority) signs(name string, life time.Duration, edit func(*x509.Certificate)) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	c := &x509.Certificate{
		SerialNumber: serial(), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-backdated), NotAfter: now.Add(life),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	edit(c)
	by, with := c, key
	if a != nil {
		by, with = a.Certificate, a.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by, &key.PublicKey, with)
	if err != nil {
		return nil, err
	}
	if c, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return &Authority{c, key}, nil
}

// PEM is its certificate.
func (a *Authority) PEM() []byte { return pemOf("CERTIFICATE", a.Certificate.Raw) }

// Revoke signs the list of what it takes back, in PEM (RFC 5280 section 5). edit may change anything of it; nil: nothing.
func (a *Authority) Revoke(life time.Duration, edit func(*x509.RevocationList), revoked ...*big.Int) ([]byte, error) {
	now := time.Now()
	l := &x509.RevocationList{Number: big.NewInt(now.UnixNano()), ThisUpdate: now.Add(-backdated), NextUpdate: now.Add(life)}
	for _, n := range revoked {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: n, RevocationTime: now})
	}
	if edit != nil {
		edit(l)
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, a.Certificate, a.key)
	if err != nil {
		return nil, err
	}
	return pemOf("X509 CRL", der), nil
}

// Issue signs a certificate for a client and a server. edit says whose it is, and may change anything of it.
func (a *Authority) Issue(life time.Duration, edit func(*x509.Certificate)) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	now := time.Now()
	c := &x509.Certificate{
		SerialNumber: serial(), NotBefore: now.Add(-backdated), NotAfter: now.Add(life), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	edit(c)
	der, err := x509.CreateCertificate(rand.Reader, c, a.Certificate, &key.PublicKey, a.key)
	if err != nil {
		return Pair{}, err
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{pemOf("CERTIFICATE", der), pemOf("PRIVATE KEY", raw)}, nil
}

// Loopback names this machine, so that clients find it in the certificate.
func Loopback(c *x509.Certificate) {
	c.DNSNames = append(c.DNSNames, "localhost")
	c.IPAddresses = append(c.IPAddresses, net.IPv4(127, 0, 0, 1), net.IPv6loopback)
}

// Hosts names machines, by addresses or DNS names.
func Hosts(c *x509.Certificate, all ...string) {
	for _, h := range all {
		if ip := net.ParseIP(h); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, h)
		}
	}
}

// SPIFFE gives a certificate a SPIFFE ID. It fails for what is no URL.
func SPIFFE(id string) (func(*x509.Certificate), error) {
	u, err := url.Parse(id)
	if err != nil || u.Scheme != "spiffe" || u.Host == "" {
		return nil, fmt.Errorf("%q is no SPIFFE ID, such as spiffe://example.org/shop", id)
	}
	return func(c *x509.Certificate) { c.URIs = append(c.URIs, u) }, nil
}

func serial() *big.Int {
	n, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) // never fails (crypto/rand)
	return n
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
