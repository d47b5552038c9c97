package operator

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// TestHealthWarnsOfAStoreThatTakesNoChanges, of a broker that serves what it has.
func TestHealthWarnsOfAStoreThatTakesNoChanges(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h, srv := health.NewServer(), grpc.NewServer()
	healthv1.RegisterHealthServer(srv, h)
	go func() { _ = srv.Serve(l) }()
	defer srv.Stop()
	for status, warns := range map[healthv1.HealthCheckResponse_ServingStatus]bool{healthv1.HealthCheckResponse_SERVING: false, healthv1.HealthCheckResponse_NOT_SERVING: true} {
		h.SetServingStatus(tokenbrokerv1.CredentialService_ServiceDesc.ServiceName, status)
		var stdout, stderr bytes.Buffer
		c := &HealthCommand{remote: remote{Address: l.Addr().String(), Timeout: time.Minute}}
		if err := c.Run(&console.Process{Context: t.Context(), Stdout: &stdout, Stderr: &stderr}); err != nil || stdout.String() != "SERVING\n" {
			t.Errorf("%s: got %q, %v", status, &stdout, err)
		}
		if strings.Contains(stderr.String(), "warning: its store takes no changes") != warns {
			t.Errorf("%s: got %q", status, &stderr)
		}
	}
}
