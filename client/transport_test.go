package client_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/tokenbroker/tokenbroker/client"
	"github.com/tokenbroker/tokenbroker/client/clienttest"
)

// api is a protected API: it accepts one token, and says what it was asked.
type api struct {
	*httptest.Server
	accepts atomic.Value // what Authorization has to be
	calls   atomic.Int64
}

func newAPI(t *testing.T) *api {
	t.Helper()
	a := &api{}
	a.accepts.Store("")
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.calls.Add(1)
		if want := a.accepts.Load(); want != "" && r.Header.Get("Authorization") != want {
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, "refused")
			return
		}
		body, _ := io.ReadAll(r.Body)
		_, _ = fmt.Fprintf(w, "%s %s|%s|%s|%s", r.Method, r.URL.RequestURI(), r.Header.Get("Authorization"), r.Header.Get("Cookie"), body)
	}))
	t.Cleanup(a.Close)
	return a
}

// read is the status and the body of an answer.
func read(t *testing.T, res *http.Response, err error) (int, string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// TestAllThatATokenNeedsIsOnTheRequest: headers, cookies and query parameters take the place of those of the same names, and nothing else is touched.
func TestAllThatATokenNeedsIsOnTheRequest(t *testing.T) {
	a, b := newAPI(t), clienttest.New(t)
	b.Has("main", func(int) client.Token {
		return client.Token{
			BaseURL: a.URL + "/v2/", Headers: []client.Field{{Name: "authorization", Value: "Bearer t"}},
			Cookies: []client.Field{{Name: "session", Value: `a b"c`}}, Query: []client.Field{{Name: "api key", Value: "1&2"}},
		}
	})
	s := b.Client(t).Source("main")
	for _, x := range []struct{ url, cookie, want string }{
		{"/members", "", `GET /v2/members?api+key=1%262|Bearer t|session=a b"c|`},
		{"members?z=%7E&api+key=old&y", "", `GET /v2/members?z=%7E&y&api+key=1%262|Bearer t|session=a b"c|`},
		{a.URL + "/other?a=1", "theme=dark; session=old", `GET /other?a=1&api+key=1%262|Bearer t|theme=dark; session=a b"c|`},
		{strings.ToUpper(a.URL[:4]) + a.URL[4:] + "/x%2Fy", "", `GET /x%2Fy?api+key=1%262|Bearer t|session=a b"c|`},
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, x.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer of somebody else")
		if x.cookie != "" {
			r.Header.Set("Cookie", x.cookie)
		}
		res, err := s.HTTPClient().Do(r)
		if code, got := read(t, res, err); code != http.StatusOK || got != x.want {
			t.Errorf("%s: got %d %s\nwant %s", x.url, code, got, x.want)
		}
		if r.Header.Get("Authorization") != "Bearer of somebody else" || r.URL.RawQuery != "" && strings.Contains(r.URL.RawQuery, "%26") {
			t.Error("the caller's request was changed")
		}
	}
}

// TestATokenGoesNowhereElse: another host, port or scheme, a Host header that says otherwise, and a redirect.
func TestATokenGoesNowhereElse(t *testing.T) {
	a, other, b := newAPI(t), newAPI(t), clienttest.New(t)
	b.Has("main", clienttest.Bearer("main", a.URL))
	b.Has("placeless", clienttest.Bearer("placeless", ""))
	c := b.Client(t)
	for _, url := range []string{other.URL, strings.Replace(a.URL, "http://", "https://", 1), "http://localhost.example/"} {
		res, err := c.Source("main").HTTPClient().Get(url)
		if err == nil {
			_ = res.Body.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "has tokens for "+a.URL) {
			t.Errorf("%s: got %v", url, err)
		}
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "elsewhere.example"
	if res, err := c.Source("main").HTTPClient().Do(r); err == nil {
		_ = res.Body.Close()
		t.Error("another Host was sent")
	}
	r.Host, r.URL.Opaque = "", "/x"
	if res, err := c.Source("main").HTTPClient().Do(r); err == nil || !strings.Contains(err.Error(), "Opaque") {
		if err == nil {
			_ = res.Body.Close()
		}
		t.Errorf("an opaque address: got %v", err)
	}
	if res, err := c.Source("placeless").HTTPClient().Get(a.URL); err == nil || !strings.Contains(err.Error(), "WithOrigin") {
		if err == nil {
			_ = res.Body.Close()
		}
		t.Errorf("got %v", err)
	}
	res, err := c.Source("placeless", client.WithOrigin(a.URL)).HTTPClient().Get("/x")
	if code, got := read(t, res, err); code != http.StatusOK || got != "GET /x|Bearer placeless-1||" {
		t.Errorf("got %d %s", code, got)
	}
	if other.calls.Load() != 0 {
		t.Error("another place was asked")
	}
	from := httptest.NewServer(http.RedirectHandler(other.URL+"/file", http.StatusFound))
	t.Cleanup(from.Close)
	b.Has("redirected", clienttest.Bearer("redirected", from.URL))
	res, err = c.Source("redirected").HTTPClient().Get("/download")
	if code, got := read(t, res, err); code != http.StatusOK || got != "GET /file|||" {
		t.Errorf("along a redirect: got %d %s", code, got)
	}
}

// TestNoRedirectIsFollowedElsewhereFromATokenInTheQuery: an API may repeat the address that it was asked by, in any form.
func TestNoRedirectIsFollowedElsewhereFromATokenInTheQuery(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("another origin was asked for %s", r.RequestURI)
	}))
	defer other.Close()
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", other.URL+map[string]string{
			"/plain": "/file", "/query": "/?" + r.URL.RawQuery, "/base64": "/?state=" + base64.URLEncoding.EncodeToString([]byte(r.URL.String())),
			"/json": `/?n="https:\/\/` + strings.ReplaceAll(r.URL.RawQuery, "/", `\/`), "/six": "/?n=" + times(6, url.QueryEscape, r.URL.RawQuery),
		}[r.URL.Path])
		w.WriteHeader(http.StatusFound)
	}))
	defer api.Close()
	b := clienttest.New(t)
	b.Has("main", func(int) client.Token {
		return client.Token{AccessToken: "sec/ret", BaseURL: api.URL, Query: []client.Field{{Name: "access_token", Value: "sec/ret"}}}
	})
	for _, path := range []string{"/plain", "/query", "/base64", "/json", "/six"} {
		res, err := b.Client(t).Source("main").HTTPClient().Get(path + "?a=1")
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusFound || res.Header.Get("Location") != "" {
			t.Errorf("%s: got %s, to %q", path, res.Status, res.Header.Get("Location"))
		}
	}
}

