package product

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"

	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
	"github.com/tokenbroker/tokenbroker/internal/installed"
)

const (
	opHost   = "op.example.com"
	opSecret = "the clients' secret + / = %"
	opAPI    = "https://api.example.com"
)

// An op is an OpenID provider that nobody here wrote, behind a proxy that ends TLS and counts what is asked of the token endpoint.
type op struct {
	t      *testing.T
	front  *httptest.Server
	issuer string

	mu     sync.Mutex
	tokens []url.Values // of the token requests
	bare   string       // this client is answered 401 with nothing, as some proxies do
}

// newOP starts one that is called opHost; skips where it is not installed, but in CI.
func newOP(t *testing.T) *op {
	t.Helper()
	return newOPOf(t, func(string) string { return opHost })
}

// newOPOf is newOP with another name, by where it listens.
func newOPOf(t *testing.T, called func(addr string) string) *op {
	t.Helper()
	modules := filepath.Join(installed.Tool(t, "oidc-provider"), "node_modules")
	dir := t.TempDir()
	server, err := os.ReadFile("testdata/oidc-provider/server.mjs")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "server.mjs"), server, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(modules, filepath.Join(dir, "node_modules")); err != nil { // modules are looked for beside who imports them
		t.Fatal(err)
	}
	node := filepath.Join(os.Getenv("TOKENBROKER_TEST_TOOLS"), "node")
	if _, err := os.Stat(node); err != nil {
		node = "node"
	}
	o := &op{t: t, front: httptest.NewUnstartedServer(nil)}
	t.Cleanup(o.front.Close)
	host := called(o.front.Listener.Addr().String())
	o.issuer = "https://" + host
	cmd := exec.CommandContext(t.Context(), node, "--preserve-symlinks-main", "server.mjs", o.issuer)
	cmd.Dir, cmd.Env, cmd.Stderr = dir, append(os.Environ(), "CLIENT_SECRET="+opSecret), t.Output()
	_, out := installed.Start(t, cmd)
	var listening struct{ Port json.Number }
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || json.Unmarshal([]byte(line), &listening) != nil {
		t.Fatalf("oidc-provider says %q: %v", line, err)
	}
	behind, err := url.Parse("http://127.0.0.1:" + listening.Port.String())
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(behind)
		r.SetXForwarded()
		r.Out.Host = host
	}}
	o.front.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/token" && o.tokenRequest(r) {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(w, r)
	})
	o.front.StartTLS()
	return o
}

// tokenRequest writes one down, and reports whether it gets a bare 401.
func (o *op) tokenRequest(r *http.Request) bool {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		o.t.Error(err)
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	form, err := url.ParseQuery(string(body))
	if err != nil {
		o.t.Error(err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.tokens = append(o.tokens, form)
	return o.bare != "" && form.Get("client_id") == o.bare
}

// asked is how many token requests there were until now.
func (o *op) asked() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.tokens)
}

// answersBare has the provider's proxy answer a client's token requests with 401 and nothing; empty: nobody's.
func (o *op) answersBare(client string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.bare = client
}

// post asks the provider itself, not through the broker.
func (o *op) post(path string, form url.Values, into any) {
	o.t.Helper()
	client := o.front.Client()
	res, err := client.PostForm(o.front.URL+path, form)
	if err != nil {
		o.t.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(into); err != nil {
		o.t.Fatalf("%s: %s: %v", path, res.Status, err)
	}
}

// introspection is what the provider says of a token (RFC 7662).
type introspection struct {
	Active   bool
	ClientID string `json:"client_id"`
	Scope    string
}

// introspect asks as one of the clients, who may ask of all.
func (o *op) introspect(token string) (found introspection) {
	o.t.Helper()
	o.post("/token/introspection", url.Values{"token": {token}, "client_id": {"post"}, "client_secret": {opSecret}}, &found)
	return found
}

// foreignRig is a broker whose credentials are clients of the provider.
func foreignRig(t *testing.T) (*rig, *op) {
	o := newOP(t)
	r := newRig(t, rigOptions{
		connect: map[string]string{opHost + ":443": o.front.Listener.Addr().String()},
		ca:      pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.front.Certificate().Raw}),
	})
	return r, o
}

