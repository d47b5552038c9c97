package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

// A stub gives the token "old" until that is rejected.
type stub struct {
	tokenbrokerv1.TokenBrokerServiceClient
}

func (stub) GetToken(_ context.Context, r *tokenbrokerv1.GetTokenRequest, _ ...grpc.CallOption) (*tokenbrokerv1.GetTokenResponse, error) {
	if r.GetCredential() != "main" {
		s, err := status.New(codes.Unavailable, "the upstream fails").WithDetails(
			&errdetails.ErrorInfo{Reason: "UPSTREAM_UNAVAILABLE"}, &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)})
		if err != nil {
			return nil, err
		}
		return nil, s.Err()
	}
	token := "old"
	if r.GetRejectedTokenId() == "id-of-old" {
		token = "new"
	}
	return &tokenbrokerv1.GetTokenResponse{Token: &tokenbrokerv1.Token{
		TokenId: "id-of-" + token, Headers: []*tokenbrokerv1.Header{{Name: "Authorization", Value: "Bearer " + token}},
	}}, nil
}

func TestCall(t *testing.T) {
	good, asked := "Bearer new", 0
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if r.Header.Get("Authorization") != good {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer api.Close()
	if err := call(t.Context(), stub{}, "main", api.URL); err != nil || asked != 2 {
		t.Errorf("got %v after %d requests, want the second to go well", err, asked)
	}
	good = "none"
	if err := call(t.Context(), stub{}, "main", api.URL); err == nil || asked != 4 {
		t.Errorf("got %v after %d requests, want it given up", err, asked)
	}
	err := call(t.Context(), stub{}, "other", api.URL)
	if err == nil || !strings.HasPrefix(err.Error(), "UPSTREAM_UNAVAILABLE: ") || !strings.HasSuffix(err.Error(), "; ask again in 1s") {
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
	_, block, found := strings.Cut(string(readme), "```go\nres, err := broker.GetToken")
	if !found {
		t.Fatal("README.md shows no call")
	}
	block, _, _ = strings.Cut("res, err := broker.GetToken"+block, "```")
	for line := range strings.Lines(block) {
		if line = strings.TrimSpace(line); line != "// …" && !strings.Contains(string(code), line) {
			t.Errorf("main.go has no line %q", line)
		}
	}
}
