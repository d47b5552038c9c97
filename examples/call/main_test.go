package main

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tokenbroker/tokenbroker/client/clienttest"
)

func TestCall(t *testing.T) {
	good, asked := "Bearer main-2", 0
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked++; r.Header.Get("Authorization") != good {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, "the answer")
	}))
	defer api.Close()
	broker := clienttest.New(t)
	broker.Has("main", clienttest.Bearer("main", api.URL))
	var out bytes.Buffer
	if err := call(t.Context(), broker.Target(), "main", api.URL, &out); err != nil || asked != 2 || out.String() != "the answer" {
		t.Errorf("got %q, %v after %d requests, want the second to go well", &out, err, asked)
	}
	good = "none"
	if err := call(t.Context(), broker.Target(), "main", api.URL, &out); err == nil || asked != 4 {
		t.Errorf("got %v after %d requests, want it given up", err, asked)
	}
	broker.Fails("main", codes.Unavailable, "UPSTREAM_UNAVAILABLE", time.Minute)
	err := call(t.Context(), broker.Target(), "main", api.URL, &out)
	if err == nil || !strings.HasPrefix(err.Error(), "UPSTREAM_UNAVAILABLE: ") || !strings.HasSuffix(err.Error(), "; ask again in 1m0s") {
		t.Errorf("got %v", err)
	}
}

// TestTheREADMEShowsThis: each line of Go there that is about a call is one of main.go.
func TestTheREADMEShowsThis(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	code, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	_, block, found := strings.Cut(string(readme), "```go\ntokens, err := client.New")
	if !found {
		t.Fatal("README.md shows no call")
	}
	block, _, _ = strings.Cut("tokens, err := client.New"+block, "```")
	for line := range strings.Lines(block) {
		if line = strings.TrimSpace(line); line != "// …" && !strings.Contains(string(code), line) {
			t.Errorf("main.go has no line %q", line)
		}
	}
}
