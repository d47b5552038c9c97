package engine_test

import (
	"testing"
	"time"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/broker/engine"
)

func TestWhatIsStoredUnderAnInputsFormerNameIsKept(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up := &upstream{answer: issues(time.Hour), facts: broker.Facts{HostInputs: []string{"user", "username"}, PlaceInputs: []string{"user", "username"}, Inputs: map[string]broker.InputFacts{"user": {}, "pass": {Secret: true}}}}
		w := newWorld(t, up)
		c, err := w.CreateCredential(t.Context(), local, engine.Change{Name: "main", Edit: func(d *engine.Draft) error {
			*d = engine.Draft{Provider: "scripted", Inputs: map[string]string{"user": "u"}, Secrets: secretMap(map[string]string{"pass": "p"})}
			return nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		up.facts.Inputs = map[string]broker.InputFacts{"username": {Was: "user"}, "password": {Secret: true, Was: "pass"}}
		up.revision.Add(1)
		c = w.update("main", func(d *engine.Draft) { d.Labels = map[string]string{"env": "prod"} })
		if c.Inputs["username"] != "u" || len(c.Inputs) != 1 || c.Secrets["password"].Value.Reveal() != "p" || len(c.Secrets) != 1 {
			t.Errorf("got inputs %v and secrets %v, want both under their new names", c.Inputs, c.SecretNames())
		}
	})
}
