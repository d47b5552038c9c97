package upstreamsim

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"
)

func TestStatedExpiry(t *testing.T) {
	clock := newClock()
	sim := start(t, Options{Now: clock.Now})
	client := newClient(t, sim, true)
	// What each system states is its vendor's; "" is nothing.
	usual := map[System]string{
		OcctooDestination: "3600", OcctooIngest: "", OfficeRnD: "3599", OchnoOperated: "", Snov: "3600", SnovGet: "3600",
		DocuWare: "3600", ClientCredentials: "3600", ClientBasic: "3600", RefreshToken: "3600",
	}
	odd := map[FaultKind]string{
		OddExpiresMissing: "", OddExpiresText: `"3600"`, OddExpiresMilliseconds: "3600000", OddExpiresFractional: "3600.5",
		OddExpiresNegative: "-3600", OddExpiresZero: "0", OddExpiresHuge: "123456789012345678901234567890", OddExpiresValue: `[1]`,
		OddExpiresAt: "",
	}
	stated := func(a Account) (relative, absolute string) {
		t.Helper()
		if a.System == RefreshToken {
			a, _ = sim.Reseed(a.ID)
		}
		body := map[string]json.RawMessage{}
		if err := json.Unmarshal(mustSend(t, client, issuing(a)).body, &body); err != nil {
			t.Fatal(err)
		}
		if result := body["result"]; result != nil {
			if err := json.Unmarshal(result, &body); err != nil {
				t.Fatal(err)
			}
		}
		return string(body["expires_in"]) + string(body["expiresIn"]), string(body["expires_at"]) + string(body["expiresAt"])
	}
	for system, want := range usual {
		a := defaultAccount(t, sim, system)
		if got, _ := stated(a); got != want {
			t.Errorf("%s: got expiry %s, want %s", system, got, want)
		}
		for kind, want := range odd {
			f := Fault{Kind: kind, System: system, Count: 1}
			if kind == OddExpiresValue {
				f.Value = "[1]"
			}
			addFault(t, sim, f)
			got, absolute := stated(a)
			if system == OfficeRnD && want != "0" && kind != OddExpiresHuge {
				want = map[FaultKind]string{
					OddExpiresText: `"3599"`, OddExpiresMilliseconds: "3599000", OddExpiresFractional: "3599.5",
					OddExpiresNegative: "-3599", OddExpiresValue: "[1]",
				}[kind]
			}
			if got != want {
				t.Errorf("%s, %s: got %s, want %s", system, kind, got, want)
			}
			if (absolute != "") != (kind == OddExpiresAt) {
				t.Errorf("%s, %s: got absolute expiry %s", system, kind, absolute)
			}
		}
	}
	a := defaultAccount(t, sim, Snov)
	if err := sim.SetLifetime(a.ID, 90*time.Second); err != nil {
		t.Fatal(err)
	}
	if got, _ := stated(a); got != "90" {
		t.Errorf("got %s, want the lifetime that was set", got)
	}
	if err := sim.SetLifetime(a.ID, 0); err == nil {
		t.Error("a lifetime of nothing was accepted")
	}
}

func TestSkewedDate(t *testing.T) {
	clock := newClock()
	sim := start(t, Options{Now: clock.Now})
	client := newClient(t, sim, true)
	a := defaultAccount(t, sim, ClientCredentials)
	for _, skew := range []time.Duration{0, -3 * time.Hour, 3 * time.Hour} {
		if skew != 0 {
			addFault(t, sim, Fault{Kind: OddSkewedDate, Skew: skew, Count: 1})
		}
		addFault(t, sim, Fault{Kind: OddExpiresAt, Count: 1})
		r := mustSend(t, client, issuing(a))
		date, err := http.ParseTime(r.header.Get("Date"))
		if err != nil {
			t.Fatal(err)
		}
		if want := clock.Now().Add(skew); !date.Equal(want) {
			t.Errorf("skew %v: got Date %v, want %v", skew, date, want)
		}
		if got, want := r.text(t, "expires_at"), clock.Now().Add(skew+time.Hour).Format(time.RFC3339); got != want {
			t.Errorf("skew %v: got expires_at %s, want %s", skew, got, want)
		}
		if got := mustSend(t, client, presenting(t, a, r)).status; got != http.StatusOK {
			t.Errorf("skew %v: API: got %d, want 200", skew, got)
		}
	}
}

func TestSameToken(t *testing.T) {
	clock := newClock()
	sim := start(t, Options{Now: clock.Now})
	client := newClient(t, sim, true)
	addFault(t, sim, Fault{Kind: OddSameToken})
	for _, system := range []System{ClientCredentials, OcctooDestination, DocuWareCookie} {
		a := defaultAccount(t, sim, system)
		lifetime := time.Hour
		if err := sim.SetLifetime(a.ID, lifetime); err != nil {
			t.Fatal(err)
		}
		token := func() string {
			call := obtain(t, client, a)
			return call.header.Get("Authorization") + call.header.Get("Cookie")
		}
		first := token()
		clock.Add(lifetime - time.Minute - time.Second)
		if token() != first {
			t.Errorf("%s: got another token before the last minute", system)
		}
		clock.Add(time.Second)
		if token() == first {
			t.Errorf("%s: got the same token in its last minute", system)
		}
	}
	a := defaultAccount(t, sim, ClientCredentials)
	if obtain(t, client, a).header.Get("Authorization") ==
		presenting(t, a, mustSend(t, client, issuing(a).set("scope", a.Scopes[0]))).header.Get("Authorization") {
		t.Error("two scope sets got the same token")
	}
}
