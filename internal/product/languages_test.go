package product

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/internal/installed"
	"github.com/tokenbroker/tokenbroker/internal/upstreamsim"
)

// languageDefinition is OfficeRnD's, with an API that is at %s and wants a cookie and a query parameter as well.
const languageDefinition = `
name: api
inputs: {client_id: {}, client_secret: {secret: true}}
scopes: {join: " ", default: [officernd.api.read], required: true}
obtain: {oauth2: "https://identity.officernd.com/oauth/token"}
lifetime: 60m
base_url: %s
present:
  headers: {Authorization: "Bearer {{token}}", X-Key: "{{token}}"}
  cookies: {session: "{{token}}"}
  query: {v: "{{token}}"}
`

// plainDefinition is the same with a header alone, which is not Authorization.
const plainDefinition = `
name: plain
inputs: {client_id: {}, client_secret: {secret: true}}
scopes: {join: " ", default: [officernd.api.read], required: true}
obtain: {oauth2: "https://identity.officernd.com/oauth/token"}
lifetime: 60m
base_url: %s
present: {headers: {X-Key: "{{token}}"}}
`

// batch is a service that asks the broker itself.
const batch = "spiffe://corp.example/ns/batch/sa/nightly"

// A languageRig is a broker with mutual TLS, an API that takes the simulator's tokens, and a program that calls the one with tokens of the other.
type languageRig struct {
	*meshRig
	api, elsewhere *httptest.Server

	mu   sync.Mutex
	seen []*http.Request // by the API and elsewhere

	in  io.Writer
	out *bufio.Scanner
}

// newLanguageRig starts all of it but the program.
func newLanguageRig(t *testing.T) *languageRig {
	t.Helper()
	r := &languageRig{}
	r.elsewhere = httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) { r.sees(q) }))
	t.Cleanup(r.elsewhere.Close)
	r.api = httptest.NewTLSServer(http.HandlerFunc(r.serve))
	t.Cleanup(r.api.Close)
	r.meshRig = newMeshRig(t, func(o *rigOptions) {
		o.definitions = map[string]string{"api": fmt.Sprintf(languageDefinition, r.api.URL), "plain": fmt.Sprintf(plainDefinition, r.api.URL)}
	})
	r.write("api.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.api.Certificate().Raw})))
	own := r.svid(batch)
	r.write("batch.pem", string(own.Certificate))
	r.write("batch.key", string(own.Key))
	a := r.account(upstreamsim.OfficeRnD)
	do(t, r.credentials.CreateCredential, &create{Credential: &cred{Name: "officernd-main", Provider: "api", Inputs: a.Inputs}, Secrets: a.Secrets})
	do(t, r.credentials.CreateCredential, &create{Credential: &cred{Name: "plain-main", Provider: "plain", Inputs: a.Inputs}, Secrets: a.Secrets})
	return r
}

// serve is the simulator's API, which wants that the token is shown whole, with a body that it gives back and redirects.
func (r *languageRig) serve(w http.ResponseWriter, q *http.Request) {
	body, _ := io.ReadAll(q.Body)
	again := r.sees(q)
	switch q.URL.Path {
	case "/away":
		http.Redirect(w, q, r.elsewhere.URL+"/?v=mine&"+q.URL.RawQuery, http.StatusFound)
		return
	case "/login":
		http.Redirect(w, q, r.elsewhere.URL+"/?next="+url.QueryEscape(q.URL.String()), http.StatusFound)
		return
	case "/state":
		http.Redirect(w, q, r.elsewhere.URL+"/?state="+base64.URLEncoding.EncodeToString([]byte(q.URL.String())), http.StatusFound)
		return
	case "/hash":
		w.Header().Set("Location", map[bool]string{false: "#x", true: r.elsewhere.URL + "/?next=" + url.QueryEscape(q.URL.String())}[again > 1])
		w.WriteHeader(http.StatusFound)
		return
	case "/broken":
		w.Header().Set("Location", "http://%zz:x/?"+q.URL.RawQuery)
		w.WriteHeader(http.StatusFound)
		return
	case "/gone":
		http.NotFound(w, q)
		return
	case "/moved":
		w.Header().Set("Location", "/members")
		w.WriteHeader(http.StatusSeeOther)
		return
	case "/within":
		http.Redirect(w, q, "/members", http.StatusFound)
		return
	case "/leads": // wherever it is told
		w.Header().Set("Location", q.URL.Query().Get("to"))
		w.WriteHeader(http.StatusFound)
		return
	}
	if q.URL.Path == "/plain" || strings.HasSuffix(q.URL.Path, "/x") { // it asks for no token
		return
	}
	token := strings.TrimPrefix(q.Header.Get("Authorization"), "Bearer ")
	sessions := q.CookiesNamed("session")
	whole := len(sessions) == 1 && sessions[0].Value == token && slices.Equal(q.URL.Query()["v"], []string{token}) && slices.Equal(q.Header["X-Key"], []string{token})
	if !whole || !r.sim.Valid(upstreamsim.OfficeRnD, token) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	_, _ = fmt.Fprintf(w, "%s %s", body, q.URL.Query()["mine"])
}

