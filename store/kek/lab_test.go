package kek_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/devcerts"
	"github.com/tokenbroker/tokenbroker/internal/installed"
	"github.com/tokenbroker/tokenbroker/internal/leaktest"
	"github.com/tokenbroker/tokenbroker/store/kek"
)

// A lab is a KEK of a real part or of a double, and what can be done to it.
type lab struct {
	name     string
	uri      string
	other    string // another key at the same place
	settings kek.Settings
	// at gives URI and settings of the same key at another address; nil: it has none.
	at func(base string) (string, kek.Settings)
	// rotate makes a new version of the key, and lets the former ones unwrap.
	rotate func(t *testing.T)
	// secrets are the credentials that it is asked with.
	secrets []string
}

func (l *lab) open(t testing.TB) kek.KEK { return open(t, l.uri, l.settings) }

func open(t testing.TB, uri string, s kek.Settings) kek.KEK {
	t.Helper()
	k, err := kek.Open(t.Context(), uri, s)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const planted = "planted keyset, which no log and no error may have"

// labs are all of them. A part that is not installed is skipped, but in CI.
var labs = map[string]func(t *testing.T) *lab{"file": fileLab, "transit": transitLab, "aws": awsLab, "gcp": gcpLab}

func each(t *testing.T, do func(t *testing.T, l *lab)) {
	for name, start := range labs {
		t.Run(name, func(t *testing.T) {
			l := start(t)
			l.name = name
			do(t, l)
		})
	}
}

// remote are those that are asked over a network.
func remote(t *testing.T, do func(t *testing.T, l *lab)) {
	each(t, func(t *testing.T, l *lab) {
		if l.at == nil {
			t.Skip("nothing is asked")
		}
		do(t, l)
	})
}

// refuses holds an error against what every failure has to be.
func (l *lab) refuses(t *testing.T, what string, err error, kinds ...kek.Kind) {
	t.Helper()
	var f *kek.Failure
	if !errors.As(err, &f) {
		t.Errorf("%s: got %v, want a *kek.Failure", what, err)
		return
	}
	if len(kinds) > 0 {
		fits := false
		for _, k := range kinds {
			fits = fits || f.Kind == k && errors.Is(err, k)
		}
		if !fits {
			t.Errorf("%s: got %v (%s), want %s", what, err, f.Kind.Name(), kinds[0].Name())
		}
	}
	if f.Passes() != (f.Kind == kek.Away) {
		t.Errorf("%s: %s passes: %v", what, f.Kind.Name(), f.Passes())
	}
	if !strings.Contains(f.Detail, ":") && !strings.Contains(f.Detail, "given up") {
		t.Errorf("%s: %q does not say what to do", what, f.Detail)
	}
	l.silent(t, what, err)
}

// upstreamText is in what faulty servers say.
const upstreamText = "text of the upstream"

func (l *lab) silent(t *testing.T, what string, values ...any) {
	t.Helper()
	var b bytes.Buffer
	for _, v := range values {
		fmt.Fprintf(&b, "%v %+v %#v %s %q\n", v, v, v, v, v)
	}
	for _, found := range leaktest.Find(b.Bytes(), append([]string{planted, upstreamText}, l.secrets...)) {
		t.Errorf("%s leaks %v", what, found)
	}
}

func wrap(t testing.TB, k kek.KEK, plaintext, associated string) []byte {
	t.Helper()
	w, err := k.Wrap(t.Context(), []byte(plaintext), []byte(associated))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func unwraps(t testing.TB, k kek.KEK, wrapped []byte, plaintext, associated string) {
	t.Helper()
	if got, err := k.Unwrap(t.Context(), wrapped, []byte(associated)); err != nil || string(got) != plaintext {
		t.Errorf("unwrap: got %d bytes, %v, want %d", len(got), err, len(plaintext))
	}
}

// random is a secret of a test.
func random() string { return rand.Text() }

var authority = sync.OnceValues(func() (*devcerts.Authority, error) {
	return devcerts.NewAuthority("KMSs of tests", "", time.Hour)
})

func ca(t testing.TB) *devcerts.Authority {
	t.Helper()
	a, err := authority()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func write(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func caFile(t testing.TB, a *devcerts.Authority) string { return write(t, "ca.pem", a.PEM()) }

// certificate is one of a's that lives so long.
func certificate(t testing.TB, a *devcerts.Authority, life time.Duration, edit func(*x509.Certificate)) devcerts.Pair {
	t.Helper()
	p, err := a.Issue(life, edit)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func pair(t testing.TB, p devcerts.Pair) tls.Certificate {
	t.Helper()
	c, err := tls.X509KeyPair(p.Certificate, p.Key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// overTLS serves a handler with a certificate of the tests' authority, and gives its host and port.
func overTLS(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair(t, certificate(t, ca(t), time.Hour, devcerts.Loopback))}}
	s.Config.ErrorLog = quiet
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// front puts TLS before a server without.
func front(t testing.TB, address string) string {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return overTLS(t, &httputil.ReverseProxy{Transport: transport, ErrorLog: quiet, Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(&url.URL{Scheme: "http", Host: address})
		r.Out.Host = r.In.Host // what is signed
	}})
}

// A process ends with its input, or is killed when the test ends.
type process struct{ address, root string }

// kmstest starts internal/kmstest.
func kmstest(t testing.TB) *process {
	t.Helper()
	p := &process{root: random()}
	cmd := exec.CommandContext(t.Context(), installed.Tool(t, "kmstest"))
	cmd.Stderr = t.Output()
	in, out := installed.Start(t, cmd)
	fmt.Fprintln(in, p.root)
	line, err := bufio.NewReader(out).ReadString('\n')
	var said struct{ Address string }
	if err != nil || json.Unmarshal([]byte(line), &said) != nil {
		t.Fatalf("kmstest says %q: %v", line, err)
	}
	p.address = said.Address
	return p
}

// order asks a part for something as its administrator.
func order(t testing.TB, method, url string, header http.Header, body any) []byte {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), method, url, bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = header
	return do(t, r)
}

func do(t testing.TB, r *http.Request) []byte {
	t.Helper()
	r.Close = true
	res, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(res.Body); err != nil || res.StatusCode >= 300 {
		t.Fatalf("%s %s: %d %s, %v", r.Method, r.URL, res.StatusCode, b.Bytes(), err)
	}
	return b.Bytes()
}
