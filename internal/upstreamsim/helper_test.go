package upstreamsim

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
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
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(sim.CA()) {
		t.Fatal("CA is not a PEM certificate")
	}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, sim.Addr())
		},
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

type pair struct{ name, value string }

// spec is a request that tests take apart.
type spec struct {
	method, url string
	json        bool
	fields      []pair // of the body, or of the query of a GET
	raw         string // instead of fields
	header      http.Header
}

func (s spec) clone() spec {
	s.fields, s.header = slices.Clone(s.fields), s.header.Clone()
	return s
}

func (s spec) without(name string) spec {
	s = s.clone()
	s.fields = slices.DeleteFunc(s.fields, func(p pair) bool { return p.name == name })
	return s
}

func (s spec) with(name, value string) spec {
	s = s.clone()
	s.fields = append(s.fields, pair{name, value})
	return s
}

func (s spec) set(name, value string) spec {
	s = s.clone()
	for i := range s.fields {
		if s.fields[i].name == name {
			s.fields[i].value = value
		}
	}
	return s
}

func (s spec) head(name, value string) spec {
	s = s.clone()
	s.header.Set(name, value)
	return s
}

func (s spec) encode() string {
	if s.raw != "" {
		return s.raw
	}
	parts := make([]string, len(s.fields))
	for i, p := range s.fields {
		if s.json {
			name, _ := json.Marshal(p.name)
			value, _ := json.Marshal(p.value)
			parts[i] = string(name) + ":" + string(value)
		} else {
			parts[i] = url.QueryEscape(p.name) + "=" + url.QueryEscape(p.value)
		}
	}
	if s.json {
		return "{" + strings.Join(parts, ",") + "}"
	}
	return strings.Join(parts, "&")
}

func (s spec) request(ctx context.Context) (*http.Request, error) {
	target, body := s.url, io.Reader(nil)
	if encoded := s.encode(); s.method == http.MethodGet && encoded != "" {
		target += "?" + encoded
	} else if s.method != http.MethodGet {
		body = strings.NewReader(encoded)
	}
	r, err := http.NewRequestWithContext(ctx, s.method, target, body)
	if err != nil {
		return nil, err
	}
	for name, values := range s.header {
		r.Header[name] = values
	}
	return r, nil
}

// issuing is the request that makes the account's system hand out a token.
func issuing(a Account) spec {
	form := http.Header{"User-Agent": {testAgent}, "Content-Type": {"application/x-www-form-urlencoded"}}
	get := http.Header{"User-Agent": {testAgent}}
	secret := a.Secrets["client_secret"]
	id := a.Inputs["client_id"]
	credentials := []pair{{"grant_type", "client_credentials"}, {"client_id", id}, {"client_secret", secret}}
	scope := pair{"scope", strings.Join(a.Scopes, " ")}
	post := func(target string, fields ...pair) spec {
		return spec{method: http.MethodPost, url: target, fields: fields, header: form}
	}
	switch a.System {
	case OcctooDestination:
		s := post("https://destinations.occtoo.com/destinations/"+a.Inputs["destination_id"]+"/token",
			pair{"clientId", id}, pair{"clientSecret", secret}).head("Content-Type", "application/json")
		s.json = true
		return s
	case OcctooIngest:
		s := post("https://ingest.occtoo.com/dataProviders/tokens",
			pair{"id", a.Inputs["provider_id"]}, pair{"secret", a.Secrets["provider_secret"]}).
			head("Content-Type", "application/json; charset=utf-8")
		s.json = true
		return s
	case OfficeRnD:
		return post("https://identity.officernd.com/oauth/token", append(credentials, scope)...)
	case OchnoOperated:
		return post("https://operated.ochno.com/identity/oauth/v2/token", append(credentials, scope)...)
	case Snov:
		return post("https://api.snov.io/v1/oauth/access_token", credentials...)
	case SnovGet:
		return spec{method: http.MethodGet, url: "https://api.snov.io/v1/oauth/access_token", fields: credentials, header: get}
	case DocuWareCookie:
		return post(a.Inputs["server"]+"/DocuWare/Platform/Account/Logon",
			pair{"UserName", a.Inputs["username"]}, pair{"Password", a.Secrets["password"]}, pair{"Organization", a.Inputs["organization"]},
			pair{"LoginType", "DocuWare"}, pair{"RedirectToMyselfInCaseOfError", "false"}, pair{"RememberMe", "false"})
	case DocuWare:
		return post(docuWareIssuer+"/connect/token",
			pair{"grant_type", "password"}, pair{"scope", "docuware.platform"}, pair{"client_id", "docuware.platform.net.client"},
			pair{"username", a.Inputs["username"]}, pair{"password", a.Secrets["password"]})
	case ClientCredentials:
		return post(a.Inputs["token_url"], append(credentials, scope)...)
	case ClientBasic:
		return post(a.Inputs["issuer"]+"/connect/token", pair{"grant_type", "client_credentials"}).
			head("Authorization", basic(url.QueryEscape(id), url.QueryEscape(secret)))
	default:
		return refreshing(a, a.Secrets["refresh_token"])
	}
}

// refreshing is a refresh request of Ochno or of the server for refresh tokens.
func refreshing(a Account, refreshToken string) spec {
	s := spec{
		method: http.MethodPost, url: a.Inputs["token_url"],
		header: http.Header{"User-Agent": {testAgent}, "Content-Type": {"application/x-www-form-urlencoded"}},
		fields: []pair{{"grant_type", "refresh_token"}, {"client_id", a.Inputs["client_id"]},
			{"client_secret", a.Secrets["client_secret"]}, {"refresh_token", refreshToken}},
	}
	if a.System == OchnoOperated {
		s.url = "https://operated.ochno.com/identity/oauth/v2/token"
		s = s.with("redirect_uri", a.Inputs["redirect_uri"])
	}
	return s
}

func basic(user, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+password))
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