func times(n int, f func(string) string, s string) string {
	for range n {
		s = f(s)
	}
	return s
}

// TestAHostThatReadsAsTheAPIIsAnother: to Unicode İ is an i, and in DNS it is not.
func TestAHostThatReadsAsTheAPIIsAnother(t *testing.T) {
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", r.URL.Query().Get("to"))
		w.WriteHeader(http.StatusFound)
	}))
	defer api.Close()
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if len(r.Header["Authorization"]) > 0 {
			t.Errorf("%s has the token", r.Host)
		}
	}))
	defer other.Close()
	base := &http.Transport{DialContext: func(ctx context.Context, network, address string) (net.Conn, error) { // as DNS would have it
		to := other.Listener.Addr().String()
		if strings.EqualFold(address, "api.example.com:80") {
			to = api.Listener.Addr().String()
		}
		return (&net.Dialer{}).DialContext(ctx, network, to)
	}}
	defer base.CloseIdleConnections()
	b := clienttest.New(t)
	b.Has("main", clienttest.Bearer("main", "http://api.example.com"))
	c := &http.Client{Transport: &client.Transport{Source: b.Client(t).Source("main"), Base: base}}
	for _, tt := range []struct {
		at   string
		asks bool
	}{
		{"http://ap\u0130.example.com/", false}, {"http://ap%C4%B0.example.com/", false},
		{"http://api.example.com/?to=http://ap%25C4%25B0.example.com/", true}, {"http://API.example.com/?to=http://ap%C4%B0.example.com/", true},
	} {
		res, err := c.Get(tt.at)
		if err == nil {
			_ = res.Body.Close()
		}
		if (err == nil) != tt.asks {
			t.Errorf("%s: got %v", tt.at, err)
		}
	}
}

