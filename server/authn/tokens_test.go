package authn

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/server"
)

// TestWrongSettingsOfIssuers are errors that name the issuer.
func TestWrongSettingsOfIssuers(t *testing.T) {
	kube := Issuer{Name: "prod", Kind: broker.Kubernetes, Issuer: "https://kubernetes.default.svc", Audience: []string{"a"}}
	mesh := Issuer{Name: "mesh", Kind: broker.SPIFFE, TrustDomain: "corp.example", JWKSURI: "https://spire.example/keys", Audience: []string{"a"}}
	with := func(i Issuer, edit func(*Issuer)) []Issuer {
		edit(&i)
		return []Issuer{i}
	}
	for name, test := range map[string]struct {
		issuers []Issuer
		want    string
	}{
		"none":                       {nil, "name an issuer"},
		"no name":                    {with(ci(), func(i *Issuer) { i.Name = "" }), "its name is not one"},
		"a name with a slash":        {with(ci(), func(i *Issuer) { i.Name = "a/b" }), "its name is not one"},
		"a name with a star":         {with(ci(), func(i *Issuer) { i.Name = "*" }), "its name is not one"},
		"no kind":                    {with(ci(), func(i *Issuer) { i.Kind = "" }), "kind"},
		"another kind":               {with(ci(), func(i *Issuer) { i.Kind = broker.DNS }), "kind"},
		"no iss":                     {with(ci(), func(i *Issuer) { i.Issuer = "" }), "no issuer"},
		"a trust domain":             {with(kube, func(i *Issuer) { i.TrustDomain = "corp.example" }), "trust_domain"},
		"no trust domain":            {with(mesh, func(i *Issuer) { i.TrustDomain = "" }), "trust_domain"},
		"a trust domain in capitals": {with(mesh, func(i *Issuer) { i.TrustDomain = "Corp.example" }), "trust_domain"},
		"a SPIFFE ID":                {with(mesh, func(i *Issuer) { i.TrustDomain = "spiffe://corp.example" }), "trust_domain"},
		"SPIFFE with an iss":         {with(mesh, func(i *Issuer) { i.Issuer = "https://a.example" }), "leave it out"},
		"SPIFFE without keys":        {with(mesh, func(i *Issuer) { i.JWKSURI = "" }), "where its keys are"},
		"SPIFFE with EdDSA":          {with(mesh, func(i *Issuer) { i.Algorithms = []string{"EdDSA"} }), "algorithm"},
		"no audience":                {with(ci(), func(i *Issuer) { i.Audience = nil }), "audience"},
		"an empty audience":          {with(ci(), func(i *Issuer) { i.Audience = []string{"a", ""} }), "audience"},
		"HS256":                      {with(ci(), func(i *Issuer) { i.Algorithms = []string{"RS256", "HS256"} }), `"HS256"`},
		"none as algorithm":          {with(ci(), func(i *Issuer) { i.Algorithms = []string{"none"} }), `"none"`},
		"no algorithm":               {with(ci(), func(i *Issuer) { i.Algorithms = []string{} }), "algorithm"},
		"two places":                 {with(ci(), func(i *Issuer) { i.JWKSURI, i.JWKSFile = "https://a.example", "f" }), "both"},
		"a file, and how to fetch":   {with(ci(), func(i *Issuer) { i.JWKSFile, i.TokenFile = "f", "t" }), "for fetching"},
		"plain text":                 {with(ci(), func(i *Issuer) { i.Issuer = "http://issuer.example" }), "not https"},
		"plain text by a name":       {with(ci(), func(i *Issuer) { i.Issuer = "http://localhost:1" }), "not https"},
		"keys in plain text":         {with(ci(), func(i *Issuer) { i.JWKSURI = "http://10.0.0.1/keys" }), "not https"},
		"a user":                     {with(ci(), func(i *Issuer) { i.JWKSURI = "https://u:p@a.example/keys" }), "user"},
		"a fragment":                 {with(ci(), func(i *Issuer) { i.JWKSURI = "https://a.example/keys#" }), "fragment"},
		"no host":                    {with(ci(), func(i *Issuer) { i.JWKSURI = "https:///keys" }), "host"},
		"no URL":                     {with(ci(), func(i *Issuer) { i.Issuer = "accounts.google.com" }), "cannot be discovered"},
		"a query":                    {with(ci(), func(i *Issuer) { i.Issuer = "https://a.example?x" }), "query"},
		"two of a name":              {append(with(kube, func(i *Issuer) { i.Name = "ci" }), ci()), "two of this name"},
		"two of an iss":              {append(with(ci(), func(i *Issuer) { i.Name = "other" }), ci()), "cannot be told from"},
		"two of a trust domain":      {append(with(mesh, func(i *Issuer) { i.Name = "other" }), mesh), "cannot be told from"},
		"no CA":                      {with(ci(), func(i *Issuer) { i.CAFile = "/nowhere" }), "/nowhere"},
		"no token":                   {with(ci(), func(i *Issuer) { i.TokenFile = "/nowhere" }), "/nowhere"},
	} {
		if _, err := NewTokens(TokenSettings{Issuers: test.issuers}); err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "u:p") {
			t.Errorf("%s: got %v, want something of %q", name, err, test.want)
		}
	}
	named := ci(func(i *Issuer) { i.Issuer, i.JWKSURI = "accounts.google.com", "https://keys.example/?version=1" })
	v6 := kube
	v6.Issuer = "http://[::1]:8080"
	if _, err := NewTokens(TokenSettings{Issuers: []Issuer{named, v6, mesh}}); err != nil {
		t.Errorf("what is right: %v", err)
	}
}

