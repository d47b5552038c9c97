package authn

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/tokenbroker/tokenbroker/broker"
)

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
		if alone, _, err := parseKeys([]byte(set(test.key)), broker.JWT); err != nil || len(alone.keys) != 0 {
			t.Errorf("%s: of a set of it alone got %+v, %v", name, alone, err)
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
		pass(3 * freshDefault)
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
