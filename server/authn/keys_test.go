package authn

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
)

// minted is a token of ci by the RSA key of that kid, and its claims are of now.
func minted(kid, sub string) string {
	key := rsaKey()
	if kid == "next" {
		key = rsaOther()
	}
	return mint(key, `{"alg":"RS256","kid":"`+kid+`"}`, claimsAt(time.Now(), `"sub":"`+sub+`"`))
}

func first() map[string]any  { return jwk("first", &rsaKey().PublicKey) }
func second() map[string]any { return jwk("next", &rsaOther().PublicKey) }

// TestKeysThatRotate: a token of a new key is let in as soon as it comes, nobody else notices, and what a key has signed that was taken away ends at once.
func TestKeysThatRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, set(first()))
		all := tokensOf(t, h, time.Now, ci())
		stop := follow(t, all)
		synctest.Wait()
		if n := h.count("/keys"); n != 1 {
			t.Fatalf("it was asked %d times at the start", n)
		}
		ctx := t.Context()
		old := made(all.AuthenticateToken(ctx, minted("first", "old")))
		changed := all.Changes()

		h.show(set(first(), second()))
		if got := shows(t, all, minted("next", "young")); got != "jwt:ci/young" {
			t.Errorf("a token of a new key: %s", got)
		}
		if n := h.count("/keys"); n != 2 {
			t.Errorf("it was asked %d times", n)
		}
		<-changed
		changed = all.Changes()
		if err := old.Still(); err != nil {
			t.Errorf("while both keys are there: %v", err)
		}
		time.Sleep(freshMost) //nolint:forbidigo // virtual
		synctest.Wait()
		select {
		case <-changed:
			t.Error("the same keys are told as news")
		default:
		}

		token := minted("first", "lately")
		lately := made(all.AuthenticateToken(ctx, token))
		h.show(set(second()))
		<-changed
		if lately.Still() == nil || old.Still() == nil {
			t.Error("what a key has signed that is gone goes on")
		}
		if got := shows(t, all, token); got != errKey.Detail {
			t.Errorf("a token that was remembered, of a key that is gone: %s", got)
		}
		if got := shows(t, all, minted("next", "young")); got != "jwt:ci/young" {
			t.Errorf("a token of the key that is left: %s", got)
		}
		stop()
	})
}

// TestAStormOfUnknownKeys costs the issuer no more than one such token now and then, and nobody waits for it whose key is known.
func TestAStormOfUnknownKeys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, set(first()))
		all := tokensOf(t, h, time.Now, ci())
		stop := follow(t, all)
		synctest.Wait()
		hold := make(chan struct{})
		h.answers(func(http.ResponseWriter, *http.Request) bool { <-hold; return false })
		var storm sync.WaitGroup
		for i := range 500 {
			storm.Go(func() {
				token := mint(ecKey(), fmt.Sprintf(`{"alg":"ES256","kid":"k%d"}`, i), claimsAt(time.Now(), ""))
				if got := shows(t, all, token); got != errKey.Detail {
					t.Errorf("got %s", got)
				}
			})
		}
		synctest.Wait() // all of them wait for the issuer, who does not answer
		if got := shows(t, all, minted("first", "known")); got != "jwt:ci/known" {
			t.Errorf("meanwhile: %s", got)
		}
		h.answers(nil)
		close(hold)
		storm.Wait()
		if n := h.count("/keys"); n > 1+askedBurst {
			t.Errorf("a storm caused %d fetches, want %d at most", n-1, askedBurst)
		}
		before := h.count("/keys")
		const minutes = 3
		for range minutes * 60 {
			time.Sleep(time.Second) //nolint:forbidigo // virtual
			for i := range 20 {
				token := mint(edKey(), fmt.Sprintf(`{"alg":"EdDSA","kid":"k%d"}`, i), claimsAt(time.Now(), ""))
				if got := shows(t, all, token); got != errKey.Detail {
					t.Errorf("got %s", got)
				}
			}
		}
		if n := h.count("/keys") - before; n > minutes*int(time.Minute/askedEvery)+askedBurst {
			t.Errorf("%d tokens caused %d fetches in %d minutes", minutes*60*20, n, minutes)
		}
		stop()
	})
}