// TestWhatFollowsAnAnswerHasNoToken of the query: no Referer, no error, and not what the caller sees of the request, whatever the API writes into a Location.
func TestWhatFollowsAnAnswerHasNoToken(t *testing.T) {
	var referer string
	other := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("another origin was asked for %s", r.RequestURI)
	}))
	defer other.Close()
	api := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("access_token") != "secret" {
			t.Errorf("%s came without the token", r.URL)
		}
		referer = cmp.Or(r.Referer(), referer)
		to := map[string]string{"/dir": "/dir/?" + r.URL.RawQuery, "/dir/": other.URL + "/file", "/bad": "http://%zz/?" + r.URL.RawQuery, "/mail": "mailto:x@y?" + r.URL.RawQuery,
			"/here": "/there?next=" + url.QueryEscape(r.URL.String()), "/login": other.URL + "/login?next=" + url.QueryEscape(r.URL.String()), "/twice": other.URL + "/login?next=" + url.QueryEscape(url.QueryEscape(r.URL.String())),
			"/matrix": other.URL + "/login;" + r.URL.RawQuery, "/path": other.URL + "/" + url.PathEscape(r.URL.String())}[r.URL.Path]
		if to != "" {
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusFound)
		}
	}))
	defer api.Close()
	b := clienttest.New(t)
	b.Has("main", func(int) client.Token {
		return client.Token{AccessToken: "secret", BaseURL: api.URL, Query: []client.Field{{Name: "access_token", Value: "secret"}}}
	})
	roots := x509.NewCertPool()
	roots.AddCert(api.Certificate())
	base := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	defer base.CloseIdleConnections()
	c := &http.Client{Transport: &client.Transport{Source: b.Client(t).Source("main"), Base: base}}
	for _, path := range []string{"/dir?page=1", "/bad?page=1", "/mail?page=1", "/nothing?page=1", "/here", "/login", "/twice", "/matrix", "/path"} {
		res, err := c.Get(api.URL + path)
		said := fmt.Sprint(err)
		if err == nil {
			_ = res.Body.Close()
			said = fmt.Sprint(res.Request.URL, res.Header)
		}
		if strings.Contains(said, "secret") {
			t.Errorf("%s: the token is in %s", path, said)
		}
	}
	if want := api.URL + "/dir?page=1"; referer != want {
		t.Errorf("the API was told of %s, want %s", referer, want)
	}
}

