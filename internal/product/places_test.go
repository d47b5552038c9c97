package product

import (
	"bytes"
	"cmp"
	"context"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
	"github.com/tokenbroker/tokenbroker/internal/leaktest"
	"github.com/tokenbroker/tokenbroker/internal/yamldoc"
	"github.com/tokenbroker/tokenbroker/provider"
	"github.com/tokenbroker/tokenbroker/provider/transport"
	"github.com/tokenbroker/tokenbroker/store"
	"github.com/tokenbroker/tokenbroker/store/seal"
	"github.com/tokenbroker/tokenbroker/store/storetest"
)

const (
	hereHost  = "here.example.com"
	thereHost = "there.example.com"
	vendor    = `
name: vendor
inputs: {server: {format: url}, api: {format: host}, client_id: {}, client_secret: {secret: true}}
parameters: {region: {one_of: [eu, us], default: eu}}
obtain:
  oauth2: "{{server}}/token"
  query: {region: "{{region}}"}
  take: {held: held}
refresh:
  oauth2: "{{server}}/token"
  query: {region: "{{region}}"}
  params: {held: "{{held}}"}
base_url: "https://{{api}}/v1"
`
	standard = "oauth2-client-credentials" // built in
)

// places are a broker and two hosts: the one that a credential is given for, and another, which must get nothing of it. Everything that
// arrives at either is written down.
type places struct {
	*engine.Broker
	t       *testing.T
	dir     string
	tr      *transport.Transport
	catalog *provider.Catalog
	backend store.Backend
	store   *store.Store
	keys    *seal.Keyring
	issued  atomic.Int64

	mu    sync.Mutex
	wire  map[string]*bytes.Buffer
	told  bytes.Buffer // what callers would send to the other place
	plant []string     // what must not arrive there: what was given and obtained before it was known
	given bool         // all of that is
}

func newPlaces(t *testing.T) *places {
	p := &places{t: t, dir: t.TempDir(), wire: map[string]*bytes.Buffer{hereHost: {}, thereHost: {}}}
	connect := map[string]string{}
	var ca []byte
	for _, host := range []string{hereHost, thereHost} {
		s := httptest.NewTLSServer(p.upstream(host))
		t.Cleanup(s.Close)
		connect[host+":443"] = s.Listener.Addr().String()
		ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	}
	connect[hereHost+":8443"] = connect[thereHost+":443"]
	caFile := filepath.Join(p.dir, "ca.pem")
	if err := os.WriteFile(caFile, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	p.tr, err = transport.New(transport.Settings{CAFile: caFile, ConnectTo: connect})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.tr.Close)
	if p.keys, err = seal.New(); err != nil {
		t.Fatal(err)
	}
	p.backend = storetest.NewMemory()
	p.define("vendor", vendor)
	p.start()
	return p
}

// upstream is a token endpoint that is well. What it issues says where.
func (p *places) upstream(host string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		dump, _ := httputil.DumpRequest(r, true) // and the body can be read once more
		p.mu.Lock()
		p.wire[host].Write(append(dump, '\n'))
		p.mu.Unlock()
		n := p.issued.Add(1)
		w.Header().Set("Content-Type", "application/json")
		if realm, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/"); host == hereHost && (realm == "good" || realm == "evil") {
			endpoint := map[string]string{"good": hereHost, "evil": thereHost}[realm]
			_, _ = fmt.Fprintf(w, `{"issuer": "https://%s/%s", "token_endpoint": "https://%s/token"}`, host, realm, endpoint)
			return
		}
		if host == hereHost && (r.URL.Path == "/me" || r.URL.Path == "/vault") {
			_, _ = fmt.Fprintf(w, `{"id": %q, "name": %q}`, r.URL.Path+r.URL.RawQuery, "name of "+r.URL.Path)
			return
		}
		issued := []string{}
		for _, kind := range []string{"access", "refresh", "held"} {
			issued = append(issued, fmt.Sprintf("%s-%s-%d", kind, host, n))
		}
		p.secret(issued...)
		_, _ = fmt.Fprintf(w, `{"access_token": %q, "refresh_token": %q, "held": %q, "token_type": "Bearer", "expires_in": 3600,
			"issuer": "https://%s", "token_endpoint": "https://%s/token", "endpoint": "https://%s/token",
			"data": {"at": %q, "rt": %q}, "scope": %q, "pick": "here", "other": "there",
			"hosts": [{"id": "here", "url": "https://here.example.com/token"}, {"id": "there", "url": "https://there.example.com/token"}],
			"told": "https://%s.example.com/token"}`,
			issued[0], issued[1], issued[2], host, host, thereHost, issued[0], issued[1], r.FormValue("scope"), // which is granted (RFC 6749 section 5.1)
			cmp.Or(r.Header.Get("X-Tenant"), "here"))
	}
}

