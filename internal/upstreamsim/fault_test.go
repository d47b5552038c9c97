package upstreamsim

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func addFault(t testing.TB, sim *Sim, f Fault) (clear func()) {
	t.Helper()
	clear, err := sim.AddFault(f)
	if err != nil {
		t.Fatal(err)
	}
	return clear
}

// bothProtocols runs a test against a fresh Sim, first with HTTP/1.1 and then with HTTP/2.
func bothProtocols(t *testing.T, opts Options, f func(t *testing.T, sim *Sim, client *http.Client, h2 bool)) {
	for name, h2 := range map[string]bool{"h1": false, "h2": true} {
		t.Run(name, func(t *testing.T) {
			sim := start(t, opts)
			f(t, sim, newClient(t, sim, h2), h2)
		})
	}
}

// A lost answer looks the same to the client whether or not the request took effect; the ledger knows.
func TestLost(t *testing.T) {
	bothProtocols(t, Options{}, func(t *testing.T, sim *Sim, client *http.Client, h2 bool) {
		a := defaultAccount(t, sim, OchnoOperated)
		token := mustSend(t, client, issuing(a)).text(t, "refresh_token")
		for _, f := range []Fault{
			{Kind: FaultLost}, {Kind: FaultReset}, {Kind: FaultReset, After: true}, {Kind: FaultLost, After: true},
		} {
			account, spent := a, token
			if f.After {
				var err error
				if account, err = sim.AddAccount(OchnoOperated); err != nil {
					t.Fatal(err)
				}
				spent = mustSend(t, client, issuing(account)).text(t, "refresh_token")
			}
			f.Account, f.Count = account.ID, 1
			addFault(t, sim, f)
			before := len(sim.Ledger(account.ID))
			if r, err := send(t.Context(), client, refreshing(account, spent)); err == nil {
				t.Errorf("%s, after %v: got status %d, want a broken connection", f.Kind, f.After, r.status)
			}
			var want []string
			if f.After {
				want = []string{"presented 1.1", "spent 1.1", "issued 1.2", "lost 1.2"}
			}
			if diff := cmp.Diff(want, story(sim.Ledger(account.ID)[before:]), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s, after %v: ledger (-want +got):\n%s", f.Kind, f.After, diff)
			}
		}
		// What was lost before it took effect can be sent again, once the connection works.
		token = mustSend(t, client, refreshing(a, token)).text(t, "refresh_token")
		if token == "" {
			t.Error("the refresh token was spent by a request that did not take effect")
		}
		if got := sim.SystemStats(OchnoOperated).Faults; got[FaultLost] != 2 || got[FaultReset] != 2 {
			t.Errorf("got faults %v, want two of each", got)
		}
		want := 3 // the resets
		if !h2 {
			want = 5
		}
		if got := sim.Connections().Accepted; got != want {
			t.Errorf("got %d connections, want %d", got, want)
		}
	})
}