// sees notes a request, and says how many there are now.
func (r *languageRig) sees(q *http.Request) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, q.Clone(q.Context()))
	return len(r.seen)
}

// begin starts a program that makes requests: it is told where the broker is, by what to prove itself, whom the API's certificate is of, and the credential.
func (r *languageRig) begin(cmd *exec.Cmd, credential string) {
	in := func(name string) string { return filepath.Join(r.dir, name) }
	cmd.Args = append(cmd.Args, r.doors["services"], in("corp.pem"), in("batch.pem"), in("batch.key"), in("api.pem"), credential)
	cmd.Env, cmd.Stderr = append(cmd.Environ(), "NODE_EXTRA_CA_CERTS="+in("api.pem")), r.t.Output()
	to, from := installed.Start(r.t, cmd)
	r.in, r.out = to, bufio.NewScanner(from)
}

// An order is a request that the program makes.
type order struct {
	Method  string            `json:"method"`
	URL     string            `json:"url"`
	Headers map[string]string `json:"headers,omitempty"`
	Body    string            `json:"body,omitempty"`
	Stream  string            `json:"stream,omitempty"` // a body that can be read once
	Times   int               `json:"times,omitempty"`  // all at once; 0 is 1
}

// A result is what comes of it.
type result struct {
	Status      int
	Body, Error string
	// Shown is what the program may tell of the answer.
	Shown string
}

func (r *languageRig) orders(o order) []result {
	r.t.Helper()
	if o.Method == "" {
		o.Method = http.MethodGet
	}
	line, err := json.Marshal(o)
	if err != nil {
		r.t.Fatal(err)
	}
	if _, err := fmt.Fprintf(r.in, "%s\n", line); err != nil {
		r.t.Fatal(err)
	}
	var all []result
	if !r.out.Scan() {
		r.t.Fatal("the program has ended")
	}
	if err := json.Unmarshal(r.out.Bytes(), &all); err != nil || len(all) != max(o.Times, 1) {
		r.t.Fatalf("got %s, %v", r.out.Bytes(), err)
	}
	return all
}

func (r *languageRig) wants(what string, status int, o order) {
	r.t.Helper()
	for _, got := range r.orders(o) {
		if got.Status != status {
			r.t.Errorf("%s: got %+v, want %d", what, got, status)
		}
	}
}

// asked is how often the upstream was asked for a token.
func (r *languageRig) asked() int { return r.sim.SystemStats(upstreamsim.OfficeRnD).Total() }

func (r *languageRig) revoke() {
	r.t.Helper()
	if n, err := r.sim.RejectTokens(r.account(upstreamsim.OfficeRnD).ID); err != nil || n != 1 {
		r.t.Fatalf("%d tokens were revoked, %v", n, err)
	}
}

