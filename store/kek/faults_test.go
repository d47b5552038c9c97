package kek_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/devcerts"
	"github.com/tokenbroker/tokenbroker/store/kek"
)

// raw listens on loopback, and does this with each connection, until the test ends.
func raw(t testing.TB, do func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			do(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

// says is a server that answers each request so.
func says(status int, header http.Header, body string) func(t testing.TB) string {
	return func(t testing.TB) string {
		return overTLS(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for k, v := range header {
				w.Header()[k] = v
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}))
	}
}

// rawTLS is raw with TLS.
func rawTLS(t testing.TB, config *tls.Config, do func(net.Conn)) string {
	if config.Certificates == nil {
		config.Certificates = []tls.Certificate{pair(t, certificate(t, ca(t), time.Hour, devcerts.Loopback))}
	}
	return raw(t, func(c net.Conn) {
		s := tls.Server(c, config)
		if s.HandshakeContext(t.Context()) == nil {
			do(s)
		}
		_ = s.Close()
	})
}

func readRequest(c net.Conn) { _, _ = c.Read(make([]byte, 64<<10)) }

const errorBody = `{"errors": ["` + upstreamText + `"], "__type": "` + upstreamText + `", "error": {"status": "` + upstreamText + `", "message": "` + upstreamText + `"}}`

var faults = []struct {
	name  string
	start func(t testing.TB) string
	want  kek.Kind
}{
	{"nobody listens", func(t testing.TB) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}, kek.Away},
	{"hangs before TLS", func(t testing.TB) string { return raw(t, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }) }, kek.Away},
	{"hangs before its answer", func(t testing.TB) string {
		return rawTLS(t, &tls.Config{}, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
	}, kek.Away},
	{"hangs within its answer", func(t testing.TB) string {
		return rawTLS(t, &tls.Config{}, func(c net.Conn) {
			readRequest(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
			_, _ = io.Copy(io.Discard, c)
		})
	}, kek.Away},
	{"closes before TLS", func(t testing.TB) string { return raw(t, func(net.Conn) {}) }, kek.Away},
	{"closes before its answer", func(t testing.TB) string { return rawTLS(t, &tls.Config{}, readRequest) }, kek.Away},
	{"closes within its answer", func(t testing.TB) string {
		return rawTLS(t, &tls.Config{}, func(c net.Conn) {
			readRequest(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
		})
	}, kek.Away},
	{"500", says(500, nil, errorBody), kek.Away},
	{"503", says(503, nil, errorBody), kek.Away},
	{"429", says(429, http.Header{"Retry-After": {"1"}}, errorBody), kek.Away},
	{"401", says(401, nil, errorBody), kek.Refused},
	{"403", says(403, nil, errorBody), kek.Refused},
	{"418", says(418, nil, errorBody), kek.Untrusted},
	{"an empty 200", says(200, nil, ""), kek.Untrusted},
	{"a page", says(200, nil, "<html>"+upstreamText), kek.Untrusted},
	{"another JSON", says(200, nil, `{"`+upstreamText+`": 1}`), kek.Untrusted},
	{"a list", says(200, nil, `[]`), kek.Untrusted},
	{"numbers for texts", says(200, nil, `{"data": {"ciphertext": 1, "plaintext": 1, "type": 1}, "Plaintext": 1, "CiphertextBlob": 1, "plaintext": 1, "ciphertext": 1}`), kek.Untrusted},
	{"a huge answer", func(t testing.TB) string {
		return overTLS(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			chunk := bytes.Repeat([]byte(" "), 64<<10)
			for range 1 << 10 { // 64 MiB, if somebody takes them
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}))
	}, kek.Untrusted},
	{"an endless header", func(t testing.TB) string {
		return rawTLS(t, &tls.Config{}, func(c net.Conn) {
			readRequest(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nX: ")
			for range 1 << 10 {
				if _, err := c.Write(bytes.Repeat([]byte("x"), 64<<10)); err != nil {
					return
				}
			}
		})
	}, kek.Untrusted},
	{"no HTTP", func(t testing.TB) string {
		return rawTLS(t, &tls.Config{}, func(c net.Conn) {
			readRequest(c)
			_, _ = io.WriteString(c, upstreamText+"\r\n\r\n")
		})
	}, kek.Untrusted},
	{"no TLS", func(t testing.TB) string {
		s := httptest.NewServer(http.NotFoundHandler())
		t.Cleanup(s.Close)
		return s.Listener.Addr().String()
	}, kek.Untrusted},
	{"no TLS, and no HTTP", func(t testing.TB) string {
		return raw(t, func(c net.Conn) { _, _ = io.WriteString(c, "220 mail.example ESMTP\r\n"); readRequest(c) })
	}, kek.Untrusted},
	{"another authority", func(t testing.TB) string {
		other, err := devcerts.NewAuthority("others", "", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		return rawTLS(t, &tls.Config{Certificates: []tls.Certificate{pair(t, certificate(t, other, time.Hour, devcerts.Loopback))}}, readRequest)
	}, kek.Untrusted},
	{"a certificate that has ended", func(t testing.TB) string {
		p := certificate(t, ca(t), time.Hour, func(c *x509.Certificate) {
			devcerts.Loopback(c)
			c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
		})
		return rawTLS(t, &tls.Config{Certificates: []tls.Certificate{pair(t, p)}}, readRequest)
	}, kek.Untrusted},
	{"a certificate of another name", func(t testing.TB) string {
		p := certificate(t, ca(t), time.Hour, func(c *x509.Certificate) { c.DNSNames = []string{"other.example"} })
		return rawTLS(t, &tls.Config{Certificates: []tls.Certificate{pair(t, p)}}, readRequest)
	}, kek.Untrusted},
	{"a certificate of a client", func(t testing.TB) string {
		p := certificate(t, ca(t), time.Hour, func(c *x509.Certificate) {
			devcerts.Loopback(c)
			c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
		})
		return rawTLS(t, &tls.Config{Certificates: []tls.Certificate{pair(t, p)}}, readRequest)
	}, kek.Untrusted},
	{"TLS 1.1", func(t testing.TB) string {
		return rawTLS(t, &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, readRequest)
	}, kek.Refused},
	{"wants a client certificate", func(t testing.TB) string {
		return rawTLS(t, &tls.Config{ClientAuth: tls.RequireAnyClientCert}, readRequest)
	}, kek.Refused},
}

func TestWhoIsAway(t *testing.T) {
	remote(t, func(t *testing.T, l *lab) {
		w := wrap(t, l.open(t), planted, "its place")
		for _, fault := range faults {
			t.Run(fault.name, func(t *testing.T) {
				t.Parallel()
				uri, s := l.at("https://" + fault.start(t))
				if strings.HasPrefix(fault.name, "hangs") {
					s.Timeout = 100 * time.Millisecond
				}
				k := open(t, uri, s)
				_, err := k.Wrap(t.Context(), []byte(planted), []byte("its place"))
				l.refuses(t, "wrap", err, fault.want)
				got, err := k.Unwrap(t.Context(), w, []byte("its place"))
				l.refuses(t, "unwrap", err, fault.want)
				if got != nil {
					t.Error("it gives something all the same")
				}
			})
		}
	})
}

// Who is sent elsewhere goes nowhere, and so their credentials do not.
func TestARedirectIsNotFollowed(t *testing.T) {
	remote(t, func(t *testing.T, l *lab) {
		w := wrap(t, l.open(t), planted, "its place")
		var asked atomic.Int64
		there := overTLS(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
		for _, status := range []int{301, 302, 303, 307, 308} {
			uri, s := l.at("https://" + says(status, http.Header{"Location": {"https://" + there + "/"}}, errorBody)(t))
			k := open(t, uri, s)
			_, err := k.Wrap(t.Context(), []byte(planted), nil)
			l.refuses(t, fmt.Sprint(status), err, kek.Untrusted)
			_, err = k.Unwrap(t.Context(), w, []byte("its place"))
			l.refuses(t, fmt.Sprint(status), err, kek.Untrusted)
		}
		if n := asked.Load(); n != 0 {
			t.Errorf("the other host was asked %d times", n)
		}
	})
}

func TestACallEndsWithItsContext(t *testing.T) {
	remote(t, func(t *testing.T, l *lab) {
		w := wrap(t, l.open(t), planted, "its place")
		arrived := make(chan struct{}, 10)
		uri, s := l.at("https://" + rawTLS(t, &tls.Config{}, func(c net.Conn) {
			readRequest(c)
			arrived <- struct{}{}
			_, _ = io.Copy(io.Discard, c)
		}))
		s.Timeout = time.Hour
		k := open(t, uri, s)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-arrived
			cancel()
		}()
		_, err := k.Unwrap(ctx, w, []byte("its place"))
		l.refuses(t, "unwrap", err, kek.Away)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v, want context.Canceled", err)
		}
	})
}

func TestAClientCertificateIsShown(t *testing.T) {
	remote(t, func(t *testing.T, l *lab) {
		pool := x509.NewCertPool()
		pool.AddCert(ca(t).Certificate)
		var shown atomic.Bool
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			shown.Store(len(r.TLS.PeerCertificates) == 1)
			w.WriteHeader(http.StatusServiceUnavailable)
		}))
		s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, Certificates: []tls.Certificate{pair(t, certificate(t, ca(t), time.Hour, devcerts.Loopback))}}
		s.Config.ErrorLog = quiet
		s.StartTLS()
		defer s.Close()
		uri, settings := l.at("https://" + s.Listener.Addr().String())
		own := certificate(t, ca(t), time.Hour, devcerts.Loopback)
		settings.CertFile, settings.KeyFile = write(t, "cert.pem", own.Certificate), write(t, "key.pem", own.Key)
		_, err := open(t, uri, settings).Wrap(t.Context(), []byte(planted), nil)
		l.refuses(t, "503", err, kek.Away)
		if !shown.Load() {
			t.Error("it was not shown")
		}
	})
}

// The environment names proxies for whatever else runs there.
func TestNoProxyOfTheEnvironmentIsAsked(t *testing.T) {
	var asked atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked.Add(1) }))
	defer proxy.Close()
	for _, name := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY"} {
		t.Setenv(name, proxy.URL)
	}
	remote(t, func(t *testing.T, l *lab) {
		k := l.open(t)
		unwraps(t, k, wrap(t, k, planted, ""), planted, "")
	})
	if n := asked.Load(); n != 0 {
		t.Errorf("the proxy was asked %d times", n)
	}
}