// TestARedirectBackBringsNoToken: whoever the API has sent a request to does not choose what is asked of the API with the token.
func TestARedirectBackBringsNoToken(t *testing.T) {
	var api, other *httptest.Server
	var seen []string
	note := func(r *http.Request) {
		seen = append(seen, r.URL.Path+" "+r.Header.Get("Authorization"))
	}
	api = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		note(r)
		switch r.URL.Path {
		case "/v1/out", "/v1/hop":
			http.Redirect(w, r, map[string]string{"/v1/out": other.URL + "/other", "/v1/hop": "/v2/out"}[r.URL.Path], http.StatusTemporaryRedirect)
		case "/v2/out":
			w.Header().Set("Location", "//"+strings.TrimPrefix(other.URL, "http://")+"/other")
			w.WriteHeader(http.StatusFound)
		}
	}))
	defer api.Close()
	other = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		note(r)
		http.Redirect(w, r, api.URL+"/v1/delete", http.StatusTemporaryRedirect)
	}))
	defer other.Close()
	b := clienttest.New(t)
	b.Has("main", clienttest.Bearer("main", api.URL+"/v1"))
	for from, want := range map[string][]string{
		"/out":                                {"/v1/out Bearer main-1", "/other ", "/v1/delete "},
		api.URL + "/v1/out":                   {"/v1/out Bearer main-1", "/other ", "/v1/delete "},
		"/hop":                                {"/v1/hop Bearer main-1", "/v2/out Bearer main-1", "/other ", "/v1/delete "},
		"/here/../x":                          {"/v1/x Bearer main-1"},
		"/../../etc":                          nil,
		"/../v12":                             nil,
		"/%2e%2e/admin":                       nil,
		"/.%2e/admin":                         nil,
		`/..%5cadmin`:                         nil,
		"/..;/admin":                          nil,
		"/..%3f/admin":                        nil,
		"/..%23/admin":                        nil,
		"/%252e%252e/admin":                   nil,
		"/..%252fadmin":                       nil,
		"/100%25/%252e%252e/%252e%252e/admin": nil,
		"/100%25/..%252fadmin":                nil,
		"/%25%32%65%25%32%65/admin":           nil,
		"/100%25/..x":                         {"/v1/100%/..x Bearer main-1"},
		"/x/..y":                              {"/v1/x/..y Bearer main-1"},
	} {
		for _, base := range []http.RoundTripper{nil, silent{}} {
			seen = nil
			res, err := (&http.Client{Transport: &client.Transport{Source: b.Client(t).Source("main"), Base: base}}).Get(from)
			if err == nil {
				_ = res.Body.Close()
			}
			if !slices.Equal(seen, want) || (err != nil) != (want == nil) {
				t.Errorf("%s: got %q, %v, want %q", from, seen, err, want)
			}
		}
	}
}

// TestWhereAnotherOriginLeadsWithoutAHostIsNowhere: it is not below the API.
func TestWhereAnotherOriginLeadsWithoutAHostIsNowhere(t *testing.T) {
	for _, location := range []string{"https:/admin", "https:///admin", "http:///admin", "x:/admin"} {
		other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", location)
			w.WriteHeader(http.StatusTemporaryRedirect)
		}))
		asked := 0
		api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if asked++; asked > 1 {
				t.Errorf("%s: the API was asked for %s", location, r.URL)
			}
			w.Header().Set("Location", map[string]string{"/v1/out": other.URL, "/v1/here": location}[r.URL.Path])
			w.WriteHeader(http.StatusTemporaryRedirect)
		}))
		b := clienttest.New(t)
		b.Has("main", clienttest.Bearer("main", api.URL+"/v1"))
		for _, c := range []*http.Client{
			b.Client(t).Source("main").HTTPClient(), {Transport: &client.Transport{Source: b.Client(t).Source("main"), Base: silent{}}},
		} {
			for _, path := range []string{"/out", "/here"} {
				asked = 0
				res, err := c.Post(path, "text/plain", strings.NewReader("the body"))
				if err == nil {
					_ = res.Body.Close()
					t.Errorf("%s from %s: got %s", location, path, res.Status)
				}
			}
		}
		api.Close()
		other.Close()
	}
}

// A silent RoundTripper does not say of an answer what was asked, which net/http asks of none.
type silent struct{}

func (silent) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := http.DefaultTransport.RoundTrip(r)
	if err == nil {
		res.Request = nil
	}
	return res, err
}