// tries goes through what an example promises.
func (r *languageRig) tries() {
	t, members := r.t, order{URL: r.api.URL + "/members"}
	t.Helper()
	many := members
	many.Times = 20
	r.wants("the first requests, at once", 200, many)
	if n := r.asked(); n != 1 {
		t.Errorf("the upstream was asked %d times, want 1", n)
	}
	if n := r.questions(); n != 1 {
		t.Errorf("the broker was asked %d times, want 1", n)
	}
	whole := order{URL: r.api.URL + "/members?v=mine&mine=a%2Fb", Method: http.MethodPost, Body: "a body", Headers: map[string]string{"Cookie": "session=mine; other=kept", "Authorization": "Basic mine"}}
	if got := r.orders(whole)[0]; got.Status != 200 || got.Body != "a body [a/b]" {
		t.Errorf("got %+v", got)
	}
	if got := r.seen[len(r.seen)-1]; len(got.CookiesNamed("other")) != 1 {
		t.Errorf("the API got cookies %v, want the caller's own, too", got.Cookies())
	}

	r.revoke()
	if got := r.orders(whole)[0]; got.Status != 200 || got.Body != "a body [a/b]" {
		t.Errorf("a token that is refused: got %+v", got)
	}
	r.revoke()
	r.wants("a token that is refused to many", 200, many)
	if n := r.asked(); n != 3 {
		t.Errorf("the upstream was asked %d times, want 3: once for each token", n)
	}
	r.revoke()
	refused := r.mustGet("officernd-main").GetAccessToken()
	for _, got := range r.orders(order{URL: r.api.URL + "/members", Method: http.MethodPost, Stream: "once"}) {
		if got.Status != http.StatusUnauthorized || got.Shown == "" || strings.Contains(got.Shown, refused) || strings.Contains(got.Shown, url.QueryEscape(refused)) {
			t.Errorf("a body that cannot be sent again: got %+v", got)
		}
	}
	r.seen = nil
	if r.wants("the request after it", 200, members); len(r.seen) != 1 {
		t.Errorf("it was sent %d times, want once: the token was rejected before", len(r.seen))
	}

	r.seen = nil
	token := r.mustGet("officernd-main").GetAccessToken()
	said := func(s string) bool {
		return strings.Contains(s, token) || strings.Contains(s, url.QueryEscape(token)) || strings.Contains(s, url.QueryEscape(url.QueryEscape(token)))
	}
	for _, got := range r.orders(order{URL: r.elsewhere.URL + "/"}) {
		if got.Error == "" || said(got.Error) {
			t.Errorf("another origin: got %+v", got)
		}
	}
	if len(r.seen) != 0 {
		t.Error("another origin was asked")
	}
	for _, got := range r.orders(order{URL: strings.Replace(r.api.URL, "https://", "https://user@", 1) + "/members"}) {
		if said(got.Error) {
			t.Errorf("an address with a user: got %+v", got)
		}
	}
	for _, path := range []string{"/away", "/login", "/state", "/hash", "/broken", "/gone"} {
		r.seen = nil
		for _, got := range r.orders(order{URL: r.api.URL + path}) {
			if got.Error != "" || said(got.Shown) {
				t.Errorf("%s: got %+v", path, got)
			}
		}
		for _, q := range r.seen {
			if q.URL.Path == "/" {
				t.Errorf("%s: another origin was asked: %v %v", path, q.URL, q.Header)
			}
		}
	}
	r.seen = nil
	r.orders(order{URL: r.api.URL + "/moved", Method: http.MethodDelete})
	for _, q := range r.seen {
		if q.URL.Path != "/moved" && q.Method == http.MethodDelete {
			t.Errorf("after a 303 DELETE was sent to %s", q.URL)
		}
	}
	before := r.asked()
	r.orders(order{URL: r.api.URL + "/within"})
	if n := r.asked(); n != before {
		t.Error("a redirect had a token rejected")
	}

	r.stop()
	r.wants("while the broker is away", 200, many)
	r.start(r.options)
	r.revoke()
	for until := time.Now().Add(30 * time.Second); ; <-time.After(100 * time.Millisecond) {
		if r.orders(members)[0].Status == 200 {
			break
		}
		if time.Now().After(until) {
			t.Fatal("it does not go on when the broker is there again")
		}
	}
}

