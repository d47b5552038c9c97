package provider

import (
	"fmt"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestAnIssuerIsAskedOnce, and again when its token endpoint is no longer there.
func TestAnIssuerIsAskedOnce(t *testing.T) {
	endpoint, gone := "/one", http.StatusNotFound
	v := newVendor(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/.well-known/openid-configuration":
			_, _ = fmt.Fprintf(w, `{"issuer": "https://example.com", "token_endpoint": "https://example.com%s"}`, endpoint)
		case endpoint:
			_, _ = fmt.Fprint(w, `{"access_token": "t"}`)
		default:
			w.WriteHeader(gone)
		}
	})
	d := v.define("inputs: {issuer: {format: url}}\nobtain: {oauth2: {issuer: \"{{issuer}}\"}, auth: none, send: query}")
	c := credential(map[string]string{"issuer": "https://example.com/"})
	obtain := func(want string, well bool) {
		t.Helper()
		before := len(v.requests())
		if _, err := v.obtain(d, c, broker.Selection{}); (err == nil) != well {
			t.Errorf("got %v", err)
		}
		got := ""
		for _, r := range v.requests()[before:] {
			u, err := url.Parse(r.uri)
			if err != nil {
				t.Fatal(err)
			}
			got += " " + u.Path
		}
		if got != want {
			t.Errorf("got%s, want%s", got, want)
		}
	}
	obtain(" /.well-known/openid-configuration /one", true)
	obtain(" /one", true)
	endpoint = "/two"
	obtain(" /one", false)
	obtain(" /.well-known/openid-configuration /two", true)
	endpoint, gone = "/three", http.StatusUnauthorized // a refusal says nothing of where it is
	obtain(" /two", false)
	obtain(" /two", false)
}

func TestWhatAnIssuerSaidGrowsOldAndIsBounded(t *testing.T) {
	e, now := newEndpoints(), time.Now()
	u := &url.URL{Scheme: "https", Host: "example.com", Path: "/t"}
	e.keep("https://a", u, now)
	if got := e.of("https://a", now.Add(endpointAge-1)); got == nil || *got != *u || got == u {
		t.Errorf("got %v", got)
	}
	if got := e.of("https://a", now.Add(endpointAge)); got != nil {
		t.Errorf("got %v after an hour", got)
	}
	for i := range 2 * endpointsMost {
		e.keep(fmt.Sprint("https://", i), u, now)
	}
	if len(e.known) > endpointsMost {
		t.Errorf("got %d, want at most %d", len(e.known), endpointsMost)
	}
}
