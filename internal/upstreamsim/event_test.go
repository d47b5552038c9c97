package upstreamsim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
)

// No secret and no token comes out of any event, printed account or admin answer.
func TestNothingSecretIsTold(t *testing.T) {
	var mu sync.Mutex
	var told bytes.Buffer
	sim := start(t, Options{OnEvent: func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		encoded, err := json.Marshal(e)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(&told, "%s\n%s\n%+v\n", encoded, e, e)
	}})
	client := newClient(t, sim, true)
	secrets := map[string]bool{}
	for _, a := range sim.Accounts() {
		for _, secret := range a.Secrets {
			secrets[secret] = true
		}
		fmt.Fprintf(&told, "%v %+v %#v", a, a, a)
		raw := issuing(a)
		raw.raw = strings.ReplaceAll(raw.encode(), "=", "&") // badly encoded
		mustSend(t, client, raw)
		r := mustSend(t, client, issuing(a))
		call := presenting(t, a, r)
		mustSend(t, client, call)
		secrets[strings.TrimPrefix(call.header.Get("Authorization"), "Bearer ")] = true
		for _, cookie := range r.cookies {
			secrets[cookie.Value] = true
		}
		if a.System != DocuWareCookie {
			secrets[r.text(t, "refresh_token")] = true
		}
		if a.System == RefreshToken {
			mustSend(t, client, issuing(a)) // reuse
		}
		_, _ = sim.ChangeSecret(a.ID)
		_ = sim.Disable(a.ID)
	}
	delete(secrets, "")
	if len(secrets) < 2*len(Systems()) {
		t.Fatalf("only %d secrets were gathered", len(secrets))
	}
	mu.Lock()
	defer mu.Unlock()
	for _, path := range []string{"/stats", "/ledger", "/refusals"} {
		_, answer := control(t, sim, client, path, "")
		told.WriteString(answer)
	}
	if !strings.Contains(told.String(), "reused") {
		t.Fatal("the events that were gathered lack a reuse")
	}
	for secret := range secrets {
		encoded, _ := json.Marshal(secret)
		for _, form := range []string{secret, strings.Trim(string(encoded), `"`)} {
			if strings.Contains(told.String(), form) {
				t.Errorf("a secret of %d bytes was told", len(secret))
			}
		}
	}
}

// Events come in order, one at a time, and a callback may use the Sim.
func TestOnEvent(t *testing.T) {
	var sim *Sim
	var events []Event
	running := false
	sim = start(t, Options{OnEvent: func(e Event) {
		if running {
			t.Error("two events at a time")
		}
		running = true
		events = append(events, e)
		sim.Stats(e.Account)
		if e.Kind == KindAccess && len(sim.Accounts()) == len(Systems()) {
			if _, err := sim.AddAccount(OfficeRnD); err != nil {
				t.Error(err)
			}
			sim.Down(Snov)
		}
		running = false
	}})
	client := newClient(t, sim, true)
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() { _, _ = send(t.Context(), client, issuing(defaultAccount(t, sim, OchnoOperated))) })
	}
	wg.Wait()
	sim.Close()
	kinds := map[Kind]int{}
	for i, e := range events {
		kinds[e.Kind]++
		if i > 0 && e.Sequence != events[i-1].Sequence+1 {
			t.Errorf("event %d follows event %d", e.Sequence, events[i-1].Sequence)
		}
	}
	if kinds[KindArrived] != 5 || kinds[KindDelivered] != 5 || kinds[KindDown] != 1 {
		t.Errorf("got %v", kinds)
	}
}
