package authn

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/policy"
	"github.com/tokenbroker/tokenbroker/internal/devcerts"
)

// FuzzNames: whatever names a certificate has, it is of one caller or of none, whose name is plain, is what is believed, and cannot be taken for another's.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"spiffe://corp.example/ns/shop", "spiffe://corp.example/../x", "a.svc.example", "*.svc.example", "urn:a:b", "batch 7", "a/b", "%2e%2e", "\x00", "é", "a..b", "A.SVC.example"} {
		f.Add(s, s)
		f.Add(s, "b.svc.example")
	}
	domain := spiffeid.RequireTrustDomainFromString("corp.example")
	patterns := map[broker.CallerKind][]string{broker.DNS: {"*.svc.example"}, broker.URI: {"urn:a:**", "https://a.example/*"}, broker.CommonName: {"*"}}
	f.Fuzz(func(t *testing.T, one, two string) {
		leaf := &x509.Certificate{DNSNames: []string{one, two}, Subject: pkix.Name{CommonName: one}}
		leaf.Subject.Names = []pkix.AttributeTypeAndValue{{Type: oidCommonName, Value: one}}
		var san []asn1.RawValue
		for _, s := range []string{one, two} {
			if u, err := url.Parse(s); err == nil {
				leaf.URIs = append(leaf.URIs, u)
				san = append(san, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(s)})
			}
		}
		if value, err := asn1.Marshal(san); err == nil {
			leaf.Extensions = []pkix.Extension{{Id: oidSAN, Value: value}}
		}
		for kind, names := range patterns {
			believed, err := policy.ParseNames(kind, names)
			if err != nil {
				t.Fatal(err)
			}
			id, err := named(authority{Trust: Trust{Name: "t", Kind: kind}, names: believed}, leaf)
			if err != nil {
				continue
			}
			if id.kind != kind || id.authority != "t" || !believed.Match(id.name) || strings.ContainsFunc(id.name, func(r rune) bool { return r < ' ' || r > '~' || r == '%' }) {
				t.Errorf("got %+v of %q and %q", id, one, two)
			}
		}
		id, err := named(authority{Trust: Trust{Name: "t", TrustDomain: "corp.example"}, domain: domain}, leaf)
		if err == nil && (len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://corp.example/"+id.name || strings.Contains("/"+id.name+"/", "/../") || strings.Contains(id.name, "//")) {
			t.Errorf("got %+v of %q and %q", id, one, two)
		}
	})
}

// named is whom an authority takes a certificate for, whoever has signed it.
func named(a authority, leaf *x509.Certificate) (id identity, err error) {
	names, err := a.believed(leaf)
	if err == nil {
		err = a.name(&id, names)
	}
	return id, err
}

// FuzzLists: whatever is in a file of lists, those that count are whole, say when they end, and count as an authority's only as it has signed them.
func FuzzLists(f *testing.F) {
	ca, err := devcerts.NewAuthority("fuzz", "corp.example", time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	of := func(serials ...*big.Int) []byte {
		data, err := ca.Revoke(time.Hour, nil, serials...)
		if err != nil {
			f.Fatal(err)
		}
		return data
	}
	revoked := big.NewInt(77)
	with, without := of(revoked), of()
	der, _ := pem.Decode(with)
	for _, data := range [][]byte{with, without, append(bytes.Clone(without), with...), der.Bytes, der.Bytes[:40], []byte("-----BEGIN X509 CRL-----\n"), nil} {
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := parseLists("trust t", "file", data)
		if (err == nil) != (len(all) > 0) {
			t.Fatalf("%d lists, and %v", len(all), err)
		}
		for _, l := range all {
			if l.NextUpdate.IsZero() || slices.ContainsFunc(l.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidDeltaList) || e.Id.Equal(oidListOfPart) }) {
				t.Errorf("a list without an end, or of a part, counts: %+v", l.RevocationList)
			}
			_, there := l.serials[string(revoked.Bytes())]
			if signed := l.signed(ca.Certificate); signed && !bytes.Contains(der.Bytes, l.RawTBSRevocationList) && there {
				t.Error("a list revokes by a signature that was made for another")
			}
		}
	})
}

// FuzzForwarded: whatever a proxy sends, it calls for somebody whom it may forward, or for nobody; and what is read of an element can be written and read again.
func FuzzForwarded(f *testing.F) {
	const own = "spiffe://corp.example/mesh"
	for _, s := range []string{
		"By=" + own + ";URI=spiffe://corp.example/web/a", `By="` + own + `";Subject="CN=\"a,b\"";URI=spiffe://corp.example/web/a`, "By=" + own + ";URI=spiffe://corp.example/web/../bank", ",", "=", `By="`, `By="\`,
		"By=a;URI=spiffe://corp.example/web/a, By=" + own + ";URI=a", "URI=spiffe://corp.example/web/a;By=" + own + ";URI=x", "by=" + own + ";uri=spiffe://corp.example/web/a%2fb",
	} {
		f.Add(s, uint8(0))
		f.Add(s, uint8(2))
	}
	by := broker.NewCaller(broker.SPIFFE, "corp.example", "mesh", broker.ProofX509, "services")
	f.Fuzz(func(t *testing.T, header string, fronts uint8) {
		p, err := NewProxies("services", []Proxy{{Name: "mesh", Callers: []string{own}, Forwards: []string{"corp.example/web/**"}, Through: []string{"spiffe://corp.example/web/a", "spiffe://corp.example/front"}[:fronts%3]}})
		if err != nil {
			t.Fatal(err)
		}
		c, err := p.Forwarded(by, []string{header})
		if (c == nil) == (err == nil) {
			t.Fatalf("got %v, %v", c, err)
		}
		if c == nil {
			return
		}
		rest, ok := strings.CutPrefix(c.Identity, "via:mesh/spiffe://corp.example/web/")
		if id, err := spiffeid.FromString("spiffe://corp.example/web/" + rest); !ok || err != nil || id.String() != "spiffe://corp.example/"+c.Name || c.Authority != "corp.example" {
			t.Errorf("got %+v", c)
		}
		if again, err := p.Forwarded(by, []string{header}); again != c || err != nil {
			t.Errorf("it is another one the second time: %v, %v", again, err)
		}
	})
}
