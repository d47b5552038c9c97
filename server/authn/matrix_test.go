package authn_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	procv3 "github.com/envoyproxy/go-control-plane/envoy/service/ext_proc/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/devcerts"
	"github.com/tokenbroker/tokenbroker/server"
	"github.com/tokenbroker/tokenbroker/server/authn"
	"github.com/tokenbroker/tokenbroker/server/mesh"
)

// requests has a request for each RPC that passes the contract's limits.
var requests = map[string]proto.Message{
	"/tokenbroker.v1.TokenBrokerService/GetToken":           &tokenbrokerv1.GetTokenRequest{Credential: "main"},
	"/tokenbroker.v1.TokenBrokerService/Invalidate":         &tokenbrokerv1.InvalidateRequest{Credential: "main", Target: &tokenbrokerv1.InvalidateRequest_TokenId{TokenId: "made-up"}},
	"/tokenbroker.v1.TokenBrokerService/WatchToken":         &tokenbrokerv1.WatchTokenRequest{Credential: "main"},
	"/tokenbroker.v1.CredentialService/CreateCredential":    &tokenbrokerv1.CreateCredentialRequest{Credential: &tokenbrokerv1.Credential{Name: "other", Provider: "stub"}, ValidateOnly: true},
	"/tokenbroker.v1.CredentialService/GetCredential":       &tokenbrokerv1.GetCredentialRequest{Name: "main"},
	"/tokenbroker.v1.CredentialService/ListCredentials":     &tokenbrokerv1.ListCredentialsRequest{},
	"/tokenbroker.v1.CredentialService/UpdateCredential":    &tokenbrokerv1.UpdateCredentialRequest{Credential: &tokenbrokerv1.Credential{Name: "main", Labels: map[string]string{"a": "b"}}},
	"/tokenbroker.v1.CredentialService/DeleteCredential":    &tokenbrokerv1.DeleteCredentialRequest{Name: "nobody"},
	"/tokenbroker.v1.CredentialService/RotateSecret":        &tokenbrokerv1.RotateSecretRequest{Name: "main", Secrets: map[string]string{"a": "b"}},
	"/tokenbroker.v1.CredentialService/RetireSecret":        &tokenbrokerv1.RetireSecretRequest{Name: "main"},
	"/tokenbroker.v1.CredentialService/TestCredential":      &tokenbrokerv1.TestCredentialRequest{Name: "main"},
	"/tokenbroker.v1.CredentialService/AcceptCredential":    &tokenbrokerv1.AcceptCredentialRequest{Name: "main"},
	"/tokenbroker.v1.CredentialService/GetCredentialStatus": &tokenbrokerv1.GetCredentialStatusRequest{Name: "main"},
	"/tokenbroker.v1.ProviderService/ListProviders":         &tokenbrokerv1.ListProvidersRequest{},
	"/tokenbroker.v1.ProviderService/GetProvider":           &tokenbrokerv1.GetProviderRequest{Name: "stub"},
	"/tokenbroker.v1.ProviderService/ExplainProvider":       &tokenbrokerv1.ExplainProviderRequest{Name: "stub"},
	"/envoy.service.auth.v3.Authorization/Check":            &authv3.CheckRequest{Attributes: &authv3.AttributeContext{ContextExtensions: map[string]string{"credential": "main", "caller": "envoy"}}},
	"/envoy.service.ext_proc.v3.ExternalProcessor/Process": &procv3.ProcessingRequest{
		Request:         &procv3.ProcessingRequest_RequestHeaders{RequestHeaders: &procv3.HttpHeaders{}},
		MetadataContext: &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{mesh.Namespace: {Fields: map[string]*structpb.Value{"credential": structpb.NewStringValue("main"), "caller": structpb.NewStringValue("envoy")}}}},
	},
	"/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets": &discoveryv3.DiscoveryRequest{ResourceNames: []string{"main?header=X-Main"}},
	"/grpc.health.v1.Health/Check":                                  &healthv1.HealthCheckRequest{},
	"/grpc.health.v1.Health/List":                                   &healthv1.HealthListRequest{},
	"/grpc.health.v1.Health/Watch":                                  &healthv1.HealthCheckRequest{},
	"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo":     &reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{ListServices: ""}},
}

