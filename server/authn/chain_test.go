package authn

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// A signer is an authority, of any curve.
type signer struct {
	*x509.Certificate
	key crypto.Signer
}

var serials int64

// sign signs what a template says for a key of its own; by nil: by itself.
func sign(t *testing.T, curve elliptic.Curve, template x509.Certificate, by *signer) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return signFor(t, key, template, by)
}

func signFor(t *testing.T, key crypto.Signer, template x509.Certificate, by *signer) *signer {
	t.Helper()
	serials++
	template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(serials), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if by == nil {
		by = &signer{&template, key}
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, by.Certificate, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &signer{cert, key}
}

func caNamed(name string, also ...string) x509.Certificate {
	return x509.Certificate{Subject: pkix.Name{CommonName: name}, DNSNames: also, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
}

func workload(t *testing.T, path string) x509.Certificate {
	t.Helper()
	id, err := spiffeid.FromString("spiffe://corp.example" + path)
	if err != nil {
		t.Fatal(err)
	}
	return x509.Certificate{URIs: []*url.URL{id.URL()}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
}

// believing is an authority with these roots.
func believing(t *testing.T, roots ...*signer) authority {
	t.Helper()
	a, err := newAuthority(Trust{Name: "corp", CAFile: "ca.pem", TrustDomain: "corp.example"})
	if err != nil {
		t.Fatal(err)
	}
	a.roots = x509.NewCertPool()
	for _, r := range roots {
		a.certificates = append(a.certificates, r.Certificate)
		a.roots.AddCert(r.Certificate)
	}
	return a
}

// believers are the trusts of a listener.
func believers(by ...authority) *material {
	m := &material{trust: by}
	withFallen(m.trust, time.Now())
	m.digest, m.authorities = m.sums()
	return m
}

// stands is who was let in as of some trusts.
func stands(id identity, as *material) *atomic.Pointer[standing] {
	var of atomic.Pointer[standing]
	of.Store(&standing{id, as.authorities})
	return &of
}

func shownOf(all ...*signer) (out []*x509.Certificate) {
	for _, s := range all {
		out = append(out, s.Certificate)
	}
	return out
}

// TestOnlyTheChainIsLookedAt: who shows certificates that may stand above each other in any order has none of them verified, and who has a certificate of the authority has nothing
// verified beside what leads there.
func TestOnlyTheChainIsLookedAt(t *testing.T) {
	p256 := elliptic.P256()
	root := sign(t, p256, caNamed("root"), nil)
	between := sign(t, p256, caNamed("between"), root)
	below := sign(t, p256, caNamed("below"), between)
	direct, deep := sign(t, p256, workload(t, "/direct"), root), sign(t, p256, workload(t, "/deep"), below)
	above := sign(t, p256, caNamed("root"), root)
	namesake := sign(t, p256, caNamed("root"), above)
	nested := sign(t, p256, workload(t, "/nested"), namesake)
	junk := func(name string) (all []*signer) { // of one name and key, which differ in nothing that counts
		key, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			all = append(all, signFor(t, key, caNamed(name, fmt.Sprint(i)), nil))
		}
		return all
	}
	a := believing(t, root)
	for _, x := range []struct {
		name  string
		shown []*signer
		want  []*signer // nil: nobody vouches for it
	}{
		{"a certificate of the root's", []*signer{direct}, []*signer{direct}},
		{"the root beside it", []*signer{direct, root}, []*signer{direct}},
		{"two between", []*signer{deep, below, between}, []*signer{deep, below, between}},
		{"the root with them", []*signer{deep, below, between, root}, []*signer{deep, below, between}},
		{"others among them", []*signer{deep, root, below, direct, between}, []*signer{deep, below, between}},
		{"in another order", []*signer{deep, between, below}, nil},
		{"all authorities have one name", []*signer{nested, namesake, above}, []*signer{nested, namesake, above}},
		{"one is missing", []*signer{deep, between}, nil},
		{"with those of another's own", append([]*signer{direct}, junk("root")...), []*signer{direct}},
		{"with those of another's own above", append([]*signer{deep, below, between}, junk("root")...), []*signer{deep, below, between}},
		{"hidden behind another's own", append(append([]*signer{deep}, junk("below")...), below, between), nil},
		{"a stranger's", append([]*signer{sign(t, p256, workload(t, "/deep"), junk("own")[0])}, junk("own")...), nil},
		{"a stranger's, by the root's name", append([]*signer{sign(t, p256, workload(t, "/deep"), junk("root")[0])}, junk("root")...), nil},
	} {
		id, err := identify(shownOf(x.shown...), []authority{a}, time.Now())
		switch {
		case x.want == nil:
			if !errors.Is(err, errUntrusted) || !errors.Is(err, errOtherRoot) {
				t.Errorf("%s: got %v", x.name, err)
			}
		case err != nil:
			t.Errorf("%s: %v", x.name, err)
		case len(id.chains) != 1 || fmt.Sprint(serialsOf(id.chains[0])) != fmt.Sprint(serialsOf(append(shownOf(x.want...), root.Certificate))):
			t.Errorf("%s: led to the root by %d ways, the first %v, want %v", x.name, len(id.chains), serialsOf(id.chains[0]), serialsOf(shownOf(x.want...)))
		}
	}
}

func serialsOf(all []*x509.Certificate) (out []string) {
	for _, c := range all {
		out = append(out, c.SerialNumber.String())
	}
	return out
}

// TestAnAuthorityThatAnotherHasSignedToo: a root is replaced, and the new one has signed the former one's key. Whoever shows that is believed as long as one of both is, also one that
// was let in by the other.
func TestAnAuthorityThatAnotherHasSignedToo(t *testing.T) {
	p256 := elliptic.P256()
	former, next := sign(t, p256, caNamed("former"), nil), sign(t, p256, caNamed("next"), nil)
	issuing := sign(t, p256, caNamed("issuing"), former)
	leaf := sign(t, p256, workload(t, "/shop"), issuing)
	crossed := signFor(t, former.key, caNamed("former"), next)
	short := signFor(t, former.key, func() x509.Certificate {
		c := caNamed("former")
		c.MaxPathLenZero = true
		return c
	}(), nil)
	shown := shownOf(leaf, issuing, crossed)
	both := believing(t, former, next)
	id, err := identify(shown, []authority{both}, time.Now())
	if err != nil || len(id.chains) != 2 {
		t.Fatalf("both: %d ways, %v", len(id.chains), err)
	}
	was := believers(both)
	for name, x := range map[string]struct {
		a    authority
		want bool
	}{
		"the former": {believing(t, former), true}, "the next": {believing(t, next), true}, "the one between": {believing(t, issuing), true},
		"the former may sign no authority, and the next": {believing(t, short, next), true}, "the former may sign no authority": {believing(t, short), false},
		"another": {believing(t, sign(t, p256, caNamed("another"), nil)), false},
	} {
		if _, err := identify(shown, []authority{x.a}, time.Now()); (err == nil) != x.want {
			t.Errorf("%s: got %v", name, err)
		}
		c := &Certificates{now: time.Now}
		c.is.Store(believers(x.a))
		if err := c.still(stands(id, was)); (err == nil) != x.want {
			t.Errorf("%s, let in before: got %v", name, err)
		}
	}
}

// TestAListIsHeldAgainstWhatWasVerified: where the authorities are who they were, only what the list says is asked, and when the certificate ends. Signatures that are broken meanwhile
// show that nobody looks at them.
func TestAListIsHeldAgainstWhatWasVerified(t *testing.T) {
	root := sign(t, elliptic.P256(), listing("root"), nil)
	leaf := sign(t, elliptic.P256(), workload(t, "/shop"), root)
	a := believing(t, root)
	id, err := identify(shownOf(leaf), []authority{a}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	was := believers(a)
	now := time.Now()
	c := &Certificates{now: func() time.Time { return now }}
	is := func(by ...authority) error {
		c.is.Store(believers(by...))
		return c.still(stands(id, was))
	}
	leaf.Signature[5] ^= 1
	if err := is(a); err != nil {
		t.Errorf("the same authorities: got %v", err)
	}
	listed := a
	listed.CRLFile = "lists.pem"
	if err := is(listed); !errors.Is(err, errUnknown) {
		t.Errorf("no list says anything: got %v", err)
	}
	for _, revoked := range []bool{false, true} {
		template := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.Add(-time.Minute), NextUpdate: now.Add(time.Hour)}
		if revoked {
			template.RevokedCertificateEntries = []x509.RevocationListEntry{{SerialNumber: leaf.SerialNumber, RevocationTime: now}}
		}
		der, err := x509.CreateRevocationList(rand.Reader, template, root.Certificate, root.key)
		if err != nil {
			t.Fatal(err)
		}
		if listed.lists, err = parseLists("corp", "lists.pem", der); err != nil {
			t.Fatal(err)
		}
		if err := is(listed); errors.Is(err, errRevoked) != revoked || (err != nil) != revoked {
			t.Errorf("revoked: %v: got %v", revoked, err)
		}
	}
	other := believing(t, root, sign(t, elliptic.P256(), caNamed("another"), nil))
	if err := is(other); !errors.Is(err, errUntrusted) {
		t.Errorf("with another authority it is verified again: got %v", err)
	}
	now = now.Add(2 * time.Hour)
	if err := is(a); err == nil {
		t.Error("it has ended")
	}
}

// TestWhoStaysIsFoundOnceForEachChange: an authority changes, those who are connected are verified again, and then not at the next change of a list. A signature that is broken meanwhile
// shows that nobody looks at it.
func TestWhoStaysIsFoundOnceForEachChange(t *testing.T) {
	root := sign(t, elliptic.P256(), caNamed("root"), nil)
	leaf := sign(t, elliptic.P256(), workload(t, "/shop"), root)
	a := believing(t, root)
	id, err := identify(shownOf(leaf), []authority{a}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	of := stands(id, believers(a))
	c := &Certificates{now: time.Now}
	more := believing(t, root, sign(t, elliptic.P256(), caNamed("another"), nil))
	for _, by := range []authority{a, more} {
		c.is.Store(believers(by))
		if err := c.still(of); err != nil {
			t.Fatal(err)
		}
	}
	leaf.Signature[5] ^= 1
	if err := c.still(of); err != nil {
		t.Errorf("the same authorities: got %v", err)
	}
	c.is.Store(believers(a))
	if err := c.still(of); !errors.Is(err, errUntrusted) {
		t.Errorf("other ones: got %v", err)
	}
}
