package product

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/internal/installed"
)

// TestTheContractAsJSON: an Envoy makes HTTP and JSON of the contract, for callers who prove who they are by their certificate. What they may have is what they may have by gRPC, and what they
// send of certificates and tokens says nothing.
func TestTheContractAsJSON(t *testing.T) {
	m := newMeshRig(t)
	m.officernd()
	in := func(name string) string { return filepath.Join(m.dir, name) }
	var described []byte // as docs/mesh.md says
	for _, symbol := range []string{"tokenbroker.v1.TokenBrokerService", "google.rpc.Status", "google.rpc.ErrorInfo"} {
		part := in(symbol + ".binpb")
		if out, err := exec.CommandContext(t.Context(), installed.Tool(t, "grpcurl"), "-plaintext", "-protoset-out", part, m.addr, "describe", symbol).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		data, err := os.ReadFile(part)
		if err != nil {
			t.Fatal(err)
		}
		described = append(described, data...)
	}
	m.write("tokenbroker.binpb", string(described))
	own := m.svid(gateway)
	m.write("envoy.pem", string(own.Certificate))
	m.write("envoy.key", string(own.Key))
	m.write("json.yaml", installed.EnvoyExample(t, "json.yaml", [][2]string{
		{"{address: tokenbroker.infra.internal, port_value: 7430}", installed.Socket(t, m.doors["services"])},
		{"{address: 0.0.0.0, port_value: 8443}", installed.Socket(t, "127.0.0.1:0")}, {"port_value: 9901", "port_value: 0"},
		{"/etc/envoy/svid.pem", in("envoy.pem")}, {"/etc/envoy/svid.key", in("envoy.key")}, {"/etc/envoy/ca.pem", in("corp.pem")}, {"/etc/envoy/tokenbroker.binpb", in("tokenbroker.binpb")},
	}...))
	at := "https://" + installed.Envoy(t, in("json.yaml")) + "/tokenbroker.v1.TokenBrokerService/"
	token := m.mustGet("officernd-main")
	for _, kind := range []string{"application/grpc", "application/grpc-web", "text/plain"} { // what is not JSON is not for here
		for _, method := range []string{at + "GetToken", strings.Replace(at, "tokenbroker.v1.TokenBrokerService/", "envoy.service.auth.v3.Authorization/Check", 1)} {
			got := m.ask(m.as(shop), http.MethodPost, method, "\x00\x00\x00\x00\x00", "Content-Type", kind)
			if unimplemented := got.header.Get("Grpc-Status") == "12" && got.body == ""; got.status != http.StatusNotFound && !unimplemented { // as Envoy says the same to gRPC
				t.Errorf("%s, %s: got %d %v %s", method, kind, got.status, got.header, got.body)
			}
		}
	}
	for _, c := range []struct {
		what, as, method, body string
		headers                []string
		status                 int
		reason                 string
	}{
		{"a token", shop, "GetToken", `{"credential": "officernd-main"}`, nil, 200, ""},
		{"in camel case", shop, "GetToken", `{"credential": "officernd-main", "minTtl": "60s"}`, nil, 200, ""},
		{"by a header of their own", shop, "GetToken", `{"credential": "officernd-main"}`, []string{"X-Forwarded-Client-Cert", "By=" + gateway + ";URI=spiffe://corp.example/ns/bank/sa/teller", "Authorization", "Bearer nonsense"}, 200, ""},
		{"whom no rule allows", "spiffe://corp.example/ns/bank/sa/teller", "GetToken", `{"credential": "officernd-main"}`, []string{"X-Forwarded-Client-Cert", "By=" + gateway + ";URI=" + shop}, 403, "CALLER_NOT_ALLOWED"},
		{"whom the proxy may not forward", "spiffe://corp.example/mesh/other", "GetToken", `{"credential": "officernd-main"}`, nil, 401, "CALLER_UNAUTHENTICATED"},
		{"a word that is none", shop, "GetToken", `{"credentials": "officernd-main"}`, nil, 400, "REQUEST_INVALID"},
		{"too much", shop, "GetToken", `{"credential": "officernd-main", "minTtl": "999999s"}`, nil, 400, "REQUEST_INVALID"},
		{"what nobody has to see", shop, "Nothing", `{}`, nil, 404, ""},
		{"an id that is none", shop, "Invalidate", `{"credential": "officernd-main", "token_id": "none"}`, nil, 200, ""},
	} {
		got := m.ask(m.as(c.as), http.MethodPost, at+c.method, c.body, append(c.headers, "Content-Type", "application/json")...)
		var said struct {
			Token struct {
				AccessToken string `json:"access_token"`
			} `json:"token"`
			Message string
			Details []struct{ Reason string }
		}
		_ = json.Unmarshal([]byte(got.body), &said) // what is no JSON says nothing
		reason := ""
		if len(said.Details) > 0 && said.Message != "" {
			reason = said.Details[0].Reason
		}
		if got.status != c.status || reason != c.reason || (c.status == 200 && c.method == "GetToken") != (said.Token.AccessToken == token.GetAccessToken()) {
			t.Errorf("%s: got %d %s", c.what, got.status, got.body)
		}
	}
}
