package authn

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/readfile"
)

// A revocationList says which certificates their issuer takes back (RFC 5280 section 5). Immutable.
type revocationList struct {
	*x509.RevocationList
	serials map[string]struct{}
}

// listsMost bounds a file of them: some 400,000 certificates.
const listsMost = 16 << 20

var (
	oidAuthorityKey = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidListNumber   = asn1.ObjectIdentifier{2, 5, 29, 20}
)

// listsIn reads the lists of a file in PEM, or the one in DER. It fails if there is anything else in it, or a list that says less than all of its issuer:
// one of changes, of some certificates, or of others' (RFC 5280 sections 5.2.4, 5.2.5 and 5.3.3).
func listsIn(whose, file string) (all []revocationList, err error) {
	data, err := readfile.Read(file, listsMost)
	if err != nil {
		return nil, fmt.Errorf("%s: the revocation list %s: %w", whose, file, readfile.Why(err))
	}
	ders := [][]byte{data}
	if dashes := bytes.Count(data, []byte("-----")); bytes.Contains(data, []byte("-----BEGIN")) {
		ders = nil
		for {
			var block *pem.Block
			if block, data = pem.Decode(data); block == nil {
				break
			}
			if block.Type != "X509 CRL" {
				return nil, fmt.Errorf("%s: %s has a block %.40q in it: revocation lists (X509 CRL) are wanted, and nothing else", whose, file, block.Type)
			}
			ders = append(ders, block.Bytes)
		}
		if dashes != 4*len(ders) { // package pem passes over what is damaged
			return nil, fmt.Errorf("%s: %s has %d revocation lists that can be read, and more that cannot", whose, file, len(ders))
		}
	}
	for _, der := range ders {
		is, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fmt.Errorf("%s: a revocation list in %s cannot be read: %w", whose, file, err)
		}
		if is.NextUpdate.IsZero() {
			return nil, fmt.Errorf("%s: a revocation list in %s does not say when the next one comes (nextUpdate)", whose, file)
		}
		for _, e := range is.Extensions {
			if e.Critical && !e.Id.Equal(oidAuthorityKey) && !e.Id.Equal(oidListNumber) {
				return nil, fmt.Errorf("%s: a revocation list in %s is not one of all certificates of its issuer (extension %s)", whose, file, e.Id)
			}
		}
		l := revocationList{is, make(map[string]struct{}, len(is.RevokedCertificateEntries))}
		for _, entry := range is.RevokedCertificateEntries {
			if slices.ContainsFunc(entry.Extensions, func(e pkix.Extension) bool { return e.Critical }) {
				return nil, fmt.Errorf("%s: a revocation list in %s has an entry of another issuer, or one that means more than it says", whose, file)
			}
			l.serials[string(entry.SerialNumber.Bytes())] = struct{}{}
		}
		is.RevokedCertificateEntries = nil // the serials are what is asked for
		all = append(all, l)
	}
	return all, nil
}

var (
	errRevoked = errors.New("the certificate, or one between it and its root, was revoked")
	errUnknown = errors.New("its issuer has no revocation list in crl_file that is signed by it and counts now: whether the certificate was revoked, nobody says")
)

// unrevoked are those of the chains of which no certificate was revoked. Each certificate but the root needs a list of its issuer, which has not ended.
func (a authority) unrevoked(chains [][]*x509.Certificate, now time.Time) (good [][]*x509.Certificate, err error) {
	if a.CRLFile == "" {
		return chains, nil
	}
	for _, chain := range chains {
		if why := a.revoked(chain, now); why != nil {
			err = why
			continue
		}
		good = append(good, chain)
	}
	if len(good) == 0 {
		return nil, err
	}
	return good, nil
}

// revoked says why a chain does not count; nil: it does.
func (a authority) revoked(chain []*x509.Certificate, now time.Time) error {
	for i, c := range chain[:len(chain)-1] {
		known, issuer := false, chain[i+1]
		for _, l := range a.lists {
			if !bytes.Equal(l.RawIssuer, issuer.RawSubject) || l.CheckSignatureFrom(issuer) != nil {
				continue
			}
			if _, ok := l.serials[string(c.SerialNumber.Bytes())]; ok { // an old list is right about those that it has
				return errRevoked
			}
			known = known || !now.Before(l.ThisUpdate) && now.Before(l.NextUpdate)
		}
		if !known {
			return errUnknown
		}
	}
	return nil
}
