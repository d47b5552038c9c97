package broker_test

import (
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

func TestWhatAPresentationShows(t *testing.T) {
	const secret = `1//0g"a/b&c=+d`
	field := func(v string) []broker.Field { return []broker.Field{{Name: "n", Value: broker.NewSecret(v)}} }
	for name, c := range map[string]struct {
		p      broker.Presentation
		secret string
		token  string
		want   bool
	}{
		"in a header":          {broker.Presentation{Headers: field("Bearer " + secret)}, secret, "token", true},
		"in a cookie, escaped": {broker.Presentation{Cookies: field("rt=1%2F%2F0g%22a%2Fb%26c%3D%2Bd; Path=/")}, secret, "token", true},
		"in the query":         {broker.Presentation{Query: field(secret)}, secret, "token", true},
		"in a JSON text":       {broker.Presentation{Attributes: map[string]string{"all": `{"r":"1//0g\"a/b\u0026c=+d"}`}}, secret, "token", true},
		"in the base URL":      {broker.Presentation{BaseURL: "https://e.com/?r=1%2F%2F0g%22a%2Fb%26c%3D%2Bd"}, secret, "token", true},
		"one token for both":   {broker.Presentation{Headers: field("Bearer 1//0gab-both")}, "1//0gab-both", "1//0gab-both", false},
		"a token with it in":   {broker.Presentation{Headers: field("Bearer session-0123.sig")}, "session-0123", "session-0123.sig", false},
		"a text as the token":  {broker.Presentation{Headers: field(`{"r": "session-0123"}`)}, "session-0123", `{"r": "session-0123"}`, true},
		"another one":          {broker.Presentation{Headers: field("Bearer token"), BaseURL: "https://e.com"}, secret, "token", false},
		"none":                 {broker.Presentation{Headers: field("Bearer token")}, "", "token", false},
		"a short one":          {broker.Presentation{Attributes: map[string]string{"a": "r1"}}, "r1", "token", true},
		"a short one, by luck": {broker.Presentation{BaseURL: "https://r1.e.com"}, "r1", "token", false},
	} {
		if got := c.p.Shows(broker.NewSecret(c.secret), broker.NewSecret(c.token)); got != c.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