func (p *places) secret(values ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.given {
		p.plant = append(p.plant, values...)
	}
}

// start starts a broker on the backend, with the definitions that are there.
func (p *places) start() {
	p.t.Helper()
	var err error
	if p.catalog, err = provider.Load(p.tr, filepath.Join(p.dir, "providers")); err != nil {
		p.t.Fatal(err)
	}
	if p.store, err = store.New(p.backend, p.keys, store.Options{}); err != nil {
		p.t.Fatal(err)
	}
	if p.Broker, err = engine.New(engine.Settings{Upstream: p.catalog, Store: p.store, Authorizer: broker.LocalOnly{}}); err != nil {
		p.t.Fatal(err)
	}
	b := p.Broker
	p.t.Cleanup(func() { _ = b.Close(context.Background()) })
}

// define writes a definition's file, which has to be good.
func (p *places) define(name, text string) {
	p.t.Helper()
	dir := filepath.Join(p.dir, "providers")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		p.t.Fatal(err)
	}
	file := filepath.Join(dir, name+".yaml")
	for _, problem := range yamldoc.Errors(provider.Check(file, []byte(text))) {
		p.t.Fatal(problem)
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

// redefine has the running broker read another definition.
func (p *places) redefine(name, text string) {
	p.t.Helper()
	p.define(name, text)
	if err := p.catalog.Reload(); err != nil {
		p.t.Fatal(err)
	}
}

// give stores both credentials, for here, and uses all that they have: an access token, a refresh token, held values, a former secret.
func (p *places) give() {
	p.t.Helper()
	must := func(_ any, err error) {
		p.t.Helper()
		if err != nil {
			p.t.Fatal(err)
		}
	}
	inputs := map[broker.CredentialName]map[string]string{
		"main": {"server": "https://" + hereHost, "api": hereHost, "client_id": "id"},
		"std":  {"token_url": "https://" + hereHost + "/token", "client_id": "id"},
	}
	for name, provider := range map[broker.CredentialName]string{"main": "vendor", "std": standard} {
		p.secret("given-first-"+string(name), "given-second-"+string(name))
		must(p.CreateCredential(p.t.Context(), here, engine.Change{Name: name, Edit: func(d *engine.Draft) error {
			*d = engine.Draft{Provider: provider, Inputs: inputs[name], Secrets: secretsFor(name, "given-first-")}
			return nil
		}}))
		must(nil, p.ask(name))
		must(p.RotateSecret(p.t.Context(), here, engine.Rotation{Name: name, Secrets: secretsFor(name, "given-second-")}))
		must(p.TestCredential(p.t.Context(), here, name, broker.Selection{}, true))
		must(nil, p.ask(name))
	}
}

func secretsFor(name broker.CredentialName, value string) map[string]broker.Secret {
	return map[string]broker.Secret{"client_secret": broker.NewSecret(value + string(name))}
}

// ask is a caller who does as told: what a token is shown with goes to its base URL.
func (p *places) ask(name broker.CredentialName) error {
	ctx, cancel := context.WithTimeout(p.t.Context(), 10*time.Second)
	defer cancel()
	s, err := p.Token(ctx, here, engine.Request{Credential: name})
	if err != nil || s.Token == nil {
		return err
	}
	shown := s.Token.Presentation
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, h := range shown.Headers {
		switch v := h.Value.Reveal(); {
		case strings.Contains(shown.BaseURL, thereHost):
			_, _ = p.told.WriteString(h.Name + ": " + v + "\n")
		case strings.Contains(v, "given-"): // a secret itself has no business with callers, wherever they take it
			_, _ = p.told.WriteString(h.Name + ": " + v + "\n")
		}
	}
	return err
}

// use does what callers and operators do.
func (p *places) use(name broker.CredentialName) (last error) {
	for range 2 {
		last = p.ask(name)
		_, _ = p.TestCredential(p.t.Context(), here, name, broker.Selection{}, true)
		_, _ = p.Invalidate(p.t.Context(), here, engine.Invalidation{Credential: name, All: true})
	}
	return last
}

// astray are the secrets that have arrived at the other place.
func (p *places) astray() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for where, data := range map[string][]byte{"on the wire": p.wire[thereHost].Bytes(), "by callers": p.told.Bytes()} {
		for _, f := range leaktest.Find(data, p.plant) {
			out = append(out, fmt.Sprintf("%s: %v", where, f))
		}
	}
	return out
}

// edit replaces text in the definition, which has to be there.
func edit(t *testing.T, pairs ...string) string {
	t.Helper()
	text := vendor
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			t.Fatalf("%q is not in the definition", pairs[i])
		}
		text = strings.Replace(text, pairs[i], pairs[i+1], 1)
	}
	return text
}

