package authn

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// TestWhatNoIssuerAnswers: it leaves what was there, and its text says what is wrong.
func TestWhatNoIssuerAnswers(t *testing.T) {
	var elsewhere int
	trap := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	defer trap.Close()
	discovery := func(doc string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasPrefix(r.URL.Path, "/.well-known") {
				fmt.Fprint(w, doc)
				return true
			}
			return false
		}
	}
	keys := func(doc string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/keys" {
				fmt.Fprint(w, doc)
			}
			return r.URL.Path == "/keys"
		}
	}
	for name, test := range map[string]struct {
		answer func(w http.ResponseWriter, r *http.Request) bool
		want   string
	}{
		"another issuer's document": {discovery(`{"issuer":"https://evil.example","jwks_uri":"` + pipesListen + `/keys"}`), "of another issuer"},
		"a slash more":              {discovery(`{"issuer":"` + pipesListen + `/","jwks_uri":"` + pipesListen + `/keys"}`), "of another issuer"},
		"no issuer":                 {discovery(`{"jwks_uri":"` + pipesListen + `/keys"}`), "of another issuer"},
		"issuer twice":              {discovery(`{"issuer":"https://evil.example","issuer":"` + pipesListen + `","jwks_uri":"` + pipesListen + `/keys"}`), "twice"},
		"no jwks_uri":               {discovery(`{"issuer":"` + pipesListen + `"}`), "jwks_uri"},
		"jwks_uri in plain text":    {discovery(`{"issuer":"` + pipesListen + `","jwks_uri":"http://keys.example/"}`), "not https"},
		"jwks_uri of a file":        {discovery(`{"issuer":"` + pipesListen + `","jwks_uri":"file:///etc/passwd"}`), "no URL of a host"},
		"jwks_uri with a user":      {discovery(`{"issuer":"` + pipesListen + `","jwks_uri":"https://a:b@keys.example/"}`), "user"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, trap.URL, http.StatusFound)
			return true
		}, "redirect (302)"},
		"a redirect of the keys": {func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Location", trap.URL)
			if r.URL.Path == "/keys" {
				w.WriteHeader(307)
			}
			return r.URL.Path == "/keys"
		}, "redirect (307)"},
		"404":                  {func(w http.ResponseWriter, r *http.Request) bool { http.NotFound(w, r); return true }, "status 404"},
		"204":                  {func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusNoContent); return true }, "status 204"},
		"HTML":                 {keys(`<html><body>` + set(first()) + `</body></html>`), "not JSON"},
		"nothing":              {keys(""), "not JSON"},
		"two documents":        {keys(set(first()) + set(first())), "not JSON"},
		"a list":               {keys("[]"), "no list of keys"},
		"keys twice":           {keys(`{"keys":[],"keys":[]}`), "twice"},
		"a key that is a text": {keys(`{"keys":["x"]}`), "no key"},
		"too much":             {keys(strings.Repeat(" ", fetchMost) + set(first())), "longer than"},
		"without end": {func(w http.ResponseWriter, _ *http.Request) bool {
			for _, err := w.Write(make([]byte, 1<<16)); err == nil; _, err = w.Write(make([]byte, 1<<16)) {
			}
			return true
		}, "longer than"},
		"large headers": {func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("X", strings.Repeat("x", 2*headMost))
			return true
		}, "does not speak HTTP"},
		"it hangs up": {func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }, "hung up"},
		"it hangs up in the middle": {func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "{")
			return true
		}, "hung up"},
		"too many keys": {keys(`{"keys":[` + strings.Repeat("{},", keysMost) + `{}]}`), "may have"},
		"slow, a byte now and then": {func(w http.ResponseWriter, r *http.Request) bool {
			for r.Context().Err() == nil {
				fmt.Fprint(w, " ")
				w.(http.Flusher).Flush()
				pass(time.Second)
			}
			return true
		}, "within 10s"},
	} {
		synctest.Test(t, func(t *testing.T) {
			h := newHouse(t, set(first()))
			all := tokensOf(t, h, time.Now, ci())
			stop := follow(t, all)
			synctest.Wait()
			h.answers(test.answer)
			pass(freshMost)
			synctest.Wait()
			s := all.Status()[0]
			if !s.Stale || !strings.Contains(s.Problem, test.want) || strings.Contains(s.Problem, "html") {
				t.Errorf("%s: got status %+v", name, s)
			}
			if got := shows(t, all, minted("first", "x")); got != "jwt:ci/x" {
				t.Errorf("%s: got %s", name, got)
			}
			h.answers(nil)
			pass(2 * againMost)
			synctest.Wait()
			if s := all.Status()[0]; s.Stale {
				t.Errorf("%s: afterwards: got status %+v", name, s)
			}
			stop()
		})
	}
	if elsewhere != 0 {
		t.Error("a redirect was followed")
	}
}

