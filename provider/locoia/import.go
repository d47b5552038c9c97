// Package locoia turns configurations of Locoia's connectors into definitions. It decides what a connector's settings mean in
// the definition language, says what it had to decide, and knows nothing of how a definition is run.
package locoia

import (
	"bytes"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/tokenbroker/tokenbroker/broker"
	"github.com/tokenbroker/tokenbroker/provider"
)

// placeholder is a name in a template of Locoia's.
var placeholder = regexp.MustCompile(`\{\{\s*([A-Za-z_][A-Za-z0-9_]*)\s*\}\}`)

// Import turns a configuration of Locoia's "Refreshable Token" connector, in JSON, into a definition of this name, and says what it had to
// decide; without a name it is the configuration's own. It fails with a sentence that says what it cannot read.
func Import(data []byte, name string) (definition []byte, notes []string, err error) {
	l, err := read(data)
	if err != nil {
		return nil, nil, fmt.Errorf("import: the configuration is not what Locoia's connector has: %s", clipTo(err.Error(), 200))
	}
	if l.AuthorizationURL == "" {
		return nil, nil, fmt.Errorf("import: authorization_request_url is missing")
	}
	if name != "" {
		l.Name = name
	}
	im := &importer{l: l, inputs: map[string]input{}}
	im.missing()
	doc := im.definition()
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(doc); err != nil {
		return nil, nil, fmt.Errorf("import: the definition cannot be written")
	}
	if err := enc.Close(); err != nil {
		return nil, nil, fmt.Errorf("import: the definition cannot be written")
	}
	for _, p := range provider.Check("", out.Bytes()) {
		if !p.Warning {
			notes = append(notes, "to be mended by hand: "+p.String())
		}
	}
	return out.Bytes(), append(im.notes, notes...), nil
}

// missing says which of the parameters that Locoia requires are not there.
func (im *importer) missing() {
	l := im.l
	elsewhere := l.AccessTokenInHeader != "" || l.AccessTokenInCookie != ""
	required := []struct {
		name  string
		there bool
	}{
		{"authorization_request_body_template", l.AuthorizationBody != nil}, {"authorization_request_headers", l.AuthorizationHeaders != nil},
		{"response_access_token_path", l.AccessTokenPath != "" || elsewhere},
	}
	if l.RefreshURL != "" || l.RefreshBody != nil && *l.RefreshBody != "" {
		required = append(required, []struct {
			name  string
			there bool
		}{
			{"refresh_request_url", l.RefreshURL != ""}, {"refresh_request_body_template", l.RefreshBody != nil}, {"refresh_request_headers", l.RefreshHeaders != nil},
			{"response_refresh_token_path", l.RefreshTokenPath != ""},
		}...)
	}
	for _, r := range required {
		if !r.there {
			im.note("%s is missing, which Locoia requires: the definition was made without", r.name)
		}
	}
}

func clipTo(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

type importer struct {
	l      connector
	inputs map[string]input
	// userAgent is that of all requests, as a template of ours; empty: none.
	userAgent string
	notes     []string
}

// An input that the definition declares.
type input struct{ secret, url, handedOut bool }

func (im *importer) note(format string, args ...any) {
	im.notes = append(im.notes, fmt.Sprintf(format, args...))
}

// a mapping in order
func mapping(kv ...any) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for i := 0; i+1 < len(kv); i += 2 {
		if kv[i+1] == nil {
			continue
		}
		v := &yaml.Node{}
		if x, ok := kv[i+1].(*yaml.Node); ok {
			if x == nil {
				continue
			}
			v = x
		} else if err := v.Encode(kv[i+1]); err != nil {
			continue
		}
		n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: fmt.Sprint(kv[i])}, v)
	}
	return n
}

