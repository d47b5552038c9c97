// Command call asks an API for something, with a token of the broker: call CREDENTIAL URL.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/tokenbroker/tokenbroker/client"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: call CREDENTIAL URL")
		os.Exit(2)
	}
	if err := call(context.Background(), "127.0.0.1:7420", os.Args[1], os.Args[2], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// call asks once, and once more with another token where the API refuses the first: the client does that.
func call(ctx context.Context, broker, credential, url string, out io.Writer) error {
	tokens, err := client.New(broker) // once for the whole life of a service; the broker's socket is "unix:PATH"
	if err != nil {
		return err
	}
	defer tokens.Close() //nolint:errcheck // nothing is left to be lost
	api := tokens.Source(credential).HTTPClient()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil) //nolint:gosec // whoever runs it names the URL
	if err != nil {
		return err
	}
	res, err := api.Do(req)                         //nolint:gosec // the same
	if reason := client.Reason(err); reason != "" { // such as UPSTREAM_UNAVAILABLE: ask again; CREDENTIAL_MISCONFIGURED: an operator has to mend it
		return fmt.Errorf("%s: %w; ask again in %s", reason, err, client.RetryDelay(err))
	}
	if err != nil {
		return err
	}
	defer res.Body.Close() //nolint:errcheck // it was only read
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the API answers %s", res.Status)
	}
	_, err = io.Copy(out, res.Body)
	return err
}
