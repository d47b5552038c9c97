package broker

import (
	"strings"
	"testing"
)

// TestWhatIsNewOfPlacesIsTold: that is what people read before they accept.
func TestWhatIsNewOfPlacesIsTold(t *testing.T) {
	const here, there = "https://here", "https://there"
	how := Destination{How, "what is sent, taken and shown, by 1"}
	for _, c := range []struct {
		to   []Destination
		want string
	}{
		{[]Destination{how}, "it goes to the same hosts; what is sent, taken or shown there has changed"},
		{nil, "it goes to the same hosts; what is sent, taken or shown there has changed"},
		{[]Destination{how, {Requests, there}, {Carried, there + ": key"}}, "it goes to a new host: https://there"},
		{[]Destination{how, {API, there}, {Requests, there}}, "it goes to a new host: https://there"},
		{[]Destination{{API, here}, {Requests, there}}, "it goes to 2 new hosts, the first of which is https://here"},
		{[]Destination{how, {Carried, here + ": key"}}, "a secret goes where nobody has accepted it, to https://here: key"},
		{[]Destination{how, {Carried, here + ": key"}, {Carried, there + ": key, formerly k"}}, "2 secrets go where nobody has accepted them, the first of which to https://here: key"},
		{[]Destination{how, {Carried, "https://{region: eu, us}.here: key"}}, "a secret goes where nobody has accepted it, to https://{region: eu, us}.here: key"},
		{[]Destination{how, {Callers, "key"}}, "callers get a secret, which nobody has accepted: key"},
		{[]Destination{how, {Callers, "key"}, {Callers, "other"}}, "callers get 2 secrets, which nobody has accepted, the first of which is key"},
		// A host where tokens are taken is new, and has got requests before: the secret is news of its own.
		{[]Destination{{API, here}, {Carried, here + ": key"}}, "it goes to a new host: https://here; a secret goes where nobody has accepted it, to https://here: key"},
		{[]Destination{how, {Requests, there}, {Carried, there + ": key"}, {Carried, here + ": key"}, {Callers, "key"}},
			"it goes to a new host: https://there; a secret goes where nobody has accepted it, to https://here: key; callers get a secret, which nobody has accepted: key"},
	} {
		if got := News(c.to); got != c.want {
			t.Errorf("%v: got\n%s\nwant\n%s", c.to, got, c.want)
		}
	}
	for _, use := range []Use{Requests, API, Callers} {
		if got := News([]Destination{{use, strings.Repeat("x", 8192)}, {Carried, strings.Repeat("y", 8000) + ": " + strings.Repeat("z", 100)}}); len(got) > 800 {
			t.Errorf("%s: got %d bytes", use, len(got))
		}
	}
}
