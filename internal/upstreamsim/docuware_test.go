package upstreamsim

import (
	"net/http"
	"testing"
	"time"
)

func TestLogonCookies(t *testing.T) {
	sim := start(t, Options{})
	client := newClient(t, sim, true)
	a := defaultAccount(t, sim, DocuWareCookie)
	r := mustSend(t, client, issuing(a))
	var auth []string
	for _, cookie := range r.cookies {
		if cookie.Name == ".DWPLATFORMAUTH" {
			auth = append(auth, cookie.Value)
		}
	}
	if len(auth) != 2 || auth[0] != "" || auth[1] == "" {
		t.Errorf("got %d .DWPLATFORMAUTH cookies, want an empty one and a real one", len(auth))
	}
	call := presenting(t, a, r)
	for _, organization := range []spec{issuing(a).without("Organization"), issuing(a).set("Organization", "")} {
		if got := mustSend(t, client, organization).status; got != http.StatusOK {
			t.Errorf("without organization: got %d, want 200", got)
		}
	}

	other := mustSend(t, client, issuing(a))
	refused(t, sim, client, DocuWareCookie, call.head("User-Agent", "other/1"), ReasonUserAgent)
	refused(t, sim, client, DocuWareCookie, call.head("User-Agent", ""), ReasonUserAgent)
	refused(t, sim, client, DocuWareCookie, call.head("Cookie", cookieAuth+"="+auth[1]), ReasonToken)
	refused(t, sim, client, DocuWareCookie, call.head("Cookie", call.header.Get("Cookie")+"; a=b"), ReasonCookie)
	refused(t, sim, client, DocuWareCookie, call.head("Cookie", call.header.Get("Cookie")+"; "+cookieAuth+"=x"), ReasonCookie)
	refused(t, sim, client, DocuWare, call.head("Authorization", "Bearer "+auth[1]), ReasonCookie)
	bearer := call.head("Authorization", "Bearer "+auth[1])
	bearer.header.Del("Cookie")
	refused(t, sim, client, DocuWare, bearer, ReasonToken)

	// Logoff ends this session only.
	logoff := call.clone()
	logoff.url = a.Inputs["server"] + "/DocuWare/Platform/Account/Logoff"
	refused(t, sim, client, DocuWareCookie, logoff.head("User-Agent", "other/1"), ReasonUserAgent)
	for i, want := range []int{http.StatusOK, http.StatusUnauthorized} {
		if got := mustSend(t, client, logoff).status; got != want {
			t.Errorf("logoff %d: got %d, want %d", i+1, got, want)
		}
	}
	if got := mustSend(t, client, call).status; got != http.StatusUnauthorized {
		t.Errorf("API after logoff: got %d, want 401", got)
	}
	if got := mustSend(t, client, presenting(t, a, other)).status; got != http.StatusOK {
		t.Errorf("API in the other session: got %d, want 200", got)
	}
}

func TestLockout(t *testing.T) {
	for _, system := range []System{DocuWareCookie, DocuWare} {
		clock := newClock()
		sim := start(t, Options{Now: clock.Now}) // five, as documented
		client := newClient(t, sim, true)
		a := defaultAccount(t, sim, system)
		wrong := a
		wrong.Secrets = map[string]string{"password": "wrong"}
		attempt := func(a Account, want int) {
			t.Helper()
			r := mustSend(t, client, issuing(a))
			if r.status != want {
				t.Errorf("%s: got %d, want %d", system, r.status, want)
			}
			if kind := r.header.Get("Content-Type"); system == DocuWareCookie && want == 401 && kind != "text/html; charset=utf-8" {
				t.Errorf("%s: got a refusal as %s, want HTML", system, kind)
			}
		}
		no := http.StatusUnauthorized
		if system == DocuWare {
			no = http.StatusBadRequest
		}
		for range 4 {
			attempt(wrong, no)
		}
		attempt(a, http.StatusOK) // forgets the wrong ones
		for range 5 {
			attempt(wrong, no)
		}
		attempt(a, no)
		clock.Add(10*time.Minute - time.Nanosecond)
		attempt(a, no)
		if got := sim.Stats(a.ID).Refused; got[ReasonLockedOut] != 2 || got[ReasonCredential] != 9 {
			t.Errorf("%s: got refusals %v, want 2 locked_out and 9 credential", system, got)
		}
		clock.Add(time.Nanosecond)
		attempt(a, http.StatusOK)

		for range 5 {
			attempt(wrong, no)
		}
		if err := sim.Unlock(a.ID); err != nil {
			t.Fatal(err)
		}
		attempt(a, http.StatusOK)
	}
}

func TestSnovRate(t *testing.T) {
	for _, system := range []System{Snov, SnovGet} {
		clock := newClock()
		sim, err := New(Options{Now: clock.Now}) // as the vendor
		if err != nil {
			t.Fatal(err)
		}
		if err := sim.Start(); err != nil {
			t.Fatal(err)
		}
		defer sim.Close()
		client := newClient(t, sim, true)
		a := defaultAccount(t, sim, system)
		for range 60 {
			if got := mustSend(t, client, issuing(a)).status; got != http.StatusOK {
				t.Fatalf("got %d, want 200", got)
			}
		}
		clock.Add(20 * time.Second)
		r := mustSend(t, client, issuing(a))
		if got := r.header.Get("Retry-After"); r.status != http.StatusTooManyRequests || got != "40" {
			t.Errorf("%s: got %d, Retry-After %q; want 429, 40", system, r.status, got)
		}
		other, err := sim.AddAccount(system)
		if err != nil {
			t.Fatal(err)
		}
		obtain(t, client, other) // the limit is per client
		clock.Add(40 * time.Second)
		for range 60 { // the next minute
			obtain(t, client, a)
		}
		if got := mustSend(t, client, issuing(a)).status; got != http.StatusTooManyRequests {
			t.Errorf("%s: got %d, want 429", system, got)
		}
		if got := sim.Stats(a.ID).Refused[ReasonRate]; got != 2 {
			t.Errorf("%s: got %d refusals because of the rate, want 2", system, got)
		}
	}
}
