package upstreamsim

import (
	"net/http"
	"strings"
	"testing"
)

func TestScopes(t *testing.T) {
	sim := start(t, Options{})
	client := newClient(t, sim, true)
	for _, system := range []System{OfficeRnD, OchnoOperated, ClientCredentials} {
		a := defaultAccount(t, sim, system)
		for _, scope := range []string{"admin", a.Scopes[0] + " admin", a.Scopes[0] + "  " + a.Scopes[1], a.Scopes[0] + " " + a.Scopes[0]} {
			s := issuing(a).set("scope", scope)
			if got := mustSend(t, client, s).text(t, "error"); got != "invalid_scope" {
				t.Errorf("%s: scope %q: got error %q, want invalid_scope", system, scope, got)
			}
		}
		if got := sim.Stats(a.ID).Refused[ReasonScope]; got != 4 {
			t.Errorf("%s: got %d refusals because of the scope, want 4", system, got)
		}
		if err := sim.RestrictScopes(a.ID, a.Scopes[0]); err != nil {
			t.Fatal(err)
		}
		refused(t, sim, client, system, issuing(a), ReasonScope)
		call := presenting(t, a, mustSend(t, client, issuing(a).set("scope", a.Scopes[0])))
		if got := mustSend(t, client, call).text(t, "scope"); got != a.Scopes[0] {
			t.Errorf("%s: the API sees scope %q, want %q", system, got, a.Scopes[0])
		}
	}
}

// A server that knows any scope still knows what a scope looks like.
func TestMalformedScope(t *testing.T) {
	sim := start(t, Options{})
	client := newClient(t, sim, true)
	s := issuing(defaultAccount(t, sim, ClientBasic))
	if got := mustSend(t, client, s.with("scope", "b a")).text(t, "scope"); got != "a b" {
		t.Errorf("got scope %q, want %q", got, "a b")
	}
	for _, scope := range []string{" ", "a  b", " a", "a ", "a a"} {
		refused(t, sim, client, ClientBasic, s.with("scope", scope), ReasonScope)
	}
}

func TestAudienceAndResources(t *testing.T) {
	sim := start(t, Options{})
	client := newClient(t, sim, true)
	a := defaultAccount(t, sim, ClientCredentials)
	s := issuing(a).without("scope").with("audience", "urn:b").with("resource", "https://c.example/").with("resource", "https://a.example/")
	call := presenting(t, a, mustSend(t, client, s))
	if got, want := mustSend(t, client, call).text(t, "audience"), "https://a.example/ https://c.example/ urn:b"; got != want {
		t.Errorf("got audience %q, want %q", got, want)
	}
	for _, resource := range []string{"relative", "https://a.example/#f"} {
		if got := mustSend(t, client, s.with("resource", resource)).text(t, "error"); got != "invalid_target" {
			t.Errorf("resource %q: got error %q, want invalid_target", resource, got)
		}
	}
}

func TestHosts(t *testing.T) {
	sim := start(t, Options{})
	client := newClient(t, sim, false)
	if got, want := len(sim.Hosts()), len(hostSystems); got != want {
		t.Fatalf("got %d hosts, want %d", got, want)
	}
	for _, host := range sim.Hosts() {
		s := spec{method: http.MethodGet, url: "https://" + host + "/nothing", header: http.Header{"User-Agent": {testAgent}}}
		refused(t, sim, client, hostSystems[strings.TrimSuffix(host, ":443")][0], s, ReasonPath)
	}
	if _, err := send(t.Context(), client, spec{method: http.MethodGet, url: "https://other.example.com/"}); err == nil {
		t.Error("a certificate was minted for an unknown host")
	}
	r, err := issuing(defaultAccount(t, sim, OfficeRnD)).request(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r.Host = "auth.example.com"
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("a host that is not the certificate's: got %d, want 421", response.StatusCode)
	}
}

func TestAPIRefusals(t *testing.T) {
	sim := start(t, Options{})
	client := newClient(t, sim, true)
	for _, a := range sim.Accounts() {
		call := obtain(t, client, a)
		naked := spec{method: http.MethodGet, url: a.APIURL, header: http.Header{"User-Agent": {testAgent}}}
		system := a.System
		switch system {
		case SnovGet:
			system = Snov // nothing in the request tells
		case DocuWare:
			system = DocuWareCookie
		}
		refused(t, sim, client, system, naked, ReasonToken)
		if a.System == SnovGet || a.System == DocuWareCookie {
			continue
		}
		refused(t, sim, client, a.System, call.head("Authorization", "Bearer x"), ReasonToken)
		refused(t, sim, client, a.System, call.head("Authorization", "Basic x"), ReasonToken)
		refused(t, sim, client, a.System, call.head("Cookie", "a=b"), ReasonCookie)
		for _, other := range sim.Accounts() {
			if other.System != a.System && strings.Split(other.APIURL, "/")[2] != strings.Split(a.APIURL, "/")[2] {
				theirs := obtain(t, client, other)
				if other.System == DocuWareCookie {
					continue
				}
				refused(t, sim, client, a.System, call.head("Authorization", theirs.header.Get("Authorization")), ReasonToken)
				break
			}
		}
	}
	// A destination token is for its destination.
	a := defaultAccount(t, sim, OcctooDestination)
	other, err := sim.AddAccount(OcctooDestination)
	if err != nil {
		t.Fatal(err)
	}
	call := obtain(t, client, a)
	call.url = other.APIURL
	refused(t, sim, client, OcctooDestination, call, ReasonToken)
	s := issuing(a)
	s.url = issuing(other).url
	refused(t, sim, client, OcctooDestination, s, ReasonValue)
}
