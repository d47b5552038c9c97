package upstreamsim

import (
	"net/http"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func grantError(t *testing.T, r reply) {
	t.Helper()
	if got := r.text(t, "error"); r.status != http.StatusBadRequest || got != "invalid_grant" {
		t.Errorf("got status %d, error %q, want 400 invalid_grant", r.status, got)
	}
}

// A spent refresh token that comes again ends its family, the newest token included, and no other family.
func TestReuseRevokesTheFamily(t *testing.T) {
	sim := start(t, Options{})
	client := newClient(t, sim, true)
	a := defaultAccount(t, sim, OchnoOperated)

	first := mustSend(t, client, issuing(a)).text(t, "refresh_token")
	other := mustSend(t, client, issuing(a).set("scope", "sub")).text(t, "refresh_token")
	second := mustSend(t, client, refreshing(a, first)).text(t, "refresh_token")
	third := mustSend(t, client, refreshing(a, second)).text(t, "refresh_token")
	grantError(t, mustSend(t, client, refreshing(a, first)))
	grantError(t, mustSend(t, client, refreshing(a, third)))
	if got := mustSend(t, client, refreshing(a, other)).status; got != http.StatusOK {
		t.Errorf("the other scope set's family: got %d, want 200", got)
	}

	want := []string{
		"issued 1.1", "delivered 1.1", "issued 2.1", "delivered 2.1",
		"presented 1.1", "spent 1.1", "issued 1.2", "delivered 1.2",
		"presented 1.2", "spent 1.2", "issued 1.3", "delivered 1.3",
		"presented 1.1", "reused 1.1", "revoked 1.3",
		"presented 1.3",
		"presented 2.1", "spent 2.1", "issued 2.2", "delivered 2.2",
	}
	if diff := cmp.Diff(want, story(sim.Ledger(a.ID))); diff != "" {
		t.Errorf("ledger (-want +got):\n%s", diff)
	}
	if got := sim.Stats(a.ID).Refused[ReasonGrant]; got != 2 {
		t.Errorf("got %d refused grants, want 2", got)
	}
}

func TestOchnoRefresh(t *testing.T) {
	sim := start(t, Options{})
	client := newClient(t, sim, true)
	a := defaultAccount(t, sim, OchnoOperated)
	stranger, err := sim.AddAccount(OchnoOperated)
	if err != nil {
		t.Fatal(err)
	}
	token := mustSend(t, client, issuing(a)).text(t, "refresh_token")
	good := refreshing(a, token)
	for name, s := range map[string]spec{
		"scope":                 good.with("scope", "sub"),
		"no redirect_uri":       good.without("redirect_uri"),
		"another redirect_uri":  good.set("redirect_uri", "https://app.example.com/"),
		"wrong secret":          good.set("client_secret", "x"),
		"another client's":      refreshing(stranger, token),
		"repeated redirect_uri": good.with("redirect_uri", a.Inputs["redirect_uri"]),
	} {
		if got := mustSend(t, client, s).status; got != http.StatusBadRequest && got != http.StatusUnauthorized {
			t.Errorf("%s: got %d, want a refusal", name, got)
		}
	}
	// None of these spent the token.
	call := presenting(t, a, mustSend(t, client, good))
	if got, want := mustSend(t, client, call).text(t, "scope"), "accounts:read email hubs:read sub"; got != want {
		t.Errorf("got scope %q, want %q", got, want)
	}

	if err := sim.RestrictScopes(a.ID, "sub"); err != nil {
		t.Fatal(err)
	}
	if err := sim.SetGrantPolicy(a.ID, GrantPolicy{Static: true}); err != nil {
		t.Fatal(err)
	}
	newest := mustSend(t, client, issuing(a).set("scope", "sub")).text(t, "refresh_token")
	if err := sim.RestrictScopes(a.ID); err != nil {
		t.Fatal(err)
	}
	if got := mustSend(t, client, refreshing(a, newest)).text(t, "error"); got != "invalid_scope" {
		t.Errorf("refresh with more scopes than the account has: got %q, want invalid_scope", got)
	}
}

func TestGrantPolicies(t *testing.T) {
	clock := newClock()
	sim := start(t, Options{Now: clock.Now})
	client := newClient(t, sim, true)

	t.Run("static", func(t *testing.T) {
		a, err := sim.AddAccount(RefreshToken)
		if err != nil {
			t.Fatal(err)
		}
		if err := sim.SetGrantPolicy(a.ID, GrantPolicy{Static: true}); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			r := mustSend(t, client, issuing(a))
			if _, there := r.json(t)["refresh_token"]; r.status != http.StatusOK || there {
				t.Errorf("got status %d, a new refresh token: %v; want 200 and none", r.status, there)
			}
		}
	})
	t.Run("grace", func(t *testing.T) {
		a, err := sim.AddAccount(RefreshToken)
		if err != nil {
			t.Fatal(err)
		}
		if err := sim.SetGrantPolicy(a.ID, GrantPolicy{Grace: 10 * time.Second}); err != nil {
			t.Fatal(err)
		}
		second := mustSend(t, client, issuing(a)).text(t, "refresh_token")
		clock.Add(10*time.Second - time.Nanosecond)
		sibling := mustSend(t, client, issuing(a)).text(t, "refresh_token")
		for _, token := range []string{second, sibling} {
			if got := mustSend(t, client, refreshing(a, token)).status; got != http.StatusOK {
				t.Errorf("within the grace interval: got %d, want 200", got)
			}
		}
		clock.Add(time.Nanosecond)
		grantError(t, mustSend(t, client, issuing(a)))
		events := sim.Ledger(a.ID)
		if got := events[len(events)-1]; got.Kind != KindRevoked || got.Detail != "reuse" {
			t.Errorf("got last event %v, want a revocation because of reuse", got)
		}
	})
	t.Run("supersede", func(t *testing.T) {
		a, err := sim.AddAccount(OchnoOperated)
		if err != nil {
			t.Fatal(err)
		}
		if err := sim.SetGrantPolicy(a.ID, GrantPolicy{Supersede: true}); err != nil {
			t.Fatal(err)
		}
		former := mustSend(t, client, issuing(a)).text(t, "refresh_token")
		other := mustSend(t, client, issuing(a).set("scope", "sub")).text(t, "refresh_token")
		newest := mustSend(t, client, issuing(a)).text(t, "refresh_token")
		grantError(t, mustSend(t, client, refreshing(a, former)))
		for _, token := range []string{other, newest} {
			if got := mustSend(t, client, refreshing(a, token)).status; got != http.StatusOK {
				t.Errorf("got %d, want 200", got)
			}
		}
	})
	t.Run("revoked and seeded again", func(t *testing.T) {
		before, err := sim.AddAccount(RefreshToken)
		if err != nil {
			t.Fatal(err)
		}
		call := obtain(t, client, before)
		if n, err := sim.RevokeGrants(before.ID); n != 1 || err != nil {
			t.Errorf("revoked %d grants, %v; want 1", n, err)
		}
		if got := mustSend(t, client, call).status; got != http.StatusOK {
			t.Errorf("the access token: got %d, want 200", got)
		}
		after, err := sim.Reseed(before.ID)
		if err != nil {
			t.Fatal(err)
		}
		obtain(t, client, after)
		grantError(t, mustSend(t, client, issuing(before)))
	})
	if err := sim.SetGrantPolicy("nobody-1", GrantPolicy{}); err == nil {
		t.Error("an unknown account was changed")
	}
	if err := sim.SetGrantPolicy("ochno-operated-1", GrantPolicy{Static: true, Grace: 1}); err == nil {
		t.Error("a grace interval of static tokens was accepted")
	}
	if _, err := sim.Reseed("officernd-1"); err == nil {
		t.Error("a seed was made where there are none")
	}
}
