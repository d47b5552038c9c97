// Package transport carries requests to upstreams and reads their answers, each at most once. It decides which hosts and
// addresses may be asked, over which connection, whether a request may have arrived, and in which words a failure is told: no
// foreign text leaves it. It knows nothing of definitions, of credentials, or of what an answer means.
package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"
)

// Settings say how upstreams are reached. The zero value: verified TLS to public addresses, proxies as the environment says.
type Settings struct {
	// ConnectTo sends a vendor's name elsewhere: "host:port" to "ip:port". The name stays what it is for TLS and in the request.
	// The operator vouches for this address: it is not checked, and no proxy is used.
	ConnectTo map[string]string
	// CAFile is a PEM file of roots that are trusted beside the system's, read again when it changes; empty: none.
	CAFile string
	// AllowHTTP are names, host or host:port, that may be asked without TLS.
	AllowHTTP []string
	// AllowPrivate are ranges that may be dialled beside public addresses; link-local ones never.
	AllowPrivate []netip.Prefix
	// DialTimeout bounds the connection; 0: DefaultDialTimeout. The whole is bounded by the exchange's context, and by nothing else: a timer of
	// its own for the answer would fire beside the answer in a process that was stopped meanwhile.
	DialTimeout time.Duration
	// MaxAnswer bounds an answer's body in bytes; 0: DefaultMaxAnswer.
	MaxAnswer int64
	// Propagate tells upstreams which trace a request belongs to (W3C Trace Context), where it belongs to one.
	Propagate bool
}

// What a zero value of Settings stands for.
const (
	DefaultDialTimeout = 10 * time.Second
	// DefaultMaxAnswer is room for a list of 3,000 tenants with id and name; no token that an API takes in a header is a tenth of that.
	DefaultMaxAnswer = 256 << 10
)

const (
	idleTimeout    = 30 * time.Second
	maxHeaderBytes = 64 << 10
)

// A SettingError says which setting is wrong, as operators write it, and what is wrong with it. It quotes no value that is of no form: somebody may
// have put a secret there.
type SettingError struct {
	Setting string
	Err     error
}

// Error implements error.
func (e *SettingError) Error() string { return e.Setting + ": " + e.Err.Error() }

// Unwrap is what is wrong.
func (e *SettingError) Unwrap() error { return e.Err }

func wrongSetting(setting, format string, args ...any) error {
	return &SettingError{setting, fmt.Errorf(format, args...)}
}

// A Transport carries requests. It follows no redirect, keeps no cookies and never sends a request twice. Safe for concurrent
// use.
type Transport struct {
	settings Settings
	guard    *guard
	make     func(*x509.CertPool) *connections
	roots    roots
}

// connections are those that trust the same roots: reused keeps them, fresh makes one for each request. A request that spends a refresh
// token must not meet a connection that the other side is just closing, for its answer would be lost.
type connections struct{ reused, fresh *http.Transport }

// New makes a Transport. It fails with a *SettingError.
func New(s Settings) (*Transport, error) {
	if s.MaxAnswer <= 0 {
		s.MaxAnswer = DefaultMaxAnswer
	}
	if s.DialTimeout <= 0 {
		s.DialTimeout = DefaultDialTimeout
	}
	trusted, err := rootsWith(s.CAFile)
	if err != nil {
		return nil, err
	}
	guard, err := newGuard(s.AllowPrivate)
	if err != nil {
		return nil, err
	}
	elsewhere := map[string]string{}
	for from, to := range s.ConnectTo {
		if !isHostPort(from) {
			return nil, wrongSetting("upstream.connect_to", "a name is not host:port, with a port from 1 to 65535")
		}
		if !isHostPort(to) {
			return nil, wrongSetting("upstream.connect_to", "%s: what it is to be dialled at is not an address with a port from 1 to 65535", from)
		}
		if _, twice := elsewhere[strings.ToLower(from)]; twice {
			return nil, wrongSetting("upstream.connect_to", "%s is there twice: capital letters make no other name", strings.ToLower(from))
		}
		elsewhere[strings.ToLower(from)] = to
	}
	s.ConnectTo, s.AllowHTTP = elsewhere, slices.Clone(s.AllowHTTP)
	for i, name := range s.AllowHTTP {
		if !isHostPort(name) && !hostLike(strings.Trim(name, "[]")) {
			return nil, wrongSetting("upstream.allow_http", "entry %d is neither a host nor host:port; name each host", i+1)
		}
		s.AllowHTTP[i] = strings.ToLower(name)
	}
	proxies := httpproxy.FromEnvironment()
	d := &dialer{settings: s, guard: guard, proxies: proxyAddresses(proxies)}
	proxy := proxies.ProxyFunc()
	base := &http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) {
			if _, ok := s.ConnectTo[HostPort(r.URL)]; ok {
				return nil, nil //nolint:nilnil // no proxy and no error is how http.Transport wants it
			}
			return proxy(r.URL)
		},
		DialContext:            d.dial,
		TLSHandshakeTimeout:    s.DialTimeout,
		IdleConnTimeout:        idleTimeout,
		MaxIdleConnsPerHost:    16,
		MaxResponseHeaderBytes: maxHeaderBytes,
		// HTTP/1.1: one request, one answer, and no replay by the protocol. Token endpoints are asked seldom.
		ForceAttemptHTTP2: false,
		TLSNextProto:      map[string]func(string, *tls.Conn) http.RoundTripper{},
	}
	t := &Transport{settings: s, guard: guard, make: func(trusted *x509.CertPool) *connections {
		c := &connections{reused: base.Clone(), fresh: base.Clone()}
		for _, tr := range []*http.Transport{c.reused, c.fresh} {
			tr.TLSClientConfig = &tls.Config{RootCAs: trusted, MinVersion: tls.VersionTLS12}
		}
		c.fresh.DisableKeepAlives = true
		return c
	}}
	t.roots.current = t.make(trusted)
	t.roots.seen = seenOf(s.CAFile)
	return t, nil
}

