package authn

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/readfile"
)

// A revocationList says which certificates their issuer takes back (RFC 5280 section 5). What it says is immutable. Safe for concurrent use.
type revocationList struct {
	*x509.RevocationList
	serials map[string]struct{}

	mu sync.Mutex
	// by has whether an authority has signed it, by the digest of its key: to find out, all of the list is read.
	by map[[sha256.Size]byte]bool
}

const (
	// listsMost bounds a file of them: some 100,000 certificates. To read it takes thirty times as much memory.
	listsMost = 4 << 20
	// signersMost bounds the authorities that a list remembers.
	signersMost = 100
	// listsOfOneMost bounds the lists of one issuer in a file, by its name: each of them is held against an issuer of that name, whichever trust vouches for it.
	listsOfOneMost = 16
)

// signed reports whether an authority has signed it: by name and key. One authority may have several certificates, which say different things of what it may sign.
func (l *revocationList) signed(by *x509.Certificate) bool {
	if !bytes.Equal(l.RawIssuer, by.RawSubject) {
		return false
	}
	digest := sha256.Sum256(by.RawSubjectPublicKeyInfo)
	l.mu.Lock()
	defer l.mu.Unlock()
	is, known := l.by[digest]
	if !known {
		is = by.CheckSignature(l.SignatureAlgorithm, l.RawTBSRevocationList, l.Signature) == nil
		if l.by == nil || len(l.by) >= signersMost {
			l.by = map[[sha256.Size]byte]bool{}
		}
		l.by[digest] = is
	}
	return is
}

var (
	oidAuthorityKey = asn1.ObjectIdentifier{2, 5, 29, 35}
	oidListNumber   = asn1.ObjectIdentifier{2, 5, 29, 20}
	oidDeltaList    = asn1.ObjectIdentifier{2, 5, 29, 27}
	oidListOfPart   = asn1.ObjectIdentifier{2, 5, 29, 28}
)

// listsIn reads the lists of a file in PEM, or the one in DER. It fails if there is anything else in it, or a list that says less than all of its issuer:
// one of changes, of some certificates, or of others' (RFC 5280 sections 5.2.4, 5.2.5 and 5.3.3).
func listsIn(whose, file string) ([]*revocationList, error) {
	data, err := readfile.Read(file, listsMost)
	if err != nil {
		return nil, fmt.Errorf("%s: the revocation list %s: %w", whose, file, readfile.Why(err))
	}
	return parseLists(whose, file, data)
}

