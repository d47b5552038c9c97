package redistest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"strconv"
	"time"
)

// certify makes an authority, a certificate of the server and one of a client, and has the server use them.
func (s *Server) certify() {
	s.t.Helper()
	s.CAFile, s.CertFile, s.KeyFile = s.file("ca.crt"), s.file("client.crt"), s.file("client.key")
	ca, caKey := s.certificate("redistest CA", s.CAFile, s.file("ca.key"), nil, nil)
	s.certificate("redistest server", s.file("server.crt"), s.file("server.key"), ca, caKey)
	s.certificate("redistest client", s.CertFile, s.KeyFile, ca, caKey)
	s.lines = append(s.lines,
		"tls-ca-cert-file "+strconv.Quote(s.CAFile),
		"tls-cert-file "+strconv.Quote(s.file("server.crt")),
		"tls-key-file "+strconv.Quote(s.file("server.key")),
		"tls-auth-clients yes",
		"tls-replication yes",
	)
	pair, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
	if err != nil {
		s.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca)
	s.tls = &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
}

// certificate makes one and writes it and its key. Without a parent it is an authority, signed by itself.
func (s *Server) certificate(
	name, certFile, keyFile string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey,
) (*x509.Certificate, *ecdsa.PrivateKey) {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if parent == nil {
		template.IsCA, template.BasicConstraintsValid = true, true
		template.KeyUsage, template.ExtKeyUsage, template.IPAddresses = x509.KeyUsageCertSign, nil, nil
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		s.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		s.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		s.t.Fatal(err)
	}
	s.writePEM(certFile, "CERTIFICATE", der)
	s.writePEM(keyFile, "PRIVATE KEY", keyDER)
	return cert, key
}

func (s *Server) writePEM(file, kind string, der []byte) {
	s.t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		s.t.Fatal(err)
	}
}