const (
	obtainsHere   = "obtain:\n  oauth2: \"{{server}}/token\""
	refreshesHere = "refresh:\n  oauth2: \"{{server}}/token\""
	restOfRefresh = "\n  query: {region: \"{{region}}\"}\n  params: {held: \"{{held}}\"}"
	toThere       = "https://" + thereHost + "/token"
)

// moved are definitions that lead elsewhere, in each way that the language has.
func moved(t *testing.T) map[string]string {
	return map[string]string{
		"obtain":                     edit(t, obtainsHere, "obtain:\n  oauth2: "+toThere, refreshesHere+restOfRefresh, ""),
		"refresh":                    edit(t, refreshesHere, "refresh:\n  oauth2: "+toThere),
		"the port":                   edit(t, refreshesHere, "refresh:\n  oauth2: https://"+hereHost+":8443/token"),
		"discovery":                  edit(t, refreshesHere, "refresh:\n  oauth2: {issuer: \"https://"+thereHost+"\"}"),
		"a let":                      edit(t, "parameters:", "let: {s: \"https://"+thereHost+"\"}\nparameters:", refreshesHere, "refresh:\n  oauth2: \"{{s}}/token\""),
		"an input's default":         edit(t, "inputs: {", "inputs: {other: {format: url, default: \"https://"+thereHost+"\"}, ", refreshesHere, "refresh:\n  oauth2: \"{{other}}/token\""),
		"a parameter":                edit(t, "[eu, us], default: eu", "["+thereHost+"], default: "+thereHost, refreshesHere, "refresh:\n  oauth2: \"https://{{region}}/token\""),
		"a value that is taken":      edit(t, "take: {held: held}", "take: {held: held, endpoint: endpoint}", refreshesHere, "refresh:\n  oauth2: \"{{held_at}}\"", "parameters:", "let: {held_at: \"{{endpoint}}\"}\nparameters:"),
		"a request before":           edit(t, refreshesHere, "refresh:\n- post: "+toThere+"\n  form: {s: \"{{client_secret}}\", r: \"{{refresh_token}}\"}\n- oauth2: \"{{server}}/token\""),
		"base_url":                   edit(t, "https://{{api}}/v1", "https://"+thereHost+"/v1"),
		"base_url, by a let":         edit(t, "https://{{api}}/v1", "https://{{host}}/v1", "parameters:", "let: {host: {lower: "+strings.ToUpper(thereHost)+"}}\nparameters:"),
		"the secret shown to an API": edit(t, "client_secret: {secret: true}", "client_secret: {secret: true, handed_out: true}", "base_url:", "present: {headers: {Authorization: \"Bearer {{token}}\", X-Secret: \"{{client_secret}}\"}}\nbase_url:"),
	}
}

