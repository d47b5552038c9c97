package upstreamsim

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// refused sends a request that must be refused for the given reason, and change nothing.
func refused(t *testing.T, sim *Sim, client *http.Client, system System, s spec, want Reason) {
	t.Helper()
	before, issued := len(sim.Refusals("")), sim.SystemStats(system).AccessTokens
	r := mustSend(t, client, s)
	if r.status < 400 {
		t.Errorf("got status %d, want a refusal because of %s", r.status, want)
		return
	}
	refusals := sim.Refusals("")
	if len(refusals) != before+1 {
		t.Fatalf("got %d more refusals, want 1", len(refusals)-before)
	}
	last := refusals[before]
	if last.Reason != want || last.Status != r.status {
		t.Errorf("got refusal %s with status %d (%s), want %s with %d", last.Reason, last.Status, last.Detail, want, r.status)
	}
	if last.System != system {
		t.Errorf("refusal is charged to %s, want %s", last.System, system)
	}
	if got := sim.SystemStats(system).AccessTokens; got != issued {
		t.Errorf("a refused request issued %d tokens", got-issued)
	}
}

// Whatever is not as the vendor documents it is refused, at every system, for a reason that names it.
func TestMutatedRequests(t *testing.T) {
	for _, system := range Systems() {
		t.Run(string(system), func(t *testing.T) {
			sim := start(t, Options{})
			client := newClient(t, sim, true)
			a := defaultAccount(t, sim, system)
			good := issuing(a)
			try := func(name string, s spec, want Reason) {
				t.Helper()
				t.Run(name, func(t *testing.T) { refused(t, sim, client, system, s, want) })
			}

			s := good.clone()
			s.method = http.MethodPut
			if system == SnovGet {
				s.method = http.MethodDelete
			}
			if system != SnovGet { // with another method, it is the other system's
				try("method", s, ReasonMethod)
			}
			s = good.clone()
			s.url += "/"
			if system != SnovGet {
				try("path with a slash", s, ReasonPath)
			}
			if s.method == http.MethodPost {
				s.url = good.url + "?a=b"
				try("query", s, ReasonQuery)
				try("text", good.head("Content-Type", "text/plain"), ReasonContentType)
				try("charset", good.head("Content-Type", good.header.Get("Content-Type")+"; charset=iso-8859-1"), ReasonContentType)
				s = good.clone()
				s.header.Del("Content-Type")
				try("no content type", s, ReasonContentType)
				other := "application/json"
				if good.json {
					other = "application/x-www-form-urlencoded"
				}
				try("other content type", good.head("Content-Type", other), ReasonContentType)
				s = good.clone()
				s.raw = strings.Repeat("a", maxBody+1)
				try("long body", s, ReasonBody)
				s.raw = `{"clientId": {"a": "b"}`
				try("malformed body", s, ReasonBody)
				s.raw = good.encode() + " {}"
				if good.json {
					try("two objects", s, ReasonBody)
				}
			}
			try("no user agent", good.head("User-Agent", ""), ReasonUserAgent)
			try("cookie", good.head("Cookie", "a=b"), ReasonCookie)
			if system != ClientBasic {
				try("authorization", good.head("Authorization", basic("a", "b")), ReasonAuthorization)
			}
			try("unknown field", good.with("extra", "1"), ReasonUnknownField)
			for _, f := range good.fields {
				if f.name != "Organization" && !(f.name == "scope" && system == ClientCredentials) {
					try("without "+f.name, good.without(f.name), ReasonMissingField)
					try("empty "+f.name, good.set(f.name, ""), ReasonMissingField)
				}
				try("twice "+f.name, good.with(f.name, f.value), ReasonRepeatedField)
				if f.value != "" && strings.ToUpper(f.name) != f.name {
					try("upper "+f.name, good.without(f.name).with(strings.ToUpper(f.name), f.value), ReasonUnknownField)
				}
				switch f.name {
				case "grant_type", "LoginType", "RememberMe", "RedirectToMyselfInCaseOfError", "Organization":
					try("other "+f.name, good.set(f.name, "other"), ReasonValue)
				case "client_secret", "clientSecret", "secret", "password", "Password":
					try("wrong "+f.name, good.set(f.name, f.value+"x"), ReasonCredential)
				case "clientId", "id", "username", "UserName":
					try("wrong "+f.name, good.set(f.name, f.value+"x"), ReasonCredential)
				case "client_id":
					if system == DocuWare {
						try("wrong client_id", good.set(f.name, f.value+"x"), ReasonValue)
					} else {
						try("wrong client_id", good.set(f.name, f.value+"x"), ReasonCredential)
					}
				case "refresh_token":
					try("wrong refresh_token", good.set(f.name, f.value+"x"), ReasonGrant)
				}
			}
			if len(sim.Refusals(system)) == 0 {
				t.Fatal("nothing was tried")
			}
			if got, want := sim.SystemStats(system).Refused, len(sim.Refusals(system)); total(got) != want {
				t.Errorf("stats count %d refusals, want %d", total(got), want)
			}
			obtain(t, client, a) // none of it did any harm
		})
	}
}

func total(counts map[Reason]int) int {
	n := 0
	for _, c := range counts {
		n += c
	}
	return n
}

// What a badly escaped secret turns into does not reach a refusal.
func TestRefusalShowsNoUnknownName(t *testing.T) {
	sim := start(t, Options{})
	client := newClient(t, sim, true)
	a := defaultAccount(t, sim, OfficeRnD)
	s := issuing(a)
	s.raw = "client_id=" + a.Inputs["client_id"] + "&client_secret=abc&hunter2=x"
	refused(t, sim, client, OfficeRnD, s, ReasonUnknownField)
	if got := sim.Refusals(OfficeRnD)[0].Detail; strings.Contains(got, "hunter2") {
		t.Errorf("got detail %q", got)
	}
}

func TestClientSecretBasic(t *testing.T) {
	sim := start(t, Options{})
	client := newClient(t, sim, true)
	a := defaultAccount(t, sim, ClientBasic)
	id, secret := a.Inputs["client_id"], a.Secrets["client_secret"]
	good := issuing(a)
	try := func(name string, s spec, want Reason) {
		t.Helper()
		t.Run(name, func(t *testing.T) { refused(t, sim, client, ClientBasic, s, want) })
	}
	try("raw", good.head("Authorization", basic(id, secret)), ReasonAuthorization)
	try("raw password", good.head("Authorization", basic(url.QueryEscape(id), secret)), ReasonAuthorization)
	try("wrong", good.head("Authorization", basic(url.QueryEscape(id), "wrong")), ReasonCredential)
	try("bearer", good.head("Authorization", "Bearer abc"), ReasonAuthorization)
	try("no base64", good.head("Authorization", "Basic ***"), ReasonAuthorization)
	try("no colon", good.head("Authorization", "Basic YWJj"), ReasonAuthorization)
	try("in the body", good.with("client_id", id).with("client_secret", secret), ReasonUnknownField)
	s := good.clone()
	s.header.Del("Authorization")
	try("absent", s, ReasonAuthorization)
	s.header["Authorization"] = []string{good.header.Get("Authorization"), good.header.Get("Authorization")}
	try("twice", s, ReasonAuthorization)

	// Percent-encoding where another encoder would write + is form-encoding too.
	encoded := strings.ReplaceAll(url.QueryEscape(secret), "+", "%20")
	if got := mustSend(t, client, good.head("Authorization", basic(url.QueryEscape(id), encoded))).status; got != http.StatusOK {
		t.Errorf("got %d for a percent-encoded space, want 200", got)
	}
}
