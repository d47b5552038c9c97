package upstreamsim

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// control sends an admin request; a body makes it a POST.
func control(t testing.TB, sim *Sim, client *http.Client, path, body string) (int, string) {
	t.Helper()
	s := spec{method: http.MethodGet, url: "https://" + sim.Addr() + path}
	if body != "" {
		s.method, s.raw, s.header = http.MethodPost, body, http.Header{"Content-Type": {"application/json"}}
	}
	r := mustSend(t, client, s)
	return r.status, string(r.body)
}

func TestAdmin(t *testing.T) {
	sim := start(t, Options{})
	client := newClient(t, sim, true)
	post := func(path, body string) {
		t.Helper()
		if status, answer := control(t, sim, client, path, body); status != http.StatusOK {
			t.Errorf("%s: got %d %s", path, status, answer)
		}
	}
	a := defaultAccount(t, sim, RefreshToken)
	call := obtain(t, client, a)

	_, answer := control(t, sim, client, "/ledger?system=oauth2-refresh-token", "")
	var events []Event
	if err := json.Unmarshal([]byte(answer), &events); err != nil {
		t.Fatal(err)
	}
	want := []string{"issued 1.1", "presented 1.1", "spent 1.1", "issued 1.2", "delivered 1.2"}
	if diff := cmp.Diff(want, story(events)); diff != "" {
		t.Errorf("ledger (-want +got):\n%s", diff)
	}

	post("/reject", `{"system": "oauth2-refresh-token"}`)
	if got := mustSend(t, client, call).status; got != http.StatusUnauthorized {
		t.Errorf("rejected: got %d, want 401", got)
	}
	_, answer = control(t, sim, client, "/refusals?system=oauth2-refresh-token", "")
	if !strings.Contains(answer, `"reason":"token"`) {
		t.Errorf("got refusals %s", answer)
	}

	b := defaultAccount(t, sim, OfficeRnD)
	post("/fault", `{"kind": "too_many_requests", "system": "officernd", "retry_after": "1m", "count": 5}`)
	if r := mustSend(t, client, issuing(b)); r.status != 429 || r.header.Get("Retry-After") != "60" {
		t.Errorf("got %d, want 429 with 60", r.status)
	}
	post("/clear", `{}`)
	call = obtain(t, client, b)
	post("/reject", `{"account": "officernd-1"}`)
	if got := mustSend(t, client, call).status; got != http.StatusUnauthorized {
		t.Errorf("rejected: got %d, want 401", got)
	}
	post("/down", `{"system": "officernd"}`)
	if _, err := send(t.Context(), client, issuing(b)); err == nil {
		t.Error("officernd answered while it is down")
	}
	post("/down", `{}`)
	_, answer = control(t, sim, client, "/stats", "")
	var stats struct {
		Systems  map[System]Stats
		Accounts map[AccountID]Stats
		Down     []System
	}
	if err := json.Unmarshal([]byte(answer), &stats); err != nil {
		t.Fatal(err)
	}
	if len(stats.Down) != len(Systems()) || len(stats.Systems) != len(Systems()) {
		t.Errorf("got %d systems, %d down; want all", len(stats.Systems), len(stats.Down))
	}
	if diff := cmp.Diff(sim.Stats(b.ID), stats.Accounts[b.ID]); diff != "" {
		t.Errorf("stats (-method +admin):\n%s", diff)
	}
	post("/up", `{}`)
	obtain(t, client, b)

	for _, bad := range []struct{ path, body string }{
		{"/", ""}, {"/nothing", "{}"}, {"/ledger?system=x", ""}, {"/fault", `{"kind": "x"}`}, {"/fault", `{"king": "lost"}`},
		{"/down", `{"system": "x"}`}, {"/reject", `{"account": "x"}`}, {"/fault", `{"kind": "lost", "retry_after": "soon"}`},
	} {
		if status, _ := control(t, sim, client, bad.path, bad.body); status != 400 && status != 404 {
			t.Errorf("%s %s: got %d, want a refusal", bad.path, bad.body, status)
		}
	}
	r := mustSend(t, client, spec{method: http.MethodPost, url: "https://" + sim.Addr() + "/down", raw: "{}",
		header: http.Header{"Content-Type": {"text/plain"}}})
	if r.status != http.StatusBadRequest {
		t.Errorf("text/plain: got %d, want 400", r.status)
	}
}

// Outside a browser a query says the same as a body; a web page may say nothing.
func TestAdminByQuery(t *testing.T) {
	sim := start(t, Options{})
	client := newClient(t, sim, true)
	a := defaultAccount(t, sim, OfficeRnD)
	post := func(path string, header http.Header) int {
		t.Helper()
		return mustSend(t, client, spec{method: http.MethodPost, url: "https://" + sim.Addr() + path, header: header}).status
	}
	if got := post("/fault?kind=server_error&system=officernd&count=1&after=true", nil); got != http.StatusOK {
		t.Errorf("fault: got %d, want 200", got)
	}
	if got := mustSend(t, client, issuing(a)).status; got != http.StatusInternalServerError {
		t.Errorf("got %d, want 500", got)
	}
	for _, query := range []string{"?kind=lost&x=1", "?kind=lost&kind=lost", "?kind=lost&count=x", "?kind=lost&after=x", "?kind=%zz"} {
		if got := post("/fault"+query, nil); got != http.StatusBadRequest {
			t.Errorf("%s: got %d, want 400", query, got)
		}
	}
	if got := post("/down", http.Header{"Origin": {"https://evil.example"}, "Sec-Fetch-Site": {"cross-site"}}); got < 400 {
		t.Errorf("a web page took everything down: %d", got)
	}
	obtain(t, client, a)
}
