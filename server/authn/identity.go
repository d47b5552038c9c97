package authn

import (
	"bytes"
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
	lists []*revocationList
	// fallen are those of the certificates for which nobody stands any more: withFallen.
	fallen []*x509.Certificate
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
	// trust is the index of the authority that vouches for it, and chains are the ways to its roots of which none was revoked.
	trust  int
	chains [][]*x509.Certificate
	// shown is the chain that was shown.
	shown []*x509.Certificate
}

var (
	errNoCertificate = errors.New("no certificate was shown")
	errUntrusted     = errors.New("no trust of this listener vouches for the certificate")
	errOtherRoot     = errors.New("none of its authorities has signed the certificate, or one between it and a root: what lies between is shown in order, each signed by the next")
)

// identify says whose certificate it is. Who vouches for it is by its names, which it has itself, and by signatures, and by nothing that changes while those stay: one that has revoked it, or
// whose lists have ended, vouches for it still, and its no is not another one's yes. More than one that vouches refuses it, and so does all that speaks against it by the one that does.
func identify(shown []*x509.Certificate, by []authority, now time.Time) (identity, error) {
	if len(shown) == 0 {
		return identity{}, errNoCertificate
	}
	chain := inOrder(shown)
	leaf := chain[0]
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return identity{}, errors.New("the certificate is of an authority, and none of a workload")
	}
	// who vouches, the names that it believes, and the way that is shown to one of its roots.
	var who *authority
	var trust int
	var names []string
	var way []*x509.Certificate
	why := errUntrusted
	for i := range by {
		a := &by[i]
		has, err := a.believed(leaf) // before any signature is looked at: what is not of this trust costs nothing, however many authorities it has
		if err != nil {
			why = fmt.Errorf("%w; %s: %w", why, a.Name, err)
			continue
		}
		upTo := a.upTo(chain)
		switch {
		case upTo == nil:
			why = fmt.Errorf("%w; %s: %w", why, a.Name, errOtherRoot)
		case who != nil:
			return identity{}, fmt.Errorf("more than one trust of this listener vouches for the certificate, %s and %s: which counts, nobody has said", who.Name, a.Name)
		default:
			who, trust, names, way = a, i, has, upTo
		}
	}
	if who == nil {
		return identity{}, why
	}
	id, err := who.verify(way, now)
	if err == nil {
		id.trust, id.shown = trust, chain
		id.chains, err = unrevoked(id.chains, by, trust, now)
	}
	if err == nil {
		err = who.name(&id, names)
	}
	if err != nil {
		return identity{}, fmt.Errorf("%s: %w", who.Name, err)
	}
	for _, c := range id.chains { // it ends when the last way to a root does
		if end := endOf(c); end.After(id.until) {
			id.until = end
		}
	}
	return id, nil
}

// inOrder is the chain that was shown: each certificate is followed by its issuer's, by name (RFC 5246 section 7.4.2, RFC 8446 section 4.4.2). What stands beside it is left out.
func inOrder(shown []*x509.Certificate) []*x509.Certificate {
	chain := []*x509.Certificate{shown[0]}
	for _, next := range shown[1:] {
		if bytes.Equal(chain[len(chain)-1].RawIssuer, next.RawSubject) {
			chain = append(chain, next)
		}
	}
	return chain
}

// upTo is the part of a chain up to the last certificate that a root has signed, where each below that is signed by the one above; nil: there is none. It is looked at from above, so
// that only keys of the authority are tried: whoever shows certificates that they have made themselves, which may stand above each other in any order, costs no more than others. The last,
// because a root may have been signed by another one: either may be the one that counts.
func (a authority) upTo(chain []*x509.Certificate) []*x509.Certificate {
	for top := len(chain) - 1; top >= 0; top-- {
		c := chain[top]
		if slices.ContainsFunc(a.certificates, func(r *x509.Certificate) bool {
			return bytes.Equal(c.RawIssuer, r.RawSubject) && c.CheckSignatureFrom(r) == nil
		}) && inLine(chain[:top+1]) {
			return chain[:top+1]
		}
	}
	return nil
}

// inLine reports whether each certificate is signed by the one above.
func inLine(chain []*x509.Certificate) bool {
	for i := len(chain) - 2; i >= 0; i-- {
		if chain[i].CheckSignatureFrom(chain[i+1]) != nil {
			return false
		}
	}
	return true
}

// verify finds the ways to this authority's roots that count now.
func (a authority) verify(way []*x509.Certificate, now time.Time) (id identity, err error) {
	between := x509.NewCertPool()
	for _, c := range way[1:] {
		between.AddCert(c)
	}
	id.chains, err = way[0].Verify(x509.VerifyOptions{
		Roots: a.roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return id, err
}

// believed are the names of a certificate that are believed of this authority, if it has signed it: one at least.
func (a authority) believed(leaf *x509.Certificate) ([]string, error) {
	if a.TrustDomain != "" {
		return a.spiffe(leaf)
	}
	return a.named(leaf)
}

// spiffe is the SPIFFE ID of an X.509-SVID, of which there is one (SPIFFE X509-SVID, section 2).
func (a authority) spiffe(leaf *x509.Certificate) ([]string, error) {
	is, err := x509svid.IDFromCert(leaf)
	switch {
	case err != nil:
		return nil, fmt.Errorf("it is no X.509-SVID: %w", err)
	case !slices.Equal(urisOf(leaf), []string{is.String()}): // what was read of it is spelled otherwise
		return nil, errors.New("it is no X.509-SVID: its SPIFFE ID is not written as one")
	case is.TrustDomain() != a.domain:
		return nil, errors.New("its SPIFFE ID is of another trust domain")
	case is.Path() == "":
		return nil, errors.New("its SPIFFE ID is of the trust domain itself, and of no workload")
	}
	return []string{strings.TrimPrefix(is.Path(), "/")}, nil
}

// named are the names of the kind that are believed.
func (a authority) named(leaf *x509.Certificate) ([]string, error) {
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
	if len(names) == 0 {
		return nil, fmt.Errorf("it has no %s name that is believed of this authority", a.Kind)
	}
	return names, nil
}

// name says who it is of the names that are believed.
func (a authority) name(id *identity, names []string) error {
	if a.TrustDomain != "" {
		id.kind, id.authority, id.name = broker.SPIFFE, a.domain.Name(), names[0]
		return nil
	}
	switch {
	case len(names) > 1:
		return fmt.Errorf("it has more than one %s name that is believed of this authority", a.Kind)
	case !plain(a.Kind, names[0]):
		return fmt.Errorf("its %s name has characters that no name of a caller may have", a.Kind)
	}
	id.kind, id.authority, id.name = a.Kind, a.Name, names[0]
	return nil
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
