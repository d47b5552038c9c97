package server

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
)

// ErrNotLocal is why an address is not listened on.
var ErrNotLocal = errors.New("without authentication the broker listens on loopback addresses and Unix sockets only")

// isLocal is the rule for all: whether nobody but this machine is behind an address. Without authentication callers from there
// are local, and no other address is listened on.
func isLocal(a net.Addr) bool {
	switch a := a.(type) {
	case *net.UnixAddr:
		return true
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	default:
		return false
	}
}

// CheckLocal refuses an address on which others than this machine could call, with ErrNotLocal.
func CheckLocal(a net.Addr) error {
	if isLocal(a) {
		return nil
	}
	hint := ""
	if _, port, err := net.SplitHostPort(a.String()); err == nil {
		hint = "; use " + net.JoinHostPort("127.0.0.1", port)
	}
	return fmt.Errorf("listen on %s: %w%s", a, ErrNotLocal, hint)
}

// CheckLocalName refuses host:port as it is written in a setting, before anybody listens there, like CheckLocal. The one name that
// stands for this machine is localhost. It does not quote the address: somebody may have put a secret there.
func CheckLocalName(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return errors.New("it is not host:port")
	}
	ip := net.ParseIP(host)
	if host == "localhost" {
		ip = net.IPv4(127, 0, 0, 1)
	}
	if !isLocal(&net.TCPAddr{IP: ip}) {
		return fmt.Errorf("%w; use 127.0.0.1", ErrNotLocal)
	}
	return nil
}

// ownHost answers what is asked of this machine by its own name, and nothing else: a page in a browser on it could otherwise read what is
// answered, under a name that leads here (DNS rebinding).
func ownHost(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		ip := net.ParseIP(strings.Trim(host, "[]"))
		if !strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") && (ip == nil || !ip.IsLoopback()) {
			http.Error(w, "this is answered at localhost and loopback addresses only", http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}
