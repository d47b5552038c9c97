package client_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/tokenbroker/tokenbroker/client"
	"github.com/tokenbroker/tokenbroker/client/clienttest"
)

// ExampleSource_HTTPClient calls an API with a token of the broker, and does not notice that the API has refused one.
func ExampleSource_HTTPClient() {
	refused := false
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !refused {
			refused = true
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = fmt.Fprintln(w, r.URL.Path, r.Header.Get("Authorization"))
	}))
	defer api.Close()
	t := &testing.T{} // yours; a broker of production needs none
	broker := clienttest.New(t)
	broker.Has("members", clienttest.Bearer("members", api.URL+"/v1"))

	tokens, err := client.New(broker.Target())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer tokens.Close()
	res, err := tokens.Source("members").HTTPClient().Get("/people")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	fmt.Print(string(body))
	// Output: /v1/people Bearer members-2
}