func TestWrongAnswers(t *testing.T) {
	now := newClock()
	tests := []struct {
		fault   Fault
		status  int
		content string // of Content-Type
		body    string // a part of it
		header  [2]string
	}{
		{Fault{Kind: FaultTooMany}, 429, "application/json", "", [2]string{"Retry-After", "30"}},
		{Fault{Kind: FaultTooMany, RetryAfter: 1500 * time.Millisecond}, 429, "application/json", "", [2]string{"Retry-After", "2"}},
		{Fault{Kind: FaultTooMany, RetryAfter: -1}, 429, "application/json", "", [2]string{"Retry-After", ""}},
		{Fault{Kind: FaultTooManyDate, RetryAfter: time.Minute}, 429, "application/json", "", [2]string{"Retry-After", "Sun, 04 May 2031 03:03:01 GMT"}},
		{Fault{Kind: FaultServerError}, 500, "text/plain", "Error", [2]string{}},
		{Fault{Kind: FaultBadGateway}, 502, "text/html", "<h1>", [2]string{}},
		{Fault{Kind: FaultErrorIn200, Code: "invalid_client"}, 200, "application/json", `"error":"invalid_client"`, [2]string{}},
		{Fault{Kind: FaultEmpty}, 200, "application/json", "", [2]string{"Content-Length", "0"}},
		{Fault{Kind: FaultGarbage}, 200, "application/json", "\xff", [2]string{}},
		{Fault{Kind: FaultHuge, Size: 200_000}, 200, "application/json", "AAAA", [2]string{"Content-Length", "200000"}},
		{Fault{Kind: FaultRedirect}, 307, "", "", [2]string{}},
		{Fault{Kind: FaultOAuthError, Code: "invalid_client"}, 401, "application/json", `"error":"invalid_client"`, [2]string{}},
		{Fault{Kind: FaultOAuthError, Code: "invalid_grant"}, 400, "application/json", `"error":"invalid_grant"`, [2]string{}},
		{Fault{Kind: FaultOAuthError, Code: "invalid_scope"}, 400, "application/json", `"error":"invalid_scope"`, [2]string{}},
		{Fault{Kind: FaultOAuthError, Code: "invalid_request"}, 400, "application/json", `"error":"invalid_request"`, [2]string{}},
	}
	for _, after := range []bool{false, true} {
		sim := start(t, Options{Now: now.Now})
		client := newClient(t, sim, true)
		a := defaultAccount(t, sim, RefreshToken)
		seed := a.Secrets["refresh_token"]
		for _, test := range tests {
			f := test.fault
			f.System, f.Count, f.After = RefreshToken, 1, after
			addFault(t, sim, f)
			before := len(sim.Ledger(a.ID))
			r := mustSend(t, client, refreshing(a, seed))
			if r.status != test.status {
				t.Errorf("%s: got status %d, want %d", f.Kind, r.status, test.status)
			}
			if got := r.header.Get("Content-Type"); !strings.HasPrefix(got, test.content) {
				t.Errorf("%s: got content type %s, want %s", f.Kind, got, test.content)
			}
			if !strings.Contains(string(r.body), test.body) {
				t.Errorf("%s: body lacks %q", f.Kind, test.body)
			}
			if name := test.header[0]; name != "" && r.header.Get(name) != test.header[1] {
				t.Errorf("%s: got %s %q, want %q", f.Kind, name, r.header.Get(name), test.header[1])
			}
			var want []string
			if after {
				want = []string{"presented 1.1", "spent 1.1", "issued 1.2", "lost 1.2"}
				next, err := sim.Reseed(a.ID)
				if err != nil {
					t.Fatal(err)
				}
				seed = next.Secrets["refresh_token"]
			}
			got := story(sim.Ledger(a.ID)[before:])
			if len(want) != 0 {
				if len(got) < 4 || got[3][:4] != "lost" {
					t.Errorf("%s, after: got ledger %v, want a lost answer", f.Kind, got)
				}
			} else if len(got) != 0 {
				t.Errorf("%s: got ledger %v, want no effect", f.Kind, got)
			}
		}
		if got := mustSend(t, client, refreshing(a, seed)).status; got != http.StatusOK {
			t.Errorf("after the faults: got %d, want 200", got)
		}
	}
}

func TestRedirectIsRecorded(t *testing.T) {
	sim := start(t, Options{})
	client := newClient(t, sim, true)
	a := defaultAccount(t, sim, ClientCredentials)
	clear := addFault(t, sim, Fault{Kind: FaultRedirect, System: ClientCredentials})
	mustSend(t, client, issuing(a))
	if got := sim.Stats(a.ID).RedirectsFollowed; got != 0 {
		t.Errorf("got %d followed redirects, want 0", got)
	}
	client.CheckRedirect = nil
	if r := mustSend(t, client, issuing(a)); r.text(t, "access_token") == "" {
		t.Errorf("the redirect's target answered %d", r.status)
	}
	if got := sim.Stats(a.ID).RedirectsFollowed; got != 1 {
		t.Errorf("got %d followed redirects, want 1", got)
	}
	clear()
	clear() // once more changes nothing
	obtain(t, client, a)
}

