package authn_test

import (
	"bytes"
	"crypto/x509"
	"net"
	"strings"
	"testing"
	"text/template"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/devcerts"
	"github.com/tokenbroker/tokenbroker/internal/installed"
)

// anEnvoy is a proxy that asks its clients for certificates, shows its own to what is behind it, and says whom it calls for.
var anEnvoy = template.Must(template.New("").Parse(`
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - name: in
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            alpn_protocols: [h2]
            tls_certificates: [{certificate_chain: {filename: {{.Dir}}/{{.Name}}.pem}, private_key: {filename: {{.Dir}}/{{.Name}}.key}}]
            validation_context: {trusted_ca: {filename: {{.Dir}}/ca.pem}}
      filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          forward_client_cert_details: {{.Details}}
          set_current_client_cert_details: {uri: true, subject: true, cert: true, dns: true}
          http_filters: [{name: envoy.filters.http.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: "/"}, route: {cluster: broker, timeout: 0s}}]}]}
  clusters:
  - name: broker
    connect_timeout: 5s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: broker, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{.Port}} } } } }]}]}
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: localhost
        common_tls_context:
          tls_certificates: [{certificate_chain: {filename: {{.Dir}}/{{.Name}}.pem}, private_key: {filename: {{.Dir}}/{{.Name}}.key}}]
          validation_context: {trusted_ca: {filename: {{.Dir}}/{{.Behind}}}}
`))

// envoy starts one before an address, as the workload of a SPIFFE ID, and returns where it listens.
func (r *rig) envoy(id, details, behind, ca string) (addr string) {
	r.t.Helper()
	name := "envoy-" + id[strings.LastIndexByte(id, '/')+1:]
	pair := r.svid(id, devcerts.Loopback, func(c *x509.Certificate) {
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	})
	r.write(name+".pem", pair.Certificate)
	r.write(name+".key", pair.Key)
	_, port, err := net.SplitHostPort(behind)
	if err != nil {
		r.t.Fatal(err)
	}
	var config bytes.Buffer
	if err := anEnvoy.Execute(&config, map[string]string{"Dir": r.dir, "Name": name, "Details": details, "Port": port, "Behind": ca}); err != nil {
		r.t.Fatal(err)
	}
	return installed.Envoy(r.t, r.write(name+".yaml", config.Bytes()))
}

// TestARealEnvoyCallsForOthers: whoever comes by way of it is who its TLS says, whatever headers they send; by way of two, whom the first one says.
func TestARealEnvoyCallsForOthers(t *testing.T) {
	r := newRig(t)
	alone := r.envoy(gateway, "SANITIZE_SET", r.addr["services"], "serving.pem")
	second := r.envoy(inner, "APPEND_FORWARD", r.addr["services"], "serving.pem")
	first := r.envoy("spiffe://corp.example/mesh/spare", "SANITIZE_SET", second, "ca.pem")
	lie := "By=" + gateway + ";URI=spiffe://corp.example/ns/web/sa/admin"
	for _, c := range []struct {
		name, at, as string
		headers      []string
		want         string // who is let in; empty: nobody
	}{
		{"one", alone, web, nil, "via:mesh/" + web},
		{"one, with a header", alone, web, []string{lie}, "via:mesh/" + web},
		{"one, with two", alone, web, []string{lie, lie}, "via:mesh/" + web},
		{"whom it may not forward", alone, "spiffe://corp.example/ns/bank/sa/shop", []string{lie}, ""},
		{"two", first, web, nil, "via:chain/" + web},
		{"two, with a header", first, web, []string{lie}, "via:chain/" + web},
		{"past the first", second, web, []string{lie}, "via:chain/" + web},
		{"past the first, with a chain of their own", second, web, []string{"By=" + gateway + ";URI=spiffe://corp.example/ns/web/sa/admin,By=" + web + ";URI=" + gateway}, "via:chain/" + web},
		{"past the first, who may not be forwarded", second, "spiffe://corp.example/ns/bank/sa/shop", []string{"By=spiffe://corp.example/ns/bank/sa/shop;URI=" + web}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			pair := r.svid(c.as)
			config := r.config(&pair)
			config.RootCAs = x509.NewCertPool()
			config.RootCAs.AppendCertsFromPEM(r.ca.PEM())
			conn := must[*grpc.ClientConn](t)(grpc.NewClient("passthrough:///"+c.at, grpc.WithTransportCredentials(credentials.NewTLS(config.Clone()))))
			defer conn.Close()
			got := r.asked(func() error {
				_, err := tokenbrokerv1.NewTokenBrokerServiceClient(conn).GetToken(forwarded(t.Context(), c.headers...), &tokenbrokerv1.GetTokenRequest{Credential: "main"}, grpc.WaitForReady(true))
				if want := (map[bool]codes.Code{true: codes.OK, false: codes.Unauthenticated})[c.want != ""]; status.Code(err) != want {
					t.Errorf("got %v, want %s", err, want)
				}
				return err
			})
			if got.String() != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
