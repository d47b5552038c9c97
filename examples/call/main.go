// Command call asks an API for something, with a token of the broker: call CREDENTIAL URL.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: call CREDENTIAL URL")
		os.Exit(2)
	}
	// One connection for the whole life of a service; the broker's socket is "unix:PATH".
	conn, err := grpc.NewClient("127.0.0.1:7420", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err == nil {
		err = call(context.Background(), tokenbrokerv1.NewTokenBrokerServiceClient(conn), os.Args[1], os.Args[2])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// call asks once, and once more with another token where the API refuses the first.
func call(ctx context.Context, broker tokenbrokerv1.TokenBrokerServiceClient, credential, url string) error {
	rejected := ""
	for range 2 {
		// A token is asked for each time that it is used: the broker has it at hand, and knows when it ends.
		res, err := broker.GetToken(ctx, &tokenbrokerv1.GetTokenRequest{Credential: credential, RejectedTokenId: rejected})
		if err != nil {
			return because(err)
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil) //nolint:gosec // whoever runs it names the URL
		if err != nil {
			return err
		}
		for _, h := range res.GetToken().GetHeaders() { // some APIs want cookies or query_parameters too
			req.Header.Set(h.GetName(), h.GetValue())
		}
		answer, err := http.DefaultClient.Do(req) //nolint:gosec // the same
		if err != nil {
			return err
		}
		defer answer.Body.Close() //nolint:errcheck // it was only read
		if answer.StatusCode != http.StatusUnauthorized {
			_, err = io.Copy(os.Stdout, answer.Body)
			return err
		}
		rejected = res.GetToken().GetTokenId() // the next answer is never this one from a cache
	}
	return errors.New("the API refuses a fresh token too")
}

// because says why the broker gave no token: a stable reason for programs, and the sentence for people.
func because(err error) error {
	for _, d := range status.Convert(err).Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo: // such as UPSTREAM_UNAVAILABLE: ask again; CREDENTIAL_MISCONFIGURED: an operator has to mend it
			err = fmt.Errorf("%s: %w", d.GetReason(), err)
		case *errdetails.RetryInfo:
			err = fmt.Errorf("%w; ask again in %s", err, d.GetRetryDelay().AsDuration())
		}
	}
	return err
}
