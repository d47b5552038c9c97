package authn

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/tokenbroker/tokenbroker/broker"
)

// others are the further issuers of the table: one with a key of its own, one with the same key as ci, a cluster and a trust domain.
func others() []Issuer {
	at := func(i Issuer, path string) Issuer {
		i.JWKSURI = pipesListen + path
		return i
	}
	return []Issuer{
		at(Issuer{Name: "other", Kind: broker.JWT, Issuer: "https://other.example", Audience: []string{"tokenbroker"}}, "/other"),
		at(Issuer{Name: "twin", Kind: broker.JWT, Issuer: "https://twin.example", Audience: []string{"twins"}, Algorithms: []string{"RS256"}}, "/keys"),
		at(Issuer{Name: "prod", Kind: broker.Kubernetes, Issuer: "https://kubernetes.default.svc", Audience: []string{"tokenbroker"}}, "/keys"),
		at(Issuer{Name: "mesh", Kind: broker.SPIFFE, TrustDomain: "corp.example", Audience: []string{"tokenbroker", "spiffe://corp.example/tokenbroker"}}, "/keys"),
	}
}

// TestWhatATokenProves is the table of tokens: who is let in, and what the others are told.
func TestWhatATokenProves(t *testing.T) {
	var lured atomic.Int32
	lure := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		lured.Add(1)
		_, _ = w.Write([]byte(set(jwk("evil", &rsaOther().PublicKey))))
	}))
	defer lure.Close()

	h := newHouse(t, set(jwk("rsa", &rsaKey().PublicKey), jwk("ec", &ecKey().PublicKey), jwk("ed", edKey().Public()),
		jwk("ps", &rsaKey().PublicKey, func(m map[string]any) { m["alg"] = "PS256" }),
		jwk("for encryption", &rsaKey().PublicKey, func(m map[string]any) { m["use"] = "enc" })))
	h.answers(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/other" {
			_, _ = w.Write([]byte(set(jwk("rsa", &rsaOther().PublicKey))))
		}
		return r.URL.Path == "/other"
	})
	l := &log{}
	all, err := newTokens(TokenSettings{Listener: "services", Issuers: append(others(), ci()), Log: l.logger(), Now: atNoon}, h.dial)
	if err != nil {
		t.Fatal(err)
	}

	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: made(x509.MarshalPKIXPublicKey(&rsaKey().PublicKey))})
	rs := func(more string) string { return mint(rsaKey(), `{"alg":"RS256","kid":"rsa"}`, claims(more)) }
	header := func(h string) string { return mint(rsaKey(), h, claims("")) }
	raw := func(c string) string { return mint(rsaKey(), `{"alg":"RS256","kid":"rsa"}`, c) }
	enc := base64.RawURLEncoding.EncodeToString
	good := rs("")
	parts := strings.Split(good, ".")
	k8s := func(sub, more string) string {
		return rs(`"iss":"https://kubernetes.default.svc","sub":"` + sub + `"` + more)
	}
	svid := func(sub string) string { return rs(`"iss":null,"sub":"` + sub + `"`) }
	jose1 := func(alg jose.SignatureAlgorithm, key any, kid string) string {
		s := made(jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, (&jose.SignerOptions{}).WithType("JWT")))
		return made(jwt.Signed(s).Claims(jwt.Claims{Issuer: pipesListen, Subject: "jose", Audience: jwt.Audience{"x", "tokenbroker"}, Expiry: jwt.NewNumericDate(noon.Add(time.Hour))}).Serialize())
	}
	deep := func(n int) string { return `"deep":` + strings.Repeat("[", n) + strings.Repeat("]", n) }

	for name, test := range map[string]struct {
		token, want string
		failure     *broker.Failure
	}{
		"RS256":                              {token: good, want: "jwt:ci/worker"},
		"ES256":                              {token: mint(ecKey(), `{"alg":"ES256","kid":"ec"}`, claims("")), want: "jwt:ci/worker"},
		"EdDSA":                              {token: mint(edKey(), `{"alg":"EdDSA","kid":"ed"}`, claims("")), want: "jwt:ci/worker"},
		"PS256":                              {token: mint(rsaKey(), `{"alg":"PS256","kid":"ps"}`, claims("")), want: "jwt:ci/worker"},
		"RS256 of go-jose":                   {token: jose1(jose.RS256, rsaKey(), "rsa"), want: "jwt:ci/jose"},
		"ES256 of go-jose":                   {token: jose1(jose.ES256, ecKey(), "ec"), want: "jwt:ci/jose"},
		"EdDSA of go-jose":                   {token: jose1(jose.EdDSA, edKey(), "ed"), want: "jwt:ci/jose"},
		"no kid, and one key fits":           {token: mint(ecKey(), `{"alg":"ES256"}`, claims("")), want: "jwt:ci/worker"},
		"no kid, and the second that fits":   {token: header(`{"alg":"PS256"}`), want: "jwt:ci/worker"},
		"an access token":                    {token: header(`{"alg":"RS256","kid":"rsa","typ":"application/at+JWT"}`), want: "jwt:ci/worker"},
		"GitHub":                             {token: rs(`"sub":"repo:acme/web:ref:refs/heads/main"`), want: "jwt:ci/repo:acme/web:ref:refs/heads/main"},
		"auth0":                              {token: rs(`"sub":"auth0|123"`), want: "jwt:ci/auth0|123"},
		"where keys may be is not looked at": {token: header(`{"alg":"RS256","kid":"rsa","jku":"` + lure.URL + `","x5u":"` + lure.URL + `","x5t":"AA"}`), want: "jwt:ci/worker"},
		"aud list":                           {token: rs(`"aud":["a","tokenbroker"]`), want: "jwt:ci/worker"},
		"exp with a fraction":                {token: rs(`"exp":1772370000.5`), want: "jwt:ci/worker"},
		"exp a second from now":              {token: rs(`"exp":1772366401`), want: "jwt:ci/worker"},
		"nbf a minute from now":              {token: rs(`"nbf":1772366460`), want: "jwt:ci/worker"},
		"no iat":                             {token: rs(`"iat":null`), want: "jwt:ci/worker"},
		"as deep as may be":                  {token: rs(deep(depthMost - 1)), want: "jwt:ci/worker"},
		"service account":                    {token: k8s("system:serviceaccount:shop:cart.v2", ""), want: "k8s:prod/shop/cart.v2"},
		"service account of a pod":           {token: k8s("system:serviceaccount:shop:cart", `,"kubernetes.io":{"namespace":"shop","serviceaccount":{"name":"cart","uid":"u"}}`), want: "k8s:prod/shop/cart"},
		"JWT-SVID":                           {token: svid("spiffe://corp.example/ns/shop"), want: "spiffe://corp.example/ns/shop"},
		"JWT-SVID with the iss of another issuer": {token: rs(`"sub":"spiffe://corp.example/ns/shop"`), want: "spiffe://corp.example/ns/shop"},
		"a SPIFFE ID that an issuer has as sub":   {token: rs(`"sub":"spiffe://else.example/x"`), want: "jwt:ci/spiffe://else.example/x"},

		"nothing":                       {failure: errNoJWT},
		"no JWT":                        {token: "ghp_0123456789", failure: errNoJWT},
		"two parts":                     {token: parts[0] + "." + parts[1], failure: errNoJWT},
		"JWE":                           {token: good + ".a.b", failure: errEncrypted},
		"four parts":                    {token: good + ".a", failure: errNoJWT},
		"JSON serialization":            {token: `{"payload":"` + parts[1] + `","protected":"` + parts[0] + `","signature":"` + parts[2] + `"}`, failure: errNoJWT},
		"too long":                      {token: rs(`"more":"` + strings.Repeat("x", tokenMost) + `"`), failure: errLong},
		"a blank before":                {token: " " + good, failure: errHeader},
		"a line break in it":            {token: good[:9] + "\n" + good[9:], failure: errHeader},
		"a line break at its end":       {token: good + "\r\n", failure: errNoJWT},
		"padding":                       {token: good + "=", failure: errNoJWT},
		"the alphabet of base64":        {token: parts[0] + "." + parts[1] + ".+/" + parts[2][2:], failure: errNoJWT},
		"a signature spelled otherwise": {token: good[:len(good)-1] + string(next(good[len(good)-1])), failure: errNoJWT},
		"none":                          {token: mint(nil, `{"alg":"none"}`, claims("")), failure: errUnsigned},
		"none with a signature":         {token: mint(rsaKey(), `{"alg":"none"}`, claims("")), failure: errAlgorithm},
		"nOnE":                          {token: mint(rsaKey(), `{"alg":"nOnE","kid":"rsa"}`, claims("")), failure: errAlgorithm},
		"HS256 with the public key":     {token: mint(public, `{"alg":"HS256","kid":"rsa"}`, claims("")), failure: errAlgorithm},
		"RS256 said, HS256 done":        {token: mint(public, `{"alg":"RS256","kid":"rsa"}`, claims("")), failure: errSignature},
		"RS256 said with an EC key":     {token: mint(ecKey(), `{"alg":"RS256","kid":"ec"}`, claims("")), failure: errFits},
		"ES384 with a key of P-256":     {token: mint(ecKey(), `{"alg":"ES384","kid":"ec"}`, claims("")), failure: errFits},
		"another alg than the key's":    {token: header(`{"alg":"RS256","kid":"ps"}`), failure: errFits},
		"a key for encryption":          {token: header(`{"alg":"RS256","kid":"for encryption"}`), failure: errKey},
		"kid with a path":               {token: header(`{"alg":"RS256","kid":"../../../../dev/null"}`), failure: errKey},
		"kid of SQL":                    {token: header(`{"alg":"RS256","kid":"' UNION SELECT 'x"}`), failure: errKey},
		"kid is no text":                {token: header(`{"alg":"RS256","kid":1}`), failure: errHeader},
		"kid is empty":                  {token: header(`{"alg":"RS256","kid":""}`), failure: errHeader},
		"kid is null":                   {token: header(`{"alg":"RS256","kid":null}`), failure: errHeader},
		"no alg":                        {token: header(`{"kid":"rsa"}`), failure: errHeader},
		"alg is a list":                 {token: header(`{"alg":["RS256"],"kid":"rsa"}`), failure: errHeader},
		"alg twice":                     {token: header(`{"alg":"none","alg":"RS256","kid":"rsa"}`), failure: errHeader},
		"alg twice, once escaped":       {token: header(`{"alg":"RS256","\u0061lg":"none","kid":"rsa"}`), failure: errHeader},
		"ALG":                           {token: header(`{"ALG":"RS256","kid":"rsa"}`), failure: errHeader},
		"jku":                           {token: mint(rsaOther(), `{"alg":"RS256","kid":"evil","jku":"`+lure.URL+`"}`, claims("")), failure: errKey},
		"x5u":                           {token: mint(rsaOther(), `{"alg":"RS256","kid":"rsa","x5u":"`+lure.URL+`"}`, claims("")), failure: errSignature},
		"jwk":                           {token: mint(rsaOther(), `{"alg":"RS256","jwk":`+string(made(jose.JSONWebKey{Key: &rsaOther().PublicKey}.MarshalJSON()))+`}`, claims("")), failure: errExtension},
		"x5c":                           {token: header(`{"alg":"RS256","kid":"rsa","x5c":["AA"]}`), failure: errExtension},
		"crit":                          {token: header(`{"alg":"RS256","kid":"rsa","crit":["exp"],"exp":1}`), failure: errExtension},
		"crit that is empty":            {token: header(`{"alg":"RS256","kid":"rsa","crit":[]}`), failure: errExtension},
		"b64":                           {token: header(`{"alg":"RS256","kid":"rsa","b64":false}`), failure: errExtension},
		"zip":                           {token: header(`{"alg":"RS256","kid":"rsa","zip":"DEF"}`), failure: errExtension},
		"a DPoP proof":                  {token: header(`{"alg":"RS256","kid":"rsa","typ":"dpop+jwt"}`), failure: errType},
		"a logout token":                {token: header(`{"alg":"RS256","kid":"rsa","typ":"logout+jwt"}`), failure: errType},
		"a header that is a list":       {token: header(`["RS256"]`), failure: errHeader},
		"a header with more behind":     {token: header(`{"alg":"RS256","kid":"rsa"}{}`), failure: errHeader},
		"a byte order mark":             {token: header("\ufeff" + `{"alg":"RS256","kid":"rsa"}`), failure: errHeader},
		"claims that are a text":        {token: raw(`"x"`), failure: errClaims},
		"claims with a name twice":      {token: raw(strings.Replace(claims(""), "{", `{"sub":"root",`, 1)), failure: errClaims},
		"a name twice further down":     {token: raw(strings.Replace(claims(""), "{", `{"a":{"b":1,"b":2},`, 1)), failure: errClaims},
		"no UTF-8":                      {token: raw(strings.Replace(claims(""), "{", "{\"a\":\"\xff\",", 1)), failure: errClaims},
		"as much as may be":             {token: rs(`"iss":"https://evil.example","x":[` + strings.Repeat("1,", valuesMost-8) + `1]`), failure: errIssuer},
		"too much":                      {token: rs(`"x":[` + strings.Repeat("1,", valuesMost) + `1]`), failure: errClaims},
		"too deep":                      {token: rs(deep(depthMost)), failure: errClaims},
		"another issuer":                {token: rs(`"iss":"https://evil.example"`), failure: errIssuer},
		"an issuer with a slash more":   {token: rs(`"iss":"` + pipesListen + `/"`), failure: errIssuer},
		"an issuer in capitals":         {token: rs(`"iss":"HTTP://127.0.0.1:8080"`), failure: errIssuer},
		"iss is a list":                 {token: rs(`"iss":["` + pipesListen + `"]`), failure: errIssuer},
		"no iss":                        {token: rs(`"iss":null`), failure: errIssuer},
		"signed by another issuer":      {token: rs(`"iss":"https://other.example"`), failure: errSignature},
		"signed by another, by its kid": {token: mint(ecKey(), `{"alg":"ES256","kid":"ec"}`, claims(`"iss":"https://other.example"`)), failure: errKey},
		"a twin's token for others":     {token: rs(`"iss":"https://twin.example"`), failure: errForOthers},
		"a twin's algorithm":            {token: mint(ecKey(), `{"alg":"ES256","kid":"ec"}`, claims(`"iss":"https://twin.example","aud":"twins"`)), failure: errAlgorithm},
		"another signature":             {token: parts[0] + "." + parts[1] + "." + enc(make([]byte, 256)), failure: errSignature},
		"other claims":                  {token: parts[0] + "." + enc([]byte(claims(`"sub":"root"`))) + "." + parts[2], failure: errSignature},
		"ES256 of zeros":                {token: strings.Join(append(strings.Split(mint(ecKey(), `{"alg":"ES256","kid":"ec"}`, claims("")), ".")[:2], enc(make([]byte, 64))), "."), failure: errSignature},
		"no exp":                        {token: rs(`"exp":null`), failure: errEnd},
		"exp as text":                   {token: rs(`"exp":"1772370000"`), failure: errEnd},
		"exp 1e400":                     {token: raw(strings.Replace(claims(`"exp":7`), `"exp":7`, `"exp":1e400`, 1)), failure: errEnd},
		"exp 1e18":                      {token: rs(`"exp":1e18`), failure: errEnd},
		"exp in milliseconds":           {token: rs(`"exp":1772370000000`), failure: errEnd},
		"exp negative":                  {token: rs(`"exp":-1`), failure: errEnd},
		"exp is true":                   {token: rs(`"exp":true`), failure: errEnd},
		"exp now":                       {token: rs(`"exp":1772366400`), failure: errOver},
		"exp now and a half":            {token: rs(`"exp":1772366400.5`), failure: errOver},
		"exp 0":                         {token: rs(`"exp":0`), failure: errOver},
		"nbf later":                     {token: rs(`"nbf":1772366461`), failure: errEarly},
		"nbf as text":                   {token: rs(`"nbf":"0"`), failure: errTimes},
		"iat later":                     {token: rs(`"iat":1772366461`), failure: errEarly},
		"iat as text":                   {token: rs(`"iat":"x"`), failure: errTimes},
		"no aud":                        {token: rs(`"aud":null`), failure: errAudience},
		"aud empty":                     {token: rs(`"aud":""`), failure: errAudience},
		"aud an empty list":             {token: rs(`"aud":[]`), failure: errAudience},
		"aud with a number":             {token: rs(`"aud":["tokenbroker",1]`), failure: errAudience},
		"aud in a list in a list":       {token: rs(`"aud":[["tokenbroker"]]`), failure: errAudience},
		"aud of others":                 {token: rs(`"aud":["a","tokenbroker2"]`), failure: errForOthers},
		"aud with a blank":              {token: rs(`"aud":"tokenbroker "`), failure: errForOthers},
		"no sub":                        {token: rs(`"sub":null`), failure: errSubject},
		"sub empty":                     {token: rs(`"sub":""`), failure: errSubject},
		"sub a number":                  {token: rs(`"sub":7`), failure: errSubject},
		"sub with a star":               {token: rs(`"sub":"repo:*"`), failure: errSubject},
		"sub with a percent sign":       {token: rs(`"sub":"a%2fb"`), failure: errSubject},
		"sub with dots":                 {token: rs(`"sub":"repo:acme/../web"`), failure: errSubject},
		"sub with a blank":              {token: rs(`"sub":"a b"`), failure: errSubject},
		"sub with a control":            {token: rs(`"sub":"a\u0000b"`), failure: errSubject},
		"sub that is not ASCII":         {token: rs(`"sub":"wоrker"`), failure: errSubject},
		"sub too long":                  {token: rs(`"sub":"` + strings.Repeat("a", subjectMost+1) + `"`), failure: errSubject},
		"a user of the cluster":         {token: k8s("system:admin", ""), failure: errAccount},
		"one part":                      {token: k8s("system:serviceaccount:shop", ""), failure: errAccount},
		"an empty namespace":            {token: k8s("system:serviceaccount::cart", ""), failure: errAccount},
		"a slash":                       {token: k8s("system:serviceaccount:shop:a/b", ""), failure: errAccount},
		"a colon more":                  {token: k8s("system:serviceaccount:shop:a:b", ""), failure: errAccount},
		"capitals":                      {token: k8s("system:serviceaccount:Shop:cart", ""), failure: errAccount},
		"another namespace said":        {token: k8s("system:serviceaccount:shop:cart", `,"kubernetes.io":{"namespace":"bank"}`), failure: errAccount},
		"another account said":          {token: k8s("system:serviceaccount:shop:cart", `,"kubernetes.io":{"serviceaccount":{"name":"root"}}`), failure: errAccount},
		"something else said":           {token: k8s("system:serviceaccount:shop:cart", `,"kubernetes.io":[]`), failure: errAccount},
		"the trust domain itself":       {token: svid("spiffe://corp.example"), failure: errSPIFFE},
		"a SPIFFE ID with dots":         {token: svid("spiffe://corp.example/a/../b"), failure: errSPIFFE},
		"a SPIFFE ID with a slash more": {token: svid("spiffe://corp.example/a/"), failure: errSPIFFE},
		"a SPIFFE ID with a query":      {token: svid("spiffe://corp.example/a?b"), failure: errSPIFFE},
		"a SPIFFE ID in capitals":       {token: svid("SPIFFE://corp.example/a"), failure: errIssuer},
		"another trust domain":          {token: svid("spiffe://other.example/a"), failure: errIssuer},
		"a trust domain with a port":    {token: svid("spiffe://corp.example:1/a"), failure: errIssuer},
		"an access token as JWT-SVID":   {token: mint(rsaKey(), `{"alg":"RS256","kid":"rsa","typ":"at+jwt"}`, claims(`"sub":"spiffe://corp.example/a"`)), failure: errType},
		"EdDSA in a JWT-SVID":           {token: mint(edKey(), `{"alg":"EdDSA","kid":"ed"}`, claims(`"sub":"spiffe://corp.example/a"`)), failure: errAlgorithm},
		"a JWT-SVID for others":         {token: rs(`"sub":"spiffe://corp.example/a","aud":"spiffe://corp.example/cart"`), failure: errForOthers},
	} {
		want := test.want
		if test.failure != nil {
			want = test.failure.Detail
		}
		if got := shows(t, all, test.token); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
	if n := lured.Load(); n != 0 {
		t.Errorf("%d requests went where a token's header says", n)
	}
	if got := l.String(); strings.Contains(got, "worker") || strings.Contains(got, "evil") {
		t.Errorf("something of a token is in the log: %s", got)
	}
}