// Close ends idle connections.
func (t *Transport) Close() {
	t.roots.mu.Lock()
	defer t.roots.mu.Unlock()
	t.roots.current.close()
}

func (c *connections) close() {
	c.reused.CloseIdleConnections()
	c.fresh.CloseIdleConnections()
}

// proxyAddresses are the addresses of the operator's own proxies, which may be private.
func proxyAddresses(c *httpproxy.Config) []string {
	var out []string
	for _, p := range []string{c.HTTPProxy, c.HTTPSProxy} {
		if !strings.Contains(p, "://") {
			p = "http://" + p
		}
		if u, err := url.Parse(p); err == nil && u.Host != "" {
			out = append(out, HostPort(u))
		}
	}
	return out
}

type dialer struct {
	settings Settings
	guard    *guard
	proxies  []string
}

func (d *dialer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	nd := &net.Dialer{Timeout: d.settings.DialTimeout, KeepAlive: idleTimeout}
	if to, ok := d.settings.ConnectTo[strings.ToLower(addr)]; ok {
		return nd.DialContext(ctx, network, to)
	}
	if !slices.Contains(d.proxies, strings.ToLower(addr)) {
		nd.Control = d.guard.dialled
	}
	return nd.DialContext(ctx, network, addr)
}

// ErrNoURL says that something is no URL of a kind that is asked.
var ErrNoURL = errors.New("is not an absolute https URL")

var errNotHTTPS = errors.New("only https is allowed; the operator may allow a host with upstream.allow_http")

// Allowed holds a URL against the rules that do not need an address: it fails with ErrNoURL, or where TLS is missing. A nil
// Transport allows https alone.
func (t *Transport) Allowed(u *url.URL) error {
	if u.Host == "" || u.User != nil || u.Opaque != "" || !hostLike(u.Hostname()) {
		return ErrNoURL
	}
	switch u.Scheme {
	case "https":
	case "http":
		if t == nil || !slices.Contains(t.settings.AllowHTTP, strings.ToLower(u.Host)) && !slices.Contains(t.settings.AllowHTTP, strings.ToLower(u.Hostname())) {
			return errNotHTTPS
		}
	default:
		return ErrNoURL
	}
	return nil
}

func hostLike(h string) bool {
	if _, err := netip.ParseAddr(h); err == nil {
		return true
	}
	return IsHost(h) && !strings.Contains(h, ":")
}

var hostWord = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)

// IsHost reports whether a text is a host's name, with a port or without.
func IsHost(s string) bool {
	host, port, found := strings.Cut(s, ":")
	return hostWord.MatchString(host) && !strings.Contains(host, "..") && (!found || IsPort(port))
}

// isHostPort reports whether a text is a host's name or an address, and a port.
func isHostPort(s string) bool {
	host, port, err := net.SplitHostPort(s)
	return err == nil && hostLike(host) && IsPort(port)
}

// IsPort reports whether a text is a port's number.
func IsPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

// HostPort is host:port, the scheme's port where none is written.
func HostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = "443"
		if u.Scheme == "http" {
			port = "80"
		}
	}
	return net.JoinHostPort(strings.ToLower(u.Hostname()), port)
}

// Origin is a URL's origin (RFC 6454 section 6.2), without the port that its scheme implies.
func Origin(u *url.URL) string {
	host := HostPort(u)
	switch u.Scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	}
	return u.Scheme + "://" + host
}
