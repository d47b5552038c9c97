package server_test

import (
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// TestABrokerThatCanStoreNothingServesTokensStill: health says it of the service that changes credentials, and of no other.
func TestABrokerThatCanStoreNothingServesTokensStill(t *testing.T) {
	s := newStand(t)
	conn, err := grpc.NewClient("passthrough:///"+s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	credentials := tokenbrokerv1.CredentialService_ServiceDesc.ServiceName
	for _, changing := range []bool{true, false, true} {
		s.server.SetChanging(changing)
		for _, service := range []string{"", tokenbrokerv1.TokenBrokerService_ServiceDesc.ServiceName, credentials} {
			want := healthv1.HealthCheckResponse_SERVING
			if service == credentials && !changing {
				want = healthv1.HealthCheckResponse_NOT_SERVING
			}
			res, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
			if err != nil || res.GetStatus() != want {
				t.Errorf("%q: got %v, %v, want %v", service, res.GetStatus(), err, want)
			}
		}
	}
}