// TestWhatIsRemembered: a token that comes again is the same caller until it ends, and is verified once.
func TestWhatIsRemembered(t *testing.T) {
	var later atomic.Int64
	h := newHouse(t, set(first()))
	all := tokensOf(t, h, func() time.Time { return noon.Add(time.Duration(later.Load())) }, ci())
	token := mint(rsaKey(), `{"alg":"RS256","kid":"first"}`, claims(`"exp":1772366460`))
	got := make([]*server.Authenticated, 20)
	var together sync.WaitGroup
	for i := range got {
		together.Go(func() { got[i] = made(all.AuthenticateToken(t.Context(), token)) })
	}
	together.Wait()
	for _, a := range got {
		if a != got[0] {
			t.Fatal("one token is two callers")
		}
	}
	if a := got[0]; a.Caller.Proof != broker.ProofJWT || a.Caller.Listener != "services" || !a.Until.Equal(noon.Add(time.Minute)) {
		t.Errorf("got %+v, until %s", a.Caller, a.Until)
	}
	later.Store(int64(time.Minute - 1))
	if a, err := all.AuthenticateToken(t.Context(), token); err != nil || a != got[0] {
		t.Errorf("before it ends: %v", err)
	}
	later.Store(int64(time.Minute))
	if got := shows(t, all, token); got != errOver.Detail {
		t.Errorf("when it ends: %s", got)
	}
	if len(all.seen.all) != 0 || len(all.seen.callers) != 0 {
		t.Error("it is remembered after its end")
	}
}

// TestAFloodOfTokens: whoever comes with thousands that count displaces themselves, and nobody else; what has ended goes.
func TestAFloodOfTokens(t *testing.T) {
	r := newRemembered(100)
	n := 0
	put := func(who string, until time.Time) (digest, *server.Authenticated) {
		n++
		d := digest{byte(n >> 16), byte(n >> 8), byte(n)}
		a := &server.Authenticated{Caller: broker.NewCaller(broker.JWT, "ci", who, broker.ProofJWT, "services"), Until: until, Still: func() error { return nil }}
		return d, r.put(d, a)
	}
	check := func() {
		t.Helper()
		tokens, crowds := 0, 0
		for _, c := range r.callers {
			tokens += c.tokens.Len()
		}
		for size, l := range r.crowds {
			crowds += l.Len()
			if size > r.top || size < 1 || l.Len() == 0 {
				t.Fatalf("a crowd of %d where the largest is %d", size, r.top)
			}
		}
		if len(r.all) > r.most || tokens != len(r.all) || crowds != len(r.callers) {
			t.Fatalf("%d tokens, %d of callers, %d callers, %d in crowds", len(r.all), tokens, len(r.callers), crowds)
		}
	}
	var honest []digest
	for i := range 40 {
		d, _ := put(fmt.Sprint("honest", i%20), noon.Add(time.Minute))
		honest = append(honest, d)
	}
	var last digest
	for range 5000 {
		last, _ = put("flood", noon.Add(time.Hour))
		check()
	}
	for _, d := range honest {
		if r.get(d) == nil {
			t.Error("somebody else was displaced")
		}
	}
	if r.get(last) == nil || len(r.all) != 100 {
		t.Error("there is room that nobody has")
	}
	for i := range 500 { // one token each
		put(fmt.Sprint("caller", i), noon.Add(time.Hour))
		check()
	}
	r.sweep(noon.Add(time.Minute))
	check()
	for _, d := range honest {
		if r.get(d) != nil {
			t.Error("what has ended is remembered")
		}
	}
	r.sweep(noon.Add(time.Hour))
	if check(); len(r.all) != 0 || r.top != 0 {
		t.Errorf("%d are left", len(r.all))
	}

	d, a := put("x", noon.Add(time.Hour))
	other := &server.Authenticated{Caller: a.Caller, Still: func() error { return nil }}
	if r.put(d, other) != a {
		t.Error("two at once are two callers")
	}
	if r.drop(d, other); r.get(d) != a {
		t.Error("what somebody else has put there was dropped")
	}
	gone := &server.Authenticated{Caller: a.Caller, Still: func() error { return errGone }}
	d = digest{1}
	r.put(d, gone)
	if r.put(d, other) != other {
		t.Error("what counts no more is in the way")
	}
	check()
}

