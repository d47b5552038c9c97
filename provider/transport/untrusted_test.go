package transport

import (
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// TestACertificateThatIsNotTrustedSaysWhy: an authority that nobody knows names the setting for it.
func TestACertificateThatIsNotTrustedSaysWhy(t *testing.T) {
	s := httptest.NewUnstartedServer(http.NotFoundHandler()) // its certificate is for example.com
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	for host, want := range map[string]string{"example.com": "upstream.ca_file", "vendor.example": "for another name"} {
		tr, err := New(Settings{ConnectTo: map[string]string{host + ":443": s.Listener.Addr().String()}})
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		u := &url.URL{Scheme: "https", Host: host}
		_, fail := tr.Send(t.Context(), &Request{Method: http.MethodGet, URL: u, Header: http.Header{}}, false, func(string) error { return nil })
		if fail == nil || !strings.Contains(fail.Detail, want) {
			t.Errorf("%s: got %v, want %q in it", host, fail, want)
		}
	}
}
