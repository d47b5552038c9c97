package authn

import (
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// trusting is a trust of DNS names with these roots.
func trusting(t *testing.T, name, names string, roots ...*signer) authority {
	t.Helper()
	a, err := newAuthority(Trust{Name: name, CAFile: "ca.pem", Kind: broker.DNS, Names: []string{names}})
	if err != nil {
		t.Fatal(err)
	}
	b := believing(t, roots...)
	a.roots, a.certificates = b.roots, b.certificates
	return a
}

// listed is a trust with a list of an authority's that ends in so long.
func listed(t *testing.T, a authority, by *signer, ends time.Duration, revoked ...*signer) authority {
	t.Helper()
	now := time.Now()
	template := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: now.Add(-time.Hour), NextUpdate: now.Add(ends)}
	for _, r := range revoked {
		template.RevokedCertificateEntries = append(template.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: r.SerialNumber, RevocationTime: now})
	}
	der, err := x509.CreateRevocationList(rand.Reader, template, by.Certificate, by.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.lists, err = parseLists(a.Name, "lists", der); err != nil {
		t.Fatal(err)
	}
	a.CRLFile = "lists"
	return a
}

func hostNamed(names ...string) x509.Certificate {
	return x509.Certificate{DNSNames: names, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
}

func listing(name string) x509.Certificate {
	c := caNamed(name)
	c.KeyUsage |= x509.KeyUsageCRLSign
	return c
}

// TestWhatSpeaksAgainstACertificateIsNoOthersYes: a certificate that two trusts vouch for is refused, and stays so whatever one of both comes to say against it. Whoever was let in while
// there was one of them is told the same as whoever connects.
func TestWhatSpeaksAgainstACertificateIsNoOthersYes(t *testing.T) {
	p256 := elliptic.P256()
	root := sign(t, p256, listing("root"), nil)
	issuing := sign(t, p256, listing("issuing"), root)
	leaf := sign(t, p256, hostNamed("shop.corp.example"), issuing)
	two := sign(t, p256, hostNamed("shop.corp.example", "cart.corp.example"), issuing)
	forServers := hostNamed("shop.corp.example")
	forServers.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	server := sign(t, p256, forServers, issuing)
	noneBelow := listing("root")
	noneBelow.MaxPathLenZero = true
	short := signFor(t, root.key, noneBelow, nil)
	corp, batch := trusting(t, "corp", "*.corp.example", root), trusting(t, "batch", "*.corp.example", issuing)
	id, err := identify(shownOf(leaf, issuing), []authority{corp}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name string
		leaf *signer
		by   []authority
		want string // what the error says; empty: it is let in
	}{
		{"one vouches", leaf, []authority{corp}, ""},
		{"both do", leaf, []authority{corp, batch}, "more than one trust of this listener vouches for the certificate, corp and batch"},
		{"one has a list", leaf, []authority{corp, listed(t, batch, issuing, time.Hour)}, "more than one"},
		{"one has revoked it", leaf, []authority{corp, listed(t, batch, issuing, time.Hour, leaf)}, "more than one"},
		{"one has revoked it, and is asked first", leaf, []authority{listed(t, batch, issuing, time.Hour, leaf), corp}, "more than one"},
		{"one's list has ended", leaf, []authority{corp, listed(t, batch, issuing, -time.Minute)}, "more than one"},
		{"one has a list of another's", leaf, []authority{corp, listed(t, batch, root, time.Hour)}, "more than one"},
		{"one may not have signed that far", leaf, []authority{trusting(t, "corp", "*.corp.example", short), batch}, "more than one"},
		{"one finds two names", two, []authority{corp, trusting(t, "batch", "cart.corp.example", issuing)}, "more than one trust"},
		{"one finds two names, and there is no other", two, []authority{corp}, "more than one dns name"},
		{"it is for servers", server, []authority{corp}, "key usage"},
	} {
		_, err := identify(shownOf(x.leaf, issuing), x.by, time.Now())
		if (err == nil) != (x.want == "") || err != nil && !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: got %v, want %q", x.name, err, x.want)
		}
		if x.leaf != leaf {
			continue
		}
		c := &Certificates{now: time.Now}
		c.is.Store(believers(x.by...))
		if still := c.still(stands(id, believers(corp))); fmt.Sprint(still) != fmt.Sprint(err) {
			t.Errorf("%s: let in before: got %v, and now: %v", x.name, still, err)
		}
	}
}

