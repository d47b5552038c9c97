package upstreamsim

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testAgent = "upstreamsim-test/1"

// start returns a running Sim without snov.io's limit, unless opts say otherwise.
func start(t testing.TB, opts Options) *Sim {
	t.Helper()
	if opts.SnovPerMinute == 0 {
		opts.SnovPerMinute = -1
	}
	sim, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	if err := sim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sim.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return sim
}

// newClient returns a client that finds every host at the Sim, with HTTP/2 or without. It follows no redirect.
func newClient(t testing.TB, sim *Sim, h2 bool) *http.Client {
	t.Helper()
	return dialing(t, sim, h2, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", sim.Addr())
	})
}

func dialing(t testing.TB, sim *Sim, h2 bool, dial func(context.Context) (net.Conn, error)) *http.Client {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(sim.CA()) {
		t.Fatal("CA is not a PEM certificate")
	}
	transport := &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		TLSClientConfig:   &tls.Config{RootCAs: pool},
		ForceAttemptHTTP2: h2,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func defaultAccount(t testing.TB, sim *Sim, system System) Account {
	t.Helper()
	a, err := sim.Default(system)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// reply is an answer that was read to its end.
type reply struct {
	status  int
	header  http.Header
	cookies []*http.Cookie
	body    []byte
}

func (r reply) json(t testing.TB) map[string]any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(r.body))
	d.UseNumber()
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		t.Fatalf("answer %d is not JSON: %v", r.status, err)
	}
	return v
}

func (r reply) text(t testing.TB, name string) string {
	t.Helper()
	s, _ := r.json(t)[name].(string)
	return s
}

func send(ctx context.Context, c *http.Client, s spec) (reply, error) {
	r, err := s.request(ctx)
	if err != nil {
		return reply{}, err
	}
	response, err := c.Do(r)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, response.Cookies(), body}, err
}

func mustSend(t testing.TB, c *http.Client, s spec) reply {
	t.Helper()
	r, err := send(t.Context(), c, s)
	if err != nil {
		t.Fatalf("%s %s: %v", s.method, s.url, err)
	}
	return r
}

// presenting is the API request with what the answer brought.
func presenting(t testing.TB, a Account, r reply) spec {
	t.Helper()
	s := spec{method: http.MethodGet, url: a.APIURL, header: http.Header{"User-Agent": {testAgent}}}
	if a.System == DocuWareCookie {
		values := map[string]string{}
		for _, cookie := range r.cookies {
			values[cookie.Name] = cookie.Value // the last one counts
		}
		return s.head("Cookie", cookieAuth+"="+values[cookieAuth]+"; "+cookieBrowser+"="+values[cookieBrowser])
	}
	token := r.text(t, "access_token") + r.text(t, "accessToken")
	if result, ok := r.json(t)["result"].(map[string]any); ok {
		token = result["accessToken"].(string)
	}
	if token == "" {
		t.Fatal("answer brought no token")
	}
	return s.head("Authorization", "Bearer "+token)
}

// obtain gets a token and returns the API request that presents it.
func obtain(t testing.TB, c *http.Client, a Account) spec {
	t.Helper()
	r := mustSend(t, c, issuing(a))
	if r.status != http.StatusOK {
		t.Fatalf("%s: got status %d, want 200", a, r.status)
	}
	return presenting(t, a, r)
}

// clock is a time that tests set.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Date(2031, 5, 4, 3, 2, 1, 0, time.UTC)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// watch is an OnEvent that keeps what happens for await.
type watch chan Event

func newWatch() watch { return make(watch, 1000) }

func (w watch) note(e Event) { w <- e }

// await takes events until one is of the kind.
func (w watch) await(t testing.TB, kind Kind) {
	t.Helper()
	for {
		select {
		case e := <-w:
			if e.Kind == kind {
				return
			}
		case <-t.Context().Done():
			t.Fatalf("no event %s", kind)
		}
	}
}

// story is the ledger as "kind family.token" lines.
func story(events []Event) []string {
	lines := make([]string, len(events))
	for i, e := range events {
		lines[i] = string(e.Kind)
		if e.Family != 0 {
			lines[i] += " " + string(rune('0'+e.Family)) + "." + string(rune('0'+e.Token))
		}
	}
	return lines
}
