package product

import (
	"encoding/pem"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/server/authn"
)

// TestForeignTokensOfCallers: tokens of a provider that nobody here wrote are verified by the keys that it is discovered to have; for others, and of others, they
// prove nothing.
func TestForeignTokensOfCallers(t *testing.T) {
	o := newOPOf(t, func(addr string) string { return addr })
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.front.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	var answer struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
	}
	obtain := func(more url.Values) string {
		form := url.Values{"grant_type": {"client_credentials"}, "client_id": {"post"}, "client_secret": {opSecret}, "scope": {"read"}}
		for name, v := range more {
			form[name] = v
		}
		o.post("/token", form, &answer)
		return answer.AccessToken
	}
	token, opaque := obtain(url.Values{"resource": {opAPI}}), obtain(nil)
	if jwtClaims(t, token)["iss"] != o.issuer {
		t.Fatalf("the provider's tokens have the issuer %v", jwtClaims(t, token)["iss"])
	}
	tokens := func(edit func(*authn.Issuer)) *authn.Tokens {
		i := authn.Issuer{Name: "op", Kind: broker.JWT, Issuer: o.issuer, Audience: []string{opAPI}, CAFile: ca}
		edit(&i)
		all, err := authn.NewTokens(authn.TokenSettings{Listener: "services", Issuers: []authn.Issuer{i}})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}

	ours := tokens(func(*authn.Issuer) {})
	a, err := ours.AuthenticateToken(t.Context(), token)
	if err != nil {
		t.Fatalf("%v, %+v", err, ours.Status())
	}
	claims := jwtClaims(t, token)
	if a.Caller.Identity != "jwt:op/post" || float64(a.Until.Unix()) != claims["exp"] || a.Still() != nil {
		t.Errorf("got %+v until %s, of %v", a.Caller, a.Until, claims)
	}
	for name, want := range map[string]string{"client_id": "post", "scope": "read", "aud": opAPI} {
		if got := a.Caller.Attributes[name]; len(got) != 1 || got[0] != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if s := ours.Status(); len(s) != 1 || s[0].Stale || s[0].Fetched.IsZero() {
		t.Errorf("got status %+v", s)
	}

	head, rest, _ := strings.Cut(token, ".")
	body, signature, _ := strings.Cut(rest, ".")
	for name, test := range map[string]struct {
		by    *authn.Tokens
		token string
		want  error
	}{
		"an opaque token":      {ours, opaque, broker.CallerUnauthenticated},
		"without signature":    {ours, head + "." + body + ".", broker.CallerUnauthenticated},
		"a changed header":     {ours, "e30." + body + "." + signature, broker.CallerUnauthenticated},
		"for others":           {tokens(func(i *authn.Issuer) { i.Audience = []string{"tokenbroker"} }), token, broker.CallerUnauthenticated},
		"another algorithm":    {tokens(func(i *authn.Issuer) { i.Algorithms = []string{"ES256"} }), token, broker.CallerUnauthenticated},
		"nobody trusts it":     {tokens(func(i *authn.Issuer) { i.Issuer = "https://other.example.com" }), token, broker.CallerUnauthenticated},
		"it is not who it was": {tokens(func(i *authn.Issuer) { i.CAFile = "" }), token, broker.IssuerUnavailable},
	} {
		if a, err := test.by.AuthenticateToken(t.Context(), test.token); a != nil || !errors.Is(err, test.want) {
			t.Errorf("%s: got %v, %v", name, a, err)
		}
	}
}
