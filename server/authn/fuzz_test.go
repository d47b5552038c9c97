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
