package provider

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/provider/transport"
)

const plain = `
inputs: {url: {format: url}, s: {secret: true, optional: true}}
obtain: {post: "{{url}}", form: {s: "{{s}}"}, take: {token: t}}
`

func TestSpecialAddressesAreNotAsked(t *testing.T) {
	v := newVendor(t, jsonSays(`{"t": "x"}`))
	d := v.define(plain)
	_, port, _ := net.SplitHostPort(v.server.Listener.Addr().String())
	for _, url := range []string{
		"https://127.0.0.1:" + port, "https://localhost:" + port, "https://169.254.169.254/latest/meta-data", "https://10.0.0.1", "https://192.168.1.1",
		"https://[::1]:" + port, "https://[fe80::1]", "https://[::ffff:127.0.0.1]:" + port, "https://0.0.0.0:" + port, "https://100.64.0.1",
	} {
		_, err := v.obtain(d, credential(map[string]string{"url": url, "!s": "secret"}), broker.Selection{})
		if e := upstreamError(t, err); e.Lost || !strings.Contains(e.Detail, "special address") {
			t.Errorf("%s: got %+v, want a refusal before anything is sent", url, e)
		} else if never := !strings.Contains(e.Detail, "allow_private"); never != (e.Level == broker.LevelCredential) || strings.Contains(url, "169.254.") != never && strings.Contains(url, "10.0.") {
			t.Errorf("%s: got %+v, want a setting that may allow it, or that it does not pass", url, e)
		}
	}
	if n := len(v.requests()); n != 0 {
		t.Errorf("got %d requests, want none", n)
	}
}