func parseLists(whose, file string, data []byte) (all []*revocationList, err error) {
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
	of := map[string]int{}
	for _, der := range ders {
		is, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, fmt.Errorf("%s: a revocation list in %s cannot be read: %w", whose, file, err)
		}
		if of[string(is.RawIssuer)]++; of[string(is.RawIssuer)] > listsOfOneMost {
			return nil, fmt.Errorf("%s: %s has more than %d revocation lists of the issuer %.100q: its newest one is enough", whose, file, listsOfOneMost, is.Issuer)
		}
		if is.NextUpdate.IsZero() {
			return nil, fmt.Errorf("%s: a revocation list in %s does not say when the next one comes (nextUpdate)", whose, file)
		}
		for _, e := range is.Extensions {
			if e.Id.Equal(oidDeltaList) || e.Id.Equal(oidListOfPart) || e.Critical && !e.Id.Equal(oidAuthorityKey) && !e.Id.Equal(oidListNumber) {
				return nil, fmt.Errorf("%s: a revocation list in %s is not one of all certificates of its issuer (extension %s)", whose, file, e.Id)
			}
		}
		l := &revocationList{RevocationList: is, serials: make(map[string]struct{}, len(is.RevokedCertificateEntries))}
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

// soonest is the list that is to be followed by another first: of those that are each their issuer's newest in a trust, the one with the least share of its life left. nil: there is none.
func soonest(by []authority, now time.Time) (first *revocationList) {
	for _, a := range by {
		newest := map[string]*revocationList{}
		for _, l := range a.lists {
			issuer := string(l.RawIssuer) + string(l.AuthorityKeyId) // authorities of one name have keys of their own
			if was := newest[issuer]; was == nil || l.follows(was, now) {
				newest[issuer] = l
			}
		}
		for _, l := range newest {
			if first == nil || l.left(now) < first.left(now) {
				first = l
			}
		}
	}
	return first
}

// follows reports whether it takes the place of another one of its issuer's: the later one does, but for one that does not count yet.
func (l *revocationList) follows(was *revocationList, now time.Time) bool {
	if young, before := now.Before(l.ThisUpdate), now.Before(was.ThisUpdate); young != before {
		return before
	}
	return cmp.Or(l.ThisUpdate.Compare(was.ThisUpdate), l.NextUpdate.Compare(was.NextUpdate)) > 0
}

// left is the share of its life that is left: less than nothing once it has ended, and before it counts.
func (l *revocationList) left(now time.Time) float64 {
	if now.Before(l.ThisUpdate) {
		return -1
	}
	return float64(l.NextUpdate.Sub(now)) / float64(max(l.NextUpdate.Sub(l.ThisUpdate), 1))
}

var (
	errRevoked = errors.New("the certificate, or an authority above it, was revoked")
	errUnknown = errors.New("its issuer has no revocation list in crl_file that is signed by it and counts now: whether the certificate was revoked, nobody says")
)

// unrevoked are those of the chains of which no certificate was revoked, where one of the authorities vouches for them.
func unrevoked(chains [][]*x509.Certificate, by []authority, vouches int, now time.Time) (good [][]*x509.Certificate, err error) {
	for _, chain := range chains {
		if why := revoked(chain, by, vouches, now); why != nil {
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

// revoked says why a chain does not count; nil: it does. A list is its issuer's word, whichever trust has it: what one takes back is let in by no other. That there is a list that counts now,
// of the issuer of each certificate but the root, is asked of the trust that vouches. Of the root none is: who has put an authority into ca_file alone need not have the one above it.
func revoked(chain []*x509.Certificate, by []authority, vouches int, now time.Time) error {
	root := len(chain) - 1
	for i, c := range chain[:root] {
		issuer := chain[i+1]
		if takenBack(c, issuer, by) {
			return errRevoked
		}
		if by[vouches].CRLFile != "" && (!signsLists(issuer) || !slices.ContainsFunc(by[vouches].lists, func(l *revocationList) bool {
			return !now.Before(l.ThisUpdate) && now.Before(l.NextUpdate) && l.signed(issuer)
		})) {
			return errUnknown
		}
	}
	for of := range by {
		if slices.ContainsFunc(by[of].fallen, chain[root].Equal) {
			return errRevoked
		}
	}
	return nil
}

// withFallen finds the authorities that are revoked by one that is in a file too, or stand below none but such ones. What is revoked is a certificate, by its issuer's name and its
// number: another one of the same key stands, and so does one that has signed itself, whatever others say of its key.
func withFallen(all []authority, now time.Time) {
	named := map[string][]*x509.Certificate{}
	for i := range all {
		all[i].fallen = nil
		for _, c := range all[i].certificates {
			named[string(c.RawSubject)] = append(named[string(c.RawSubject)], c)
		}
	}
	fell := map[string]bool{} // by all of a certificate
	falls := func(c *x509.Certificate) bool {
		issuers := named[string(c.RawIssuer)]
		// Signatures are looked at last: few authorities fall.
		if slices.ContainsFunc(issuers, func(i *x509.Certificate) bool { return takenBack(c, i, all) && signedBy(c, i) }) {
			return true
		}
		below := slices.ContainsFunc(issuers, func(i *x509.Certificate) bool { return fell[string(i.Raw)] && signedBy(c, i) })
		return below && !signedBy(c, c) && !slices.ContainsFunc(issuers, func(i *x509.Certificate) bool {
			return !fell[string(i.Raw)] && vouchesFor(i, c, now) && signedBy(c, i)
		})
	}
	for more := true; more; {
		more = false
		for i := range all {
			for _, c := range all[i].certificates {
				if !fell[string(c.Raw)] && falls(c) {
					fell[string(c.Raw)], more = true, true
					all[i].fallen = append(all[i].fallen, c)
				}
			}
		}
	}
}

// vouchesFor reports whether a certificate's own dates and uses let it stand above another one (RFC 5280 section 6.1.4). That it is no authority, or of other names, whoever wrote it into a file
// has to know.
func vouchesFor(issuer, c *x509.Certificate, now time.Time) bool {
	alone := issuer.MaxPathLen == 0 && issuer.MaxPathLenZero
	return !now.Before(issuer.NotBefore) && !now.After(issuer.NotAfter) && (issuer.KeyUsage == 0 || issuer.KeyUsage&x509.KeyUsageCertSign != 0) && !(alone && c.IsCA)
}

func signedBy(c, issuer *x509.Certificate) bool {
	return issuer.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) == nil
}

// signsLists reports whether an authority's certificate has it sign lists (RFC 5280 section 6.3.3 (f)). By another one, no list says that nothing else is revoked.
func signsLists(issuer *x509.Certificate) bool {
	return issuer.KeyUsage == 0 || issuer.KeyUsage&x509.KeyUsageCRLSign != 0
}

// takenBack reports whether a list of an issuer's has a certificate. An old one is right about those that it has.
func takenBack(c, issuer *x509.Certificate, by []authority) bool {
	serial := string(c.SerialNumber.Bytes())
	return slices.ContainsFunc(by, func(a authority) bool {
		return slices.ContainsFunc(a.lists, func(l *revocationList) bool {
			_, has := l.serials[serial]
			return has && l.signed(issuer)
		})
	})
}
