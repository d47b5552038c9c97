package server

import (
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
	tokenbrokerv1 "github.com/tokenbroker/tokenbroker/gen/tokenbroker/v1"
)

func TestAFilterLetsThroughWhatItSays(t *testing.T) {
	m := &tokenbrokerv1.Credential{
		Name: "office-1", Provider: "officernd", State: tokenbrokerv1.CredentialState_CREDENTIAL_STATE_READY,
		Labels: map[string]string{"env": "prod", "team": "a OR b", "and": "AND"},
	}
	for filter, want := range map[string]bool{
		"":                                   true,
		"  ":                                 true,
		"provider=officernd":                 true,
		"provider = officernd":               true,
		`provider = "officernd"`:             true,
		"provider != officernd":              false,
		"provider : office":                  true,
		"name = office-*":                    true,
		`name = "office-*"`:                  true,
		"name != other*":                     true,
		"name = office":                      false,
		"state = ready":                      true,
		"state = CREDENTIAL_STATE_READY":     true,
		"labels.env:*":                       true,
		"labels.nothing:*":                   false,
		"labels.nothing != x":                true,
		`labels.team = "a OR b"`:             true,
		"labels.and = AND":                   true,
		"labels.and = AND AND state = READY": true,
		"name = office-1  AND  state=UNUSED": false,
	} {
		f, err := parseFilter(filter)
		if err != nil {
			t.Errorf("%s: %v", filter, err)
		} else if got := f.matches(m); got != want {
			t.Errorf("%s: got %v, want %v", filter, got, want)
		}
	}
}

// TestAFilterThatIsNotUnderstoodIsRefused: with what there is instead.
func TestAFilterThatIsNotUnderstoodIsRefused(t *testing.T) {
	for _, filter := range []string{
		"provider = a OR provider = b", "provider = a or b", "labels.team = a OR b", "NOT provider = a", "-provider = a", "(provider = a)",
		"provider = a AND", "provider = a AND ", "AND provider = a", "provider = a provider = b", "provider = a and state = READY", "provider",
		"provider =", "provider > a", "provider == a", `provider = "a`, `provider = "a"b`, `provider = "\q"`, "color = red", "state = GREEN", "provider = a*",
		"name = a*b", "name = *a*", "name = *a", "name = **", "labels.env = *", "provider = a, state = READY",
	} {
		f, err := parseFilter(filter)
		if broker.KindOf(err) != broker.RequestInvalid || !strings.Contains(err.Error(), "joined by AND") {
			t.Errorf("%s: got %v %v, want it refused, with what there is", filter, f, err)
		}
	}
}

func TestAFilterNamesTheStatesThereAre(t *testing.T) {
	got := strings.Split(stateNames(), ", ")
	if len(got) != len(tokenbrokerv1.CredentialState_name)-1 || got[len(got)-1] != "HELD" {
		t.Errorf("got %q", got)
	}
	for _, name := range got {
		if _, ok := tokenbrokerv1.CredentialState_value["CREDENTIAL_STATE_"+name]; !ok {
			t.Errorf("%q is none", name)
		}
	}
}