// TestKeysOverTLS: over real connections, by the roots that are named, and by none of a proxy; the bearer token of the settings goes to their host only.
func TestKeysOverTLS(t *testing.T) {
	if c := made(ci().client(nil)); c.Transport.(*http.Transport).Proxy != nil || c.Jar != nil { // a proxy of the environment is not asked for loopback addresses in any case
		t.Error("keys are fetched through somebody else, or with cookies")
	}
	var issuer, keys *httptest.Server
	seen := map[string]string{}
	handle := func(w http.ResponseWriter, r *http.Request) {
		seen[r.Host+r.URL.Path] = r.Header.Get("Authorization")
		if r.URL.Path == "/keys" {
			fmt.Fprint(w, set(first()))
			return
		}
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":%q}`, issuer.URL, keys.URL+"/keys")
	}
	issuer, keys = httptest.NewTLSServer(http.HandlerFunc(handle)), httptest.NewTLSServer(http.HandlerFunc(handle))
	defer issuer.Close()
	defer keys.Close()
	dir := t.TempDir()
	put := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca := put("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuer.Certificate().Raw}))
	bearer := put("token", []byte("of-the-broker\n"))
	of := func(edit func(*Issuer)) *Tokens {
		i := Issuer{Name: "ci", Kind: broker.JWT, Issuer: issuer.URL, Audience: []string{"tokenbroker"}, CAFile: ca, TokenFile: bearer}
		edit(&i)
		return made(NewTokens(TokenSettings{Issuers: []Issuer{i}, Now: atNoon}))
	}
	token := mint(rsaKey(), `{"alg":"RS256","kid":"first"}`, claims(`"iss":"`+issuer.URL+`"`))

	if got := shows(t, of(func(*Issuer) {}), token); got != "jwt:ci/worker" {
		t.Fatal(got)
	}
	host := func(s *httptest.Server) string { return strings.TrimPrefix(s.URL, "https://") }
	if got := seen[host(issuer)+"/.well-known/openid-configuration"]; got != "Bearer of-the-broker" {
		t.Errorf("the issuer got %q", got)
	}
	if got := seen[host(keys)+"/keys"]; got != "" {
		t.Errorf("where discovery leads, %q was sent", got)
	}
	put("token", []byte("of-the-broker-later"))
	if got := shows(t, of(func(i *Issuer) { i.JWKSURI = keys.URL + "/keys" }), token); got != "jwt:ci/worker" || seen[host(keys)+"/keys"] != "Bearer of-the-broker-later" {
		t.Errorf("where the settings lead: %s, and %q was sent", got, seen[host(keys)+"/keys"])
	}
	untrusting := of(func(i *Issuer) { i.CAFile = "" })
	if got := shows(t, untrusting, token); got != broker.IssuerUnavailable.Name() || !strings.Contains(untrusting.Status()[0].Problem, "certificate") {
		t.Errorf("by roots that do not know it: %s, %+v", got, untrusting.Status())
	}
	keys.Config.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("plain text is asked for") })
	doc := issuer.Config.Handler
	issuer.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"issuer":%q,"jwks_uri":"http://127.0.0.1:1/keys"}`, issuer.URL)
	})
	plainly := of(func(*Issuer) {})
	if got := shows(t, plainly, token); got != broker.IssuerUnavailable.Name() || !strings.Contains(plainly.Status()[0].Problem, "not https") {
		t.Errorf("from afar to this machine: %s, %+v", got, plainly.Status())
	}
	issuer.Config.Handler = doc
	put("token", []byte("two words"))
	if _, err := NewTokens(TokenSettings{Issuers: []Issuer{{Name: "ci", Kind: broker.JWT, Issuer: issuer.URL, Audience: []string{"a"}, TokenFile: bearer}}}); err == nil || strings.Contains(err.Error(), "words") {
		t.Errorf("a broken token file: %v", err)
	}
}