// A method is an RPC.
type method struct {
	full string
	desc protoreflect.MethodDescriptor
}

// methods are all that a broker has, by the descriptors: a new one without a request fails.
func methods(t *testing.T) (all []method) {
	t.Helper()
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if !slices.Contains([]protoreflect.FullName{"tokenbroker.v1", "grpc.health.v1", "grpc.reflection.v1", "envoy.service.auth.v3", "envoy.service.ext_proc.v3", "envoy.service.secret.v3"}, f.Package()) {
			return true
		}
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			for j := range s.Methods().Len() {
				m := s.Methods().Get(j)
				full := fmt.Sprintf("/%s/%s", s.FullName(), m.Name())
				if slices.Contains([]protoreflect.Name{"DeltaSecrets", "FetchSecrets"}, m.Name()) {
					continue // which the broker has not
				}
				if requests[full] == nil {
					t.Errorf("%s has no row", full)
					continue
				}
				all = append(all, method{full, m})
			}
		}
		return true
	})
	if len(all) != len(requests) {
		t.Errorf("there are %d RPCs, and %d rows", len(all), len(requests))
	}
	return all
}

// call makes the call, and gives its code; of a stream, that of its first answer.
func (m method) call(ctx context.Context, conn *grpc.ClientConn) codes.Code {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out := dynamicpb.NewMessage(m.desc.Output())
	if !m.desc.IsStreamingServer() {
		return m.code(out, conn.Invoke(ctx, m.full, requests[m.full], out))
	}
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: m.desc.IsStreamingClient()}, m.full)
	if err == nil {
		err = s.SendMsg(requests[m.full])
	}
	if err == nil && !m.desc.IsStreamingClient() {
		err = s.CloseSend()
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = s.RecvMsg(out)
	}
	if err == nil && strings.HasSuffix(m.full, "/StreamSecrets") { // who may not have a secret gets an empty one, and is told
		err = s.RecvMsg(out)
	}
	return m.code(out, err)
}

// code is that of an answer. What an Envoy is told is never a call that has failed: the answer says it.
func (m method) code(out proto.Message, err error) codes.Code {
	if err != nil || !strings.HasPrefix(m.full, "/envoy.") {
		return status.Code(err)
	}
	said := prototext.Format(out)
	for k := broker.Kind(0); k < 100; k++ {
		if code, reason := server.Outcome(k); reason != "" && strings.Contains(said, reason) {
			return code
		}
	}
	return codes.OK
}

// wants makes the call, of which a code is wanted as far as it depends on who makes it: OK stands for whatever is neither refused nor denied.
func (m method) wants(ctx context.Context, t *testing.T, conn *grpc.ClientConn, door string, want codes.Code) {
	t.Helper()
	got := m.call(ctx, conn)
	tokens := strings.HasPrefix(m.full, "/tokenbroker.v1.TokenBrokerService/") || strings.HasPrefix(m.full, "/grpc.health.") || strings.HasPrefix(m.full, "/envoy.")
	switch {
	case want == codes.Unavailable:
	case door == "services" && !tokens:
		want = codes.Unimplemented
	case strings.HasPrefix(m.full, "/grpc.health."), want == codes.PermissionDenied && strings.HasPrefix(m.full, "/grpc."):
		want = codes.OK
	}
	passes := !slices.Contains([]codes.Code{codes.Unavailable, codes.PermissionDenied, codes.Unauthenticated, codes.Unimplemented}, got)
	if want == codes.OK && !passes || want != codes.OK && got != want {
		t.Errorf("%s: got %s, want %s", m.full, got, want)
	}
}

const cart = "spiffe://corp.example/ns/shop/sa/cart"

