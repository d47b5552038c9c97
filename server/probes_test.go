package server_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// TestProbesAreForEverybodyAndNothingElse: whoever asks, by whichever name, is told whether the broker lives and is ready, and its metrics. No RPC is
// answered there, and nothing that /metrics of this machine's own refuses to others is.
func TestProbesAreForEverybodyAndNothingElse(t *testing.T) {
	s := newStand(t)
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.server.ServeProbes(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("got %v", err)
		}
	})
	get := func(method, path string) (status int, body string) {
		t.Helper()
		conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: broker.example.com:7422\r\nConnection: close\r\n\r\n", method, path)
		res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b)
	}
	want := func(when, path string, status int, has string) {
		t.Helper()
		if got, body := get(http.MethodGet, path); got != status || !strings.Contains(body, has) {
			t.Errorf("%s: %s: got %d, %.200q, want %d, %q", when, path, got, body, status, has)
		}
	}
	want("at first", "/livez", 200, "ok")
	want("at first", "/readyz", 200, "SERVING")
	want("at first", "/metrics", 200, "# TYPE tokenbroker_")
	s.server.SetServing(false)
	want("not serving", "/readyz", 503, "NOT_SERVING")
	want("not serving", "/livez", 200, "ok")
	s.server.SetServing(true)
	s.server.SetChanging(false)
	want("storing nothing", "/readyz", 200, "SERVING")
	for _, path := range []string{"/", "/backup", "/debug/pprof/", "/metrics/", "/livez/x", "//metrics", "/tokenbroker.v1.TokenBrokerService/GetToken"} {
		if got, body := get(http.MethodGet, path); got != 404 && got != 301 && got != 307 {
			t.Errorf("%s: got %d, %.100q", path, got, body)
		}
	}
	for _, path := range []string{"/metrics", "/readyz", "/livez"} {
		if got, _ := get(http.MethodPost, path); got != 405 {
			t.Errorf("POST %s: got %d", path, got)
		}
	}
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := tokenbrokerv1.NewTokenBrokerServiceClient(conn).GetToken(t.Context(), &tokenbrokerv1.GetTokenRequest{Credential: "main"}); err == nil {
		t.Error("an RPC is answered")
	}
}
