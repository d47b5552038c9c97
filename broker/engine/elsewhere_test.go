package engine_test

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

// sent is every secret that an exchange carries.
func sent(x broker.Exchange) []string {
	all := []string{x.RefreshToken.Reveal()}
	for _, s := range x.Credential.Secrets {
		all = append(all, s.Value.Reveal())
	}
	for _, h := range x.Held {
		all = append(all, h.Value.Reveal())
	}
	return all
}

// TestNothingOfOnePlaceIsSentToAnother: whoever may edit a credential, and does not know its secrets, has nothing sent to a place of their own:
// neither what was given nor what was obtained, former secrets and held values among it.
func TestNothingOfOnePlaceIsSentToAnother(t *testing.T) {
	for name, c := range map[string]struct {
		facts broker.Facts
		edit  func(*engine.Draft)
	}{
		"an input makes the host of a request": {broker.Facts{Obtains: true, HostInputs: []string{"server"}, PlaceInputs: []string{"server"}}, func(d *engine.Draft) { d.Inputs["server"] = "there" }},
		"an input makes the host of base_url":  {broker.Facts{Obtains: true, PlaceInputs: []string{"server"}}, func(d *engine.Draft) { d.Inputs["server"] = "there" }},
		"a human gave the refresh token":       {broker.Facts{PlaceInputs: []string{"server"}}, func(d *engine.Draft) { d.Inputs["server"] = "there" }},
	} {
		for _, underWay := range []bool{false, true} {
			bubble(t, func(t *testing.T) {
				c.facts.Refreshes = true
				c.facts.Inputs = map[string]broker.InputFacts{"server": {}, "client_secret": {Secret: true}}
				secrets := map[string]string{"client_secret": "secret-1"}
				if !c.facts.Obtains {
					c.facts.Inputs["refresh_token"] = broker.InputFacts{Secret: true, Seed: true}
					secrets["refresh_token"] = "seed"
				}
				up := &upstream{facts: c.facts}
				hold := make(chan struct{})
				close(hold)
				up.answer = func(_ context.Context, x broker.Exchange) (broker.Answer, error) {
					if x.Credential.Inputs["server"] == "there" {
						return broker.Answer{}, &broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: "invalid_client", InvalidClient: true}
					}
					<-hold
					a := token("obtained-here-"+time.Now().Format(time.RFC3339Nano), time.Minute)
					a.RefreshToken = broker.NewSecret("obtained-here-" + time.Now().Format(time.RFC3339Nano))
					a.Values["held"] = broker.NewSecret("obtained-here-too")
					return a, nil
				}
				w := newReplicas(t, 1, up)[0]
				_, err := w.CreateCredential(t.Context(), local, engine.Change{Name: "main", Edit: func(d *engine.Draft) error {
					d.Provider, d.Inputs, d.Secrets = up.facts.Name, map[string]string{"server": "here"}, secretMap(secrets)
					return nil
				}})
				if err != nil {
					t.Fatal(err)
				}
				w.mustGet("main")
				if _, err := w.RotateSecret(t.Context(), local, engine.Rotation{Name: "main", Secrets: secretMap(map[string]string{"client_secret": "secret-2"})}); err != nil {
					t.Fatal(err)
				}
				w.mustGet("main")
				sleep(2 * time.Minute)
				ended := make(chan struct{})
				if underWay {
					hold = make(chan struct{})
					go func() {
						defer close(ended)
						_, _ = w.get("main")
					}()
					sleep(time.Second)
				} else {
					close(ended)
				}
				change := func(secrets map[string]string) error {
					_, err := w.UpdateCredential(t.Context(), local, engine.Change{Name: "main", Edit: func(d *engine.Draft) error {
						c.edit(d)
						d.Secrets = secretMap(secrets)
						return nil
					}})
					return err
				}
				wantKind(t, change(nil), broker.SecretsRequired)
				bogus := map[string]string{}
				for s := range maps.Keys(secrets) {
					bogus[s] = "bogus"
				}
				before := len(up.exchanges())
				if err := change(bogus); err != nil {
					t.Fatal(err)
				}
				if underWay {
					close(hold) // its answer comes now
				}
				<-ended
				for range 5 {
					_, _ = w.get("main")
					sleep(time.Hour)
				}
				there := 0
				for _, x := range up.exchanges()[before:] {
					if x.Credential.Inputs["server"] != "there" {
						continue
					}
					there++
					if i := slices.IndexFunc(sent(x), func(s string) bool {
						return strings.HasPrefix(s, "secret-") || strings.Contains(s, "here") || s == "seed"
					}); i >= 0 {
						t.Errorf("%s, an exchange under way: %v: %q was sent to another place", name, underWay, sent(x)[i])
					}
				}
				if there == 0 {
					t.Errorf("%s: nothing was asked at the other place: the test shows nothing", name)
				}
			})
		}
	}
}

// TestTheSameSeedAtAnotherPlaceIsANewGrant: what the former one had become belongs to the former place.
func TestTheSameSeedAtAnotherPlaceIsANewGrant(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRotating(time.Minute)
		r.current[""] = "seed"
		up := &upstream{answer: r.answer, facts: broker.Facts{Refreshes: true, PlaceInputs: []string{"server"}, Inputs: map[string]broker.InputFacts{
			"server": {Optional: true}, "refresh_token": {Secret: true, Seed: true},
		}}}
		w := newWorld(t, up)
		w.create("main", map[string]string{"refresh_token": "seed"})
		w.mustGet("main")
		w.update("main", func(d *engine.Draft) {
			d.Inputs, d.Secrets = map[string]string{"server": "there"}, secretMap(map[string]string{"refresh_token": "seed"})
		})
		_, _ = w.get("main")
		if all := up.exchanges(); len(all) != 2 || all[1].RefreshToken.Reveal() != "seed" {
			t.Errorf("got %d exchanges, the last with %q, want the seed that was given again", len(all), all[len(all)-1].RefreshToken.Reveal())
		}
	})
}

// TestAFormerSecretStaysAtItsPlace, also where the current one is given again as it is.
func TestAFormerSecretStaysAtItsPlace(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{facts: broker.Facts{Obtains: true, PlaceInputs: []string{"server"}, Inputs: map[string]broker.InputFacts{
			"server": {Optional: true}, "client_secret": {Secret: true},
		}}}
		up.answer = answers(broker.UpstreamError{Level: broker.LevelCredential, Status: 401, Code: "invalid_client", InvalidClient: true})
		w := newWorld(t, up)
		w.create("main", map[string]string{"client_secret": "secret-1"})
		if _, err := w.RotateSecret(t.Context(), local, engine.Rotation{Name: "main", Secrets: secretMap(map[string]string{"client_secret": "secret-2"})}); err != nil {
			t.Fatal(err)
		}
		_, _ = w.get("main")
		here := len(up.exchanges())
		w.update("main", func(d *engine.Draft) {
			d.Inputs, d.Secrets = map[string]string{"server": "there"}, secretMap(map[string]string{"client_secret": "secret-2"})
		})
		_, _ = w.get("main")
		for _, x := range up.exchanges()[here:] {
			if slices.Contains(sent(x), "secret-1") {
				t.Error("a former secret was sent to another place")
			}
		}
		if there := len(up.exchanges()) - here; here != 2 || there != 1 {
			t.Errorf("%d exchanges here and %d there, want the former secret tried here alone", here, there)
		}
	})
}
