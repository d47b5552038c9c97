package main

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

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
)

func TestListenUnix(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
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
	if _, err := listenUnix(t.Context(), path); err == nil || !strings.Contains(err.Error(), "a file that is no socket") {
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
	s := goodSettings(t)
	for name, change := range map[string]func(*settings){
		"taken address": func(s *settings) { s.Listen = []string{"127.0.0.1:0", taken.Addr().String()} },
		"taken metrics": func(s *settings) { s.MetricsListen = taken.Addr().String() },
		"bad setting":   func(s *settings) { s.UpstreamConcurrency = 0 },
		"bad CA":        func(s *settings) { s.UpstreamCAFile = os.Args[0] },
		"bad socket":    func(s *settings) { s.Socket = "/dev/null" },
	} {
		t.Run(name, func(t *testing.T) {
			s := s
			change(&s)
			if _, err := startBroker(t.Context(), s, slog.New(slog.DiscardHandler)); err == nil {
				t.Error("it starts")
			}
		})
	}
	s.MetricsListen = "127.0.0.1:0"
	r, err := startBroker(t.Context(), s, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	want := "answering on " + r.addresses[0] + ", unix:" + s.DataDir + "/tokenbroker.sock; metrics on http://" + r.metrics + "/metrics"
	if got := r.banner(); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for _, a := range r.addresses {
		if err := waitServing(t.Context(), a); err != nil {
			t.Errorf("%s: %v", a, err)
		}
	}
	res, err := http.Get("http://" + r.metrics + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	if err != nil || !strings.Contains(string(body), "# TYPE tokenbroker_") {
		t.Errorf("got metrics %.100q, %v", body, err)
	}
	if err := r.stop(context.Background()); err != nil {
		t.Errorf("stop: %v", err)
	}
	conn, err := dial(r.addresses[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{}); err == nil {
		t.Error("it still answers")
	}
}

// TestBrokenBackup: a copy that was broken off leaves no file.
func TestBrokenBackup(t *testing.T) {
	dir := shortDir(t)
	l, err := listenUnix(t.Context(), filepath.Join(dir, adminSocket))
	if err != nil {
		t.Fatal(err)
	}
	answer := func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) }
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) })}
	done := make(chan struct{})
	go func() { _ = srv.Serve(l); close(done) }()
	defer func() { srv.Close(); <-done }()
	c := &backupCommand{DataDir: dir, File: filepath.Join(dir, "copy")}
	for name, f := range map[string]func(http.ResponseWriter){
		"an error":   answer,
		"half of it": func(w http.ResponseWriter) { _, _ = w.Write([]byte("half")) },
		"a lost trail": func(w http.ResponseWriter) {
			w.Header().Set("Trailer", backupComplete)
			_, _ = w.Write([]byte("half"))
		},
	} {
		answer = f
		if err := c.online(t.Context()); err == nil || errors.Is(err, errNoBroker) {
			t.Errorf("%s: got %v, want a failure", name, err)
		}
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("got %v, %v; want the socket only", files, err)
	}
}