// client stores a credential for a client of the provider, which is its name too.
func (r *rig) clientOf(name, provider, client, secret string) {
	r.t.Helper()
	inputs := map[string]string{"client_id": client, "token_url": "https://" + opHost + "/token"}
	if provider == "oauth2-client-credentials-basic" {
		inputs = map[string]string{"client_id": client, "issuer": "https://" + opHost}
	}
	do(r.t, r.credentials.CreateCredential, &create{
		Credential: &cred{Name: name, Provider: provider, Inputs: inputs}, Secrets: map[string]string{"client_secret": secret},
	})
}

// TestForeignClientCredentials: a client that shows its secret in the body, and one that shows it as HTTP Basic at the endpoint that discovery
// tells, get what they ask for.
func TestForeignClientCredentials(t *testing.T) {
	r, o := foreignRig(t)
	for client, provider := range map[string]string{"post": standard, "basic": "oauth2-client-credentials-basic"} {
		r.clientOf(client, provider, client, opSecret)
		got := o.introspect(r.mustGet(client, "read").GetAccessToken())
		if !got.Active || got.ClientID != client || got.Scope != "read" {
			t.Errorf("%s: got %+v", client, got)
		}
		if got := o.introspect(r.mustGet(client, "read", "write").GetAccessToken()); got.Scope != "read write" {
			t.Errorf("%s: got %+v", client, got)
		}
		res := do(t, r.tokens.GetToken, &get{Credential: client, Scopes: []string{"write"}, Resources: []string{opAPI}})
		claims := jwtClaims(t, res.GetToken().GetAccessToken())
		if claims["aud"] != opAPI || claims["scope"] != "write" || claims["client_id"] != client {
			t.Errorf("%s: got claims %v", client, claims)
		}
		if end := res.GetToken().GetExpireTime().AsTime().Unix(); float64(end) > claims["exp"].(float64) {
			t.Errorf("%s: it is said to end at %d, and ends at %v", client, end, claims["exp"])
		}
	}
	if n := o.asked(); n != 6 {
		t.Errorf("got %d token requests, want 6", n)
	}
}

// jwtClaims reads a JWT without checking its signature: whose it is has been seen.
func jwtClaims(t *testing.T, token string) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatal("it is no JWT")
	}
	text, err := base64.RawURLEncoding.DecodeString(parts[1])
	claims := map[string]any{}
	if err != nil || json.Unmarshal(text, &claims) != nil {
		t.Fatal("it is no JWT")
	}
	return claims
}

func TestForeignProviderIsAskedOnceForAllCallers(t *testing.T) {
	r, o := foreignRig(t)
	r.clientOf("post", standard, "post", opSecret)
	const callers = 200
	got := make([]string, callers)
	var all sync.WaitGroup
	for i := range callers {
		all.Go(func() {
			res, err := r.tokens.GetToken(testContext(t), &get{Credential: "post", Scopes: []string{"read"}})
			if err != nil {
				t.Error(err)
			}
			got[i] = res.GetToken().GetAccessToken()
		})
	}
	all.Wait()
	if slices.Sort(got); got[0] == "" || got[0] != got[callers-1] {
		t.Error("they got different tokens")
	}
	if n := o.asked(); n != 1 {
		t.Errorf("got %d token requests for %d callers, want 1", n, callers)
	}
}

