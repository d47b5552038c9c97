package authn

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/policy"
)

// A Trust is a certificate authority, and which names are believed of it.
type Trust struct {
	// Name is of the settings. It vouches for DNS names, URIs and common names.
	Name string
	// CAFile has the authority's certificates in PEM. Empty: the Workload API has them.
	CAFile string
	// CRLFile has the revocation lists of all that issue certificates below the authority's, in PEM, or one in DER (RFC 5280 section 5). Empty: nothing is
	// revoked. A certificate whose issuer has no list there that counts now is not let in.
	CRLFile string
	// TrustDomain is whose SPIFFE IDs are believed of it, and no other's; empty: Kind and Names say what is.
	TrustDomain string
	// Kind is DNS, URI or CommonName. Exactly one name of that kind in a certificate is of Names, which are patterns as in a policy.
	Kind  broker.CallerKind
	Names []string
}

// An authority is a Trust with its certificates.
type authority struct {
	Trust
	domain spiffeid.TrustDomain
	names  policy.Names
	// certificates are those in roots.
	certificates []*x509.Certificate
	roots        *x509.CertPool
	// lists are those of CRLFile.
	lists []revocationList
}

// newAuthority checks what is said of a trust.
func newAuthority(t Trust) (a authority, err error) {
	a.Trust = t
	if t.TrustDomain != "" {
		if a.domain, err = spiffeid.TrustDomainFromString(t.TrustDomain); err != nil || a.domain.Name() != t.TrustDomain {
			return a, fmt.Errorf("trust %s: its trust_domain is not one, such as corp.example", t.Name)
		}
		return a, nil
	}
	if a.names, err = policy.ParseNames(t.Kind, t.Names); err != nil {
		return a, fmt.Errorf("trust %s: %s: %w", t.Name, t.Kind, err)
	}
	return a, nil
}

// An identity is a name, and until when it is proven.
type identity struct {
	kind            broker.CallerKind
	authority, name string
	until           time.Time
}

var (
	errNoCertificate = errors.New("no certificate was shown")
	errUntrusted     = errors.New("no trust of this listener vouches for the certificate")
)

// identify says whose certificate it is, by exactly one of the authorities.
func identify(chain []*x509.Certificate, by []authority, now time.Time) (identity, error) {
	if len(chain) == 0 {
		return identity{}, errNoCertificate
	}
	var found []identity
	why := errUntrusted
	for _, a := range by {
		id, err := a.identify(chain, now)
		if err != nil {
			why = fmt.Errorf("%w; %s: %w", why, a.Name, err)
			continue
		}
		found = append(found, id)
	}
	switch {
	case len(found) == 0:
		return identity{}, why
	case len(found) > 1:
		return identity{}, errors.New("more than one trust of this listener vouches for the certificate: which counts, nobody has said")
	}
	return found[0], nil
}

// identify says whose certificate it is, by this authority.
func (a authority) identify(chain []*x509.Certificate, now time.Time) (id identity, err error) {
	leaf := chain[0]
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return id, errors.New("the certificate is of an authority, and none of a workload")
	}
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots: a.roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return id, err
	}
	if chains, err = a.unrevoked(chains, now); err != nil {
		return id, err
	}
	for _, c := range chains { // it ends when the last way to a root does
		if end := endOf(c); end.After(id.until) {
			id.until = end
		}
	}
	if a.TrustDomain != "" {
		return a.spiffe(leaf, id)
	}
	return a.named(leaf, id)
}

// spiffe reads the SPIFFE ID of an X.509-SVID (SPIFFE X509-SVID, section 2).
func (a authority) spiffe(leaf *x509.Certificate, id identity) (identity, error) {
	is, err := x509svid.IDFromCert(leaf)
	switch {
	case err != nil:
		return id, fmt.Errorf("it is no X.509-SVID: %w", err)
	case !slices.Equal(urisOf(leaf), []string{is.String()}): // what was read of it is spelled otherwise
		return id, errors.New("it is no X.509-SVID: its SPIFFE ID is not written as one")
	case is.TrustDomain() != a.domain:
		return id, errors.New("its SPIFFE ID is of another trust domain")
	case is.Path() == "":
		return id, errors.New("its SPIFFE ID is of the trust domain itself, and of no workload")
	}
	id.kind, id.authority, id.name = broker.SPIFFE, a.domain.Name(), strings.TrimPrefix(is.Path(), "/")
	return id, nil
}

// named finds the one name of the kind that is believed.
func (a authority) named(leaf *x509.Certificate, id identity) (identity, error) {
	var names []string
	switch a.Kind {
	case broker.DNS:
		for _, n := range leaf.DNSNames {
			names = append(names, strings.ToLower(n)) // RFC 4343
		}
	case broker.URI:
		names = urisOf(leaf)
	case broker.CommonName:
		for _, n := range leaf.Subject.Names {
			if s, ok := n.Value.(string); ok && n.Type.Equal(oidCommonName) {
				names = append(names, s)
			}
		}
	default:
	}
	names = slices.DeleteFunc(names, func(n string) bool { return !a.names.Match(n) })
	switch {
	case len(names) == 0:
		return id, fmt.Errorf("it has no %s name that is believed of this authority", a.Kind)
	case len(names) > 1:
		return id, fmt.Errorf("it has more than one %s name that is believed of this authority", a.Kind)
	case !plain(a.Kind, names[0]):
		return id, fmt.Errorf("its %s name has characters that no name of a caller may have", a.Kind)
	}
	id.kind, id.authority, id.name = a.Kind, a.Name, names[0]
	return id, nil
}

var (
	oidCommonName = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidSAN        = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// urisOf are the URIs of a certificate as they are written: parsed, those that are written otherwise look alike.
func urisOf(leaf *x509.Certificate) (uris []string) {
	const tagURI = 6 // RFC 5280 section 4.2.1.6
	for _, e := range leaf.Extensions {
		if !e.Id.Equal(oidSAN) {
			continue
		}
		var names []asn1.RawValue
		if _, err := asn1.Unmarshal(e.Value, &names); err != nil {
			return nil
		}
		for _, n := range names {
			if n.Class == asn1.ClassContextSpecific && n.Tag == tagURI {
				uris = append(uris, string(n.Bytes))
			}
		}
	}
	return uris
}

// plain reports whether a name can be a caller's: what could be taken for another one is none. A blank is one in common names only.
func plain(kind broker.CallerKind, name string) bool {
	for i := range len(name) {
		if c := name[i]; c < ' ' || c >= 0x7f || c == '%' || c == '*' || c == ' ' && kind != broker.CommonName {
			return false
		}
	}
	return !slices.ContainsFunc(strings.FieldsFunc(name, func(r rune) bool { return r == '/' || r == ':' }), func(s string) bool { return s == "." || s == ".." }) &&
		name != "" && name == strings.TrimSpace(name)
}

// endOf is when the first certificate of a chain ends.
func endOf(chain []*x509.Certificate) (end time.Time) {
	for _, c := range chain {
		if end.IsZero() || c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}