// TestAListIsItsIssuersWord: what an authority takes back is let in by no trust, whichever has its list, and by whichever way it is shown. That a list ends is between the trust that has it
// and its own callers.
func TestAListIsItsIssuersWord(t *testing.T) {
	p256 := elliptic.P256()
	former, next := sign(t, p256, listing("former"), nil), sign(t, p256, listing("next"), nil)
	issuing := sign(t, p256, listing("issuing"), former)
	crossed := signFor(t, issuing.key, listing("issuing"), next)
	leaf, namesake := sign(t, p256, hostNamed("shop.corp.example"), issuing), sign(t, p256, listing("issuing"), nil)
	a, b := trusting(t, "former", "*.corp.example", former), trusting(t, "next", "*.corp.example", next)
	id, err := identify(shownOf(leaf, crossed), []authority{a, b}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name string
		a    authority
		want error
	}{
		{"nobody is revoked", listed(t, a, issuing, time.Hour), nil},
		{"it is", listed(t, a, issuing, time.Hour, leaf), errRevoked},
		{"another one is", listed(t, a, issuing, time.Hour, namesake), nil},
		{"it is, by a list that has ended", listed(t, a, issuing, -time.Minute, leaf), errRevoked},
		{"the list has ended", listed(t, a, issuing, -time.Minute), nil},
		{"a namesake has revoked it", listed(t, a, namesake, time.Hour, leaf), nil},
		{"it is, and the trust is for others", listed(t, trusting(t, "former", "*.elsewhere.example", former), issuing, time.Hour, leaf), errRevoked},
	} {
		is := believers(x.a, b)
		_, err := identify(shownOf(leaf, crossed), is.trust, time.Now())
		c := &Certificates{now: time.Now}
		c.is.Store(is)
		if still := c.still(stands(id, is)); !errors.Is(err, x.want) || !errors.Is(still, x.want) {
			t.Errorf("%s: got %v, let in before: %v, want %v", x.name, err, still, x.want)
		}
	}
}

