package authn

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"net/url"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/policy"
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
			id, err := authority{Trust: Trust{Name: "t", Kind: kind}, names: believed}.named(leaf, identity{})
			if err != nil {
				continue
			}
			if id.kind != kind || id.authority != "t" || !believed.Match(id.name) || strings.ContainsFunc(id.name, func(r rune) bool { return r < ' ' || r > '~' || r == '%' }) {
				t.Errorf("got %+v of %q and %q", id, one, two)
			}
		}
		id, err := authority{Trust: Trust{Name: "t", TrustDomain: "corp.example"}, domain: domain}.spiffe(leaf, identity{})
		if err == nil && (len(leaf.URIs) != 1 || leaf.URIs[0].String() != "spiffe://corp.example/"+id.name || strings.Contains("/"+id.name+"/", "/../") || strings.Contains(id.name, "//")) {
			t.Errorf("got %+v of %q and %q", id, one, two)
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