func TestTheOperatorMayAllowPrivateAddressesButNoLinkLocalOnes(t *testing.T) {
	v := newVendor(t, jsonSays(`{"t": "x"}`), func(s *transport.Settings) { s.AllowPrivate = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	d := v.define(plain)
	if _, err := v.obtain(d, credential(map[string]string{"url": v.server.URL}), broker.Selection{}); err != nil {
		t.Errorf("got %v of an allowed address", err) // the test server's certificate is for 127.0.0.1 too
	}
	for _, p := range []string{"169.254.0.0/16", "0.0.0.0/0", "::/0", "fe80::/64"} {
		if _, err := transport.New(transport.Settings{AllowPrivate: []netip.Prefix{netip.MustParsePrefix(p)}}); err == nil {
			t.Errorf("%s: it was allowed", p)
		}
	}
}

func TestHTTPNeedsTheOperatorsWord(t *testing.T) {
	srv := httptest.NewServer(jsonSays(`{"t": "x"}`))
	defer srv.Close()
	settings := transport.Settings{ConnectTo: map[string]string{"plain.example:80": srv.Listener.Addr().String()}}
	c := credential(map[string]string{"url": "http://plain.example/t"})
	for _, allowed := range []bool{false, true} {
		if allowed {
			settings.AllowHTTP = []string{"plain.example"}
		}
		tr, err := transport.New(settings)
		if err != nil {
			t.Fatal(err)
		}
		d, _ := parse("", []byte("name: test\n"+plain))
		d.transport = tr
		_, err = d.Exchange(t.Context(), broker.Exchange{Credential: c, BeforeSend: func(string) error { return nil }})
		if (err == nil) != allowed || (len(d.wrong(c)) == 0) != allowed {
			t.Errorf("allowed %v: got %v and violations %v", allowed, err, d.wrong(c))
		}
		tr.Close()
	}
}

func TestARedirectIsAnAnswerAndNeverFollowed(t *testing.T) {
	v := newVendor(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://www.example.com/elsewhere", http.StatusTemporaryRedirect)
	})
	_, err := v.obtain(v.define(oauth), credential(client), broker.Selection{})
	if e := upstreamError(t, err); e.Level != broker.LevelCredential || e.Status != 307 || !strings.Contains(e.Detail, "redirect") {
		t.Errorf("got %+v", e)
	}
	if n := len(v.requests()); n != 1 {
		t.Errorf("got %d requests, want 1: the secret went nowhere else", n)
	}
}

func TestAnAnswerIsBounded(t *testing.T) {
	v := newVendor(t, func(w http.ResponseWriter, _ *http.Request) {
		for range 1000 {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	_, err := v.obtain(v.define(oauth), credential(client), broker.Selection{})
	if e := upstreamError(t, err); !e.Lost || e.Level != broker.LevelResponse || !strings.Contains(e.Detail, "too large") {
		t.Errorf("got %+v", e)
	}
}

func TestWhetherARequestMayHaveBeenProcessed(t *testing.T) {
	cut := func(after string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			conn, buf, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			_, _ = buf.WriteString(after)
			_ = buf.Flush()
			_ = conn.Close()
		}
	}
	v := newVendor(t, nil)
	d := v.define(oauth)
	for name, h := range map[string]http.HandlerFunc{
		"closed without an answer": cut(""),
		"half a header":            cut("HTTP/1.1 200 OK\r\nContent-Le"),
		"half a body":              cut("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"access_token\": \"x\""),
	} {
		v.answer = h
		_, err := v.refresh(d, credential(client), "r", nil)
		if e := upstreamError(t, err); !e.Lost || e.Level != broker.LevelUpstream {
			t.Errorf("%s: got %+v, want lost", name, e)
		}
	}
	n := len(v.requests())
	if n != 3 {
		t.Errorf("got %d requests of 3 exchanges: none is sent twice", n)
	}
	v.server.Close()
	_, err := v.refresh(d, credential(client), "r", nil)
	if e := upstreamError(t, err); e.Lost || len(e.Attempts) != 1 {
		t.Errorf("got %+v of a host that cannot be reached, want not lost", e)
	}
}

func TestARequestThatIsRefusedBeforeItIsSentIsNotSent(t *testing.T) {
	v := newVendor(t, jsonSays(`{"access_token": "t"}`))
	for name, text := range map[string]string{
		"post": oauth,
		"get":  `obtain: {get: "https://example.com/t", take: {token: access_token}}`,
		"none": `obtain: {post: "https://example.com/t", text: "", take: {token: access_token}}`,
	} {
		d := v.define(text)
		_, err := d.Exchange(t.Context(), broker.Exchange{Credential: credential(client), BeforeSend: func(host string) error {
			if host != "example.com:443" {
				t.Errorf("got host %s", host)
			}
			return errors.New("too late")
		}})
		if e := upstreamError(t, err); !e.Refused || e.Lost {
			t.Errorf("%s: got %+v, want refused and not lost", name, e)
		}
	}
	if n := len(v.requests()); n != 0 {
		t.Errorf("got %d requests, want none", n)
	}
}

func TestAnObtainReusesConnectionsAndARefreshHasItsOwn(t *testing.T) {
	v := newVendor(t, jsonSays(`{"access_token": "t"}`))
	d := v.define(oauth)
	for range 5 {
		if _, err := v.obtain(d, credential(client), broker.Selection{}); err != nil {
			t.Fatal(err)
		}
	}
	v.mu.Lock()
	kept := v.opened
	v.mu.Unlock()
	for range 3 {
		if _, err := v.refresh(d, credential(client), "r", nil); err != nil {
			t.Fatal(err)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if kept != 1 || v.opened != 4 {
		t.Errorf("got %d connections for 5 obtains and %d more for 3 refreshes, want 1 and 3", kept, v.opened-kept)
	}
}

// TestAGetOnADeadConnectionIsNotSentTwice: the second request on a kept connection is read and the connection then closed
// without an answer. http.Transport would send a GET again by itself.
func TestAGetOnADeadConnectionIsNotSentTwice(t *testing.T) {
	var n atomic.Int64
	v := newVendor(t, func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) == 1 {
			_, _ = io.WriteString(w, `{"t": "x"}`)
			return
		}
		if conn, _, err := w.(http.Hijacker).Hijack(); err == nil {
			_ = conn.Close()
		}
	})
	d := v.define(`obtain: {get: "https://example.com/t", take: {token: t}}`)
	if _, err := v.obtain(d, credential(nil), broker.Selection{}); err != nil {
		t.Fatal(err)
	}
	_, err := v.obtain(d, credential(nil), broker.Selection{})
	if e := upstreamError(t, err); !e.Lost {
		t.Errorf("got %+v, want lost", e)
	}
	if got := n.Load(); got != 2 {
		t.Errorf("got %d requests, want 2", got)
	}
}

func TestAGetHasNoBodyOnTheWire(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan *http.Request, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		got <- r
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\n{\"t\": \"x\"}")
	}()
	tr, err := transport.New(transport.Settings{ConnectTo: map[string]string{"plain.example:80": l.Addr().String()}, AllowHTTP: []string{"plain.example"}})
	if err != nil {
		t.Fatal(err)
	}
	defer tr.Close()
	d, _ := parse("", []byte("name: test\nobtain: {get: \"http://plain.example/t\", take: {token: t}}"))
	d.transport = tr
	if _, err := d.Exchange(t.Context(), broker.Exchange{BeforeSend: func(string) error { return nil }}); err != nil {
		t.Fatal(err)
	}
	if r := <-got; r.ContentLength != 0 || len(r.TransferEncoding) != 0 {
		t.Errorf("got length %d and encoding %v, want neither", r.ContentLength, r.TransferEncoding)
	}
}

// TestUpstreamsLearnOfATraceWhereTheyMay, and nowhere else.
func TestUpstreamsLearnOfATraceWhereTheyMay(t *testing.T) {
	seen := tracetest.NewSpanRecorder()
	tracer := sdk.NewTracerProvider(sdk.WithSpanProcessor(seen)).Tracer("test")
	for _, may := range []bool{false, true} {
		got := make(chan http.Header, 1)
		srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got <- r.Header }))
		defer srv.Close()
		tr, err := transport.New(transport.Settings{
			ConnectTo: map[string]string{"plain.example:80": srv.Listener.Addr().String()}, AllowHTTP: []string{"plain.example"}, Propagate: may,
		})
		if err != nil {
			t.Fatal(err)
		}
		defer tr.Close()
		ctx, span := tracer.Start(t.Context(), "exchange")
		u := &url.URL{Scheme: "http", Host: "plain.example", Path: "/secret-path"}
		if _, err := tr.Send(ctx, &transport.Request{Method: http.MethodPost, URL: u, Header: http.Header{}}, false, func(string) error { return nil }); err != nil {
			t.Fatal(err)
		}
		span.End()
		h := <-got
		if told := strings.Contains(h.Get("Traceparent"), span.SpanContext().TraceID().String()); told != may || !may && len(h.Values("Traceparent"))+len(h.Values("Tracestate"))+len(h.Values("Baggage")) > 0 {
			t.Errorf("it may be told: %v; it was told %q", may, h.Get("Traceparent"))
		}
	}
	for _, s := range seen.Ended() {
		if text := fmt.Sprint(s.Name(), s.Attributes()); strings.Contains(text, "secret-path") || s.Name() == "POST" && !strings.Contains(text, "plain.example") {
			t.Errorf("the step says %s", text)
		}
	}
}

