package simclient_test

import (
	"bytes"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/goleak"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim/simclient"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A token goes into headers, cookies and query parameters beside what the address has already.
func TestATokenIsShownWhereItSays(t *testing.T) {
	var got string
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r.Method + " " + r.URL.RequestURI() + " " + r.Header.Get("Authorization") + " " + r.Header.Get("Cookie")
		w.WriteHeader(http.StatusTeapot)
	}))
	defer api.Close()
	c, err := simclient.New(api.Listener.Addr().String(), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw}))
	if err != nil {
		t.Fatal(err)
	}
	a := upstreamsim.Account{System: "example", APIURL: "https://example.com/items?page=2"}
	tok := &tokenbrokerv1.Token{
		BaseUrl:         "https://example.com/",
		Headers:         []*tokenbrokerv1.Header{{Name: "Authorization", Value: "Bearer x"}},
		Cookies:         []*tokenbrokerv1.Cookie{{Name: "a", Value: "1"}, {Name: "b", Value: "2"}},
		QueryParameters: []*tokenbrokerv1.QueryParameter{{Name: "key", Value: "a b"}},
	}
	if status, err := c.Show(t.Context(), a, tok); status != http.StatusTeapot || err != nil {
		t.Errorf("got %d, %v; want what the API answers", status, err)
	}
	if want := "GET /items?key=a+b&page=2 Bearer x a=1; b=2"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	tok.BaseUrl = "https://elsewhere.example.com/"
	if _, err := c.Show(t.Context(), a, tok); err == nil {
		t.Error("an API that is not below the base URL was called")
	}
}

func TestAnOrderIsAnsweredOrRefused(t *testing.T) {
	sim, err := upstreamsim.New(upstreamsim.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.Start(); err != nil {
		t.Fatal(err)
	}
	defer sim.Close()
	c, err := simclient.Of(sim)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := c.Order(t.Context(), http.MethodGet, "/stats"); err != nil || !bytes.Contains(got, []byte("officernd")) {
		t.Errorf("got %s, %v; want counters", got, err)
	}
	if got, err := c.Order(t.Context(), http.MethodPost, "/nothing"); err == nil {
		t.Errorf("got %s, want an error", got)
	}
}

func TestAnAuthorityHasACertificate(t *testing.T) {
	if _, err := simclient.New("127.0.0.1:1", []byte("nothing")); err == nil {
		t.Error("no certificate is an authority")
	}
}
