package main

import (
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
)

// ends wants this exit code, and this in the output.
func (p *proc) ends(code int, want string) {
	p.t.Helper()
	if got := p.code(); got != code || !strings.Contains(p.output(), want) {
		p.t.Errorf("exit code %d, want %d; output:\n%swant %q in it", got, code, p.output(), want)
	}
}

func TestHealthWaitsForABrokerThatStartsAndTellsOfOneThatStops(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	socket := "unix:" + filepath.Join(dir, "tokenbroker.sock")
	start(t, "health", "--address", socket).ends(console.ExitUnreachable, "no broker answers at "+socket)
	waiting := start(t, "health", "--address", socket, "--wait", patience.String())
	s := start(t, "serve", "--data-dir", dir, "--listen", "127.0.0.1:0", "--metrics-listen", "none", "--shutdown-grace", patience.String())
	waiting.ends(console.ExitOK, "SERVING\n")
	start(t, "health", "--address", s.waitFor(`answering on (127\.0\.0\.1:\d+)`)).ends(console.ExitOK, "SERVING\n")

	conn, err := dial(socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	watch, err := healthv1.NewHealthClient(conn).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for want := range 2 {
		res, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got := res.GetStatus() == healthv1.HealthCheckResponse_NOT_SERVING; got != (want == 1) {
			t.Fatalf("status %d: got %s", want, res.GetStatus())
		}
		if want == 0 {
			s.signal(syscall.SIGTERM)
		}
	}
	start(t, "health", "--address", socket).ends(console.ExitTemporary, "says that it is NOT_SERVING")
	start(t, "health", "--address", socket, "--wait", "300ms").ends(console.ExitTemporary, "NOT_SERVING, after 300ms of asking")
	start(t, "health", "--address", socket, "--output", "json").ends(console.ExitTemporary, `"exit_code":6`)
	s.stopAtOnce()
	start(t, "health", "--address", socket, "--wait", "300ms").ends(console.ExitUnreachable, "no broker answers at "+socket)
}

func TestHealthOfWhatIsNoBroker(t *testing.T) {
	t.Parallel()
	mute, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	for _, more := range [][]string{{"--timeout", "200ms"}, {"--timeout", "0", "--wait", "200ms"}} {
		start(t, append([]string{"health", "--address", mute.Addr().String()}, more...)...).ends(console.ExitUnreachable, "did not answer in time")
	}
	other, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	go func() { _ = srv.Serve(other) }()
	defer srv.Stop()
	start(t, "health", "--address", other.Addr().String(), "--wait", patience.String()).ends(console.ExitFailure, "it is not a tokenbroker")

	asked, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer asked.Close()
	waiting := start(t, "health", "--address", asked.Addr().String(), "--timeout", "0")
	accepted, err := asked.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	waiting.signal(syscall.SIGINT)
	waiting.ends(console.ExitFailure, "interrupted")
}