// TestNothingGoesWhereNobodyAcceptedIt: in whichever way it changes where a credential's requests or tokens go, nothing of what was given or
// obtained for the former place arrives at the new one before somebody who may write credentials has accepted it. The secrets and
// grants are kept meanwhile.
func TestNothingGoesWhereNobodyAcceptedIt(t *testing.T) {
	bogus := secretsFor("", "bogus")
	change := func(p *places, name broker.CredentialName, secrets map[string]broker.Secret, f func(*engine.Draft)) error {
		_, err := p.UpdateCredential(p.t.Context(), here, engine.Change{Name: name, Edit: func(d *engine.Draft) error {
			f(d)
			d.Secrets = secrets
			return nil
		}})
		return err
	}
	restart := func(p *places) {
		if err := p.Close(p.t.Context()); err != nil {
			p.t.Fatal(err)
		}
		p.start()
	}
	type way struct {
		name   broker.CredentialName
		change func(*places)
		held   bool
	}
	ways := map[string]way{
		"a built-in's name, overridden": {"std", func(p *places) {
			p.redefine(standard, "name: "+standard+"\noverride: true\ninputs: {token_url: {format: url}, client_id: {}, client_secret: {secret: true}}\nscopes: {}\nobtain: {oauth2: "+toThere+"}\n")
		}, true},
		"while the broker was down": {"main", func(p *places) {
			p.define("vendor", moved(p.t)["refresh"])
			restart(p)
		}, true},
		"imported beside another definition": {"main", func(p *places) {
			var export bytes.Buffer
			if err := p.store.Export(p.t.Context(), &export, nil); err != nil {
				p.t.Fatal(err)
			}
			p.define("vendor", moved(p.t)["obtain"])
			p.backend = storetest.NewMemory()
			restart(p)
			e, err := store.ReadExport(bytes.NewReader(export.Bytes()), p.keys)
			if err != nil {
				p.t.Fatal(err)
			}
			if _, err := p.store.Import(p.t.Context(), e, nil); err != nil {
				p.t.Fatal(err)
			}
		}, true},
		"an input": {"main", func(p *places) {
			there := func(d *engine.Draft) { d.Inputs["server"] = "https://" + thereHost }
			if err := change(p, "main", nil, there); broker.KindOf(err) != broker.SecretsRequired {
				p.t.Errorf("got %v", err)
			}
			if err := change(p, "main", bogus, there); err != nil {
				p.t.Fatal(err)
			}
		}, false},
		"an input of base_url": {"main", func(p *places) {
			if err := change(p, "main", bogus, func(d *engine.Draft) { d.Inputs["api"] = thereHost }); err != nil {
				p.t.Fatal(err)
			}
		}, false},
		"another provider": {"main", func(p *places) {
			p.redefine("evil", strings.Replace(edit(p.t, obtainsHere, "obtain:\n  oauth2: "+toThere, refreshesHere, "refresh:\n  oauth2: "+toThere), "name: vendor", "name: evil", 1))
			if err := change(p, "main", bogus, func(d *engine.Draft) { d.Provider = "evil" }); err != nil {
				p.t.Fatal(err)
			}
		}, false},
		"deleted, and created again": {"main", func(p *places) {
			if err := p.DeleteCredential(p.t.Context(), here, "main", broker.ID{}); err != nil {
				p.t.Fatal(err)
			}
			_, err := p.CreateCredential(p.t.Context(), here, engine.Change{Name: "main", Edit: func(d *engine.Draft) error {
				*d = engine.Draft{Provider: "vendor", Inputs: map[string]string{"server": "https://" + thereHost, "api": thereHost, "client_id": "id"}, Secrets: bogus}
				return nil
			}})
			if err != nil {
				p.t.Fatal(err)
			}
		}, false},
	}
	for name, text := range moved(t) {
		ways["the definition's file: "+name] = way{"main", func(p *places) { p.redefine("vendor", text) }, true}
	}
	for name, w := range ways {
		t.Run(name, func(t *testing.T) {
			p := newPlaces(t)
			p.give()
			p.mu.Lock()
			p.given = true
			p.mu.Unlock()
			w.change(p)
			last := p.use(w.name)
			if found := p.astray(); len(found) > 0 {
				t.Errorf("%s", strings.Join(found, "\n"))
			}
			if !w.held {
				if last != nil {
					t.Errorf("with what was given for the new place: %v", last)
				}
				return
			}
			p.wantHeld(w.name, last)
			p.accept(w.name)
			if err := p.use(w.name); err != nil {
				t.Errorf("after it was accepted: %v", err)
			}
			if p.told.Len() == 0 && p.wire[thereHost].Len() == 0 {
				t.Error("after it was accepted nothing has arrived there: the test sees nothing")
			}
		})
	}
}

// wantHeld: it is told to callers and operators, and nothing is lost by labels, rotation or invalidation meanwhile.
func (p *places) wantHeld(name broker.CredentialName, last error) {
	p.t.Helper()
	if broker.KindOf(last) != broker.CredentialHeld {
		p.t.Errorf("got %v, want that it is held", last)
	}
	r, err := p.CredentialStatus(p.t.Context(), here, name)
	if err != nil || r.State != engine.Held || r.Failure == nil || r.Failure.Kind != broker.CredentialHeld {
		p.t.Errorf("got state %v, %v, %v", r.State, r.Failure, err)
	}
	_, err = p.UpdateCredential(p.t.Context(), here, engine.Change{Name: name, Edit: func(d *engine.Draft) error {
		d.Labels = map[string]string{"a": "b"}
		return nil
	}})
	if err != nil {
		p.t.Error(err)
	}
	if err := p.ask(name); broker.KindOf(err) != broker.CredentialHeld {
		p.t.Errorf("after another edit: got %v, want that it is held", err)
	}
}

// accept accepts what is seen, and nothing else.
func (p *places) accept(name broker.CredentialName) {
	p.t.Helper()
	c, err := p.Credential(p.t.Context(), here, name)
	if err != nil {
		p.t.Fatal(err)
	}
	to := c.Unaccepted(p.Destinations(c))
	for _, others := range [][]broker.Destination{nil, {{Use: broker.Requests, Place: "https://other.example.com"}}} {
		if _, err := p.AcceptCredential(p.t.Context(), here, engine.Acceptance{Name: name, Destinations: others}); broker.KindOf(err) != broker.EtagMismatch {
			p.t.Errorf("accepting %v: got %v", others, err)
		}
	}
	after, err := p.AcceptCredential(p.t.Context(), here, engine.Acceptance{Name: name, Destinations: to})
	if err != nil {
		p.t.Fatal(err)
	}
	if after.Version != c.Version || after.Place != c.Place || after.Etag == c.Etag || len(after.Unaccepted(p.Destinations(after))) > 0 {
		p.t.Errorf("got %+v", after)
	}
}
