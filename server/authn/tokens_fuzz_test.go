package authn

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/internal/jsondoc"
)

// FuzzTokens: whatever a header and claims say, signed or not, it is of one caller or of none. Who is let in has a plain name of an issuer that is trusted, and
// another library says the same of signature, end and audience.
func FuzzTokens(f *testing.F) {
	h := newHouse(f, set(jwk("rsa", &rsaKey().PublicKey), jwk("ec", &ecKey().PublicKey), jwk("ed", edKey().Public())))
	all := tokensOf(f, h, atNoon, append(others()[2:], ci())...)
	for _, i := range all.issuers { // nobody is asked for anything while it runs
		_, _ = i.keys.fetch(true)
	}
	for _, i := range all.issuers {
		for i.keys.believed() == nil {
			if flight, _ := i.keys.fetch(true); flight != nil {
				<-flight.done
			}
		}
		i.keys.asked.SetBurst(0)
	}
	const (
		signedByUs = iota
		signedByNobody
		unsigned
		raw
		modes
	)
	for _, mode := range []uint8{signedByUs, signedByNobody, unsigned} {
		for _, header := range []string{
			`{"alg":"EdDSA","kid":"ed"}`, `{"alg":"EdDSA"}`, `{"alg":"RS256","kid":"rsa"}`, `{"alg":"none"}`, `{"alg":"HS256","kid":"rsa"}`, `{"alg":"EdDSA","kid":"ed","crit":["exp"]}`, `{"alg":"EdDSA","alg":"none"}`,
			`{"alg":"EdDSA","kid":"ed","typ":"JWT"}`, `{"alg":"EdDSA","kid":"../x"}`, `{"alg":"EdDSA","jku":"http://127.0.0.1:1"}`, `{"alg":"EdDSA","b64":false}`, `{"alg":1}`, `[]`, ``,
		} {
			f.Add(mode, header, claims(""))
		}
		for _, c := range []string{
			claims(`"aud":["a","tokenbroker"]`), claims(`"aud":[]`), claims(`"exp":null`), claims(`"exp":"1"`), claims(`"exp":1e3`), claims(`"nbf":1e300`), claims(`"sub":"repo:acme/web:ref:refs/heads/main"`), claims(`"sub":"a/../b"`),
			claims(`"sub":"spiffe://corp.example/ns/shop"`), claims(`"sub":"spiffe://corp.example/%2e"`), claims(`"iss":"https://kubernetes.default.svc","sub":"system:serviceaccount:shop:cart","kubernetes.io":{"namespace":"shop","pod":{"name":"p","uid":"u"}}`),
			claims(`"iss":"https://twin.example","aud":"twins"`), `{"sub":"a","sub":"b"}`, strings.Repeat("[", 100), `{"exp":1e400}`, "{\"a\":\"\xff\"}", `{"a":"\ud800"}`,
		} {
			f.Add(mode, `{"alg":"EdDSA","kid":"ed"}`, c)
		}
	}
	f.Add(uint8(raw), "a.b.c", "")
	f.Add(uint8(raw), mint(edKey(), `{"alg":"EdDSA","kid":"ed"}`, claims("")), "")
	f.Add(uint8(raw), mint(ecKey(), `{"alg":"ES256","kid":"ec"}`, claims(""))+"\n", "")
	f.Add(uint8(raw), mint(rsaKey(), `{"alg":"RS256","kid":"rsa"}`, claims(""))+".a.b", "")
	_, nobody, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, mode uint8, header, text string) {
		token, ours := header, false
		switch mode % modes {
		case signedByUs:
			token, ours = mint(edKey(), header, text), true
		case signedByNobody:
			token = mint(nobody, header, text)
		case unsigned:
			token = mint(nil, header, text)
		}
		for _, part := range strings.Split(token, ".") {
			b, ok := decode(part)
			o, is := object(part)
			doc, err := jsondoc.Read(b)
			if other, also := doc.(map[string]any); is && (!ok || err != nil || !reflect.DeepEqual(o, other)) || !is && ok && also && err == nil && b[0] == '{' && depthOf(doc) <= depthMost && len(b) <= valuesMost {
				t.Fatalf("%q is %v, %v; by jsondoc %v, %v", b, o, is, doc, err)
			}
		}
		a, err := all.AuthenticateToken(context.Background(), token)
		if err != nil {
			if k := broker.KindOf(err); a != nil || k != broker.CallerUnauthenticated {
				t.Fatalf("got %v, %v", a, err)
			}
			return
		}
		if mode%modes != raw && !ours {
			t.Fatalf("what nobody has signed is %s", a.Caller)
		}
		c := a.Caller
		if !noon.Before(a.Until) || a.Still() != nil || c.Proof != broker.ProofJWT || c.Name == "" || strings.ContainsFunc(c.Identity, func(r rune) bool { return r <= ' ' || r > '~' || r == '%' || r == '*' }) ||
			strings.Contains("/"+c.Name+"/", "/../") {
			t.Fatalf("got %+v until %s", c, a.Until)
		}
		signed, err := jwt.ParseSigned(token, asymmetric)
		if err != nil {
			t.Fatalf("another library cannot read it: %v", err)
		}
		var public any = edKey().Public()
		switch signed.Headers[0].Algorithm {
		case "RS256":
			public = &rsaKey().PublicKey
		case "ES256":
			public = &ecKey().PublicKey
		}
		var is jwt.Claims
		var plainly map[string]any
		if err := signed.Claims(jose.JSONWebKey{Key: public}, &is, &plainly); err != nil {
			t.Fatalf("another library does not believe it: %v", err)
		}
		if err := is.ValidateWithLeeway(jwt.Expected{AnyAudience: jwt.Audience{"tokenbroker", "twins", "spiffe://corp.example/tokenbroker"}, Time: noon}, leeway); err != nil || is.Expiry == nil {
			t.Fatalf("another library lets nobody in by it: %v", err)
		}
		switch c.Kind {
		case broker.JWT:
			if is.Subject != c.Name {
				t.Fatalf("got %s of %q", c, is.Subject)
			}
		case broker.Kubernetes:
			if is.Subject != "system:serviceaccount:"+strings.Replace(c.Name, "/", ":", 1) {
				t.Fatalf("got %s of %q", c, is.Subject)
			}
		default:
			if is.Subject != c.Identity {
				t.Fatalf("got %s of %q", c, is.Subject)
			}
		}
		if again, err := all.AuthenticateToken(context.Background(), token); err != nil || again != a {
			t.Fatalf("the second time it is %v, %v", again, err)
		}
	})
}