// TestAnIssuerThatIsAway: what it has signed counts on, for a day and no longer; what it signs with a key that nobody knows yet, nobody can judge. Fetches
// become rare, and are told once.
func TestAnIssuerThatIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, set(first()))
		l := &log{}
		all := made(newTokens(TokenSettings{Listener: "services", Issuers: []Issuer{ci()}, Log: l.logger()}, h.dial))
		stop := follow(t, all)
		synctest.Wait()
		began := time.Now()
		h.answers(func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		})
		time.Sleep(believedFor - 2*time.Minute) //nolint:forbidigo // virtual
		day := minted("first", "late")
		a, err := all.AuthenticateToken(t.Context(), day)
		if err != nil {
			t.Fatalf("within the day: %v", err)
		}
		if s := all.Status()[0]; !s.Stale || s.Fetched.Sub(began) > time.Second || !strings.Contains(s.Problem, "503") {
			t.Errorf("got status %+v", s)
		}
		if got := shows(t, all, minted("next", "x")); got != broker.IssuerUnavailable.Name() {
			t.Errorf("a key that nobody knows: %s", got)
		}
		if n := h.count("/.well-known/openid-configuration"); n > 24*60/4 {
			t.Errorf("it was asked %d times in a day", n)
		}
		changed := all.Changes()
		<-changed
		if d := time.Since(began); d < believedFor || d > believedFor+time.Second {
			t.Errorf("its keys ended after %s", d)
		}
		if a.Still() == nil {
			t.Error("what was authenticated goes on after a day")
		}
		var f *broker.Failure
		if _, err := all.AuthenticateToken(t.Context(), day); !errors.As(err, &f) || f.Kind != broker.IssuerUnavailable || !f.RetryAt.After(time.Now()) || f.RetryAt.After(time.Now().Add(2*againMost)) {
			t.Errorf("after a day: got %v", err)
		}
		if n := strings.Count(l.String(), "not fetched"); n != 2 { // and that its tokens count no more
			t.Errorf("the log has %d lines of it: %s", n, l)
		}
		h.answers(nil)
		changed = all.Changes()
		<-changed
		if s := all.Status()[0]; s.Stale || s.Problem != "" {
			t.Errorf("got status %+v", s)
		}
		if got := shows(t, all, minted("first", "again")); got != "jwt:ci/again" {
			t.Errorf("when it is back: %s", got)
		}
		stop()
	})
}

// TestAnIssuerThatIsSlow makes nobody wait but those whose token it has issued, and those as long as they want, and no longer than a fetch takes.
func TestAnIssuerThatIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, set(first()))
		h.answers(func(_ http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/slow" {
				<-r.Context().Done()
				return true
			}
			return false
		})
		slow := ci(func(i *Issuer) { i.Name, i.Issuer, i.JWKSURI = "slow", "https://slow.example", pipesListen+"/slow" })
		all := tokensOf(t, h, time.Now, slow, ci())
		stop := follow(t, all)
		began := time.Now()
		token := mint(rsaKey(), `{"alg":"RS256","kid":"first"}`, claimsAt(began, `"iss":"https://slow.example"`))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := all.AuthenticateToken(ctx, token); !errors.Is(err, broker.IssuerUnavailable) || time.Since(began) != time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		if got := shows(t, all, minted("first", "quick")); got != "jwt:ci/quick" || time.Since(began) != time.Second {
			t.Errorf("another issuer's token, after %s: %s", time.Since(began), got)
		}
		if _, err := all.AuthenticateToken(t.Context(), token); !errors.Is(err, broker.IssuerUnavailable) || time.Since(began) > fetchWithin {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		stop()
	})
}

// TestNobodyFollows: a token asks for keys by itself, and nothing is left over.
func TestNobodyFollows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, set(first()))
		all := tokensOf(t, h, time.Now, ci())
		if s := all.Status()[0]; !s.Stale || !s.Fetched.IsZero() || s.Problem != "" {
			t.Errorf("got status %+v", s)
		}
		if h.count("/.well-known/openid-configuration") != 0 {
			t.Error("it was asked without a reason")
		}
		var crowd sync.WaitGroup
		for range 50 {
			crowd.Go(func() {
				if got := shows(t, all, minted("first", "x")); got != "jwt:ci/x" {
					t.Error(got)
				}
			})
		}
		crowd.Wait()
		if n := h.count("/keys"); n != 1 {
			t.Errorf("it was asked %d times", n)
		}
	})
}