// TestAnIssuerIsItsNameAndItsKey: what it takes back is taken back by whichever of its certificates a trust believes it, also by one that has it sign no lists. By such a one no list is there
// that counts.
func TestAnIssuerIsItsNameAndItsKey(t *testing.T) {
	p256 := elliptic.P256()
	root := sign(t, p256, listing("root"), nil)
	plain, renamed := signFor(t, root.key, caNamed("root"), nil), signFor(t, root.key, listing("renamed"), nil)
	leaf, other := sign(t, p256, hostNamed("shop.corp.example"), root), sign(t, p256, hostNamed("cart.corp.example"), root)
	issuing := sign(t, p256, listing("issuing"), root)
	below := sign(t, p256, hostNamed("shop.corp.example"), issuing)
	middle := sign(t, p256, listing("middle"), root)
	renewed, crossed := signFor(t, middle.key, listing("middle"), root), signFor(t, middle.key, listing("middle"), sign(t, p256, listing("another"), nil))
	namesake := sign(t, p256, listing("middle"), root)
	again := func(change func(*x509.Certificate)) *signer {
		template := listing("middle")
		change(&template)
		return signFor(t, middle.key, template, root)
	}
	unable := again(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign })
	short := again(func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true })
	over := again(func(*x509.Certificate) {})
	over.NotAfter = time.Now().Add(-time.Minute)
	self, last := signFor(t, middle.key, listing("middle"), nil), sign(t, p256, listing("last"), middle)
	deep := sign(t, p256, hostNamed("shop.corp.example"), last)
	of := func(all ...*signer) authority { return trusting(t, "corp", "*.corp.example", all...) }
	beside := func(all ...*signer) authority {
		return listed(t, trusting(t, "elsewhere", "*.elsewhere.example", all...), root, time.Hour, middle, namesake)
	}
	named := func(by *signer) authority { return trusting(t, "corp", "*.corp.example", by) }
	elsewhere := trusting(t, "elsewhere", "*.elsewhere.example", root)
	for _, x := range []struct {
		name  string
		shown []*signer
		by    []authority
		want  error
	}{
		{"another trust has the list", []*signer{leaf}, []authority{named(plain), listed(t, elsewhere, root, time.Hour, leaf)}, errRevoked},
		{"another trust has the list, of another one", []*signer{leaf}, []authority{named(plain), listed(t, elsewhere, root, time.Hour, other)}, nil},
		{"another trust has the list, by another name", []*signer{leaf}, []authority{named(plain), listed(t, elsewhere, renamed, time.Hour, leaf)}, nil},
		{"its own trust has the list", []*signer{leaf}, []authority{listed(t, named(plain), root, time.Hour, leaf)}, errRevoked},
		{"its own trust has a list of nobody", []*signer{leaf}, []authority{listed(t, named(plain), root, time.Hour)}, errUnknown},
		{"its own trust has a list of nobody, and may have it", []*signer{leaf}, []authority{listed(t, named(root), root, time.Hour)}, nil},
		{"the authority above one in a file is revoked", []*signer{deep}, []authority{of(last), beside(root, middle)}, errRevoked},
		{"it is, and is shown", []*signer{deep, last, middle}, []authority{of(last), beside(root, middle)}, errRevoked},
		{"it is, and all are in one file", []*signer{deep}, []authority{of(root, middle, last), beside(root)}, errRevoked},
		{"it is, and in no file", []*signer{deep}, []authority{of(last), beside(root)}, nil},
		{"it was renewed", []*signer{deep}, []authority{of(last), beside(root, middle, renewed)}, nil},
		{"another authority stands for it", []*signer{deep}, []authority{of(last), beside(root, middle, crossed)}, nil},
		{"another one stands beside it that has ended", []*signer{deep}, []authority{of(last), beside(root, middle, over)}, errRevoked},
		{"another one stands beside it that signs no certificates", []*signer{deep}, []authority{of(last), beside(root, middle, unable)}, errRevoked},
		{"another one stands beside it that may have none below", []*signer{deep}, []authority{of(last), beside(root, middle, short)}, errRevoked},
		{"a namesake is revoked", []*signer{deep}, []authority{of(last), beside(root, namesake, renewed)}, nil},
		{"it has signed itself", []*signer{deep}, []authority{of(last), beside(root, middle, self)}, nil},
		{"an authority in a file is revoked", []*signer{below}, []authority{named(issuing), listed(t, trusting(t, "elsewhere", "*.elsewhere.example", plain), root, time.Hour, issuing)}, errRevoked},
	} {
		before := make([]authority, len(x.by)) // without lists
		for i, a := range x.by {
			a.CRLFile, a.lists = "", nil
			before[i] = a
		}
		id, err := identify(shownOf(x.shown...), before, time.Now())
		if err != nil {
			t.Fatalf("%s: before: %v", x.name, err)
		}
		is := believers(x.by...)
		_, err = identify(shownOf(x.shown...), is.trust, time.Now())
		c := &Certificates{now: time.Now}
		c.is.Store(is)
		if still := c.still(stands(id, believers(before...))); !errors.Is(err, x.want) || !errors.Is(still, x.want) {
			t.Errorf("%s: got %v, let in before: %v, want %v", x.name, err, still, x.want)
		}
	}
}

// TestACertificateIsOfTheTrustsWhoseNamesItHas: two trusts of one authority tell its callers apart by their names. One that has names of both is nobody's.
func TestACertificateIsOfTheTrustsWhoseNamesItHas(t *testing.T) {
	p256 := elliptic.P256()
	root := sign(t, p256, caNamed("root"), nil)
	by := []authority{believing(t, root), trusting(t, "machines", "*.svc.example", root), trusting(t, "people", "*.ops.example", root)}
	both := workload(t, "/shop")
	both.DNSNames = []string{"shop.svc.example"}
	for want, template := range map[string]x509.Certificate{
		"corp.example/shop": workload(t, "/shop"), "machines/shop.svc.example": hostNamed("shop.svc.example", "shop.example"), "people/ann.ops.example": hostNamed("ann.ops.example"),
		"more than one trust of this listener vouches for the certificate, corp and machines":   both,
		"more than one trust of this listener vouches for the certificate, machines and people": hostNamed("shop.svc.example", "ann.ops.example"),
		"no trust of this listener vouches for the certificate":                                 hostNamed("shop.example"),
	} {
		id, err := identify(shownOf(sign(t, p256, template, root)), by, time.Now())
		if got := id.authority + "/" + id.name; err == nil && got != want || err != nil && !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
	}
}