func TestAnExchangeEndsWithItsContext(t *testing.T) {
	arrived := make(chan struct{})
	v := newVendor(t, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done()
		panic(http.ErrAbortHandler) // no answer: an empty one could still win the race against the cancellation
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	_, err := v.define(oauth).Exchange(ctx, broker.Exchange{Credential: credential(client), BeforeSend: func(string) error { return nil }})
	if e := upstreamError(t, err); e.Detail != "given up before the answer came" || !e.Lost {
		t.Errorf("got %+v, want a lost answer that was given up", e)
	}
	v = newVendor(t, func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	})
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = v.define(oauth).Exchange(ctx, broker.Exchange{Credential: credential(client), BeforeSend: func(string) error { return nil }})
	if e := upstreamError(t, err); e.Detail != "no answer in time" || !e.Lost {
		t.Errorf("got %+v, want a lost answer that ran out of time", e)
	}
}

func TestAProxyOfTheEnvironmentIsUsedButNotForConnectTo(t *testing.T) {
	var connects atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect && r.Host == "proxied.example:443" {
			connects.Add(1)
		}
		w.WriteHeader(http.StatusForbidden)
	}))
	defer proxy.Close()
	t.Setenv("HTTPS_PROXY", proxy.URL)
	v := newVendor(t, jsonSays(`{"t": "x"}`))
	d := v.define(plain)
	_, err := v.obtain(d, credential(map[string]string{"url": "https://proxied.example"}), broker.Selection{})
	if e := upstreamError(t, err); e.Lost || connects.Load() != 1 {
		t.Errorf("got %+v and %d connects, want a failure of the proxy", e, connects.Load())
	}
	if _, err := v.obtain(d, credential(map[string]string{"url": "https://example.com"}), broker.Selection{}); err != nil || connects.Load() != 1 {
		t.Errorf("got %v and %d connects: connect_to goes straight", err, connects.Load())
	}
	_, err = v.obtain(d, credential(map[string]string{"url": "https://169.254.169.254"}), broker.Selection{})
	if e := upstreamError(t, err); !strings.Contains(e.Detail, "special") {
		t.Errorf("got %+v: behind a proxy nobody else checks", e)
	}
}