// TestWhoIsLetIn: every RPC of both doors, for every kind of certificate, on real sockets.
func TestWhoIsLetIn(t *testing.T) {
	r := newRigOf(t, withLists)
	other := must[*devcerts.Authority](t)(devcerts.NewAuthority("other", trustDomain, time.Hour)) // it says that it is of this domain, too
	self := must[*devcerts.Authority](t)(devcerts.NewAuthority("self", "", time.Hour))
	federated := must[*devcerts.Authority](t)(devcerts.NewAuthority("federated", "partner.example", time.Hour))
	pair := func(p devcerts.Pair) *tls.Config { return r.config(&p) }
	revoked := r.svid(cart)
	changed := []<-chan struct{}{r.auth["services"].Changes(), r.auth["operators"].Changes()}
	r.write(revocations, r.revoke(r.ca, revoked))
	for _, c := range changed {
		within(t, c, "the list is not read again")
	}
	kinds := []struct {
		name   string
		config *tls.Config
		may    func(broker.Access) bool
		// want of a call: OK stands for whatever is neither refused nor denied.
		want codes.Code
	}{
		{"allowed", pair(r.svid(cart)), func(broker.Access) bool { return true }, codes.OK},
		{"denied by policy", pair(r.svid(cart)), func(broker.Access) bool { return false }, codes.PermissionDenied},
		{"no certificate", r.config(nil), nil, codes.Unavailable},
		{"expired", pair(r.svid(cart, func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Second)
		})), nil, codes.Unavailable},
		{"not yet valid", pair(r.svid(cart, func(c *x509.Certificate) {
			c.NotBefore = time.Now().Add(time.Hour)
			c.NotAfter = time.Now().Add(2 * time.Hour)
		})), nil, codes.Unavailable},
		{"revoked", pair(revoked), nil, codes.Unavailable},
		{"of another authority", pair(issue(t, other, time.Hour, uris(cart))), nil, codes.Unavailable},
		{"of a stranger", pair(issue(t, self, time.Hour, uris(cart))), nil, codes.Unavailable},
		{"of another trust domain by its own authority", pair(issue(t, federated, time.Hour, uris("spiffe://partner.example/ns/shop/sa/cart"))), nil, codes.Unavailable},
		{"of another trust domain by this authority", pair(r.svid("spiffe://partner.example/ns/shop/sa/cart")), nil, codes.Unavailable},
		{"for servers only", pair(r.svid(cart, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })), nil, codes.Unavailable},
		{"an authority itself", pair(r.svid(cart, func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage |= x509.KeyUsageCertSign })), nil, codes.Unavailable},
		{"two SPIFFE IDs", pair(r.svid(cart, uris("spiffe://corp.example/ns/shop/sa/admin"))), nil, codes.Unavailable},
		{"no SPIFFE ID", pair(issue(t, r.ca, time.Hour, func(c *x509.Certificate) { c.DNSNames = []string{"cart.corp.example"} })), nil, codes.Unavailable},
		{"only a common name", pair(issue(t, r.ca, time.Hour, func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: cart} })), nil, codes.Unavailable},
		{"no workload", pair(r.svid("spiffe://corp.example")), nil, codes.Unavailable},
		{"a trust domain in capitals", pair(r.svid("spiffe://CORP.example/ns/shop/sa/cart")), nil, codes.Unavailable},
		{"a path that is encoded", pair(r.svid("spiffe://corp.example/ns/shop%2Fsa/cart")), nil, codes.Unavailable},
		{"a path with dots", pair(r.svid("spiffe://corp.example/ns/../sa/cart")), nil, codes.Unavailable},
		{"a path that ends with a slash", pair(r.svid(cart + "/")), nil, codes.Unavailable},
		{"an empty segment", pair(r.svid("spiffe://corp.example/ns//cart")), nil, codes.Unavailable},
		{"a port", pair(r.svid("spiffe://corp.example:443/ns/shop/sa/cart")), nil, codes.Unavailable},
		{"user info", pair(r.svid("spiffe://u@corp.example/ns/shop/sa/cart")), nil, codes.Unavailable},
		{"a query", pair(r.svid(cart + "?a=b")), nil, codes.Unavailable},
		{"a scheme in capitals", pair(r.svid("SPIFFE://corp.example/ns/shop/sa/cart", written("SPIFFE://corp.example/ns/shop/sa/cart"))), nil, codes.Unavailable},
		{"an empty fragment", pair(r.svid(cart, written(cart+"#"))), nil, codes.Unavailable},
		{"another scheme", pair(r.svid("https://corp.example/ns/shop/sa/cart")), nil, codes.Unavailable},
	}
	all := methods(t)
	for _, k := range kinds {
		for _, door := range []string{"services", "operators"} {
			t.Run(k.name+"/"+door, func(t *testing.T) {
				if k.may != nil {
					r.rules.set(k.may)
				} else {
					r.rules.set(func(broker.Access) bool { return true }) // who they are alone decides
				}
				conn := r.dial(door, k.config)
				for _, m := range all {
					m.wants(t.Context(), t, conn, door, k.want)
				}
			})
		}
	}
}