// TestRefusalsSayNothingOfATokenOrOfAnother: they are the same for all who get them, and sentences of ours.
func TestRefusalsSayNothingOfATokenOrOfAnother(t *testing.T) {
	h := newHouse(t, set(first()))
	all := tokensOf(t, h, atNoon, ci())
	var one, two *broker.Failure
	_, err := all.AuthenticateToken(t.Context(), mint(rsaOther(), `{"alg":"RS256","kid":"first"}`, claims(`"sub":"secret"`)))
	_, err2 := all.AuthenticateToken(t.Context(), mint(rsaOther(), `{"alg":"RS256","kid":"first"}`, claims(`"sub":"secret2"`)))
	if !errors.As(err, &one) || !errors.As(err2, &two) || one != two || one.Kind != broker.CallerUnauthenticated || strings.Contains(one.Error(), "secret") {
		t.Errorf("got %v and %v", err, err2)
	}
}

// BenchmarkTokens: one that is remembered, those that are verified anew, and those that are refused.
func BenchmarkTokens(b *testing.B) {
	h := newHouse(b, set(jwk("rsa", &rsaKey().PublicKey), jwk("ec", &ecKey().PublicKey), jwk("ed", edKey().Public())))
	all := tokensOf(b, h, atNoon, ci())
	more := `"jti":"0123456789abcdef0123456789abcdef","scope":"read write","repository":"acme/web","ref":"refs/heads/main","repository_owner":"acme","run_id":"1234567890",
		"workflow":"deploy","actor":"somebody","environment":"production","runner_environment":"self-hosted","event_name":"push"`
	rs, es, ed := mint(rsaKey(), `{"alg":"RS256","kid":"rsa"}`, claims(more)), mint(ecKey(), `{"alg":"ES256","kid":"ec"}`, claims(more)), mint(edKey(), `{"alg":"EdDSA","kid":"ed"}`, claims(more))
	if _, err := all.AuthenticateToken(b.Context(), rs); err != nil {
		b.Fatal(err)
	}
	b.Run("remembered", func(b *testing.B) {
		b.SetBytes(int64(len(rs)))
		for b.Loop() {
			if _, err := all.AuthenticateToken(b.Context(), rs); err != nil {
				b.Fatal(err)
			}
		}
	})
	for name, token := range map[string]string{"RS256": rs, "ES256": es, "EdDSA": ed} {
		b.Run("verified/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := all.verify(b.Context(), token); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	other := mint(rsaOther(), `{"alg":"RS256","kid":"rsa"}`, claims(more))
	for name, token := range map[string]string{
		"no JWT":          strings.Repeat("x", 1000),
		"unknown issuer":  mint(rsaKey(), `{"alg":"RS256","kid":"rsa"}`, claims(more+`,"iss":"https://x.example"`)),
		"ended":           mint(rsaKey(), `{"alg":"RS256","kid":"rsa"}`, claims(more+`,"exp":1`)),
		"unknown key":     mint(rsaKey(), `{"alg":"RS256","kid":"x"}`, claims(more)),
		"wrong signature": other,
		"8 KiB of lists":  mint(rsaKey(), `{"alg":"RS256","kid":"rsa"}`, claims(`"iss":"https://x.example","x":[`+strings.Repeat("[],", 1900)+`[]]`)),
		"wrong ES256":     es[:len(es)-6] + "AAAAAA"[:5] + "A",
	} {
		b.Run("refused/"+name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := all.AuthenticateToken(b.Context(), token); err == nil {
					b.Fatal("it is let in")
				}
			}
		})
	}
}