func TestHugeBody(t *testing.T) {
	bothProtocols(t, Options{}, func(t *testing.T, sim *Sim, client *http.Client, _ bool) {
		addFault(t, sim, Fault{Kind: FaultHuge, Count: 1})
		r, err := issuing(defaultAccount(t, sim, OfficeRnD)).request(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		response, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if got := response.ContentLength; got != 100<<20 {
			t.Errorf("got %d bytes announced, want 100 MB", got)
		}
		if _, err := io.CopyN(io.Discard, response.Body, 1<<20); err != nil {
			t.Errorf("read: %v", err)
		}
		response.Body.Close()
	})
}

func TestFaultTargets(t *testing.T) {
	sim := start(t, Options{})
	client := newClient(t, sim, true)
	a := defaultAccount(t, sim, OfficeRnD)
	b, err := sim.AddAccount(OfficeRnD)
	if err != nil {
		t.Fatal(err)
	}
	call := obtain(t, client, a)
	status := func(s spec, want int) {
		t.Helper()
		if got := mustSend(t, client, s).status; got != want {
			t.Errorf("got %d, want %d", got, want)
		}
	}
	addFault(t, sim, Fault{Kind: FaultServerError, Account: b.ID})
	status(issuing(a), 200)
	status(issuing(b), 500)
	status(issuing(b), 500)
	addFault(t, sim, Fault{Kind: FaultBadGateway, System: OfficeRnD, Endpoint: EndpointAPI, Count: 1})
	status(issuing(a), 200)
	status(call, 502)
	status(call, 200)
	addFault(t, sim, Fault{Kind: FaultBadGateway, Endpoint: EndpointAny, System: OfficeRnD, Count: 2})
	status(call, 502)
	status(issuing(a), 502)
	sim.ClearFaults()
	status(issuing(b), 200)
	if got := sim.Stats(b.ID).Faults[FaultServerError]; got != 2 {
		t.Errorf("got %d faults at the account, want 2", got)
	}

	for _, f := range []Fault{
		{}, {Kind: "nonsense"}, {Kind: FaultLost, System: "nonsense"}, {Kind: FaultLost, Account: "nonsense"}, {Kind: FaultLost, Count: -1},
		{Kind: FaultLost, System: Snov, Account: a.ID}, {Kind: FaultOAuthError}, {Kind: OddSkewedDate},
		{Kind: OddExpiresValue}, {Kind: OddExpiresText, System: DocuWareCookie},
	} {
		if _, err := sim.AddFault(f); err == nil {
			t.Errorf("%+v was accepted", f)
		}
	}
}

func TestDownAndUp(t *testing.T) {
	bothProtocols(t, Options{}, func(t *testing.T, sim *Sim, client *http.Client, _ bool) {
		for _, a := range sim.Accounts() {
			obtain(t, client, a)
		}
		sim.Down(DocuWareCookie) // shares its host with DocuWare
		for _, a := range sim.Accounts() {
			if a.System == RefreshToken {
				a, _ = sim.Reseed(a.ID)
			}
			if _, err := send(t.Context(), client, issuing(a)); (err != nil) != (a.System == DocuWareCookie) {
				t.Errorf("%s while docuware-cookie is down: got %v", a, err)
			}
		}
		if got := sim.SystemStats(DocuWareCookie).Refused[ReasonDown]; got == 0 {
			t.Error("no refusal because the system is down")
		}
		sim.Down()
		if got := sim.Connections().Open; got != 0 {
			t.Errorf("got %d open connections while everything is down, want 0", got)
		}
		for _, a := range sim.Accounts() {
			if _, err := send(t.Context(), client, issuing(a)); err == nil {
				t.Errorf("%s answered while everything is down", a)
			}
		}
		sim.Up()
		for _, a := range sim.Accounts() {
			if a.System == RefreshToken {
				a, _ = sim.Reseed(a.ID)
			}
			obtain(t, client, a)
		}
	})
}