// TestForeignRotation: the provider rotates refresh tokens, and revokes the whole grant when a spent one is presented again (RFC 9700 section 4.14).
func TestForeignRotation(t *testing.T) {
	r, o := foreignRig(t)
	seed := func() map[string]string {
		var minted struct {
			RefreshToken string `json:"refresh_token"`
		}
		o.post("/tests/refresh-token", nil, &minted)
		return map[string]string{"refresh_token": minted.RefreshToken, "client_secret": opSecret}
	}
	first := seed()
	do(t, r.credentials.CreateCredential, &create{Credential: &cred{
		Name: "person", Provider: "oauth2-refresh-token", Inputs: map[string]string{"client_id": "person", "token_url": "https://" + opHost + "/token"},
	}, Secrets: first})
	const rounds = 10
	var tok *tokenbrokerv1.Token
	for range rounds {
		tok = r.mustGet("person")
		if got := o.introspect(tok.GetAccessToken()); !got.Active || got.ClientID != "person" {
			t.Fatalf("got %+v", got)
		}
		do(t, r.tokens.Invalidate, &tokenbrokerv1.InvalidateRequest{Credential: "person", Target: &tokenbrokerv1.InvalidateRequest_All{All: true}})
	}
	tok = r.mustGet("person")
	presented := map[string]bool{}
	o.mu.Lock()
	requests := slices.Clone(o.tokens)
	o.mu.Unlock()
	for _, form := range requests {
		if token := form.Get("refresh_token"); token == "" || presented[token] {
			t.Error("a refresh token was presented twice")
		} else {
			presented[token] = true
		}
	}
	if len(presented) != rounds+1 {
		t.Errorf("got %d refreshes, want %d", len(presented), rounds+1)
	}

	// Somebody else has kept the first one, and presents it: the provider ends the grant, also what the broker holds of it.
	var refused struct{ Error string }
	o.post("/token", url.Values{"grant_type": {"refresh_token"}, "refresh_token": {first["refresh_token"]}, "client_id": {"person"}, "client_secret": {opSecret}}, &refused)
	if refused.Error != "invalid_grant" || o.introspect(tok.GetAccessToken()).Active {
		t.Fatalf("got %q, and the access token lives: the provider is not one that detects reuse", refused.Error)
	}
	before := o.asked()
	for range 3 {
		refuse(t, r.tokens.GetToken, &get{Credential: "person", RejectedTokenId: tok.GetTokenId()}).want(t, codes.FailedPrecondition, "REAUTHORIZATION_REQUIRED")
	}
	if n := o.asked() - before; n != 1 {
		t.Errorf("got %d requests with a refresh token that was refused, want 1", n)
	}
	do(t, r.credentials.UpdateCredential, &update{Credential: &cred{Name: "person"}, Secrets: seed()})
	if got := o.introspect(r.mustGet("person").GetAccessToken()); !got.Active {
		t.Errorf("with a new refresh token: got %+v", got)
	}
}

// TestForeignRefusals: what the provider says of a wrong secret, a scope and a resource that it does not give, and a bare 401 before it, reaches whom
// it concerns, and nobody else.
func TestForeignRefusals(t *testing.T) {
	r, o := foreignRig(t)
	r.clientOf("well", standard, "post", opSecret)
	r.clientOf("narrow", standard, "narrow", opSecret)
	r.clientOf("wrong", standard, "post", "not "+opSecret)
	well := func(scope string) {
		t.Helper()
		if got := o.introspect(r.mustGet("well", scope).GetAccessToken()); !got.Active {
			t.Errorf("got %+v", got)
		}
	}
	refuse(t, r.tokens.GetToken, &get{Credential: "wrong", Scopes: []string{"read"}}).want(t, codes.FailedPrecondition, "CREDENTIAL_MISCONFIGURED")
	well("read")
	refuse(t, r.tokens.GetToken, &get{Credential: "narrow", Scopes: []string{"write"}}).want(t, codes.InvalidArgument, "SCOPE_REFUSED")
	r.mustGet("narrow", "read")
	refuse(t, r.tokens.GetToken, &get{Credential: "narrow", Scopes: []string{"read"}, Resources: []string{"https://nobody.example.com"}}).
		want(t, codes.InvalidArgument, "TARGET_REFUSED")
	well("write")
	o.answersBare("narrow")
	refuse(t, r.tokens.GetToken, &get{Credential: "narrow"}).want(t, codes.FailedPrecondition, "CREDENTIAL_MISCONFIGURED")
	if claims := jwtClaims(t, do(t, r.tokens.GetToken, &get{Credential: "well", Resources: []string{opAPI}}).GetToken().GetAccessToken()); claims["aud"] != opAPI {
		t.Errorf("got claims %v", claims)
	}
	o.answersBare("")
	do(t, r.credentials.RotateSecret, &tokenbrokerv1.RotateSecretRequest{Name: "wrong", Secrets: map[string]string{"client_secret": opSecret}})
	r.mustGet("wrong", "read")
}
