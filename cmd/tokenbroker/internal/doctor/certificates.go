package doctor

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"net/url"
	"slices"
	"time"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
	"github.com/tokenbroker/tokenbroker/internal/readfile"
)

// How long before its end a certificate should have been renewed; of one that lives for less than three times as long, a third of its life.
const (
	leafSoon      = 7 * 24 * time.Hour
	authoritySoon = 30 * 24 * time.Hour
)

// bundleMost is how many certificates a file of authorities has that somebody looks after. A larger one is a copy of the system's.
const bundleMost = 10

// pemMost bounds a file with certificates.
const pemMost = 1 << 20

// certificates looks at those that are in use, and at those that are read when they are needed.
func (r *Report) certificates(b Broker, now time.Time) {
	n := 0
	leaf := func(whose string, c *x509.Certificate) {
		n++
		r.ends(CertificateEnds, whose, c, leafSoon, now)
		r.weak(whose, c)
	}
	authorities := func(whose string, all []*x509.Certificate, rotates bool) {
		if len(all) > bundleMost {
			return
		}
		n += len(all)
		for _, c := range all {
			replaced := slices.ContainsFunc(all, func(o *x509.Certificate) bool {
				return o.NotAfter.After(c.NotAfter) && (rotates || bytes.Equal(o.RawSubject, c.RawSubject))
			})
			if !replaced {
				r.ends(AuthorityEnds, whose, c, authoritySoon, now)
			}
			r.weak(whose, c)
		}
	}
	for _, d := range b.Doors {
		if d.Stale {
			r.found(CertificateStale, "the listener %s goes on with former certificates or keys: what is there now cannot be used", d.Name)
		}
		leaf("the certificate of the listener "+d.Name, d.Own)
		if left := d.ListEnds.Sub(now); !d.ListEnds.IsZero() && left < d.ListEnds.Sub(d.ListBegan)/5 {
			r.found(RevocationListEnds, "of the listener %s a revocation list ends at %s, and should have a successor by now", d.Name, d.ListEnds.UTC().Format(time.RFC3339))
		}
		for _, t := range slices.Sorted(maps.Keys(d.Trusted)) {
			authorities("the authority "+t+" of the listener "+d.Name, d.Trusted[t], b.Settings.Trust[t].CAFile == "")
		}
		r.nested(&b.Settings, d)
	}
	s := &b.Settings
	for _, f := range []struct{ path, whose string }{
		{s.RedisCertFile, "the certificate that is shown to Redis"}, {s.KeysCertFile, "the certificate that is shown to KMSs"},
	} {
		if all := r.certificatesIn(f.path, f.whose); len(all) > 0 {
			leaf(f.whose+", "+f.path+",", all[0])
		}
	}
	files := []struct{ path, whose string }{
		{s.UpstreamCAFile, "the authority of upstreams"}, {s.RedisCAFile, "the authority of Redis"}, {s.KeysCAFile, "the authority of KMSs"},
	}
	for _, name := range slices.Sorted(maps.Keys(s.Issuers)) {
		i := s.Issuers[name]
		files = append(files, struct{ path, whose string }{i.CAFile, "the authority of the issuer " + name})
		if i.JWKSFile != "" {
			continue
		}
		if u, err := url.Parse(cmp.Or(i.JWKSURI, i.Issuer.Issuer)); err == nil && u.Scheme == "http" {
			r.found(IssuerPlain, "the keys of the issuer %s are fetched from %s, without TLS", name, u.Redacted())
		}
	}
	for _, f := range files {
		authorities(f.whose+", "+f.path+",", r.certificatesIn(f.path, f.whose), false)
	}
	if n > 0 {
		r.looked("certificates: %d", n)
	}
}

// nested notes an authority of one trust that one of another trust has signed. Two trusts of SPIFFE share no caller: an ID is of one trust domain.
func (r *Report) nested(s *settings.Settings, d Door) {
	for _, below := range slices.Sorted(maps.Keys(d.Trusted)) {
		for _, above := range slices.Sorted(maps.Keys(d.Trusted)) {
			all, roots := d.Trusted[below], d.Trusted[above]
			if below == above || s.Trust[below].TrustDomain != "" && s.Trust[above].TrustDomain != "" || len(all) > bundleMost || len(roots) > bundleMost {
				continue
			}
			for _, c := range all {
				if slices.ContainsFunc(roots, func(root *x509.Certificate) bool {
					return !root.Equal(c) && bytes.Equal(c.RawIssuer, root.RawSubject) && c.CheckSignatureFrom(root) == nil
				}) {
					r.found(AuthorityNested, "the authority %.100q of the trust %s is signed by one of the trust %s, and the listener %s believes both", c.Subject, below, above, d.Name)
				}
			}
		}
	}
}

// ends notes a certificate that ends soon, or has ended.
func (r *Report) ends(code Code, whose string, c *x509.Certificate, soon time.Duration, now time.Time) {
	soon = min(soon, c.NotAfter.Sub(c.NotBefore)/3)
	switch left := c.NotAfter.Sub(now); {
	case left <= 0:
		r.found(code, "%s has ended, at %s", whose, c.NotAfter.UTC().Format(time.RFC3339))
	case left < soon:
		r.found(code, "%s ends at %s, and should have a successor by now", whose, c.NotAfter.UTC().Format(time.RFC3339))
	}
}

const (
	rsaLeast   = 2048
	curveLeast = 256
)

func (r *Report) weak(whose string, c *x509.Certificate) {
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < rsaLeast {
			r.found(CertificateWeak, "%s has an RSA key of %d bits", whose, k.N.BitLen())
		}
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize < curveLeast {
			r.found(CertificateWeak, "%s has a key on %s", whose, k.Curve.Params().Name)
		}
	}
}

// certificatesIn are those of a file.
func (r *Report) certificatesIn(path, whose string) (all []*x509.Certificate) {
	if path == "" {
		return nil
	}
	data, err := readfile.Read(path, pemMost)
	if err != nil {
		r.unseen(true, whose+" "+path, readfile.Why(err).Error())
		return nil
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if c, err := x509.ParseCertificate(block.Bytes); err == nil {
			all = append(all, c)
		}
	}
	return all
}