// next is another letter whose first bits are the same: what is decoded is the same, unless trailing bits count.
func next(c byte) byte {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return alphabet[strings.IndexByte(alphabet, c)^1]
}

// TestAttributes: what else a token says of its subject is kept as far as there is room; what is too much is not there at all.
func TestAttributes(t *testing.T) {
	h := newHouse(t, set(jwk("rsa", &rsaKey().PublicKey)))
	all := tokensOf(t, h, atNoon, append(others()[2:], ci())...)
	rs := func(more string) string { return mint(rsaKey(), `{"alg":"RS256","kid":"rsa"}`, claims(more)) }
	attributes := func(token string) map[string][]string {
		t.Helper()
		a, err := all.AuthenticateToken(t.Context(), token)
		if err != nil {
			t.Fatal(err)
		}
		return a.Caller.Attributes
	}
	long := strings.Repeat("x", claimTextMost+1)
	got := attributes(rs(`"ref":"refs/heads/main","groups":["a","b"],"n":1,"mixed":["a",1],"none":[],"o":{"a":"b"},"long":"` + long + `","some":["a","` + long + `"],"ctl":"a\u0007","empty":"","` + long + `":"x","name":"Jürgen Ä."`))
	want := map[string][]string{"iss": {pipesListen}, "sub": {"worker"}, "aud": {"tokenbroker"}, "ref": {"refs/heads/main"}, "groups": {"a", "b"}, "name": {"Jürgen Ä."}}
	if !equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	var many strings.Builder
	for i := range 100 {
		many.WriteString(`,"c` + strings.Repeat("0", i) + `":"x"`)
	}
	if got := attributes(rs(`"a":"x"` + many.String())); len(got) > claimsMost || got["a"] == nil {
		t.Errorf("got %d attributes", len(got))
	}
	var much strings.Builder
	for _, c := range "abcdefghijk" {
		much.WriteString(`,"m` + string(c) + `":"` + long[1:] + `"`)
	}
	if got := attributes(rs(`"a":"x"` + much.String())); got["ma"] == nil || got["mk"] != nil {
		t.Errorf("got %d attributes of a token with many large ones", len(got))
	}
	got = attributes(rs(`"iss":"https://kubernetes.default.svc","sub":"system:serviceaccount:shop:cart","groups":["system:masters"],
		"kubernetes.io":{"namespace":"shop","serviceaccount":{"name":"cart","uid":"u1"},"pod":{"name":"cart-0","uid":"u2"},"node":{"name":"n","uid":"u3"},"warnafter":1}`))
	want = map[string][]string{
		"namespace": {"shop"}, "serviceaccount": {"cart"}, "serviceaccount_uid": {"u1"}, "pod": {"cart-0"}, "pod_uid": {"u2"}, "node": {"n"}, "node_uid": {"u3"},
	}
	if !equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := attributes(rs(`"sub":"spiffe://corp.example/a","groups":["x"]`)); got != nil {
		t.Errorf("got %v of a JWT-SVID", got)
	}
}

func equal(a, b map[string][]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if strings.Join(v, "\x00") != strings.Join(b[k], "\x00") {
			return false
		}
	}
	return true
}