// written gives a certificate a URI as its only name, byte for byte.
func written(uri string) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		value, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(uri)}})
		if err != nil {
			panic(err)
		}
		c.URIs = nil
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}}
	}
}

// TestOtherNamesThanSPIFFE: DNS names, URIs and common names are believed of the authority whose they are, exactly one of a certificate.
func TestOtherNamesThanSPIFFE(t *testing.T) {
	company := must[*devcerts.Authority](t)(devcerts.NewAuthority("company", "", time.Hour))
	legacy := must[*devcerts.Authority](t)(devcerts.NewAuthority("legacy", "", time.Hour))
	dir := t.TempDir()
	file := func(name string, a *devcerts.Authority) string { return writeTo(t, dir, name, a.PEM()) }
	r := newRig(t,
		authn.Trust{Name: "company", CAFile: file("company.pem", company), Kind: broker.DNS, Names: []string{"*.svc.company.example"}},
		authn.Trust{Name: "legacy", CAFile: file("legacy.pem", legacy), Kind: broker.CommonName, Names: []string{"batch *"}},
	)
	for _, c := range []struct {
		pair devcerts.Pair
		want string
	}{
		{issue(t, company, time.Hour, func(c *x509.Certificate) { c.DNSNames = []string{"Cart.SVC.company.example", "elsewhere.example"} }), "dns:company/cart.svc.company.example"},
		{issue(t, company, time.Hour, func(c *x509.Certificate) { c.DNSNames = []string{"a.svc.company.example", "b.svc.company.example"} }), ""},
		{issue(t, company, time.Hour, func(c *x509.Certificate) { c.DNSNames = []string{"*.svc.company.example"} }), ""},
		{issue(t, company, time.Hour, func(c *x509.Certificate) { c.DNSNames = []string{"a.b.svc.company.example"} }), ""},
		{issue(t, company, time.Hour, func(c *x509.Certificate) { c.DNSNames = []string{"svc.company.example"} }), ""},
		{issue(t, company, time.Hour, func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "cart.svc.company.example"} }), ""},
		{issue(t, company, time.Hour, uris(cart)), ""},
		{issue(t, legacy, time.Hour, func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "batch 7"} }), "cn:legacy/batch 7"},
		{issue(t, legacy, time.Hour, func(c *x509.Certificate) { c.Subject = pkix.Name{CommonName: "batch \x00"} }), ""},
		{issue(t, legacy, time.Hour, func(c *x509.Certificate) {
			c.Subject = pkix.Name{CommonName: "batch 7", ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "batch 8"}, {Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "batch 7"}}}
		}), ""},
		{issue(t, legacy, time.Hour, func(c *x509.Certificate) { c.DNSNames = []string{"cart.svc.company.example"} }), ""},
		{r.svid(cart, func(c *x509.Certificate) { c.DNSNames = []string{"cart.svc.company.example"} }), cart},
	} {
		got := ""
		r.rules.set(func(a broker.Access) bool { got = a.Caller.Identity; return true })
		_, err := tokenbrokerv1.NewTokenBrokerServiceClient(r.dial("services", r.config(&c.pair))).GetToken(t.Context(), &tokenbrokerv1.GetTokenRequest{Credential: "main"})
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("got %q, %v, want %q", got, err, c.want)
		}
	}
}
