package client_test

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"golang.org/x/oauth2"

	"github.com/tokenbroker/tokenbroker/client"
	"github.com/tokenbroker/tokenbroker/client/clienttest"
)

// TestOAuth2: a library has the token with its type and end; a token that is no such header it is not given.
func TestOAuth2(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer main-1" {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	defer api.Close()
	b := clienttest.New(t)
	b.Has("main", clienttest.Bearer("main", api.URL))
	source := b.Client(t).Source("main")
	token, err := source.OAuth2(t.Context()).Token()
	if err != nil || token.AccessToken != "main-1" || token.Type() != "Bearer" || !token.Valid() {
		t.Fatalf("got %v, %v", token, err)
	}
	if held, err := source.Token(t.Context()); err != nil || !held.ExpireTime.Equal(token.Expiry) {
		t.Errorf("got %v, %v, want its end %v", held, err, token.Expiry)
	}
	res, err := oauth2.NewClient(t.Context(), source.OAuth2(t.Context())).Get(api.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		t.Errorf("got %s", res.Status)
	}
	for name, edit := range map[string]func(*client.Token){
		"cookie":  func(t *client.Token) { t.Cookies = []client.Field{{Name: "sid", Value: "x"}} },
		"query":   func(t *client.Token) { t.Query = []client.Field{{Name: "key", Value: "x"}} },
		"header":  func(t *client.Token) { t.Headers[0].Name = "X-Api-Key" },
		"headers": func(t *client.Token) { t.Headers = append(t.Headers, client.Field{Name: "X-Account", Value: "1"}) },
		"value":   func(t *client.Token) { t.Headers[0].Value = "Token x" },
	} {
		b.Has(name, func(n int) client.Token {
			out := clienttest.Bearer(name, api.URL)(n)
			edit(&out)
			return out
		})
		if token, err := b.Client(t).Source(name).OAuth2(t.Context()).Token(); err == nil {
			t.Errorf("%s: got %v", name, token)
		}
	}
}