// TestARefusedTokenIsReplacedAndTheRequestSentAgain, where its body can be.
func TestARefusedTokenIsReplacedAndTheRequestSentAgain(t *testing.T) {
	a, b := newAPI(t), clienttest.New(t)
	b.Has("main", clienttest.Bearer("main", a.URL))
	s := b.Client(t).Source("main")
	mustToken(t, s)
	a.accepts.Store("Bearer main-2")
	res, err := s.HTTPClient().Post("/x", "text/plain", strings.NewReader("the body"))
	if code, got := read(t, res, err); code != http.StatusOK || got != "POST /x|Bearer main-2||the body" {
		t.Errorf("got %d %s", code, got)
	}
	a.accepts.Store("Bearer main-3")
	res, err = s.HTTPClient().Post("/x", "text/plain", io.NopCloser(strings.NewReader("once")))
	if code, got := read(t, res, err); code != http.StatusUnauthorized || got != "refused" {
		t.Errorf("a body that cannot be sent again: got %d %s", code, got)
	}
	res, err = s.HTTPClient().Get("/x")
	if code, got := read(t, res, err); code != http.StatusOK || got != "GET /x|Bearer main-3||" {
		t.Errorf("the next request: got %d %s", code, got)
	}
	// One that the API refuses whatever it brings is sent twice, not for ever.
	a.accepts.Store("nobody")
	asked := a.calls.Load()
	res, err = s.HTTPClient().Get("/x")
	if code, got := read(t, res, err); code != http.StatusUnauthorized || got != "refused" || a.calls.Load() != asked+2 {
		t.Errorf("got %d %s after %d requests", code, got, a.calls.Load()-asked)
	}
	// Where the broker has no other, the API's answer is the answer.
	b.Fails("main", codes.Unavailable, "UPSTREAM_UNAVAILABLE", 0)
	res, err = s.HTTPClient().Get("/x")
	if code, got := read(t, res, err); code != http.StatusUnauthorized || got != "refused" {
		t.Errorf("got %d %s", code, got)
	}
	if res, err := s.HTTPClient().Get("/x"); client.Reason(errors.Unwrap(err)) != "UPSTREAM_UNAVAILABLE" {
		if err == nil {
			_ = res.Body.Close()
		}
		t.Errorf("got %v", err)
	}
}

// TestRejectsIsAskedWhatAnAnswerMeans: some APIs say with 403, or inside of a 200, that a token is refused.
func TestRejectsIsAskedWhatAnAnswerMeans(t *testing.T) {
	b := clienttest.New(t)
	a := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") == "Bearer main-1" {
			w.Header().Set("X-Error", "token")
		}
	}))
	t.Cleanup(a.Close)
	b.Has("main", clienttest.Bearer("main", a.URL))
	s := b.Client(t).Source("main")
	transport := &client.Transport{Source: s, Rejects: func(r *http.Response) bool { return r.Header.Get("X-Error") != "" }}
	res, err := (&http.Client{Transport: transport}).Get("/")
	if code, _ := read(t, res, err); code != http.StatusOK || res.Header.Get("X-Error") != "" || mustToken(t, s).AccessToken != "main-2" {
		t.Errorf("got %d %q", code, res.Header)
	}
}

// TestABodyIsClosedWhateverHappens as http.RoundTripper promises.
func TestABodyIsClosedWhateverHappens(t *testing.T) {
	b := clienttest.New(t)
	b.Has("main", clienttest.Bearer("main", "https://api.example"))
	b.Fails("failing", codes.Unavailable, "UPSTREAM_UNAVAILABLE", 0)
	for _, name := range []string{"main", "failing"} {
		body := &closing{Reader: bytes.NewReader(nil)}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://other.example/", body)
		if err != nil {
			t.Fatal(err)
		}
		res, err := (&client.Transport{Source: b.Client(t).Source(name)}).RoundTrip(r)
		if err == nil {
			_ = res.Body.Close()
		}
		if err == nil || !body.closed.Load() {
			t.Errorf("%s: %v, closed: %v", name, err, body.closed.Load())
		}
	}
}

type closing struct {
	io.Reader
	closed atomic.Bool
}

func (c *closing) Close() error {
	c.closed.Store(true)
	return nil
}