// wanders goes through redirects of a token that is a header alone, which libraries bring along unless somebody takes it off. Addresses that are read differently lead elsewhere by one
// reading at least.
func (r *languageRig) wanders() {
	r.t.Helper()
	token := r.mustGet("plain-main").GetAccessToken()
	other := strings.TrimPrefix(r.elsewhere.URL, "https://")
	leads := func(to string) (n int) {
		r.seen = nil
		r.orders(order{URL: r.api.URL + "/leads?to=" + url.QueryEscape(to)})
		for _, q := range r.seen {
			if q.Host == other && strings.Contains(fmt.Sprint(q.Header, q.URL), token) {
				r.t.Errorf("%q brought the token elsewhere: %v %v", to, q.URL, q.Header)
			}
			if q.Host != other && q.URL.Path == "/plain" && slices.Equal(q.Header["X-Key"], []string{token}) {
				n++
			}
		}
		return n
	}
	for _, to := range []string{
		r.elsewhere.URL, "//" + other + "/x", "///" + other + "/x", "////" + other + "/x", "/////" + other + "/x", "https:////" + other + "/x", "https:/" + other + "/x", "https:" + other + "/x",
		`/\` + other + "/x", `\\` + other + "/x", `https:\\` + other + "/x", "/\t/" + other + "/x", r.api.URL + "@" + other + "/x", r.elsewhere.URL + `\@` + strings.TrimPrefix(r.api.URL, "https://") + "/x",
	} {
		leads(to)
	}
	for _, to := range []string{"/plain", "plain", r.api.URL + "/plain", "/plain?a=b", "plain#c"} {
		if leads(to) != 1 {
			r.t.Errorf("%q stays at the API, which did not get the token", to)
		}
	}
}

// questions is how often the broker was asked for a token until now.
func (r *languageRig) questions() (n int) {
	r.t.Helper()
	all, err := r.metrics.Registry().Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range all {
		if name := f.GetName(); name == "tokenbroker_token_hits_total" || name == "tokenbroker_token_misses_total" {
			for _, m := range f.GetMetric() {
				n += int(m.GetCounter().GetValue())
			}
		}
	}
	return n
}

// TestPython: what docs/python.md promises of examples/python, with stubs of the contract as it is.
func TestPython(t *testing.T) {
	python := installed.Tool(t, "python-example")
	r := newLanguageRig(t)
	stubs := filepath.Join(r.dir, "stubs")
	if err := os.Mkdir(stubs, 0o700); err != nil {
		t.Fatal(err)
	}
	const proto, rules = "../../proto", "../../third_party/protovalidate"
	files, err := filepath.Glob(filepath.Join(proto, "tokenbroker/v1/*.proto"))
	if err != nil || len(files) == 0 {
		t.Fatalf("got %v, %v", files, err)
	}
	args := append([]string{"-m", "grpc_tools.protoc", "-I", proto, "-I", rules, "--python_out=" + stubs, "--grpc_python_out=" + stubs, filepath.Join(rules, "buf/validate/validate.proto")}, files...)
	if out, err := exec.CommandContext(t.Context(), python, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, from := range []string{"../../examples/python/tokenbroker_auth.py", "testdata/languages/driver.py"} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		r.write(filepath.Join("stubs", filepath.Base(from)), string(text))
	}
	driver := func() *exec.Cmd { return exec.CommandContext(t.Context(), python, filepath.Join(stubs, "driver.py")) }
	r.begin(driver(), "officernd-main")
	r.tries()
	r.begin(driver(), "plain-main")
	r.wanders()
}

// TestNode: what docs/node.md promises of examples/node.
func TestNode(t *testing.T) {
	modules := filepath.Join(installed.Tool(t, "node-example"), "node_modules")
	r := newLanguageRig(t)
	for _, from := range []string{"../../examples/node/tokenbroker.mjs", "testdata/languages/driver.mjs"} {
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		r.write(filepath.Join("node", filepath.Base(from)), string(text))
	}
	if err := os.Symlink(modules, filepath.Join(r.dir, "node", "node_modules")); err != nil { // modules are looked for beside who imports them
		t.Fatal(err)
	}
	var protos []string
	for _, dir := range []string{"../../proto", "../../third_party/protovalidate"} {
		path, err := filepath.Abs(dir)
		if err != nil {
			t.Fatal(err)
		}
		protos = append(protos, path)
	}
	driver := func() *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), installed.Tool(t, "node"), filepath.Join(r.dir, "node", "driver.mjs"))
		cmd.Env = append(os.Environ(), "PROTOS="+strings.Join(protos, ":"))
		return cmd
	}
	r.begin(driver(), "officernd-main")
	r.tries()
	r.begin(driver(), "plain-main")
	r.wanders()
}
