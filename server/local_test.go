package server

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestOnlyLocalAddressesAreListenedOn(t *testing.T) {
	for _, c := range []struct {
		addr  net.Addr
		local bool
	}{
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7420}, true},
		{&net.TCPAddr{IP: net.IPv4(127, 9, 9, 9), Port: 7420}, true},
		{&net.TCPAddr{IP: net.IPv6loopback, Port: 7420}, true},
		{&net.TCPAddr{IP: net.ParseIP("::ffff:127.0.0.1"), Port: 7420}, true},
		{&net.UnixAddr{Name: "/run/tokenbroker.sock", Net: "unix"}, true},
		{&net.TCPAddr{Port: 7420}, false},
		{&net.TCPAddr{IP: net.IPv4zero, Port: 7420}, false},
		{&net.TCPAddr{IP: net.IPv6unspecified, Port: 7420}, false},
		{&net.TCPAddr{IP: net.IPv4(192, 168, 1, 2), Port: 7420}, false},
		{&net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 7420}, false},
		{&net.TCPAddr{IP: net.ParseIP("fe80::1"), Port: 7420}, false},
		{&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7420}, false},
	} {
		err := CheckLocal(c.addr)
		if (err == nil) != c.local {
			t.Errorf("%v: got %v, want it allowed: %v", c.addr, err, c.local)
		}
		if err != nil && !strings.Contains(err.Error(), "127.0.0.1:7420") {
			t.Errorf("%v: %v does not say what to use", c.addr, err)
		}
	}
}

// TestMetricsAreAnsweredUnderTheNamesOfThisMachine: and not under one that somebody else has lead here.
func TestMetricsAreAnsweredUnderTheNamesOfThisMachine(t *testing.T) {
	h := ownHost(http.NotFoundHandler())
	for host, own := range map[string]bool{
		"localhost": true, "localhost:7421": true, "LocalHost.:7421": true, "127.0.0.1:7421": true, "127.9.9.9": true, "[::1]:7421": true, "[::1]": true,
		"evil.example": false, "evil.example:7421": false, "localhost.evil.example": false, "192.168.1.1:7421": false, "0.0.0.0": false, "": false,
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
		r.Host = host
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); (w.Code == http.StatusNotFound) != own {
			t.Errorf("%q: got %d", host, w.Code)
		}
	}
}
