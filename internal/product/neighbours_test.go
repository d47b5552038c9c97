package product

import (
	"context"
	"encoding/pem"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/provider"
	"github.com/tokenbroker/tokenbroker/provider/transport"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/seal"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

// said is what a vendor answers the credential that is wrong, and whose failure that is: by a definition in which callers choose nothing,
// and by one in which they choose scopes.
type said struct {
	status        int
	media, body   string
	fixed, chosen broker.Kind
}

const (
	misconfigured = broker.CredentialMisconfigured
	wrongRequest  = broker.RequestInvalid
	wrongAnswer   = broker.UpstreamResponseInvalid
)

// ofOneAlone are answers that say nothing of anybody else.
var ofOneAlone = map[string]said{
	"401":                             {401, "", "", misconfigured, misconfigured},
	"401 with a page":                 {401, "text/html", "<html>log in</html>", misconfigured, misconfigured},
	"401 with a code":                 {401, "application/json", `{"error": "invalid_client"}`, misconfigured, misconfigured},
	"401 in other words":              {401, "application/json", `{"message": "Unauthorized"}`, misconfigured, misconfigured},
	"403":                             {403, "", "", misconfigured, misconfigured},
	"403 with a page":                 {403, "text/html", "<html>forbidden</html>", misconfigured, misconfigured},
	"400":                             {400, "", "", misconfigured, wrongRequest},
	"400 invalid_request":             {400, "application/json", `{"error": "invalid_request"}`, misconfigured, wrongRequest},
	"400 unauthorized_client":         {400, "application/json", `{"error": "unauthorized_client"}`, misconfigured, misconfigured},
	"400 invalid_grant":               {400, "application/json", `{"error": "invalid_grant"}`, misconfigured, misconfigured},
	"400 invalid_scope":               {400, "application/json", `{"error": "invalid_scope"}`, misconfigured, broker.ScopeRefused},
	"400 with a code that nobody has": {400, "application/json", `{"error": "tenant_unknown"}`, misconfigured, wrongRequest},
	"400 in words":                    {400, "application/json", `{"error": "No such tenant!"}`, misconfigured, wrongRequest},
	"404":                             {404, "text/html", "<html>", misconfigured, misconfigured},
	"405":                             {405, "", "", misconfigured, misconfigured},
	"406":                             {406, "", "", misconfigured, misconfigured},
	"410":                             {410, "", "", misconfigured, misconfigured},
	"409":                             {409, "", "", misconfigured, misconfigured},
	"415":                             {415, "", "", misconfigured, wrongRequest},
	"422":                             {422, "application/json", `{"errors": [{"field": "client_id"}]}`, misconfigured, wrongRequest},
	"302 to a login page":             {302, "text/html", "<html>", misconfigured, misconfigured},
	"307":                             {307, "", "", misconfigured, misconfigured},
	"200 with nothing":                {200, "application/json", "", wrongAnswer, wrongAnswer},
	"200 with a page":                 {200, "text/html", "<html>log in</html>", wrongAnswer, wrongAnswer},
	"200 without a token":             {200, "application/json", `{"ok": false}`, wrongAnswer, wrongAnswer},
	"200 with a code that nobody has": {200, "application/json", `{"error": "tenant_unknown"}`, wrongAnswer, wrongAnswer},
	"200 with half a document":        {200, "application/json", `{"access_token": "x`, wrongAnswer, wrongAnswer},
	"200 with a token that has ended": {200, "application/json", `{"access_token": "x", "expires_in": -5}`, wrongAnswer, wrongAnswer},
	"200 with more than is read":      {200, "application/json", strings.Repeat(" ", 2<<20), wrongAnswer, wrongAnswer},
	"204":                             {204, "", "", wrongAnswer, wrongAnswer},
}

// ofEverybody are answers that say nothing of the request: whoever asks next is told the same.
var ofEverybody = map[string]said{
	"500":                         {500, "text/html", "<html>", broker.UpstreamUnavailable, broker.UpstreamUnavailable},
	"502":                         {502, "text/html", "<html>", broker.UpstreamUnavailable, broker.UpstreamUnavailable},
	"503":                         {503, "", "", broker.UpstreamUnavailable, broker.UpstreamUnavailable},
	"408":                         {408, "", "", broker.UpstreamUnavailable, broker.UpstreamUnavailable},
	"425":                         {425, "", "", broker.UpstreamUnavailable, broker.UpstreamUnavailable},
	"503 temporarily_unavailable": {503, "application/json", `{"error": "temporarily_unavailable"}`, broker.UpstreamUnavailable, broker.UpstreamUnavailable},
	"429":                         {429, "", "", broker.UpstreamRateLimited, broker.UpstreamRateLimited},
}

// neighbours are two credentials of one definition at one place: the vendor answers the client "good" with a token, and the client "bad" as is
// said.
type neighbours struct {
	*engine.Broker
	t     *testing.T
	asked atomic.Int32 // by the one that is wrong
}

func newNeighbours(t *testing.T, definition string, says said) *neighbours {
	n := &neighbours{t: t}
	vendor := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := said{status: 200, media: "application/json", body: `{"access_token": "token", "expires_in": 3600}`}
		if r.FormValue("client_id") == "bad" {
			n.asked.Add(1)
			answer = says
		}
		if answer.status/100 == 3 {
			w.Header().Set("Location", "https://vendor.example/login")
		}
		if answer.media != "" {
			w.Header().Set("Content-Type", answer.media)
		}
		w.WriteHeader(answer.status)
		_, _ = w.Write([]byte(answer.body))
	}))
	t.Cleanup(vendor.Close)
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca := write("ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: vendor.Certificate().Raw})))
	write("vendor.yaml", "name: vendor\ninputs: {client_id: {}, client_secret: {secret: true}}\nobtain: {oauth2: https://example.com/token}\n"+definition)
	tr, err := transport.New(transport.Settings{CAFile: ca, ConnectTo: map[string]string{"example.com:443": vendor.Listener.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.Close)
	catalog, err := provider.Load(tr, dir)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := seal.New()
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.New(storetest.NewMemory(), keys, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if n.Broker, err = engine.New(engine.Settings{Upstream: catalog, Store: st, Authorizer: broker.LocalOnly{}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close(context.Background()) })
	for _, name := range []string{"bad", "good"} {
		_, err := n.CreateCredential(t.Context(), here, engine.Change{Name: broker.CredentialName(name), Edit: func(d *engine.Draft) error {
			*d = engine.Draft{
				Provider: "vendor", Inputs: map[string]string{"client_id": name}, Secrets: map[string]broker.Secret{"client_secret": broker.NewSecret("secret")},
			}
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
	}
	return n
}

var here = broker.NewCaller(broker.Local, "", "", broker.ProofNone, "")

func (n *neighbours) ask(name broker.CredentialName, scopes ...string) error {
	set, err := broker.ParseSet("scopes", scopes)
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(n.t.Context(), 10*time.Second)
	defer cancel()
	_, err = n.Token(ctx, here, engine.Request{Credential: name, Selection: broker.Selection{Scopes: set}})
	return err
}

// TestWhoseFailureAnAnswerIs: one that is a credential's own keeps nobody else from a token, however often it is asked and tested; one that is the
// upstream's is everybody's.
func TestWhoseFailureAnAnswerIs(t *testing.T) {
	for definition, with := range map[string]struct {
		scopes []string
		kind   func(said) broker.Kind
	}{
		"":             {nil, func(s said) broker.Kind { return s.fixed }},
		"scopes: {}\n": {[]string{"a"}, func(s said) broker.Kind { return s.chosen }},
	} {
		for _, name := range slices.Sorted(maps.Keys(ofOneAlone)) {
			t.Run(definition+name, func(t *testing.T) {
				t.Parallel()
				says := ofOneAlone[name]
				n := newNeighbours(t, definition, says)
				for range 3 {
					if err := n.ask("bad", with.scopes...); broker.KindOf(err) != with.kind(says) {
						t.Errorf("got %v, want %s", err, with.kind(says).Name())
					}
					if says := ofOneAlone[name]; says.fixed != wrongAnswer && n.asked.Load() != 1 {
						t.Errorf("the upstream was asked %d times, want once: it is remembered", n.asked.Load())
					}
				}
				for range 3 {
					if _, err := n.TestCredential(t.Context(), here, "bad", broker.Selection{}, false); err != nil {
						t.Errorf("test: %v", err)
					}
				}
				if err := n.ask("good", with.scopes...); err != nil {
					t.Errorf("its neighbour: got %v", err)
				}
				if with.kind(says) == wrongRequest || with.kind(says) == broker.ScopeRefused { // nobody chose anything: it is the credential's
					if err := n.ask("bad"); broker.KindOf(err) != misconfigured {
						t.Errorf("without scopes: got %v, want %s", err, misconfigured.Name())
					}
				}
			})
		}
		for _, name := range slices.Sorted(maps.Keys(ofEverybody)) {
			t.Run(definition+name, func(t *testing.T) {
				t.Parallel()
				says := ofEverybody[name]
				n := newNeighbours(t, definition, says)
				for _, credential := range []broker.CredentialName{"bad", "good"} {
					if err := n.ask(credential, with.scopes...); broker.KindOf(err) != with.kind(says) {
						t.Errorf("%s: got %v, want %s", credential, err, with.kind(says).Name())
					}
				}
			})
		}
	}
}
