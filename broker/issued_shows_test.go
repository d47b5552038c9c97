package broker_test

import (
	"testing"

	"github.com/tokenbroker/tokenbroker/broker"
)

func TestWhatCallersSeeOfASecret(t *testing.T) {
	const secret = `1//0g"a/b&c=+d1234`
	field := func(v string) []broker.Field { return []broker.Field{{Name: "n", Value: broker.NewSecret(v)}} }
	for name, c := range map[string]struct {
		p      broker.Presentation
		secret string
		token  string
		want   bool
		kind   string
		scopes []string
	}{
		"in a header":          {broker.Presentation{Headers: field("Bearer " + secret)}, secret, "token", true, "Bearer", []string{"read"}},
		"in a cookie, escaped": {broker.Presentation{Cookies: field("rt=1%2F%2F0g%22a%2Fb%26c%3D%2Bd1234; Path=/")}, secret, "token", true, "Bearer", []string{"read"}},
		"in the query":         {broker.Presentation{Query: field(secret)}, secret, "token", true, "Bearer", []string{"read"}},
		"in a JSON text":       {broker.Presentation{Attributes: map[string]string{"all": `{"r":"1//0g\"a/b\u0026c=+d1234"}`}}, secret, "token", true, "Bearer", []string{"read"}},
		"in the base URL":      {broker.Presentation{BaseURL: "https://e.com/?r=1%2F%2F0g%22a%2Fb%26c%3D%2Bd1234"}, secret, "token", true, "Bearer", []string{"read"}},
		"one token for both":   {broker.Presentation{Headers: field("Bearer 1//0gab-both")}, "1//0gab-both", "1//0gab-both", false, "Bearer", []string{"read"}},
		"a token with it in":   {broker.Presentation{Headers: field("Bearer session-0123456789.sig")}, "session-0123456789", "session-0123456789.sig", false, "Bearer", []string{"read"}},
		"a text as the token":  {broker.Presentation{Headers: field(`{"r": "session-0123456789"}`)}, "session-0123456789", `{"r": "session-0123456789"}`, true, "Bearer", []string{"read"}},
		"as a scope":           {broker.Presentation{}, "r1", "token", true, "Bearer", []string{"read", "r1"}},
		"as the type":          {broker.Presentation{}, "r1", "token", true, "r1", nil},
		"a part of it alone":   {broker.Presentation{Headers: field("Bearer session"), Attributes: map[string]string{"a": "session-0123456789"}}, "session-0123456789", "session", true, "Bearer", nil},
		"both, with a blank":   {broker.Presentation{Headers: field("a session 0123456789")}, "a session 0123456789", "a session 0123456789", false, "Bearer", nil},
		"digits in an account": {broker.Presentation{Attributes: map[string]string{"account": "acc-10002345"}}, "10002345", "token", false, "Bearer", nil},
		"another one":          {broker.Presentation{Headers: field("Bearer token"), BaseURL: "https://e.com"}, secret, "token", false, "Bearer", []string{"read"}},
		"none":                 {broker.Presentation{Headers: field("Bearer token")}, "", "token", false, "Bearer", []string{"read"}},
		"a short one":          {broker.Presentation{Attributes: map[string]string{"a": "r1"}}, "r1", "token", true, "Bearer", []string{"read"}},
		"a short one, by luck": {broker.Presentation{BaseURL: "https://r1.e.com"}, "r1", "token", false, "Bearer", []string{"read"}},
	} {
		shown := broker.Token{AccessToken: broker.NewSecret(c.token), TokenType: c.kind, Scopes: c.scopes, Presentation: c.p}
		if got := shown.Shows(broker.NewSecret(c.secret)); got != c.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
