package authn

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"
)

// A counted is a curve that counts how often a key on it is used.
type counted struct {
	elliptic.Curve
	used *int
}

func (c counted) Params() *elliptic.CurveParams {
	*c.used++
	return c.Curve.Params()
}

// watched gives a trust these roots, and tells how often a signature is held against one of their keys.
func watched(t *testing.T, a authority, roots ...*signer) (authority, func() int) {
	t.Helper()
	used, each := 0, 0
	a.roots, a.certificates = x509.NewCertPool(), nil
	for _, r := range roots {
		c := *r.Certificate
		key, ok := c.PublicKey.(*ecdsa.PublicKey)
		if !ok {
			t.Fatalf("a key of the type %T", c.PublicKey)
		}
		c.PublicKey = &ecdsa.PublicKey{Curve: counted{key.Curve, &used}, X: key.X, Y: key.Y} //nolint:staticcheck // no other way has a curve of one's own
		used = 0
		if err := r.CheckSignatureFrom(&c); err != nil {
			t.Fatal(err)
		}
		each, used = used, 0
		a.certificates = append(a.certificates, &c)
		a.roots.AddCert(&c)
	}
	return a, func() int { return used / each }
}

// TestWhoseKeysAreTried: those of trusts whose names a certificate has, and of no others, whatever their authorities are called.
func TestWhoseKeysAreTried(t *testing.T) {
	p256 := elliptic.P256()
	root := sign(t, p256, caNamed("root"), nil)
	var same []*signer // a partner's, of our authority's name
	for range namesakesMost - 1 {
		same = append(same, sign(t, p256, caNamed("root"), nil))
	}
	all := append(append([]*signer{}, same...), root)
	made := func(template x509.Certificate) (shown []*signer) { // whatever a stranger has made, of the root's name
		shown = append(shown, sign(t, p256, template, sign(t, p256, caNamed("root"), nil)))
		for range certificatesMost - 1 {
			shown = append(shown, sign(t, p256, caNamed("root"), nil))
		}
		return shown
	}
	two := workload(t, "/shop")
	two.URIs = append(two.URIs, workload(t, "/cart").URIs...)
	partnerTrust, err := newAuthority(Trust{Name: "partner", CAFile: "ca.pem", TrustDomain: "partner.example"})
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name                     string
		shown                    []*signer
		ours, machines, partners int // the most
		in                       bool
	}{
		{"a caller of ours", []*signer{sign(t, p256, workload(t, "/shop"), root)}, 2 * namesakesMost, 0, 0, true},
		{"a stranger who says so", made(workload(t, "/shop")), certificatesMost * namesakesMost, 0, 0, false},
		{"a stranger of another name", made(hostNamed("shop.svc.example")), 0, certificatesMost * namesakesMost, 0, false},
		{"a stranger of no name", made(hostNamed("shop.example")), 0, 0, 0, false},
		{"a stranger of two SPIFFE IDs", made(two), 0, 0, 0, false},
	} {
		corp, ours := watched(t, believing(t), all...)
		machines, named := watched(t, trusting(t, "machines", "*.svc.example"), all...)
		partner, partners := watched(t, partnerTrust, same...)
		_, err := identify(shownOf(x.shown...), []authority{partner, corp, machines}, time.Now())
		if (err == nil) != x.in || ours() > x.ours || named() > x.machines || partners() > x.partners {
			t.Errorf("%s: ours were tried %d times, those of machines %d, the partner's %d; want %d, %d, %d at most, let in: %t; got %v", x.name, ours(), named(), partners(), x.ours, x.machines, x.partners, x.in, err)
		}
		if x.ours > 0 && ours() == 0 || x.machines > 0 && named() == 0 {
			t.Errorf("%s: nothing was counted", x.name)
		}
	}
}

// TestAuthoritiesThatCostTooMuch to try.
func TestAuthoritiesThatCostTooMuch(t *testing.T) {
	named := func(n int, of string) (all []*x509.Certificate) {
		for range n {
			all = append(all, &x509.Certificate{RawSubject: []byte(of), Subject: pkix.Name{CommonName: of}})
		}
		return all
	}
	key := func(bits uint) []*x509.Certificate {
		return []*x509.Certificate{{PublicKey: &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), bits-1), E: 65537}}}
	}
	for _, x := range []struct {
		name string
		all  []*x509.Certificate
		want string
	}{
		{"as many of a name as may be", append(named(namesakesMost, "root"), named(namesakesMost, "other")...), ""},
		{"one more", append(named(1, "other"), named(namesakesMost+1, "root")...), `ca.pem has more than 16 authorities of the name "CN=root"`},
		{"a large key", key(rsaMost), ""},
		{"a larger one", key(rsaMost + 1), "an RSA key of 8193 bits"},
	} {
		if err := bearable("ca.pem", x.all); (err == nil) != (x.want == "") || err != nil && !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: got %v, want %q", x.name, err, x.want)
		}
	}
}