func TestAHostThatDoesNotSpeakTLSIsSaidToBeOne(t *testing.T) {
	plainly := httptest.NewServer(http.NotFoundHandler())
	defer plainly.Close()
	v := newVendor(t, jsonSays(`{"t": "x"}`), func(s *transport.Settings) { s.ConnectTo["example.com:443"] = plainly.Listener.Addr().String() })
	_, err := v.obtain(v.define(oauth), credential(client), broker.Selection{})
	if e := upstreamError(t, err); e.Lost || !strings.Contains(e.Detail, "does not speak TLS") {
		t.Errorf("got %+v", e)
	}
}

func TestAnUntrustedCertificateIsRefused(t *testing.T) {
	v := newVendor(t, jsonSays(`{"access_token": "t"}`), func(s *transport.Settings) { s.CAFile = "" })
	_, err := v.obtain(v.define(oauth), credential(client), broker.Selection{})
	if e := upstreamError(t, err); e.Lost || !strings.Contains(e.Detail, "certificate") {
		t.Errorf("got %+v", e)
	}
	if len(v.requests()) != 0 {
		t.Error("the secret was sent")
	}
}

// TestRootsThatRotateAreReadAgain: a file of roots that changes holds from the next request on, and one that became wrong is as it was.
func TestRootsThatRotateAreReadAgain(t *testing.T) {
	var ca string
	v := newVendor(t, jsonSays(`{"t": "x"}`), func(s *transport.Settings) { ca = s.CAFile })
	d := v.define("obtain: {post: https://example.com/t, take: {token: t}}")
	right, err := os.ReadFile(ca)
	if err != nil {
		t.Fatal(err)
	}
	wrong := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: selfSigned(t)})
	for i, step := range []struct {
		pem  []byte
		well bool
	}{{right, true}, {wrong, false}, {[]byte("nonsense"), false}, {right, true}, {[]byte("nonsense!"), true}} {
		if err := os.WriteFile(ca, step.pem, 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(int64(1e9+i), 0)
		if err := os.Chtimes(ca, at, at); err != nil {
			t.Fatal(err)
		}
		if _, err := v.obtain(d, credential(nil), broker.Selection{}); (err == nil) != step.well {
			t.Errorf("step %d: got %v", i, err)
		}
	}
}

// selfSigned is a certificate of somebody else.
func selfSigned(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"example.com"}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}
