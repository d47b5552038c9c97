package operator

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/tokenbroker/tokenbroker/provider"
)

// TestEveryNewDefinitionIsRight, whatever is chosen, and has not even a warning.
func TestEveryNewDefinitionIsRight(t *testing.T) {
	n := 0
	for how, places := range map[string][]string{
		"": {"", "body", "basic"}, "oauth2": {"", "body", "basic"}, "json": {"", "body", "header", "basic"}, "form": {"", "body", "header", "basic"},
		"get": {"", "query", "header", "basic"},
	} {
		for _, place := range places {
			for _, scopes := range [][]string{nil, {"read"}, {"a:b", "https://example.com/c"}} {
				for _, token := range []string{"", "access_token", "data.token", `a."b c"[0]`} {
					for _, lifetime := range []string{"", "60m", "until_rejected"} {
						for _, docs := range []string{"", "https://example.com/docs?a=b#c: d"} {
							c := &providerNewCommand{
								Name: "my-api", Docs: docs, How: how, TokenURL: "https://example.com/token", SecretIn: place, Scope: scopes, Token: token, Lifetime: lifetime,
							}
							n++
							if wrong := c.wrong(); len(wrong) > 0 {
								t.Errorf("%+v: %v", c, wrong)
							}
							if problems := provider.Check("my-api.yaml", []byte(c.definition())); len(problems) > 0 {
								t.Errorf("%+v: %v\n%s", c, problems, c.definition())
							}
						}
					}
				}
			}
		}
	}
	if n < 1000 {
		t.Errorf("tried %d", n)
	}
}

// TestANewDefinitionIsAskedFor: what was given is not asked for, and what cannot be used is asked for again, with why.
func TestANewDefinitionIsAskedFor(t *testing.T) {
	answers := []string{"My API", "my-api", "", "json", "example.com/token", "https://example.com/token", "query", "", "data.token", "an hour", "60m", "read write"}
	read := func() (string, error) {
		if len(answers) == 0 {
			return "", io.EOF
		}
		a := answers[0]
		answers = answers[1:]
		return a + "\n", nil
	}
	var out bytes.Buffer
	c := &providerNewCommand{}
	if err := c.ask(read, &out); err != nil {
		t.Fatal(err)
	}
	want := `name: my-api
inputs:
  client_id: {}
  client_secret: {secret: true}
scopes: {default: ["read", "write"]}
obtain:
  post: "https://example.com/token"
  # the names on the left are the vendor's: change them to what its page says
  json: {client_id: "{{client_id}}", client_secret: "{{client_secret}}", scope: "{{scope}}"}
  take: {token: "data.token"}
lifetime: "60m"
`
	if got := c.definition(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, why := range []string{"1 to 63 of a-z 0-9 and -", "a URL begins with https://", "--secret-in: with json it is one of body, header, basic", "write 90s, 1h30m or 5d", "Where does the secret go? body, header, basic [body]: "} {
		if !strings.Contains(out.String(), why) {
			t.Errorf("got %s\nwithout %q", &out, why)
		}
	}
	given := &providerNewCommand{Name: "my-api", Docs: "https://example.com", How: "get", TokenURL: "https://example.com", SecretIn: "header", Scope: []string{"a"}, Token: "t", Lifetime: "1h"}
	if err := given.ask(read, io.Discard); err != nil {
		t.Errorf("it asked: %v", err)
	}
	if err := (&providerNewCommand{}).ask(read, io.Discard); !errors.Is(err, io.EOF) {
		t.Errorf("got %v at the end of what is typed", err)
	}
	if !slices.Equal(given.Scope, []string{"a"}) {
		t.Errorf("got %v", given.Scope)
	}
}