func (im *importer) definition() *yaml.Node {
	l := im.l
	name := strings.Trim(regexp.MustCompile(`[^a-z0-9]+`).ReplaceAllString(strings.ToLower(l.Name), "-"), "-")
	if name == "" {
		name = "imported"
		im.note("it has no name: the definition is called %q, as its file must be", name)
	}
	agent := im.agent()
	obtain := im.request(l.AuthorizationMethod, l.AuthorizationURL, l.AuthorizationHeaders.orNone(), l.AuthorizationBody, broker.Obtain)
	obtain.Content = append(obtain.Content, mapping("take", im.take(l.AccessTokenPath, l.RefreshTokenPath, true)).Content...)
	var refresh *yaml.Node
	if l.RefreshURL != "" {
		refresh = im.request("POST", l.RefreshURL, l.RefreshHeaders.orNone(), l.RefreshBody, broker.Refresh)
		if l.RefreshResponseAccessTokenPath != "" || l.RefreshResponseRefreshTokenPath != "" {
			take := im.take(or(l.RefreshResponseAccessTokenPath, l.AccessTokenPath), or(l.RefreshResponseRefreshTokenPath, l.RefreshTokenPath), l.RefreshResponseAccessTokenPath == "")
			refresh.Content = append(refresh.Content, mapping("take", take).Content...)
		}
	} else if l.RefreshTokenPath != "" {
		im.note("response_refresh_token_path without refresh_request_url: the refresh token is not taken, the token is obtained anew")
	}
	let, present := im.present()
	im.note("no lifetime is configured: tokens are kept until the API refuses one, for at most a day; set lifetime where you know it")
	var inputs *yaml.Node
	for _, in := range slices.Sorted(maps.Keys(im.inputs)) {
		if inputs == nil {
			inputs = &yaml.Node{Kind: yaml.MappingNode}
		}
		one := mapping()
		if im.inputs[in].url {
			one.Content = append(one.Content, mapping("format", "url").Content...)
		}
		if im.inputs[in].secret {
			one.Content = append(one.Content, mapping("secret", true).Content...)
		}
		if im.inputs[in].handedOut {
			one.Content = append(one.Content, mapping("handed_out", true).Content...)
		}
		one.Style = yaml.FlowStyle
		inputs.Content = append(inputs.Content, mapping(in, one).Content...)
	}
	return mapping("name", name, "inputs", inputs, "let", let, "headers", agent, "obtain", obtain, "refresh", refresh, "lifetime", "until_rejected", "present", present)
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// names turns Locoia's template into ours and gathers its inputs.
func (im *importer) names(s string) string {
	return placeholder.ReplaceAllStringFunc(s, func(m string) string {
		name := strings.ToLower(placeholder.FindStringSubmatch(m)[1])
		switch name {
		case "refresh_token":
		case "access_token", "token":
			name = "token"
		default:
			if _, ok := im.inputs[name]; !ok {
				im.inputs[name] = input{secret: secretish(name)}
			}
		}
		return "{{" + name + "}}"
	})
}

// secretish: names that speak of secrets.
func secretish(name string) bool {
	for _, w := range []string{"pass", "secret", "key", "token", "pin"} {
		if strings.Contains(name, w) {
			return true
		}
	}
	return false
}

// agent moves the User-Agent of the token request to where it is sent with all requests, and with those to the API.
func (im *importer) agent() *yaml.Node {
	for k, v := range im.l.AuthorizationHeaders.orNone() {
		if strings.EqualFold(k, "User-Agent") {
			im.userAgent = im.names(v)
			return mapping("User-Agent", im.userAgent)
		}
	}
	return nil
}

// kept is a value, or, where it is a secret that is written into the configuration, the input that stands for it from now on.
func (im *importer) kept(field, value string) string {
	scheme, literal := "", value
	if strings.EqualFold(field, "Authorization") {
		if a, b, found := strings.Cut(value, " "); found {
			scheme, literal = a+" ", b
		}
	}
	name := provider.SecretInput(field)
	if name == "" || strings.TrimSpace(literal) == "" || placeholder.MatchString(value) {
		return value
	}
	in := im.inputs[name]
	in.secret = true
	im.inputs[name] = in
	im.note("%s: the configuration has a secret in it, and a definition must not: it is the input %s now, to be given with the credential", field, name)
	return scheme + "{{" + name + "}}"
}
