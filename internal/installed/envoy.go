package installed

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// EnvoyExample is a configuration of examples/envoy, with what is here instead of what it names: pairs of texts, the first of which it has.
func EnvoyExample(t testing.TB, name string, instead ...[2]string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../../examples/envoy", name)) //nolint:gosec // the tests' own
	if err != nil {
		t.Fatal(err)
	}
	return Instead(t, name, string(text), instead...)
}

// Instead is a text of a name with texts instead of others, which it has.
func Instead(t testing.TB, name, text string, instead ...[2]string) string {
	t.Helper()
	for _, is := range instead {
		if !strings.Contains(text, is[0]) {
			t.Fatalf("%s has no %q", name, is[0])
		}
		text = strings.ReplaceAll(text, is[0], is[1])
	}
	return text
}

// Socket is an address as Envoy's configuration has it.
func Socket(t testing.TB, addr string) string {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("{address: %s, port_value: %s}", host, port)
}

// Envoy starts one by a configuration with one listener, until the test ends, and returns where it listens. Without it the test is skipped; in CI it fails.
func Envoy(t testing.TB, config string) (addr string) {
	t.Helper()
	program, admin := Tool(t, "envoy"), config+".admin"
	ctx, end := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "-c", config, "--admin-address-path", admin, "--concurrency", "1", "--disable-hot-restart", "--log-level", "warn") //nolint:gosec // a test's own
	cmd.Stdout, cmd.Stderr = t.Output(), t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		end()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); <-time.After(50 * time.Millisecond) {
		addr := listening(ctx, admin)
		if addr == "" {
			continue
		}
		if c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr); err == nil { // it says where before it does
			_ = c.Close()
			return addr
		}
	}
	t.Fatal("Envoy does not listen")
	return ""
}

// listening asks an Envoy where it listens; empty: it does not yet.
func listening(ctx context.Context, admin string) string {
	at, err := os.ReadFile(admin) //nolint:gosec // a test's own
	if err != nil || len(at) == 0 {
		return ""
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+string(at)+"/listeners?format=json", nil)
	if err != nil {
		return ""
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return ""
	}
	defer res.Body.Close() //nolint:errcheck // it was only read
	var all struct {
		Statuses []struct {
			Local struct {
				Socket struct {
					Address string `json:"address"`
					Port    int    `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	data, _ := io.ReadAll(res.Body)
	if json.Unmarshal(data, &all) != nil || len(all.Statuses) != 1 || all.Statuses[0].Local.Socket.Port == 0 {
		return ""
	}
	return net.JoinHostPort(all.Statuses[0].Local.Socket.Address, fmt.Sprint(all.Statuses[0].Local.Socket.Port))
}