// TestHowLongKeysAreFresh: as long as the issuer says, within bounds.
func TestHowLongKeysAreFresh(t *testing.T) {
	for cache, want := range map[string]time.Duration{
		"": freshDefault, "public, max-age=1200": 20 * time.Minute, "max-age=1": freshLeast, "max-age=99999999": freshMost, "no-store": freshLeast,
		"max-age=x": freshDefault, "max-age=-1": freshDefault, "max-age=99999999999999999999": freshDefault, `MAX-AGE="600"`: 10 * time.Minute, "max-age=0": freshLeast,
	} {
		synctest.Test(t, func(t *testing.T) {
			h := newHouse(t, set(first()))
			h.cache = cache
			all := tokensOf(t, h, time.Now, ci())
			stop := follow(t, all)
			synctest.Wait()
			time.Sleep(want * 89 / 100) //nolint:forbidigo // virtual
			synctest.Wait()
			if n := h.count("/keys"); n != 1 {
				t.Errorf("%s: it was asked too early", cache)
			}
			time.Sleep(want * 22 / 100) //nolint:forbidigo // virtual
			synctest.Wait()
			if n := h.count("/keys"); n != 2 {
				t.Errorf("%s: it was asked %d times", cache, n)
			}
			stop()
		})
	}
}

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
		"no keys":              {keys(set()), "no key that can be used"},
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
				time.Sleep(time.Second) //nolint:forbidigo // virtual
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
			time.Sleep(freshMost) //nolint:forbidigo // virtual
			synctest.Wait()
			s := all.Status()[0]
			if !s.Stale || !strings.Contains(s.Problem, test.want) || strings.Contains(s.Problem, "html") {
				t.Errorf("%s: got status %+v", name, s)
			}
			if got := shows(t, all, minted("first", "x")); got != "jwt:ci/x" {
				t.Errorf("%s: got %s", name, got)
			}
			h.answers(nil)
			time.Sleep(2 * againMost) //nolint:forbidigo // virtual
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

