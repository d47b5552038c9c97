package upstreamsim

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// Every system issues a token that its API accepts until it expires, is rejected or its account is disabled.
func TestToken(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		clock := newClock()
		sim := start(t, Options{Now: clock.Now})
		client := newClient(t, sim, h2)
		for _, a := range sim.Accounts() {
			call := obtain(t, client, a)
			works := func(when string, want int) {
				t.Helper()
				if got := mustSend(t, client, call).status; got != want {
					t.Errorf("%s, h2 %v: API %s: got %d, want %d", a, h2, when, got, want)
				}
			}
			works("with a fresh token", http.StatusOK)

			if n, err := sim.RejectTokens(a.ID); n != 1 || err != nil {
				t.Errorf("%s: rejected %d tokens, %v; want 1", a, n, err)
			}
			works("with a rejected token", http.StatusUnauthorized)

			if a.System == RefreshToken {
				a, _ = sim.Reseed(a.ID)
			}
			call = obtain(t, client, a)
			if err := sim.Disable(a.ID); err != nil {
				t.Fatal(err)
			}
			works("while disabled", http.StatusUnauthorized)
			if err := sim.Enable(a.ID); err != nil {
				t.Fatal(err)
			}
			lifetime := time.Hour
			if a.System == DocuWareCookie {
				lifetime = 24 * time.Hour
			}
			clock.Add(lifetime - time.Nanosecond)
			works("just before expiry", http.StatusOK)
			clock.Add(time.Nanosecond)
			works("at expiry", http.StatusUnauthorized)
		}
	}
}

func TestAccounts(t *testing.T) {
	sim := start(t, Options{})
	client := newClient(t, sim, true)
	if got, want := len(sim.Accounts()), len(Systems()); got != want {
		t.Fatalf("got %d accounts, want %d", got, want)
	}
	for _, first := range sim.Accounts() {
		second, err := sim.AddAccount(first.System)
		if err != nil {
			t.Fatal(err)
		}
		if first.ID == second.ID {
			t.Errorf("%s: second account has the same ID", first)
		}
		for name, secret := range first.Secrets {
			if secret == "" || secret == second.Secrets[name] {
				t.Errorf("%s: %s is empty or shared", first, name)
			}
			awkward := `"&+%{{`
			if strings.HasPrefix(string(first.System), "occtoo") {
				awkward = "+/="
			} else if name == "refresh_token" {
				awkward = "="
			}
			for _, c := range awkward {
				if !strings.ContainsRune(secret, c) {
					t.Errorf("%s: %s lacks %q", first, name, c)
				}
			}
		}
		mixed := second
		mixed.Inputs = first.Inputs
		if got := mustSend(t, client, issuing(mixed)).status; got < 400 {
			t.Errorf("%s: the secret of another account is accepted", first)
		}
		// The accounts do not share their tokens' fate.
		call := obtain(t, client, first)
		obtain(t, client, second)
		if n, err := sim.RejectTokens(second.ID); n != 1 || err != nil {
			t.Errorf("%s: rejected %d, %v; want 1", second, n, err)
		}
		if got := mustSend(t, client, call).status; got != http.StatusOK {
			t.Errorf("%s: got %d after the other account's tokens were rejected, want 200", first, got)
		}
	}
	if _, err := sim.AddAccount("nobody"); err == nil {
		t.Error("an account of an unknown system was made")
	}
}

// DocuWare's OAuth has three requests, each of which tells the way to the next.
func TestDiscovery(t *testing.T) {
	sim := start(t, Options{})
	client := newClient(t, sim, true)
	get := func(url string) reply {
		t.Helper()
		r := mustSend(t, client, spec{method: http.MethodGet, url: url, header: http.Header{"User-Agent": {testAgent}}})
		if r.status != http.StatusOK {
			t.Fatalf("%s: got %d, want 200", url, r.status)
		}
		return r
	}
	a := defaultAccount(t, sim, DocuWare)
	service := get(a.Inputs["server"]+"/DocuWare/Platform/Home/IdentityServiceInfo").text(t, "IdentityServiceUrl")
	endpoint := get(service+"/.well-known/openid-configuration").text(t, "token_endpoint")
	if want := issuing(a).url; endpoint != want {
		t.Errorf("got token endpoint %s, want %s", endpoint, want)
	}
	a = defaultAccount(t, sim, ClientBasic)
	metadata := get(a.Inputs["issuer"] + "/.well-known/openid-configuration")
	if got := metadata.text(t, "issuer"); got != a.Inputs["issuer"] {
		t.Errorf("got issuer %s, want %s", got, a.Inputs["issuer"])
	}
	if got, want := metadata.text(t, "token_endpoint"), issuing(a).url; got != want {
		t.Errorf("got token endpoint %s, want %s", got, want)
	}

	// RFC 7009 at the endpoint that the metadata names.
	call := obtain(t, client, a)
	revoke := issuing(a)
	revoke.url = metadata.text(t, "revocation_endpoint")
	revoke.fields = []pair{{"token", strings.TrimPrefix(call.header.Get("Authorization"), "Bearer ")}}
	if got := mustSend(t, client, revoke).status; got != http.StatusOK {
		t.Errorf("revocation: got %d, want 200", got)
	}
	if got := mustSend(t, client, call).status; got != http.StatusUnauthorized {
		t.Errorf("API with a revoked token: got %d, want 401", got)
	}
}

func TestChangeSecret(t *testing.T) {
	sim := start(t, Options{})
	client := newClient(t, sim, true)
	for _, before := range sim.Accounts() {
		after, err := sim.ChangeSecret(before.ID)
		if err != nil {
			t.Fatal(err)
		}
		if got := mustSend(t, client, issuing(before)).status; got < 400 {
			t.Errorf("%s: the former secret is answered %d", before, got)
		}
		obtain(t, client, after)
	}
}

func TestListenerIsLoopbackOnly(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", ":0", "192.0.2.1:80", "[::]:0", "nonsense"} {
		if _, err := New(Options{Addr: addr}); err == nil {
			t.Errorf("%q was allowed", addr)
		}
	}
}

// TestOrdersAreTakenFromThisMachine: whoever else reaches an exposed one is answered, and may not order it about.
func TestOrdersAreTakenFromThisMachine(t *testing.T) {
	s, err := New(Options{Addr: "0.0.0.0:0", Exposed: true})
	if err != nil {
		t.Fatal(err)
	}
	for from, want := range map[string]int{"127.0.0.1:4711": http.StatusOK, "[::1]:4711": http.StatusOK, "192.0.2.1:4711": http.StatusForbidden} {
		r := httptest.NewRequest(http.MethodGet, "https://localhost/stats", http.NoBody)
		r.RemoteAddr = from
		r.TLS.ServerName = "localhost"
		w := httptest.NewRecorder()
		if s.serve(w, r); w.Code != want {
			t.Errorf("from %s: got %d %s, want %d", from, w.Code, w.Body, want)
		}
	}
}