// FuzzKeys: whatever an issuer shows, its keys are public, long enough and of known types, or there are none; the same set is the same, however it is written.
func FuzzKeys(f *testing.F) {
	for _, s := range []string{
		set(jwk("a", &rsaKey().PublicKey), jwk("b", &ecKey().PublicKey), jwk("c", edKey().Public())), set(), "", "[]", "<html>", `{"keys":[{"kty":"oct","k":"AA"}]}`, `{"keys":[{"kty":"RSA","n":"AQAB","e":"AQAB"}]}`,
		`{"keys":[{"kty":"OKP","crv":"Ed25519","x":"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","alg":"Ed25519","use":"jwt-svid"}],"spiffe_sequence":1}`, `{"keys":[],"keys":[]}`, `{"keys":[{"kty":"EC","crv":"P-256","x":"","y":""}]}`,
		string(made(json.Marshal(map[string]any{"keys": []any{jose.JSONWebKey{Key: rsaKey(), KeyID: "private"}}}))),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, kind := range []broker.CallerKind{broker.JWT, broker.SPIFFE} {
			got, skipped, err := parseKeys(data, kind)
			if err != nil {
				if got != nil {
					t.Fatalf("got %v and %v", got, err)
				}
				continue
			}
			if len(got.keys) > keysMost || len(got.keys) != len(got.has) || len(got.keys)+len(skipped) > keysMost {
				t.Fatalf("got %d keys, %d skipped", len(got.keys), len(skipped))
			}
			var again []map[string]any
			for _, k := range got.keys {
				j := jose.JSONWebKey{Key: k.public, KeyID: k.kid, Algorithm: k.alg}
				if !j.IsPublic() || !j.Valid() {
					t.Fatalf("got %+v", k)
				}
				fits := 0
				for _, alg := range asymmetric {
					if k.fits(alg) {
						fits++
					}
				}
				if fits == 0 || k.fits("HS256") || k.fits("none") {
					t.Fatalf("got %+v", k)
				}
				m := map[string]any{}
				if err := json.Unmarshal(made(j.MarshalJSON()), &m); err != nil {
					t.Fatal(err)
				}
				again = append([]map[string]any{m}, again...)
			}
			same, _, err := parseKeys([]byte(set(again...)), kind)
			if err != nil || same.digest != got.digest {
				t.Fatalf("written otherwise it is another: %v", err)
			}
		}
	})
}

// depthOf is how deeply a document nests.
func depthOf(v any) (deepest int) {
	below := 0
	switch v := v.(type) {
	case map[string]any:
		for _, x := range v {
			below = max(below, depthOf(x))
		}
	case []any:
		for _, x := range v {
			below = max(below, depthOf(x))
		}
	default:
		return 0
	}
	return below + 1
}