// TestKeysThatCannotBeUsed are passed over, and told once; the others count.
func TestKeysThatCannotBeUsed(t *testing.T) {
	short := made(rsa.GenerateKey(rand.Reader, 1024))
	with := func(name string, v any) func(map[string]any) { return func(m map[string]any) { m[name] = v } }
	rsaOf := func(edit ...func(map[string]any)) map[string]any { return jwk("x", &rsaOther().PublicKey, edit...) }
	private := map[string]any{}
	for k, v := range rsaOf() {
		private[k] = v
	}
	private["d"] = "AQAB"
	for name, test := range map[string]struct {
		key  map[string]any
		want string // in what is told; empty: nothing is wrong with it
	}{
		"private":                   {private, "secret"},
		"symmetric":                 {map[string]any{"kty": "oct", "k": "AAAA", "kid": "x"}, "secret"},
		"short":                     {jwk("x", &short.PublicKey), "1024 bits"},
		"unknown type":              {map[string]any{"kty": "AKP", "kid": "x", "alg": "ML-DSA-44", "pub": "AA"}, "no type"},
		"a curve that is not known": {map[string]any{"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}, "no type"},
		"not on its curve":          {jwk("x", &ecKey().PublicKey, with("x", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")), "no type"},
		"no type at all":            {map[string]any{"kid": "x"}, "no type"},
		"X25519":                    {map[string]any{"kty": "OKP", "crv": "X25519", "x": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}, "no type"},
		"exponent 1":                {rsaOf(with("e", "AQ")), "damaged"},
		"exponent even":             {rsaOf(with("e", "AQAA")), "exponent"},
		"an even modulus":           {rsaOf(with("n", strings.Repeat("A", 2)+strings.Repeat("_", 340)+"g")), "no"},
		"an alg of another type":    {rsaOf(with("alg", "ES256")), "alg"},
		"an alg of another curve":   {jwk("x", &made(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)).PublicKey, with("alg", "ES256")), "alg"},
		"a symmetric alg":           {rsaOf(with("alg", "HS256")), "alg"},
		"an alg of encryption":      {rsaOf(with("alg", "RSA-OAEP")), "alg"},
		"an alg that is a number":   {rsaOf(with("alg", 1)), "alg"},
		"a kid that is a number":    {rsaOf(with("kid", 1)), "kid"},
		"a use that nobody knows":   {rsaOf(with("use", "jwt-svid")), "use"},
		"a use that is a list":      {rsaOf(with("use", []string{"sig"})), "use"},
		"key_ops that is a text":    {rsaOf(with("key_ops", "verify")), "key_ops"},
		"for encryption":            {rsaOf(with("use", "enc")), ""},
		"for signing only":          {rsaOf(with("key_ops", []string{"sign"})), ""},
		"X.509 of a trust domain":   {rsaOf(with("use", "x509-svid")), ""},
	} {
		got, skipped, err := parseKeys([]byte(set(first(), test.key)), broker.JWT)
		if err != nil || len(got.keys) != 1 || got.keys[0].kid != "first" || (test.want == "") != (len(skipped) == 0) || !strings.Contains(strings.Join(skipped, ""), test.want) {
			t.Errorf("%s: got %+v, %q, %v", name, got, skipped, err)
		}
		if _, _, err := parseKeys([]byte(set(test.key)), broker.JWT); err == nil {
			t.Errorf("%s: a set of it alone is taken", name)
		}
	}
	for name, edit := range map[string]func(map[string]any){
		"its own alg": with("alg", "RS512"), "no use": func(m map[string]any) { delete(m, "use") }, "key_ops": with("key_ops", []string{"verify"}), "what else it says": with("x5c", []int{1}),
	} {
		if got, skipped, err := parseKeys([]byte(set(first(), rsaOf(edit))), broker.JWT); err != nil || len(got.keys) != 2 || skipped != nil {
			t.Errorf("%s: got %q, %v", name, skipped, err)
		}
	}
	if got, _, err := parseKeys([]byte(set(rsaOf(with("use", "jwt-svid")), rsaOf(with("use", "x509-svid")))), broker.SPIFFE); err != nil || len(got.keys) != 1 {
		t.Errorf("a bundle of SPIFFE: got %v", err)
	}
	one, _, _ := parseKeys([]byte(set(first(), second())), broker.JWT)
	two, _, _ := parseKeys([]byte(set(second(), first(), first())), broker.JWT)
	if one.digest != two.digest || len(two.keys) != 2 {
		t.Error("the same keys in another order are others")
	}

	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t, set(first(), private))
		l := &log{}
		all := made(newTokens(TokenSettings{Issuers: []Issuer{ci()}, Log: l.logger()}, h.dial))
		stop := follow(t, all)
		time.Sleep(3 * freshDefault) //nolint:forbidigo // virtual
		synctest.Wait()
		if n := strings.Count(l.String(), "passed over"); n != 1 || strings.Contains(l.String(), "AQAB") {
			t.Errorf("it is told %d times: %s", n, l)
		}
		stop()
	})
}

// TestKeysWithoutNames: where neither key nor token has a kid, a rotation is seen by the signature; many keys are not tried.
func TestKeysWithoutNames(t *testing.T) {
	unnamed := func(m map[string]any) { delete(m, "kid") }
	h := newHouse(t, set(jwk("", &rsaKey().PublicKey, unnamed)))
	all := tokensOf(t, h, atNoon, ci())
	token := func(key *rsa.PrivateKey) string { return mint(key, `{"alg":"RS256"}`, claims("")) }
	if got := shows(t, all, token(rsaKey())); got != "jwt:ci/worker" {
		t.Error(got)
	}
	if got := shows(t, all, mint(rsaKey(), `{"alg":"RS256","kid":"some"}`, claims(""))); got != errKey.Detail {
		t.Errorf("a kid that no key has: %s", got)
	}
	h.show(set(jwk("", &rsaOther().PublicKey, unnamed)))
	all = tokensOf(t, h, atNoon, ci())
	h.show(set(jwk("", &rsaKey().PublicKey, unnamed)))
	_ = shows(t, all, token(rsaKey()))
	h.show(set(jwk("", &rsaOther().PublicKey, unnamed)))
	if got := shows(t, all, token(rsaOther())); got != "jwt:ci/worker" {
		t.Errorf("after a rotation: %s", got)
	}
	var many []map[string]any
	for i := range triesMost + 1 {
		many = append(many, jwk(fmt.Sprint(i), &rsaKey().PublicKey))
	}
	h.show(set(many...))
	all = tokensOf(t, h, atNoon, ci())
	if got := shows(t, all, token(rsaKey())); got != errNoKid.Detail {
		t.Errorf("of many keys: %s", got)
	}
}

// TestKeysOverTLS: over real connections, by the roots that are named, and by none of a proxy; the bearer token of the settings goes to their host only.
func TestKeysOverTLS(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	t.Setenv("https_proxy", "http://127.0.0.1:1")
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

// TestKeysInAFile are followed; what is broken leaves what was there.
func TestKeysInAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "keys.json")
	write := func(keys string) {
		if err := os.WriteFile(path+".new", []byte(keys), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	of := TokenSettings{Issuers: []Issuer{{Name: "ci", Kind: broker.JWT, Issuer: pipesListen, Audience: []string{"tokenbroker"}, JWKSFile: path}}, Now: atNoon}
	if _, err := NewTokens(of); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("no file: %v", err)
	}
	write(`{"keys":[]}`)
	if _, err := NewTokens(of); err == nil {
		t.Error("a broken file is taken")
	}
	write(set(first()))
	all := made(NewTokens(of))
	follow(t, all)
	token := mint(rsaKey(), `{"alg":"RS256","kid":"first"}`, claims(""))
	a := made(all.AuthenticateToken(t.Context(), token))
	changed := all.Changes()
	write("{")
	for all.Status()[0].Problem == "" { // until it is looked at
		_ = shows(t, all, mint(rsaOther(), `{"alg":"RS256","kid":"x"}`, claims("")))
	}
	if a.Still() != nil {
		t.Error("a broken file ends what was believed")
	}
	write(set(second()))
	select {
	case <-changed:
	case <-time.After(30 * time.Second):
		t.Fatal("the file is not read again")
	}
	if got := shows(t, all, token); got != errKey.Detail || a.Still() == nil {
		t.Errorf("a key that was taken away: %s", got)
	}
	if s := all.Status()[0]; s.Stale || s.Problem != "" {
		t.Errorf("got status %+v", s)
	}
}

// TestKeysThatRotateAllTheTime: tokens of a key that stays are let in throughout, and those of one that comes and goes only while it is there, whoever asks at once.
func TestKeysThatRotateAllTheTime(t *testing.T) {
	h := newHouse(t, set(first()))
	all := tokensOf(t, h, atNoon, ci())
	ctx := t.Context()
	stays := mint(rsaKey(), `{"alg":"RS256","kid":"first"}`, claims(""))
	goes := mint(rsaOther(), `{"alg":"RS256","kid":"next"}`, claims(""))
	_ = shows(t, all, stays)
	k := all.issuers[0].keys
	done := make(chan struct{})
	var callers sync.WaitGroup
	for range 4 {
		callers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if a, err := all.AuthenticateToken(ctx, stays); err != nil || a.Still() != nil {
					t.Errorf("a key that stays: %v", err)
				}
				if _, err := all.AuthenticateToken(ctx, goes); err != nil && broker.KindOf(err) != broker.CallerUnauthenticated {
					t.Errorf("a key that comes and goes: %v", err)
				}
				_ = all.Status()
			}
		})
	}
	for i := range 200 {
		if i%2 == 0 {
			h.show(set(first(), second()))
		} else {
			h.show(set(first()))
		}
		changed := all.Changes()
		for there := i%2 == 0; k.has(mustParse(second()).id) != there; {
			k.refresh(ctx)
		}
		<-changed
		a, err := all.AuthenticateToken(ctx, goes)
		if there := i%2 == 0; there != (err == nil) || there && a.Still() != nil {
			t.Fatalf("round %d: %v", i, err)
		}
	}
	close(done)
	callers.Wait()
}

func mustParse(m map[string]any) *key {
	s, _, err := parseKeys([]byte(set(m)), broker.JWT)
	return made(s, err).keys[0]
}
