package operator

import (
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/tokenbroker/tokenbroker/cmd/tokenbroker/internal/settings"
)

// TestBrokenBackup: a copy that was broken off leaves no file.
func TestBrokenBackup(t *testing.T) {
	dir, err := os.MkdirTemp("", "tb-") //nolint:usetesting // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, settings.AdminSocket))
	if err != nil {
		t.Fatal(err)
	}
	answer := func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) }
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { answer(w) })}
	done := make(chan struct{})
	go func() { _ = srv.Serve(l); close(done) }()
	defer func() { srv.Close(); <-done }()
	c := &BackupCommand{whereabouts: whereabouts{DataDir: dir}, File: filepath.Join(dir, "copy")}
	for name, f := range map[string]func(http.ResponseWriter){
		"an error":   answer,
		"half of it": func(w http.ResponseWriter) { _, _ = w.Write([]byte("half")) },
		"a lost trail": func(w http.ResponseWriter) {
			w.Header().Set("Trailer", settings.BackupComplete)
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
