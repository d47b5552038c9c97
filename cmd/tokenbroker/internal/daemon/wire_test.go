package daemon

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/console"
	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
)

func TestListenUnix(t *testing.T) {
	path := filepath.Join(shortDirectory(t), "s")
	l, err := listenUnix(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if i, err := os.Lstat(path); err != nil || i.Mode() != fs.ModeSocket|0o600 {
		t.Errorf("got mode %v, %v; want a socket of mode 0600", i.Mode(), err)
	}
	if _, err := listenUnix(t.Context(), path); err == nil || !strings.Contains(err.Error(), "another process has it open") {
		t.Errorf("got %v, want that another has it open", err)
	}
	if c, err := net.Dial("unix", path); err != nil {
		t.Errorf("the living socket was replaced: %v", err)
	} else {
		c.Close()
	}

	// As a broker that was killed leaves it.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if l, err = listenUnix(t.Context(), path); err != nil {
		t.Fatalf("a dead socket is not replaced: %v", err)
	}
	l.Close()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want no socket after it was closed", err)
	}

	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := listenUnix(t.Context(), path); err == nil || !strings.Contains(err.Error(), "a file that is not a socket") {
		t.Errorf("got %v, want a refusal", err)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "precious" {
		t.Errorf("the file is gone: %q, %v", b, err)
	}
	if _, err := listenUnix(t.Context(), filepath.Join(path, "below", "s")); err == nil {
		t.Error("got a listener below a file")
	}
}

// TestStartBroker: what fails to start leaves nothing behind, so that the next start works, and goroutines are counted at the end.
func TestStartBroker(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s := startable(t)
	for name, change := range map[string]func(*settings.Settings){
		"taken address": func(s *settings.Settings) { s.Listen = []string{"127.0.0.1:0", taken.Addr().String()} },
		"taken probes":  func(s *settings.Settings) { s.ProbesListen = taken.Addr().String() },
		"taken metrics": func(s *settings.Settings) { s.MetricsListen = taken.Addr().String() },
		"bad setting":   func(s *settings.Settings) { s.UpstreamConcurrency = 0 },
		"bad CA":        func(s *settings.Settings) { s.UpstreamCAFile = os.Args[0] },
		"bad socket":    func(s *settings.Settings) { s.Socket = "/dev/null" },
	} {
		t.Run(name, func(t *testing.T) {
			s := s
			change(&s)
			if _, err := Start(t.Context(), s, slog.New(slog.DiscardHandler)); err == nil {
				t.Error("it starts")
			}
		})
	}
	s.MetricsListen, s.ProbesListen = "127.0.0.1:0", "127.0.0.1:0"
	r, err := Start(t.Context(), s, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	want := "answering on " + r.Addresses[0] + ", unix:" + s.DataDir + "/tokenbroker.sock; metrics on http://" + r.Metrics + "/metrics; probes on http://" + r.Probes
	if got := r.banner(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, a := range r.Addresses {
		if err := serving(t.Context(), a); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	res, err := http.Get("http://" + r.Metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if err != nil || !strings.Contains(string(body), "# TYPE tokenbroker_") {
		t.Errorf("got metrics %.100q, %v", body, err)
	}
	if err := r.Stop(context.Background()); err != nil {
		t.Errorf("stop: %v", err)
	}
	conn, err := connect(r.Addresses[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{}); err == nil {
		t.Error("it still answers")
	}
}

// TestABadAuditLogIsFoundBeforeAnythingIsMade, or at least before there is a key.
func TestABadAuditLogIsFoundBeforeAnythingIsMade(t *testing.T) {
	for name, x := range map[string]struct {
		change func(s *settings.Settings)
		// made: it is found only when it is opened, in a data directory that is made by then.
		made bool
	}{
		"a directory":              {change: func(s *settings.Settings) { s.AuditFile = filepath.Dir(s.DataDir) }},
		"in no directory":          {change: func(s *settings.Settings) { s.AuditFile = filepath.Join(s.DataDir, "below", "log") }},
		"a file of the system's":   {change: func(s *settings.Settings) { s.AuditFile = os.DevNull }},
		"the data directory":       {change: func(s *settings.Settings) { s.AuditFile = s.DataDir }},
		"no syslog":                {change: func(s *settings.Settings) { s.AuditSyslog = "tcp://user:secret@127.0.0.1:1" }},
		"a syslog without a port":  {change: func(s *settings.Settings) { s.AuditSyslog = "tcp://127.0.0.1:99999" }},
		"a syslog at no socket":    {change: func(s *settings.Settings) { s.AuditSyslog = "unix://" + filepath.Dir(s.DataDir) }},
		"required, and there none": {change: func(s *settings.Settings) { s.AuditIssuance = "required" }},
		"a name that is too long":  {change: func(s *settings.Settings) { s.AuditFile = filepath.Join(s.DataDir, strings.Repeat("x", 1000)) }, made: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := startable(t)
			s.DataDir = filepath.Join(s.DataDir, "d")
			x.change(&s)
			r, err := Start(t.Context(), s, slog.New(slog.DiscardHandler))
			if err == nil {
				r.Stop(t.Context())
			}
			if console.ExitCode(err) != console.ExitUsage || strings.Contains(err.Error(), "secret") {
				t.Errorf("got %v", err)
			}
			if _, err := os.Stat(s.DataDir); (err == nil) != x.made {
				t.Errorf("the data directory: got %v", err)
			}
			if _, err := os.Stat(s.KeyPath()); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the key: got %v", err)
			}
		})
	}
}

// startable are settings with which a broker starts.
func startable(t testing.TB) settings.Settings {
	t.Helper()
	return settings.Settings{
		DataDir: shortDirectory(t), Listen: []string{"127.0.0.1:0"}, Socket: "auto", MetricsListen: "none", KeyFile: "auto", LogLevel: "info", LogFormat: "json",
		ShutdownTimeout: time.Second, ExchangeTimeout: time.Second, UpstreamConcurrency: 1, LimitsConcurrentStreams: 1, LimitsMessageBytes: 1024, LimitsConnectionAge: time.Hour,
		StoreSettings: settings.StoreSettings{RedisPrefix: "tokenbroker"},
	}
}

// shortDirectory is one whose path leaves room for the names of sockets.
func shortDirectory(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tb-") //nolint:usetesting // t.TempDir is too long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func connect(address string) (*grpc.ClientConn, error) {
	if !strings.HasPrefix(address, "unix:") {
		address = "passthrough:///" + address
	}
	return grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// serving returns when the broker at the address says that it is serving.
func serving(ctx context.Context, address string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	conn, err := connect(address)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}, grpc.WaitForReady(true))
	return err
}
